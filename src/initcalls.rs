//! The linker script that puts initcalls into link order. With LTO each one has a section of
//! its own, `.initcall6.init..NAME`, and only this script keeps their order. Knows symbol
//! tables and the names of initcalls; must not know who links with the script.
//!
//! Rule: `scripts/generate_initcall_order.pl` and `__initcall_id()` of `include/linux/init.h`,
//! Linux 6.1 to 7.3. The script's bytes are perl's. Where perl goes on with fewer initcalls (a
//! file that cannot be read, a name with no level, two initcalls with one counter), this stops.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use object::elf;
use object::read::archive::ArchiveFile;
use object::read::elf::{FileHeader, SectionTable, Sym};
use object::{Endianness, SectionIndex};

use crate::archive::read::flatten;
use crate::bitcode;
use crate::elf::{by_class, nm};
use crate::error::{Error, Result};
use crate::format::{Format, REGULAR_ARCHIVE, THIN_ARCHIVE};
use crate::parallel;
use crate::regular;

/// Beginning of the symbol that marks an initcall.
const PREFIX: &[u8] = b"__initcall__";
/// What to do about a damaged file.
const REBUILD: &str = "remove it and build it again with make";
/// What to do about an initcall that perl would lose.
const DECLARE: &str = "declare initcalls with the macros of <linux/init.h>, each in a source file \
                       that has an object of its own";

/// What is wrong with an object, as a clause, and what to do.
#[derive(Debug)]
pub(crate) struct Unfit {
    found: String,
    remedy: &'static str,
}

impl Unfit {
    fn damaged(found: String) -> Self {
        Unfit { found, remedy: REBUILD }
    }

    fn lost(found: String) -> Self {
        Unfit { found, remedy: DECLARE }
    }

    /// The error for the file that it was found in.
    fn of(self, file: &Path) -> Error {
        Error::bad_input(file, self.found, self.remedy)
    }
}

/// The linker script for the initcalls of `files`, in link order: archives, whose members may be
/// native objects or bitcode, or single objects. Names are relative to `tree`, or absolute. Reads
/// on up to `threads` threads.
///
/// # Errors
/// Where a file is missing, truncated or no object, the place of an initcall cannot be told, or
/// there is no initcall at all.
pub fn linker_script(tree: &Path, files: &[PathBuf], threads: usize) -> Result<Vec<u8>> {
    let mut sources = Vec::new();
    for file in files {
        sources.extend(Source::all_in(tree, file)?);
    }
    let mut levels: BTreeMap<Vec<u8>, Vec<Initcall>> = BTreeMap::new();
    for found in parallel::map(threads, &sources, |source| source.initcalls(tree)) {
        for initcall in found? {
            levels.entry(initcall.level().to_vec()).or_default().push(initcall);
        }
    }
    match files.first() {
        None => Err(Error::Usage("no archive was given to look for initcalls in".to_owned())),
        Some(first) if levels.is_empty() => {
            let found = "it has no initcalls, but every kernel has some";
            Err(Error::bad_input(first, found, "name the archives that vmlinux is linked from"))
        }
        Some(_) => Ok(render(&levels)),
    }
}

/// As perl prints it. Levels are in the order of their bytes; no linker cares.
fn render(levels: &BTreeMap<Vec<u8>, Vec<Initcall>>) -> Vec<u8> {
    let mut out = b"SECTIONS {\n".to_vec();
    for (level, initcalls) in levels {
        let section = match level.as_slice() {
            b"con" => b".con_initcall.init".to_vec(),
            level => [b".initcall", level, b".init"].concat(),
        };
        out.extend([b"\t", section.as_slice(), b" : {\n"].concat());
        for initcall in initcalls {
            out.extend([b"\t\t*(", section.as_slice(), b"..", initcall.id(), b") ;\n"].concat());
        }
        out.extend(b"\t}\n");
    }
    out.extend(b"}\n");
    out
}

/// One initcall, as its symbol names it: `kmod_panic__689_102_kernel_panic_sysctls_init7` is
/// module, counter, line, function and level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initcall {
    /// The symbol without its prefix.
    name: Vec<u8>,
    /// Where the level begins.
    level: usize,
    /// Digits without leading zeros: `__COUNTER__`, which grows through a source file.
    counter: Vec<u8>,
}

impl Initcall {
    /// Reads a symbol's name: `None` if it names no initcall.
    ///
    /// # Errors
    /// Where it names one, but not its level: a clause that says so.
    pub fn parse(symbol: &[u8]) -> Result<Option<Self>, String> {
        let Some(name) = symbol.strip_prefix(PREFIX) else {
            return Ok(None);
        };
        // The module's name has no blank; of several counters, the last one counts.
        let blank = name.iter().position(|byte| matches!(byte, b'\t'..=b'\r' | b' '));
        let ends = (0..=blank.unwrap_or(name.len())).rev();
        let Some((counter, function)) = ends.into_iter().find_map(|end| counter_at(name, end))
        else {
            return Ok(None);
        };
        let found = level_in(&name[function..]).map(|at| function + at);
        let text = || String::from_utf8_lossy(symbol).into_owned();
        let Some(level) = found else {
            return Err(format!("the initcall `{}`, whose name does not end in a level", text()));
        };
        if name.contains(&b'\n') {
            return Err(format!("the initcall `{}`, with a line break in its name", text()));
        }
        let zeros = counter.iter().take_while(|digit| **digit == b'0').count();
        Ok(Some(Initcall { name: name.to_vec(), level, counter: counter[zeros..].to_vec() }))
    }

    /// `0` to `7`, with `s` for the second half of a level; `early`, `rootfs`, `con`.
    pub fn level(&self) -> &[u8] {
        &self.name[self.level..]
    }

    /// What its section is named by: `MODULE__COUNTER_LINE_FUNCTION`.
    pub fn id(&self) -> &[u8] {
        &self.name[..self.level]
    }

    /// Order within an object: by number, and where that says nothing, by name.
    fn key(&self) -> (usize, &[u8], &[u8]) {
        (self.counter.len(), &self.counter, &self.name)
    }
}

/// The counter of `__COUNTER_LINE_` at `at`, and where the function's name begins.
fn counter_at(name: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let number = |from: usize| {
        let digits = name.get(from..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let end = from + digits;
        (digits > 0 && name.get(end) == Some(&b'_')).then_some(end)
    };
    let begins = name.get(at..)?.starts_with(b"__");
    let end = begins.then(|| number(at + 2))??;
    Some((&name[at + 2..end], number(end + 1)? + 1))
}

/// Where the level begins that ends a function's name.
fn level_in(function: &[u8]) -> Option<usize> {
    let without = function.strip_suffix(b"s");
    [Some(function), without].into_iter().flatten().find_map(|text| {
        let word = [&b"early"[..], b"rootfs", b"con"].into_iter().find(|word| text.ends_with(word));
        let digit = text.last().is_some_and(u8::is_ascii_digit).then_some(1);
        word.map(<[u8]>::len).or(digit).map(|length| text.len() - length)
    })
}

/// What has symbol tables in it.
enum Source {
    /// A member of a thin archive, or an object by itself.
    Object { name: PathBuf, archive: Option<PathBuf> },
    /// An archive that holds its members.
    Regular(PathBuf),
}

impl Source {
    /// The objects of a file, in order.
    fn all_in(tree: &Path, file: &Path) -> Result<Vec<Self>> {
        let mut magic = [0; 8];
        let read =
            regular::open(&tree.join(file)).and_then(|(mut open, _)| open.read_exact(&mut magic));
        match read {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(Error::bad_input(file, "neither an archive nor an object", REBUILD));
            }
            Err(error) => return Err(unreadable(tree, file, None, error)),
        }
        match &magic {
            THIN_ARCHIVE => {
                let archive = Some(file.to_path_buf());
                let members = flatten(tree, &[file.to_path_buf()])?.into_iter();
                let object = |name: String| (name.into(), archive.clone());
                Ok(members
                    .map(object)
                    .map(|(name, archive)| Source::Object { name, archive })
                    .collect())
            }
            REGULAR_ARCHIVE => Ok(vec![Source::Regular(file.to_path_buf())]),
            _ => Ok(vec![Source::Object { name: file.to_path_buf(), archive: None }]),
        }
    }

    /// All initcalls in it, those of each object in the order of its source.
    fn initcalls(&self, tree: &Path) -> Result<Vec<Initcall>> {
        match self {
            Source::Object { name, archive } => {
                let bytes = regular::read(&tree.join(name))
                    .map_err(|error| unreadable(tree, name, archive.as_deref(), error))?;
                in_object(&bytes).map_err(|unfit| unfit.of(name))
            }
            Source::Regular(archive) => {
                let bytes = regular::read(&tree.join(archive))
                    .map_err(|error| unreadable(tree, archive, None, error))?;
                in_regular_archive(&bytes).map_err(|unfit| unfit.of(archive))
            }
        }
    }
}

fn unreadable(tree: &Path, file: &Path, archive: Option<&Path>, error: io::Error) -> Error {
    match (error.kind(), archive) {
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, Some(archive)) => {
            Error::MissingMember { archive: archive.to_path_buf(), member: file.to_path_buf() }
        }
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, None) => {
            let tree = std::path::absolute(tree).unwrap_or_else(|_| tree.to_path_buf());
            let found = format!("there is no such file in the object tree {}", tree.display());
            Error::bad_input(file, found, "build it with make, or name another tree with -C")
        }
        (io::ErrorKind::IsADirectory, _) => {
            Error::bad_input(file, "a folder", "name archives or objects")
        }
        _ => Error::io("read", file, error),
    }
}

fn in_regular_archive(bytes: &[u8]) -> Result<Vec<Initcall>, Unfit> {
    // `ar` makes an empty archive of the magic alone.
    if bytes == REGULAR_ARCHIVE {
        return Ok(Vec::new());
    }
    let corrupt = |error| Unfit::damaged(format!("a corrupt or truncated archive: {error}"));
    let archive = ArchiveFile::parse(bytes).map_err(corrupt)?;
    let mut all = Vec::new();
    for member in archive.members() {
        let member = member.map_err(corrupt)?;
        let name = String::from_utf8_lossy(member.name());
        let data = member.data(bytes).map_err(corrupt)?;
        all.extend(in_object(data).map_err(|unfit| {
            let found = format!("its member {name}: {}", unfit.found);
            Unfit { found, ..unfit }
        })?);
    }
    Ok(all)
}

/// Bytes that an initcall's name may have; those of functions in a kernel have 512 at most.
const LONGEST: usize = 4096;

/// The initcalls of one object, native or bitcode, in the order of their counters.
pub(crate) fn in_object(bytes: &[u8]) -> Result<Vec<Initcall>, Unfit> {
    let mut all = Vec::new();
    for symbol in local_symbols(bytes).map_err(Unfit::damaged)? {
        if symbol.len() > LONGEST && symbol.starts_with(PREFIX) {
            let found = format!("an initcall with a name of {} bytes", symbol.len());
            return Err(Unfit::damaged(found));
        }
        all.extend(Initcall::parse(symbol).map_err(Unfit::lost)?);
    }
    all.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
    all.dedup();
    match all.windows(2).find(|pair| pair[0].counter == pair[1].counter) {
        None => Ok(all),
        Some(pair) => {
            let text = |initcall: &Initcall| String::from_utf8_lossy(&initcall.name).into_owned();
            let (one, other) = (text(&pair[0]), text(&pair[1]));
            Err(Unfit::lost(format!("two initcalls with the same counter, `{one}` and `{other}`")))
        }
    }
}

/// The names that nm shows with a small letter, as far as an initcall can have them: defined,
/// and seen by no other object.
fn local_symbols(bytes: &[u8]) -> Result<Vec<&[u8]>, String> {
    if Format::of(bytes) == Format::Bitcode {
        let damaged = |error| format!("damaged bitcode: {error}");
        return bitcode::symtab::defined_locals(bytes)
            .map_err(damaged)?
            .ok_or_else(|| "bitcode with no symbol table".to_owned());
    }
    let symbols = by_class!(bytes, elf_locals(bytes));
    let symbols = symbols.ok_or("neither an ELF object nor bitcode")?;
    symbols.map_err(|error| format!("a truncated or corrupt ELF file: {error}"))
}

fn elf_locals<E: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> object::Result<Vec<&[u8]>> {
    let header = E::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let table = sections.symbols(endian, bytes, elf::SHT_SYMTAB)?;
    let mut names = Vec::new();
    for (index, symbol) in table.enumerate().skip(1) {
        if symbol.st_bind() != elf::STB_LOCAL
            || matches!(symbol.st_type(), elf::STT_FILE | elf::STT_SECTION)
            || symbol.is_undefined(endian)
        {
            continue;
        }
        let name = table.symbol_name(endian, symbol)?;
        // The section last: most symbols are none of ours.
        if name.starts_with(PREFIX) {
            let section = table.symbol_section(endian, symbol, index)?;
            if symbol.is_absolute(endian) || has_small_letter(endian, &sections, section)? {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// Whether nm has a small letter for what is in this section.
fn has_small_letter<E: FileHeader<Endian = Endianness>>(
    endian: Endianness,
    sections: &SectionTable<'_, E>,
    section: Option<SectionIndex>,
) -> object::Result<bool> {
    section.map_or(Ok(false), |index| {
        let letter = nm::section_letter(endian, sections, sections.section(index)?)?;
        Ok(letter.is_ascii_lowercase())
    })
}
