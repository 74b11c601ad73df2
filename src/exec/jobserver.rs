//! GNU make's jobserver, as a client: find it, read a token when one is there, write the
//! same byte back. Must not know what a job is, nor who waits.
//!
//! The `jobserver` crate is not used here (the tests hold it against this): it reads
//! `CARGO_MAKEFLAGS` first, shows no descriptor to poll beside children and signals, and
//! its helper thread takes SIGUSR1.
//!
//! Protocol: GNU make manual, "POSIX Jobserver Interaction" (4.3 and 4.4).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::kbuild::makeflags::Auth;

/// An open connection to a jobserver. Both ends are our own descriptions: reading does
/// not block, and nobody else's descriptors change.
#[derive(Debug)]
pub struct Jobserver {
    read: File,
    write: File,
}

impl Jobserver {
    /// Opens what `MAKEFLAGS` names. An `Err` is a clause that says what is wrong.
    pub fn open(auth: &Auth) -> Result<Self, String> {
        match auth {
            Auth::Pipe { read, write } => open_pipe(*read, *write),
            Auth::Fifo(path) => open_fifo(path),
            Auth::Disabled => Err("make has disabled it".to_owned()),
            Auth::Unknown(text) => Err(format!("`{text}` is no form of it that is known")),
        }
    }

    /// Takes a token if there is one now. End of file is an error: make is gone.
    pub fn try_read(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        loop {
            match (&self.read).read(&mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(Some(byte[0])),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Gives a token back.
    pub fn write_back(&self, token: u8) -> io::Result<()> {
        (&self.write).write_all(&[token])
    }
}

impl AsFd for Jobserver {
    /// Readable when there may be a token.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

/// Reopens an inherited pipe. Make 4.3 closes it for a recipe without `+`, and the numbers
/// may then name something else: both must be ends of one pipe.
fn open_pipe(read: RawFd, write: RawFd) -> Result<Jobserver, String> {
    let reader = reopen(read, OpenOptions::new().read(true))?;
    let writer = reopen(write, OpenOptions::new().write(true))?;
    let identity = |file: &File| file.metadata().map(|m| (m.dev(), m.ino())).ok();
    if identity(&reader) != identity(&writer) {
        return Err(format!("descriptors {read} and {write} are not ends of one pipe"));
    }
    Ok(Jobserver { read: reader, write: writer })
}

/// A description of our own of an inherited descriptor: O_NONBLOCK on it is ours alone.
fn reopen(descriptor: RawFd, options: &mut OpenOptions) -> Result<File, String> {
    let path = format!("/proc/self/fd/{descriptor}");
    let found =
        std::fs::metadata(&path).map_err(|_| format!("descriptor {descriptor} is closed"))?;
    if !found.file_type().is_fifo() {
        return Err(format!("descriptor {descriptor} is not a pipe"));
    }
    options
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(&path)
        .map_err(|e| format!("descriptor {descriptor} cannot be opened again: {e}"))
}

fn open_fifo(path: &Path) -> Result<Jobserver, String> {
    let is_fifo = std::fs::metadata(path).map(|found| found.file_type().is_fifo());
    match is_fifo {
        Ok(true) => {}
        Ok(false) => return Err(format!("{} is not a fifo", path.display())),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    }
    // Read and write at once, so that opening never waits for another end.
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .map_err(|e| format!("{}: {e}", path.display()))
    };
    Ok(Jobserver { read: open()?, write: open()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn pipe() -> (rustix::fd::OwnedFd, rustix::fd::OwnedFd) {
        rustix::pipe::pipe().unwrap()
    }

    #[test]
    fn a_token_comes_back_as_it_was() {
        let (read, write) = pipe();
        rustix::io::write(&write, b"ab").unwrap();
        let auth = Auth::Pipe { read: read.as_raw_fd(), write: write.as_raw_fd() };
        let server = Jobserver::open(&auth).unwrap();
        assert_eq!(server.try_read().unwrap(), Some(b'a'));
        server.write_back(b'a').unwrap();
        assert_eq!(server.try_read().unwrap(), Some(b'b'));
        assert_eq!(server.try_read().unwrap(), Some(b'a'));
        assert_eq!(server.try_read().unwrap(), None, "an empty pipe does not block");
        // The inherited descriptor is still a blocking one.
        let flags = rustix::fs::fcntl_getfl(&read).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK));
    }

    #[test]
    fn what_is_not_the_pipe_is_refused() {
        let (read, write) = pipe();
        let (other, _write) = pipe();
        let file = tempfile::tempfile().unwrap();
        let open = |read: RawFd, write: RawFd| Jobserver::open(&Auth::Pipe { read, write });
        let error = open(file.as_raw_fd(), write.as_raw_fd()).unwrap_err();
        assert!(error.contains("is not a pipe"), "{error}");
        let error = open(other.as_raw_fd(), write.as_raw_fd()).unwrap_err();
        assert!(error.contains("not ends of one pipe"), "{error}");
        let error = open(9999, write.as_raw_fd()).unwrap_err();
        assert!(error.contains("is closed"), "{error}");
        assert!(open(read.as_raw_fd(), write.as_raw_fd()).is_ok());
    }
}
