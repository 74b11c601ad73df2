//! The records of a tree, as they are now: which targets have one, and what each names. What was read
//! before is not read again. Must not know which targets are wanted.
//!
//! Format: what `scripts/basic/fixdep` writes, and `cmd_and_savecmd` of `scripts/Kbuild.include`, Linux 6.1
//! to 7.3.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use rustc_hash::FxHashMap as HashMap;

use super::state::{How, Names, State, Target};
use crate::error::{Error, Result};
use crate::kbuild::cmd_file::{self, CmdFile};
use crate::parallel;
use crate::regular;
use crate::relink::command::raw_words;
use crate::relink::tree::Tree;
use crate::store::FOLDER;
use crate::store::stamp::Stamp;

/// Its makefiles are of another kind, and so are its records (`tools/build`).
const TOOLS: &str = "tools/";
/// Folders at the top whose targets are no part of a kernel or of a module.
const OTHERS: [&str; 4] = [FOLDER, "Documentation", "samples", ".git"];
/// What is collected from other targets, and made by steps of a relink or by make from what is collected.
const COLLECTED: [&str; 9] = [
    ".a",
    "modules.order",
    ".mod",
    ".mod.o",
    ".ko",
    ".thinlto-native.o",
    ".order",
    ".objs",
    ".hdrtest",
];

/// The targets of a tree.
#[derive(Debug)]
pub struct Found {
    /// All of them; those that are known as they are come with what is known.
    pub targets: Vec<Target>,
    /// Which of them are not what was known.
    pub is_new: Vec<bool>,
    /// Names of all files that they read.
    pub names: Names,
}

/// A record that was read now.
struct Read {
    record: Stamp,
    made: Option<Stamp>,
    how: How,
    names: Vec<String>,
}

/// Finds the targets that `wants` wants, with up to so many threads.
pub fn find(
    tree: &Tree,
    state: &State,
    wants: impl Fn(&str) -> bool,
    threads: usize,
) -> Result<Found> {
    let mut targets = Vec::new();
    walk(&tree.folder, "", &mut targets)?;
    targets.retain(|name| wants(name));
    targets.sort();
    let known: HashMap<&str, &Target> =
        state.targets.iter().map(|target| (target.name.as_str(), target)).collect();
    let looked = parallel::map(threads, &targets, |name| {
        let known = known.get(name.as_str()).copied();
        look(tree, name, known)
    });
    let mut found =
        Found { targets: Vec::new(), is_new: Vec::new(), names: Names::of(&state.files) };
    for (name, looked) in targets.into_iter().zip(looked) {
        let (target, is_new) = match (looked?, known.get(name.as_str())) {
            (None, Some(known)) => ((*known).clone(), false),
            (None, None) => continue, // gone meanwhile
            (Some(Read { record, made, how, names }), _) => {
                let reads: Vec<u32> = names.iter().map(|name| found.names.place(name)).collect();
                (Target::new(name, record, made, how, &reads), true)
            }
        };
        found.targets.push(target);
        found.is_new.push(is_new);
    }
    Ok(found)
}

/// One target as it is now, with its record read.
pub fn read(tree: &Tree, name: &str, names: &mut Names) -> Result<Option<Target>> {
    let read = look(tree, name, None)?;
    Ok(read.map(|Read { record, made, how, names: of_it }| {
        let reads: Vec<u32> = of_it.iter().map(|name| names.place(name)).collect();
        Target::new(name.to_owned(), record, made, how, &reads)
    }))
}

/// `None` if it is what is known, or not there any more.
fn look(tree: &Tree, name: &str, known: Option<&Target>) -> Result<Option<Read>> {
    let stamp = |path: &Path| fs::metadata(path).ok().as_ref().map(Stamp::of);
    let path = tree.folder.join(cmd_file::path_for(Path::new(name)));
    let Some(record) = stamp(&path) else {
        return Ok(None);
    };
    let made = stamp(&tree.folder.join(name));
    if known.is_some_and(|known| (known.record, known.made) == (record, made)) {
        return Ok(None);
    }
    let text = regular::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let (how, names) = match cmd_file::dependencies(&text) {
        files if name.starts_with(TOOLS) => (How::Otherwise, of_tools(tree, name, files)),
        files if files.is_empty() => (How::Otherwise, named(&tree.folder, name, &text)),
        files => (How::Compiled, files),
    };
    Ok(Some(Read { record, made, how, names }))
}

/// The files of the sources among those that a program of the folder `tools` was compiled from: they are
/// named as seen from its own folder there.
fn of_tools(tree: &Tree, target: &str, files: Vec<String>) -> Vec<String> {
    let folder = target.rsplit_once('/').map_or("", |(folder, _)| folder);
    let sources = tree.source("");
    let place = |name: String| match name.starts_with('/') {
        true => name,
        false => tree.source(&format!("{folder}/{name}")),
    };
    let of_sources = |name: &String| !name.starts_with('/') || name.starts_with(&sources);
    let places = files.into_iter().map(place).filter(of_sources);
    places.filter(|name| tree.folder.join(name).is_file()).collect()
}

/// The files that a command without a list of them names.
fn named(tree: &Path, target: &str, text: &str) -> Vec<String> {
    let command = CmdFile::parse(text).command.unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for word in raw_words(&command) {
        let word = word.trim_matches(['\'', '"']);
        let plain = word.strip_prefix("./").unwrap_or(word);
        let may_be = !word.starts_with('-') && plain != target && plain.contains(['/', '.']);
        if may_be && !names.iter().any(|name| name == plain) && tree.join(plain).is_file() {
            names.push(plain.to_owned());
        }
    }
    names
}

/// Adds the targets of all records below a folder.
fn walk(tree: &Path, folder: &str, targets: &mut Vec<String>) -> Result<()> {
    let path = tree.join(folder);
    let entries = fs::read_dir(&path).map_err(|e| Error::io("read", &path, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", &path, e))?;
        let name = entry.file_name();
        let kind = entry.file_type().map_err(|e| Error::io("look at", entry.path(), e))?;
        if kind.is_dir() {
            if let Some(name) =
                name.to_str().filter(|name| !(folder.is_empty() && OTHERS.contains(name)))
            {
                let below =
                    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
                walk(tree, &below, targets)?;
            }
        } else if let Some(target) = target(&name).filter(|_| !folder.is_empty()) {
            targets.push(format!("{folder}/{target}"));
        }
    }
    Ok(())
}

/// `.panic.o.cmd` → `panic.o`, unless it is collected.
fn target(record: &OsStr) -> Option<&str> {
    let target = record.to_str()?.strip_prefix('.')?.strip_suffix(".cmd")?;
    (!COLLECTED.iter().any(|ending| target.ends_with(ending))).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_what_is_collected_are_none() {
        for (record, want) in [
            (".panic.o.cmd", Some("panic.o")),
            (".asm-offsets.s.cmd", Some("asm-offsets.s")),
            (".built-in.a.cmd", None),
            (".panic.thinlto-native.o.cmd", None),
            (".xfs.mod.o.cmd", None),
            ("panic.o.cmd", None),
            (".panic.o", None),
        ] {
            assert_eq!(target(OsStr::new(record)), want, "{record}");
        }
    }
}
