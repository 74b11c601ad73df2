//! The backends of a run: the command of each, and what is done with what it made. A result is taken
//! only when it is right. What a backend is made from is the backend phase's; when it runs is the
//! queue's.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::Settings;
use super::schedule;
use super::session::Session;
use crate::backend::cc1::Template;
use crate::backend::command::{
    aside_name, check_native, dwo_name, invocation, race_name, recorded_text, side_files,
};
use crate::backend::flags::Flags;
use crate::backend::flagset::FlagSet;
use crate::backend::inputs::{self, Common};
use crate::error::{Error, Result, advice, describe_status};
use crate::exec::action::Action;
use crate::exec::process::{Invocation, Outcome, Usage};
use crate::exec::refused::remedy;
use crate::inputs::File;
use crate::kbuild::auto_conf::AutoConf;
use crate::kbuild::cmd_file;
use crate::plan::Planned;
use crate::report::{Event, words};
use crate::store::{BackendRecord, Cost, Stamped, Store, write_first, write_if_changed};
use crate::toolchain::Tool;
use crate::unit::Part;

/// Where a backend is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// On this machine.
    Here,
    /// On this machine, while another one has the same backend: it writes under a name of its own.
    Race,
    /// On another machine.
    Elsewhere,
}

/// A backend that has to run, and its flags.
pub(super) struct Job {
    pub planned: Planned,
    flags: Flags,
    /// What a key knows of the flags.
    pub flag_set: Arc<FlagSet>,
    /// Where it writes, until that is known to be good.
    pub aside: String,
    /// The files that it reads.
    reads: Arc<[File]>,
    /// Its command, as it is recorded.
    command: OnceCell<String>,
    /// What the compiler's driver would run, where that is known.
    pub inner: Option<Rc<Template>>,
    /// What it took the last time.
    pub cost: Option<Cost>,
}

impl Job {
    /// A planned backend with what is needed to run it.
    pub fn new(store: &Store, common: &Common, mut planned: Planned) -> Result<Self> {
        let object = &planned.part.object;
        let flags = inputs::take_flags(store, common, object)?;
        let flag_set = inputs::flag_set(store, common, object)?;
        let cost = store.backend(&planned.part).and_then(|was| was.cost);
        let aside = aside_name(&planned.part.native());
        let reads = std::mem::take(&mut planned.inputs.files).into();
        let command = OnceCell::new();
        Ok(Job { planned, flags, flag_set, aside, reads, command, inner: None, cost })
    }

    /// What it compiles.
    pub fn part(&self) -> &Part {
        &self.planned.part
    }

    /// What it may take, for the order of all: CPU time, and the size of its bitcode.
    pub fn weight(&self) -> (u64, u64) {
        (schedule::time(self.cost, self.planned.size), self.planned.size)
    }

    /// KiB of memory that it may need.
    pub fn memory(&self) -> u64 {
        schedule::memory(self.cost, self.planned.size)
    }

    /// An entry of the cache is one file: an object with others beside it is not kept. Nor is one
    /// that is made from more than its key says.
    pub fn may_be_shared(&self) -> bool {
        let FlagSet { splits_dwarf, side_files, .. } = *self.flag_set;
        !(self.planned.inputs.key.unknown || splits_dwarf || side_files)
    }
}

/// Where make has the linker do what backends do (CONFIG_LTO_CLANG_THIN), what they warn of, such as
/// a frame that inlining made larger than `-Wframe-larger-than`, is no error under `-Werror`, as
/// the linker does not know of that. It changes no object, and stands in no key.
const ONLY_WARN: &str = "-Wno-error";

/// Folders of headers are on no other machine, as no backend reads one. Some drivers ask for a warning of such
/// that are missing, and for an error of each warning. What is said last counts; it changes no object.
const LACKS_FOLDERS: &str = "-Wmissing-include-dirs";
const MAY_LACK_FOLDERS: &str = "-Wno-missing-include-dirs";

/// Whether this kernel has the linker do what backends do.
pub(super) fn only_warn(settings: &Settings) -> bool {
    let conf = AutoConf::read(&settings.tree);
    conf.is_ok_and(|conf| conf.is_on("CONFIG_LTO_CLANG_THIN"))
}

/// What all backends of a run share.
pub(super) struct Backends {
    pub compiler: Tool,
    pub common: Common,
    /// Warnings are no errors.
    pub only_warn: bool,
    /// For the bytes of one object after the other.
    buffer: RefCell<Vec<u8>>,
    shared: OnceCell<Shared>,
}

/// What all actions have in common.
struct Shared {
    environment: Arc<[(OsString, OsString)]>,
    tools: Arc<[File]>,
}

impl Backends {
    /// Backends of this compiler.
    pub fn new(compiler: Tool, common: Common, only_warn: bool) -> Self {
        let (buffer, shared) = (RefCell::default(), OnceCell::new());
        Backends { compiler, common, only_warn, buffer, shared }
    }

    /// Whether another machine may run a job: all that it is made from is known, and so are the programs
    /// that run.
    pub fn may_leave(&self, job: &Job) -> bool {
        job.may_be_shared() && self.compiler.self_contained
    }

    /// Tells the listener that a backend runs.
    pub fn announce(&self, session: &mut Session<'_>, job: &Job) {
        let command = self.command(job);
        let command = match self.only_warn {
            true => &format!("{command} {ONLY_WARN}"),
            false => command,
        };
        session.step("CC", &job.part().native(), command, &words::due(&job.planned.due));
    }

    /// The command of a job as it is recorded.
    fn command<'j>(&self, job: &'j Job) -> &'j str {
        job.command.get_or_init(|| recorded_text(&self.compiler.text, &job.flags, job.part()))
    }

    /// All that a job needs. What stands in it for other machines is the same in each run with the same
    /// inputs.
    pub fn action(
        &self,
        settings: &Settings,
        store: &Store,
        job: &Job,
        way: Way,
    ) -> Result<Action> {
        let race = (way == Way::Race).then(|| race_name(&job.part().native()));
        let output = race.as_ref().unwrap_or(&job.aside);
        let inner = job.inner.as_ref().filter(|_| way == Way::Here);
        let inner = inner.map(|template| template.fill(job.part()));
        let shared = match self.shared.get() {
            Some(known) => known,
            None => {
                let environment = inputs::variables(&settings.environment).into();
                let tools = self.compiler.contents(store)?;
                self.shared.get_or_init(|| Shared { environment, tools })
            }
        };
        let FlagSet { splits_dwarf, side_files, .. } = *job.flag_set;
        let dwo = splits_dwarf.then(|| dwo_name(output));
        // Such as STEM.su: the object's name without its ending, and another one.
        let beside = side_files.then(|| format!("{}.*", output.trim_end_matches(".o")));
        let mut command = self.invocation_to(&settings.tree, job, output);
        if way == Way::Elsewhere && command.argv.iter().any(|word| word == LACKS_FOLDERS) {
            command.argv.push(MAY_LACK_FOLDERS);
        }
        Ok(Action {
            command: Invocation { inner, ..command },
            environment: shared.environment.clone(),
            inputs: job.reads.clone(),
            tools: shared.tools.clone(),
            outputs: [output.clone()].into_iter().chain(dwo).chain(beside).collect(),
        })
    }

    /// The command of a job.
    pub fn invocation(&self, tree: &Path, job: &Job) -> Invocation {
        self.invocation_to(tree, job, &job.aside)
    }

    fn invocation_to(&self, tree: &Path, job: &Job, output: &str) -> Invocation {
        let splits_dwarf = job.flag_set.splits_dwarf;
        let (compiler, flags) = (&self.compiler.argv, &job.flags);
        let mut what = invocation(compiler, flags, job.part(), output, tree, splits_dwarf);
        if self.only_warn {
            what.argv.push(ONLY_WARN);
        }
        what
    }

    /// Ends the run where the compiler is not the one any more that the keys speak of: what it
    /// makes now must go on no record, and into no cache.
    pub fn check_compiler(&self, store: &Store) -> Result<()> {
        match self.compiler.changed(store) {
            Some(file) => {
                let found = "it changed while backends ran, so that it is unknown which one made \
                             the objects";
                Err(Error::bad_input(file, found, "run again"))
            }
            None => Ok(()),
        }
    }

    /// What a backend made, if it may be used. An `Err` is the sentence that says why not.
    pub fn judge(
        &self,
        store: &Store,
        job: &Job,
        outcome: io::Result<Outcome>,
    ) -> Result<Stamped, String> {
        let label = job.part().label();
        let compiler = &self.compiler.text;
        let outcome = outcome.map_err(|e| {
            let remedy = remedy(&e, "check CC");
            format!("cannot run the compiler `{compiler}` for {label}: {e}{remedy}")
        })?;
        let advice = advice(outcome.status, &outcome.output);
        if !outcome.status.success() {
            let how = describe_status(outcome.status);
            return Err(format!("the backend of {label} failed: `{compiler}` {how}; {advice}"));
        }
        let mut buffer = self.buffer.borrow_mut();
        let native =
            check_native(&store.tree().join(&job.aside), &mut buffer).map_err(|found| {
                format!(
                    "the backend of {label} failed: `{compiler}` exited with 0 but left {found}; \
                 {advice}"
                )
            })?;
        let names = job.reads.iter().map(|file| file.name.as_str());
        let mut names = names.chain(job.planned.inputs.names());
        match names.find(|name| !store.files.is_unchanged(name)) {
            Some(name) => {
                Err(format!("{name} changed while the backend of {label} read it; run again"))
            }
            None => Ok(native),
        }
    }

    /// Puts a good result in its place and on record, with what it took.
    pub fn accept(
        &self,
        store: &mut Store,
        job: &Job,
        made: Stamped,
        cost: Option<Cost>,
    ) -> Result<()> {
        self.placement(job).put(store, made)?;
        record(store, job, made, cost)
    }

    /// How the result of a job is put in its place.
    pub fn placement(&self, job: &Job) -> Placement {
        let native = job.part().native();
        let record = cmd_file::render(&native, self.command(job));
        let (aside, flag_set) = (job.aside.clone(), &job.flag_set);
        let (splits_dwarf, side_files) = (flag_set.splits_dwarf, flag_set.side_files);
        Placement { native, aside, record, splits_dwarf, side_files }
    }
}

/// A result that lies aside, and its place. Any thread can put it there.
pub(super) struct Placement {
    native: String,
    aside: String,
    /// The text of its `.cmd` file.
    record: String,
    splits_dwarf: bool,
    side_files: bool,
}

impl Placement {
    /// Puts the result in its place, with the files that belong to it.
    pub fn put(&self, store: &Store, made: Stamped) -> Result<()> {
        let (tree, native) = (store.tree(), self.native.as_str());
        if self.splits_dwarf {
            let dwo = dwo_name(native);
            match fs::rename(tree.join(dwo_name(&self.aside)), tree.join(&dwo)) {
                // Without -g there is none.
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Error::io("rename into", &dwo, e));
                }
                _ => {}
            }
        }
        if self.side_files {
            for (aside, place) in side_files(tree, native) {
                fs::rename(&aside, &place).map_err(|e| Error::io("rename into", &place, e))?;
            }
        }
        let renamed = fs::rename(tree.join(&self.aside), tree.join(native));
        renamed.map_err(|e| Error::io("rename into", native, e))?;
        let record = tree.join(cmd_file::path_for(Path::new(native)));
        // make, too, takes an object whose record is not whole for one that has to be made.
        if write_first(&record, self.record.as_bytes())?.is_none() {
            write_if_changed(&record, self.record.as_bytes())?;
        }
        store.files.set(native, made)
    }
}

/// Puts on record what a job's result in its place was made from.
pub(super) fn record(
    store: &mut Store,
    job: &Job,
    made: Stamped,
    cost: Option<Cost>,
) -> Result<()> {
    let inputs = &job.planned.inputs;
    let key = inputs.key.digest();
    let record = BackendRecord::new(key, made.facts.digest, cost, &inputs.to_record());
    store.set_backend(job.part(), record)
}

/// Removes a backend's unfinished output, and the temporary files that clang names after it
/// (`STEM-RANDOM.o.tmp`) and leaves when it is killed.
pub(super) fn remove_aside(session: &mut Session<'_>, job: &Job) {
    remove_output(session, &job.aside);
    let left = side_files(&session.settings.tree, &job.part().native());
    left.iter().for_each(|(left, _)| drop(fs::remove_file(left)));
}

/// The same for what it wrote in a race.
pub(super) fn remove_race(session: &mut Session<'_>, native: &str) {
    remove_output(session, &race_name(native));
}

/// Takes what a backend made that was quicker than another machine: from now on it lies where others
/// write.
pub(super) fn take_race(session: &mut Session<'_>, job: &Job) {
    let (tree, native) = (&session.settings.tree, job.part().native());
    // Where that fails there is no object, and it will be missed.
    let _ = fs::rename(tree.join(race_name(&native)), tree.join(&job.aside));
    remove_race(session, &native);
}

fn remove_output(session: &mut Session<'_>, aside: &str) {
    let tree = &session.settings.tree;
    for name in [aside, &dwo_name(aside)] {
        match fs::remove_file(tree.join(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                let text = format!("{name}, left half-written, cannot be removed: {e}");
                session.listener.on(&Event::Warning(&text));
            }
            _ => {}
        }
    }
    let place = tree.join(aside);
    let stem = place.file_stem().unwrap_or_default().to_string_lossy().into_owned() + "-";
    let folder = place.parent().unwrap_or(tree);
    remove_all(folder, |name| name.starts_with(&stem) && name.ends_with(".tmp"));
}

/// What a backend took on another machine, as it is recorded: what it took here is worth more, and of its
/// memory nobody knows.
pub(super) fn cost_elsewhere(job: &Job, usage: &Usage) -> Cost {
    let there = cost(usage);
    let cpu = if there.cpu == 0 { there.wall } else { there.cpu };
    let peak = job.memory().try_into().unwrap_or(u32::MAX);
    job.cost.unwrap_or(Cost { wall: there.wall, cpu, peak })
}

/// What a backend took, as it is recorded.
pub(super) fn cost(usage: &Usage) -> Cost {
    let number = |count: u128| count.try_into().unwrap_or(u32::MAX);
    Cost {
        wall: number(usage.wall.as_millis()),
        cpu: number(usage.cpu.as_millis()),
        peak: number(usage.peak.into()),
    }
}

/// Removes what a killed run left in the folders of these jobs: a file that its backends left
/// half-written must not be taken for one of this run's.
pub(super) fn sweep<'a>(tree: &Path, jobs: impl Iterator<Item = &'a Job>) {
    let folders = jobs.map(|job| Path::new(&job.part().object).parent());
    for folder in folders.collect::<BTreeSet<_>>() {
        let unfinished = |name: &str| name.starts_with(".tmp_") && name.contains(".thinlto-native");
        remove_all(&tree.join(folder.unwrap_or(Path::new(""))), unfinished);
    }
}

fn remove_all(folder: &Path, which: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.filter_map(io::Result::ok) {
        if which(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
