//! What only make can follow: the configuration, makefiles, and what generated files are made from. Where
//! one of them is not as it was when make last looked at the whole tree, nobody but make knows what has
//! to be made of it. Must not know objects.
//!
//! Rules: the makefiles of Linux 6.1 to 7.3. Each run of make writes `include/generated` anew before it
//! descends (`filechk` of utsrelease.h), and with our patches it runs `kthinlto build` when all objects
//! are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::exec::helper::Helper;
use crate::kbuild::{auto_conf, cmd_file};
use crate::regular;
use crate::relink::tree::Tree;
use crate::store::room;
use crate::store::stamp::Stamp;

/// The file in the store's folder whose own time says when make had made all objects of a kind.
const MADE: &str = "made";
const MADE_MODULES: &str = "made-modules";
/// The folder that make writes anew before it descends.
const PREPARED: &str = "include/generated";
/// Folders of the sources that have no objects, and whose makefiles count.
const MORE_FOLDERS: [&str; 5] =
    ["scripts", "include/asm-generic", "include/uapi/asm-generic", "tools/objtool", "tools/build"];
/// Beginnings of the names of files that make reads.
const MAKEFILES: [&str; 3] = ["Makefile", "Kbuild", "Kconfig"];
/// Endings of what rules without a record make something of.
const RULES: [&str; 11] =
    [".mk", ".include", ".sh", ".bc", ".tbl", ".awk", ".asn1", ".uni", ".map", ".txt", ".rules"];
/// Programs of the kernel's own that are run to compile.
const PROGRAMS: [&str; 3] =
    ["scripts/basic/fixdep", "scripts/genksyms/genksyms", "tools/objtool/objtool"];
/// The release of the kernel, as make wrote it.
const RELEASE: &str = "include/config/kernel.release";
/// What prints it for make.
const RELEASE_SCRIPT: &str = "scripts/setlocalversion";

/// When make last looked at the whole tree, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// It had begun by then: an older source was seen.
    sources: i64,
    /// It had ended by then: what it makes itself is older.
    all: i64,
    /// The file that says so is there: a run of make that finds nothing to do is seen too.
    pub is_marked: bool,
}

impl Made {
    /// What the tree says, of the kernel or of modules.
    pub fn of(tree: &Tree, modules: bool) -> Self {
        let marker = tree.folder.join(crate::store::FOLDER).join(marker(modules));
        let time = |path: &Path| Some(Stamp::of(&fs::metadata(path).ok()?).modified());
        let begun = || regular::read_to_string(&marker).ok()?.trim().parse().ok();
        if let (Some(all), Some(sources)) = (time(&marker), begun()) {
            return Made { sources, all, is_marked: true };
        }
        let target = if modules { "Module.symvers" } else { "vmlinux.o" };
        let record = tree.folder.join(cmd_file::path_for(Path::new(target)));
        let last = time(&record).unwrap_or_default();
        Made { sources: last, all: last, is_marked: false }
    }

    /// Whether make saw this file, as it is now.
    pub fn saw(&self, tree: &Tree, name: &str) -> bool {
        let then = if is_made(tree, name) { self.all } else { self.sources };
        // Who removes a file writes its folder.
        let above = Path::new(name).ancestors();
        let found = above.map(|place| fs::metadata(tree.folder.join(place))).find_map(Result::ok);
        found.is_some_and(|found| Stamp::of(&found).modified() <= then)
    }
}

fn marker(modules: bool) -> &'static str {
    if modules { MADE_MODULES } else { MADE }
}

/// Says that make has all objects: called by its own run of the stage, after it. What fails is nothing but
/// that `relink --compile` will ask for a run of make that would not be needed.
pub fn note_made(tree: &Path, modules: bool) {
    let begun = fs::metadata(tree.join(PREPARED)).map(|found| Stamp::of(&found).modified());
    let Ok((begun, Some(room))) = begun.map(|begun| (begun, room(tree).ok().flatten())) else {
        return;
    };
    if let Err(error) = room.write(marker(modules), begun.to_string().as_bytes()) {
        tracing::debug!("relink --compile will not see this run of make: {error}");
    }
}

/// Whether a file is one that make makes.
fn is_made(tree: &Tree, name: &str) -> bool {
    if tree.sources == Path::new(".") {
        let record = cmd_file::path_for(Path::new(name));
        let folders = ["include/generated/", "include/config/"];
        return folders.iter().any(|folder| name.contains(folder))
            || tree.folder.join(record).is_file();
    }
    !Path::new(name).starts_with(&tree.sources)
}

/// The files to watch in a tree with targets of these names.
pub fn files<'a>(tree: &Tree, targets: impl Iterator<Item = &'a str>) -> Result<BTreeSet<String>> {
    let mut watched = BTreeSet::from([".config".to_owned(), auto_conf::PATH.to_owned()]);
    let is_there = |name: &&str| tree.folder.join(name).is_file();
    watched.extend(PROGRAMS.iter().copied().filter(is_there).map(str::to_owned));
    let mut folders = BTreeSet::from([Path::new("")]);
    for target in targets {
        let above = Path::new(target).ancestors().skip(1);
        above.take_while(|folder| folders.insert(folder)).for_each(drop);
    }
    let arch = format!("arch/{}", tree.arch);
    let more = ["include/asm", "include/uapi/asm", "kernel/syscalls", "entry/syscalls"];
    let more = more.map(|folder| format!("{arch}/{folder}"));
    folders.extend(more.iter().map(Path::new));
    folders.extend(MORE_FOLDERS.map(Path::new));
    for folder in folders {
        let folder = folder.to_string_lossy();
        add_rules(tree, &tree.source(&folder), &mut watched)?;
    }
    watched.extend(configuration(tree));
    Ok(watched)
}

fn add_rules(tree: &Tree, folder: &str, watched: &mut BTreeSet<String>) -> Result<()> {
    let place = tree.folder.join(folder);
    let Ok(entries) = fs::read_dir(&place) else {
        return Ok(()); // of the object tree alone
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", &place, e))?;
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|name| is_rule(name)) {
            let folder = folder.trim_end_matches('/');
            let name = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            watched.insert(name);
        }
    }
    Ok(())
}

fn is_rule(name: &str) -> bool {
    let is_backup = name.ends_with(['~', '#']) || name.ends_with(".orig") || name.ends_with(".rej");
    let starts = MAKEFILES.iter().any(|start| name.starts_with(start));
    let ends = RULES.iter().any(|ending| name.ends_with(ending));
    !is_backup && (starts || ends && !name.ends_with(".thinlto.bc"))
}

/// The files that the configuration was read from: the list `deps_config` of `auto.conf.cmd`.
fn configuration(tree: &Tree) -> Vec<String> {
    let list = tree.folder.join(format!("{}.cmd", auto_conf::PATH));
    let text = regular::read_to_string(&list).unwrap_or_default();
    let lines = text.lines().skip_while(|line| !line.starts_with("deps_config")).skip(1);
    let names = lines.take_while(|line| !line.trim().is_empty());
    let names = names.map(|line| line.trim_end_matches('\\').trim().to_owned());
    names.map(|name| if name.starts_with('/') { name } else { tree.source(&name) }).collect()
}

/// Fails where make would give the kernel another release: the script that says it looks at git.
pub fn check_release(tree: &Tree) -> Result<()> {
    let is_git = tree.folder.join(tree.source(".git")).exists();
    let recorded = regular::read_to_string(&tree.folder.join(RELEASE)).unwrap_or_default();
    if !is_git || recorded.is_empty() {
        return Ok(()); // all that it reads is watched, or nothing is known
    }
    let version = kernel_version(&tree.read_source("Makefile")?);
    let sources = tree.sources.to_string_lossy();
    let argv = ["sh", &tree.source(RELEASE_SCRIPT), &sources];
    let asked = Helper::new(argv, &tree.folder).env("KERNELVERSION", &version).run();
    let asked =
        asked.map_err(|failure| failure.into_error(|e| Error::io("run", RELEASE_SCRIPT, e)))?;
    let said = String::from_utf8_lossy(&asked.output).trim().to_owned();
    // In Linux 6.1 it prints only what follows the version.
    let recorded = recorded.trim();
    if !asked.status.success() || recorded == said || recorded == version.clone() + &said {
        return Ok(());
    }
    let found = format!("the release {recorded}, but the sources now give {said}");
    Err(Error::bad_input(RELEASE, found, "run `make vmlinux` once, or set LOCALVERSION as it was"))
}

/// `VERSION.PATCHLEVEL.SUBLEVEL` and `EXTRAVERSION`, as the first lines of the makefile have them.
fn kernel_version(makefile: &str) -> String {
    let value = |name: &str| {
        let of = |line: &str| {
            Some(line.strip_prefix(name)?.trim_start().strip_prefix('=')?.trim().to_owned())
        };
        makefile.lines().find_map(of).unwrap_or_default()
    };
    let [version, patch, sub, extra] =
        ["VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION"].map(value);
    let part = |text: String| if text.is_empty() { text } else { format!(".{text}") };
    format!("{version}{}{}{extra}", part(patch), part(sub))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makefiles_and_what_rules_read_are_watched_and_sources_are_not() {
        for name in
            ["Makefile", "Makefile_32.cpu", "Kbuild", "Kconfig.debug", "timeconst.bc", "a.tbl"]
        {
            assert!(is_rule(name), "{name}");
        }
        for name in ["a.c", "a.h", "a.S", "Makefile~", "Makefile.orig", "a.thinlto.bc", "a.o"] {
            assert!(!is_rule(name), "{name}");
        }
    }

    #[test]
    fn the_version_is_that_of_the_makefile() {
        let text =
            "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 0\nEXTRAVERSION = -rc1\nNAME = x\n";
        assert_eq!(kernel_version(text), "7.3.0-rc1");
        assert_eq!(
            kernel_version("VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL =\nEXTRAVERSION =\n"),
            "6.1"
        );
    }
}
