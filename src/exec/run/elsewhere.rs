//! Jobs of a run on other machines: sent while there is room, run here if that fails, and raced at the end
//! by free slots. Must not know what a job is, nor how it gets there.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::Progress;
use crate::exec::executor::{Capacity, Executor, Job, Machine};
use crate::exec::process::Outcome;

/// How long nothing is sent after a failure; twice as long after each that follows, up to the most.
const FIRST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(8);

/// A job that runs on another machine.
struct Away {
    running: Box<dyn Job>,
    number: usize,
    since: Instant,
    /// It was started here too.
    raced: bool,
    may_have_ended: bool,
}

/// All of them.
pub(super) struct Elsewhere<'a> {
    executor: Option<&'a mut dyn Executor>,
    active: Vec<Away>,
    /// What failed there, and has to run here.
    failed: VecDeque<usize>,
    /// There is no other job for them, until one has ended.
    exhausted: bool,
    /// After failures: until when nothing is sent, and how long that was.
    rest: Option<(Instant, Duration)>,
}

impl<'a> Elsewhere<'a> {
    pub fn new(executor: Option<&'a mut dyn Executor>) -> Self {
        let (active, failed) = (Vec::new(), VecDeque::new());
        Elsewhere { executor, active, failed, exhausted: false, rest: None }
    }

    /// Whether there are other machines at all.
    pub fn is_possible(&self) -> bool {
        self.executor.is_some()
    }

    /// Nothing is there, and nothing that failed is left.
    pub fn is_over(&self) -> bool {
        self.active.is_empty() && self.failed.is_empty()
    }

    /// How many more jobs can be sent now.
    pub fn room(&self) -> usize {
        let rests = self.rest.is_some_and(|(until, _)| Instant::now() < until);
        match self.executor.as_ref().filter(|_| !rests).map(|one| one.capacity()) {
            Some(Capacity::Jobs(most)) => most.saturating_sub(self.active.len()),
            // Slots are for this machine.
            Some(Capacity::Slots) | None => 0,
        }
    }

    /// What to poll.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.active.iter().map(|one| one.running.as_fd())
    }

    /// Takes what a poll of these said.
    pub fn mark(&mut self, ready: &mut impl Iterator<Item = bool>) {
        self.active.iter_mut().zip(ready).for_each(|(one, ready)| one.may_have_ended = ready);
    }

    /// Another job may be ready.
    pub fn look_again(&mut self) {
        self.exhausted = false;
    }

    /// The first of those that failed there.
    pub fn first_failed(&self) -> Option<usize> {
        self.failed.front().copied()
    }

    /// It is started here.
    pub fn take_failed(&mut self) {
        self.failed.pop_front();
    }

    /// The job that has been there for the longest time, of those that may be run here too.
    pub fn longest(&self) -> Option<usize> {
        let waits = self.active.iter().filter(|one| !one.raced);
        waits.min_by_key(|one| one.since).map(|one| one.number)
    }

    /// It is started here too.
    pub fn note_race(&mut self, number: usize) {
        let it = self.active.iter_mut().find(|one| one.number == number);
        it.into_iter().for_each(|one| one.raced = true);
    }

    /// Cancels all; returns their numbers.
    pub fn end_all(&mut self) -> Vec<usize> {
        self.failed.clear();
        std::mem::take(&mut self.active).into_iter().map(|one| one.number).collect()
    }

    fn place(&self, number: usize) -> Option<usize> {
        self.active.iter().position(|one| one.number == number)
    }

    /// Takes those that have ended off the list.
    fn take_ended(&mut self) -> Vec<(usize, io::Result<Outcome>)> {
        let mut ended = Vec::new();
        self.active.retain_mut(|one| {
            if !one.may_have_ended {
                return true;
            }
            let Some(outcome) = one.running.try_finish().transpose() else {
                return true;
            };
            ended.push((one.number, outcome));
            false
        });
        ended
    }

    /// Nothing is sent for a while.
    fn rest(&mut self) {
        let time = self.rest.map_or(FIRST_REST, |(_, last)| (last * 2).min(LONGEST_REST));
        // Jobs that fail together are one failure.
        if self.rest.is_none_or(|(until, _)| Instant::now() >= until) {
            self.rest = Some((Instant::now() + time, time));
        }
    }
}

impl Progress<'_> {
    /// Sends as many jobs as there is room for.
    pub(super) fn start_elsewhere(&mut self) {
        while !self.is_stopped() && !self.elsewhere.exhausted && self.elsewhere.room() > 0 {
            let (number, what) = match self.work.next_elsewhere() {
                Ok(Some(job)) => job,
                Ok(None) => {
                    self.elsewhere.exhausted = true;
                    return;
                }
                Err(error) => return self.end_with(error),
            };
            let Some(executor) = &mut self.elsewhere.executor else {
                return;
            };
            match executor.start(&what) {
                Ok(running) => {
                    let (since, raced) = (Instant::now(), false);
                    let one = Away { running, number, since, raced, may_have_ended: false };
                    self.elsewhere.active.push(one);
                }
                Err(error) => self.ended_elsewhere(number, Err(error)),
            }
        }
    }

    /// Takes the jobs elsewhere that have ended.
    pub(super) fn take_ended_elsewhere(&mut self) {
        for (number, outcome) in self.elsewhere.take_ended() {
            self.exhausted = false;
            self.elsewhere.look_again();
            self.ended_elsewhere(number, outcome);
        }
    }

    fn ended_elsewhere(&mut self, number: usize, outcome: io::Result<Outcome>) {
        // That one is not for them says nothing of the others.
        let unfit = matches!(&outcome, Err(e) if e.kind() == io::ErrorKind::Unsupported);
        match self.work.done_elsewhere(number, outcome) {
            Ok(true) => {
                self.elsewhere.rest = None;
                self.end_here(number);
            }
            Ok(false) => {
                if !unfit {
                    self.elsewhere.rest();
                }
                let pending = self.pending.as_ref().map(|one| one.number);
                let mut here = self.active.iter().map(|one| one.number).chain(pending);
                if !here.any(|other| other == number) {
                    self.elsewhere.failed.push_back(number);
                }
            }
            Err(error) => {
                self.end_here(number);
                self.end_with(error);
            }
        }
    }

    /// Ends a job here that lost a race, if there is one.
    fn end_here(&mut self, number: usize) {
        let before = self.active.len();
        self.active.retain(|one| one.number != number);
        let pending = self.pending.take_if(|one| one.number == number);
        if self.active.len() < before || pending.is_some() {
            self.work.dropped(number, Machine::This);
        }
    }

    /// A job here has ended. If it runs elsewhere too, its result is that of the race, unless it was
    /// killed: that says nothing of the job, which is left to the other machine.
    pub(super) fn ended_here(&mut self, number: usize, outcome: io::Result<Outcome>) {
        if let Some(place) = self.elsewhere.place(number) {
            if outcome.as_ref().map_or(true, |found| found.status.code().is_none()) {
                self.work.dropped(number, Machine::This);
                return;
            }
            drop(self.elsewhere.active.swap_remove(place));
            self.work.dropped(number, Machine::Other);
        }
        self.settle(number, outcome);
    }
}
