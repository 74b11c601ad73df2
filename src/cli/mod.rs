//! The program: reads the command line and the environment that kbuild exports, calls one
//! phase or the whole stage, and turns the result into an exit code. The only place that
//! reads the environment, of which it hands on a snapshot; holds no rule of any phase.

pub mod args;
mod cache;
mod clean;
mod explain;
mod generate;
mod graph;
mod help;
mod initcalls;
mod link_vmlinux;
mod log;
mod mode;
mod modules;
mod named;
mod parse;
mod patch;
mod relink;
#[cfg(feature = "remote")]
mod remote;
mod reports;
mod start;
mod symvers;
mod verify;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;

use crate::error::Error;
use crate::exec::interrupt::Interrupts;
use crate::exec::signals;
use crate::exec::slots::{Slot, Slots};
use crate::kbuild::makeflags::MakeFlags;
use crate::modpost;
use crate::report::console::Verbosity;
use crate::report::plain::plain;
use crate::stage::{self, Settings};
use crate::store::cache::Place;
use args::{Build, CachePlace, Cli, Command, Common};
use mode::Mode;

/// Runs the program on this process's arguments.
pub fn main() -> ExitCode {
    let cli = match parse::parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let good = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if good { 0 } else { 2 });
        }
    };
    let ready = log::start().map_err(anyhow::Error::from);
    let ready = ready.and_then(|()| signals::heed_children().context("cannot wait for children"));
    match ready.and_then(|()| run(&cli)) {
        Ok(code) => code,
        Err(error) => {
            let ours = error.downcast_ref::<Error>();
            // Our own sentences hold their causes already.
            let text = ours.map_or_else(|| format!("{error:#}"), Error::to_string);
            let _ = writeln!(io::stderr(), "kthinlto: {}", plain(&text));
            ExitCode::from(ours.map_or(1, Error::exit_code))
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let mode = Mode::of(&cli.common, &make_flags().unwrap_or_default());
    let dry_run = mode.is_dry();
    match &cli.command {
        Command::Build(build) => return run_build(&cli.common, build),
        Command::Modules(modules) => return modules::run(&cli.common, modules),
        Command::Relink(relink) => return relink::run(&cli.common, relink),
        Command::Symvers(symvers) => return run_symvers(&cli.common, symvers, mode),
        Command::Initcalls(initcalls) => return run_initcalls(&cli.common, initcalls, mode),
        Command::Patch(patch) => patch::run(&cli.common, patch, dry_run),
        Command::Explain(explain) => explain::run(&tree(&cli.common), explain),
        Command::Verify(arguments) => verify::run(&cli.common, arguments, dry_run),
        Command::Graph(arguments) => {
            let held = threads(&cli.common);
            graph::run(&tree(&cli.common), arguments, held.len().max(1))
        }
        Command::Cache(cache) => cache::run(cache, dry_run),
        #[cfg(feature = "remote")]
        Command::Remote(remote) => return remote::run(remote, dry_run),
        Command::LinkVmlinux(arguments) => Ok(link_vmlinux::run(arguments)?),
        Command::Generate(generate) => Ok(generate::run(generate, dry_run)?),
        Command::Clean => clean::clean(&tree(&cli.common), dry_run),
    }?;
    Ok(ExitCode::SUCCESS)
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

fn run_build(common: &Common, build: &Build) -> anyhow::Result<ExitCode> {
    let mut start = start::start("build", common, &build.stage)?;
    let base = start.settings(build.stage.executor, (&build.cc, &build.ld));
    let settings = Settings {
        srctree: build.srctree.clone(),
        archives: build.archives.clone(),
        linker_flags: build.ldflags.clone(),
        ..base
    };
    let interrupts = Interrupts::catch().context("cannot catch signals")?;
    let result = stage::build(&settings, &start.slots, &interrupts, &mut start.shown);
    if result.is_ok() && make_flags().is_some() && !settings.dry_run {
        crate::relink::note_made(&settings.tree, false);
    }
    Ok(start.finish(result, crate::unit::ARCHIVE)?)
}

/// The cache; an empty name is none.
fn place(cache: &CachePlace) -> Option<Place> {
    let folder = cache.cache_dir.clone().filter(|folder| !folder.as_os_str().is_empty())?;
    let (limit, readonly, shared) = (cache.cache_size, cache.cache_readonly, cache.cache_shared);
    Some(Place { folder, limit, readonly, shared })
}

fn run_symvers(common: &Common, arguments: &args::Symvers, mode: Mode) -> anyhow::Result<ExitCode> {
    let make = make_flags().unwrap_or_default();
    let held = threads(common);
    let settings = modpost::Settings {
        tree: tree(common),
        srctree: arguments.srctree.clone(),
        modules: arguments.modules,
        archives: arguments.archives.clone(),
        threads: held.len().max(1),
    };
    symvers::run(&settings, arguments, verbosity(common, &make), mode)
}

fn run_initcalls(
    common: &Common,
    arguments: &args::Initcalls,
    mode: Mode,
) -> anyhow::Result<ExitCode> {
    let make = make_flags();
    let flags = make.clone().unwrap_or_default();
    let verbosity = verbosity(common, &flags);
    // No warning where the jobserver is out of reach: one thread is quick enough.
    let slots = Slots::granted(make.as_ref(), common.jobs.map(usize::from), stage::cores()).slots;
    initcalls::run(&tree(common), arguments, &slots, verbosity, mode)
}

/// Slots for threads that read, as many as are free now. No warning where the jobserver is out of
/// reach: one thread is quick enough.
fn threads(common: &Common) -> Vec<Slot> {
    let make = make_flags();
    let granted = Slots::granted(make.as_ref(), common.jobs.map(usize::from), stage::cores());
    granted.slots.try_acquire_up_to(common.jobs.map_or_else(stage::cores, usize::from))
}

/// An empty variable is an unset one, as in make.
fn given(value: &Option<String>) -> Option<String> {
    value.clone().filter(|value| !value.trim().is_empty())
}

/// A line for the user. Nobody may be reading any more, which is no failure of ours.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{}", plain(line));
}

/// A warning for the user.
fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "kthinlto: warning: {}", plain(text));
}

/// What a command was asked to write to standard output: all of it, or an error; but for a
/// reader that has enough of it, such as `head`.
fn print(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("write", "standard output", e))
        }
        _ => Ok(()),
    }
}
