//! A job that is with a server, as whoever started it sees it: a descriptor that becomes readable, and then an
//! outcome. Outputs are put into their places when the outcome is taken, by the thread that takes it; so nothing
//! appears there after a job was dropped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::Notify;

use super::results::Aside;
use crate::exec::executor::Job;
use crate::exec::process::Outcome;

/// How a job ended: what came of it, and its outputs.
pub(super) type End = io::Result<(Outcome, Aside)>;

/// What a job and the thread that does it share.
pub(super) struct Slot {
    event: OwnedFd,
    end: Mutex<Option<End>>,
    /// Told when the job is cancelled.
    pub cancelled: Notify,
}

impl Slot {
    /// A job that has not ended.
    pub fn new() -> io::Result<Arc<Self>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Slot { event, end: Mutex::default(), cancelled: Notify::new() }))
    }

    fn finish(&self, end: End) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        // A counter of one never fails to be raised.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

/// The side of a job that does it. However it is dropped, the job has an end then.
pub(super) struct Doing {
    pub slot: Arc<Slot>,
    ended: bool,
}

impl Doing {
    /// Of a job that has not ended.
    pub fn new(slot: Arc<Slot>) -> Self {
        Doing { slot, ended: false }
    }

    /// The job has ended.
    pub fn finish(mut self, end: End) {
        self.ended = true;
        self.slot.finish(end);
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        if !self.ended {
            self.slot.finish(Err(io::Error::other("the remote engine gave the job up")));
        }
    }
}

/// A job that is with a server.
pub(super) struct RemoteJob(pub Arc<Slot>);

impl Job for RemoteJob {
    fn try_finish(&mut self) -> io::Result<Option<Outcome>> {
        let _ = rustix::io::read(&self.0.event, &mut [0; 8]);
        let end = self.0.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(end) = end else {
            return Ok(None);
        };
        let (outcome, aside) = end?;
        aside.put()?;
        Ok(Some(outcome))
    }

    fn has_ended(&self) -> bool {
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn cancel(&self) {
        self.0.cancelled.notify_one();
    }

    /// The compiler failed on another machine: on this one it may not.
    fn is_in_doubt(&self) -> bool {
        true
    }
}

impl AsFd for RemoteJob {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

impl Drop for RemoteJob {
    fn drop(&mut self) {
        self.cancel();
        // Its outputs, if it has ended.
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_nobody_does_any_more_has_ended() {
        let slot = Slot::new().unwrap();
        let mut job = RemoteJob(slot.clone());
        let doing = Doing::new(slot);
        assert!(!job.has_ended() && job.try_finish().unwrap().is_none());
        drop(doing);
        assert!(job.has_ended());
        let mut set = [rustix::event::PollFd::new(&job, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut set, None), Ok(1));
        assert!(job.try_finish().unwrap_err().to_string().contains("gave the job up"));
    }
}
