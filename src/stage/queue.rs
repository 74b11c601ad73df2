//! The jobs of all units in one queue: a thin link where one has to run, and the backends that it asks
//! for once it has ended, the longest first. Must not know how either works.

mod ready;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::backends::{self, Backends, Job};
use super::choose_executor::{self, Current};
use super::members::Member;
use super::session::Session;
use super::skip_driver::{self, Answers};
use super::{cached, cached_links, cores, links, objects};
use crate::error::{Error, Result};
use crate::exec::action::Action;
use crate::exec::process::{Outcome, Usage};
use crate::exec::run::{Runner, Work};
use crate::exec::slots::Slot;
use crate::plan::Planned;
use crate::report::{Backend, Ending, Event, Job as Started, JobKind};
use crate::store::cache::Cache;
use crate::store::{Digest, Indexed};
use crate::thinlink::Scratch;
use crate::toolchain::Tool;
use crate::unit::{Part, Unit};

/// A unit in a run.
pub(super) struct UnitRun {
    pub unit: Unit,
    pub members: Vec<Member>,
    /// Its indexed modules, as places in the list of all; none, as long as nobody knows.
    indexed: Option<Range<usize>>,
    /// Native objects that it still lacks.
    lacks: usize,
}

/// A thin link that has to run.
struct Link {
    place: usize,
    key: Digest,
    linker: Rc<Tool>,
    /// Gone, folder and all, with the last link.
    scratch: Rc<Scratch>,
}

impl UnitRun {
    /// A unit with its members, of which nothing else is known yet.
    pub fn new(unit: Unit, members: Vec<Member>) -> Self {
        UnitRun { unit, members, indexed: None, lacks: 0 }
    }
}

/// What runs, or is to run.
enum Task {
    /// The thin link of a unit.
    Link(Link),
    /// A backend of a unit.
    Backend { unit: usize, job: Box<Job> },
    /// The link of a module's object.
    Object(Box<objects::Job>),
    /// It ran.
    Ended,
}

/// The queue of a run.
pub(super) struct Queue<'a, 'b> {
    session: &'a mut Session<'b>,
    units: Vec<UnitRun>,
    /// Places of units by the qualifiers of their parts.
    places: HashMap<Option<Arc<str>>, usize>,
    linker: Option<Rc<Tool>>,
    backends: Option<Backends>,
    cache: Option<Cache>,
    looked_for_cache: bool,
    executor: Current,
    chosen: bool,
    answers: Answers,
    /// Jobs came since the driver was asked for some.
    fresh: bool,
    /// The indexed modules of all units.
    modules: Vec<Indexed>,
    /// By the number that the runner knows.
    tasks: Vec<Task>,
    /// Thin links that may start.
    links: VecDeque<Link>,
    /// Objects that may be linked.
    objects: VecDeque<objects::Job>,
    /// Backends that may start: the most expensive first, and of equals the earliest.
    ready: BinaryHeap<((u64, u64), Reverse<usize>)>,
    /// The slots of the jobs that run, by number.
    in_flight: BTreeMap<usize, usize>,
    /// Slots for the threads of the one thin link that runs.
    threads: Vec<Slot>,
    /// A thin link failed.
    link_error: Option<Error>,
    ran: Ran,
}

/// What was made, and how.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// What was compiled.
    pub rebuilt: HashSet<Part>,
    /// How many came from the shared cache.
    pub from_cache: usize,
    /// Whether a linker ran.
    pub linked: bool,
    backends: usize,
}

/// What a queue has come to.
pub(super) struct Ended {
    pub units: Vec<UnitRun>,
    pub modules: Vec<Indexed>,
    pub ran: Ran,
    /// What made the backends, if there was one.
    pub backends: Option<Backends>,
    /// Something failed.
    pub error: Option<Error>,
}

impl UnitRun {
    /// Its indexed modules among all, if all their native objects are there.
    pub fn finished<'m>(&self, modules: &'m [Indexed]) -> Option<&'m [Indexed]> {
        self.indexed.clone().filter(|_| self.lacks == 0).map(|range| &modules[range])
    }
}

/// Runs the thin links and the backends of all units, as far as they have to run.
pub(super) fn run(session: &mut Session<'_>, units: Vec<UnitRun>) -> Result<Ended> {
    let places = units.iter().enumerate().map(|(place, one)| (one.unit.qualifier(), place));
    let given = session.executor.take();
    let mut queue = Queue {
        places: places.collect(),
        chosen: given.is_some(),
        executor: Current::new(given),
        session,
        units,
        linker: None,
        backends: None,
        cache: None,
        looked_for_cache: false,
        answers: Answers::new(),
        fresh: false,
        modules: Vec::new(),
        tasks: Vec::new(),
        links: VecDeque::new(),
        objects: VecDeque::new(),
        ready: BinaryHeap::new(),
        in_flight: BTreeMap::new(),
        threads: Vec::new(),
        link_error: None,
        ran: Ran::default(),
    };
    queue.look_at_links()?;
    queue.plan_known()?;
    (0..queue.units.len()).try_for_each(|place| queue.complete(place))?;
    let failed = if queue.session.settings.dry_run { 0 } else { queue.run_all()? };
    let error = match failed {
        0 => None,
        failed => {
            let total = queue.ran.backends;
            let error = match queue.session.settings.archives.is_empty() {
                true => Error::Modules { failed },
                false => Error::Backends { failed, total },
            };
            Some(queue.link_error.take().unwrap_or(error))
        }
    };
    let (units, modules) = (std::mem::take(&mut queue.units), std::mem::take(&mut queue.modules));
    let (ran, backends) = (std::mem::take(&mut queue.ran), queue.backends.take());
    Ok(Ended { units, modules, ran, backends, error })
}

impl Queue<'_, '_> {
    /// Something runs, or is ready to.
    fn is_busy(&self) -> bool {
        let waits = [self.ready.is_empty(), self.links.is_empty(), self.objects.is_empty()];
        !self.in_flight.is_empty() || waits.contains(&false)
    }

    /// Runs all that may run, and what becomes ready on the way. Returns how many jobs failed.
    fn run_all(&mut self) -> Result<usize> {
        let runner = Runner {
            slots: self.session.slots,
            interrupts: self.session.interrupts,
            keep_going: self.session.settings.keep_going,
        };
        let mut executor = self.executor.clone();
        let ended = runner.run(&mut executor, self);
        choose_executor::pass_on_notes(self.session, &self.executor);
        ended
    }

    fn start_link(&mut self, link: &Link) -> Result<Action> {
        // One alone has threads for all slots that are free; beside others, it has the one it runs on.
        if !self.is_busy() {
            self.threads = self.session.slots.try_acquire_up_to(cores() - 1);
        }
        let one = &self.units[link.place];
        let threads = 1 + self.threads.len();
        let folder = link.place.to_string();
        let of = (&one.unit, one.members.as_slice());
        links::begin(self.session, &link.linker, of, (&link.scratch, &folder), threads)
    }

    /// What comes of a thin link: the backends that it asks for.
    ///
    /// What the linker had to say would be lost with a link out of the cache: one that said something is
    /// not put there.
    fn link_ended(&mut self, link: &Link, judged: Result<()>, was_silent: bool) -> Result<bool> {
        let made = judged.and_then(|()| self.take_link(link));
        match made {
            Ok(modules) => {
                if was_silent && link.linker.unidentified.is_none() {
                    let unit = &self.units[link.place].unit;
                    cached_links::give(self.session, &mut self.cache, unit, link.key, &modules);
                }
                self.ran.linked = true;
                let start = self.modules.len();
                self.set_modules(link.place, modules);
                let jobs = self.plan(start..self.modules.len())?;
                self.add(jobs)?;
                self.complete(link.place)?;
                Ok(true)
            }
            // The others are worth going on for, if there are any.
            Err(error) if self.session.settings.keep_going && self.units.len() > 1 => {
                self.session.listener.on(&Event::Failure(&error.to_string()));
                self.link_error.get_or_insert(error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn take_link(&mut self, link: &Link) -> Result<Vec<Indexed>> {
        let one = &self.units[link.place];
        let folder = link.place.to_string();
        let of = (&one.unit, one.members.as_slice());
        links::take(self.session, &link.linker, of, (&link.scratch, &folder), link.key)
    }

    /// Starts the fork server, and asks the driver, where that pays: on the slot of the backend that
    /// is about to run.
    fn make_ready(&mut self) {
        let Some(backends) = &self.backends else {
            return;
        };
        let choice = self.session.settings.executor;
        if !self.chosen && choose_executor::is_enough(choice, self.ready.len()) {
            self.chosen = true;
            choose_executor::choose(self.session, &backends.compiler, &self.executor);
        }
        if self.chosen && std::mem::take(&mut self.fresh) {
            let waiting: BTreeSet<usize> = self.ready.iter().map(|(_, number)| number.0).collect();
            let tasks = self.tasks.iter_mut().enumerate();
            let jobs = tasks.filter_map(|(number, task)| match task {
                Task::Backend { job, .. } if waiting.contains(&number) => Some(&mut **job),
                _ => None,
            });
            let mut jobs: Vec<&mut Job> = jobs.collect();
            let (settings, answers) = (self.session.settings, &mut self.answers);
            let skipped = skip_driver::skip(backends, &self.executor, settings, &mut jobs, answers);
            if skipped > 0 {
                let text = format!("{skipped} backends begin at cc1, past the compiler's driver");
                self.session.listener.on(&Event::Note(&text));
            }
        }
    }

    fn start_backend(&mut self, number: usize) -> Result<Option<Action>> {
        let (Task::Backend { job, .. }, Some(backends)) = (&self.tasks[number], &self.backends)
        else {
            return Ok(None);
        };
        backends.announce(self.session, job);
        backends.action(self.session.settings, &self.session.store, job).map(Some)
    }

    fn backend_ended(
        &mut self,
        (unit, job): (usize, &Job),
        outcome: io::Result<Outcome>,
        slot: Option<usize>,
    ) -> Result<bool> {
        let Some(backends) = &self.backends else {
            return Ok(true);
        };
        if let Ok(outcome) = &outcome
            && !outcome.output.is_empty()
        {
            self.session.listener.on(&Event::Output(&outcome.output));
        }
        let usage = outcome.as_ref().ok().map(|outcome| outcome.usage);
        let judged = backends.judge(&self.session.store, job, outcome);
        tell_end(self.session, slot, judged.is_ok(), usage);
        match judged {
            Ok(native) => {
                let store = &mut self.session.store;
                backends.check_compiler(store)?;
                backends.accept(store, job, native, usage.as_ref().map(backends::cost))?;
                cached::give(self.session, &mut self.cache, job);
                self.ran.rebuilt.insert(job.part().clone());
                self.units[unit].lacks -= 1;
                self.complete(unit)?;
                Ok(true)
            }
            Err(sentence) => {
                backends::remove_aside(self.session, job);
                self.session.listener.on(&Event::Failure(&sentence));
                Ok(false)
            }
        }
    }

    fn object_ended(
        &mut self,
        job: &objects::Job,
        outcome: io::Result<Outcome>,
        slot: Option<usize>,
    ) -> Result<bool> {
        let usage = outcome.as_ref().ok().map(|outcome| outcome.usage);
        let made = objects::take(self.session, job, outcome)?;
        tell_end(self.session, slot, made.is_ok(), usage);
        match &made {
            Ok(()) => self.ran.linked = true,
            Err(sentence) => self.session.listener.on(&Event::Failure(sentence)),
        }
        Ok(made.is_ok())
    }

    /// Tells the listener that a job runs, and on which of its rows.
    fn tell_start(&mut self, number: usize, kind: JobKind) {
        let slot = free_slot(self.in_flight.values().copied());
        self.in_flight.insert(number, slot);
        let label = match &self.tasks[number] {
            Task::Link(link) => self.units[link.place].unit.outputs.indexed.as_str().into(),
            Task::Backend { job, .. } => job.part().label(),
            Task::Object(job) => job.object().into(),
            Task::Ended => return,
        };
        let verb = if kind == JobKind::Backend { "CC" } else { "LD" };
        self.session.listener.on(&Event::Started(Started { slot, kind, verb, object: &label }));
    }
}

/// Tells the listener that a job has ended.
fn tell_end(session: &mut Session<'_>, slot: Option<usize>, is_good: bool, usage: Option<Usage>) {
    if let Some(slot) = slot {
        let ending = if is_good { Ending::Good } else { Ending::Failed };
        session.listener.on(&Event::Ended { slot, ending, usage });
    }
}

/// Tells the listener what has to be made.
fn announce_plan(session: &mut Session<'_>, modules: &[Indexed], planned: &[Planned]) {
    let cost = |part| session.store.backend(part).and_then(|record| record.cost);
    let backends = planned.iter().map(|one| Backend {
        part: &one.part,
        size: one.size,
        due: &one.due,
        expected: cost(&one.part).map(|cost| Duration::from_millis(cost.wall.into())),
    });
    let backends: Vec<Backend<'_>> = backends.collect();
    session.listener.on(&Event::Planned { modules, backends: &backends });
}

impl Work for Queue<'_, '_> {
    fn next(&mut self) -> Result<Option<(usize, Action)>> {
        if let Some(link) = self.links.pop_front() {
            let what = self.start_link(&link)?;
            let number = self.tasks.len();
            self.tasks.push(Task::Link(link));
            self.tell_start(number, JobKind::ThinLink);
            return Ok(Some((number, what)));
        }
        if let Some(job) = self.objects.pop_front() {
            let what = objects::begin(self.session, &job)?;
            let number = self.tasks.len();
            self.tasks.push(Task::Object(Box::new(job)));
            self.tell_start(number, JobKind::Step);
            return Ok(Some((number, what)));
        }
        if self.ready.is_empty() {
            return Ok(None);
        }
        self.make_ready();
        let Some((_, Reverse(number))) = self.ready.pop() else {
            return Ok(None);
        };
        let what = self.start_backend(number)?;
        self.tell_start(number, JobKind::Backend);
        Ok(what.map(|what| (number, what)))
    }

    fn next_memory(&self) -> u64 {
        let alone = self.links.is_empty() && self.objects.is_empty();
        let next = self.ready.peek().filter(|_| alone);
        match next.map(|(_, number)| &self.tasks[number.0]) {
            Some(Task::Backend { job, .. }) => job.memory(),
            _ => 0,
        }
    }

    fn warn(&mut self, text: &str) {
        self.session.warn(text);
    }

    fn done(&mut self, number: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        let slot = self.in_flight.remove(&number);
        match std::mem::replace(&mut self.tasks[number], Task::Ended) {
            Task::Backend { unit, job } => self.backend_ended((unit, &job), outcome, slot),
            Task::Link(link) => {
                self.threads.clear();
                let usage = outcome.as_ref().ok().map(|outcome| outcome.usage);
                let was_silent = outcome.as_ref().is_ok_and(|outcome| outcome.output.is_empty());
                let judged = links::judge(self.session, &link.linker.text, outcome);
                tell_end(self.session, slot, judged.is_ok(), usage);
                self.link_ended(&link, judged, was_silent)
            }
            Task::Object(job) => self.object_ended(&job, outcome, slot),
            Task::Ended => Ok(true),
        }
    }
}

impl Drop for Queue<'_, '_> {
    /// What was cut short leaves nothing behind.
    fn drop(&mut self) {
        for number in std::mem::take(&mut self.in_flight).into_keys() {
            match &self.tasks[number] {
                Task::Backend { job, .. } => backends::remove_aside(self.session, job),
                Task::Object(job) => objects::remove_aside(&self.session.store, job),
                Task::Link(_) | Task::Ended => {}
            }
        }
    }
}

/// The lowest number that no running job has.
fn free_slot(taken: impl Iterator<Item = usize>) -> usize {
    let taken: BTreeSet<usize> = taken.collect();
    (0..).find(|slot| !taken.contains(slot)).unwrap_or_default()
}
