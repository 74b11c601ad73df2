//! Runs jobs under slots: one loop over signals, tokens and children. Stops at the first
//! failure unless told to go on, ends and reaps everything on a signal, and gives every
//! slot back. Must not know what a backend is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;

use super::executor::Executor;
use super::interrupt::Interrupts;
use super::memory::Memory;
use super::pause::Pauses;
use super::process::{Invocation, Outcome, Running};
use super::slots::{Slot, Slots};
use crate::error::{Error, Result};

/// How long children may take to end after SIGTERM before they get SIGKILL.
const GRACE: Duration = Duration::from_secs(3);
/// How often it is looked at whether a child writes without end.
const TICK: Duration = Duration::from_millis(100);

/// Who gives jobs and takes results. Calls come one at a time, on the caller's thread.
pub trait Work {
    /// The next job, when a slot is there for it: a number for it, and what to run. After a
    /// `None` it is asked again when a job has ended: that may be what another waited for.
    fn next(&mut self) -> Option<(usize, Invocation)>;
    /// KiB of memory that the job which `next` would give may need; 0 if nobody knows.
    fn next_memory(&self) -> u64 {
        0
    }
    /// Something that the user has to know of the jobserver.
    fn warn(&mut self, _text: &str) {}
    /// A job has ended. `Ok(false)` means that it failed: no other is started then,
    /// unless the run keeps going. An `Err` ends the run.
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

/// A child, the job it is for, and the slot it runs on. The order of the fields is the
/// order of their drops: the child is reaped before its slot goes back.
struct Active {
    running: Running,
    job: usize,
    what: Invocation,
    /// KiB that it may need.
    memory: u64,
    /// It failed before, started in another way.
    again: bool,
    _slot: Slot,
}

impl Runner<'_> {
    /// Runs all jobs of `work`, each started by `executor`. Returns the number that failed,
    /// or the error that ended the run.
    pub fn run(&self, executor: &mut dyn Executor, work: &mut dyn Work) -> Result<usize> {
        let mut active: Vec<Active> = Vec::new();
        let (mut failed, mut fatal) = (0, None);
        let mut pending: Option<(usize, Invocation, u64)> = None;
        let (mut exhausted, mut memory) = (false, Memory::default());
        let pauses = Pauses::catch()?;
        loop {
            if let Some(signal) = self.interrupts.signal() {
                self.stop(&mut active);
                return Err(Error::Interrupted(signal));
            }
            if pause(&pauses, &mut active) {
                continue;
            }
            let may_start = fatal.is_none() && (failed == 0 || self.keep_going);
            let mut no_room = false;
            while may_start && !exhausted {
                let need = pending.as_ref().map_or_else(|| work.next_memory(), |one| one.2);
                let running = active.iter().map(|a| (a.running.pid(), a.memory));
                // One job always runs: there may be more room than it seems.
                if pending.is_none() && !active.is_empty() && !memory.has_room(need, running) {
                    no_room = true;
                    break;
                }
                let Some(slot) = self.slots.try_acquire() else {
                    break;
                };
                let next = || work.next().map(|(job, what)| (job, what, need));
                match pending.take().or_else(next) {
                    Some((job, what, memory)) => match executor.start(&what) {
                        Ok(running) => {
                            let again = false;
                            active.push(Active { running, job, what, memory, again, _slot: slot });
                        }
                        // Out of processes or memory for now: wait for one of ours to end.
                        Err(e) if is_shortage(&e) && !active.is_empty() => {
                            pending = Some((job, what, memory));
                            break;
                        }
                        Err(e) => failed += settle(work.done(job, Err(e)), &mut fatal),
                    },
                    None => exhausted = true,
                }
                if failed > 0 && !self.keep_going || fatal.is_some() {
                    break;
                }
            }
            let stopped = fatal.is_some() || failed > 0 && !self.keep_going;
            if active.is_empty() && (stopped || exhausted) {
                return fatal.map_or(Ok(failed), Err);
            }
            let wants_slot = may_start && !exhausted && pending.is_none() && !no_room;
            self.slots.take_warnings().iter().for_each(|text| work.warn(text));
            self.wait(&active, &pauses, wants_slot);
            let endless = active.iter().filter(|a| a.running.writes_without_end());
            endless.for_each(|a| a.running.signal(Signal::KILL));
            for ended in take_ended(&mut active, executor) {
                exhausted = false;
                failed += settle(work.done(ended.0, ended.1), &mut fatal);
            }
        }
    }

    /// Sleeps until a signal, a token or a lower load (if a slot is wanted), or the end of a child.
    fn wait(&self, active: &[Active], pauses: &Pauses, wants_slot: bool) {
        let (token, time) = match wants_slot {
            true => (self.slots.wait_fd(), self.slots.wait_time()),
            false => (None, None),
        };
        let descriptors = [self.interrupts.as_fd(), pauses.as_fd()].into_iter().chain(token);
        // Now and then a look at what they write, which wakes nobody.
        let tick = (!active.is_empty()).then_some(TICK);
        let time = time.into_iter().chain(tick).min();
        poll(descriptors.chain(active.iter().map(|a| a.running.as_fd())), time);
    }

    /// Ends all children: SIGTERM, and SIGKILL after the grace or at a second signal. What
    /// they started themselves ends with them at the latest.
    fn stop(&self, active: &mut Vec<Active>) {
        // From here on a second signal is for us to act on: it ends the children at once.
        self.interrupts.take_over();
        self.interrupts.drain();
        let deadline = Instant::now() + GRACE;
        active.iter().for_each(|a| a.running.signal(Signal::TERM));
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

/// Stops all for as long as we are stopped, if that was asked for.
fn pause(pauses: &Pauses, active: &mut [Active]) -> bool {
    let time = pauses.take(active.iter().map(|one| &one.running));
    if let Some(time) = time {
        active.iter_mut().for_each(|one| one.running.was_stopped(time));
    }
    time.is_some()
}

/// Removes the children that have ended from the list; their slots go back here. One that
/// the executor starts again keeps its slot.
fn take_ended(
    active: &mut Vec<Active>,
    executor: &mut dyn Executor,
) -> Vec<(usize, io::Result<Outcome>)> {
    let mut ended = Vec::new();
    active.retain_mut(|one| {
        let outcome = match one.running.try_finish() {
            Ok(None) => return true,
            Ok(Some(outcome)) => outcome,
            Err(error) => {
                ended.push((one.job, Err(error)));
                return false;
            }
        };
        let good = outcome.status.success();
        if good && one.again {
            executor.was_the_cause();
        } else if !good
            && !one.again
            && one.running.is_forked()
            && let Some(Ok(running)) = executor.start_again(&one.what, &outcome)
        {
            (one.running, one.again) = (running, true);
            return true;
        }
        ended.push((one.job, Ok(outcome)));
        false
    });
    ended
}

/// Counts a result: 1 for a failure. The first error is kept.
fn settle(result: Result<bool>, fatal: &mut Option<Error>) -> usize {
    match result {
        Ok(good) => usize::from(!good),
        Err(error) => {
            fatal.get_or_insert(error);
            1
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory)
}

/// Waits until one of the descriptors is readable. A signal ends the wait too.
fn poll<'a>(descriptors: impl Iterator<Item = BorrowedFd<'a>>, timeout: Option<Duration>) {
    let mut set: Vec<PollFd<'_>> =
        descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
    // Interrupted, or short of memory: the caller's loop looks again in either case.
    let _ = rustix::event::poll(&mut set, timeout.as_ref());
}
