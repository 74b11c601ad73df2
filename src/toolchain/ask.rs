//! What a compiler or linker answers when it is asked about itself: its release, the program
//! that compiles in the end, where it looks for configuration files. Wrappers pass the questions
//! on, and so the answers are those of what they run. Must not know what an answer is good for.
//!
//! Format: `clang -###` (clang/lib/Driver/Job.cpp, `sys::printArg`), its line `Configuration file:`
//! (clang/lib/Driver/Driver.cpp, `PrintVersion`) and the notes of a configuration file that is
//! not found; LLVM 15 to 22.

use std::io;
use std::path::Path;

use super::Role;
use super::programs::Search;
use crate::error::{Error, Result};
use crate::exec::helper::{Failure, Helper};
use crate::exec::process::find_program;
use crate::exec::words::Words;

/// What a compiler says that it would run for a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behind {
    /// The program that compiles.
    pub program: String,
    /// Configuration files that it takes.
    pub configuration: Vec<String>,
}

/// Words of a backend, as far as one can be named before there is a module, and run nothing.
const BACKEND: [&str; 10] = [
    "-###",
    "-x",
    "ir",
    "-fno-lto",
    "-Wno-unused-command-line-argument",
    "-fthinlto-index=/dev/null",
    "-c",
    "-o",
    "/dev/null",
    "/dev/null",
];

/// Asks a compiler what it would run; `None` where it does not tell.
pub fn behind(argv: &[String], search: Search<'_>) -> Result<Option<Behind>, Failure> {
    match ask(argv, &BACKEND, search) {
        Ok((succeeded, said)) => Ok(succeeded.then(|| read_behind(&said)).flatten()),
        Err(Failure::System(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn read_behind(said: &str) -> Option<Behind> {
    let mut behind = Behind::default();
    for line in said.lines() {
        if let Some(file) = line.strip_prefix("Configuration file: ") {
            behind.configuration.push(file.to_owned());
        }
        let words = quoted_words(line).unwrap_or_default();
        let mut words = words.iter();
        if let (Some(program), Some("-cc1")) = (words.next(), words.next()) {
            behind.program = program.to_owned();
        }
    }
    Path::new(&behind.program).is_absolute().then_some(behind)
}

/// Words in double quotes, after a space each: how clang prints a command.
pub fn quoted_words(line: &str) -> Option<Words> {
    let (mut words, mut rest) = (Words::default(), line);
    while !rest.is_empty() {
        let (mut word, mut chars) = (String::new(), rest.strip_prefix(" \"")?.chars());
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => word.push(chars.next()?),
                other => word.push(other),
            }
        }
        words.push(&word);
        rest = chars.as_str();
    }
    Some(words)
}

/// The folders where a compiler looks for configuration files: it lists them where one is missing.
pub fn configuration_folders(argv: &[String], search: Search<'_>) -> Result<Vec<String>, Failure> {
    const NO_FILE: &str = "--config=kthinlto-asks-where-it-is-looked-for.cfg";
    let said = match ask(argv, &[&[NO_FILE], &BACKEND[..]].concat(), search) {
        Ok((_, said)) => said,
        Err(Failure::System(_)) => return Ok(Vec::new()),
        Err(failure) => return Err(failure),
    };
    let named =
        said.lines().filter_map(|line| line.split_once("was searched for in the directory: "));
    Ok(named.map(|(_, folder)| folder.to_owned()).collect())
}

/// Asks a tool for its release, and refuses what cannot do the work.
pub fn release(role: Role, command: &str, argv: &[String], search: Search<'_>) -> Result<u32> {
    let missing = |found: String| Error::ToolMissing {
        role: role.variable(),
        command: command.to_owned(),
        found,
    };
    let asked = ask(argv, &["--version"], search);
    let (succeeded, said) =
        asked.map_err(|failure| failure.into_error(|error| missing(error.to_string())))?;
    if let Some(complaint) = said.lines().find(|line| !succeeded && line.contains("error: ")) {
        return Err(missing(complaint.trim().to_owned()));
    }
    match release_in(role, &said) {
        Some(release) if release >= super::OLDEST => Ok(release),
        _ => Err(Error::ToolUnfit {
            role: role.variable(),
            command: command.to_owned(),
            found: format!(
                "`{}`",
                said.lines().next().unwrap_or("a program with no --version").trim()
            ),
            needed: format!("{} {} or later", role.product(), super::OLDEST),
        }),
    }
}

fn release_in(role: Role, version: &str) -> Option<u32> {
    let (_, rest) = version.split_once(role.marker())?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Whether a tool succeeded, and all that it said.
fn ask(argv: &[String], more: &[&str], search: Search<'_>) -> Result<(bool, String), Failure> {
    let (program, arguments) =
        argv.split_first().ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
    let Search { tree, environment } = search;
    let program = find_program(program, tree, environment).unwrap_or_else(|| program.into());
    let arguments = arguments.iter().map(String::as_str).chain(more.iter().copied());
    let argv = std::iter::once(program.into_os_string()).chain(arguments.map(Into::into));
    let asked = Helper::new(argv, tree).run()?;
    let said = [asked.output, asked.errors].concat();
    Ok((asked.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn releases_are_read_from_what_vendors_print() {
        let clang = |text| release_in(Role::Compiler, text);
        assert_eq!(clang("Debian clang version 22.1.8 (++2026)\nTarget: x"), Some(22));
        assert_eq!(clang("Android (123, based on r1) clang version 19.0.1\n"), Some(19));
        assert_eq!(clang("gcc (Debian 12.2.0) 12.2.0"), None);
        let lld = |text| release_in(Role::Linker, text);
        assert_eq!(lld("Debian LLD 22.1.8 (compatible with GNU linkers)"), Some(22));
        assert_eq!(lld("GNU ld (GNU Binutils for Debian) 2.40"), None);
    }

    #[test]
    fn the_program_that_compiles_is_read_inside_the_driver_and_outside() {
        let answer = "clang version 22\nConfiguration file: /etc/clang/a.cfg\n";
        let cc1 = " \"/opt/c lang/clang\" \"-cc1\" \"-emit-obj\"\n";
        for said in [format!("{answer} (in-process)\n{cc1}"), format!("{answer}{cc1}")] {
            let behind = read_behind(&said).unwrap();
            assert_eq!(behind.program, "/opt/c lang/clang");
            assert_eq!(behind.configuration, ["/etc/clang/a.cfg"]);
        }
        for said in ["", "clang version 22\n", " \"clang\" \"-cc1\"\n", " \"/bin/ld\" \"-r\"\n"] {
            assert_eq!(read_behind(said), None, "{said}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_printed_does_no_harm(text in any::<String>(), line in "[ \"\\\\a]*") {
            let _ = (read_behind(&text), quoted_words(&line));
        }
    }
}
