//! The programs that the words of a command lead to, and the files that they are made of:
//! what wrapper scripts name, and libraries. Must not know what a program is asked to do.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use memchr::memmem;
use object::read::elf::ElfFile64;

use crate::elf;
use crate::environment::Environment;
use crate::exec::helper::{Failure, Helper};
use crate::exec::process::find_program;

/// Where programs are looked for.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// The folder that commands are run in.
    pub tree: &'a Path,
    /// The environment whose `PATH` counts.
    pub environment: &'a Environment,
}

/// The programs that the words of a command lead to now: `nice -n 19 clang` has two. None if it
/// cannot be split.
pub fn of_command(command: &str, search: Search<'_>) -> Vec<PathBuf> {
    shell_words::split(command).map_or_else(|_| Vec::new(), |argv| of_words(&argv, search))
}

/// The programs among these words, by absolute names. A symbolic link keeps its name, so that
/// another target of it is seen.
pub fn of_words(argv: &[String], search: Search<'_>) -> Vec<PathBuf> {
    argv.iter().filter_map(|word| of_word(word, search)).collect()
}

/// The program that a word leads to, if it does.
pub fn of_word(word: &str, search: Search<'_>) -> Option<PathBuf> {
    let is_name = !word.is_empty() && !word.starts_with('-');
    let find = || find_program(word, search.tree, search.environment);
    is_name.then(find).flatten().map(absolute)
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// The file behind all symbolic links.
pub fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// The last part of a program's name behind all symbolic links.
pub fn real_name(path: &Path) -> String {
    real(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The files that some programs are made of.
#[derive(Debug, Default)]
pub struct Files {
    /// Programs, those that scripts among them name, and libraries.
    pub all: Vec<PathBuf>,
    /// One of the programs is ccache, by whatever name, or speaks of it.
    pub has_ccache: bool,
    /// One of the programs is LLD.
    pub has_lld: bool,
    /// The program that leads to another root, container or machine, if there is one.
    pub leads_away: Option<String>,
}

/// Scripts that call scripts: no deeper than this.
const MAX_DEPTH: usize = 4;

/// Programs that run others where our files are not theirs.
const LEAD_AWAY: [&str; 10] = [
    "bwrap",
    "chroot",
    "docker",
    "nsenter",
    "podman",
    "proot",
    "ssh",
    "systemd-nspawn",
    "systemd-run",
    "unshare",
];

impl Files {
    /// Adds a program with all that belongs to it. Fails where a signal asks us to stop.
    pub fn add(&mut self, program: &Path, search: Search<'_>) -> Result<(), Failure> {
        self.add_at(program, search, 0)
    }

    fn add_at(&mut self, program: &Path, search: Search<'_>, depth: usize) -> Result<(), Failure> {
        if depth > MAX_DEPTH || self.all.iter().any(|file| file == program) {
            return Ok(());
        }
        self.all.push(program.to_path_buf());
        let name = real_name(program);
        if LEAD_AWAY.contains(&name.as_str()) {
            self.leads_away.get_or_insert(name.clone());
        }
        let Ok(bytes) = fs::read(program) else {
            return Ok(());
        };
        let speaks_of = |text: &str| memmem::find(&bytes, text.as_bytes()).is_some();
        self.has_ccache |= name == "ccache" || speaks_of("CCACHE_DISABLE");
        if bytes.starts_with(b"#!") {
            for named in named_in_script(&bytes, search) {
                self.add_at(&named, search, depth + 1)?;
            }
            return Ok(());
        }
        self.has_lld |= speaks_of("thinlto-index-only");
        self.all.extend(libraries(program, &bytes)?);
        Ok(())
    }
}

/// Whether a program is text that another one interprets.
pub fn is_script(program: &Path) -> bool {
    let start = fs::File::open(program).and_then(|mut file| {
        let mut start = [0; 2];
        std::io::Read::read_exact(&mut file, &mut start).map(|()| start)
    });
    start.is_ok_and(|start| start == *b"#!")
}

/// Programs that the words of a wrapper script lead to. A wrapper can find its compiler in
/// ways that cannot be seen from outside; the usual `exec clang-22 "$@"` can.
fn named_in_script(script: &[u8], search: Search<'_>) -> Vec<PathBuf> {
    let text = String::from_utf8_lossy(script);
    let words = text.split(|c: char| c.is_whitespace() || "\"'`;&|(){}=#!".contains(c));
    words.filter(|word| word.len() > 1).filter_map(|word| of_word(word, search)).collect()
}

/// The libraries that a dynamic program loads, as its own loader finds them. A static
/// program has none, and is not started.
fn libraries(program: &Path, bytes: &[u8]) -> Result<Vec<PathBuf>, Failure> {
    let Some(loader) = interpreter(bytes) else {
        return Ok(Vec::new());
    };
    // Folders of libraries are named from the program's own, which is the real one.
    let argv =
        [loader.as_os_str(), OsStr::new("--list"), real(program).as_os_str()].map(OsStr::to_owned);
    let listed = match Helper::new(argv, Path::new(".")).run() {
        Ok(listed) => listed,
        Err(failure @ Failure::Interrupted(_)) => return Err(failure),
        Err(_) => return Ok(vec![loader]),
    };
    let text = String::from_utf8_lossy(&listed.output).into_owned();
    let paths = text.lines().filter_map(|line| {
        let path = line.split("=>").last()?.trim().split(" (").next()?.trim();
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    Ok(std::iter::once(loader.clone()).chain(paths).collect())
}

/// The dynamic loader that an ELF program names.
fn interpreter(bytes: &[u8]) -> Option<PathBuf> {
    let file = ElfFile64::<object::Endianness>::parse(bytes).ok()?;
    Some(PathBuf::from(std::str::from_utf8(elf::interpreter(&file)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapper_script_is_made_of_what_it_calls() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("cc");
        fs::write(&script, "#!/bin/sh\nexec ls \"$@\"\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let (mut files, environment) = (Files::default(), Environment::of_process());
        let search = Search { tree: dir.path(), environment: &environment };
        files.add(&script, search).unwrap();
        assert!(files.all.iter().any(|file| file.ends_with("ls")), "{files:?}");
        let library = |file: &PathBuf| file.to_string_lossy().contains("libc.so");
        assert!(files.all.iter().any(library), "{files:?}");
        assert!(!files.has_ccache && !files.has_lld && files.leads_away.is_none());
    }

    #[test]
    fn every_word_that_is_a_program_counts() {
        let names = |command: &str| {
            let environment = Environment::of_process();
            let search = Search { tree: Path::new("/"), environment: &environment };
            let found = of_command(command, search);
            let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
            found.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(names("nice -n 19 env X=1 ls -l"), ["nice", "env", "ls"]);
        assert_eq!(names("'unclosed"), Vec::<String>::new());
    }
}
