//! A whole run as plain data, gathered from the event stream: what JSON, trace and timings
//! page are written from. Times are microseconds since the run began.
//!
//! The layout of its JSON is documented in docs/json.md: change both, and the version.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap as HashMap;
use serde::Serialize;

use super::{Backend, Ending, Event, Job, JobKind, Listener, words};
use crate::exec::process::Usage;
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
    /// Processes, in the order of their starts.
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
    /// Those whose native object came from the shared cache.
    pub from_cache: usize,
    /// Those that were compiled.
    pub rebuilt: usize,
    /// Those that failed.
    pub failed: usize,
    /// Those that had to run, and did not: a failure or a signal came before.
    pub not_run: usize,
    /// Most jobs at once.
    pub slots: usize,
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
}

/// A process that ran.
#[derive(Debug, Clone, Serialize)]
pub struct RanJob {
    /// What it was of the run.
    pub kind: JobKind,
    /// `CC` for a backend, `LD` for the thin link.
    pub verb: &'static str,
    /// A backend's bitcode object, else the file that it makes.
    pub object: String,
    /// Number of its slot, from 0.
    pub slot: usize,
    /// When it began.
    pub start_us: u64,
    /// How long it took.
    pub wall_us: u64,
    /// What it took of processors.
    pub cpu_us: Option<u64>,
    /// The most memory that it held, in KiB.
    pub peak_kib: Option<u64>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What became of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its native object was right already.
    UpToDate,
    /// Its native object came from the shared cache.
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
    /// Job by slot, while it runs.
    running: HashMap<usize, usize>,
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
        Recorder { begun: Instant::now(), run, running, places }
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
        self.running.insert(job.slot, self.run.jobs.len());
        self.run.jobs.push(RanJob {
            kind: job.kind,
            verb: job.verb,
            object: job.object.to_owned(),
            slot: job.slot,
            start_us: self.now(),
            wall_us: 0,
            cpu_us: None,
            peak_kib: None,
            outcome: Outcome::Stopped,
        });
    }

    fn ended(&mut self, slot: usize, ending: Ending, usage: Option<Usage>) {
        let now = self.now();
        let Some(number) = self.running.remove(&slot) else {
            return;
        };
        let job = &mut self.run.jobs[number];
        // What a process took is measured nearer to it than we are.
        job.wall_us = usage.map_or(now - job.start_us, |usage| micros(usage.wall));
        job.cpu_us = usage.map(|usage| micros(usage.cpu));
        job.peak_kib = usage.map(|usage| usage.peak);
        let (outcome, state) = match ending {
            Ending::Good => (Outcome::Good, State::Rebuilt),
            Ending::Failed => (Outcome::Failed, State::Failed),
        };
        job.outcome = outcome;
        let object = job.object.clone();
        if let Some(module) = self.module(&object) {
            module.state = state;
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
            Event::FromCache { object, wall } => {
                if let Some(module) = self.module(object) {
                    (module.state, module.cache_us) = (State::FromCache, Some(micros(*wall)));
                }
            }
            Event::Started(job) => self.started(job),
            Event::Ended { slot, ending, usage } => self.ended(*slot, *ending, *usage),
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
    let count = |state| run.modules.iter().filter(|module| module.state == state).count();
    Totals {
        modules: run.modules.len(),
        up_to_date: count(State::UpToDate),
        from_cache: count(State::FromCache),
        rebuilt: count(State::Rebuilt),
        failed: count(State::Failed),
        not_run: count(State::NotRun),
        slots: run.jobs.iter().map(|job| job.slot + 1).max().unwrap_or_default(),
        busy_us: run.jobs.iter().map(|job| job.wall_us).sum(),
        cpu_us: run.jobs.iter().filter_map(|job| job.cpu_us).sum(),
        critical_us: run.critical_path.iter().map(|part| part.wall_us).sum(),
    }
}

/// Phases follow one another, and within one its backends depend on nothing of each other: the
/// path is all phases, with the longest backend in the place of the one that runs them.
fn critical_path(run: &Run) -> Vec<Part> {
    let backends = run.jobs.iter().filter(|job| job.kind == JobKind::Backend);
    let longest = backends.max_by_key(|job| job.wall_us);
    let began = |job: &RanJob| run.phases.iter().rposition(|p| p.start_us <= job.start_us);
    let place = longest.and_then(began);
    let part = |(number, phase): (usize, &Phase)| match longest {
        Some(job) if place == Some(number) => {
            Part { name: format!("backend of {}", job.object), wall_us: job.wall_us }
        }
        _ => Part { name: phase.name.to_owned(), wall_us: phase.wall_us },
    };
    run.phases.iter().enumerate().map(part).collect()
}

fn costly_imports(run: &Run) -> Vec<CostlyImport> {
    let ran: HashMap<&str, u64> =
        run.jobs.iter().map(|job| (job.object.as_str(), job.wall_us)).collect();
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
pub(super) mod tests {
    use super::super::tests::part;
    use super::*;
    use crate::inputs::Label;
    use crate::store::Digest;

    /// A run of two backends out of four modules; one imports from another.
    pub(crate) fn run() -> Run {
        let indexed = |object: &str, imports: &[&str]| Indexed {
            part: part(object).clone(),
            index: Digest::of(b""),
            imports: imports.iter().map(|name| (*name).into()).collect(),
        };
        let modules = [
            indexed("a.o", &[]),
            indexed("b.o", &["a.o"]),
            indexed("c.o", &["a.o", "b.o"]),
            indexed("d.o", &[]),
        ];
        let due = |kind| Due::Input(Change::Changed(Label::new(kind, "a.o")));
        let (own, import) = (due(Kind::Bitcode), due(Kind::Import));
        let backend = |object, due| Backend { part: part(object), size: 7, due, expected: None };
        let backends = [backend("a.o", &own), backend("b.o", &import), backend("c.o", &import)];
        let mut recorder = Recorder::new("build", Path::new("/obj"), false);
        let usage = |ms| Usage {
            wall: Duration::from_millis(ms),
            cpu: Duration::from_millis(ms / 2),
            peak: 1000,
        };
        recorder.on(&Event::Phase("plan"));
        recorder.on(&Event::Planned { modules: &modules, backends: &backends });
        recorder.on(&Event::Phase("backends"));
        recorder.on(&Event::FromCache { object: "c.o", wall: Duration::from_micros(5) });
        for (slot, object) in [(0, "a.o"), (1, "b.o")] {
            recorder.on(&Event::Started(Job { slot, kind: JobKind::Backend, verb: "CC", object }));
        }
        recorder.on(&Event::Ended { slot: 1, ending: Ending::Good, usage: Some(usage(30)) });
        recorder.on(&Event::Ended { slot: 0, ending: Ending::Failed, usage: Some(usage(10)) });
        recorder.on(&Event::Failure("the backend of a.o failed"));
        recorder.finish(1, Some("1 of 2 backends failed".to_owned()))
    }

    #[test]
    fn modules_are_counted_by_what_became_of_them() {
        let totals = run().totals;
        let counts = [totals.up_to_date, totals.from_cache, totals.rebuilt, totals.failed];
        assert_eq!((totals.modules, counts, totals.not_run), (4, [1, 1, 1, 1], 0));
        assert_eq!((totals.slots, totals.busy_us, totals.cpu_us), (2, 40_000, 20_000));
    }

    #[test]
    fn costs_of_imports_are_those_of_backends_that_ran() {
        let found = run().costly_imports;
        assert_eq!(found.len(), 1);
        let object = "a.o".to_owned();
        let (wall_us, because_us) = (30_000, 30_000);
        let want = CostlyImport { object, importers: 2, ran: 1, wall_us, because: 1, because_us };
        assert_eq!(found[0], want);
    }

    #[test]
    fn the_critical_path_has_the_longest_backend() {
        let run = run();
        let names: Vec<&str> = run.critical_path.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["plan", "backend of b.o"]);
        assert_eq!(run.critical_path[1].wall_us, 30_000);
    }

    #[test]
    fn a_step_of_a_relink_is_no_backend_of_the_critical_path() {
        let mut recorder = Recorder::new("relink", Path::new("/obj"), false);
        recorder.on(&Event::Phase("link"));
        let object = ".vmlinux.export.o";
        recorder.on(&Event::Started(Job { slot: 0, kind: JobKind::Step, verb: "CC", object }));
        let usage = Some(Usage::default());
        recorder.on(&Event::Ended { slot: 0, ending: Ending::Good, usage });
        let run = recorder.finish(0, None);
        assert_eq!(run.critical_path.len(), 1);
        assert_eq!(run.critical_path[0].name, "link");
    }

    #[test]
    fn what_ran_when_the_run_ended_was_stopped() {
        let mut recorder = Recorder::new("build", Path::new("/obj"), false);
        recorder.on(&Event::Started(Job {
            slot: 0,
            kind: JobKind::Backend,
            verb: "CC",
            object: "a.o",
        }));
        let run = recorder.finish(130, None);
        assert_eq!(run.jobs[0].outcome, Outcome::Stopped);
    }
}
