//! The program: reads the command line and the environment that kbuild exports, calls one
//! phase or the whole stage, and turns the result into an exit code. The only place that
//! reads the environment's settings; holds no rule of any phase.

pub mod args;
mod clean;
mod explain;
mod generate;
mod graph;
mod help;
mod initcalls;
mod link_vmlinux;
mod relink;
mod reports;
mod start;
mod symvers;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use clap::error::ErrorKind;

use crate::error::Error;
use crate::exec::interrupt::Interrupts;
use crate::exec::slots::Slots;
use crate::kbuild::makeflags::MakeFlags;
use crate::kbuild::patches::{self, State};
use crate::modpost;
use crate::report::console::{Console, Verbosity};
use crate::stage::{self, Settings};
use crate::store::cache::Cache;
use args::{Build, CacheAction, CacheArgs, CachePlace, Cli, Command, Common, Patch};

/// Runs the program on this process's arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let good = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if good { 0 } else { 2 });
        }
    };
    log_to_stderr();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let ours = error.downcast_ref::<Error>();
            // Our own sentences hold their causes already.
            let text = ours.map_or_else(|| format!("{error:#}"), Error::to_string);
            let _ = writeln!(std::io::stderr(), "kthinlto: {text}");
            ExitCode::from(ours.map_or(1, Error::exit_code))
        }
    }
}

/// What is for developers goes to standard error, as much as `KTHINLTO_LOG` asks for.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("KTHINLTO_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .init();
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Build(build) => run_build(&cli.common, build),
        Command::Relink(relink) => relink::run(&cli.common, relink),
        Command::Patch(patch) => run_patch(&cli.common, patch),
        Command::Explain(explain) => explain::run(&tree(&cli.common), explain),
        Command::Graph(arguments) => {
            let threads = cli.common.jobs.map_or_else(stage::cores, usize::from);
            graph::run(&tree(&cli.common), arguments, threads)
        }
        Command::Symvers(symvers) => run_symvers(&cli.common, symvers),
        Command::Initcalls(initcalls) => run_initcalls(&cli.common, initcalls),
        Command::Cache(cache) => run_cache(cache),
        Command::LinkVmlinux(arguments) => Ok(link_vmlinux::run(arguments)?),
        Command::Generate(generate) => Ok(generate::run(generate)?),
        Command::Clean => clean::clean(&tree(&cli.common), cli.common.dry_run),
    }
}

fn tree(common: &Common) -> PathBuf {
    common.directory.clone().unwrap_or_else(|| PathBuf::from("."))
}

/// `MAKEFLAGS`, if a make started us.
fn make_flags() -> Option<MakeFlags> {
    let flags = std::env::var("MAKEFLAGS").ok();
    let started = flags.is_some() || std::env::var_os("MAKELEVEL").is_some();
    started.then(|| MakeFlags::parse(flags.as_deref().unwrap_or_default()))
}

fn verbosity(common: &Common, make: &MakeFlags) -> Verbosity {
    let kbuild = std::env::var("KBUILD_VERBOSE").unwrap_or_default();
    let asked = Verbosity::from_kbuild(&kbuild);
    // Kbuild's own sign of -s: it exports `quiet=silent_`.
    let kbuild_silent = std::env::var("quiet").is_ok_and(|quiet| quiet == "silent_");
    Verbosity {
        silent: common.quiet || make.silent || kbuild_silent,
        // As `make -n`: what is not run is shown in full.
        commands: asked.commands || common.verbose > 0 || common.dry_run || make.dry_run,
        reasons: asked.reasons || common.verbose > 1,
    }
}

fn run_build(common: &Common, build: &Build) -> anyhow::Result<()> {
    let mut start = start::start("build", common, &build.stage)?;
    let settings = Settings {
        tree: start.tree,
        srctree: build.srctree.clone(),
        archives: build.archives.clone(),
        compiler: given(&build.cc),
        linker: given(&build.ld),
        linker_flags: build.ldflags.clone(),
        dry_run: start.dry_run,
        keep_going: start.keep_going,
        executor: build.stage.executor,
        scratch_in_memory: start.scratch_in_memory,
        cache: start.cache,
    };
    let interrupts = Interrupts::catch().context("cannot catch signals")?;
    let result = stage::build(&settings, &start.slots, &interrupts, &mut start.shown);
    start.shown.finish(result)?;
    Ok(())
}

/// The cache's folder; an empty name is none.
fn place(cache: &CachePlace) -> Option<PathBuf> {
    cache.cache_dir.clone().filter(|folder| !folder.as_os_str().is_empty())
}

fn run_cache(arguments: &CacheArgs) -> anyhow::Result<()> {
    let folder = place(&arguments.place).ok_or_else(|| {
        Error::Usage("no cache is named; set KTHINLTO_CACHE_DIR, or give --cache-dir".to_owned())
    })?;
    let limit = arguments.place.cache_size;
    let mut cache = Cache::open(&folder, limit)?;
    let stats = match arguments.action {
        CacheAction::Stats => cache.stats()?,
        CacheAction::Prune => cache.prune()?,
        CacheAction::Clear => {
            cache.clear()?;
            cache.stats()?
        }
    };
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    say(&format!(
        "{}: {} objects, {:.1} MiB of {:.1} MiB",
        folder.display(),
        stats.entries,
        mebibytes(stats.bytes),
        mebibytes(limit)
    ));
    Ok(())
}

fn run_symvers(common: &Common, arguments: &args::Symvers) -> anyhow::Result<()> {
    let make = make_flags().unwrap_or_default();
    let settings = modpost::Settings {
        tree: tree(common),
        srctree: arguments.srctree.clone(),
        modules: arguments.modules,
        archives: arguments.archives.clone(),
        threads: common.jobs.map_or_else(stage::cores, usize::from),
    };
    let dry_run = common.dry_run || make.dry_run;
    symvers::run(&settings, arguments, verbosity(common, &make), dry_run)
}

fn run_initcalls(common: &Common, arguments: &args::Initcalls) -> anyhow::Result<()> {
    let make = make_flags();
    let flags = make.clone().unwrap_or_default();
    let mut console = Console::new(verbosity(common, &flags));
    // No warning where the jobserver is out of reach: one thread is quick enough.
    let slots = Slots::granted(make.as_ref(), common.jobs.map(usize::from), stage::cores()).slots;
    let dry_run = common.dry_run || flags.dry_run;
    initcalls::run(&tree(common), arguments, &slots, &mut console, dry_run)
}

/// An empty variable is an unset one, as in make.
fn given(value: &Option<String>) -> Option<String> {
    value.clone().filter(|value| !value.trim().is_empty())
}

/// A line for the user. Nobody may be reading any more, which is no failure of ours.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn run_patch(common: &Common, patch: &Patch) -> anyhow::Result<()> {
    if patch.list {
        for series in patches::all() {
            say(&format!("Linux {}: {} patches", series.version, series.patches.len()));
        }
        patches::options().iter().for_each(|name| say(&format!("optional: --with {name}")));
    }
    let Some(tree) = &patch.tree else {
        return Ok(());
    };
    let own = patches::for_tree(tree)?;
    let named = patch.with.iter().map(|name| patches::optional(name, &own.version));
    let named = named.collect::<Result<Vec<_>, Error>>()?;
    let mut states = Vec::new();
    for series in std::iter::once(own).chain(named) {
        states.push((patches::check(tree, &series)?, series));
    }
    // All of them fit: only now is anything changed.
    for (state, series) in states {
        patch_one(tree, patch, &series, state, patch.check || common.dry_run)?;
    }
    Ok(())
}

fn patch_one(
    tree: &Path,
    patch: &Patch,
    series: &patches::Series,
    state: State,
    only_look: bool,
) -> anyhow::Result<()> {
    let (shown, count) = (tree.display(), series.patches.len());
    match (state, patch.reverse) {
        (State::Applied, false) => say(&format!("{shown} has the series for {series} already")),
        (State::Applies, true) => say(&format!("{shown} has no patch of ours for {series}")),
        (State::Applies, false) if only_look => {
            say(&format!("all {count} patches for {series} apply to {shown}"));
        }
        (State::Applied, true) if only_look => {
            say(&format!("all {count} patches for {series} can be taken out of {shown}"));
        }
        (State::Applies, false) => report("applied", series, patches::apply(tree, series)?),
        (State::Applied, true) => report("took out", series, patches::revert(tree, series)?),
    }
    Ok(())
}

fn report(done: &str, series: &patches::Series, changed: Vec<PathBuf>) {
    for (name, _) in &series.patches {
        say(&format!("{done} {name}"));
    }
    for file in changed {
        say(&format!("changed {}", file.display()));
    }
}
