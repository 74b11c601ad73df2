//! Signals that ask us to stop, as something to poll. What does not poll, a read that hangs for
//! one, is ended by the second signal, whose action is the default one. Must not know what is running.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::signals::{self, Guard, Waiting};

static WAITING: Waiting = Waiting::new();

/// Catches SIGINT, SIGTERM, SIGHUP and SIGQUIT while it lives, but for those that whoever
/// started us ignores: nohup, or a shell for its background jobs.
#[derive(Debug)]
pub struct Interrupts {
    wake: UnixStream,
    last: Arc<AtomicUsize>,
    /// The next signal ends this process.
    armed: Arc<AtomicBool>,
    registered: Vec<SigId>,
    /// From its end on the signals do again what they did before.
    _guard: Option<Guard>,
}

impl Interrupts {
    /// Starts to catch the signals. Children can be waited for from now on, whatever SIGCHLD was.
    ///
    /// # Errors
    /// Where the system refuses a handler, or a pipe for it.
    pub fn catch() -> io::Result<Self> {
        signals::heed_children()?;
        let (wake, sender) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        let last = Arc::new(AtomicUsize::new(0));
        let armed = Arc::new(AtomicBool::new(false));
        let mut caught = Interrupts { wake, last, armed, registered: Vec::new(), _guard: None };
        let mut signals = vec![SIGINT, SIGTERM, SIGHUP, SIGQUIT];
        signals.retain(|signal| !is_ignored(*signal));
        caught._guard = Some(WAITING.begin(&signals)?);
        for signal in signals {
            let number = signal as usize;
            let armed = || Arc::clone(&caught.armed);
            // In this order: the first signal finds it unarmed, and arms it.
            let fatal = signal_hook::flag::register_conditional_default(signal, armed())?;
            let arms = signal_hook::flag::register(signal, armed())?;
            caught.registered.extend([fatal, arms]);
            let flag = Arc::clone(&caught.last);
            caught.registered.push(signal_hook::flag::register_usize(signal, flag, number)?);
            let sender = sender.try_clone()?;
            caught.registered.push(signal_hook::low_level::pipe::register(signal, sender)?);
        }
        Ok(caught)
    }

    /// The last signal that came, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.last.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// Says that whoever asks acts on the next signal at once: only the one after that is fatal.
    pub(crate) fn take_over(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    /// Empties the pipe that wakes a poll; says whether anything was in it.
    pub(crate) fn drain(&self) -> bool {
        let mut bytes = [0; 16];
        matches!((&self.wake).read(&mut bytes), Ok(count) if count > 0)
    }
}

/// Whether this process ignores a signal: a bit of a set (proc(5), `SigIgn`).
pub(super) fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    set >> (signal - 1) & 1 == 1
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
