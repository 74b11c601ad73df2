//! Reads files that others made. Whatever a name leads to, opening it never waits and reading it
//! ends: a pipe, a socket or a device is refused, and so is more than can be meant. Must not know
//! what a file is for.
//!
//! ```
//! use kthinlto::regular;
//! let error = regular::read("/dev/zero".as_ref()).unwrap_err();
//! assert_eq!(error.to_string(), "a device where a regular file should be");
//! ```

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::Unfit;

/// Bytes that a file may have that is read whole: formats that are read here count by 32 bits.
pub(crate) const LIMIT: u64 = 4 << 30;

/// Opens a regular file to read it.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Without O_NONBLOCK a pipe would be waited for; a regular file knows no difference.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => check(file),
        // What open(2) says of a socket.
        Err(e) if e.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
            Err(Unfit::not_regular("a socket"))
        }
        Err(e) => Err(e),
    }
}

/// Passes on a file that was opened without waiting, if it is a regular one.
pub(crate) fn check(file: File) -> io::Result<(File, Metadata)> {
    let found = file.metadata()?;
    match kind(found.file_type()) {
        None if found.is_dir() => Err(Errno::ISDIR.into()),
        None => Ok((file, found)),
        Some(kind) => Err(Unfit::not_regular(kind)),
    }
}

/// What a file is called that is neither a regular one nor a folder.
pub fn kind(found: FileType) -> Option<&'static str> {
    match found {
        _ if found.is_fifo() => Some("a pipe"),
        _ if found.is_socket() => Some("a socket"),
        _ if found.is_char_device() || found.is_block_device() => Some("a device"),
        _ => None,
    }
}

/// All bytes of a regular file.
///
/// # Errors
/// Where it cannot be read, is no regular file, or has more bytes than can be meant.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let (mut file, found) = open(path)?;
    let mut bytes = Vec::new();
    read_into(&mut file, &found, LIMIT, &mut bytes)?;
    Ok(bytes)
}

/// A regular file as text.
///
/// # Errors
/// As [`read`], and where it is no UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8");
    String::from_utf8(read(path)?).map_err(not_text)
}

/// Adds the bytes of an open file, `limit` at most, even where it grows meanwhile.
pub(crate) fn read_into(
    file: &mut File,
    found: &Metadata,
    limit: u64,
    bytes: &mut Vec<u8>,
) -> io::Result<()> {
    if found.len() > limit {
        return Err(Unfit::too_large(limit));
    }
    const MORE: usize = 64 << 10;
    let start = bytes.len();
    // With one byte more than it is said to have, a single call shows its end as well.
    bytes.reserve(found.len() as usize + 1);
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(MORE);
        }
        let room = bytes.capacity() - bytes.len();
        let count = match rustix::io::read(&*file, spare_capacity(bytes)) {
            Err(Errno::INTR) => continue,
            read => read?,
        };
        let all = (bytes.len() - start) as u64;
        match count {
            _ if all > limit => return Err(Unfit::too_large(limit)),
            0 => return Ok(()),
            _ if count < room && all == found.len() => return Ok(()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, mknodat};

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        mknodat(CWD, path("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("zero")).unwrap();
        let said = |name: &str| read(&path(name)).unwrap_err().to_string();
        assert_eq!(said("pipe"), "a pipe where a regular file should be");
        assert_eq!(said("socket"), "a socket where a regular file should be");
        assert_eq!(said("zero"), "a device where a regular file should be");
        assert_eq!(read(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read(&path("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn no_more_is_read_than_was_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![1; 1000]).unwrap();
        let read = |limit, grown: bool| {
            let (mut file, found) = open(&path).unwrap();
            if grown {
                std::fs::write(&path, vec![1; 2000]).unwrap();
            }
            let mut bytes = Vec::new();
            read_into(&mut file, &found, limit, &mut bytes).map(|()| bytes.len())
        };
        assert_eq!(read(1000, false).unwrap(), 1000);
        assert!(read(999, false).unwrap_err().to_string().contains("more than 999 bytes"));
        assert!(read(1500, true).is_err());
        let sparse = File::create(&path).unwrap();
        sparse.set_len(LIMIT + 1).unwrap();
        assert!(super::read(&path).unwrap_err().to_string().contains("more than 4 GiB"));
    }
}
