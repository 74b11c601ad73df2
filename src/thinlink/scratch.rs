//! The folder that thin links write into, each below a name of its own: in memory where there is room, else in the tree.
//! Memory is shared by all runs of a machine, those in containers too, where another tree may have
//! the same path: so the folder has a random name, is made where none was, is held open and locked
//! while it lives, and what is taken is taken from the one that was made. Its name stands in the
//! tree's own folder before it is made, so that the next run there removes what a killed one left.
//! Must not know how the linker is called.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, Stat, flock};
use rustix::io::Errno;

use super::LIST;
use crate::error::{Error, Result};
use crate::regular;
use crate::room::{Room, is_folder, is_same};
use crate::store::{FOLDER, Facts, Indexed, Store};
use crate::unit::Part;

/// A folder for the outputs of a run's thin links; removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Scratch {
    room: Room,
    /// Where it is, and under which name.
    parent: Room,
    base: OsString,
    /// The tree's own folder, which holds the record of a scratch folder in memory.
    own: Room,
    /// Its name as the linker is told it.
    pub name: String,
}

/// A file system in memory that Linux systems have. Thousands of small files that live for a
/// second cost more than the link itself on a disk with a journal.
const MEMORY: &str = "/dev/shm";
/// Free bytes that have to be there: far more than the indexes of the largest kernels.
const MEMORY_FREE: u64 = 512 << 20;
/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: u64 = 0x0102_1994;
/// The folder in the tree, below the store's.
const IN_TREE: &str = "link";
/// The file below the store's folder that says which folder in memory is this tree's.
const RECORD: &str = "scratch";
/// Bytes that the linker may write into one file.
const LARGEST: u64 = 1 << 30;

impl Scratch {
    /// Makes an empty one for the tree of a store that is open: in memory, if it may be there and
    /// there is room, else in the tree. What a killed run of this tree left is removed.
    ///
    /// # Errors
    /// Where the folder of the tree cannot be opened, emptied or made.
    pub fn new(store: &Store, may_be_in_memory: bool) -> Result<Self> {
        let path = store.tree().join(FOLDER);
        let fail = |e| Error::io("open the folder", &path, e);
        let own = || Room::open(store.tree()).and_then(|tree| tree.sub(FOLDER)).map_err(fail);
        let own_room = own()?;
        sweep(&own_room);
        if may_be_in_memory && let Some(scratch) = Self::in_memory(own()?) {
            return Ok(scratch);
        }
        let place = own_room.path(IN_TREE);
        own_room.remove_all(IN_TREE).map_err(|e| Error::io("remove", &place, e))?;
        let room = own_room.make_new(IN_TREE, 0o777);
        let room = room.map_err(|e| Error::io("make the folder", &place, e))?;
        let name = format!("{FOLDER}/{IN_TREE}");
        Ok(Scratch { room, parent: own_room, base: IN_TREE.into(), own: own()?, name })
    }

    fn in_memory(own: Room) -> Option<Self> {
        let found = rustix::fs::statfs(MEMORY).ok()?;
        let free = found.f_bavail.saturating_mul(found.f_bsize as u64);
        if found.f_type as u64 != TMPFS || free < MEMORY_FREE {
            return None;
        }
        let parent = memory()?;
        let random = RandomState::new().build_hasher().finish();
        let base = OsString::from(format!("{}{random:016x}", prefix()));
        // On record before it is there: no kill leaves a folder that nobody knows of.
        own.write(RECORD, announced(&base).as_bytes()).ok()?;
        // Closed to others; and where anything has the name already, it is not taken.
        let room = parent.make_new(&base, 0o700).ok()?;
        let name = Path::new(MEMORY).join(&base).to_string_lossy().into_owned();
        let scratch = Scratch { room, parent, base, own, name };
        let found = scratch.room.stat().ok().filter(is_own)?;
        // A file system in memory has locks; without one, no other run would sweep it in any case
        // but that of a copied tree. Such a run may be at it now, if it was quicker.
        if flock(&scratch.room, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
        {
            return None;
        }
        scratch.check().ok()?;
        scratch.own.write(RECORD, record(&scratch.base, &found).as_bytes()).ok()?;
        Some(scratch)
    }

    /// Makes a folder in it for one thin link; returns its name as the linker is to be told it.
    ///
    /// # Errors
    /// Where the folder cannot be made.
    pub fn folder(&self, link: &str) -> Result<String> {
        let fail = |e| Error::io("make the folder", self.room.path(link), e);
        self.room.make_new(link, 0o777).map_err(fail)?;
        Ok(format!("{}/{link}", self.name))
    }

    /// Takes what a link that succeeded left in its folder: the indexed modules in link order. When
    /// all of them are good, an index is put into its place where its bytes are new, and the folder
    /// is removed. `unit` is the qualifier of the unit that was linked.
    ///
    /// # Errors
    /// Where the folder is not the one that was made, an output is missing or names what is not a
    /// member, or an index cannot be put into its place.
    pub fn take(
        &self,
        link: &str,
        unit: Option<&Arc<str>>,
        store: &Store,
        members: &[(String, Facts)],
    ) -> Result<Vec<Indexed>> {
        self.check()?;
        let list = Path::new(link).join(LIST);
        let text = self.read(&list).map_err(|e| unmade(&self.room.path(&list), e))?;
        let text = String::from_utf8_lossy(&text);
        let known: HashSet<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        let prefix = format!("{}/{link}/objects/", self.name);
        let mut modules = Vec::new();
        for line in text.lines() {
            let object = line.strip_prefix(&prefix).filter(|name| known.contains(name));
            let object = object.ok_or_else(|| {
                let found =
                    format!("the linker indexed {line}, which is not a member of the archives");
                Error::bad_input(
                    self.room.path(&list),
                    found,
                    "report this with the linker's version",
                )
            })?;
            let part = Part { object: object.to_owned(), unit: unit.cloned() };
            let imports = self.imports(link, object)?;
            modules.push((part, imports));
        }
        let modules = modules.into_iter();
        let placed = modules.map(|(part, imports)| self.place(link, store, part, imports));
        let placed = placed.collect::<Result<_>>()?;
        // Memory may be short before the last of many has ended.
        self.room.remove_all(link).map_err(|e| Error::io("remove", self.room.path(link), e))?;
        Ok(placed)
    }

    /// Fails if the linker's path does not lead to the folder that was made for it.
    fn check(&self) -> Result<()> {
        let there = self.parent.find(&self.base).ok().flatten();
        match (there, self.room.stat()) {
            (Some(there), Ok(own)) if is_same(&there, &own) => Ok(()),
            _ => {
                let found = "a folder other than the one that was made for the thin link";
                Err(Error::bad_input(
                    self.room.place(),
                    found,
                    "find out what replaced it and run again",
                ))
            }
        }
    }

    fn read(&self, name: &Path) -> io::Result<Vec<u8>> {
        let (mut file, found) = self.room.open_within(name)?;
        let mut bytes = Vec::new();
        regular::read_into(&mut file, &found, LARGEST, &mut bytes)?;
        Ok(bytes)
    }

    /// Where the linker wrote a file about an object.
    fn made(link: &str, object: &str, ending: &str) -> PathBuf {
        Path::new(link).join("objects").join(format!("{object}{ending}"))
    }

    /// The names that an object imports from, if the linker wrote all that it should have.
    fn imports(&self, link: &str, object: &str) -> Result<Vec<Arc<str>>> {
        let [fresh, imports] =
            [".thinlto.bc", ".imports"].map(|ending| Self::made(link, object, ending));
        let unmade = |name: &Path, error| unmade(&self.room.path(name), error);
        if self.room.size_within(&fresh).map_err(|e| unmade(&fresh, e))? == 0 {
            // clang would take it, and import nothing, without a word.
            let remedy = "look for the linker's messages, or free some space";
            return Err(Error::bad_input(self.room.path(&fresh), "an empty index", remedy));
        }
        let names = self.read(&imports).map_err(|e| unmade(&imports, e))?;
        Ok(String::from_utf8_lossy(&names).lines().map(Into::into).collect())
    }

    fn place(
        &self,
        link: &str,
        store: &Store,
        part: Part,
        imports: Vec<Arc<str>>,
    ) -> Result<Indexed> {
        let made = Self::made(link, &part.object, ".thinlto.bc");
        let bytes = self.read(&made).map_err(|e| Error::io("read", self.room.path(&made), e))?;
        let (name, facts) = (part.index(), Facts::of(&bytes));
        if store.files.find(&name)?.is_none_or(|old| old.digest != facts.digest) {
            store.files.write(&name, &bytes, facts)?;
        }
        Ok(Indexed { part, index: facts.digest, imports })
    }
}

/// The linker said that all is well, and did not write what it was asked for.
fn unmade(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            let remedy = "look for the linker's messages, or free some space";
            Error::bad_input(path, "the linker exited with 0 but did not write it", remedy)
        }
        _ => Error::io("read", path, error),
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = match self.check() {
            Ok(()) => self.parent.remove_all(&self.base),
            Err(_) => Ok(()),
        };
        if let Err(error) = removed.and_then(|()| self.own.remove(RECORD)) {
            tracing::debug!("{} stays: {error}", self.room.place().display());
        }
    }
}

/// The folder of all folders in memory, if nobody can rename what is in it but its owner.
fn memory() -> Option<Room> {
    let room = Room::open(Path::new(MEMORY)).ok()?;
    let found = room.stat().ok()?;
    let guarded = found.st_mode & 0o022 == 0 || found.st_mode & 0o1000 != 0;
    (guarded && found.st_uid == 0).then_some(room)
}

fn prefix() -> String {
    format!("kthinlto-{}-", rustix::process::geteuid().as_raw())
}

/// A folder of ours that is closed to others.
fn is_own(found: &Stat) -> bool {
    let user = rustix::process::geteuid().as_raw();
    is_folder(found) && found.st_uid == user && found.st_mode & 0o077 == 0
}

/// What is on record of a folder in memory: its name, and which of that name it is.
fn record(base: &OsStr, found: &Stat) -> String {
    format!("{} {} {}\n", base.to_string_lossy(), found.st_dev, found.st_ino)
}

/// What is on record of one that is about to be made: its name alone.
fn announced(base: &OsStr) -> String {
    format!("{}\n", base.to_string_lossy())
}

/// Removes the folder in memory that a killed run left, and that is on record in a tree whose
/// store is open.
pub fn remove_left(store: &Store) {
    if let Some(own) = store.room() {
        sweep(own);
    }
}

/// Removes the folder in memory that a killed run of this tree left. One that is locked is another
/// run's: the tree is a copy, made while that went on. Of one that was only announced nobody knows
/// which it is, so it goes if it is empty; nothing is written into one before more is on record.
fn sweep(own: &Room) {
    let Ok(text) = own.read(RECORD, 4096) else {
        return;
    };
    let text = String::from_utf8_lossy(&text);
    let base = text.split([' ', '\n']).next().unwrap_or_default();
    let swept = || {
        let parent = memory()?;
        let found = parent.find(base).ok()?.filter(is_own)?;
        let is_announced = announced(OsStr::new(base)) == *text;
        let is_whole = record(OsStr::new(base), &found) == *text;
        let ours = base.starts_with(&prefix()) && (is_announced || is_whole);
        let room = parent.sub(base).ok().filter(|_| ours)?;
        match flock(&room, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => None,
            Ok(()) if is_announced => parent.remove_empty(base).ok(),
            Err(_) if is_announced => None,
            _ => parent.remove_all(base).ok(),
        }
    };
    if swept().is_none() {
        tracing::debug!("{base} is gone, or does not belong to this tree");
    }
    let _ = own.remove(RECORD);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, DirBuilder};
    use std::os::unix::fs::DirBuilderExt;

    fn store(dir: &Path) -> Store {
        fs::create_dir_all(dir).unwrap();
        Store::open(dir).unwrap()
    }

    /// Skipped where there is no room in memory.
    fn in_memory(store: &Store) -> Option<Scratch> {
        let scratch = Scratch::new(store, true).unwrap();
        scratch.name.starts_with(MEMORY).then_some(scratch)
    }

    #[test]
    fn what_a_killed_run_left_is_removed_by_the_next_in_that_tree_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (store(&dir.path().join("one")), store(&dir.path().join("other")));
        let Some(killed) = in_memory(&one) else {
            return;
        };
        let left = PathBuf::from(&killed.name);
        fs::write(left.join("half"), "x").unwrap();
        // As the kernel leaves it: the lock goes, the folder stays.
        let Scratch { room, .. } = &killed;
        flock(room, FlockOperation::Unlock).unwrap();
        std::mem::forget(killed);
        drop(in_memory(&other));
        assert!(left.exists(), "another tree's");
        let again = in_memory(&one).unwrap();
        assert!(!left.exists() && again.name != left.to_string_lossy());
    }

    #[test]
    fn one_that_was_announced_and_no_more_is_removed_if_it_is_empty_and_free() {
        let dir = tempfile::tempdir().unwrap();
        let (one, copy) = (store(&dir.path().join("one")), store(&dir.path().join("copy")));
        let Some(live) = in_memory(&one) else {
            return;
        };
        let announce = |place: &Path| {
            let base = place.file_name().unwrap();
            fs::write(dir.path().join("copy/.kthinlto/scratch"), announced(base)).unwrap();
            drop(in_memory(&copy));
        };
        announce(Path::new(&live.name));
        assert!(Path::new(&live.name).exists(), "it is locked");
        let left = Path::new(MEMORY).join(format!("{}left-{}", prefix(), std::process::id()));
        let make = || DirBuilder::new().mode(0o700).create(&left).unwrap();
        make();
        fs::write(left.join("file"), "").unwrap();
        announce(&left);
        assert!(left.exists(), "it is not empty");
        fs::remove_file(left.join("file")).unwrap();
        announce(&left);
        assert!(!left.exists());
        announce(&left);
    }

    #[test]
    fn a_copy_of_a_tree_in_the_midst_of_a_link_leaves_that_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (one, copy) = (store(&dir.path().join("one")), store(&dir.path().join("copy")));
        let Some(live) = in_memory(&one) else {
            return;
        };
        let [from, to] =
            ["one", "copy"].map(|tree| dir.path().join(tree).join(".kthinlto/scratch"));
        fs::copy(from, to).unwrap();
        drop(in_memory(&copy));
        assert!(Path::new(&live.name).exists());
    }

    #[test]
    fn a_record_that_names_something_else_removes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let one = store(&dir.path().join("one"));
        let kept = tempfile::Builder::new().prefix("other").tempdir_in(MEMORY).unwrap();
        let name = kept.path().file_name().unwrap().to_str().unwrap().to_owned();
        for base in [name.as_str(), "../etc", ".", ""] {
            let found = Room::open(kept.path()).unwrap().stat().unwrap();
            let text = record(OsStr::new(base), &found);
            fs::write(dir.path().join("one/.kthinlto/scratch"), text).unwrap();
            drop(Scratch::new(&one, true).unwrap());
            assert!(kept.path().exists(), "{base}");
        }
    }

    #[test]
    fn a_folder_that_was_replaced_gives_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for in_memory in [false, true] {
            let one = store(&dir.path().join("one"));
            let scratch = Scratch::new(&one, in_memory).unwrap();
            let place = match in_memory {
                true => PathBuf::from(&scratch.name),
                false => dir.path().join("one").join(&scratch.name),
            };
            fs::remove_dir(&place).unwrap();
            fs::create_dir(&place).unwrap();
            fs::create_dir(place.join("0")).unwrap();
            fs::write(place.join("0").join(LIST), "").unwrap();
            let error = scratch.take("0", None, &one, &[]).unwrap_err();
            assert!(error.to_string().contains("a folder other than the one"), "{error}");
            drop(scratch);
            assert!(place.exists(), "it is not ours to remove");
            fs::remove_dir_all(&place).unwrap();
        }
    }
}
