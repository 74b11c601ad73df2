//! GNU make's jobserver, as a client: find it, read a token when one is there, write the
//! same byte back. Must not know what a job is, nor who waits.
//!
//! The `jobserver` crate is not used here (the tests hold its server against this): it takes
//! `CARGO_MAKEFLAGS` for make's, cannot try a socket, opens a device twice, and does not tell when a
//! token could not be given back. docs/decisions.md has it in full.
//!
//! Protocol: GNU make manual, "POSIX Jobserver Interaction" (4.3 and 4.4). Make itself only reads
//! and writes: what serves the tokens may be a pipe, a fifo, a device or a socket.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, getsockname, recv, send};

use crate::kbuild::makeflags::Auth;

/// How long a token may wait to be taken back.
const PATIENCE: Duration = Duration::from_secs(5);

/// The major number of `/dev/null` and its like (Linux, admin-guide/devices.txt).
const MEMORY_DEVICES: u32 = 1;

/// An open connection to a jobserver. Both ends are our own descriptions, so that reading does
/// not block and nobody else's descriptors change; but for a socket, which cannot be opened again.
#[derive(Debug)]
pub struct Jobserver {
    read: File,
    write: File,
    socket: bool,
}

/// Why there is no jobserver.
#[derive(Debug, PartialEq, Eq)]
pub struct Unusable {
    /// A clause that says what is wrong.
    pub found: String,
    /// Another that says what to do.
    pub remedy: &'static str,
}

/// Make closes a pipe for a recipe line that calls no make, as far as it can see.
const PLUS: &str = "begin the recipe line that calls kthinlto with `+`";
/// What is named by a path does not depend on the recipe.
const REACH: &str = "check that the program that set MAKEFLAGS is still running and that its \
                     files can be reached";
/// What we do not know, make may not know either.
const OTHER: &str = "use a jobserver that is a pipe, a fifo, a device or a socket";

impl Unusable {
    fn new(found: String, remedy: &'static str) -> Self {
        Unusable { found, remedy }
    }
}

impl Jobserver {
    /// Opens what `MAKEFLAGS` names.
    ///
    /// # Errors
    /// Where it cannot be used, and why.
    pub fn open(auth: &Auth) -> Result<Self, Unusable> {
        match auth {
            Auth::Pipe { read, write } => {
                open_inherited(*read, *write).map_err(|found| Unusable::new(found, PLUS))
            }
            Auth::Fifo(path) => open_path(path),
            Auth::Disabled => Err(Unusable::new("make has disabled it".to_owned(), PLUS)),
            Auth::Unknown(text) => {
                Err(Unusable::new(format!("`{text}` is not a known form of it"), OTHER))
            }
        }
    }

    /// Takes a token if there is one now.
    ///
    /// # Errors
    /// Where it cannot be read, or has ended: the server is gone. A pipe or fifo never ends, because
    /// we hold its other end too.
    pub fn try_read(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        loop {
            let count = match self.socket {
                true => recv(&self.read, &mut byte[..], RecvFlags::DONTWAIT)
                    .map(|(count, _)| count)
                    .map_err(io::Error::from),
                false => (&self.read).read(&mut byte),
            };
            match count {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(Some(byte[0])),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Gives a token back.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_back(&self, token: u8) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let written = match self.socket {
                true => send(&self.write, &[token], SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                    .map_err(io::Error::from),
                false => (&self.write).write(&[token]),
            };
            match written {
                Ok(1..) => return Ok(()),
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                Err(e) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let mut set = [PollFd::new(&self.write, PollFlags::OUT)];
                    let timeout = Timespec::try_from(left).ok();
                    match rustix::event::poll(&mut set, timeout.as_ref()) {
                        Ok(0) => return Err(e),
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }
}

impl AsFd for Jobserver {
    /// Readable when there may be a token.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

/// What an inherited descriptor may be.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Pipe,
    Device,
    Socket,
}

/// Takes two inherited descriptors. Make 4.3 closes them for a recipe without `+`, and the numbers
/// may then name something else, which must not be read from.
fn open_inherited(read: RawFd, write: RawFd) -> Result<Jobserver, String> {
    let (reads, from) = kind(read)?;
    let (writes, to) = kind(write)?;
    if reads != writes {
        return Err(format!("descriptors {read} and {write} are of different kinds"));
    }
    let nonblocking = |descriptor, options: &mut OpenOptions| {
        options
            .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
            .open(place(descriptor))
            .map_err(|e| format!("descriptor {descriptor} cannot be opened again: {e}"))
    };
    let mut both = File::options();
    let both = both.read(true).write(true);
    let (read, write) = match reads {
        Kind::Pipe if (from.dev(), from.ino()) != (to.dev(), to.ino()) => {
            return Err(format!("descriptors {read} and {write} are not the two ends of one pipe"));
        }
        Kind::Device if from.rdev() != to.rdev() => {
            return Err(format!("descriptors {read} and {write} are not the same device"));
        }
        Kind::Pipe => (
            nonblocking(read, File::options().read(true))?,
            nonblocking(write, File::options().write(true))?,
        ),
        // A device may count the tokens of each description of it.
        Kind::Device => shared(nonblocking(read, both)?)?,
        Kind::Socket => (duplicate(read)?, duplicate(write)?),
    };
    Ok(Jobserver { read, write, socket: reads == Kind::Socket })
}

fn place(descriptor: RawFd) -> String {
    format!("/proc/self/fd/{descriptor}")
}

/// What an inherited descriptor is, if it may be a jobserver's.
fn kind(descriptor: RawFd) -> Result<(Kind, Metadata), String> {
    let found = std::fs::metadata(place(descriptor))
        .map_err(|_| format!("descriptor {descriptor} is closed"))?;
    let is = |what: &str| Err(format!("descriptor {descriptor} is {what}"));
    let kind = found.file_type();
    if kind.is_fifo() {
        Ok((Kind::Pipe, found))
    } else if kind.is_char_device() {
        match rustix::fs::major(found.rdev()) {
            MEMORY_DEVICES => is("/dev/null or the like"),
            _ if duplicate(descriptor).is_ok_and(rustix::termios::isatty) => is("a terminal"),
            _ => Ok((Kind::Device, found)),
        }
    } else if kind.is_socket() {
        let family = getsockname(duplicate(descriptor)?).map(|address| address.address_family());
        match family {
            Ok(AddressFamily::UNIX) => Ok((Kind::Socket, found)),
            _ => is("a socket to another machine"),
        }
    } else {
        is("a file")
    }
}

/// Our own number for an inherited description.
fn duplicate(descriptor: RawFd) -> Result<File, String> {
    // SAFETY: `kind` has seen that it is open, and this program closes no descriptor that it
    // was started with.
    let inherited = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let own: io::Result<OwnedFd> = inherited.try_clone_to_owned();
    own.map(File::from).map_err(|e| format!("descriptor {descriptor} cannot be used: {e}"))
}

fn shared(file: File) -> Result<(File, File), String> {
    let other = file.try_clone().map_err(|e| format!("no more descriptors: {e}"))?;
    Ok((file, other))
}

fn open_path(path: &Path) -> Result<Jobserver, Unusable> {
    let wrong = |found: String| Unusable::new(format!("{}{found}", path.display()), REACH);
    let fits = |found: Metadata| match found.file_type() {
        kind if kind.is_fifo() || kind.is_char_device() => Ok(()),
        _ => {
            let found = format!("{} is neither a fifo nor a device", path.display());
            Err(Unusable::new(found, OTHER))
        }
    };
    std::fs::metadata(path).map_err(|e| wrong(format!(": {e}"))).and_then(fits)?;
    // Read and write at once, so that opening never waits for another end.
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
        .open(path);
    let opened = opened.map_err(|e| wrong(format!(": {e}")))?;
    // Again of what was opened: the name may stand for another file by now.
    opened.metadata().map_err(|e| wrong(format!(": {e}"))).and_then(fits)?;
    let (read, write) = shared(opened).map_err(|e| wrong(format!(": {e}")))?;
    Ok(Jobserver { read, write, socket: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe().unwrap()
    }

    fn inherited(read: RawFd, write: RawFd) -> Result<Jobserver, Unusable> {
        Jobserver::open(&Auth::Pipe { read, write })
    }

    #[test]
    fn a_token_comes_back_as_it_was() {
        let (read, write) = pipe();
        rustix::io::write(&write, b"ab").unwrap();
        let server = inherited(read.as_raw_fd(), write.as_raw_fd()).unwrap();
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
    fn a_socket_serves_tokens_and_its_end_is_seen() {
        use std::os::unix::net::UnixStream;
        let (ours, mut make) = UnixStream::pair().unwrap();
        make.write_all(b"x").unwrap();
        let server = inherited(ours.as_raw_fd(), ours.as_raw_fd()).unwrap();
        assert_eq!(server.try_read().unwrap(), Some(b'x'));
        assert_eq!(server.try_read().unwrap(), None, "an empty socket does not block");
        assert!(!rustix::fs::fcntl_getfl(&ours).unwrap().contains(OFlags::NONBLOCK));
        server.write_back(b'x').unwrap();
        let mut back = [0];
        make.read_exact(&mut back).unwrap();
        assert_eq!(back, *b"x");
        drop(make);
        assert_eq!(server.try_read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(server.write_back(b'x').is_err());
    }

    #[test]
    fn a_device_that_is_named_serves_tokens() {
        let server = Jobserver::open(&Auth::Fifo("/dev/zero".into())).unwrap();
        assert_eq!(server.try_read().unwrap(), Some(0));
        server.write_back(0).unwrap();
        let empty = Jobserver::open(&Auth::Fifo("/dev/null".into())).unwrap();
        assert_eq!(empty.try_read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_not_the_jobserver_is_not_read() {
        let (read, write) = pipe();
        let (other, _write) = pipe();
        let file = tempfile::tempfile().unwrap();
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let network = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = |read: RawFd, write: RawFd| inherited(read, write).unwrap_err();
        for (read, write, says) in [
            (file.as_raw_fd(), write.as_raw_fd(), "is a file"),
            (other.as_raw_fd(), write.as_raw_fd(), "not the two ends of one pipe"),
            (9999, write.as_raw_fd(), "is closed"),
            (null.as_raw_fd(), null.as_raw_fd(), "is /dev/null or the like"),
            (network.as_raw_fd(), network.as_raw_fd(), "is a socket to another machine"),
        ] {
            let error = error(read, write);
            assert!(error.found.contains(says) && error.remedy == PLUS, "{error:?}");
        }
        let terminal = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
        let error = error(terminal.as_raw_fd(), terminal.as_raw_fd());
        assert!(error.found.contains("is a terminal"), "{error:?}");
        assert!(inherited(read.as_raw_fd(), write.as_raw_fd()).is_ok());
    }

    #[test]
    fn the_remedy_is_for_what_was_found() {
        let remedy = |auth| Jobserver::open(&auth).unwrap_err().remedy;
        assert_eq!(remedy(Auth::Disabled), PLUS);
        assert_eq!(remedy(Auth::Fifo("/nonexistent".into())), REACH);
        assert_eq!(remedy(Auth::Fifo("/etc/passwd".into())), OTHER);
        assert_eq!(remedy(Auth::Unknown("sem:x".to_owned())), OTHER);
    }
}
