//! Compares a tree's symvers file with what its objects say. Must not read files.

use std::collections::HashMap;

use serde::Serialize;

use super::Symvers;
use super::dump::Line;

/// What is wrong with a symbol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "problem")]
#[non_exhaustive]
pub enum Wrong {
    /// No version is on record for it.
    NoVersion,
    /// The file has another version.
    OtherVersion {
        /// The file's.
        file: String,
        /// The one on record for the object.
        object: String,
    },
    /// The file has another module, license or namespace for it.
    OtherExport,
    /// It is exported, but not in the file.
    Missing,
    /// It is in the file, but not exported.
    NotExported,
    /// The file has it at another place than modpost would.
    OtherPlace,
}

/// A symbol that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its name.
    pub symbol: String,
    /// Of which module, or vmlinux.
    pub module: String,
    /// What is wrong.
    #[serde(flatten)]
    pub wrong: Wrong,
}

impl Wrong {
    /// As words, to follow the symbol's name.
    pub fn describe(&self) -> String {
        match self {
            Wrong::NoVersion => "no version is on record".to_owned(),
            Wrong::OtherVersion { file, object } => {
                format!("the file has the version {file}, the object's record {object}")
            }
            Wrong::OtherExport => {
                "the file has a different module, license or namespace".to_owned()
            }
            Wrong::Missing => "exported, but not in the file".to_owned(),
            Wrong::NotExported => "in the file, but not exported".to_owned(),
            Wrong::OtherPlace => "at a different place in the file".to_owned(),
        }
    }
}

/// All differences, in the order of the objects' symbols; then what only the file has.
pub fn compare(symvers: &Symvers, file: &[Line]) -> Vec<Problem> {
    let mut rest: HashMap<&str, &Line> = file.iter().map(|l| (l.name.as_str(), l)).collect();
    let mut problems = Vec::new();
    for symbol in &symvers.symbols {
        let (want, found) = (&symbol.line, rest.remove(symbol.line.name.as_str()));
        let unversioned = symvers.with_versions && !symbol.versioned;
        if let Some(wrong) = difference(want, found, unversioned) {
            problems.push(problem(want, wrong));
        }
    }
    let only_there = file.iter().filter(|line| rest.contains_key(line.name.as_str()));
    problems.extend(only_there.map(|line| problem(line, Wrong::NotExported)));
    if problems.is_empty() {
        let mut pairs = symvers.symbols.iter().map(|symbol| &symbol.line).zip(file);
        let moved = pairs.find(|(want, found)| want != found).map(|(want, _)| want);
        // More lines than symbols: one of them is there twice.
        let moved = moved.or_else(|| file.get(symvers.symbols.len()));
        problems.extend(moved.map(|line| problem(line, Wrong::OtherPlace)));
    }
    problems
}

fn difference(want: &Line, found: Option<&Line>, unversioned: bool) -> Option<Wrong> {
    if unversioned {
        return Some(Wrong::NoVersion);
    }
    let Some(found) = found else {
        return Some(Wrong::Missing);
    };
    if want.crc != found.crc {
        let [file, object] = [found.crc, want.crc].map(|crc| format!("0x{crc:08x}"));
        return Some(Wrong::OtherVersion { file, object });
    }
    (want != found).then_some(Wrong::OtherExport)
}

fn problem(line: &Line, wrong: Wrong) -> Problem {
    Problem { symbol: line.name.clone(), module: line.module.clone(), wrong }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modpost::Symbol;

    fn line(name: &str, crc: u32) -> Line {
        let (name, module) = (name.to_owned(), "vmlinux".to_owned());
        Line { crc, name, module, gpl_only: false, namespace: String::new() }
    }

    fn compared(objects: &[(&str, u32, bool)], file: &[Line]) -> Vec<(String, Wrong)> {
        let symbols = objects
            .iter()
            .map(|(name, crc, versioned)| Symbol { line: line(name, *crc), versioned: *versioned });
        let symbols = symbols.collect();
        let symvers = Symvers { symbols, with_versions: true, ..Symvers::default() };
        compare(&symvers, file).into_iter().map(|p| (p.symbol, p.wrong)).collect()
    }

    #[test]
    fn equal_files_have_no_problem() {
        let file = [line("a", 1), line("b", 0)];
        assert_eq!(compared(&[("a", 1, true), ("b", 0, true)], &file), []);
    }

    #[test]
    fn each_difference_is_named_once() {
        let mut gpl = line("d", 4);
        gpl.gpl_only = true;
        let file = [line("x", 9), line("a", 1), line("b", 7), gpl];
        let objects = [("a", 0, false), ("b", 2, true), ("c", 3, true), ("d", 4, true)];
        let [file_has, object_has] = [7, 2].map(|crc| format!("0x{crc:08x}"));
        assert_eq!(
            compared(&objects, &file),
            [
                ("a".to_owned(), Wrong::NoVersion),
                ("b".to_owned(), Wrong::OtherVersion { file: file_has, object: object_has }),
                ("c".to_owned(), Wrong::Missing),
                ("d".to_owned(), Wrong::OtherExport),
                ("x".to_owned(), Wrong::NotExported),
            ]
        );
    }

    #[test]
    fn another_order_is_a_difference() {
        let file = [line("b", 2), line("a", 1)];
        let found = compared(&[("a", 1, true), ("b", 2, true)], &file);
        assert_eq!(found, [("a".to_owned(), Wrong::OtherPlace)]);
        let found = compared(&[("a", 1, true)], &[line("a", 1), line("a", 1)]);
        assert_eq!(found, [("a".to_owned(), Wrong::OtherPlace)]);
    }
}
