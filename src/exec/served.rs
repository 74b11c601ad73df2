//! Which programs a fork server is made of: clang and lld themselves, dynamically linked against
//! glibc. A wrapper would be served as well as any program, and gain nothing: its work is to start
//! another. Reads files; starts nothing.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use memchr::memmem;
use object::elf::DT_NEEDED;
use object::read::elf::{Dyn, ElfFile64};
use object::{Endianness, ReadCache};

use super::process::find_program;
use crate::elf::interpreter;
use crate::environment::Environment;
use crate::format::Format;

/// What such a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// clang.
    Compiler,
    /// lld.
    Linker,
}

impl Served {
    /// One of its jobs, for messages.
    pub fn job(self) -> &'static str {
        match self {
            Served::Compiler => "backend",
            Served::Linker => "link",
        }
    }

    /// Part of its file's name, and an option that it knows if LLVM is a part of it.
    fn marks(self) -> (&'static str, &'static [u8]) {
        match self {
            Served::Compiler => ("clang", b"fthinlto-index="),
            Served::Linker => ("lld", b"thinlto-index-only"),
        }
    }
}

/// The real file of a program that can be a fork server, and what it is; or a clause that says why it cannot.
pub fn find(
    program: &str,
    folder: &Path,
    environment: &Environment,
) -> Result<(PathBuf, Served), String> {
    let path = find_program(program, folder, environment).ok_or("there is no such program")?;
    let path = fs::canonicalize(&path).map_err(|e| format!("it cannot be found: {e}"))?;
    look_at(&path).map(|served| (path, served))
}

fn look_at(path: &Path) -> Result<Served, String> {
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    let shown = path.display();
    let mut file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o6000 != 0 {
        return Err(format!("{shown} runs with another user's rights"));
    }
    let mut start = [0; 4];
    file.read_exact(&mut start).map_err(unreadable)?;
    let wrapper = || format!("{shown} is a wrapper, not clang or lld itself");
    if Format::of(&start) != Format::Elf {
        return Err(wrapper());
    }
    let cache = ReadCache::new(&file);
    let program: Program<'_> = ElfFile64::parse(&cache)
        .map_err(|_| format!("{shown} is not a program for this machine"))?;
    match interpreter(&program).map(String::from_utf8_lossy) {
        None => return Err(format!("{shown} is linked statically")),
        Some(loader) if !loader.contains("/ld-linux") => {
            return Err(format!("{shown} is loaded by {loader}, which is not glibc's"));
        }
        Some(_) => {}
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_it = |served: &Served| {
        let (part, option) = served.marks();
        name.contains(part) && (needs_llvm(&program) || has_option(&file, option))
    };
    [Served::Compiler, Served::Linker].into_iter().find(is_it).ok_or_else(wrapper)
}

type Program<'a> = ElfFile64<'a, Endianness, &'a ReadCache<&'a File>>;

/// It loads LLVM's libraries, as distributions' clang does.
fn needs_llvm(program: &Program<'_>) -> bool {
    let (endian, data) = (program.endian(), program.data());
    let sections = program.elf_section_table();
    let Ok(Some((entries, link))) = sections.dynamic(endian, data) else {
        return false;
    };
    let Ok(strings) = sections.strings(endian, data, link) else {
        return false;
    };
    let mut needed = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
    needed.any(|entry| {
        let name = entry.string(endian, strings).unwrap_or_default();
        name.starts_with(b"libclang-cpp.so") || name.starts_with(b"libLLVM")
    })
}

/// LLVM is part of the program: it knows the option that every job is given.
fn has_option(mut file: &File, option: &[u8]) -> bool {
    let finder = memmem::Finder::new(option);
    let mut buffer = vec![0; 1 << 20];
    let mut kept = 0;
    loop {
        let count = match file.read(&mut buffer[kept..]) {
            Ok(0) | Err(_) => return false,
            Ok(count) => kept + count,
        };
        if finder.find(&buffer[..count]).is_some() {
            return true;
        }
        // The option may lie across two pieces.
        kept = count.min(option.len() - 1);
        buffer.copy_within(count - kept..count, 0);
    }
}
