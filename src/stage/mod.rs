//! The stage from archives to `vmlinux.a`: calls each phase in pipeline order and hands
//! plain data from one to the next. Knows the phases; holds no rule of theirs.
//!
//! ```
//! use kthinlto::error::Error;
//! use kthinlto::exec::{executor::Choice, interrupt::Interrupts, slots::Slots};
//! use kthinlto::report::console::{Console, Verbosity};
//! use kthinlto::stage::{Settings, build};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings {
//!     tree: "/nowhere/obj".into(),
//!     srctree: "/nowhere/linux".into(),
//!     archives: vec!["built-in.a".into(), "lib/lib.a".into()],
//!     compiler: Some("clang".into()),
//!     linker: Some("ld.lld".into()),
//!     linker_flags: "-m elf_x86_64".into(),
//!     dry_run: false,
//!     keep_going: false,
//!     executor: Choice::Auto,
//!     scratch_in_memory: true,
//!     verify: 0.0,
//!     cache: None,
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
mod cc1;
mod executor;
pub mod explain;
pub mod graph;
mod link;
mod members;
mod repeat;
mod schedule;
pub mod verify;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::backend::flags;
use crate::backend::inputs::Common;
use crate::error::{Error, Result};
use crate::exec::executor::Choice;
use crate::exec::interrupt::Interrupts;
use crate::exec::run::Runner;
use crate::exec::slots::Slots;
use crate::format::Format;
use crate::plan::{self, Planned};
use crate::report::{Backend, Event, Listener, Summary};
use crate::store::cache::Place;
use crate::store::{Indexed, SettingsRecord, Store};
use crate::toolchain::{self, Role, Tool};
use backends::Ran;
use repeat::Repeat;

pub use archives::VMLINUX;

/// What a stage is to do, all of it resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The object tree.
    pub tree: PathBuf,
    /// The source tree (`srctree`), relative to the object tree or absolute.
    pub srctree: PathBuf,
    /// `built-in.a`, `lib/lib.a`, …
    pub archives: Vec<PathBuf>,
    /// `CC`; `None` takes the compiler from the front end's records.
    pub compiler: Option<String>,
    /// `LD`.
    pub linker: Option<String>,
    /// `KBUILD_LDFLAGS`.
    pub linker_flags: String,
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
}

impl Settings {
    /// The part that later commands want to know.
    fn record(&self) -> SettingsRecord {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        SettingsRecord {
            archives: self.archives.iter().map(text).collect(),
            srctree: text(&self.srctree),
            compiler: self.compiler.clone(),
            linker: self.linker.clone(),
            linker_flags: self.linker_flags.clone(),
        }
    }
}

/// One run of the stage.
pub struct Stage<'a> {
    settings: &'a Settings,
    slots: &'a Slots,
    interrupts: &'a Interrupts,
    listener: &'a mut dyn Listener,
    store: Store,
    threads: usize,
    /// What was looked at decides which programs run.
    settled: bool,
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
    run(settings, slots, interrupts, listener).map(|(_, summary)| summary)
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
    let (store, summary) = run(settings, slots, interrupts, listener)?;
    Ok(match store {
        Some(store) => (store, summary),
        None => (open(settings)?, summary),
    })
}

fn open(settings: &Settings) -> Result<Store> {
    match settings.dry_run {
        true => Store::peek(&settings.tree),
        false => Store::open(&settings.tree),
    }
}

/// No store comes back where a snapshot of the last run was enough.
fn run(
    settings: &Settings,
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
        && let Some(mut summary) = repeat.answer(settings, threads)
    {
        summary.time = started.elapsed();
        listener.on(&Event::Done(&summary));
        return Ok((None, summary));
    }
    listener.on(&Event::Phase("members"));
    repeat.look(&settings.tree);
    let names = archives::member_names(settings, &mut repeat.watch)?;
    let store = open(settings)?;
    store.warnings().iter().for_each(|text| listener.on(&Event::Warning(text)));
    let mut stage = Stage { settings, slots, interrupts, listener, store, threads, settled: true };
    let result = stage.run(names, held);
    let flushed = stage.store.flush();
    let mut summary = result?;
    flushed?;
    summary.time = started.elapsed();
    if !settings.dry_run && stage.settled {
        repeat.leave(&stage.store, &summary);
    }
    if !settings.dry_run {
        stage.listener.on(&Event::Done(&summary));
    }
    Ok((Some(stage.store), summary))
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Stage<'_> {
    fn run(&mut self, names: Vec<String>, held: Vec<crate::exec::slots::Slot>) -> Result<Summary> {
        let (members, symbols) = members::look(&self.store, self.settings, names, self.threads)?;
        self.store.set_settings(self.settings.record())?;
        self.check_interrupt()?;
        self.phase("archive");
        self.write_order(&members, symbols)?;
        drop(held);
        let bitcode = members.iter().any(|(_, facts)| facts.format == Format::Bitcode);
        self.phase("thin link");
        let (indexed, linked) = match bitcode {
            true => self.thin_link(&members)?,
            false => {
                let text = "no member of the archives is bitcode; was the kernel built with \
                            CONFIG_LTO_CLANG_THIN_DIST and clang?";
                self.listener.on(&Event::Warning(text));
                (Some(Vec::new()), false)
            }
        };
        let Some(indexed) = indexed else {
            return Ok(Summary::default()); // a dry run that ends at the thin link
        };
        let mut summary = Summary { modules: indexed.len(), linked, ..Summary::default() };
        let Ran { rebuilt, from_cache } = self.compile(&indexed)?;
        (summary.rebuilt, summary.from_cache) = (rebuilt.len(), from_cache);
        summary.up_to_date = summary.modules - rebuilt.len() - from_cache;
        self.phase(VMLINUX);
        self.write_vmlinux(&members, &indexed, summary.rebuilt > 0)?;
        Ok(summary)
    }

    /// Tells the listener that a phase begins.
    fn phase(&mut self, name: &'static str) {
        self.listener.on(&Event::Phase(name));
    }

    /// Tells the listener what has to be made.
    fn announce_plan(&mut self, modules: &[Indexed], planned: &[Planned]) {
        let cost = |object| self.store.backend(object).and_then(|record| record.cost);
        let backends = planned.iter().map(|one| Backend {
            object: &one.object,
            size: one.size,
            due: &one.due,
            expected: cost(&one.object).map(|cost| Duration::from_millis(cost.wall.into())),
        });
        let backends: Vec<Backend<'_>> = backends.collect();
        self.listener.on(&Event::Planned { modules, backends: &backends });
    }

    /// Plans and runs the backends.
    fn compile(&mut self, indexed: &[Indexed]) -> Result<Ran> {
        let Some(first) = indexed.first() else {
            return Ok(Ran::default());
        };
        self.phase("plan");
        let command = compiler(self.settings, &first.object)?;
        let Some(compiler) = tool(self.settings, Role::Compiler, &command, &mut self.store)? else {
            let text = format!(
                "a dry run starts no compiler, and no build here has met `{command}`: it cannot \
                 tell which backends would run"
            );
            self.listener.on(&Event::Warning(&text));
            let rebuilt = indexed.iter().map(|module| module.object.clone()).collect();
            return Ok(Ran { rebuilt, from_cache: 0 });
        };
        self.note_tool(Role::Compiler, &compiler);
        let common = Common::new(&compiler, &self.settings.tree);
        let held = self.slots.try_acquire_up_to(cores());
        self.threads = held.len().max(1);
        let planned = plan::plan(&self.store, &common, indexed, self.threads)?;
        drop(held);
        self.check_interrupt()?;
        self.announce_plan(indexed, &planned);
        let ran = self.run_backends(&compiler, &common, planned)?;
        if self.settings.verify > 0.0 && !self.settings.dry_run {
            let left = indexed.iter().filter(|module| !ran.rebuilt.contains(&module.object));
            self.verify(&compiler, &common, left.collect())?;
        }
        Ok(ran)
    }

    /// Makes a share of these again, aside, and fails where one is not what it should be.
    fn verify(&mut self, compiler: &Tool, common: &Common, modules: Vec<&Indexed>) -> Result<()> {
        self.phase("verify");
        let count = (modules.len() as f64 * self.settings.verify / 100.0).ceil();
        let chosen = verify::sample(modules, count as usize);
        let subject = verify::Subject { tree: &self.settings.tree, store: &self.store, compiler };
        let with = (self.slots, self.interrupts);
        let found = verify::compare(&subject, common, &chosen, None, with, self.listener)?;
        let text = format!("{} objects were made again and compared", found.compared);
        self.listener.on(&Event::Note(&text));
        let verify::Verified { differing, compared, .. } = found;
        if differing > 0 { Err(Error::Verify { differing, compared }) } else { Ok(()) }
    }

    /// Takes down whether a tool's answer can be kept, and says what follows where it cannot be
    /// told which program runs.
    fn note_tool(&mut self, role: Role, tool: &Tool) {
        self.settled &= tool.settled;
        let Some(why) = &tool.opaque else {
            return;
        };
        let (name, text, product) = (role.variable(), &tool.text, role.product());
        let so = match role {
            Role::Compiler => {
                "every module is compiled each time, and none is taken from or given to the \
                 shared cache"
            }
            Role::Linker => "the thin link is made each time",
        };
        let text = format!(
            "cannot tell which program {name} `{text}` runs: {why}; {so}; name {product} itself \
             with {name}="
        );
        self.listener.on(&Event::Warning(&text));
    }

    fn runner(&self) -> Runner<'_> {
        Runner {
            slots: self.slots,
            interrupts: self.interrupts,
            keep_going: self.settings.keep_going,
        }
    }

    fn check_interrupt(&self) -> Result<()> {
        self.interrupts.signal().map_or(Ok(()), |signal| Err(Error::Interrupted(signal)))
    }
}

/// The compiler that was asked for, or the one that made the first object.
fn compiler(settings: &Settings, first: &str) -> Result<String> {
    match &settings.compiler {
        Some(command) => Ok(command.clone()),
        None => flags::recorded_compiler(&settings.tree, first),
    }
}

/// A tool of the build. A dry run starts none, and knows only those that a build met.
fn tool(settings: &Settings, role: Role, command: &str, store: &mut Store) -> Result<Option<Tool>> {
    match settings.dry_run {
        true => toolchain::known(role, command, store),
        false => toolchain::resolve(role, command, store).map(Some),
    }
}
