//! A folder of our own, held open: what is done in it is done by its descriptor, so that no link
//! and no renamed folder can lead elsewhere. Files in it are regular ones or are refused, new ones
//! are made where nothing was, and what is removed is removed as itself, never what it leads to.
//! Must not know what the files are for.
//!
//! ```
//! use kthinlto::room::Room;
//! # fn main() -> std::io::Result<()> {
//! let dir = tempfile::tempdir()?;
//! let room = Room::open(dir.path())?.make("own", 0o755)?;
//! room.write("state", b"text")?;
//! assert_eq!(room.read("state", 100)?, b"text");
//! std::os::unix::fs::symlink("state", dir.path().join("own/link"))?;
//! assert!(room.read("link", 100).is_err());
//! # Ok(()) }
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::Unfit;
use crate::regular;

/// Folders within folders deeper than this are not ours.
const MAX_DEPTH: usize = 100;
/// What to do about something that stands where ours should be.
const REMOVE: &str = "remove it: kthinlto will make its own";

/// An open folder.
#[derive(Debug)]
pub struct Room {
    folder: OwnedFd,
    path: PathBuf,
}

impl Room {
    /// Opens a folder that someone named: here, and only here, links are followed.
    ///
    /// # Errors
    /// Where it cannot be opened, or is no folder.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Room { folder, path: path.to_path_buf() })
    }

    /// The path that it was opened by, for messages.
    pub(crate) fn place(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it, for messages.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a folder in it.
    pub(crate) fn sub(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        let name = plain(name.as_ref())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.folder, name, flags, Mode::empty());
        let folder = folder.map_err(|e| self.why_not(name, e))?;
        Ok(Room { folder, path: self.path.join(name) })
    }

    /// Opens a folder in it, and makes it first if it is not there; the umask is taken off `mode`.
    ///
    /// # Errors
    /// Where it cannot be made or opened, is a link, or is no folder.
    pub fn make(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<Self> {
        let name = name.as_ref();
        match rustix::fs::mkdirat(&self.folder, plain(name)?, Mode::from_raw_mode(mode)) {
            Ok(()) => self.sub(name),
            Err(Errno::EXIST) => self.sub(name).map_err(|e| match e.kind() {
                io::ErrorKind::NotADirectory => Errno::EXIST.into(),
                _ => e,
            }),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes a folder in it that was not there.
    pub(crate) fn make_new(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<Self> {
        let name = name.as_ref();
        rustix::fs::mkdirat(&self.folder, plain(name)?, Mode::from_raw_mode(mode))?;
        self.sub(name)
    }

    /// Opens the folder of a name that may have folders in it, none of them by way of a link, and
    /// returns the last part of the name with it.
    ///
    /// # Errors
    /// Where one of the folders is not there, cannot be opened, or is a link, and where the name
    /// leads out of here.
    pub fn below<'a>(&self, name: &'a Path) -> io::Result<(Self, &'a OsStr)> {
        let outside = || Unfit::error("a name that leads out of its folder", REMOVE);
        let last = name.file_name().ok_or_else(outside)?;
        let folder = self.folder.try_clone()?;
        let mut room = Room { folder, path: self.path.clone() };
        for part in name.parent().unwrap_or(Path::new("")).components() {
            match part {
                Component::CurDir => {}
                Component::Normal(part) => room = room.sub(part)?,
                _ => return Err(outside()),
            }
        }
        Ok((room, last))
    }

    /// What the folder is.
    pub(crate) fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.folder)?)
    }

    /// What a name stands for, a link for itself; `None` where there is nothing.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn find(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.folder, plain(name.as_ref())?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens a regular file, to read it and whatever else `more` says.
    pub(crate) fn open_file(&self, name: impl AsRef<OsStr>, more: OFlags) -> io::Result<File> {
        let name = plain(name.as_ref())?;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | more;
        let mode = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(&self.folder, name, flags, mode);
        let file = file.map_err(|e| self.why_not(name, e))?;
        Ok(regular::check(file.into())?.0)
    }

    /// The bytes of a regular file, `limit` at most.
    ///
    /// # Errors
    /// Where it cannot be read, is no regular file, or has more bytes than `limit`.
    pub fn read(&self, name: impl AsRef<OsStr>, limit: u64) -> io::Result<Vec<u8>> {
        let mut file = self.open_file(name, OFlags::RDONLY)?;
        let (found, mut bytes) = (file.metadata()?, Vec::new());
        regular::read_into(&mut file, &found, limit, &mut bytes)?;
        Ok(bytes)
    }

    /// Opens a regular file in a folder of a room that nobody else writes into: only its own last
    /// part is looked at.
    pub(crate) fn open_within(&self, name: &Path) -> io::Result<(File, Metadata)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, name, flags, Mode::empty())?;
        regular::check(file.into())
    }

    /// Size of a regular file in a folder of such a room.
    pub(crate) fn size_within(&self, name: &Path) -> io::Result<u64> {
        let found = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match is_file(&found) {
            true => Ok(found.st_size as u64),
            false => Ok(self.open_within(name)?.1.len()), // which says what it is
        }
    }

    /// Makes a new file: nothing may be there. The umask is taken off `mode`.
    pub(crate) fn create(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let file = rustix::fs::openat(&self.folder, plain(name.as_ref())?, flags, mode)?;
        Ok(file.into())
    }

    /// Makes a new file in the place of one that a killed run may have left; a link is removed,
    /// and what it leads to is not.
    pub(crate) fn create_anew(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        match self.create(&name, mode) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(&name)?;
                self.create(&name, mode)
            }
            made => made,
        }
    }

    /// Writes a file aside and renames it: a reader sees the old or the new one.
    ///
    /// # Errors
    /// Where the file aside cannot be made, written or renamed.
    pub fn write(&self, name: impl AsRef<OsStr>, bytes: &[u8]) -> io::Result<()> {
        self.write_with(name.as_ref(), bytes, |_| Ok(()))
    }

    /// The same; returns what `look` says of the file before it has its name.
    pub(crate) fn write_with<T>(
        &self,
        name: &OsStr,
        bytes: &[u8],
        look: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let aside = aside(name);
        let mut file = self.create_anew(&aside, 0o666)?;
        let write = || {
            file.write_all(bytes)?;
            let seen = look(&file)?;
            self.rename(&aside, name)?;
            Ok(seen)
        };
        let written = write();
        if written.is_err() {
            let _ = self.remove(&aside);
        }
        written
    }

    /// Gives a file of the folder another name in it.
    pub(crate) fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> io::Result<()> {
        let (from, to) = (plain(from.as_ref())?, plain(to.as_ref())?);
        Ok(rustix::fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    /// Removes a file or a link; that there is none is fine.
    ///
    /// # Errors
    /// Where it is there and cannot be removed.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.folder, plain(name.as_ref())?, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes a file, a link, or a folder with all that is in it.
    ///
    /// # Errors
    /// Where something in it is there and cannot be removed.
    pub fn remove_all(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        self.remove_tree(name.as_ref(), 0)
    }

    fn remove_tree(&self, name: &OsStr, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(Unfit::error(
                "folders nested too deep to be kthinlto's",
                "find out what made them",
            ));
        }
        // Nearly all are files, and need no look. A folder is not removed so.
        match rustix::fs::unlinkat(&self.folder, plain(name)?, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
        match self.find(name)? {
            None => return Ok(()),
            Some(found) if !is_folder(&found) => return self.remove(name),
            Some(_) => {}
        }
        let room = self.sub(name)?;
        room.names()?.iter().try_for_each(|name| room.remove_tree(name, depth + 1))?;
        self.remove_empty(name)
    }

    /// Removes a folder that has nothing in it; that there is none is fine.
    pub(crate) fn remove_empty(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.folder, plain(name.as_ref())?, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The names in it, in no order.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Says it in words where what stands there is the trouble.
    fn why_not(&self, name: &OsStr, error: Errno) -> io::Error {
        let stands = || rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        match error {
            Errno::LOOP | Errno::NOTDIR | Errno::MLINK
                if stands().is_some_and(|found| kind_of(&found) == FileType::Symlink) =>
            {
                Unfit::error(
                    "a symbolic link where kthinlto's own file or folder should be",
                    REMOVE,
                )
            }
            Errno::NXIO => Unfit::not_regular("a socket"),
            error => error.into(),
        }
    }
}

impl AsFd for Room {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// How the names begin under which files are written before they have their own: kbuild's clean
/// and its .gitignore know them.
pub const ASIDE: &str = ".tmp_";

/// The name under which a file is written.
pub(crate) fn aside(name: &OsStr) -> OsString {
    let mut aside = OsString::from(ASIDE);
    aside.push(name);
    aside
}

/// One part of a path, and no way out.
fn plain(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    match bytes.contains(&b'/') || matches!(bytes, b"" | b"." | b"..") {
        true => Err(io::ErrorKind::InvalidFilename.into()),
        false => Ok(name),
    }
}

fn kind_of(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

/// Whether this is a folder, and no link to one.
pub(crate) fn is_folder(found: &Stat) -> bool {
    kind_of(found) == FileType::Directory
}

/// Whether this is a regular file, and no link to one.
pub(crate) fn is_file(found: &Stat) -> bool {
    kind_of(found) == FileType::RegularFile
}

/// Whether two are the same file or folder.
pub(crate) fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Which others could have written this, as a clause; `None` where only we and root can.
pub(crate) fn writers(found: &Stat) -> Option<String> {
    let user = rustix::process::geteuid().as_raw();
    // A group that is numbered as the user is the user's own: login(1), pam_umask(8).
    let own_group = found.st_gid == user && rustix::process::getegid().as_raw() == user;
    match (found.st_uid, found.st_mode) {
        (owner, _) if owner != user && owner != 0 => Some(format!("belongs to user {owner}")),
        (_, mode) if mode & 0o002 != 0 => Some("can be written by anyone".to_owned()),
        (_, mode) if mode & 0o020 != 0 && !own_group => {
            Some(format!("can be written by group {}", found.st_gid))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn room() -> (tempfile::TempDir, Room) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("own")).unwrap();
        fs::create_dir(dir.path().join("other")).unwrap();
        fs::write(dir.path().join("other/file"), "kept").unwrap();
        let room = Room::open(&dir.path().join("own")).unwrap();
        (dir, room)
    }

    #[test]
    fn nothing_is_written_or_removed_through_a_link() {
        let (dir, room) = room();
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        symlink(&other, own.join("folder")).unwrap();
        symlink(other.join("file"), own.join("file")).unwrap();
        symlink(other.join("file"), own.join(".tmp_new")).unwrap();
        fs::create_dir(own.join("mine")).unwrap();
        symlink(&other, own.join("mine/folder")).unwrap();
        assert!(room.sub("folder").unwrap_err().to_string().contains("a symbolic link"));
        assert!(room.make("folder", 0o755).is_err());
        assert!(room.below(Path::new("folder/file")).is_err());
        assert!(room.below(Path::new("../other/file")).is_err());
        assert!(room.below(Path::new("/etc/passwd")).is_err());
        assert!(room.read("file", 10).is_err());
        assert!(room.open_file("file", OFlags::RDWR | OFlags::CREATE).is_err());
        room.write("new", b"new").unwrap();
        room.write("file", b"new").unwrap();
        room.remove_all("mine").unwrap();
        room.remove_all("folder").unwrap();
        assert_eq!(fs::read(other.join("file")).unwrap(), b"kept");
        assert_eq!(fs::read(own.join("new")).unwrap(), b"new");
        assert!(!own.join("file").is_symlink() && !own.join("mine").exists());
    }

    #[test]
    fn a_hard_link_aside_is_not_written_into() {
        let (dir, room) = room();
        let other = dir.path().join("other/file");
        fs::hard_link(&other, dir.path().join("own/.tmp_new")).unwrap();
        room.write("new", b"new").unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"kept");
        assert_eq!(room.find("new").unwrap().unwrap().st_nlink, 1);
    }

    #[test]
    fn a_folder_that_is_moved_away_takes_its_room_along() {
        let (dir, room) = room();
        fs::rename(dir.path().join("own"), dir.path().join("moved")).unwrap();
        symlink("other", dir.path().join("own")).unwrap();
        room.write("file", b"new").unwrap();
        assert_eq!(fs::read(dir.path().join("other/file")).unwrap(), b"kept");
        assert_eq!(fs::read(dir.path().join("moved/file")).unwrap(), b"new");
    }

    #[test]
    fn who_may_write_is_told_by_owner_and_mode() {
        let (dir, room) = room();
        let said = |mode| {
            let own = dir.path().join("own");
            fs::set_permissions(own, fs::Permissions::from_mode(mode)).unwrap();
            writers(&room.stat().unwrap())
        };
        assert_eq!(said(0o755), None);
        assert_eq!(said(0o777).unwrap(), "can be written by anyone");
        let mut found = room.stat().unwrap();
        (found.st_uid, found.st_mode) = (54321, 0o40755);
        assert_eq!(writers(&found).unwrap(), "belongs to user 54321");
        (found.st_uid, found.st_gid, found.st_mode) = (0, 54322, 0o40775);
        assert_eq!(writers(&found).unwrap(), "can be written by group 54322");
    }
}
