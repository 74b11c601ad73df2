//! Configuration files of clang, and the files that they and response files take in by `@`.
//! Must not know what is said in them.
//!
//! Format: clang's users manual, "Configuration files"; llvm/lib/Support/CommandLine.cpp
//! (`ExpansionContext`), LLVM 15 to 22.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The configuration files of a folder: any of them may be one that clang takes, by its target or
/// by the name that it is called by.
pub fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "cfg"))
        .collect();
    found.sort();
    found
}

/// These files and all that they take in, each once. One that takes itself in is for clang to
/// refuse.
pub fn with_included(files: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    let mut left: Vec<PathBuf> = files.collect();
    left.reverse();
    while let Some(file) = left.pop() {
        // A loop may give one file ever longer names.
        if !seen.insert(fs::canonicalize(&file).unwrap_or_else(|_| file.clone())) {
            continue;
        }
        let text = fs::read(&file).unwrap_or_default();
        left.extend(included(&file, &String::from_utf8_lossy(&text)));
        all.push(file);
    }
    all
}

/// Files that a file of this text takes in: relative to itself, and, as for response files on a
/// command line, as they are named.
pub fn included(file: &Path, text: &str) -> Vec<PathBuf> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut found = Vec::new();
    for word in words(text) {
        let named = word.strip_prefix('@').or_else(|| word.strip_prefix("--config="));
        let Some(name) = named.filter(|name| !name.is_empty()) else {
            continue;
        };
        let name = name.replace("<CFGDIR>", &folder.to_string_lossy());
        for place in [folder.join(&name), PathBuf::from(&name)] {
            if !found.contains(&place) {
                found.push(place);
            }
        }
    }
    found
}

/// The words of such a file: lines that begin with `#` are comments.
pub fn words(text: &str) -> Vec<String> {
    let plain = text.replace("\\\r\n", "").replace("\\\n", "");
    let lines = plain.lines().filter(|line| !line.trim_start().starts_with('#'));
    let split = |line: &str| {
        shell_words::split(line)
            .unwrap_or_else(|_| line.split_whitespace().map(str::to_owned).collect())
    };
    lines.flat_map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_in_is_found_to_the_end_and_a_loop_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        fs::create_dir(place("sub")).unwrap();
        fs::write(place("a.cfg"), "# @comment\n-O2 \\\n@sub/b.rsp\n").unwrap();
        fs::write(place("sub/b.rsp"), "'@c d.rsp' @<CFGDIR>/e.rsp").unwrap();
        fs::write(place("sub/c d.rsp"), "@../a.cfg").unwrap();
        fs::write(place("sub/e.rsp"), "-DX='").unwrap();
        let found = with_included([place("a.cfg")].into_iter());
        let there: Vec<_> = found.iter().filter(|file| file.exists()).collect();
        assert!(found.len() < 20, "{found:?}");
        for name in ["a.cfg", "sub/b.rsp", "sub/c d.rsp", "sub/e.rsp"] {
            let is_it = |file: &&PathBuf| fs::canonicalize(file).unwrap() == place(name);
            assert!(there.iter().any(is_it), "{name} in {found:?}");
        }
        assert_eq!(files_in(dir.path()), [place("a.cfg")]);
        assert_eq!(files_in(&place("none")), Vec::<PathBuf>::new());
    }
}
