//! The final link of vmlinux without the slow parts of `scripts/link-vmlinux.sh`: the tables of
//! kallsyms and System.map are made here, not by sed, the kernel's own program and the
//! assembler, and the tables of the last link are tried first, which saves a pass.
//! What links, sorts and knows the architecture is still the kernel's and the linker's.
//! Must not know how anyone came to trust it: relink compares it with the script first.
//!
//! Rules: `scripts/link-vmlinux.sh`, Linux 6.12 to 7.3.
//!
//! ```text
//! script ─► link ─► nm ─► sysmap ─► kallsyms (tokens, object) ─► patch, or link ─► … ─► sorttable
//! ```

mod kallsyms;
mod object;
pub mod patch;
mod script;
mod sysmap;
mod tokens;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ::object::ReadCache;

use self::kallsyms::{Options, Tables};
use self::object::Template;
use self::script::Script;
use self::sysmap::Filter;
use crate::elf::{Class, nm};
use crate::environment::Environment;
use crate::error::{Error, Result, describe_status};
use crate::exec::helper::Helper;
use crate::kbuild::auto_conf::AutoConf;
use crate::store::write_aside;

/// Links until addresses stand still; the kernel's script gives up after three.
const PASSES: usize = 4;
/// The symbols with their sizes, for `sorttable`.
const SYMBOLS: &str = ".tmp_vmlinux.nm-sort";
/// The kernel's own tables of one symbol, which ours are made after. In the script they have this
/// name in the last pass but for rare cases, and debug information repeats it.
const TEMPLATE: &str = ".tmp_vmlinux2.kallsyms";
/// The step's name in errors.
const STEP: &str = "the final link";

/// A final link, in the current folder: what `scripts/link-vmlinux.sh` is told.
#[derive(Debug, Clone)]
pub struct Link {
    /// `LD`, with options.
    pub linker: String,
    /// `KBUILD_LDFLAGS` and `LDFLAGS_vmlinux`.
    pub flags: [String; 2],
    /// `KBUILD_LDS`.
    pub linker_script: String,
    /// The objects, in link order.
    pub objects: Vec<String>,
    /// The source tree.
    pub sources: PathBuf,
    /// The compiler and its flags for assembly files.
    pub assembler: String,
    /// The kernel that is linked.
    pub output: String,
    /// Where `System.map` goes.
    pub system_map: PathBuf,
    /// The tables of the last link, which are tried first, and where the new ones go.
    pub tables: PathBuf,
    /// Where the variables are looked up that the script has steps of its own for. The programs
    /// that link inherit the environment of the process.
    pub environment: Environment,
}

/// Makes the output and `System.map`.
///
/// # Errors
/// Where the script or the configuration asks for something that is not known here, the tables do
/// not fit in the end, a program fails, or a file cannot be read or written.
pub fn link(link: &Link) -> Result<()> {
    let unknown = |name: &str| {
        let remedy = "let scripts/link-vmlinux.sh do the final link";
        Error::bad_input(link.sources.join(name), "rules that kthinlto does not know", remedy)
    };
    let (name, filter_name) = ("scripts/link-vmlinux.sh", "scripts/mksysmap");
    let (text, conf) = (read_text(&link.sources.join(name))?, AutoConf::read(Path::new("."))?);
    let script = Script::read(&text, &conf, &link.environment).ok_or_else(|| unknown(name))?;
    let filter = Filter::read(&read_text(&link.sources.join(filter_name))?)
        .ok_or_else(|| unknown(filter_name))?;
    let has_debug = conf.text("CONFIG_DEBUG_INFO").is_some();
    let linking = Linking { link, filter, has_debug };
    let fitting = match &script.kallsyms {
        Some(words) => Some(linking.kallsyms(words)?.ok_or_else(|| unknown("scripts/kallsyms.c"))?),
        None => None,
    };
    let is_whole = fitting.as_ref().map(|fitting| linking.take(fitting)).transpose()?;
    if is_whole == Some(true) {
        tracing::debug!("new tables of kallsyms were put into the kernel of the last pass");
    } else {
        let tables = fitting.as_ref().map(|fitting| fitting.object.as_path());
        linking.link(&link.output, tables, &[])?;
    }
    let file = open(&link.output)?;
    let symbols = defined(&file, &link.output)?;
    if script.sorttable == Some(true) {
        write_aside(Path::new(SYMBOLS), &nm::with_sizes(symbols.clone()))?;
    }
    let is_64 = Class::of(&file) == Some(Class::Bits64);
    let map = sysmap::text(&linking.filter.keep(symbols), is_64);
    if fitting.as_ref().is_some_and(|fitting| fitting.map != map) {
        return Err(failed(
            "addresses that differ from those in its tables",
            "run scripts/link-vmlinux.sh",
        ));
    }
    write_aside(&link.system_map, &map)?;
    if let Some(with_symbols) = script.sorttable {
        linking.sort_tables(with_symbols)?;
    }
    if let Some(fitting) = fitting {
        write_aside(&link.tables, &read(&fitting.object)?)?;
    }
    Ok(())
}

fn failed(found: impl Into<String>, advice: &'static str) -> Error {
    Error::Step { step: STEP.to_owned(), found: found.into(), advice }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::io("read", path, e))
}

fn read_text(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&read(path)?).into_owned())
}

/// Tables that fit: linked in, they move nothing.
struct FittingTables {
    object: PathBuf,
    map: Vec<u8>,
    /// The kernel of that pass, and the tables that it was linked with.
    linked: String,
    before: Vec<u8>,
}

struct Linking<'a> {
    link: &'a Link,
    filter: Filter,
    /// Passes are linked without debug information, which the output has.
    has_debug: bool,
}

impl Linking<'_> {
    /// Links until the tables of a pass are as long as those that it was linked with. `None`
    /// where they have parts that are not known here.
    fn kallsyms(&self, words: &[String]) -> Result<Option<FittingTables>> {
        let first = self.template(words)?;
        let Some(template) = Template::read(&read(&first)?) else {
            return Ok(None);
        };
        let Some(options) = Options::parse(words, template.has("kallsyms_relative_base")) else {
            return Ok(None);
        };
        let mut before = match fs::read(&self.link.tables) {
            Ok(tables) if Template::read(&tables).is_some_and(|last| last.is_like(&template)) => {
                tables
            }
            _ => read(&first)?,
        };
        for pass in 1..=PASSES {
            let (output, object) =
                (format!(".tmp_vmlinux{pass}"), PathBuf::from(format!(".tmp_tables{pass}.o")));
            write_aside(&object, &before)?;
            let without: &[&str] = if self.has_debug { &["--strip-debug"] } else { &[] };
            self.link(&output, Some(&object), without)?;
            let file = open(&output)?;
            let symbols = self.filter.keep(defined(&file, &output)?);
            let tables = Tables::new(&symbols, options, template.is_big_endian());
            let Some(now) = template.fill(&tables) else {
                return Ok(None);
            };
            let fits = object::shape(&now) == object::shape(&before);
            if fits {
                write_aside(&object, &now)?;
                let map = sysmap::text(&symbols, template.is_64());
                return Ok(Some(FittingTables { object, map, linked: output, before }));
            }
            before = now;
        }
        Err(failed("addresses move with each pass", "run scripts/link-vmlinux.sh"))
    }

    /// Makes the kernel of the last pass the output, with the tables that fit; false if it has to be linked.
    fn take(&self, fitting: &FittingTables) -> Result<bool> {
        if self.has_debug {
            return Ok(false);
        }
        let linked = Path::new(&fitting.linked);
        let kernel = read(linked)?;
        let now = read(&fitting.object)?;
        // As many as the linker may run.
        let mut words = self.link.linker.split_whitespace();
        let threads = words.find_map(|word| word.strip_prefix("--threads=")?.parse().ok());
        let threads = threads.unwrap_or(1);
        let Some(patches) = patch::patches(&kernel, &fitting.before, &now, threads) else {
            return Ok(false);
        };
        let fail = |e| Error::io("write", linked, e);
        let file = File::options().write(true).open(linked).map_err(fail)?;
        for patch in &patches {
            file.write_all_at(&patch.bytes, patch.offset).map_err(fail)?;
        }
        drop(file);
        fs::rename(linked, &self.link.output).map_err(|e| Error::io("rename", linked, e))?;
        Ok(true)
    }

    /// The object that the kernel's own program and the compiler make of one symbol.
    fn template(&self, words: &[String]) -> Result<PathBuf> {
        let [map, text, object] =
            ["syms", "S", "o"].map(|ending| PathBuf::from(format!("{TEMPLATE}.{ending}")));
        // Not aside: they may be links to where the compiler runs.
        let write = |path: &Path, text: &[u8]| {
            fs::write(path, text).map_err(|e| Error::io("write", path, e))
        };
        write(&map, format!("{:016x} T {}\n", 0x1000, object::TEXT).as_bytes())?;
        let mut program: Vec<&OsStr> = vec![OsStr::new("scripts/kallsyms")];
        program.extend(words.iter().map(OsStr::new));
        program.extend([OsStr::new("--all-symbols"), map.as_os_str()]);
        write(&text, &output(&program, "scripts/kallsyms")?)?;
        // As the script has it: words without quotes.
        let mut assembler: Vec<&OsStr> = words_of(&self.link.assembler).collect();
        assembler.extend(["-c", "-o"].map(OsStr::new));
        assembler.extend([object.as_os_str(), text.as_os_str()]);
        output(&assembler, "the compiler")?;
        Ok(object)
    }

    fn link(&self, to: &str, tables: Option<&Path>, more: &[&str]) -> Result<()> {
        let link = self.link;
        let script = format!("--script={}", link.linker_script);
        let mut linker: Vec<&OsStr> = words_of(&link.linker).collect();
        linker.extend(link.flags.iter().flat_map(|flags| words_of(flags)));
        linker.push(OsStr::new(&script));
        linker.extend(more.iter().copied().chain(["-o", to, "--whole-archive"]).map(OsStr::new));
        linker.extend(link.objects.iter().map(OsStr::new));
        linker.extend(["--no-whole-archive", "--start-group", "--end-group"].map(OsStr::new));
        linker.extend(tables.map(Path::as_os_str));
        output(&linker, "the linker").map(drop)
    }

    fn sort_tables(&self, with_symbols: bool) -> Result<()> {
        let mut program = vec!["scripts/sorttable"];
        if with_symbols {
            program.extend(["-s", SYMBOLS]);
        }
        program.push(&self.link.output);
        let program: Vec<&OsStr> = program.into_iter().map(OsStr::new).collect();
        output(&program, "scripts/sorttable").map(drop)
    }
}

fn open(name: &str) -> Result<ReadCache<File>> {
    Ok(ReadCache::new(File::open(name).map_err(|e| Error::io("read", name, e))?))
}

/// The symbols of a linked kernel.
fn defined<'data>(file: &'data ReadCache<File>, name: &str) -> Result<Vec<nm::Symbol<'data>>> {
    nm::defined(file).map_err(|found| Error::bad_input(name, found, "run again"))
}

/// A program or flags, given as words.
fn words_of(text: &str) -> impl Iterator<Item = &OsStr> {
    text.split_whitespace().map(OsStr::new)
}

/// Runs a program to its end; what it prints.
fn output(argv: &[&OsStr], name: &str) -> Result<Vec<u8>> {
    let ended = Helper::new(argv, Path::new(".")).at_work().run();
    let cannot = |e| failed(format!("{name} cannot be run: {e}"), "build it with make");
    let ended = ended.map_err(|failure| failure.into_error(cannot))?;
    if ended.status.success() {
        return Ok(ended.output);
    }
    let how = describe_status(ended.status);
    Err(failed(format!("{name} {how}"), "its messages are above"))
}
