//! `.X.o.cmd`, kbuild's record of how `X.o` was made: read the front end's command
//! and flags from it, and write one for each native object. Knows make's and the
//! shell's quoting; must not know which flags matter to a backend.
//!
//! Format: `scripts/Kbuild.include` (`make-cmd`, `if_changed`) and, for
//! `saved_c_flags_`, `scripts/Makefile.lib` of Linux 7.2 and later. The command's
//! variable is `savedcmd_X` from Linux 6.4 on, `cmd_X` before.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::shell;
use crate::regular;

/// What one `.cmd` file says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct CmdFile {
    /// The command, with make's escapes undone: text for a shell.
    pub command: Option<String>,
    /// `saved_c_flags_`: text for a shell. Kbuild prints it with no escapes of make's.
    pub saved_c_flags: Option<String>,
}

/// What our patches add to the name of a module's object for the bitcode of its one part: the object
/// itself, which the front end makes, is replaced by what is linked.
pub(crate) const BITCODE: &str = ".thinlto-bitcode.o";

/// The object that the front end made: what was kept as `a/b.thinlto-bitcode.o` was made as `a/b.o`.
pub(crate) fn front_ends_name(object: &str) -> Cow<'_, str> {
    match object.strip_suffix(BITCODE) {
        Some(stem) => format!("{stem}.o").into(),
        None => object.into(),
    }
}

/// The `.cmd` file that belongs to `object`: `a/b.o` → `a/.b.o.cmd`. The folder's spelling
/// (`a/../b/`) is kept.
pub fn path_for(object: &Path) -> PathBuf {
    let bytes = object.as_os_str().as_bytes();
    let (folder, base) = bytes.split_at(memchr::memrchr(b'/', bytes).map_or(0, |at| at + 1));
    let (base, ending) = match base.strip_suffix(BITCODE.as_bytes()) {
        Some(stem) => (stem, b".o.cmd".as_slice()),
        None => (base, b".cmd".as_slice()),
    };
    PathBuf::from(OsString::from_vec([folder, b".", base, ending].concat()))
}

impl CmdFile {
    /// Reads the file; its absence is an `Err` of kind `NotFound`.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        regular::read(path).map(|bytes| Self::of(&bytes))
    }

    /// What a file of these bytes says.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text),
            Err(_) => Self::parse(&String::from_utf8_lossy(bytes)),
        }
    }

    /// Takes the lines that concern us. The variable's name is not looked at beyond
    /// its prefix: kbuild may have spelled the object another way (`a/../b.o`), and
    /// the file is found by the object's own place.
    pub fn parse(text: &str) -> Self {
        let value = |line: &str| line.split_once(" := ").map(|(_, value)| value.to_owned());
        let command = |line: &&str| line.starts_with("savedcmd_") || line.starts_with("cmd_");
        CmdFile {
            // The first line, as kbuild writes the file.
            command: text.lines().filter(command).find_map(value).map(|text| unescape_make(&text)),
            saved_c_flags: saved_c_flags(text.as_bytes()),
        }
    }
}

/// What a file of these bytes says as `saved_c_flags_`, alone: a fraction of all that stands there.
pub(crate) fn saved_c_flags(bytes: &[u8]) -> Option<String> {
    let line = String::from_utf8_lossy(flags_line(bytes)?);
    line.split_once(" := ").map(|(_, value)| value.trim().to_owned())
}

/// The last line that begins with `saved_c_flags_`. Kbuild appends it, so that it is looked for at the
/// end first; nearly all of a file is its list of dependencies.
fn flags_line(bytes: &[u8]) -> Option<&[u8]> {
    const START: &[u8] = b"\nsaved_c_flags_";
    const END: usize = 16 << 10;
    let tail = bytes.len().saturating_sub(END);
    let near = memchr::memmem::rfind(&bytes[tail..], START).map(|at| tail + at + 1);
    let inner = || memchr::memmem::find_iter(bytes, START).last().map(|at| at + 1);
    let first = || bytes.starts_with(&START[1..]).then_some(0);
    let line = bytes.get(near.or_else(inner).or_else(first)?..)?;
    Some(&line[..memchr::memchr(b'\n', line).unwrap_or(line.len())])
}

/// The files that a `.cmd` file's list of dependencies names, the source first. Options of the
/// configuration are left out: they are empty files.
pub(crate) fn dependencies(text: &str) -> Vec<String> {
    let files = listed_files(text).filter(|(_, is_option)| !is_option);
    files.map(|(name, _)| name.to_owned()).collect()
}

/// All files that a `.cmd` file's list of dependencies names, and whether each is that of an option of the
/// configuration (`$(wildcard include/config/X)`).
pub(crate) fn listed_files(text: &str) -> impl Iterator<Item = (&str, bool)> {
    listed(text).filter_map(|name| match name.strip_prefix("$(wildcard ") {
        Some(option) => Some((option.strip_suffix(')')?, true)),
        None => (!name.starts_with("$(")).then_some((name, false)),
    })
}

fn listed(text: &str) -> impl Iterator<Item = &str> {
    let mut found = Vec::new();
    let mut in_list = false;
    for line in text.lines() {
        if let Some(source) = line.strip_prefix("source_") {
            found.extend(source.split_once(" := ").map(|(_, file)| file.trim()));
        } else if line.starts_with("deps_") {
            in_list = true;
        } else if in_list {
            let name = line.trim_end_matches('\\').trim();
            in_list = line.ends_with('\\');
            if !name.is_empty() {
                found.push(name);
            }
        }
    }
    found.into_iter()
}

/// Undoes what kbuild's `make-cmd` does to a command: `$$` and `$(pound)`.
fn unescape_make(text: &str) -> String {
    text.replace("$(pound)", "#").replace("$$", "$")
}

/// Does what kbuild's `make-cmd` does to a command.
fn escape_make(text: &str) -> String {
    text.replace('$', "$$").replace('#', "$(pound)")
}

/// The one line of a `.cmd` file that kbuild's `if_changed` writes: `command` is shell text.
pub(crate) fn render(target: &str, command: &str) -> String {
    ["savedcmd_", target, " := ", &escape_make(command), "\n"].concat()
}

/// Cuts the first simple command off a recorded command line and splits it into words. What follows
/// (`; objtool …`, `&& mv …`, `| …`) is left out.
///
/// # Errors
/// A clause that says why the line cannot be replayed without a shell.
pub fn first_command(line: &str) -> Result<Vec<String>, String> {
    let end = first_command_end(line)?;
    shell_words::split(&line[..end]).map_err(|_| "a command with an unclosed quote".to_owned())
}

/// Cuts a recorded command line into its simple commands, as words each.
///
/// # Errors
/// As [`first_command`].
pub fn commands(line: &str) -> Result<Vec<Vec<String>>, String> {
    let (mut rest, mut commands) = (line, Vec::new());
    loop {
        let words = first_command(rest)?;
        commands.extend(Some(words).filter(|words| !words.is_empty()));
        rest = &rest[first_command_end(rest)?..];
        if rest.is_empty() {
            return Ok(commands);
        }
        rest = &rest[1..];
    }
}

/// How kbuild's `c_flags` begin: with the name of the dependency file (scripts/Makefile.lib,
/// Linux 6.1 to 7.3).
pub(crate) const START_OF_FLAGS: [&str; 2] = ["-Wp,-MMD,", "-Wp,-MD,"];

/// How many words of a recorded compile are `CC`: what stands before kbuild's flags is the
/// compiler with its own options. In a command without them it has none.
pub(crate) fn compiler_words<S: AsRef<str>>(words: &[S]) -> usize {
    let is_first = |word: &S| START_OF_FLAGS.iter().any(|start| word.as_ref().starts_with(start));
    let is_option = |word: &S| word.as_ref().starts_with('-');
    let end = words.iter().position(is_first).or_else(|| words.iter().position(is_option));
    end.unwrap_or(words.len())
}

/// Splits flags into words, each of which `take` is given. Where more than one command stands there,
/// they are no flags: what follows would be left out here, and be run by who copies the line.
pub(crate) fn flags(text: &str, take: impl FnMut(&str)) -> Result<(), String> {
    match text[first_command_end(text)?..].chars().next() {
        None => Ok(shell::split(text, take)?),
        Some(end) => Err(format!("flags with shell syntax (`{}`)", end.escape_default())),
    }
}

/// Where the first simple command ends. Expansions and redirections are refused:
/// only a shell could say what they mean.
fn first_command_end(line: &str) -> Result<usize, String> {
    let (mut single, mut double, mut escaped) = (false, false, false);
    // What is looked for is ASCII, and no part of another character.
    for (at, c) in line.bytes().enumerate() {
        if c.is_ascii_alphanumeric() && !escaped {
            continue; // most of them
        }
        if escaped {
            escaped = false;
            continue;
        }
        match c {
            b'\'' if !double => single = !single,
            _ if single => {}
            b'\\' => escaped = true,
            b'"' => double = !double,
            b'$' | b'`' => {
                return Err(format!("a command with a shell expansion (`{}`)", char::from(c)));
            }
            _ if double => {}
            b';' | b'&' | b'|' | b'\n' => return Ok(at),
            b'<' | b'>' | b'(' | b')' => {
                return Err(format!("a command with shell syntax (`{}`)", char::from(c)));
            }
            _ => {}
        }
    }
    Ok(line.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_spellings_of_the_command_are_read() {
        for name in ["cmd", "savedcmd"] {
            let text = format!("{name}_a/b.o := clang -c -o a/b.o b.c ; objtool a/b.o\n");
            let command = CmdFile::parse(&text).command.unwrap();
            assert_eq!(first_command(&command).unwrap().len(), 5);
        }
    }

    #[test]
    fn the_compiler_ends_where_kbuilds_flags_begin() {
        let count = |text: &str| compiler_words(&text.split(' ').collect::<Vec<_>>());
        assert_eq!(count("clang -Wp,-MMD,x.d -O2 -c"), 1);
        assert_eq!(count("nice -n 19 clang -mllvm -x -Wp,-MD,x.d -O2"), 6);
        assert_eq!(count("ccache clang -O2 -c"), 2);
        assert_eq!(count("clang"), 1);
    }

    #[test]
    fn the_last_flags_at_the_start_of_a_line_count() {
        let flags = |text: &str| CmdFile::parse(text).saved_c_flags;
        assert_eq!(flags("saved_c_flags_x.o := -O1").unwrap(), "-O1");
        let text =
            "saved_c_flags_x.o := -O1\nsaved_c_flags_x.o := -O2 \n a saved_c_flags_x.o := -O3\n";
        assert_eq!(flags(text).unwrap(), "-O2");
        assert_eq!(flags("deps_x.o := \\\n  saved_c_flags_x.h\n"), None);
        assert_eq!(flags("saved_c_flags_x.o\n"), None);
    }

    #[test]
    fn flags_come_as_the_shell_reads_them() {
        let text = concat!(
            "savedcmd_x.o := clang -D'pr(f)=\"$(pound)$$: \" f' -DM='\"k/p\"' -c -o x.o x.c && mv y z\n",
            "#SYMVER name 0x12345678\n",
            "saved_c_flags_x.o := -O2 -DM='\"k/$p\"'\n",
        );
        let file = CmdFile::parse(text);
        let words = first_command(&file.command.unwrap()).unwrap();
        assert_eq!(words[1], "-Dpr(f)=\"#$: \" f");
        assert_eq!(words[2], "-DM=\"k/p\"");
        assert_eq!(words.last().unwrap(), "x.c");
        assert_eq!(file.saved_c_flags.unwrap(), "-O2 -DM='\"k/$p\"'");
    }

    #[test]
    fn what_only_a_shell_can_read_is_refused() {
        for line in ["cc $(foo) -c x.c", "cc `foo`", "cc < x", "(cc x)", "cc 'x"] {
            assert!(first_command(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_line_is_cut_into_its_commands() {
        let line = "clang -D'x;y' -c a.c && mv y \"z; \" ;; : objtool a.o;";
        let found = commands(line).unwrap();
        assert_eq!(found.iter().map(|words| words.len()).collect::<Vec<_>>(), [4, 3, 3]);
        assert!(commands("a ; b $(c)").is_err());
    }

    #[test]
    fn dependencies_are_files() {
        let text = "savedcmd_a.o := cc\n\nsource_a.o := a.c\n\ndeps_a.o := \\\n  x.h \\\n    \
                    $(wildcard include/config/Y) \\\n  y/z.h \\\n\na.o: $(deps_a.o)\n\n$(deps_a.o):\n";
        assert_eq!(dependencies(text), ["a.c", "x.h", "y/z.h"]);
        let options = listed_files(text).filter(|(_, is_option)| *is_option);
        assert_eq!(options.map(|(name, _)| name).collect::<Vec<_>>(), ["include/config/Y"]);
        assert_eq!(dependencies("savedcmd_a.o := cc"), Vec::<String>::new());
    }

    #[test]
    fn record_names() {
        assert_eq!(path_for(Path::new("a/b.o")), Path::new("a/.b.o.cmd"));
        assert_eq!(path_for(Path::new("b.o")), Path::new(".b.o.cmd"));
        assert_eq!(path_for(Path::new("a/b.thinlto-bitcode.o")), Path::new("a/.b.o.cmd"));
    }

    proptest! {
        #[test]
        fn a_rendered_command_reads_back(words in prop::collection::vec("[ -~]{0,12}", 1..8)) {
            let command = shell_words::join(&words);
            let read = CmdFile::parse(&render("x.o", &command)).command.unwrap();
            prop_assert_eq!(&read, &command);
            prop_assert_eq!(first_command(&read).unwrap(), words);
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,200}") {
            let _ = CmdFile::parse(&text);
            let _ = first_command(&text);
        }
    }
}
