//! The backends of the stage: give them to the runner, longest first, and take each
//! result only when it is right. What a backend is made from is the backend phase's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Settings, Stage, cores, schedule};
use crate::backend::cc1::Template;
use crate::backend::command::{
    aside_name, check_native, dwo_name, invocation, native_name, recorded_text, side_files,
};
use crate::backend::flags::Flags;
use crate::backend::flagset::FlagSet;
use crate::backend::inputs::{self, Common};
use crate::error::{Error, Result, advice, describe_status};
use crate::exec::interrupt::Interrupts;
use crate::exec::process::{Invocation, Outcome, Usage};
use crate::exec::refused::remedy;
use crate::exec::run::{Runner, Work};
use crate::exec::slots::Slots;
use crate::kbuild::auto_conf::AutoConf;
use crate::kbuild::cmd_file;
use crate::parallel;
use crate::plan::Planned;
use crate::report::{Ending, Event, Job as Started, JobKind, Listener, words};
use crate::store::cache::Cache;
use crate::store::{BackendRecord, Cost, Digest, Stamped, Store, write_if_changed};
use crate::toolchain::Tool;

/// Which native objects were made, and how.
#[derive(Debug, Default)]
pub struct Ran {
    /// Objects that were compiled.
    pub rebuilt: HashSet<String>,
    /// How many came from the shared cache.
    pub from_cache: usize,
}

impl Stage<'_> {
    /// Makes those that have to be made: from the cache where it has them, else by the compiler.
    pub(super) fn run_backends(
        &mut self,
        compiler: &Tool,
        common: &Common,
        planned: Vec<Planned>,
    ) -> Result<Ran> {
        let tree = &self.settings.tree;
        let jobs = planned.into_iter().map(|planned| {
            let flags = inputs::take_flags(&self.store, common, &planned.object)?;
            let cost = self.store.backend(&planned.object).and_then(|was| was.cost);
            let flag_set = inputs::flag_set(&self.store, common, &planned.object)?;
            Ok(Job { planned, flags, flag_set, inner: None, cost })
        });
        let mut jobs: Vec<Job> = jobs.collect::<Result<_>>()?;
        jobs.sort_by_key(|job| {
            Reverse((schedule::time(job.cost, job.planned.size), job.planned.size))
        });
        let conf = AutoConf::read(tree);
        let warnings = conf.is_ok_and(|conf| conf.is_on("CONFIG_LTO_CLANG_THIN"));
        if self.settings.dry_run {
            jobs.iter().for_each(|job| announce(self.listener, compiler, job, warnings));
            let rebuilt = jobs.into_iter().map(|job| job.planned.object).collect();
            return Ok(Ran { rebuilt, from_cache: 0 });
        }
        sweep(tree, &jobs);
        self.phase("cache");
        let cache = if jobs.is_empty() { None } else { self.open_cache() };
        let runner = Runner {
            slots: self.slots,
            interrupts: self.interrupts,
            keep_going: self.settings.keep_going,
        };
        let mut backends = Backends {
            settings: self.settings,
            store: &mut self.store,
            listener: self.listener,
            compiler,
            jobs,
            next: 0,
            in_flight: BTreeMap::new(),
            cache,
            warnings,
        };
        let from_cache = backends.take_cached(self.slots, self.interrupts)?;
        backends.listener.on(&Event::Phase("backends"));
        let total = backends.jobs.len();
        let mut executor = backends.executor(self.slots, self.interrupts);
        backends.spare_driver(executor.as_mut(), self.slots);
        let ended = runner.run(executor.as_mut(), &mut backends);
        backends.note(executor.as_mut());
        match ended? {
            0 => {
                let objects = backends.jobs.iter().map(|job| job.planned.object.clone());
                Ok(Ran { rebuilt: objects.collect(), from_cache })
            }
            failed => Err(Error::Backends { failed, total }),
        }
    }
}

impl Stage<'_> {
    /// The shared cache, if one is asked for. One that cannot be opened is a warning.
    fn open_cache(&mut self) -> Option<Cache> {
        let opened = Cache::open(self.settings.cache.as_ref()?);
        if let Err(error) = &opened {
            let text = format!("{error}; going on without the cache");
            self.listener.on(&Event::Warning(&text));
        }
        opened.ok()
    }
}

/// A backend that has to run, and its flags.
pub(super) struct Job {
    planned: Planned,
    flags: Flags,
    /// What a key knows of the flags.
    pub(super) flag_set: Arc<FlagSet>,
    /// What the compiler's driver would run, where that is known.
    pub(super) inner: Option<Rc<Template>>,
    /// What it took the last time.
    cost: Option<Cost>,
}

impl Job {
    /// An entry of the cache is one file: an object with others beside it is not kept. Nor is one
    /// that is made from more than its key says.
    fn may_be_shared(&self) -> bool {
        let FlagSet { splits_dwarf, side_files, .. } = *self.flag_set;
        !(self.planned.inputs.key.unknown || splits_dwarf || side_files)
    }
}

/// Where make has the linker do what backends do (CONFIG_LTO_CLANG_THIN), what they warn of, such as
/// a frame that inlining made larger than `-Wframe-larger-than`, is no error under `-Werror`, as
/// the linker does not know of that. It changes no object, and stands in no key.
const ONLY_WARN: &str = "-Wno-error";

fn announce(listener: &mut dyn Listener, compiler: &Tool, job: &Job, warnings: bool) {
    let object = &job.planned.object;
    let more = if warnings { format!(" {ONLY_WARN}") } else { String::new() };
    listener.on(&Event::Step {
        verb: "CC",
        target: &native_name(object),
        command: &(recorded_text(&compiler.text, &job.flags, object) + &more),
        why: &words::due(&job.planned.due),
    });
}

pub(super) struct Backends<'a> {
    pub(super) settings: &'a Settings,
    store: &'a mut Store,
    pub(super) listener: &'a mut dyn Listener,
    pub(super) compiler: &'a Tool,
    pub(super) jobs: Vec<Job>,
    next: usize,
    /// The slots of the jobs that run.
    in_flight: BTreeMap<usize, usize>,
    cache: Option<Cache>,
    /// Warnings are no errors.
    warnings: bool,
}

impl Work for Backends<'_> {
    fn next(&mut self) -> Option<(usize, Invocation)> {
        let number = self.next;
        let job = self.jobs.get(number)?;
        self.next += 1;
        announce(self.listener, self.compiler, job, self.warnings);
        let object = &job.planned.object;
        let slot = free_slot(self.in_flight.values().copied());
        self.in_flight.insert(number, slot);
        self.listener.on(&Event::Started(Started {
            slot,
            kind: JobKind::Backend,
            verb: "CC",
            object,
        }));
        let inner = job.inner.as_ref().map(|template| template.fill(object));
        Some((number, Invocation { inner, ..self.invocation(number) }))
    }

    fn next_memory(&self) -> u64 {
        self.jobs.get(self.next).map_or(0, |job| schedule::memory(job.cost, job.planned.size))
    }

    fn warn(&mut self, text: &str) {
        self.listener.on(&Event::Warning(text));
    }

    fn done(&mut self, number: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        let slot = self.in_flight.remove(&number);
        if let Ok(outcome) = &outcome
            && !outcome.output.is_empty()
        {
            self.listener.on(&Event::Output(&outcome.output));
        }
        let usage = outcome.as_ref().ok().map(|outcome| outcome.usage);
        let judged = self.judge(&self.jobs[number], outcome);
        if let Some(slot) = slot {
            let ending = if judged.is_ok() { Ending::Good } else { Ending::Failed };
            self.listener.on(&Event::Ended { slot, ending, usage });
        }
        match judged {
            Ok(native) => {
                self.check_compiler()?;
                self.accept(number, native, usage.as_ref().map(cost))?;
                self.give_to_cache(number);
                Ok(true)
            }
            Err(sentence) => {
                self.remove_aside(number);
                self.listener.on(&Event::Failure(&sentence));
                Ok(false)
            }
        }
    }
}

impl Backends<'_> {
    /// Ends the run where the compiler is not the one any more that the keys speak of: what it
    /// makes now must go on no record, and into no cache.
    fn check_compiler(&self) -> Result<()> {
        match self.compiler.changed(self.store) {
            Some(file) => {
                let found = "it changed while backends ran, so that it is unknown which one made \
                             the objects";
                Err(Error::bad_input(file, found, "run again"))
            }
            None => Ok(()),
        }
    }

    /// The bitcode object of a job.
    pub(super) fn object(&self, number: usize) -> &str {
        &self.jobs[number].planned.object
    }

    /// The command of a job.
    pub(super) fn invocation(&self, number: usize) -> Invocation {
        let Job { planned, flags, flag_set, .. } = &self.jobs[number];
        let aside = aside_name(&native_name(&planned.object));
        let tree = &self.settings.tree;
        let mut what = invocation(
            &self.compiler.argv,
            flags,
            &planned.object,
            &aside,
            tree,
            flag_set.splits_dwarf,
        );
        if self.warnings {
            what.argv.push(ONLY_WARN);
        }
        what
    }

    /// Takes out of the list of jobs those whose object the cache has; returns their number.
    /// Entries are read on as many threads as slots are free.
    fn take_cached(&mut self, slots: &Slots, interrupts: &Interrupts) -> Result<usize> {
        let Some(cache) = self.cache.take() else {
            return Ok(0);
        };
        let mut taken = BTreeSet::new();
        let shared = |number: &usize| self.jobs[*number].may_be_shared();
        let wanted: Vec<usize> = (0..self.jobs.len()).filter(shared).collect();
        for some in wanted.chunks(AT_ONCE) {
            if let Some(signal) = interrupts.signal() {
                return Err(Error::Interrupted(signal));
            }
            let wanted = some.iter().map(|number| {
                let Planned { object, inputs, .. } = &self.jobs[*number].planned;
                let aside = self.settings.tree.join(aside_name(&native_name(object)));
                (inputs.key.digest(), aside)
            });
            let wanted: Vec<(Digest, PathBuf)> = wanted.collect();
            let held = slots.try_acquire_up_to(cores());
            let found =
                parallel::map(held.len(), &wanted, |(key, aside)| fetch(&cache, *key, aside));
            drop(held);
            for (number, found) in some.iter().zip(found) {
                let Some((native, wall)) = found else {
                    continue;
                };
                if let Err(error) = self.accept_cached(*number, native, wall) {
                    // Those after it were put aside already.
                    some.iter().for_each(|number| self.remove_aside(*number));
                    return Err(error);
                }
                taken.insert(*number);
            }
        }
        self.cache = Some(cache);
        self.pass_on_warning();
        let mut numbers = 0..;
        self.jobs.retain(|_| numbers.next().is_none_or(|number| !taken.contains(&number)));
        Ok(taken.len())
    }

    /// Puts an object that the cache had into its place.
    fn accept_cached(&mut self, number: usize, native: Stamped, wall: Duration) -> Result<()> {
        let object = &self.jobs[number].planned.object;
        let cost = self.store.backend(object).and_then(|was| was.cost);
        self.accept(number, native, cost)?;
        let object = &self.jobs[number].planned.object;
        self.listener.on(&Event::FromCache { object, wall });
        Ok(())
    }

    /// Removes a backend's unfinished output, and the temporary files that clang names after it
    /// (`STEM-RANDOM.o.tmp`) and leaves when it is killed.
    fn remove_aside(&mut self, number: usize) {
        let tree = &self.settings.tree;
        let aside = aside_name(&native_name(&self.jobs[number].planned.object));
        for name in [&aside, &dwo_name(&aside)] {
            match fs::remove_file(tree.join(name)) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    let text = format!("{name}, left half-written, cannot be removed: {e}");
                    self.listener.on(&Event::Warning(&text));
                }
                _ => {}
            }
        }
        let native = native_name(&self.jobs[number].planned.object);
        side_files(tree, &native).iter().for_each(|(left, _)| drop(fs::remove_file(left)));
        let place = tree.join(&aside);
        let stem = place.file_stem().unwrap_or_default().to_string_lossy().into_owned() + "-";
        let folder = place.parent().unwrap_or(tree);
        remove_all(folder, |name| name.starts_with(&stem) && name.ends_with(".tmp"));
    }

    /// Adds a fresh object to the cache. A cache that cannot be written is a warning, once.
    fn give_to_cache(&mut self, number: usize) {
        let job = &self.jobs[number];
        let planned = &job.planned;
        let native = self.settings.tree.join(native_name(&planned.object));
        let Some(cache) = self.cache.as_mut().filter(|_| job.may_be_shared()) else {
            return;
        };
        if let Err(error) = cache.add(planned.inputs.key.digest(), &native) {
            let text = format!("{error}; going on without the cache");
            self.listener.on(&Event::Warning(&text));
            self.cache = None;
        }
        self.pass_on_warning();
    }

    /// What the cache has to say, once in a run.
    fn pass_on_warning(&mut self) {
        if let Some(text) = self.cache.as_ref().and_then(Cache::warning) {
            self.listener.on(&Event::Warning(&text));
        }
    }

    /// What a backend made, if it may be used. An `Err` is the sentence that says why not.
    fn judge(&self, job: &Job, outcome: io::Result<Outcome>) -> Result<Stamped, String> {
        let object = &job.planned.object;
        let compiler = &self.compiler.text;
        let outcome = outcome.map_err(|e| {
            let remedy = remedy(&e, "check CC");
            format!("cannot run the compiler `{compiler}` for {object}: {e}{remedy}")
        })?;
        let advice = advice(outcome.status, &outcome.output);
        if !outcome.status.success() {
            let how = describe_status(outcome.status);
            return Err(format!("the backend of {object} failed: `{compiler}` {how}; {advice}"));
        }
        let aside = aside_name(&native_name(object));
        let native = check_native(&self.settings.tree.join(aside)).map_err(|found| {
            format!(
                "the backend of {object} failed: `{compiler}` exited with 0 but left {found}; \
                 {advice}"
            )
        })?;
        match job.planned.inputs.files.iter().find(|name| !self.store.files.is_unchanged(name)) {
            Some(name) => {
                Err(format!("{name} changed while the backend of {object} read it; run again"))
            }
            None => Ok(native),
        }
    }

    /// Puts a good result in its place and on record, with what it took.
    fn accept(&mut self, number: usize, made: Stamped, cost: Option<Cost>) -> Result<()> {
        let job = &self.jobs[number];
        let (tree, object) = (&self.settings.tree, &job.planned.object);
        let native = native_name(object);
        if job.flag_set.splits_dwarf {
            let (aside, dwo) = (dwo_name(&aside_name(&native)), dwo_name(&native));
            match fs::rename(tree.join(aside), tree.join(&dwo)) {
                // Without -g there is none.
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Error::io("rename into", &dwo, e));
                }
                _ => {}
            }
        }
        if job.flag_set.side_files {
            for (aside, place) in side_files(tree, &native) {
                fs::rename(&aside, &place).map_err(|e| Error::io("rename into", &place, e))?;
            }
        }
        let (aside, place) = (tree.join(aside_name(&native)), tree.join(&native));
        fs::rename(&aside, &place).map_err(|e| Error::io("rename into", &native, e))?;
        let text = recorded_text(&self.compiler.text, &job.flags, object);
        let record = tree.join(cmd_file::path_for(Path::new(&native)));
        write_if_changed(&record, cmd_file::render(&native, &text).as_bytes())?;
        self.store.files.set(&native, made)?;
        let inputs = &job.planned.inputs;
        let key = inputs.key.digest();
        let record = BackendRecord::new(key, made.facts.digest, cost, &inputs.recorded());
        self.store.set_backend(object, record)
    }
}

impl Drop for Backends<'_> {
    /// What was cut short leaves nothing behind.
    fn drop(&mut self) {
        for number in std::mem::take(&mut self.in_flight).into_keys() {
            self.remove_aside(number);
        }
    }
}

/// How many entries of the cache are looked for between two looks at signals.
const AT_ONCE: usize = 256;

/// An object out of the cache, put aside, and how long that took. The entry is what was once
/// accepted; that it is an object is checked all the same.
fn fetch(cache: &Cache, key: Digest, aside: &Path) -> Option<(Stamped, Duration)> {
    let began = Instant::now();
    if !cache.fetch(key, aside) {
        return None;
    }
    let native = check_native(aside).inspect_err(|_| drop(fs::remove_file(aside))).ok()?;
    Some((native, began.elapsed()))
}

/// What a backend took, as it is recorded.
fn cost(usage: &Usage) -> Cost {
    let number = |count: u128| count.try_into().unwrap_or(u32::MAX);
    Cost {
        wall: number(usage.wall.as_millis()),
        cpu: number(usage.cpu.as_millis()),
        peak: number(usage.peak.into()),
    }
}

/// The lowest number that no running job has.
fn free_slot(taken: impl Iterator<Item = usize>) -> usize {
    let taken: BTreeSet<usize> = taken.collect();
    (0..).find(|slot| !taken.contains(slot)).unwrap_or_default()
}

/// Removes what a killed run left in the folders of these jobs: a file that its backends left
/// half-written must not be taken for one of this run's.
fn sweep(tree: &Path, jobs: &[Job]) {
    let folders = jobs.iter().map(|job| Path::new(&job.planned.object).parent());
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
