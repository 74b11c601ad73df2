//! The stage from archives to `vmlinux.a`, and the same for other units: calls each phase in pipeline order and hands
//! plain data from one to the next. Knows the phases; holds no rule of theirs.
//!
//! ```
//! use kthinlto::environment::Environment;
//! use kthinlto::error::Error;
//! use kthinlto::exec::{executor::Choice, interrupt::Interrupts, slots::Slots};
//! use kthinlto::report::console::{Console, Verbosity};
//! use kthinlto::stage::{Settings, build};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings {
//!     tree: "/nowhere/obj".into(),
//!     srctree: "/nowhere/linux".into(),
//!     archives: vec!["built-in.a".into(), "lib/lib.a".into()],
//!     units: Vec::new(),
//!     modules: Vec::new(),
//!     module_digests: None,
//!     compiler: Some("clang".into()),
//!     linker: Some("ld.lld".into()),
//!     linker_flags: "-m elf_x86_64".into(),
//!     stable_names: false,
//!     dry_run: false,
//!     keep_going: false,
//!     executor: Choice::Auto,
//!     scratch_in_memory: true,
//!     verify: 0.0,
//!     cache: None,
//!     tool_digests: None,
//!     engine: None,
//!     environment: Environment::of_process(),
//! };
//! let mut console = Console::new(Verbosity::default());
//! match build(&settings, &Slots::local(8), &Interrupts::catch()?, &mut console) {
//!     Ok(summary) => println!("{} of {} compiled", summary.rebuilt, summary.modules),
//!     Err(error @ Error::BadInput { .. }) => assert_eq!(error.exit_code(), 3), // no such tree
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(()) }
//! ```

mod archives;
mod backends;
mod cached;
mod cached_links;
mod choose_executor;
pub mod explain;
pub mod graph;
mod links;
mod members;
pub(crate) mod modules;
mod objects;
pub mod promoted;
mod queue;
mod repeat;
mod schedule;
mod session;
mod skip_driver;
mod units;
pub mod verify;
mod written;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::backend::flags;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::exec::executor::{Choice, Executor, MakeEngine};
use crate::exec::interrupt::Interrupts;
use crate::exec::slots::{Slot, Slots};
use crate::kbuild::{cmd_file, ld_flags};
use crate::regular;
use crate::report::{Event, Listener, Summary};
use crate::store::cache::Place;
use crate::store::{Indexed, SettingsRecord, Store};
use crate::unit::{ARCHIVE, INDEXED, Part, Unit, VMLINUX};
use backends::Backends;
use queue::{Ended, Ran, UnitRun};
use repeat::Repeat;
use session::Session;

/// What a stage is to do, all of it resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The object tree.
    pub tree: PathBuf,
    /// The source tree (`srctree`), relative to the object tree or absolute.
    pub srctree: PathBuf,
    /// `built-in.a`, `lib/lib.a`, …: what the kernel is linked from.
    pub archives: Vec<PathBuf>,
    /// Units besides the kernel; without archives, in its place.
    pub units: Vec<Unit>,
    /// Loadable modules, as further units: lists of them (`modules.order`), or their objects or `.ko` files,
    /// of which make recorded how they are linked.
    pub modules: Vec<PathBuf>,
    /// Where the digests of the modules' objects and of their parts' records go, if they are wanted: a
    /// file that changes exactly when a module does.
    pub module_digests: Option<PathBuf>,
    /// `CC`; `None` takes the compiler from the front end's records.
    pub compiler: Option<String>,
    /// `LD`.
    pub linker: Option<String>,
    /// `KBUILD_LDFLAGS`.
    pub linker_flags: String,
    /// Functions that ThinLTO makes global keep their names: needs LLVM 23.1 or later.
    pub stable_names: bool,
    /// `-n`: say what would be done.
    pub dry_run: bool,
    /// `-k`: go on after a failed backend.
    pub keep_going: bool,
    /// How backends become processes.
    pub executor: Choice,
    /// The thin link may write in memory first; else it writes in the tree.
    pub scratch_in_memory: bool,
    /// Share of the objects that are not compiled, in percent, whose backends run again to compare.
    pub verify: f64,
    /// The shared cache, if one is to be used.
    pub cache: Option<Place>,
    /// A folder in which all trees of the user keep the digests of large files outside of them
    /// ([`crate::store::user`]), such as compilers.
    pub tool_digests: Option<PathBuf>,
    /// Other machines that run backends beside this one, and keep their results, if there are any.
    pub engine: Option<Arc<dyn MakeEngine>>,
    /// Where variables are looked up: `PATH`, and those that compilers and the dynamic loader read.
    /// The programs that are run inherit the environment of the process.
    pub environment: Environment,
}

impl Settings {
    /// The part that later commands want to know.
    fn record(&self) -> SettingsRecord {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let named = |compiler: &String| match self.stable_names {
            true if !keeps_names(compiler) => ld_flags::with_kept_names(compiler),
            _ => compiler.clone(),
        };
        SettingsRecord {
            archives: self.archives.iter().map(text).collect(),
            srctree: text(&self.srctree),
            compiler: self.compiler.as_ref().map(named),
            linker: self.linker.clone(),
            linker_flags: self.linker_flags.clone(),
        }
    }
}

/// Runs the stage.
///
/// Writes `built-in-fixup.a`, `builtin.order`, `vmlinux.thinlto-index`, an index, a native object
/// and a `.cmd` file beside each indexed object, and `vmlinux.a`, each only where it is not right
/// already.
///
/// # Errors
/// Where a setting, a tool or an input cannot be used, the thin link or a backend fails, a file
/// cannot be read or written, or a signal asks us to stop. No output is half-written then, and
/// `vmlinux.a` is the old one.
pub fn build(
    settings: &Settings,
    slots: &Slots,
    interrupts: &Interrupts,
    listener: &mut dyn Listener,
) -> Result<Summary> {
    run(settings, None, slots, interrupts, listener).map(|(_, summary)| summary)
}

/// Runs the stage as [`build`] does, with thin links and backends started by this executor, whatever
/// [`Settings::executor`] says. What is run to verify objects ([`Settings::verify`]) is run here all the
/// same, as plain processes.
///
/// # Errors
/// As [`build`], and what the executor cannot start.
pub fn build_by(
    executor: Box<dyn Executor>,
    settings: &Settings,
    slots: &Slots,
    interrupts: &Interrupts,
    listener: &mut dyn Listener,
) -> Result<Summary> {
    run(settings, Some(executor), slots, interrupts, listener).map(|(_, summary)| summary)
}

/// Runs the stage as [`build`] does, and hands on the state of the tree, still locked, for steps
/// that follow.
///
/// # Errors
/// As [`build`].
pub fn build_keeping_store(
    settings: &Settings,
    slots: &Slots,
    interrupts: &Interrupts,
    listener: &mut dyn Listener,
) -> Result<(Store, Summary)> {
    let (store, summary) = run(settings, None, slots, interrupts, listener)?;
    Ok(match store {
        Some(store) => (store, summary),
        None => (open(settings)?, summary),
    })
}

/// The objects of the modules that are named, in lists or by themselves ([`Settings::modules`]).
///
/// # Errors
/// Where a list cannot be read, or a name is no module's.
pub fn module_objects(tree: &Path, names: &[PathBuf]) -> Result<Vec<String>> {
    units::modules(tree, names, &mut |_| ())
}

fn open(settings: &Settings) -> Result<Store> {
    let store = match settings.dry_run {
        true => Store::peek(&settings.tree),
        false => Store::open(&settings.tree),
    }?;
    Ok(store.with_digests(settings.tool_digests.as_deref()))
}

/// No store comes back where a snapshot of the last run was enough.
fn run(
    settings: &Settings,
    executor: Option<Box<dyn Executor>>,
    slots: &Slots,
    interrupts: &Interrupts,
    listener: &mut dyn Listener,
) -> Result<(Option<Store>, Summary)> {
    let started = Instant::now();
    let mut repeat = Repeat::new(settings);
    // Threads that read files run on slots too; these are free now, or they are not taken.
    let held = slots.try_acquire_up_to(cores());
    let threads = held.len().max(1);
    if !listener.wants_modules()
        && settings.verify == 0.0
        && let Some(mut summary) = repeat.find(settings, threads)
    {
        summary.time = started.elapsed();
        if is_worth_telling(settings, &summary) {
            listener.on(&Event::Done(&summary));
        }
        return Ok((None, summary));
    }
    listener.on(&Event::Phase("members"));
    let units::Found { units, modules } = units::of(settings, &mut repeat)?;
    let store = open(settings)?;
    store.warnings().iter().for_each(|text| listener.on(&Event::Warning(text)));
    let mut session = Session {
        settings,
        slots,
        interrupts,
        listener,
        store,
        executor,
        repeatable: true,
        times: None,
    };
    let parts = modules::parts(&modules, &units);
    modules::forget_if_others_wrote(&session, &parts)?;
    if let Some(file) = &settings.module_digests {
        repeat.watch.look(&settings.tree.join(file));
    }
    let result = run_units(&mut session, units, held);
    let result = result.and_then(|summary| {
        modules::write_digests(&session, &parts)?;
        Ok(summary)
    });
    let flushed = session.store.flush();
    let mut summary = result?;
    flushed?;
    summary.time = started.elapsed();
    if !settings.dry_run && session.repeatable {
        repeat.write(settings, &session.store, &summary);
    }
    if !settings.dry_run && is_worth_telling(settings, &summary) {
        session.listener.on(&Event::Done(&summary));
    }
    Ok((Some(session.store), summary))
}

/// Make calls for modules also where there are none, or where a part was named.
fn is_worth_telling(settings: &Settings, summary: &Summary) -> bool {
    settings.modules.is_empty() || summary.modules > 0
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn run_units(session: &mut Session<'_>, units: Vec<Unit>, held: Vec<Slot>) -> Result<Summary> {
    let threads = held.len().max(1);
    let settings = session.settings;
    let (units, symbols) = members::look_at_units(&session.store, settings, units, threads)?;
    if !settings.archives.is_empty() {
        session.store.set_settings(settings.record())?;
    }
    session.check_interrupt()?;
    session.phase("archive");
    for one in &units {
        archives::write_order(session, &one.unit, &one.members, &symbols, threads)?;
    }
    drop(held);
    let Ended { units, modules, ran, backends, error } = queue::run(session, units)?;
    let mut summary = Summary { modules: modules.len(), linked: ran.linked, ..Summary::default() };
    (summary.rebuilt, summary.from_cache) = (ran.rebuilt.len(), ran.from_cache);
    summary.rebuilt_remotely = ran.rebuilt_remotely;
    summary.from_remote_cache = ran.from_remote_cache;
    summary.up_to_date = (summary.modules - summary.from_cache).saturating_sub(summary.rebuilt);
    if settings.verify > 0.0 && !settings.dry_run && error.is_none() {
        let left = modules.iter().filter(|module| !ran.rebuilt.contains(&module.part));
        let left = left.collect();
        backends.map_or(Ok(()), |backends| verify_share(session, &backends, left))?;
    }
    write_archives(session, &units, &modules, &ran)?;
    error.map_or(Ok(summary), Err)
}

/// Writes the archives of the units that have all their native objects.
fn write_archives(
    session: &mut Session<'_>,
    units: &[UnitRun],
    modules: &[Indexed],
    ran: &Ran,
) -> Result<()> {
    let mut phase = Some(match units.first().is_some_and(|one| one.unit.name == VMLINUX) {
        true => ARCHIVE,
        false => "archives",
    });
    for one in units.iter().filter(|one| one.unit.link.is_none()) {
        let Some(indexed) = one.finished(modules) else {
            continue;
        };
        if let Some(phase) = phase.take() {
            session.phase(phase);
        }
        let held = session.slots.try_acquire_up_to(cores());
        let changed = indexed.iter().any(|module| ran.rebuilt.contains(&module.part));
        let how = (changed, held.len().max(1));
        archives::write_archive(session, &one.unit, &one.members, indexed, how)?;
    }
    Ok(())
}

/// Makes a share of these again, aside, and fails where one is not what it should be.
fn verify_share(
    session: &mut Session<'_>,
    backends: &Backends,
    modules: Vec<&Indexed>,
) -> Result<()> {
    session.phase("verify");
    let count = (modules.len() as f64 * session.settings.verify / 100.0).ceil();
    let chosen = verify::sample(modules, count as usize);
    let (tree, compiler) = (&session.settings.tree, &backends.compiler);
    let subject = verify::Subject { tree, store: &session.store, compiler };
    let with = (session.slots, session.interrupts);
    let found = verify::compare(&subject, &backends.common, &chosen, None, with, session.listener)?;
    let text = format!("{} objects were made again and compared", found.compared);
    session.listener.on(&Event::Note(&text));
    let verify::Verified { differing, compared, .. } = found;
    if differing > 0 { Err(Error::Verify { differing, compared }) } else { Ok(()) }
}

/// The compiler that was asked for, or the one that made the first object; with the flag that keeps names, where
/// they are to be kept and the object's own flags do not say so.
fn compiler(settings: &Settings, first: &str) -> Result<String> {
    let command = match &settings.compiler {
        Some(command) => command.clone(),
        None => flags::recorded_compiler(&settings.tree, first)?,
    };
    let is_said = || [&command, &record(settings, first)].iter().any(|text| keeps_names(text));
    Ok(match settings.stable_names && !is_said() {
        true => ld_flags::with_kept_names(&command),
        false => command,
    })
}

/// The record of an object, if there is one.
fn record(settings: &Settings, object: &str) -> String {
    let path = settings.tree.join(cmd_file::path_for(Path::new(object)));
    regular::read_to_string(&path).unwrap_or_default()
}

/// Whether the tree's native objects were made with the flag, by the record of the first one.
pub(crate) fn kept_names(tree: &Path) -> bool {
    let listed = regular::read_to_string(&tree.join(INDEXED)).unwrap_or_default();
    let first = listed.split_whitespace().next().unwrap_or_default();
    let native = Part::of_vmlinux(first).native();
    let record = regular::read_to_string(&tree.join(cmd_file::path_for(Path::new(&native))));
    record.is_ok_and(|record| keeps_names(&record))
}

/// Whether a command has the flag.
fn keeps_names(command: &str) -> bool {
    command.contains(ld_flags::KEPT_NAMES)
}
