//! System calls that a container or an old kernel may refuse. Most have another way; the error
//! of the others names the call. Must not know what a call was for.

use std::fs::File;
use std::io;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;

/// A system call that was refused, and has no other way.
#[derive(Debug, thiserror::Error)]
#[error(
    "the system call {call} is refused here ({source}); check what filters system calls, such as \
         a container's seccomp profile"
)]
pub struct Refused {
    call: &'static str,
    source: io::Error,
}

impl Refused {
    /// An I/O error whose text has the call's name and what to do.
    pub(super) fn error(call: &'static str, source: io::Error) -> io::Error {
        io::Error::new(io::ErrorKind::Unsupported, Refused { call, source })
    }

    /// Whether that is what an error says.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Refused>())
    }
}

/// What an error is followed by: its own remedy, or the `usual` one.
pub fn remedy(error: &io::Error, usual: &str) -> String {
    if Refused::is(error) { String::new() } else { format!("; {usual}") }
}

/// What filters of system calls answer, and kernels that do not know the call.
pub(super) fn is_refused(error: Errno) -> bool {
    matches!(error, Errno::PERM | Errno::NOSYS)
}

/// A file with no name in any folder: in memory, else where temporary files of this process go.
/// That is one folder for all trees in it, by its own `TMPDIR`: nobody finds such a file again.
pub(super) fn nameless_file(name: &str) -> io::Result<File> {
    match rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC) {
        Ok(file) => Ok(File::from(file)),
        Err(error) if is_refused(error) => tempfile::tempfile(),
        Err(error) => Err(error.into()),
    }
}
