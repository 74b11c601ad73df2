//! The one wait of whoever runs children: for signals, tokens, ends and outputs together. Must not
//! know what the descriptors are.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

/// Waits until one of the descriptors is readable or closed, or the time is over. A signal ends the
/// wait too.
pub(super) fn poll<'a>(
    descriptors: impl Iterator<Item = BorrowedFd<'a>>,
    timeout: Option<Duration>,
) {
    let mut set: Vec<PollFd<'_>> =
        descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
    // Interrupted, or short of memory: the caller's loop looks again in either case.
    let _ = rustix::event::poll(&mut set, timeout.as_ref());
}
