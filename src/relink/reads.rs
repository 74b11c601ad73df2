//! What a step reads besides the files of its rule: files that flags name, programs of the
//! architecture's pass after the link, objects of modules. Looks at the tree; must not know which
//! step asks.
//!
//! Rules: `scripts/Makefile.modpost`, `arch/*/Makefile.postlink`, Linux 6.1 to 7.3.

use std::path::Path;

use super::command::{raw_words, replace_words};
use super::tree::Tree;
use crate::error::{Error, Result};
use crate::flag_files::Named;
use crate::kbuild::cmd_file;
use crate::regular;
use crate::store::Files;

/// The option of clang whose value, the name of a configuration file, may be the next word.
const CONFIGURATION: &str = "--config";

/// Files that the options among the words of a command name.
pub fn named_by_options(files: &Files, command: &str) -> Result<Vec<String>> {
    let words = raw_words(command);
    let before = std::iter::once("").chain(words.iter().copied());
    let options = words
        .iter()
        .zip(before)
        .filter(|(word, before)| word.starts_with(['-', '@']) || *before == CONFIGURATION);
    named(files, &options.map(|(word, _)| *word).collect::<Vec<&str>>())
}

/// Files that a linker's flags name, in an option or as words of their own.
pub fn named_by_flags(files: &Files, flags: &str) -> Result<Vec<String>> {
    named(files, &raw_words(flags))
}

fn named(files: &Files, words: &[&str]) -> Result<Vec<String>> {
    let mut named = Named::new(files, &[]);
    named.add(words)?;
    Ok(named.found)
}

/// The flags for a linker that is run in another folder: with the whole names of such files.
pub fn for_another_folder(tree: &Tree, files: &Files, flags: &str) -> Result<String> {
    let folder = std::path::absolute(&tree.folder);
    let folder = folder.map_err(|e| Error::io("resolve", &tree.folder, e))?;
    let names = named_by_flags(files, flags)?;
    let relative: Vec<&String> = names.iter().filter(|name| !name.starts_with('/')).collect();
    Ok(replace_words(flags, |word| {
        let fitting = relative.iter().filter(|name| ends_with_name(word, name));
        let name = fitting.max_by_key(|name| name.len())?;
        let whole = folder.join(name).to_string_lossy().into_owned();
        // Flags are split at spaces again.
        let fits = !whole.contains(char::is_whitespace);
        fits.then(|| format!("{}{whole}", &word[..word.len() - name.len()]))
    }))
}

/// `NAME`, `@NAME`, `…=NAME` or `…,NAME`.
fn ends_with_name(word: &str, name: &str) -> bool {
    word.strip_suffix(name)
        .is_some_and(|before| before.is_empty() || before == "@" || before.ends_with(['=', ',']))
}

/// The makefile of a pass after the link, and what it names of the two trees.
pub fn post_link(tree: &Tree, command: &str) -> Vec<String> {
    let words = raw_words(command);
    let Some(makefile) = words.windows(2).find(|pair| pair[0] == "-f").map(|pair| pair[1]) else {
        return Vec::new();
    };
    let text = regular::read_to_string(&tree.folder.join(makefile)).unwrap_or_default();
    let mut found = vec![makefile.to_owned()];
    let parts = text.split(|c: char| c.is_whitespace() || ";&|'\"`".contains(c));
    for part in parts.filter(|part| part.contains('/')) {
        let plain = ["$(srctree)/", "$(objtree)/", "./"]
            .iter()
            .find_map(|start| part.strip_prefix(start))
            .unwrap_or(part);
        for place in [plain.to_owned(), tree.source(plain)] {
            if tree.folder.join(&place).is_file() && !found.contains(&place) {
                found.push(place);
            }
        }
    }
    found
}

/// What modpost reads of the modules that are listed in `modules.order`: their objects, and where
/// exports have versions, the records of their parts.
pub fn modules(tree: &Tree) -> Vec<String> {
    let list = regular::read_to_string(&tree.folder.join("modules.order")).unwrap_or_default();
    let stems = list
        .lines()
        .filter_map(|line| line.strip_suffix(".ko").or_else(|| line.strip_suffix(".o")));
    let mut all = Vec::new();
    for stem in stems {
        let parts = format!("{stem}.mod");
        let text = regular::read_to_string(&tree.folder.join(&parts)).unwrap_or_default();
        all.extend([format!("{stem}.o"), parts]);
        if tree.conf.is_on("CONFIG_MODVERSIONS") {
            let record = |part: &str| cmd_file::path_for(Path::new(part));
            let records = text.split_whitespace().map(record);
            all.extend(records.map(|path| path.to_string_lossy().into_owned()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;

    use super::*;
    use crate::store::stamp::TimeResolution;

    #[test]
    fn a_configuration_file_is_named_by_the_same_word_or_the_next() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("a.cfg", "@list"), ("list", "-fplugin=p.so"), ("p.so", ""), ("a.c", "")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let files = || Files::new(dir.path(), TimeResolution::default(), HashMap::default());
        for command in ["cc --config a.cfg -c a.c", "cc --config=a.cfg -c a.c"] {
            let mut found = named_by_options(&files(), command).unwrap();
            found.sort();
            assert_eq!(found, ["a.cfg", "list", "p.so"], "{command}");
        }
    }
}
