//! The compiler and the linker: find them, see that they can do distributed ThinLTO, and
//! identify them by content (the program, the libraries that it loads, its configuration
//! files), not by what `--version` says. Must not know what they are asked to do.
//!
//! ```
//! use kthinlto::error::Error;
//! use kthinlto::{store::Store, toolchain::{Role, resolve}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tree = tempfile::tempdir()?;
//! let mut store = Store::open(tree.path())?;
//! let missing = resolve(Role::Linker, "ld.lld-none", &mut store).unwrap_err();
//! assert!(matches!(missing, Error::ToolMissing { .. }));
//! # Ok(()) }
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::read::elf::{ElfFile64, ProgramHeader};

use crate::error::{Error, Result};
use crate::exec::process::find_program;
use crate::store::{Digest, KeyBuilder, Store, ToolRecord};

/// Oldest LLVM release that is accepted: the oldest that builds Linux 7.2, the first kernel
/// with distributed ThinLTO.
pub const OLDEST: u32 = 15;

/// `CC` or `LD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The compiler, clang.
    Compiler,
    /// The linker, LLD.
    Linker,
}

impl Role {
    /// The make variable that names it.
    pub fn variable(self) -> &'static str {
        match self {
            Role::Compiler => "CC",
            Role::Linker => "LD",
        }
    }

    /// What stands before the release number in its `--version`.
    fn marker(self) -> &'static str {
        match self {
            Role::Compiler => "clang version ",
            Role::Linker => "LLD ",
        }
    }

    fn product(self) -> &'static str {
        match self {
            Role::Compiler => "clang",
            Role::Linker => "LLD",
        }
    }
}

/// A tool that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// The command as it was given.
    pub text: String,
    /// Its words.
    pub argv: Vec<String>,
    /// Content of everything that it is made of.
    pub identity: Digest,
    /// Major release.
    pub release: u32,
}

/// Finds, identifies and checks a tool. It is only started (with `--version`) when its
/// content is new to the store.
pub fn resolve(role: Role, command: &str, store: &mut Store) -> Result<Tool> {
    let missing = |found: String| Error::ToolMissing {
        role: role.variable(),
        command: command.to_owned(),
        found,
    };
    let argv = shell_words::split(command).map_err(|e| missing(e.to_string()))?;
    let name = argv.first().ok_or_else(|| missing("the command is empty".into()))?;
    let tree = store.tree().to_path_buf();
    find_program(name, &tree).ok_or_else(|| missing(format!("there is no program `{name}`")))?;

    let lookup = format!("{} {}", role.variable(), whereabouts(command, &tree));
    let known = store.tool(&lookup).cloned();
    let loader = store.files.find(LOADER_CACHE)?.map(|facts| facts.digest);
    let files = match &known {
        Some(record)
            if record.loader == loader && identity(store, &record.files)? == record.identity =>
        {
            return Ok(tool(command, argv, record.identity, record.release));
        }
        _ => files_of(&argv, &tree),
    };
    let identity = identity(store, &files)?;
    let release = match known.filter(|record| record.identity == identity) {
        Some(record) => record.release,
        None => ask_release(role, command, &argv, &tree)?,
    };
    store.set_tool(&lookup, ToolRecord { files, loader, identity, release })?;
    Ok(tool(command, argv, identity, release))
}

fn tool(command: &str, argv: Vec<String>, identity: Digest, release: u32) -> Tool {
    Tool { text: command.to_owned(), argv, identity, release }
}

/// Content of a program that is only run, whatever it is: its files and the libraries that it
/// loads. One that is not there is an error when it is run.
pub fn identify(command: &str, store: &mut Store) -> Result<Digest> {
    let argv = shell_words::split(command).unwrap_or_default();
    let tree = store.tree().to_path_buf();
    let lookup = format!("program {}", whereabouts(command, &tree));
    let loader = store.files.find(LOADER_CACHE)?.map(|facts| facts.digest);
    if let Some(record) = store.tool(&lookup)
        && record.loader == loader
        && identity(store, &record.files)? == record.identity
    {
        return Ok(record.identity);
    }
    let files = files_of(&argv, &tree);
    let identity = identity(store, &files)?;
    store.set_tool(&lookup, ToolRecord { files, loader, identity, release: 0 })?;
    Ok(identity)
}

/// Where a command leads now: its words, the program that each leads to, the configuration
/// files beside it, and what the dynamic loader is told. Under this a tool is remembered.
pub fn whereabouts(command: &str, tree: &Path) -> Digest {
    let mut key = KeyBuilder::new("kthinlto tool 2");
    key.field(command.as_bytes());
    for program in programs_of(command, tree) {
        key.field(program.as_os_str().as_encoded_bytes());
        for file in configuration_beside(&program) {
            key.field(file.as_os_str().as_encoded_bytes());
        }
    }
    for name in ["LD_LIBRARY_PATH", "LD_PRELOAD"] {
        key.field(std::env::var_os(name).unwrap_or_default().as_encoded_bytes());
    }
    key.finish()
}

/// The programs that the words of a command lead to now; none if it cannot be split.
pub fn programs_of(command: &str, tree: &Path) -> Vec<PathBuf> {
    shell_words::split(command).map_or_else(|_| Vec::new(), |argv| programs(&argv, tree))
}

/// The words of a command that are programs: `ccache clang` has two.
fn programs(argv: &[String], tree: &Path) -> Vec<PathBuf> {
    let words = argv.iter().take_while(|word| !word.starts_with('-'));
    let found = words.filter_map(|word| find_program(word, tree));
    found.map(|path| fs::canonicalize(&path).unwrap_or(path)).collect()
}

/// Where the dynamic loader's cache says that libraries are. Each package with a library
/// changes it: the libraries of a tool are then looked up again, and count by content.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// All files that make up a tool: programs, what wrapper scripts name, libraries and
/// configuration files.
fn files_of(argv: &[String], tree: &Path) -> Vec<String> {
    let mut files: Vec<PathBuf> = Vec::new();
    for program in programs(argv, tree) {
        add_program(&program, tree, 0, &mut files);
    }
    files.dedup();
    files.iter().map(|file| file.to_string_lossy().into_owned()).collect()
}

/// Scripts that call scripts: no deeper than this.
const MAX_DEPTH: usize = 4;

fn add_program(program: &Path, tree: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    if depth > MAX_DEPTH || files.iter().any(|file| file == program) {
        return;
    }
    files.push(program.to_path_buf());
    let Ok(bytes) = fs::read(program) else {
        return;
    };
    if bytes.starts_with(b"#!") {
        for named in named_in_script(&bytes, tree) {
            add_program(&named, tree, depth + 1, files);
        }
        return;
    }
    files.extend(configuration_beside(program));
    files.extend(libraries(program, &bytes));
}

/// Programs that the words of a wrapper script lead to. A wrapper can find its compiler in
/// ways that cannot be seen from outside; the usual `exec clang-22 "$@"` can.
fn named_in_script(script: &[u8], tree: &Path) -> Vec<PathBuf> {
    let text = String::from_utf8_lossy(script);
    let words = text.split(|c: char| c.is_whitespace() || "\"'`;&|(){}=#!".contains(c));
    let found = words.filter(|w| w.len() > 1).filter_map(|word| find_program(word, tree));
    found.map(|path| fs::canonicalize(&path).unwrap_or(path)).collect()
}

/// `clang.cfg` and `TRIPLE-clang.cfg`: clang reads them from its own folder.
fn configuration_beside(program: &Path) -> Vec<PathBuf> {
    let Some(entries) = program.parent().and_then(|folder| fs::read_dir(folder).ok()) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "cfg"))
        .collect();
    found.sort();
    found
}

/// The libraries that a dynamic program loads, as its own loader finds them. A static
/// program has none, and is not started.
fn libraries(program: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let Some(loader) = interpreter(bytes) else {
        return Vec::new();
    };
    let listed = Command::new(&loader).arg("--list").arg(program).stdin(Stdio::null()).output();
    let Ok(listed) = listed else {
        return vec![loader];
    };
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let paths = text.lines().filter_map(|line| {
        let path = line.split("=>").last()?.trim().split(" (").next()?.trim();
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    let real = paths.map(|path| fs::canonicalize(&path).unwrap_or(path));
    std::iter::once(loader.clone()).chain(real).collect()
}

/// The dynamic loader that an ELF program names.
fn interpreter(bytes: &[u8]) -> Option<PathBuf> {
    let file = ElfFile64::<object::Endianness>::parse(bytes).ok()?;
    let endian = file.endian();
    let mut headers = file.elf_program_headers().iter();
    let name = headers.find_map(|header| header.interpreter(endian, bytes).ok().flatten())?;
    Some(PathBuf::from(std::str::from_utf8(name).ok()?))
}

/// Digest over all files of a tool. A file that is gone counts as such.
fn identity(store: &Store, files: &[String]) -> Result<Digest> {
    let mut key = KeyBuilder::new("kthinlto identity 1");
    for file in files {
        key.field(file.as_bytes());
        match store.files.find(file)? {
            Some(facts) => key.digest(&facts.digest),
            None => key.field(b"absent"),
        };
    }
    Ok(key.finish())
}

/// Asks a tool what it is, and refuses what cannot do the work.
fn ask_release(role: Role, command: &str, argv: &[String], tree: &Path) -> Result<u32> {
    let unfit = |found: String| Error::ToolUnfit {
        role: role.variable(),
        command: command.to_owned(),
        found,
        needed: format!("{} {OLDEST} or later", role.product()),
    };
    let (program, arguments) = argv.split_first().ok_or_else(|| unfit("empty".into()))?;
    let program = find_program(program, tree).unwrap_or_else(|| program.into());
    let asked = Command::new(program)
        .args(arguments)
        .arg("--version")
        .current_dir(tree)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::ToolMissing {
            role: role.variable(),
            command: command.to_owned(),
            found: e.to_string(),
        })?;
    let text = String::from_utf8_lossy(&asked.stdout);
    let first = text.lines().next().unwrap_or("a program with no --version").trim();
    match release_in(role, &text) {
        Some(release) if release >= OLDEST => Ok(release),
        _ => Err(unfit(format!("`{first}`"))),
    }
}

fn release_in(role: Role, version: &str) -> Option<u32> {
    let (_, rest) = version.split_once(role.marker())?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_wrapper_script_is_made_of_what_it_calls() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("cc");
        fs::write(&script, "#!/bin/sh\nexec ls \"$@\"\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let files = files_of(&[script.to_string_lossy().into_owned()], dir.path());
        assert!(files.iter().any(|file| file.ends_with("/ls")), "{files:?}");
        assert!(files.iter().any(|file| file.contains("libc.so")), "{files:?}");
    }

    #[test]
    fn a_swapped_program_of_the_same_name_has_another_identity() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("cc");
        let mut identities = Vec::new();
        for note in ["one", "two"] {
            let mut store = Store::open(dir.path()).unwrap();
            let text = format!("#!/bin/sh\n# {note}\necho clang version 22.0\n");
            crate::store::write_aside(&script, text.as_bytes()).unwrap();
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let tool = resolve(Role::Compiler, "./cc", &mut store).unwrap();
            identities.push(tool.identity);
        }
        assert_ne!(identities[0], identities[1]);
    }

    #[test]
    fn a_library_that_was_installed_makes_no_other_compiler() {
        // /etc/ld.so.cache changes with each; its content was part of the identity once.
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("cc");
        let text = "#!/bin/sh\necho >> asked\necho clang version 22.0\n";
        crate::store::write_aside(&script, text.as_bytes()).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let before = resolve(Role::Compiler, "./cc", &mut store).unwrap();
        let lookup = format!("CC {}", whereabouts("./cc", dir.path()));
        let mut record = store.tool(&lookup).cloned().unwrap();
        record.loader = Some(Digest::of(b"another cache"));
        let files = std::mem::take(&mut record.files);
        store.set_tool(&lookup, record).unwrap();
        assert_eq!(resolve(Role::Compiler, "./cc", &mut store).unwrap(), before);
        let again = store.tool(&lookup).unwrap();
        assert_eq!(again.files, files, "its libraries are looked up again");
        assert_eq!(fs::read_to_string(dir.path().join("asked")).unwrap(), "\n", "asked once");
    }

    #[test]
    fn what_is_missing_or_unfit_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let error = resolve(Role::Linker, "no-such-ld", &mut store).unwrap_err().to_string();
        assert!(error.contains("cannot run LD `no-such-ld`") && error.contains("LD="), "{error}");
        let error = resolve(Role::Compiler, "ls", &mut store).unwrap_err();
        assert!(error.to_string().contains("needs clang 15 or later"), "{error}");
        assert_eq!(error.exit_code(), 4);
    }
}
