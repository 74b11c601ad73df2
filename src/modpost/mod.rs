//! modpost's part: which symbols vmlinux and the modules export, and their versions. Takes
//! objects of any kind: where modpost meets `X.thinlto-native.o`, the versions were
//! recorded for `X.o`. Must not know how the objects were made.
//!
//! Follows `scripts/mod/modpost.c` of Linux 6.1 to 7.3; which generation a tree is of, its
//! objects say. What modpost does beyond this (section mismatches, `.mod.c`, licenses of
//! modules, imports of namespaces) is not done here.
//!
//! ```
//! use kthinlto::modpost::{dump, objects, versions};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let found = versions::parse(b"savedcmd_a.o := x\n#SYMVER panic 0x0000002a\n").found;
//! assert_eq!(found, [("panic".to_owned(), 42)]);
//! assert_eq!(
//!     objects::front_end_object("kernel/panic.thinlto-native.o".as_ref()),
//!     std::path::Path::new("kernel/panic.o"),
//! );
//! let text = "0x0000002a\tpanic\tvmlinux\tEXPORT_SYMBOL\t\n";
//! let lines = dump::parse(text)?;
//! assert_eq!((lines[0].crc, lines[0].gpl_only), (42, false));
//! assert_eq!(dump::render(&lines), text);
//! # Ok(()) }
//! ```

pub mod check;
pub mod dump;
mod elf;
pub mod exports;
pub mod objects;
mod resolve;
pub mod versions;

use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use object::ReadCache;

use crate::error::{Error, Result};
use crate::kbuild::auto_conf::AutoConf;
use crate::parallel;
use crate::regular;
use dump::Line;
use exports::Object;

/// What to read.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The object tree.
    pub tree: PathBuf,
    /// The source tree, for a white list of symbols that is named relative to it.
    pub srctree: PathBuf,
    /// Whether the modules of `modules.order` are read as well. They are in any case where
    /// unused exports are trimmed (`CONFIG_TRIM_UNUSED_KSYMS`).
    pub modules: bool,
    /// The archives that `.vmlinux.objs` lists, relative to the tree; if there are none,
    /// `.vmlinux.objs` itself is read.
    pub archives: Vec<PathBuf>,
    /// How many files are read at once, at most.
    pub threads: usize,
}

/// An exported symbol with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Its line.
    pub line: Line,
    /// Whether a version is on record.
    pub versioned: bool,
}

/// All that is exported.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Symvers {
    /// In modpost's order, trimmed ones left out.
    pub symbols: Vec<Symbol>,
    /// `CONFIG_MODVERSIONS`: without it no symbol has a version.
    pub with_versions: bool,
    /// Whether modules were asked for.
    pub with_modules: bool,
    /// `#SYMVER` lines that modpost skips, with the file that they are in.
    pub skipped: Vec<(PathBuf, usize)>,
    /// What modpost would warn of, and what it should.
    pub warnings: Vec<String>,
}

impl Symvers {
    /// The text of `vmlinux.symvers`, or with modules of `Module.symvers`.
    pub fn render(&self) -> String {
        dump::render(self.symbols.iter().map(|symbol| &symbol.line))
    }

    /// The symbols that should have a version and have none.
    pub fn unversioned(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| self.with_versions && !symbol.versioned)
    }
}

/// What was read of vmlinux or of a module.
struct Part {
    /// `vmlinux`, or the module's path without its ending.
    module: String,
    object: Object,
}

/// An object's `.cmd` file, and which part it belongs to.
struct Record {
    part: usize,
    path: PathBuf,
    /// As its list names it.
    object: PathBuf,
    list: String,
}

/// Reads the objects of a tree and the versions that are on record for them.
///
/// # Errors
/// Where a list, an object or a record cannot be read, or is malformed.
pub fn read(settings: &Settings) -> Result<Symvers> {
    let conf = AutoConf::read(&settings.tree)?;
    let trims = conf.is_on("CONFIG_TRIM_UNUSED_KSYMS");
    let names = object_names(settings, trims)?;
    let with_versions = conf.is_on("CONFIG_MODVERSIONS");
    let records = if with_versions { records(settings, &names)? } else { Vec::new() };
    let (parts, versions) = thread::scope(|scope| {
        // vmlinux.o takes about as long as all .cmd files.
        let parts = scope.spawn(|| read_parts(settings, &names));
        let versions = read_versions(settings, &records);
        (parts.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), versions)
    });
    let mut parts = parts?;
    if !conf.is_on("CONFIG_MODULES") {
        parts.iter_mut().flatten().for_each(|part| part.object.exports.clear());
    }
    let keep = if trims { Some(white_list(settings, &conf)?) } else { None };
    let versions = records.iter().zip(versions?);
    let mut symvers = resolve::resolve(&parts, versions.collect(), keep, with_versions)?;
    symvers.with_modules = settings.modules;
    if !settings.modules {
        symvers.symbols.retain(|symbol| symbol.line.module == "vmlinux");
    }
    Ok(symvers)
}

/// `vmlinux.o`, and the objects of the modules.
fn object_names(settings: &Settings, trims: bool) -> Result<Vec<String>> {
    let mut names = vec!["vmlinux.o".to_owned()];
    if settings.modules || trims {
        let text = read_file(&settings.tree, "modules.order", "build the modules with make")?;
        // Up to Linux 6.2 it names the modules, later their objects.
        names.extend(String::from_utf8_lossy(&text).split_terminator('\n').map(|line| {
            let stem = line.strip_suffix(".ko").or(line.strip_suffix(".o")).unwrap_or(line);
            format!("{stem}.o")
        }));
    }
    Ok(names)
}

fn read_file(tree: &Path, name: &str, remedy: &str) -> Result<Vec<u8>> {
    regular::read(&tree.join(name)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::bad_input(name, "there is no such file", remedy),
        _ => Error::io("read", name, error),
    })
}

/// The `.cmd` files of all parts, in the order in which modpost reads them.
fn records(settings: &Settings, names: &[String]) -> Result<Vec<Record>> {
    let indexes: Vec<usize> = (0..names.len()).collect();
    let found = parallel::map(settings.threads, &indexes, |part| {
        let module = module_of(&names[*part]);
        let list = match *part {
            0 => objects::VMLINUX_OBJS.to_owned(),
            _ => objects::list_of_module(module),
        };
        let text = match *part {
            0 if !settings.archives.is_empty() => {
                objects::list_archives(&settings.tree, &settings.archives)?.into_bytes()
            }
            _ => read_file(
                &settings.tree,
                &list,
                "build it with make, or name the archives that it lists",
            )?,
        };
        objects::parse_list(&text).into_iter().map(|o| record(*part, o, &list)).collect()
    });
    let lists: Vec<Vec<Record>> = found.into_iter().collect::<Result<_>>()?;
    Ok(lists.into_iter().flatten().collect())
}

fn record(part: usize, object: PathBuf, list: &str) -> Result<Record> {
    let Some(path) = objects::record_of(&object) else {
        let found = format!("it lists {}, whose name does not end in .o", object.display());
        return Err(Error::bad_input(list, found, "build it again with make"));
    };
    Ok(Record { part, path, object, list: list.to_owned() })
}

fn module_of(name: &str) -> &str {
    name.strip_suffix(".o").unwrap_or(name)
}

fn read_versions(settings: &Settings, records: &[Record]) -> Result<Vec<versions::Versions>> {
    let read = parallel::map(settings.threads, records, |record| {
        let text = regular::read(&settings.tree.join(&record.path));
        text.map(|text| versions::parse(&text)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let (list, object) = (&record.list, record.object.display());
                let found = format!("there is no such file, but {list} lists {object}");
                Error::bad_input(&record.path, found, "build the object again with make")
            }
            _ => Error::io("read", &record.path, error),
        })
    });
    read.into_iter().collect()
}

/// `None` for a module that is no ELF object: modpost ignores it.
fn read_parts(settings: &Settings, names: &[String]) -> Result<Vec<Option<Part>>> {
    let read = parallel::map(settings.threads, names, |name| {
        let remedy = "build it again with make";
        let object = read_object(&settings.tree, name, remedy)?;
        match object {
            None if name == "vmlinux.o" => {
                Err(Error::bad_input(name, "it is not an ELF object", remedy))
            }
            object => Ok(object.map(|object| Part { module: module_of(name).to_owned(), object })),
        }
    });
    read.into_iter().collect()
}

fn read_object(tree: &Path, name: &str, remedy: &str) -> Result<Option<Object>> {
    let file = regular::open(&tree.join(name)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::bad_input(name, "there is no such file", remedy),
        _ => Error::io("read", name, error),
    })?;
    let cache = ReadCache::new(file.0);
    exports::read(&cache).map_err(|found| Error::bad_input(name, found, remedy))
}

/// `CONFIG_UNUSED_KSYMS_WHITELIST`: relative to the object tree or else to the sources, as
/// in `scripts/Makefile.modpost`.
fn white_list(settings: &Settings, conf: &AutoConf) -> Result<Vec<String>> {
    let Some(name) = conf.text("CONFIG_UNUSED_KSYMS_WHITELIST") else {
        return Ok(Vec::new());
    };
    let ours = settings.tree.join(name);
    let path = if ours.exists() { ours } else { settings.tree.join(&settings.srctree).join(name) };
    let text = regular::read(&path).map_err(|e| Error::io("read the white list", &path, e))?;
    let text = String::from_utf8_lossy(objects::until_nul(&text)).into_owned();
    Ok(text.split('\n').map(str::to_owned).collect())
}
