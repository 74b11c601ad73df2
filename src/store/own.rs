//! `.kthinlto`, the folder at the top of an object tree that is ours: found, made and checked, and
//! its lock. A tree may come from anywhere, and so may a folder of that name in it: it has to be
//! a real one, of whoever owns the tree or of us, that no one more than the tree's own users can
//! write into. Must not know what is kept in it.

use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;

use super::FOLDER;
use super::stamp::TimeResolution;
use crate::error::{Error, Result};
use crate::room::Room;

/// Opens the folder, and makes it if need be, with no wider a mode than the tree's.
pub fn make(tree: &Path) -> Result<Room> {
    let path = tree.join(FOLDER);
    let fail = |e| Error::io("make the folder", &path, e);
    let root = Room::open(tree).map_err(fail)?;
    let mode = root.stat().map_err(fail)?.st_mode & 0o777 | 0o700;
    let room = root.make(FOLDER, mode).map_err(fail)?;
    check(&root, &room)?;
    Ok(room)
}

/// Opens the folder, if it is there.
pub fn find(tree: &Path) -> Result<Option<Room>> {
    let found = Room::open(tree).and_then(|root| Ok((root.sub(FOLDER)?, root)));
    match found {
        Ok((room, root)) => check(&root, &room).map(|()| Some(room)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("open the folder", tree.join(FOLDER), e)),
    }
}

fn check(root: &Room, room: &Room) -> Result<()> {
    let fail = |e| Error::io("look at", room.place(), e);
    let (tree, own) = (root.stat().map_err(fail)?, room.stat().map_err(fail)?);
    let user = rustix::process::geteuid().as_raw();
    let bad = |found: String, remedy| Err(Error::bad_input(room.place(), found, remedy));
    if ![user, tree.st_uid, 0].contains(&own.st_uid) {
        let found = format!("a folder that belongs to user {}", own.st_uid);
        return bad(found, "remove it: kthinlto will make its own");
    }
    if own.st_mode & 0o002 > tree.st_mode & 0o002 {
        let found = "a folder that anyone can write into".to_owned();
        return bad(found, "remove it, or take that permission away (chmod o-w)");
    }
    Ok(())
}

/// The lock of a tree, held.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// A sentence where the file system has no locks.
    pub warning: Option<String>,
}

/// Takes the tree's lock, or says who has it.
pub fn lock(tree: &Path, room: &Room) -> Result<Lock> {
    let path = room.path("lock");
    let fail = |e| Error::io("open the lock", &path, e);
    let file = room.open_file("lock", OFlags::RDWR | OFlags::CREATE).map_err(fail)?;
    let found = file.metadata().map_err(fail)?;
    if found.nlink() != 1 {
        let remedy = "remove it: kthinlto will make its own";
        return Err(Error::bad_input(&path, "a lock that also has another name", remedy));
    }
    // Whoever can open it can hold it: that is for those alone who can write into the folder.
    let folder = room.stat().map_err(fail)?.st_mode;
    let others = [(0o020, 0o060), (0o002, 0o006)].into_iter();
    let mode =
        others.filter(|(may, _)| folder & may != 0).fold(0o600, |mode, (_, more)| mode | more);
    if found.mode() & 0o777 != mode {
        let _ = file.set_permissions(Permissions::from_mode(mode));
    }
    match file.try_lock() {
        Ok(()) => Ok(Lock { file, warning: None }),
        Err(TryLockError::WouldBlock) => {
            let tree = std::path::absolute(tree).unwrap_or_else(|_| tree.to_path_buf());
            Err(Error::Locked { tree, holder: holder(&file) })
        }
        Err(TryLockError::Error(e)) if has_no_locks(&e) => {
            let warning = format!(
                "{} cannot be locked ({e}): make sure that no other kthinlto runs in this tree",
                path.display()
            );
            Ok(Lock { file, warning: Some(warning) })
        }
        Err(TryLockError::Error(e)) => Err(Error::io("lock", &path, e)),
    }
}

/// What file systems without flock(2) answer.
fn has_no_locks(error: &io::Error) -> bool {
    let none = [Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOLCK];
    none.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Who wrote its number into the lock, as ` (process N)`: if that process lives and is ours. It may
/// be an old number, or somebody's who only reads the file.
fn holder(file: &File) -> String {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text);
    // Its holder may be writing over the number of an earlier one.
    let number = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok());
    let number = number.and_then(|number| i32::try_from(number).ok());
    let user = rustix::process::geteuid().as_raw();
    let is_ours = |pid: &Pid| {
        let found = std::fs::metadata(format!("/proc/{}", pid.as_raw_pid()));
        found.is_ok_and(|found| found.uid() == user)
    };
    match number.and_then(Pid::from_raw).filter(is_ours) {
        Some(pid) => format!(" (process {})", pid.as_raw_pid()),
        None => String::new(),
    }
}

impl Lock {
    /// Writes our number into the lock, and learns from that how fine the times of files are.
    /// The number is only for who meets the lock: one without is a lock too.
    pub fn write_owner(&self) -> TimeResolution {
        let text = format!("{}\n", std::process::id());
        let resolution =
            TimeResolution::by_writing(&self.file, text.as_bytes()).unwrap_or_default();
        let _ = self.file.set_len(text.len() as u64);
        resolution
    }

    /// When [`Lock::write_owner`] wrote into it.
    pub fn written(&self) -> io::Result<SystemTime> {
        self.file.metadata()?.modified()
    }
}

impl Drop for Lock {
    /// A child that was forked and is not yet another program holds the file open too.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_in_the_place_of_the_folder_or_the_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, other) = (dir.path().join("tree"), dir.path().join("other"));
        fs::create_dir(&tree).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("lock"), "kept").unwrap();
        symlink(&other, tree.join(FOLDER)).unwrap();
        for error in [make(&tree).unwrap_err(), find(&tree).unwrap_err()] {
            assert!(error.to_string().contains(".kthinlto: a symbolic link where"), "{error}");
            assert_eq!(error.exit_code(), 3);
        }
        fs::remove_file(tree.join(FOLDER)).unwrap();
        let room = make(&tree).unwrap();
        symlink(other.join("lock"), tree.join(".kthinlto/lock")).unwrap();
        assert_eq!(lock(&tree, &room).unwrap_err().exit_code(), 3);
        fs::remove_file(tree.join(".kthinlto/lock")).unwrap();
        fs::hard_link(other.join("lock"), tree.join(".kthinlto/lock")).unwrap();
        assert!(lock(&tree, &room).unwrap_err().to_string().contains("also has another name"));
        assert_eq!(fs::read(other.join("lock")).unwrap(), b"kept");
    }

    #[test]
    fn only_who_can_write_into_the_folder_can_hold_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, want) in [(0o755, 0o600), (0o775, 0o660), (0o777, 0o666)] {
            fs::set_permissions(dir.path(), Permissions::from_mode(folder)).unwrap();
            let room = make(dir.path()).unwrap();
            fs::set_permissions(room.place(), Permissions::from_mode(folder)).unwrap();
            // As versions before made it.
            fs::write(room.path("lock"), "1\n").unwrap();
            let held = lock(dir.path(), &room).unwrap();
            assert_eq!(held.file.metadata().unwrap().mode() & 0o777, want);
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let error = make(dir.path()).unwrap_err().to_string();
        assert!(error.contains("anyone can write into"), "{error}");
    }

    #[test]
    fn the_holder_is_named_only_if_it_lives_and_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let room = make(dir.path()).unwrap();
        let _held = lock(dir.path(), &room).unwrap();
        let named = |text: &str| {
            fs::write(room.path("lock"), text).unwrap();
            lock(dir.path(), &room).unwrap_err().to_string()
        };
        let own = std::process::id();
        assert!(named(&format!("{own}\n")).contains(&format!(" (process {own}) ")));
        for text in ["999999999\n", "", "\x1b[2J\n", "-1\n"] {
            assert!(named(text).contains("another kthinlto is running"), "{text:?}");
        }
    }
}
