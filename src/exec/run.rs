//! Runs jobs under slots: one loop over signals, tokens and children. Stops at the first
//! failure unless told to go on, ends and reaps everything on a signal, and gives every
//! slot back. Must not know what a backend is.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::action::Action;
use super::executor::{Capacity, Executor, Job};
use super::interrupt::Interrupts;
use super::memory::Memory;
use super::pause::Pauses;
use super::poll::poll;
use super::process::Outcome;
use super::slots::{Slot, Slots};
use crate::error::{Error, Result};

/// How long children may take to end after SIGTERM before they get SIGKILL.
const GRACE: Duration = Duration::from_secs(3);
/// How often it is looked at whether a child writes without end.
const TICK: Duration = Duration::from_millis(250);

/// Who gives jobs and takes results. Calls come one at a time, on the caller's thread.
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

/// A job that runs, and the slot it runs on, if it needs one. The order of the fields is the
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

impl Runner<'_> {
    /// Runs all jobs of `work`, each started by `executor`. Returns the number that failed.
    ///
    /// # Errors
    /// A signal, or what [`Work::done`] says ends the run; all jobs have ended then.
    pub fn run(&self, executor: &mut dyn Executor, work: &mut dyn Work) -> Result<usize> {
        let mut run = Progress {
            slots: self.slots,
            keep_going: self.keep_going,
            executor,
            work,
            active: Vec::new(),
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
                self.stop(&mut run.active);
                return Err(Error::Interrupted(signal));
            }
            if may_pause && pause(&pauses, &mut run.active) {
                continue;
            }
            let lacks = run.start_all();
            if run.active.is_empty() && (run.is_stopped() || run.exhausted) {
                return run.fatal.map_or(Ok(run.failed), Err);
            }
            self.slots.take_warnings().iter().for_each(|text| run.work.warn(text));
            may_pause = self.wait(&mut run.active, &pauses, lacks == Lacks::Slot);
            if looked.elapsed() >= TICK {
                looked = Instant::now();
                run.end_endless();
            }
            run.take_ended();
        }
    }

    /// Sleeps until a signal, a token or a lower load (if a slot is wanted), or the end of a child.
    /// Marks the jobs that may have ended, and says whether a stop may have been asked for.
    fn wait(&self, active: &mut [Active], pauses: &Pauses, wants_slot: bool) -> bool {
        let (token, time) = match wants_slot {
            true => (self.slots.wait_fd(), self.slots.wait_time()),
            false => (None, None),
        };
        let jobs = active.iter().map(|a| a.running.as_fd());
        let descriptors = jobs.chain([self.interrupts.as_fd(), pauses.as_fd()]).chain(token);
        // Now and then a look at what they write, which wakes nobody.
        let tick = (!active.is_empty()).then_some(TICK);
        let time = time.into_iter().chain(tick).min();
        let mut ready = poll(descriptors, time).into_iter();
        active.iter_mut().zip(ready.by_ref()).for_each(|(one, ready)| one.may_have_ended = ready);
        ready.nth(1).unwrap_or(true)
    }

    /// Ends all children: SIGTERM, and SIGKILL after the grace or at a second signal. What
    /// they started themselves ends with them at the latest.
    fn stop(&self, active: &mut Vec<Active>) {
        // From here on a second signal is for us to act on: it ends the children at once.
        self.interrupts.take_over();
        self.interrupts.drain();
        let deadline = Instant::now() + GRACE;
        active.iter().for_each(|a| a.running.cancel());
        while !active.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let children = active.iter().map(|a| a.running.as_fd());
            poll(std::iter::once(self.interrupts.as_fd()).chain(children), Some(left));
            let now = left.is_zero() || self.interrupts.drain();
            // A drop kills what is left of the child's group, and reaps the child.
            active.retain(|one| !now && !one.running.has_ended());
        }
    }
}

impl Progress<'_> {
    /// No other job is started.
    fn is_stopped(&self) -> bool {
        self.fatal.is_some() || self.failed > 0 && !self.keep_going
    }

    /// Starts as many jobs as there is room for, and says what the next one lacks.
    fn start_all(&mut self) -> Lacks {
        while !self.is_stopped() && !self.exhausted {
            let need =
                self.pending.as_ref().map_or_else(|| self.work.next_memory(), |one| one.memory);
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
            let job = match self.pending.take() {
                Some(job) => Ok(Some(job)),
                None => self
                    .work
                    .next()
                    .map(|next| next.map(|(number, what)| Pending { number, what, memory: need })),
            };
            match job {
                Ok(Some(job)) => {
                    if !self.start(job, slot) {
                        return Lacks::Room;
                    }
                }
                Ok(None) => self.exhausted = true,
                Err(error) => {
                    self.fatal.get_or_insert(error);
                    self.failed += 1;
                }
            }
        }
        Lacks::Job
    }

    /// Whether another job has a place with the executor, and memory where it runs here. One always
    /// runs: there may be more room than it seems.
    fn has_room(&mut self, need: u64) -> Option<Lacks> {
        let running = &self.active;
        let room = match self.executor.capacity() {
            Capacity::Jobs(most) => running.len() < most.max(1),
            Capacity::Slots if self.pending.is_some() || running.is_empty() => true,
            Capacity::Slots => {
                let here = running.iter().filter_map(|a| Some((a.running.process()?, a.memory)));
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
            Err(e) => self.settle(job.number, Err(e)),
        }
        true
    }

    /// Passes a result on, and counts it. The first error is kept.
    fn settle(&mut self, number: usize, outcome: io::Result<Outcome>) {
        match self.work.done(number, outcome) {
            Ok(good) => self.failed += usize::from(!good),
            Err(error) => {
                self.fatal.get_or_insert(error);
                self.failed += 1;
            }
        }
    }

    fn end_endless(&self) {
        let endless = self.active.iter().filter(|a| a.running.writes_without_end());
        endless.for_each(|a| a.running.signal(Signal::KILL));
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
            self.settle(number, outcome);
        }
    }

    /// A job that ended, started again on its slot if the executor knows another way; else its
    /// number.
    fn try_again(&mut self, one: Active, outcome: &Outcome) -> Result<Active, usize> {
        let good = outcome.status.success();
        if good && one.again {
            self.executor.first_try_was_wrong();
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

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory)
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::path::Path;

    use super::*;
    use crate::exec::executor::Processes;
    use crate::exec::process::{Invocation, Running};

    /// Runs shells, as another machine would: none of them needs a slot of ours.
    struct Elsewhere {
        most: usize,
        started: usize,
        second: usize,
    }

    /// A shell whose failure may be that of the machine.
    struct Doubtful(Running);

    impl AsFd for Doubtful {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl Job for Doubtful {
        fn try_finish(&mut self) -> io::Result<Option<Outcome>> {
            self.0.try_finish()
        }

        fn has_ended(&self) -> bool {
            self.0.has_ended()
        }

        fn cancel(&self) {
            self.0.cancel();
        }

        fn is_in_doubt(&self) -> bool {
            true
        }
    }

    impl Executor for Elsewhere {
        fn capacity(&self) -> Capacity {
            Capacity::Jobs(self.most)
        }

        fn start(&mut self, what: &Action) -> io::Result<Box<dyn Job>> {
            self.started += 1;
            Ok(Box::new(Doubtful(Running::start(&what.command)?)))
        }

        fn second_try(&mut self, _: &Action, _: &Outcome) -> Option<io::Result<Box<dyn Job>>> {
            self.second += 1;
            Some(Processes.start(&Invocation::new(["true"], Path::new(".")).into()))
        }
    }

    /// So many equal jobs; how many run now, and how many did at most.
    struct Jobs {
        script: &'static str,
        left: usize,
        running: usize,
        most: usize,
        good: usize,
    }

    impl Jobs {
        fn new(script: &'static str, left: usize) -> Self {
            Jobs { script, left, running: 0, most: 0, good: 0 }
        }
    }

    impl Work for Jobs {
        fn next(&mut self) -> Result<Option<(usize, Action)>> {
            let Some(left) = self.left.checked_sub(1) else {
                return Ok(None);
            };
            self.left = left;
            self.running += 1;
            self.most = self.most.max(self.running);
            let what = Invocation::new(["sh", "-c", self.script], Path::new("."));
            Ok(Some((self.left, what.into())))
        }

        fn done(&mut self, _: usize, outcome: io::Result<Outcome>) -> Result<bool> {
            self.running -= 1;
            let good = outcome.is_ok_and(|outcome| outcome.status.success());
            self.good += usize::from(good);
            Ok(good)
        }
    }

    fn run(executor: &mut dyn Executor, work: &mut Jobs) -> usize {
        let (slots, interrupts) = (Slots::local(1), Interrupts::catch().unwrap());
        let runner = Runner { slots: &slots, interrupts: &interrupts, keep_going: true };
        let held = slots.try_acquire();
        assert!(held.is_some() || work.left == 0);
        drop(held.filter(|_| matches!(executor.capacity(), Capacity::Slots)));
        runner.run(executor, work).unwrap()
    }

    #[test]
    fn an_executor_that_needs_no_slots_has_as_many_jobs_as_it_can_hold() {
        let mut elsewhere = Elsewhere { most: 3, started: 0, second: 0 };
        let mut work = Jobs::new("sleep 0.05", 7);
        assert_eq!(run(&mut elsewhere, &mut work), 0);
        assert_eq!((work.most, work.good, elsewhere.started), (3, 7, 7));
        let mut work = Jobs::new("sleep 0.01", 3);
        assert_eq!((run(&mut Processes, &mut work), work.most), (0, 1), "one slot, one process");
    }

    #[test]
    fn an_executor_decides_about_a_second_try_and_there_is_no_third() {
        let mut elsewhere = Elsewhere { most: 2, started: 0, second: 0 };
        let mut work = Jobs::new("exit 3", 4);
        assert_eq!(run(&mut elsewhere, &mut work), 0);
        assert_eq!((work.good, elsewhere.started, elsewhere.second), (4, 4, 4));
        let mut work = Jobs::new("exit 3", 2);
        assert_eq!(run(&mut Processes, &mut work), 2, "a process is in no doubt");
    }
}
