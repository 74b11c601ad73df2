//! The command line as clap reads it: text in, plain values out. Touches nothing.

use std::path::PathBuf;

use clap::builder::{BoolishValueParser, PossibleValue};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::help;
use crate::exec::executor::Choice;

/// Distributed ThinLTO for Linux kernels: archive, thin link, backends, vmlinux.a.
#[derive(Debug, Parser)]
#[command(name = "kthinlto", version, after_help = help::MAIN, max_term_width = 100)]
#[command(
    args_override_self = true,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Options of all commands.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that all commands take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of all commands")]
pub struct Common {
    /// Work in this object tree
    #[arg(short = 'C', long = "directory", value_name = "OBJTREE", global = true)]
    pub directory: Option<PathBuf>,
    /// Run at most this many jobs; under make's jobserver it can only lower the number
    #[arg(short, long, value_name = "N", global = true, value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Continue after a failed backend (also `k` in MAKEFLAGS)
    #[arg(short, long, global = true)]
    pub keep_going: bool,
    /// Only print what would be run (also `n` in MAKEFLAGS)
    #[arg(short = 'n', long, global = true)]
    pub dry_run: bool,
    /// Print full commands; twice, also why each is run (also KBUILD_VERBOSE)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print only what went wrong (also `s` in MAKEFLAGS)
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make vmlinux.a from kbuild's archives; kbuild calls this in the object tree
    #[command(after_help = help::BUILD)]
    Build(Build),
    /// Make the objects of loadable modules from bitcode; kbuild calls this before modpost
    #[command(after_help = help::MODULES)]
    Modules(Modules),
    /// Make vmlinux from the objects of a tree that was built before, without make
    #[command(after_help = help::RELINK)]
    Relink(Relink),
    /// Apply the patch series for a kernel tree's version, as a whole or not at all
    #[command(after_help = help::PATCH)]
    Patch(Patch),
    /// Print what an object is made from and imported by, and whether its backend would run
    #[command(after_help = help::EXPLAIN)]
    Explain(Explain),
    /// Run backends again and compare what they make with the tree's objects
    #[command(after_help = help::VERIFY)]
    Verify(Verify),
    /// Show which module imports from which, and which are the most expensive to edit
    #[command(after_help = help::GRAPH)]
    Graph(GraphArgs),
    /// Write vmlinux.symvers as modpost does, or compare it with what the objects say
    #[command(after_help = help::SYMVERS)]
    Symvers(Symvers),
    /// Write the linker script that keeps initcalls in link order
    #[command(after_help = help::INITCALLS)]
    Initcalls(Initcalls),
    /// Show, prune or clear the shared cache of native objects ($KTHINLTO_CACHE_DIR)
    #[command(after_help = help::CACHE)]
    Cache(CacheArgs),
    /// Try a server of the Remote Execution API, on which jobs can run ($KTHINLTO_REMOTE)
    #[cfg(feature = "remote")]
    #[command(after_help = help::REMOTE)]
    Remote(RemoteArgs),
    /// Remove what `build` made in an object tree
    #[command(after_help = help::CLEAN)]
    Clean,
    /// Link vmlinux as scripts/link-vmlinux.sh does; `relink` runs this
    #[command(hide = true, after_help = help::LINK_VMLINUX)]
    LinkVmlinux(LinkVmlinux),
    /// Print a shell's completions or write the man pages, for packagers of kthinlto
    #[command(hide = true, after_help = help::GENERATE)]
    Generate(Generate),
}

/// Options of `link-vmlinux`: what the kernel's script is given, and then the objects.
#[derive(Debug, Args)]
pub struct LinkVmlinux {
    /// The linker, with options
    #[arg(value_name = "LD")]
    pub linker: String,
    /// KBUILD_LDFLAGS
    #[arg(value_name = "FLAGS", allow_hyphen_values = true)]
    pub flags: String,
    /// LDFLAGS_vmlinux
    #[arg(value_name = "VMLINUX_FLAGS", allow_hyphen_values = true)]
    pub vmlinux_flags: String,
    /// The kernel that is made
    #[arg(value_name = "OUTPUT")]
    pub output: String,
    /// The objects, in link order
    #[arg(value_name = "OBJECT", required = true)]
    pub objects: Vec<String>,
    /// Where the list of symbols goes
    #[arg(long, value_name = "FILE", default_value = "System.map")]
    pub system_map: PathBuf,
    /// The object with kallsyms' tables: the last link's are tried first, the new ones kept
    #[arg(long, value_name = "FILE", default_value = ".tmp_tables.o")]
    pub tables: PathBuf,
}

/// Options of `generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// What to make
    #[arg(value_name = "WHAT")]
    pub what: Generated,
    /// The folder for the man pages, made if it does not exist
    #[arg(value_name = "DIR", required_if_eq("what", "man"))]
    pub folder: Option<PathBuf>,
}

/// What is made from the definitions in this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Generated {
    /// Completions for bash, on standard output
    Bash,
    /// Completions for zsh, on standard output
    Zsh,
    /// Completions for fish, on standard output
    Fish,
    /// A man page for each command, in DIR
    Man,
}

/// Options of `explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// A bitcode object of the tree, or its native object; vmlinux, or another file that relink
    /// makes, for all steps that lead to it; or vmlinux.thinlto-index, for the thin link
    #[arg(value_name = "OBJECT")]
    pub object: String,
    /// The compiler; by default, that of the last build
    #[arg(long, env = "CC", value_name = "COMMAND")]
    pub cc: Option<String>,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Bitcode objects of the tree, or native objects; by default, all
    #[arg(value_name = "OBJECT")]
    pub objects: Vec<String>,
    /// Check only this many, chosen at random
    #[arg(long, value_name = "N")]
    pub sample: Option<usize>,
    /// Also compare with the shared cache
    #[arg(long)]
    pub cache: bool,
    /// The compiler; by default, that of the last build
    #[arg(long, env = "CC", value_name = "COMMAND")]
    pub cc: Option<String>,
    /// The cache's folder and size
    #[command(flatten)]
    pub place: CachePlace,
}

/// Options of `graph`.
#[derive(Debug, Args)]
pub struct GraphArgs {
    /// Show only these objects, and what is imported by or from them
    #[arg(value_name = "OBJECT")]
    pub objects: Vec<String>,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Form,
    /// List the functions that ThinLTO made global and renamed (NAME.llvm.NUMBER), and which of them are new
    /// since the kernel or module was linked
    #[arg(long)]
    pub promoted: bool,
}

/// How to print the import graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// How much is imported, and the 20 most expensive edits
    Text,
    /// All imports, for Graphviz
    Dot,
    /// All imports, for programs; docs/json.md describes the format
    Json,
}

/// Options of `symvers`.
#[derive(Debug, Args)]
pub struct Symvers {
    /// The archives of vmlinux, to take the objects from instead of .vmlinux.objs
    #[arg(value_name = "ARCHIVE")]
    pub archives: Vec<PathBuf>,
    /// Compare the file with the objects, and write nothing
    #[arg(long)]
    pub check: bool,
    /// Print the symbols, or with --check the differences, as JSON, and write nothing
    #[arg(long)]
    pub json: bool,
    /// Also read the modules in modules.order: the file is Module.symvers
    #[arg(short, long)]
    pub modules: bool,
    /// Write a .vmlinux.objs in which a modpost without our patch finds all versions
    #[arg(long, requires = "archives")]
    pub any_modpost: bool,
    /// The file, relative to the object tree; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The source tree, as seen from the object tree
    #[arg(long, env = "srctree", value_name = "DIR", default_value = "source")]
    pub srctree: PathBuf,
}

/// Options of `initcalls`.
#[derive(Debug, Args)]
pub struct Initcalls {
    /// Archives or objects, in link order
    #[arg(value_name = "ARCHIVE", default_value = "vmlinux.a")]
    pub archives: Vec<PathBuf>,
    /// The file, relative to the object tree; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = ".tmp_initcalls.lds")]
    pub output: PathBuf,
}

/// Options of `cache`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// What to do
    #[command(subcommand)]
    pub action: CacheAction,
    /// The cache's folder and size
    #[command(flatten)]
    pub place: CachePlace,
}

/// What to do with the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum CacheAction {
    /// Print how many objects it holds, and their size
    Stats,
    /// Remove objects, the least recently used first, until the cache fits its size
    Prune,
    /// Remove all objects
    Clear,
}

/// Where the shared cache is, and how large it may be.
#[derive(Debug, Args)]
pub struct CachePlace {
    /// Share native objects between trees in this folder
    #[arg(long, env = "KTHINLTO_CACHE_DIR", value_name = "DIR", global = true)]
    pub cache_dir: Option<PathBuf>,
    /// Largest size of the cache, such as 500M or 5G
    #[arg(
        long,
        env = "KTHINLTO_CACHE_SIZE",
        value_name = "SIZE",
        default_value = "5G",
        global = true
    )]
    #[arg(value_parser = parse_size)]
    pub cache_size: u64,
    /// Take objects from the cache but put none into it: for less trusted jobs
    #[arg(long, env = "KTHINLTO_CACHE_READONLY", value_parser = BoolishValueParser::new())]
    #[arg(global = true)]
    pub cache_readonly: bool,
    /// Take what others may have put into the cache: trusts all who can write there
    #[arg(long, env = "KTHINLTO_CACHE_SHARED", value_parser = BoolishValueParser::new())]
    #[arg(global = true)]
    pub cache_shared: bool,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let remedy = "give a number and K, M, G or T, such as 5G";
    crate::store::cache::parse_size(text).ok_or_else(|| format!("not a size; {remedy}"))
}

fn parse_share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
    let share = number.filter(|share: &f64| (0.0..=100.0).contains(share));
    share.ok_or_else(|| "not a share; give a percentage such as 1%".to_owned())
}

/// Options of `remote`.
#[cfg(feature = "remote")]
#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// What to do
    #[command(subcommand)]
    pub action: RemoteAction,
}

/// What to do with a server.
#[cfg(feature = "remote")]
#[derive(Debug, Subcommand)]
pub enum RemoteAction {
    /// Try the server step by step, and say what works
    Check(RemoteCheck),
}

/// Options of `remote check`.
#[cfg(feature = "remote")]
#[derive(Debug, Args)]
pub struct RemoteCheck {
    /// The server: grpc://HOST:PORT, or grpcs://HOST:PORT for TLS
    #[arg(long, env = "KTHINLTO_REMOTE", value_name = "URL")]
    pub remote: Option<String>,
    /// The compiler that is tried on a worker
    #[arg(long, env = "CC", value_name = "COMMAND", default_value = "clang")]
    pub cc: String,
}

/// What a run shows of itself.
#[derive(Debug, Args)]
pub struct Reports {
    /// Show progress below kbuild's lines: on a terminal that supports it, or never
    #[arg(long, env = "KTHINLTO_PROGRESS", value_name = "WHEN", default_value = "auto")]
    pub progress: When,
    /// Write what ran when, and why, as one HTML page for a browser
    #[arg(long, env = "KTHINLTO_TIMINGS", value_name = "FILE.html")]
    pub timings: Option<PathBuf>,
    /// Write the same as a trace for Perfetto or chrome://tracing
    #[arg(long, env = "KTHINLTO_TRACE", value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
    /// Write the same for programs; docs/json.md describes the format
    #[arg(long, env = "KTHINLTO_JSON", value_name = "FILE.json")]
    pub json: Option<PathBuf>,
}

/// When to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// If standard error is a terminal, except with -q, -s, -n, TERM=dumb or make's -O
    Auto,
    /// Not at all
    Never,
}

/// Options of `build`.
#[derive(Debug, Args)]
pub struct Build {
    /// The archives, in link order: $(KBUILD_VMLINUX_OBJS)
    #[arg(value_name = "ARCHIVE")]
    pub archives: Vec<PathBuf>,
    /// The compiler, clang; by default, the one that the objects' records name
    #[arg(long, env = "CC", value_name = "COMMAND")]
    pub cc: Option<String>,
    /// The linker, LLD
    #[arg(long, env = "LD", value_name = "COMMAND")]
    pub ld: Option<String>,
    /// Flags of the thin link
    #[arg(
        long,
        env = "KBUILD_LDFLAGS",
        value_name = "FLAGS",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub ldflags: String,
    /// The source tree, as seen from the object tree
    #[arg(long, env = "srctree", value_name = "DIR", default_value = ".")]
    pub srctree: PathBuf,
    /// How the stage runs and what it shows
    #[command(flatten)]
    pub stage: StageOptions,
}

/// Options of `modules`.
#[derive(Debug, Args)]
pub struct Modules {
    /// Lists of modules, folders with one, or single modules, as in fs/xfs/xfs.o or fs/xfs/xfs.ko
    #[arg(value_name = "MODULE", default_value = "modules.order")]
    pub modules: Vec<PathBuf>,
    /// Keep a file that changes whenever a module does, for make to look at
    #[arg(long, value_name = "FILE")]
    pub digests: Option<PathBuf>,
    /// The compiler, clang; by default, the one that the objects' records name
    #[arg(long, env = "CC", value_name = "COMMAND")]
    pub cc: Option<String>,
    /// The linker, LLD
    #[arg(long, env = "LD", value_name = "COMMAND")]
    pub ld: Option<String>,
    /// How the stage runs and what it shows
    #[command(flatten)]
    pub stage: StageOptions,
}

/// Options of `relink`.
#[derive(Debug, Args)]
pub struct Relink {
    /// Modules to make instead of vmlinux, as in fs/xfs/xfs.ko
    #[arg(value_name = "MODULE")]
    pub modules: Vec<PathBuf>,
    /// Make all modules of the tree's modules.order instead of vmlinux
    #[arg(long = "modules", conflicts_with = "modules")]
    pub all_modules: bool,
    /// First compile the objects whose sources or headers changed, as make would
    #[arg(long)]
    pub compile: bool,
    /// Stop after the step that makes this file
    #[arg(long, value_name = "STEP")]
    pub until: Option<String>,
    /// The program that lists symbols, if the tree's records do not name it
    #[arg(long, env = "NM", value_name = "COMMAND")]
    pub nm: Option<String>,
    /// The program that makes BTF, in a kernel that has it; by default, pahole
    #[arg(long, env = "PAHOLE", value_name = "COMMAND")]
    pub pahole: Option<String>,
    /// Number of the build; by default, one more than the last
    #[arg(long, env = "KBUILD_BUILD_VERSION", value_name = "NUMBER")]
    pub build_version: Option<String>,
    /// Date of the build; by default, now (also KBUILD_BUILD_TIMESTAMP, or before it
    /// KBUILD_BUILD_VERSION_TIMESTAMP in trees that know that variable)
    #[arg(long, value_name = "DATE")]
    pub build_timestamp: Option<String>,
    /// What links vmlinux: the kernel's script, or kthinlto once it has made the same
    #[arg(long, env = "KTHINLTO_FINAL_LINK", value_name = "HOW", default_value = "auto")]
    pub final_link: FinalLink,
    /// How the stage runs and what it shows
    #[command(flatten)]
    pub stage: StageOptions,
}

/// Who does the final link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FinalLink {
    /// The script, and kthinlto to compare; then kthinlto alone, as long as only objects change
    Auto,
    /// Always scripts/link-vmlinux.sh
    Script,
}

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        &[Choice::Auto, Choice::Process, Choice::ForkServer]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Choice::Auto => (
                "auto",
                "A fork server where it works and there are enough backends, else processes",
            ),
            Choice::Process => ("process", "A process for each backend"),
            Choice::ForkServer => {
                ("fork-server", "A fork server for any number of backends, where it works")
            }
        };
        Some(PossibleValue::new(name).help(help))
    }
}

/// How the stage runs and what it shows: options of all that run it.
#[derive(Debug, Args)]
pub struct StageOptions {
    /// How backends are started: as copies of one clang that is already running, or each separately
    #[arg(long, env = "KTHINLTO_EXECUTOR", value_name = "HOW", default_value = "auto")]
    pub executor: Choice,
    /// Where the thin link writes first: to memory, if there is room, or to the tree
    #[arg(long, env = "KTHINLTO_SCRATCH", value_name = "WHERE", default_value = "memory")]
    pub scratch: Scratch,
    /// Functions that ThinLTO makes global keep their names (LLVM 23.1 or later); without it they are
    /// NAME.llvm.NUMBER
    #[arg(long, env = "KTHINLTO_STABLE_NAMES", value_parser = BoolishValueParser::new())]
    pub stable_names: bool,
    /// Of the objects that were not compiled, make this share again and compare
    #[arg(long, env = "KTHINLTO_VERIFY", value_name = "PERCENT%", value_parser = parse_share)]
    pub verify: Option<f64>,
    /// The shared cache
    #[command(flatten)]
    pub cache: CachePlace,
    /// Where all trees of a user keep digests of compilers and linkers; `no`: nowhere [default:
    /// kthinlto in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, env = "KTHINLTO_TOOL_DIGESTS", value_name = "DIR")]
    pub tool_digests: Option<PathBuf>,
    /// Also run backends on a server of the Remote Execution API, as in grpc://HOST:PORT
    #[cfg(feature = "remote")]
    #[arg(long, env = "KTHINLTO_REMOTE", value_name = "URL")]
    pub remote: Option<String>,
    /// Progress and reports
    #[command(flatten)]
    pub reports: Reports,
}

/// Where the thin link writes its indexes before they are compared and put into place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scratch {
    /// In /dev/shm, if it is in memory and has 512 MiB free; otherwise in the tree
    Memory,
    /// In .kthinlto of the object tree
    Tree,
}

/// Options of `patch`.
#[derive(Debug, Args)]
pub struct Patch {
    /// The kernel's source tree; by default, that of -C
    #[arg(value_name = "TREE", required_unless_present_any = ["list", "directory"])]
    pub tree: Option<PathBuf>,
    /// Only say whether the series applies
    #[arg(long)]
    pub check: bool,
    /// Remove the series again
    #[arg(short = 'R', long)]
    pub reverse: bool,
    /// Also apply (or remove) an optional series; --list names them
    #[arg(long, value_name = "NAME")]
    pub with: Vec<String>,
    /// List the kernel versions that there are series for
    #[arg(long)]
    pub list: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_that_begin_with_a_dash_are_values() {
        let words = ["kthinlto", "build", "--ldflags", "-m elf_x86_64", "built-in.a", "-j3"];
        let cli = Cli::try_parse_from(words).unwrap();
        assert_eq!(cli.common.jobs, Some(3));
        let Command::Build(build) = cli.command else {
            panic!("not build");
        };
        assert_eq!(build.ldflags, "-m elf_x86_64");
        assert!(Cli::try_parse_from(["kthinlto", "build", "-j0", "a.a"]).is_err());
    }
}
