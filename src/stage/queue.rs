//! The jobs of all units in one queue: a thin link where one has to run, and the backends that it asks
//! for once it has ended, the longest first. Must not know how either works.

mod elsewhere;
mod linked;
mod ready;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::backends::{self, Backends, Job, Way};
use super::choose_executor::{self, Current, Elsewhere};
use super::members::Member;
use super::objects::Share;
use super::session::Session;
use super::skip_driver::{self, Answers};
use super::{cached, cached_links, cores, links, objects};
use crate::error::{Error, Result};
use crate::exec::action::Action;
use crate::exec::executor::{Executor, Machine};
use crate::exec::process::{Outcome, RemoteUsage, Usage};
use crate::exec::run::{Runner, Work};
use crate::exec::slots::Slot;
use crate::plan::Planned;
use crate::report::{Backend, Ending, Event, Job as Started, JobKind, Row};
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
    /// The link of a module's object, or a share of that.
    Object(Box<objects::Job>, Share),
    /// It ran.
    Ended,
}

/// Numbers of tasks, by their weight.
type Ready = BinaryHeap<((u64, u64), Reverse<usize>)>;

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
    /// Other machines.
    elsewhere: Elsewhere,
    /// What is known of them.
    state: elsewhere::State,
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
    /// Objects that are linked, and on which the commands after the link may run.
    linked: Vec<objects::Job>,
    /// It was seen whether a fork server of the linker pays.
    chosen_linker: bool,
    /// Backends that may start on any machine: the most expensive first, and of equals the earliest.
    ready: Ready,
    /// Backends that can only run on this one, where there are others too.
    ready_here: Ready,
    /// The rows of the jobs that run, by machine and number.
    in_flight: BTreeMap<(Machine, usize), Row>,
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
    /// How many of them other machines compiled.
    pub rebuilt_remotely: usize,
    /// How many came from caches.
    pub from_cache: usize,
    /// How many of them from other machines.
    pub from_remote_cache: usize,
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
        chosen_linker: given.is_some(),
        executor: Current::new(given),
        elsewhere: Elsewhere::default(),
        state: elsewhere::State::default(),
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
        linked: Vec::new(),
        ready: Ready::new(),
        ready_here: Ready::new(),
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
        let objects = self.objects.is_empty() && self.linked.is_empty();
        let waits = [self.links.is_empty(), objects, self.waiting() == 0];
        !self.in_flight.is_empty() || waits.contains(&false)
    }

    /// Backends that may start.
    fn waiting(&self) -> usize {
        self.ready.len() + self.ready_here.len()
    }

    /// The one of them that starts here next. Those that can only run here go first while others can go
    /// elsewhere.
    fn next_here(&mut self) -> &mut Ready {
        let others = self.elsewhere.takes_jobs() && !self.ready_here.is_empty();
        match others || self.ready_here.peek() > self.ready.peek() {
            true => &mut self.ready_here,
            false => &mut self.ready,
        }
    }

    /// Runs all that may run, and what becomes ready on the way. Returns how many jobs failed.
    fn run_all(&mut self) -> Result<usize> {
        let runner = Runner {
            slots: self.session.slots,
            interrupts: self.session.interrupts,
            keep_going: self.session.settings.keep_going,
        };
        let (mut executor, mut elsewhere) = (self.executor.clone(), self.elsewhere.clone());
        let others = self.session.settings.engine.is_some();
        let others = others.then_some(&mut elsewhere as &mut dyn Executor);
        let ended = runner.run_with(&mut executor, others, self);
        choose_executor::pass_on_notes(self.session, &self.executor);
        self.end_elsewhere();
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
        if !self.chosen && choose_executor::is_enough(choice, self.waiting()) {
            self.chosen = true;
            choose_executor::choose(self.session, &backends.compiler, &self.executor);
        }
        if self.executor.takes_inner() && std::mem::take(&mut self.fresh) {
            choose_executor::pass_on_notes(self.session, &self.executor);
            let waiting = self.ready.iter().chain(&self.ready_here);
            let waiting: BTreeSet<usize> = waiting.map(|(_, number)| number.0).collect();
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

    fn start_backend(&mut self, number: usize, way: Way) -> Result<Option<(usize, Action)>> {
        let (Task::Backend { job, .. }, Some(backends)) = (&self.tasks[number], &self.backends)
        else {
            return Ok(None);
        };
        backends.announce(self.session, job);
        let what = backends.action(self.session.settings, &self.session.store, job, way)?;
        let machine = if way == Way::Elsewhere { Machine::Other } else { Machine::This };
        self.tell_start((machine, number), JobKind::Backend);
        Ok(Some((number, what)))
    }

    fn backend_ended(
        &mut self,
        (unit, job): (usize, &Job),
        outcome: io::Result<Outcome>,
        row: Option<Row>,
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
        tell_end(self.session, row, good_or_not(judged.is_ok()), usage, None);
        match judged {
            Ok(native) => {
                let store = &mut self.session.store;
                backends.check_compiler(store)?;
                cached::give_elsewhere(self.session, backends, &self.elsewhere, job)?;
                let store = &mut self.session.store;
                backends.accept(store, job, native, usage.as_ref().map(backends::cost))?;
                self.backend_is_good(unit, job)?;
                Ok(true)
            }
            Err(sentence) => {
                backends::remove_aside(self.session, job);
                self.session.listener.on(&Event::Failure(&sentence));
                Ok(false)
            }
        }
    }

    /// What follows once a backend's object is in its place.
    fn backend_is_good(&mut self, unit: usize, job: &Job) -> Result<()> {
        cached::give(self.session, &mut self.cache, job);
        self.ran.rebuilt.insert(job.part().clone());
        self.units[unit].lacks -= 1;
        self.complete(unit)
    }

    /// Tells the listener that a job runs, and on which of its rows.
    fn tell_start(&mut self, (machine, number): (Machine, usize), kind: JobKind) {
        let rows = self.in_flight.values().filter(|row| row.machine == machine);
        let row = Row { machine, number: free_slot(rows.map(|row| row.number)) };
        self.in_flight.insert((machine, number), row);
        let label = match &self.tasks[number] {
            Task::Link(link) => self.units[link.place].unit.outputs.indexed.as_str().into(),
            Task::Backend { job, .. } => job.part().label(),
            Task::Object(job, _) => job.object().into(),
            Task::Ended => return,
        };
        let verb = match (kind, &self.tasks[number]) {
            (JobKind::Backend, _) => "CC",
            (_, Task::Object(_, Share::After)) => "OBJTOOL",
            _ => "LD",
        };
        self.session.listener.on(&Event::Started(Started { row, kind, verb, object: &label }));
    }
}

/// Tells the listener that a job has ended.
fn tell_end(
    session: &mut Session<'_>,
    row: Option<Row>,
    ending: Ending,
    usage: Option<Usage>,
    remote: Option<RemoteUsage>,
) {
    if let Some(row) = row {
        session.listener.on(&Event::Ended { row, ending, usage, remote });
    }
}

fn good_or_not(is_good: bool) -> Ending {
    if is_good { Ending::Good } else { Ending::Failed }
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
            self.make_linker_ready(&link.linker, 1 + self.links.len());
            let what = self.start_link(&link)?;
            let number = self.tasks.len();
            self.tasks.push(Task::Link(link));
            self.tell_start((Machine::This, number), JobKind::ThinLink);
            return Ok(Some((number, what)));
        }
        if let Some(started) = self.start_object()? {
            return Ok(Some(started));
        }
        self.look_up_elsewhere()?;
        if self.ready_here.is_empty() && (self.ready.is_empty() || self.elsewhere.takes_all()) {
            // What came out of a cache may have been the last that a module's object lacked.
            return if self.objects.is_empty() { Ok(None) } else { self.next() };
        }
        self.make_ready();
        match self.next_here().pop() {
            Some((_, Reverse(number))) => self.start_backend(number, Way::Here),
            None => Ok(None),
        }
    }

    fn next_memory(&self) -> u64 {
        let links = [self.links.is_empty(), self.objects.is_empty(), self.linked.is_empty()];
        let alone = !links.contains(&false);
        let next = self.ready.peek().max(self.ready_here.peek()).filter(|_| alone);
        next.map_or(0, |(_, number)| self.memory(number.0))
    }

    fn memory(&self, number: usize) -> u64 {
        match &self.tasks[number] {
            Task::Backend { job, .. } => job.memory(),
            _ => 0,
        }
    }

    fn left_elsewhere(&self) -> usize {
        self.ready.len()
    }

    fn next_elsewhere(&mut self) -> Result<Option<(usize, Action)>> {
        // Thin links go first: all slots are theirs, and what they ask for is looked up at once.
        if !self.links.is_empty() {
            return Ok(None);
        }
        self.look_up_elsewhere()?;
        match self.ready.pop() {
            Some((_, Reverse(number))) => self.start_backend(number, Way::Elsewhere),
            None => Ok(None),
        }
    }

    fn done_elsewhere(&mut self, number: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        self.ended_elsewhere(number, outcome)
    }

    fn may_race(&self) -> bool {
        !self.elsewhere.takes_all()
    }

    fn here(&mut self, number: usize, race: bool) -> Result<Option<Action>> {
        self.start_here(number, race)
    }

    fn dropped(&mut self, number: usize, from: Machine) {
        self.drop_job(number, from);
    }

    fn warn(&mut self, text: &str) {
        self.session.warn(text);
    }

    fn done(&mut self, number: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        let row = self.in_flight.remove(&(Machine::This, number));
        match std::mem::replace(&mut self.tasks[number], Task::Ended) {
            Task::Backend { unit, job } => {
                self.end_race(number, &job);
                let is_good = self.backend_ended((unit, &job), outcome, row)?;
                if is_good {
                    self.compare_failure(number, &job);
                }
                Ok(is_good)
            }
            Task::Link(link) => {
                self.threads.clear();
                let usage = outcome.as_ref().ok().map(|outcome| outcome.usage);
                let was_silent = outcome.as_ref().is_ok_and(|outcome| outcome.output.is_empty());
                let judged = links::judge(self.session, &link.linker.text, outcome);
                tell_end(self.session, row, good_or_not(judged.is_ok()), usage, None);
                self.link_ended(&link, judged, was_silent)
            }
            Task::Object(job, share) => self.object_ended(*job, share, outcome, row),
            Task::Ended => Ok(true),
        }
    }
}

impl Drop for Queue<'_, '_> {
    /// What was cut short leaves nothing behind.
    fn drop(&mut self) {
        for (_, number) in std::mem::take(&mut self.in_flight).into_keys() {
            match &self.tasks[number] {
                Task::Backend { job, .. } => {
                    backends::remove_aside(self.session, job);
                    self.remove_race(number);
                }
                Task::Object(job, _) => objects::remove_aside(&self.session.store, job),
                Task::Link(_) | Task::Ended => {}
            }
        }
        let linked = self.linked.iter();
        linked.for_each(|job| objects::remove_aside(&self.session.store, job));
    }
}

/// The lowest number that no running job has.
fn free_slot(taken: impl Iterator<Item = usize>) -> usize {
    let taken: BTreeSet<usize> = taken.collect();
    (0..).find(|slot| !taken.contains(slot)).unwrap_or_default()
}
