//! What signals do while nobody of ours waits for them. `signal-hook` never takes its handlers
//! out again, so that a signal which nobody waits for any more would be ignored: here it does
//! again what it did before. Must not know what is running.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::SIGCHLD;

/// The signals of one kind of waiting, and how many wait.
#[derive(Debug)]
pub(super) struct Waiting {
    state: Mutex<Option<State>>,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    /// Set while nobody waits.
    alone: Arc<AtomicBool>,
    /// Signals that do what they do by default while it is set.
    known: BTreeSet<i32>,
}

/// Somebody waits, until this is dropped.
#[derive(Debug)]
pub(super) struct Guard(&'static Waiting);

impl Waiting {
    pub(super) const fn new() -> Self {
        Waiting { state: Mutex::new(None) }
    }

    /// Called before a handler is registered for any of the signals. What the program did with
    /// them by a handler of its own, that handler goes on to do.
    pub(super) fn begin(&'static self, signals: &[i32]) -> io::Result<Guard> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = state.get_or_insert_default();
        for signal in signals {
            if !state.known.contains(signal) && disposition(*signal)?.0 == libc::SIG_DFL {
                let alone = Arc::clone(&state.alone);
                signal_hook::flag::register_conditional_default(*signal, alone)?;
                state.known.insert(*signal);
            }
        }
        state.count += 1;
        state.alone.store(false, Ordering::SeqCst);
        Ok(Guard(self))
    }

    /// Whether somebody waits now.
    pub(super) fn is_begun(&'static self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().is_some_and(|state| state.count > 0)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = state.as_mut() {
            state.count -= 1;
            state.alone.store(state.count == 0, Ordering::SeqCst);
        }
    }
}

/// Lets children be waited for. Where SIGCHLD is ignored, as some programs leave it to those that
/// they start, the kernel reaps each child itself, and nobody learns how it ended.
///
/// # Errors
/// Where the system refuses to change it.
pub fn heed_children() -> io::Result<()> {
    let (handler, flags) = disposition(SIGCHLD)?;
    if handler != libc::SIG_IGN && flags & libc::SA_NOCLDWAIT == 0 {
        return Ok(());
    }
    // SAFETY: a sigaction is plain data, for which zero is a value: SIG_DFL, no flags.
    let done = unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(SIGCHLD, &default, ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A signal's handler, or what stands for none, and its flags.
fn disposition(signal: i32) -> io::Result<(libc::sighandler_t, libc::c_int)> {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks only; the call fills `now`, for which zero is a value as well.
    unsafe {
        if libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let now = now.assume_init();
        Ok((now.sa_sigaction, now.sa_flags))
    }
}
