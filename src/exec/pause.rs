//! Ctrl-Z: children have process groups of their own, so the terminal stops us and not them.
//! We stop them, then ourselves; who continues us continues them. Must not know what they are.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use signal_hook::SigId;
use signal_hook::consts::SIGTSTP;

use super::executor::Job;
use super::interrupt::is_ignored;
use super::signals::{Guard, Waiting};
use crate::error::{Error, Result};

static WAITING: Waiting = Waiting::new();

/// Catches SIGTSTP while it lives, unless whoever started us ignores it.
#[derive(Debug)]
pub(super) struct Pauses {
    wake: UnixStream,
    asked: Arc<AtomicBool>,
    registered: Vec<SigId>,
    _guard: Option<Guard>,
}

impl Pauses {
    pub(super) fn catch() -> Result<Self> {
        Self::start().map_err(|e| Error::io("catch signals in", "this process", e))
    }

    /// Whether somebody of ours stops for the signal already.
    pub(super) fn are_caught() -> bool {
        WAITING.is_begun()
    }

    /// The same with the system's own error.
    pub(super) fn start() -> io::Result<Self> {
        let (wake, sender) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        let asked = Arc::new(AtomicBool::new(false));
        let mut pauses = Pauses { wake, asked, registered: Vec::new(), _guard: None };
        if !is_ignored(SIGTSTP) {
            pauses._guard = Some(WAITING.begin(&[SIGTSTP])?);
            let asked = Arc::clone(&pauses.asked);
            pauses.registered.push(signal_hook::flag::register(SIGTSTP, asked)?);
            let sender = signal_hook::low_level::pipe::register(SIGTSTP, sender)?;
            pauses.registered.push(sender);
        }
        Ok(pauses)
    }

    /// If a stop was asked for: stops these children and what they started, then this process,
    /// and continues them when it goes on. Returns how long that was.
    pub(super) fn take<'a>(
        &self,
        children: impl Iterator<Item = &'a dyn Job> + Clone,
    ) -> Option<Duration> {
        self.take_with(|signal| children.clone().for_each(|child| child.signal(signal)))
    }

    /// The same, where `tell` sends a signal to all children.
    pub(super) fn take_with(&self, tell: impl Fn(Signal)) -> Option<Duration> {
        // In this order: the handler sets the flag before it wakes us.
        let mut bytes = [0; 16];
        while matches!((&self.wake).read(&mut bytes), Ok(count) if count > 0) {}
        if !self.asked.swap(false, Ordering::SeqCst) {
            return None;
        }
        let begun = Instant::now();
        tell(Signal::STOP);
        // Where even this fails, children go on at once.
        let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
        tell(Signal::CONT);
        Some(begun.elapsed())
    }
}

impl AsFd for Pauses {
    /// Readable when a stop was asked for.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for Pauses {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
