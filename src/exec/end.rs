//! How the end of a child is noticed: by a process descriptor, or where a container or an old
//! kernel refuses one, by SIGCHLD. Must not know why anybody waits.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use signal_hook::SigId;
use signal_hook::consts::SIGCHLD;

use super::refused::is_refused;

/// Something to poll: readable when a child has ended, or may have.
#[derive(Debug)]
pub(super) enum End {
    Descriptor(OwnedFd),
    Signals { pid: Pid, wake: UnixStream, registered: SigId },
}

impl End {
    /// Of a child of this process that is not reaped yet.
    pub(super) fn of(pid: Pid) -> io::Result<Self> {
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(End::Descriptor(descriptor)),
            Err(error) if is_refused(error) => Self::by_signals(pid),
            Err(error) => Err(error.into()),
        }
    }

    /// Each child has a pipe of its own, so that looking at one takes no news from another.
    pub(super) fn by_signals(pid: Pid) -> io::Result<Self> {
        let (wake, mut sender) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        let registered = signal_hook::low_level::pipe::register(SIGCHLD, sender.try_clone()?)?;
        let end = End::Signals { pid, wake, registered };
        // It may have ended before.
        sender.write_all(&[0])?;
        Ok(end)
    }

    /// Called before the child is waited for without blocking: later news are kept.
    pub(super) fn begin_look(&self) {
        if let End::Signals { wake, .. } = self {
            let mut bytes = [0; 16];
            while matches!((&*wake).read(&mut bytes), Ok(count) if count > 0) {}
        }
    }

    /// Whether the child has ended. It is not reaped here: its number stays its group's.
    pub(super) fn is_there(&self) -> bool {
        match self {
            End::Descriptor(descriptor) => {
                let mut ended = [PollFd::new(descriptor, PollFlags::IN)];
                matches!(rustix::event::poll(&mut ended, Some(&Timespec::default())), Ok(1..))
            }
            End::Signals { pid, .. } => {
                self.begin_look();
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                matches!(rustix::process::waitid(WaitId::Pid(*pid), options), Ok(Some(_)) | Err(_))
            }
        }
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            End::Descriptor(descriptor) => descriptor.as_fd(),
            End::Signals { wake, .. } => wake.as_fd(),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let End::Signals { registered, .. } = self {
            signal_hook::low_level::unregister(*registered);
        }
    }
}
