//! The one wait of whoever runs children: for signals, tokens, ends and outputs together. Must not
//! know what the descriptors are.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// Waits until one of the descriptors is readable or closed, or the time is over, and says of each
/// whether it is, or may be. A signal ends the wait too, with none.
pub(super) fn poll<'a>(
    descriptors: impl Iterator<Item = BorrowedFd<'a>>,
    timeout: Option<Duration>,
) -> Vec<bool> {
    let mut set: Vec<PollFd<'_>> =
        descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
    match rustix::event::poll(&mut set, timeout.as_ref()) {
        Ok(_) => set.iter().map(|one| !one.revents().is_empty()).collect(),
        Err(Errno::INTR) => vec![false; set.len()],
        // Short of memory: nobody knows, and the caller looks at all.
        Err(_) => vec![true; set.len()],
    }
}
