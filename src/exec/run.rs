//! Runs jobs under slots, and beside them those that other machines have room for: one loop over signals,
//! tokens, children and jobs elsewhere. Stops at the first failure unless told to go on, ends and reaps
//! everything on a signal, and gives every slot back. Must not know what a backend is.

mod elsewhere;

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use self::elsewhere::Elsewhere;
use super::action::Action;
use super::executor::{Capacity, Executor, Job, Machine, is_shortage};
use super::interrupt::Interrupts;
use super::memory::Memory;
use super::pause::Pauses;
use super::poll::poll;
use super::process::Outcome;
use super::slots::{Slot, Slots};
use crate::error::{Error, Result};

/// How long children may take to end after SIGTERM before they get SIGKILL.
const GRACE: Duration = Duration::from_secs(3);
/// How often it is looked at whether a job has to be killed.
const TICK: Duration = Duration::from_millis(250);

/// Who gives jobs and takes results. Calls come one at a time, on the caller's thread.
///
/// Jobs that other machines may run are given by [`Work::next_elsewhere`] too, as long as those have room.
/// One that fails there is asked for again by [`Work::here`] and counts only if it also fails here. When
/// nothing else is left for a free slot, the job that has been elsewhere for the longest time is run here
/// as well; the first good result is taken, and the other job is ended.
pub trait Work {
    /// The next job, when a slot is there for it: a number for it, and what to run. After a
    /// `None` it is asked again when a job has ended: that may be what another waited for.
    ///
    /// # Errors
    /// What ends the run.
    fn next(&mut self) -> Result<Option<(usize, Action)>>;
    /// KiB of memory that the job which `next` would give may need; 0 if nobody knows.
    fn next_memory(&self) -> u64 {
        0
    }
    /// Something that the user has to know of the jobserver.
    fn warn(&mut self, _text: &str) {}
    /// A job has ended. `Ok(false)` means that it failed: no other is started then,
    /// unless the run keeps going.
    ///
    /// # Errors
    /// What ends the run.
    fn done(&mut self, job: usize, outcome: io::Result<Outcome>) -> Result<bool>;

    /// How many jobs are ready that other machines may run.
    fn left_elsewhere(&self) -> usize {
        0
    }
    /// The next job for another machine, as `next`.
    ///
    /// # Errors
    /// What ends the run.
    fn next_elsewhere(&mut self) -> Result<Option<(usize, Action)>> {
        Ok(None)
    }
    /// A job that ended elsewhere; `Ok(true)` means that its result is taken and the job is done. Otherwise
    /// it is run here, which is no failure yet. An error says that the way there is to blame, or with
    /// [`io::ErrorKind::Unsupported`] that this job can only run here.
    ///
    /// # Errors
    /// What ends the run.
    fn done_elsewhere(&mut self, _job: usize, _outcome: io::Result<Outcome>) -> Result<bool> {
        Ok(false)
    }
    /// Whether a free slot may run a job that is elsewhere.
    fn may_race(&self) -> bool {
        true
    }
    /// A job that was started elsewhere, to be run here. In a race it runs there still: what it
    /// writes here has to have other names.
    ///
    /// # Errors
    /// What ends the run.
    fn here(&mut self, _job: usize, _race: bool) -> Result<Option<Action>> {
        Ok(None)
    }
    /// KiB of memory that a job may need which was started elsewhere.
    fn memory(&self, _job: usize) -> u64 {
        0
    }
    /// A job on this machine, or on another one, was ended: the other one of the race has won, or all is
    /// ended. Nobody is told of its outcome.
    fn dropped(&mut self, _job: usize, _from: Machine) {}
}

/// How a run is to be made.
#[derive(Debug)]
pub struct Runner<'a> {
    /// Where slots come from.
    pub slots: &'a Slots,
    /// Signals that end the run.
    pub interrupts: &'a Interrupts,
    /// Go on after a failure (`-k`).
    pub keep_going: bool,
}

/// A job that runs here, and the slot it runs on, if it needs one. The order of the fields is the
/// order of their drops: a child is reaped before its slot goes back.
struct Active {
    running: Box<dyn Job>,
    number: usize,
    what: Action,
    /// KiB that it may need.
    memory: u64,
    /// It failed before, started in another way.
    again: bool,
    /// Its descriptor was readable at the last wait.
    may_have_ended: bool,
    _slot: Option<Slot>,
}

/// A job that could not be started yet.
struct Pending {
    number: usize,
    what: Action,
    memory: u64,
}

/// What a run has come to.
struct Progress<'a> {
    slots: &'a Slots,
    keep_going: bool,
    executor: &'a mut dyn Executor,
    work: &'a mut dyn Work,
    active: Vec<Active>,
    elsewhere: Elsewhere<'a>,
    pending: Option<Pending>,
    /// There is no other job, until one has ended.
    exhausted: bool,
    failed: usize,
    fatal: Option<Error>,
    memory: Memory,
}

/// What keeps the next job from being started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lacks {
    /// There is none, or it must not start.
    Job,
    /// A slot.
    Slot,
    /// Something that another of ours gives back when it ends: memory, a place.
    Room,
}

/// What is started here next.
#[derive(Clone, Copy)]
enum Next {
    /// What could not be started before.
    Pending,
    /// What failed elsewhere.
    Again(usize),
    /// Another job.
    New,
    /// One that is elsewhere, to see who is first.
    Race(usize),
}

impl Runner<'_> {
    /// Runs all jobs of `work`, each started by `executor`. Returns the number that failed.
    ///
    /// # Errors
    /// A signal, or what [`Work::done`] says ends the run; all jobs have ended then.
    pub fn run(&self, executor: &mut dyn Executor, work: &mut dyn Work) -> Result<usize> {
        self.run_with(executor, None, work)
    }

    /// The same with other machines, which take as many jobs as their executor has room for at the time
    /// ([`Capacity::Jobs`]), and none of them a slot.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub fn run_with(
        &self,
        executor: &mut dyn Executor,
        elsewhere: Option<&mut dyn Executor>,
        work: &mut dyn Work,
    ) -> Result<usize> {
        let mut run = Progress {
            slots: self.slots,
            keep_going: self.keep_going,
            executor,
            work,
            active: Vec::new(),
            elsewhere: Elsewhere::new(elsewhere.map(|one| one as &mut dyn Executor)),
            pending: None,
            exhausted: false,
            failed: 0,
            fatal: None,
            memory: Memory::default(),
        };
        let pauses = Pauses::catch()?;
        let (mut looked, mut may_pause) = (Instant::now(), true);
        loop {
            if let Some(signal) = self.interrupts.signal() {
                self.stop(&mut run);
                return Err(Error::Interrupted(signal));
            }
            if may_pause && pause(&pauses, &mut run.active) {
                continue;
            }
            let lacks = run.start_all();
            if run.is_over() {
                return run.fatal.map_or(Ok(run.failed), Err);
            }
            self.slots.take_warnings().iter().for_each(|text| run.work.warn(text));
            may_pause = self.wait(&mut run, &pauses, lacks == Lacks::Slot);
            run.take_ended_elsewhere();
            run.take_ended();
            if looked.elapsed() >= TICK {
                looked = Instant::now();
                run.end_hopeless();
            }
        }
    }

    /// Sleeps until a signal, a token or a lower load (if a slot is wanted), or the end of a job.
    /// Marks the jobs that may have ended, and says whether a stop may have been asked for.
    fn wait(&self, run: &mut Progress<'_>, pauses: &Pauses, wants_slot: bool) -> bool {
        let executor = run.executor.waits_for();
        let (token, time) = match wants_slot {
            true => (self.slots.wait_fd(), self.slots.wait_time()),
            false => (None, None),
        };
        let jobs = run.active.iter().map(|one| one.running.as_fd());
        let jobs = jobs.chain(run.elsewhere.descriptors());
        let others = [self.interrupts.as_fd(), pauses.as_fd()].into_iter().chain(token);
        let descriptors = jobs.chain(others).chain(executor.iter().map(|one| one.as_fd()));
        // Now and then a look at what they write, and at who has room again, which wakes nobody.
        let ticks = !run.active.is_empty() || run.elsewhere.is_possible();
        let time = time.into_iter().chain(ticks.then_some(TICK)).min();
        let mut ready = poll(descriptors, time).into_iter();
        let here = run.active.iter_mut();
        here.zip(ready.by_ref()).for_each(|(one, ready)| one.may_have_ended = ready);
        run.elsewhere.mark(&mut ready);
        if executor.is_some() {
            run.executor.look();
        }
        ready.nth(1).unwrap_or(true)
    }

    /// Ends all children: SIGTERM, and SIGKILL after the grace or at a second signal. What
    /// they started themselves ends with them at the latest. Jobs elsewhere are cancelled at once.
    fn stop(&self, run: &mut Progress<'_>) {
        // From here on a second signal is for us to act on: it ends the children at once.
        self.interrupts.take_over();
        self.interrupts.drain();
        let deadline = Instant::now() + GRACE;
        let active = &mut run.active;
        active.iter().for_each(|a| a.running.cancel());
        run.elsewhere.end_all();
        let mut now = false;
        loop {
            // A drop kills what is left of the child's group, and reaps the child.
            active.retain(|one| !now && !one.running.has_ended());
            if active.is_empty() {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let children = active.iter().map(|a| a.running.as_fd());
            poll(std::iter::once(self.interrupts.as_fd()).chain(children), Some(left));
            now = left.is_zero() || self.interrupts.drain();
        }
    }
}

impl Progress<'_> {
    /// No other job is started.
    fn is_stopped(&self) -> bool {
        self.fatal.is_some() || self.failed > 0 && !self.keep_going
    }

    /// Nothing runs any more, and nothing else is to be started. What is elsewhere when a run has failed
    /// has as long as the jobs here.
    fn is_over(&mut self) -> bool {
        if !self.active.is_empty() {
            return false;
        }
        if self.is_stopped() {
            let ended = self.elsewhere.end_all();
            ended.into_iter().for_each(|number| self.work.dropped(number, Machine::Other));
            return true;
        }
        let waits = self.work.left_elsewhere() > 0;
        self.exhausted && self.pending.is_none() && self.elsewhere.is_over() && !waits
    }

    /// Starts as many jobs as there is room for, and says what the next one lacks here.
    fn start_all(&mut self) -> Lacks {
        // What was left to other machines may have to run here by now.
        self.exhausted &= self.work.left_elsewhere() == 0;
        // Beginning here may take a moment. With work for all, nobody waits for that.
        if self.elsewhere.room() < self.work.left_elsewhere() {
            self.start_elsewhere();
        }
        let lacks = self.start_here();
        self.start_elsewhere();
        lacks
    }

    fn start_here(&mut self) -> Lacks {
        while let Some((next, need)) = self.choose().filter(|_| !self.is_stopped()) {
            if let Some(lacks) = self.has_room(need) {
                return lacks;
            }
            let slot = match self.executor.capacity() {
                Capacity::Slots => match self.slots.try_acquire() {
                    Some(slot) => Some(slot),
                    None => return if self.pending.is_none() { Lacks::Slot } else { Lacks::Room },
                },
                Capacity::Jobs(_) => None,
            };
            match self.obtain(next, need) {
                Ok(Some(job)) => {
                    if !self.start(job, slot) {
                        return Lacks::Room;
                    }
                }
                Ok(None) => self.exhausted = true,
                Err(error) => self.end_with(error),
            }
        }
        Lacks::Job
    }

    /// What is to be started here next, and what memory it needs.
    fn choose(&self) -> Option<(Next, u64)> {
        if let Some(one) = &self.pending {
            return Some((Next::Pending, one.memory));
        }
        if let Some(number) = self.elsewhere.first_failed() {
            return Some((Next::Again(number), self.work.memory(number)));
        }
        if !self.exhausted {
            return Some((Next::New, self.work.next_memory()));
        }
        let number = self.elsewhere.longest().filter(|_| self.work.may_race())?;
        Some((Next::Race(number), self.work.memory(number)))
    }

    fn obtain(&mut self, next: Next, memory: u64) -> Result<Option<Pending>> {
        let found = match next {
            Next::Pending => return Ok(self.pending.take()),
            Next::New => self.work.next()?,
            Next::Again(number) => {
                self.elsewhere.take_failed();
                self.work.here(number, false)?.map(|what| (number, what))
            }
            Next::Race(number) => {
                self.elsewhere.note_race(number);
                self.work.here(number, true)?.map(|what| (number, what))
            }
        };
        Ok(found.map(|(number, what)| Pending { number, what, memory }))
    }

    /// Whether another job has a place with the executor, and memory where it runs here. One always
    /// runs: there may be more room than it seems.
    fn has_room(&mut self, need: u64) -> Option<Lacks> {
        let running = &self.active;
        let room = match self.executor.capacity() {
            Capacity::Jobs(most) => running.len() < most.max(1),
            Capacity::Slots if self.pending.is_some() || running.is_empty() => true,
            Capacity::Slots => {
                let here = running.iter().filter(|a| a.running.is_here());
                let here = here.map(|a| (a.running.process(), a.memory));
                self.memory.has_room(need, here)
            }
        };
        (!room).then_some(Lacks::Room)
    }

    /// Starts a job; false if it has to wait until another has ended.
    fn start(&mut self, job: Pending, slot: Option<Slot>) -> bool {
        match self.executor.start(&job.what) {
            Ok(running) => {
                let Pending { number, what, memory } = job;
                self.active.push(Active {
                    running,
                    number,
                    what,
                    memory,
                    again: false,
                    may_have_ended: false,
                    _slot: slot,
                });
            }
            // Out of processes or memory for now.
            Err(e) if is_shortage(&e) && !self.active.is_empty() => {
                self.pending = Some(job);
                return false;
            }
            Err(e) => self.ended_here(job.number, Err(e)),
        }
        true
    }

    /// Passes a result on, and counts it. The first error is kept.
    fn settle(&mut self, number: usize, outcome: io::Result<Outcome>) {
        match self.work.done(number, outcome) {
            Ok(good) => self.failed += usize::from(!good),
            Err(error) => self.end_with(error),
        }
    }

    fn end_with(&mut self, error: Error) {
        self.fatal.get_or_insert(error);
        self.failed += 1;
    }

    fn end_hopeless(&self) {
        let hopeless = self.active.iter().filter(|a| a.running.is_hopeless());
        hopeless.for_each(|a| a.running.signal(Signal::KILL));
    }

    /// Takes the jobs that have ended off the list; their slots go back before anybody is told.
    fn take_ended(&mut self) {
        let mut ended = Vec::new();
        for mut one in std::mem::take(&mut self.active) {
            if !one.may_have_ended {
                self.active.push(one);
                continue;
            }
            match one.running.try_finish() {
                Ok(None) => self.active.push(one),
                Ok(Some(outcome)) => match self.try_again(one, &outcome) {
                    Ok(one) => self.active.push(one),
                    Err(number) => ended.push((number, Ok(outcome))),
                },
                Err(error) => ended.push((one.number, Err(error))),
            }
        }
        for (number, outcome) in ended {
            self.exhausted = false;
            self.elsewhere.look_again();
            self.ended_here(number, outcome);
        }
    }

    /// A job that ended, started again on its slot if the executor knows another way; else its
    /// number.
    fn try_again(&mut self, one: Active, outcome: &Outcome) -> Result<Active, usize> {
        let good = outcome.status.success();
        if good && one.again {
            self.executor.first_try_was_wrong(&one.what);
        }
        if good || one.again || !one.running.is_in_doubt() {
            return Err(one.number);
        }
        match self.executor.second_try(&one.what, outcome) {
            Some(Ok(running)) => Ok(Active { running, again: true, may_have_ended: false, ..one }),
            _ => Err(one.number),
        }
    }
}

/// Stops all for as long as we are stopped, if that was asked for.
fn pause(pauses: &Pauses, active: &mut [Active]) -> bool {
    let time = pauses.take(active.iter().map(|one| one.running.as_ref()));
    if let Some(time) = time {
        active.iter_mut().for_each(|one| one.running.was_stopped(time));
    }
    time.is_some()
}

#[cfg(test)]
mod tests;
