//! The runner: how many jobs at a time, second tries, and jobs on other machines.

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
    /// KiB that each may need.
    memory: u64,
}

impl Jobs {
    fn new(script: &'static str, left: usize) -> Self {
        Jobs { script, left, running: 0, most: 0, good: 0, memory: 0 }
    }
}

impl Work for Jobs {
    fn next_memory(&self) -> u64 {
        self.memory
    }

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

/// Its process is not known, as that of a copy that was only asked for.
struct Unborn {
    running: Running,
    is_here: bool,
}

impl AsFd for Unborn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.running.as_fd()
    }
}

impl Job for Unborn {
    fn try_finish(&mut self) -> io::Result<Option<Outcome>> {
        self.running.try_finish()
    }

    fn has_ended(&self) -> bool {
        self.running.has_ended()
    }

    fn cancel(&self) {
        self.running.cancel();
    }

    fn is_here(&self) -> bool {
        self.is_here
    }
}

/// Starts such, here or not.
struct Nursery(bool);

impl Executor for Nursery {
    fn start(&mut self, what: &Action) -> io::Result<Box<dyn Job>> {
        let running = Running::start(&what.command)?;
        Ok(Box::new(Unborn { running, is_here: self.0 }))
    }
}

#[test]
fn a_job_that_has_not_begun_needs_its_memory_too() {
    for (is_here, most) in [(true, 1), (false, 4)] {
        let all = Memory::default().available_for(u64::MAX / 1024).unwrap();
        let memory = all / 5 * 3; // no two have room
        let mut work = Jobs { memory, ..Jobs::new("sleep 0.1", 4) };
        let (slots, interrupts) = (Slots::local(4), Interrupts::catch().unwrap());
        let runner = Runner { slots: &slots, interrupts: &interrupts, keep_going: true };
        assert_eq!(runner.run(&mut Nursery(is_here), &mut work).unwrap(), 0);
        assert_eq!((work.most, work.good), (most, 4), "here: {is_here}");
    }
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

/// Jobs that are shells, on this machine and on another one.
struct Both {
    /// What each does here, and there.
    scripts: Vec<(&'static str, &'static str)>,
    next: usize,
    /// Those that ended well elsewhere, and here; those that failed; those that were dropped.
    there: Vec<usize>,
    here: Vec<usize>,
    failed: Vec<usize>,
    dropped: Vec<(usize, Machine)>,
    /// Kept for this machine, whoever asks.
    only_there: bool,
}

impl Both {
    fn new(scripts: &[(&'static str, &'static str)]) -> Self {
        let none = Vec::new;
        Both {
            scripts: scripts.to_vec(),
            next: 0,
            there: none(),
            here: none(),
            failed: none(),
            dropped: Vec::new(),
            only_there: true,
        }
    }

    fn give(&mut self, there: bool) -> Option<(usize, Action)> {
        let number = self.next;
        let (here, elsewhere) = self.scripts.get(number)?;
        self.next += 1;
        Some((number, shell(if there { elsewhere } else { here })))
    }
}

fn shell(script: &str) -> Action {
    Invocation::new(["sh", "-c", script], Path::new(".")).into()
}

impl Work for Both {
    fn next(&mut self) -> Result<Option<(usize, Action)>> {
        if self.only_there {
            return Ok(None);
        }
        Ok(self.give(false))
    }

    fn done(&mut self, job: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        let good = outcome.is_ok_and(|outcome| outcome.status.success());
        if good {
            self.here.push(job)
        } else {
            self.failed.push(job)
        }
        Ok(good)
    }

    fn left_elsewhere(&self) -> usize {
        self.scripts.len() - self.next
    }

    fn next_elsewhere(&mut self) -> Result<Option<(usize, Action)>> {
        Ok(self.give(true))
    }

    fn here(&mut self, job: usize, _: bool) -> Result<Option<Action>> {
        Ok(Some(shell(self.scripts[job].0)))
    }

    fn done_elsewhere(&mut self, job: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        let good = outcome.is_ok_and(|outcome| outcome.status.success());
        self.there.extend(good.then_some(job));
        Ok(good)
    }

    fn dropped(&mut self, job: usize, from: Machine) {
        self.dropped.push((job, from));
    }
}

fn run_both(places: usize, work: &mut Both, keep_going: bool) -> (usize, usize) {
    let (slots, interrupts) = (Slots::local(1), Interrupts::catch().unwrap());
    let runner = Runner { slots: &slots, interrupts: &interrupts, keep_going };
    let mut there = Elsewhere { most: places, started: 0, second: 0 };
    let failed = runner.run_with(&mut Processes, Some(&mut there), work).unwrap();
    (failed, there.started)
}

#[test]
fn what_fails_elsewhere_is_run_here_before_it_counts() {
    let mut work = Both::new(&[("true", "exit 1"), ("exit 1", "exit 1"), ("exit 1", "true")]);
    assert_eq!(run_both(3, &mut work, true), (1, 3));
    assert_eq!((work.there, work.here, work.failed), (vec![2], vec![0], vec![1]));
    let mut work = Both::new(&[("true", "true"); 5]);
    assert_eq!(run_both(2, &mut work, true), (0, 5));
    assert_eq!(work.there.len() + work.here.len(), 5);
}

#[test]
fn one_at_a_time_is_raced_the_oldest_first() {
    let mut work = Both::new(&[("sleep 0.2", "sleep 60"), ("sleep 0.2", "sleep 60")]);
    assert_eq!(run_both(2, &mut work, false), (0, 2));
    assert_eq!((work.here, work.there.len()), (vec![0, 1], 0));
    assert_eq!(work.dropped, [(0, Machine::Other), (1, Machine::Other)]);
}

/// That a process was killed says nothing of its job, as long as another machine is at it.
#[test]
fn a_killed_racer_leaves_the_job_to_the_other_machine() {
    let mut work = Both::new(&[("kill -9 $$", "sleep 1")]);
    assert_eq!(run_both(1, &mut work, false).0, 0);
    assert_eq!((work.there, work.failed.len()), (vec![0], 0));
    assert_eq!(work.dropped, [(0, Machine::This)]);
    // Alone, it does.
    let mut work = Both::new(&[("kill -9 $$", "exit 1")]);
    assert_eq!(run_both(1, &mut work, false).0, 1);
    assert_eq!((work.there.len(), work.failed), (0, vec![0]));
}

#[test]
fn a_failure_here_ends_the_run_and_the_jobs_elsewhere() {
    let mut work = Both::new(&[("exit 1", "sleep 60"), ("true", "sleep 60")]);
    assert_eq!(run_both(2, &mut work, false).0, 1);
    assert_eq!(work.failed, [0]);
    assert_eq!(work.dropped, [(0, Machine::Other), (1, Machine::Other)]);
}

/// Nothing is sent for a while after a failure: slots here take what is left meanwhile.
#[test]
fn after_a_failure_nothing_is_sent_for_a_while() {
    let mut work = Both::new(&[("sleep 0.05", "exit 1"); 6]);
    work.only_there = false;
    let began = Instant::now();
    let (failed, started) = run_both(1, &mut work, false);
    assert_eq!((failed, work.here.len()), (0, 6));
    assert!(started <= 1 + began.elapsed().as_millis() as usize / 250, "{started} were sent");
}
