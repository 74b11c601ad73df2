//! What `build` and `relink` do before they differ: make's flags, what is shown, the slots and
//! the settings of the stage that the command line and the environment give.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::args::{Common, Scratch, StageOptions};
use super::mode::Mode;
use super::reports::{About, Listeners};
use super::{given, make_flags, place, tree, verbosity};
use crate::environment::Environment;
use crate::error::Error;
use crate::exec::executor::{Choice, MakeEngine};
use crate::exec::slots::Slots;
use crate::report::{Event, Listener};
use crate::stage::{self, Settings};
use crate::store::cache::Place;
use crate::store::user::usual_folder;

/// A run that is about to begin.
pub struct Start {
    /// The object tree.
    pub tree: PathBuf,
    /// How much is to be done.
    pub mode: Mode,
    /// `-s`, ours or make's.
    silent: bool,
    /// `-k`, ours or make's.
    pub keep_going: bool,
    /// The thin link may write in memory first.
    pub scratch_in_memory: bool,
    /// Promoted functions keep their names.
    pub stable_names: bool,
    /// Share of objects that are verified, in percent.
    pub verify: f64,
    /// The shared cache.
    pub cache: Option<Place>,
    /// Where trees share digests of tools.
    pub tool_digests: Option<PathBuf>,
    /// Other machines that run backends.
    pub engine: Option<Arc<dyn MakeEngine>>,
    /// Where jobs get leave to run.
    pub slots: Slots,
    /// The listeners of the run.
    pub shown: Listeners,
}

impl Start {
    /// The end of a run that makes `target`: the reports, and what make's `-q` and `-t` want.
    pub fn finish<T>(self, result: Result<T, Error>, target: &str) -> Result<ExitCode, Error> {
        let work = self.shown.has_steps();
        let (mut shown, warnings) = (self.shown, self.slots.take_warnings());
        warnings.iter().for_each(|text| shown.on(&Event::Warning(text)));
        shown.finish(result)?;
        self.mode.settle(work, &self.tree.join(target), self.silent)
    }

    /// Settings of a stage that makes nothing yet, by this compiler and this linker.
    pub fn settings(
        &mut self,
        executor: Choice,
        (compiler, linker): (&Option<String>, &Option<String>),
    ) -> Settings {
        Settings {
            tree: self.tree.clone(),
            srctree: PathBuf::from("."),
            archives: Vec::new(),
            units: Vec::new(),
            modules: Vec::new(),
            module_digests: None,
            compiler: given(compiler),
            linker: given(linker),
            linker_flags: String::new(),
            stable_names: self.stable_names,
            dry_run: self.mode.is_dry(),
            keep_going: self.keep_going,
            executor,
            scratch_in_memory: self.scratch_in_memory,
            verify: self.verify,
            cache: self.cache.take(),
            tool_digests: self.tool_digests.take(),
            engine: self.engine.clone(),
            environment: Environment::of_process(),
        }
    }

    /// The end of a run that has no one file for `-t` to touch.
    pub fn finish_without_target<T>(self, result: Result<T, Error>) -> Result<ExitCode, Error> {
        match self.mode {
            Mode::Touch => self.shown.finish(result).map(|_| ExitCode::SUCCESS),
            _ => self.finish(result, ""),
        }
    }
}

/// The engine that the options and the environment name, if they do. It speaks with nobody until there is a
/// backend for it.
#[cfg(feature = "remote")]
fn engine(options: &StageOptions) -> Result<Option<Arc<dyn MakeEngine>>, Error> {
    engine_at(options.remote.as_deref())
}

/// The engine at this URL, or the one that the environment names.
#[cfg(feature = "remote")]
pub fn engine_at(place: Option<&str>) -> Result<Option<Arc<dyn MakeEngine>>, Error> {
    use crate::exec::remote::settings::Settings;
    let settings = Settings::read(place, &Environment::of_process())?;
    Ok(settings.map(|settings| Arc::new(settings) as Arc<dyn MakeEngine>))
}

#[cfg(not(feature = "remote"))]
fn engine(_: &StageOptions) -> Result<Option<Arc<dyn MakeEngine>>, Error> {
    Ok(None)
}

/// Without the client there is no engine.
#[cfg(not(feature = "remote"))]
pub fn engine_at(_: Option<&str>) -> Result<Option<Arc<dyn MakeEngine>>, Error> {
    Ok(None)
}

/// Takes the options that all such commands have. Fails where a report cannot be opened.
pub fn start(
    command: &'static str,
    common: &Common,
    options: &StageOptions,
) -> Result<Start, Error> {
    let make = make_flags();
    let flags = make.clone().unwrap_or_default();
    let mode = Mode::of(common, &flags);
    let verbosity = verbosity(common, &flags);
    let tree = tree(common);
    let about = About { command, tree: &tree, mode };
    let mut shown = Listeners::new(verbosity, &options.reports, &flags, about)?;
    let granted = Slots::granted(make.as_ref(), common.jobs.map(usize::from), stage::cores());
    if let Some(warning) = granted.warning {
        shown.on(&Event::Warning(&warning));
    }
    Ok(Start {
        tree,
        mode,
        silent: verbosity.silent,
        keep_going: common.keep_going || flags.keep_going,
        scratch_in_memory: options.scratch == Scratch::Memory,
        stable_names: options.stable_names,
        verify: options.verify.unwrap_or_default(),
        cache: place(&options.cache),
        tool_digests: tool_digests(options),
        engine: engine(options)?,
        slots: granted.slots,
        shown,
    })
}

/// The folder of the tools' digests: the one that is named, or the usual one; `no` and an empty name are none.
fn tool_digests(options: &StageOptions) -> Option<PathBuf> {
    match &options.tool_digests {
        None => usual_folder(&Environment::of_process()),
        Some(named) => {
            let named =
                Some(named).filter(|name| !["", "no"].contains(&name.to_str().unwrap_or("?")));
            named.cloned()
        }
    }
}
