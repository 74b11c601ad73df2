//! A whole run as plain data, gathered from the event stream: what JSON, trace and timings
//! page are written from. Times are microseconds since the run began.
//!
//! The layout of its JSON is documented in docs/json.md: change both, and the version.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap as HashMap;
use serde::Serialize;

use super::{Backend, Ending, Event, Job, JobKind, Listener, Row, words};
use crate::exec::executor::{Machine, Traffic};
use crate::exec::process::{RemoteUsage, Usage};
use crate::inputs::{Change, Kind};
use crate::plan::Due;
use crate::store::Indexed;
use crate::unit;

/// Version of the layout. It grows when a field changes its meaning or goes; new fields alone
/// do not count.
pub const VERSION: u32 = 1;

/// Imported modules that are listed with their costs.
const COSTLY: usize = 100;

/// A run that has ended.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// `kthinlto-run`: what kind of file this is.
    pub schema: &'static str,
    /// [`VERSION`].
    pub version: u32,
    /// Version of the program.
    pub kthinlto: &'static str,
    /// The command: `build`.
    pub command: &'static str,
    /// The object tree.
    pub tree: String,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// How long it took.
    pub wall_us: u64,
    /// Processor time of this program itself, all its threads together, and none of its jobs.
    pub own_us: u64,
    /// What the program exits with.
    pub exit_code: u8,
    /// Nothing was run (`-n`).
    pub dry_run: bool,
    /// The sentence that it ended with, if it failed.
    pub error: Option<String>,
    /// How many modules there were, and what became of them.
    pub totals: Totals,
    /// Phases in order.
    pub phases: Vec<Phase>,
    /// Jobs, in the order of their starts.
    pub jobs: Vec<RanJob>,
    /// Indexed modules in link order; none, if the run ended before that was known.
    pub modules: Vec<Module>,
    /// What no number of slots could make shorter.
    pub critical_path: Vec<Part>,
    /// Imported modules whose importers took longest, at most a hundred.
    pub costly_imports: Vec<CostlyImport>,
    /// What is said with `V=1` alone.
    pub notes: Vec<String>,
    /// What the user was warned of.
    pub warnings: Vec<String>,
    /// What failed, a sentence each.
    pub failures: Vec<String>,
}

/// Counts and sums of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Modules that the thin link indexed.
    pub modules: usize,
    /// Those whose native object was right already.
    pub up_to_date: usize,
    /// Those whose native object came from the shared cache, or from another machine's.
    pub from_cache: usize,
    /// Those of them that came from another machine.
    pub from_remote_cache: usize,
    /// Those that were compiled.
    pub rebuilt: usize,
    /// Those of them that another machine compiled.
    pub rebuilt_remotely: usize,
    /// Those that failed.
    pub failed: usize,
    /// Those that had to run, and did not: a failure or a signal came before.
    pub not_run: usize,
    /// Most jobs at once on this machine.
    pub slots: usize,
    /// Most jobs at once on other machines.
    pub remote_slots: usize,
    /// Bytes that went to other machines.
    pub sent_bytes: u64,
    /// Bytes that came from them.
    pub received_bytes: u64,
    /// Sum of all jobs' wall times.
    pub busy_us: u64,
    /// Sum of all jobs' CPU times, where they are known.
    pub cpu_us: u64,
    /// Sum of the critical path.
    pub critical_us: u64,
}

/// A phase of the run.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// Its name: `members`, `thin link`, `backends`.
    pub name: &'static str,
    /// When it began.
    pub start_us: u64,
    /// How long it took.
    pub wall_us: u64,
}

/// What came of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Its output is good.
    Good,
    /// It failed.
    Failed,
    /// It was ended with the run.
    Stopped,
    /// It does not count: another machine was quicker, or it failed on another one and was run here.
    Dropped,
}

/// Where the time of a job on another machine went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Until its inputs were there.
    pub upload_us: u64,
    /// Waiting for a worker.
    pub queue_us: u64,
    /// Its run.
    pub execution_us: u64,
    /// Until its outputs were here.
    pub download_us: u64,
    /// It did not run there: the store of results had it.
    pub cached: bool,
}

impl From<RemoteUsage> for Transfer {
    fn from(known: RemoteUsage) -> Self {
        Transfer {
            upload_us: micros(known.upload),
            queue_us: micros(known.queue),
            execution_us: micros(known.execution),
            download_us: micros(known.download),
            cached: known.from_store,
        }
    }
}

/// A job that ran.
#[derive(Debug, Clone, Serialize)]
pub struct RanJob {
    /// What it was of the run.
    pub kind: JobKind,
    /// `CC` for a backend, `LD` for the thin link.
    pub verb: &'static str,
    /// A backend's bitcode object, else the file that it makes.
    pub object: String,
    /// Whether it ran on another machine.
    pub remote: bool,
    /// Number of its slot, from 0; on other machines, that of its row.
    pub slot: usize,
    /// When it began.
    pub start_us: u64,
    /// How long it took.
    pub wall_us: u64,
    /// What it took of processors.
    pub cpu_us: Option<u64>,
    /// The most memory that it held, in KiB.
    pub peak_kib: Option<u64>,
    /// Where the time went, if it ran on another machine and that is known.
    pub transfer: Option<Transfer>,
    /// What came of it.
    pub outcome: Outcome,
}

impl RanJob {
    /// What was made of it is what the run has.
    pub(super) fn counts(&self) -> bool {
        self.outcome != Outcome::Dropped
    }
}

/// What became of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its native object was right already.
    UpToDate,
    /// Its native object came from the shared cache, or from another machine's.
    FromCache,
    /// It was compiled.
    Rebuilt,
    /// Its backend failed.
    Failed,
    /// Its backend had to run, and did not.
    NotRun,
}

/// An indexed module.
#[derive(Debug, Clone, Serialize)]
pub struct Module {
    /// The bitcode object.
    pub object: String,
    /// What became of it.
    pub state: State,
    /// Why its backend had to run, in words.
    pub why: Option<String>,
    /// The import that changed, where that is why.
    #[serde(skip)]
    pub changed_import: Option<String>,
    /// Size of its bitcode in bytes, where its backend had to run.
    pub size: Option<u64>,
    /// Wall time of its last run, if that is on record.
    pub expected_us: Option<u64>,
    /// How long it took to come from the cache.
    pub cache_us: Option<u64>,
    /// Whether its native object came from another machine.
    pub remote: bool,
    /// Modules that it imports from, as places in the list of modules, from 0.
    pub imports: Vec<usize>,
}

/// A part of the critical path: a phase, or the longest backend of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub wall_us: u64,
}

/// A module that others import from, and what their backends took in this run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CostlyImport {
    /// The imported module.
    pub object: String,
    /// How many import from it.
    pub importers: usize,
    /// How many of those ran.
    pub ran: usize,
    /// What these took.
    pub wall_us: u64,
    /// How many ran because this module changed, as far as their reason names it.
    pub because: usize,
    /// What these took.
    pub because_us: u64,
}

/// Gathers a run while it goes on.
#[derive(Debug)]
pub struct Recorder {
    begun: Instant,
    run: Run,
    /// Job by row, while it runs.
    running: HashMap<Row, usize>,
    /// Bytes to other machines, and from them.
    traffic: Traffic,
    /// Module by object.
    places: HashMap<String, usize>,
}

impl Recorder {
    /// Begins now.
    pub fn new(command: &'static str, tree: &Path, dry_run: bool) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let tree = std::path::absolute(tree).unwrap_or_else(|_| tree.to_path_buf());
        let run = Run {
            schema: "kthinlto-run",
            version: VERSION,
            kthinlto: env!("CARGO_PKG_VERSION"),
            command,
            tree: tree.to_string_lossy().into_owned(),
            started_ms: since.as_millis().try_into().unwrap_or(u64::MAX),
            wall_us: 0,
            own_us: 0,
            exit_code: 0,
            dry_run,
            error: None,
            totals: Totals::default(),
            phases: Vec::new(),
            jobs: Vec::new(),
            modules: Vec::new(),
            critical_path: Vec::new(),
            costly_imports: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
            failures: Vec::new(),
        };
        let (running, places) = (HashMap::default(), HashMap::default());
        Recorder { begun: Instant::now(), run, running, traffic: Traffic::default(), places }
    }

    /// The run has ended, with this exit code and sentence.
    pub fn finish(mut self, exit_code: u8, error: Option<String>) -> Run {
        let now = self.now();
        self.end_phase(now);
        let mut run = self.run;
        for number in self.running.into_values() {
            run.jobs[number].wall_us = now - run.jobs[number].start_us;
        }
        (run.wall_us, run.exit_code, run.error) = (now, exit_code, error);
        run.own_us = micros(own_time());
        run.critical_path = critical_path(&run);
        run.costly_imports = costly_imports(&run);
        run.totals = totals(&run);
        let Traffic { sent, received } = self.traffic;
        (run.totals.sent_bytes, run.totals.received_bytes) = (sent, received);
        run
    }

    fn now(&self) -> u64 {
        micros(self.begun.elapsed())
    }

    fn end_phase(&mut self, now: u64) {
        if let Some(phase) = self.run.phases.last_mut() {
            phase.wall_us = now - phase.start_us;
        }
    }

    fn planned(&mut self, modules: &[Indexed], backends: &[Backend<'_>]) {
        let before = self.run.modules.len();
        let label = |part: &unit::Part| part.label().into_owned();
        let number = |(number, one): (usize, &Indexed)| (label(&one.part), before + number);
        self.places.extend(modules.iter().enumerate().map(number));
        let place = |module: &Indexed, name: &str| {
            self.places.get(&*module.part.beside(name).label()).copied()
        };
        let module = |module: &Indexed| Module {
            object: label(&module.part),
            state: State::UpToDate,
            why: None,
            changed_import: None,
            size: None,
            expected_us: None,
            cache_us: None,
            remote: false,
            imports: module.imports.iter().filter_map(|name| place(module, name)).collect(),
        };
        self.run.modules.extend(modules.iter().map(module));
        for backend in backends {
            if let Some(module) = self.module(&backend.part.label()) {
                module.state = State::NotRun;
                module.why = Some(words::due(backend.due));
                let import = changed_import(backend.due);
                module.changed_import = import.map(|name| label(&backend.part.beside(&name)));
                module.size = Some(backend.size);
                module.expected_us = backend.expected.map(micros);
            }
        }
    }

    fn module(&mut self, object: &str) -> Option<&mut Module> {
        self.run.modules.get_mut(*self.places.get(object)?)
    }

    fn started(&mut self, job: &Job<'_>) {
        self.running.insert(job.row, self.run.jobs.len());
        self.run.jobs.push(RanJob {
            kind: job.kind,
            verb: job.verb,
            object: job.object.to_owned(),
            remote: job.row.machine == Machine::Other,
            slot: job.row.number,
            start_us: self.now(),
            wall_us: 0,
            cpu_us: None,
            peak_kib: None,
            transfer: None,
            outcome: Outcome::Stopped,
        });
    }

    fn ended(
        &mut self,
        row: Row,
        ending: Ending,
        usage: Option<Usage>,
        remote: Option<RemoteUsage>,
    ) {
        let now = self.now();
        let Some(number) = self.running.remove(&row) else {
            return;
        };
        let job = &mut self.run.jobs[number];
        // What a process took is measured nearer to it than we are; of other machines, the way counts.
        let here = usage.filter(|_| !job.remote);
        job.wall_us = here.map_or(now - job.start_us, |usage| micros(usage.wall));
        // Not each server tells.
        let is_known = |number: &u64| !job.remote || *number > 0;
        job.cpu_us = usage.map(|usage| micros(usage.cpu)).filter(is_known);
        job.peak_kib = usage.map(|usage| usage.peak).filter(is_known);
        job.transfer = remote.map(Transfer::from);
        let (outcome, state) = match ending {
            Ending::Good => (Outcome::Good, Some(State::Rebuilt)),
            Ending::Failed => (Outcome::Failed, Some(State::Failed)),
            Ending::Dropped => (Outcome::Dropped, None),
        };
        job.outcome = outcome;
        let (object, remote) = (job.object.clone(), job.remote);
        if let Some((module, state)) = self.module(&object).zip(state) {
            (module.state, module.remote) = (state, remote);
        }
    }
}

impl Listener for Recorder {
    fn on(&mut self, event: &Event<'_>) {
        match event {
            Event::Phase(name) => {
                let start_us = self.now();
                self.end_phase(start_us);
                self.run.phases.push(Phase { name, start_us, wall_us: 0 });
            }
            Event::Planned { modules, backends } => self.planned(modules, backends),
            Event::FromCache { object, wall, machine } => {
                if let Some(module) = self.module(object) {
                    (module.state, module.cache_us) = (State::FromCache, Some(micros(*wall)));
                    module.remote = *machine == Machine::Other;
                }
            }
            Event::Started(job) => self.started(job),
            Event::Ended { row, ending, usage, remote } => {
                self.ended(*row, *ending, *usage, *remote);
            }
            Event::Traffic(traffic) => self.traffic = *traffic,
            Event::Note(text) => self.run.notes.push((*text).to_owned()),
            Event::Warning(text) => self.run.warnings.push((*text).to_owned()),
            Event::Failure(text) => self.run.failures.push((*text).to_owned()),
            Event::Step { .. } | Event::Output(_) | Event::Done(_) => {}
        }
    }
}

/// Processor time of this process so far.
fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn micros(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap_or(u64::MAX)
}

fn totals(run: &Run) -> Totals {
    let all = |state| run.modules.iter().filter(move |module| module.state == state);
    let count = |state| all(state).count();
    let remote = |state| all(state).filter(|module| module.remote).count();
    let rows = |remote| run.jobs.iter().filter(move |job| job.remote == remote);
    let most = |remote| rows(remote).map(|job| job.slot + 1).max().unwrap_or_default();
    Totals {
        modules: run.modules.len(),
        up_to_date: count(State::UpToDate),
        from_cache: count(State::FromCache),
        from_remote_cache: remote(State::FromCache),
        rebuilt: count(State::Rebuilt),
        rebuilt_remotely: remote(State::Rebuilt),
        failed: count(State::Failed),
        not_run: count(State::NotRun),
        slots: most(false),
        remote_slots: most(true),
        sent_bytes: 0,
        received_bytes: 0,
        busy_us: run.jobs.iter().map(|job| job.wall_us).sum(),
        cpu_us: run.jobs.iter().filter_map(|job| job.cpu_us).sum(),
        critical_us: run.critical_path.iter().map(|part| part.wall_us).sum(),
    }
}

/// Phases follow one another, and within one its backends depend on nothing of each other: the
/// path is all phases, with the longest backend in the place of the one that runs them, and in the place of
/// one that runs steps those that waited for each other.
fn critical_path(run: &Run) -> Vec<Part> {
    let backends = run.jobs.iter().filter(|job| job.kind == JobKind::Backend && job.counts());
    let longest = backends.max_by_key(|job| job.wall_us);
    let began = |job: &RanJob| run.phases.iter().rposition(|p| p.start_us <= job.start_us);
    let place = longest.and_then(began);
    let parts = |(number, phase): (usize, &Phase)| match longest {
        Some(job) if place == Some(number) => {
            vec![Part { name: format!("backend of {}", job.object), wall_us: job.wall_us }]
        }
        _ => steps_of(run, phase),
    };
    run.phases.iter().enumerate().flat_map(parts).collect()
}

/// The steps of a phase that waited for each other, and what is left of it; the phase, if it ran none. What
/// a step waited for is the one that ended last before it began.
fn steps_of(run: &Run, phase: &Phase) -> Vec<Part> {
    let end = phase.start_us + phase.wall_us;
    let within = |job: &&RanJob| {
        job.kind == JobKind::Step && job.start_us >= phase.start_us && job.start_us < end
    };
    let steps: Vec<&RanJob> = run.jobs.iter().filter(within).collect();
    let mut path: Vec<&RanJob> = Vec::new();
    let mut until = u64::MAX;
    let ended = |job: &RanJob| job.start_us + job.wall_us;
    while let Some(last) = steps
        .iter()
        .filter(|job| {
            ended(job) <= until && path.last().is_none_or(|next| job.start_us < next.start_us)
        })
        .max_by_key(|job| ended(job))
    {
        path.push(last);
        until = last.start_us;
    }
    let took: u64 = path.iter().map(|job| job.wall_us).sum();
    let left = Part { name: phase.name.to_owned(), wall_us: phase.wall_us.saturating_sub(took) };
    let step = |job: &&RanJob| Part { name: format!("step {}", job.object), wall_us: job.wall_us };
    std::iter::once(left).chain(path.iter().rev().map(step)).collect()
}

fn costly_imports(run: &Run) -> Vec<CostlyImport> {
    let ran = run.jobs.iter().filter(|job| job.counts());
    let ran: HashMap<&str, u64> = ran.map(|job| (job.object.as_str(), job.wall_us)).collect();
    let mut all: Vec<CostlyImport> = run.modules.iter().map(not_imported).collect();
    for module in &run.modules {
        let took = ran.get(module.object.as_str());
        for place in &module.imports {
            let import = &mut all[*place];
            import.importers += 1;
            import.ran += usize::from(took.is_some());
            import.wall_us += took.unwrap_or(&0);
            if module.changed_import.as_ref() == Some(&import.object) {
                import.because += usize::from(took.is_some());
                import.because_us += took.unwrap_or(&0);
            }
        }
    }
    all.retain(|import| import.ran > 0);
    all.sort_by(|a, b| {
        let key = |one: &CostlyImport| (one.because_us, one.wall_us);
        key(b).cmp(&key(a)).then_with(|| a.object.cmp(&b.object))
    });
    all.truncate(COSTLY);
    all
}

fn changed_import(due: &Due) -> Option<String> {
    match due {
        Due::Input(Change::Changed(label)) if label.kind == Kind::Import => {
            Some(label.name.clone())
        }
        _ => None,
    }
}

fn not_imported(module: &Module) -> CostlyImport {
    let object = module.object.clone();
    CostlyImport { object, importers: 0, ran: 0, wall_us: 0, because: 0, because_us: 0 }
}

#[cfg(test)]
pub(super) mod tests;
