//! The stage from archives to `vmlinux.a`: calls each phase in pipeline order and hands
//! plain data from one to the next. Knows the phases; holds no rule of theirs.

mod archives;
mod backends;
mod link;

use std::path::PathBuf;
use std::time::Instant;

use crate::backend::flags;
use crate::backend::inputs::Common;
use crate::error::{Error, Result};
use crate::exec::interrupt::Interrupts;
use crate::exec::run::Runner;
use crate::exec::slots::Slots;
use crate::parallel;
use crate::plan;
use crate::report::{Event, Listener, Summary};
use crate::store::{Facts, Format, Indexed, Store};
use crate::toolchain::{self, Role, Tool};

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
}

/// A member of the archives, with what it holds.
type Member = (String, Facts);

/// One run of the stage.
pub struct Stage<'a> {
    settings: &'a Settings,
    slots: &'a Slots,
    interrupts: &'a Interrupts,
    listener: &'a mut dyn Listener,
    store: Store,
    threads: usize,
}

/// Runs the stage.
///
/// Writes `built-in-fixup.a`, `builtin.order`, `vmlinux.thinlto-index`, an index, a native
/// object and a `.cmd` file beside each indexed object, and `vmlinux.a`, each only where it
/// is not right already. On an error no output is half-written and `vmlinux.a` is the old one.
pub fn build(
    settings: &Settings,
    slots: &Slots,
    interrupts: &Interrupts,
    listener: &mut dyn Listener,
) -> Result<Summary> {
    let started = Instant::now();
    let names = archives::member_names(settings)?;
    let store = match settings.dry_run {
        true => Store::peek(&settings.tree)?,
        false => Store::open(&settings.tree)?,
    };
    if let Some(warning) = store.warning() {
        listener.on(&Event::Warning(&warning));
    }
    // Threads that read files run on slots too; these are free now, or they are not taken.
    let held = slots.try_acquire_up_to(cores());
    let mut stage =
        Stage { settings, slots, interrupts, listener, store, threads: held.len().max(1) };
    let result = stage.run(names, held);
    let flushed = stage.store.flush();
    let mut summary = result?;
    flushed?;
    summary.time = started.elapsed();
    stage.listener.on(&Event::Done(&summary));
    Ok(summary)
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Stage<'_> {
    fn run(&mut self, names: Vec<String>, held: Vec<crate::exec::slots::Slot>) -> Result<Summary> {
        let members = self.members(names)?;
        self.check_interrupt()?;
        self.write_order(&members)?;
        drop(held);
        let bitcode = members.iter().any(|(_, facts)| facts.format == Format::Bitcode);
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
        summary.rebuilt = self.compile(&indexed)?;
        summary.up_to_date = summary.modules - summary.rebuilt;
        self.write_vmlinux(&members, &indexed)?;
        Ok(summary)
    }

    /// Reads what every member holds.
    fn members(&self, names: Vec<String>) -> Result<Vec<Member>> {
        let files = &self.store.files;
        let facts = parallel::map(self.threads, &names, |name| files.find(name));
        let members = names.into_iter().zip(facts).map(|(name, facts)| match facts? {
            Some(facts) if facts.format == Format::Archive => {
                let found = "an archive whose name does not end in .a";
                Err(Error::bad_input(name, found, "name it as kbuild does"))
            }
            Some(facts) => Ok((name, facts)),
            None => {
                let archives = self.settings.archives.iter().map(|a| a.to_string_lossy());
                let archive = archives.collect::<Vec<_>>().join(", ").into();
                Err(Error::MissingMember { archive, member: name.into() })
            }
        });
        members.collect()
    }

    /// Plans and runs the backends; returns how many ran.
    fn compile(&mut self, indexed: &[Indexed]) -> Result<usize> {
        let Some(first) = indexed.first() else {
            return Ok(0);
        };
        let compiler = self.compiler(&first.object)?;
        let common = Common::new(compiler.identity);
        let held = self.slots.try_acquire_up_to(cores());
        self.threads = held.len().max(1);
        let planned = plan::plan(&self.store, &common, indexed, self.threads)?;
        drop(held);
        self.check_interrupt()?;
        self.run_backends(&compiler, planned)
    }

    fn compiler(&mut self, first: &str) -> Result<Tool> {
        let command = match &self.settings.compiler {
            Some(command) => command.clone(),
            None => flags::recorded_compiler(&self.settings.tree, first)?,
        };
        toolchain::resolve(Role::Compiler, &command, &mut self.store)
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
