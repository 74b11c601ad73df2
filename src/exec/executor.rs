//! How a job comes to run. Runner and planner know only the traits: a plain process, a copy
//! that a fork server makes, or something that is not on this machine at all. Must not know what
//! is run, nor who waits for it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::action::Action;
use super::poll::poll;
use super::process::{Outcome, Running};
use crate::error::Result;

/// A job that runs somewhere. Dropping one that has not ended cancels it, and from then on it writes none
/// of its outputs.
///
/// Its descriptor is readable when it has ended, or may have, and stays so until [`Job::try_finish`] was
/// asked.
pub trait Job: AsFd {
    /// The outcome, if it has ended.
    ///
    /// # Errors
    /// Where nobody can say any more what became of it.
    fn try_finish(&mut self) -> io::Result<Option<Outcome>>;

    /// Whether it has ended; the outcome is still to be taken.
    fn has_ended(&self) -> bool;

    /// Asks it to end.
    fn cancel(&self);

    /// The process that it is, or is done by, on this machine: for its memory.
    fn process(&self) -> Option<Pid> {
        None
    }

    /// Whether it takes memory of this machine, or will when it begins.
    fn is_here(&self) -> bool {
        self.process().is_some()
    }

    /// Passes on a stop from the terminal, or the end of one; what runs elsewhere goes on.
    fn signal(&self, _signal: Signal) {}

    /// It was stopped for so long, which is no part of what it took.
    fn was_stopped(&mut self, _time: Duration) {}

    /// Whether it has to be killed: it writes so much that memory would be full of it, or has not begun for
    /// too long.
    fn is_hopeless(&self) -> bool {
        false
    }

    /// Whether a failure may be that of the way in which it was started, so that the executor is
    /// asked for a second try.
    fn is_in_doubt(&self) -> bool {
        false
    }
}

/// Waits for the end of a job.
///
/// # Errors
/// As [`Job::try_finish`].
pub fn finish(mut job: Box<dyn Job>) -> io::Result<Outcome> {
    loop {
        if let Some(outcome) = job.try_finish()? {
            return Ok(outcome);
        }
        // A signal ends the wait too: the loop looks again.
        poll(std::iter::once(job.as_fd()), None);
    }
}

/// Whether a job that could not be started for this may be started later, once another has ended.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory)
}

/// How many jobs an executor can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Capacity {
    /// One for each slot: they run on this machine.
    Slots,
    /// So many at a time, and none of them needs a slot.
    Jobs(usize),
}

/// Starts jobs.
pub trait Executor {
    /// How many jobs it can hold now. Where that is [`Capacity::Slots`], whoever calls
    /// [`Executor::start`] holds a slot for the job.
    fn capacity(&self) -> Capacity {
        Capacity::Slots
    }

    /// Starts a job.
    ///
    /// # Errors
    /// Where it cannot be started. [`io::ErrorKind::WouldBlock`] and
    /// [`io::ErrorKind::OutOfMemory`] say that it may be possible once another has ended.
    fn start(&mut self, what: &Action) -> io::Result<Box<dyn Job>>;

    /// Whether it begins a job at [`Invocation::inner`](super::process::Invocation::inner).
    fn takes_inner(&self) -> bool {
        false
    }

    /// A job that is in doubt failed. Starts it once more in another way, if there is one.
    fn second_try(
        &mut self,
        _what: &Action,
        _failed: &Outcome,
    ) -> Option<io::Result<Box<dyn Job>>> {
        None
    }

    /// This job succeeded at its second try.
    fn first_try_was_wrong(&mut self, _what: &Action) {}

    /// A descriptor to wait for beside the jobs, as long as the executor itself waits for something.
    fn waits_for(&self) -> Option<Rc<OwnedFd>> {
        None
    }

    /// Looks whether what it waits for is there. Called again and again while it waits.
    fn look(&mut self) {}

    /// Sentences for the verbose log; each is given once.
    fn notes(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// An executor on other machines, with a store of results.
pub trait Engine: Executor {
    /// Takes what the engine's store of results has: for each action whether its outputs were put in
    /// their places, checked against the digests that the result names. Blocks; ends early, with `false`
    /// for the rest, when `stop` says so.
    fn look_up(&mut self, actions: &[Action], stop: &dyn Fn() -> bool) -> Vec<bool>;
    /// Adds the outputs of an action that was run here to the store of results, in the background, where that is allowed.
    fn give(&mut self, action: &Action);
    /// Whether jobs may be sent to it now; it tries again by itself after a failure.
    fn is_there(&self) -> bool;
    /// Whether what it can run also runs here, while a slot is free. If not, that waits for room with it, as
    /// long as it is there.
    fn shares(&self) -> bool {
        true
    }
    /// The action's digest as the server knows it, in hexadecimal, with its size ("HASH/SIZE").
    fn digest(&self, action: &Action) -> Option<String>;
    /// Bytes of files that were sent and received so far, for whatever it was.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
    /// Sentences for the user; each is given once, and there is one for each time that it cannot be used.
    fn warnings(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// The run is to end at once: what is still being given is not waited for.
    fn hurry(&mut self) {}
}

/// Bytes of files that went over the network, before any compression.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// To the server.
    pub sent: u64,
    /// From it.
    pub received: u64,
}

/// How an engine is made. That is done when the first job for one is there: a run with nothing to do
/// connects to nobody. Its debug form is a part of what a run was asked for, and shows no secret.
pub trait MakeEngine: fmt::Debug + Send + Sync {
    /// Makes it; whether a server answers shows later.
    ///
    /// # Errors
    /// Where a setting cannot be used.
    fn make(&self) -> Result<Box<dyn Engine>>;
}

/// On which machine a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Machine {
    /// On this one.
    This,
    /// On another one.
    Other,
}

/// A plain process for each job.
#[derive(Debug, Default)]
pub struct Processes;

impl Executor for Processes {
    fn start(&mut self, what: &Action) -> io::Result<Box<dyn Job>> {
        Ok(Box::new(Running::start(&what.command)?))
    }
}

/// Which executor runs the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// A fork server where it works and there are enough backends, else processes
    #[default]
    Auto,
    /// A process for each backend
    Process,
    /// A fork server for any number of backends, where it works
    ForkServer,
}
