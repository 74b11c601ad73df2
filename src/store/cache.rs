//! The shared cache: native objects by key, for all trees of a user, or of users who trust each
//! other. Off unless a folder is named for it. An entry is written aside and renamed, checked
//! whenever it is read, and dropped if it is damaged, so that kills, full disks and other processes
//! can do no harm. Must not know what a key is made of.
//!
//! An entry is the object's bytes with a digest of its key and them behind: one that was renamed,
//! or put over another's, is not taken. It is cloned into a tree where the file system can
//! (reflink), else copied, never hard-linked: a tool that writes into an object in place would then
//! write into every other tree's too.

mod folder;
pub mod links;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_NOW};

use self::folder::{Part, random_name};
use super::digest::{Digest, KeyBuilder};
use crate::error::{Error, Result};
use crate::regular;
use crate::room::{Room, writers};

/// Bytes behind an object: the digest of its key and itself.
const TRAILER: usize = 32;
/// Bytes of the largest entry that is read or written.
const LARGEST: u64 = 1 << 30;
/// Share of the limit that pruning leaves free, so that it is not needed again at once.
const SPARE: u64 = 10;

/// Where the cache is, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The folder.
    pub folder: PathBuf,
    /// Bytes that it keeps to.
    pub limit: u64,
    /// Objects are taken out of it, and it stays as it is.
    pub readonly: bool,
    /// Others may write into it, and what they put there is taken.
    pub shared: bool,
}

impl Place {
    /// A cache of our own.
    pub fn new(folder: impl Into<PathBuf>, limit: u64) -> Self {
        Place { folder: folder.into(), limit, readonly: false, shared: false }
    }

    /// Modes of new folders and files, from which the umask is taken: nobody else may write
    /// unless that was wanted.
    fn modes(&self) -> (u32, u32) {
        if self.shared { (0o777, 0o666) } else { (0o755, 0o644) }
    }
}

/// An open cache.
#[derive(Debug)]
pub struct Cache {
    place: Place,
    /// Of this version; none where nothing was ever put into it.
    current: Option<Part>,
    /// What a version before left: nothing is taken from it.
    older: Option<Part>,
    added: u64,
    /// Bytes that may be added before the next look at the size.
    allowance: u64,
    trouble: Mutex<Trouble>,
}

/// What the user should know, and whether it was said.
#[derive(Debug, Default)]
struct Trouble {
    text: Option<String>,
    said: bool,
}

/// What is in a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of objects.
    pub entries: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

/// What became of a look at an entry.
enum Found {
    Object(File, Vec<u8>),
    Nothing,
    Damaged,
}

impl Cache {
    /// Opens the cache, whose folder is made if need be.
    ///
    /// # Errors
    /// Where the folder cannot be made or opened, or others may write into it and it is not shared
    /// with them.
    pub fn open(place: &Place) -> Result<Self> {
        let folder = &place.folder;
        let fail = |e| Error::io("make the cache folder", folder, e);
        if !place.readonly {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(place.modes().0).create(folder).map_err(fail)?;
        }
        let root = Room::open(folder).map_err(|e| Error::io("open the cache folder", folder, e))?;
        let check = |room: &Room| match writers(&room.stat().map_err(fail)?) {
            Some(others) if !place.shared => {
                let found = format!("a cache folder that {others}");
                Err(Error::bad_input(room.place(), found, TRUST))
            }
            _ => Ok(()),
        };
        check(&root)?;
        let current = match place.readonly {
            true => Part::find(&root, folder::CURRENT)?,
            false => Some(Part::make(&root, place.modes().0)?),
        };
        current.iter().try_for_each(|part| check(&part.room))?;
        let older = Part::find(&root, folder::OLDER)?;
        if let Some(Err(error)) = older.as_ref().filter(|_| !place.readonly).map(Part::mark) {
            tracing::debug!("{error}");
        }
        Ok(Self::with(place, current, older))
    }

    /// Opens a cache in a folder that is there, to look at it or to tidy it. Whether it was ever
    /// used does not matter; that what is in it is kthinlto's does.
    ///
    /// # Errors
    /// Where there is no such folder, or what is in it is not kthinlto's.
    pub fn existing(place: &Place) -> Result<Self> {
        let folder = &place.folder;
        if !folder.is_dir() {
            let remedy = "check the name; a build that uses the cache creates it";
            return Err(Error::bad_input(folder, "there is no such folder", remedy));
        }
        let root = Room::open(folder).map_err(|e| Error::io("open the cache folder", folder, e))?;
        let current = Part::find(&root, folder::CURRENT)?;
        let older = Part::find(&root, folder::OLDER)?;
        if current.is_none() && older.is_none() {
            folder::refuse_foreign(&root)?;
        }
        Ok(Self::with(place, current, older))
    }

    fn with(place: &Place, current: Option<Part>, older: Option<Part>) -> Self {
        let place = place.clone();
        Cache { place, current, older, added: 0, allowance: 0, trouble: Mutex::default() }
    }

    /// Something that the user should know, if there is; once.
    pub fn warning(&self) -> Option<String> {
        let mut trouble = self.trouble();
        let text = trouble.text.take()?;
        (!std::mem::replace(&mut trouble.said, true)).then_some(text)
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complain(&self, path: &Path, found: &str, remedy: &str) {
        let mut trouble = self.trouble();
        if !trouble.said {
            let path = path.display();
            trouble.text =
                Some(format!("{path} {found}; such objects are compiled here: {remedy}"));
        }
    }

    /// Puts the object of `key` at `target`, if the cache has it; says whether it did. A
    /// damaged entry is dropped. Any number of threads may ask.
    pub fn fetch(&self, key: Digest, target: &Path) -> bool {
        let Some(part) = &self.current else {
            return false;
        };
        let (folder, name) = names(key);
        let place = part.room.path(&folder).join(&name);
        match self.look(part, key) {
            Ok(Found::Object(entry, object)) => match copy_out(&entry, &object, target) {
                Ok(()) => {
                    if !self.place.readonly {
                        // The time of the last use, for pruning. Not to have it costs an entry too
                        // early. This form is allowed to all who may write the entry.
                        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
                        let times = Timestamps { last_access: now, last_modification: now };
                        let _ = rustix::fs::futimens(&entry, &times);
                    }
                    true
                }
                Err(error) => {
                    tracing::debug!("{}: {error}", place.display());
                    let _ = fs::remove_file(target);
                    false
                }
            },
            Ok(Found::Nothing) => false,
            Ok(Found::Damaged) => {
                tracing::warn!("{} is damaged and dropped from the cache", place.display());
                if !self.place.readonly {
                    let _ = part.room.sub(&folder).and_then(|folder| folder.remove(&name));
                }
                false
            }
            Err(error) => {
                tracing::debug!("{}: {error}", place.display());
                match error.kind() {
                    io::ErrorKind::NotFound => {}
                    io::ErrorKind::PermissionDenied => self.complain(&place, CLOSED, ONE_GROUP),
                    _ => self.complain(&place, &format!("is not an entry ({error})"), "remove it"),
                }
                false
            }
        }
    }

    /// The bytes of `key`'s entry, if the cache has it and it is whole.
    pub fn read(&self, key: Digest) -> Option<Vec<u8>> {
        match self.look(self.current.as_ref()?, key) {
            Ok(Found::Object(_, bytes)) => Some(bytes),
            Ok(Found::Nothing | Found::Damaged) => None,
            Err(error) => {
                tracing::debug!("an entry of the cache: {error}");
                None
            }
        }
    }

    /// Whether nothing is put into it.
    pub fn is_readonly(&self) -> bool {
        self.place.readonly
    }

    /// Reads an entry, if it is one that may be taken.
    fn look(&self, part: &Part, key: Digest) -> io::Result<Found> {
        let (folder, name) = names(key);
        let folder = part.room.sub(&folder)?;
        let mut entry = folder.open_file(&name, OFlags::RDONLY)?;
        let found = [folder.stat()?, rustix::fs::fstat(&entry)?];
        if let Some(others) = found.iter().find_map(writers).filter(|_| !self.place.shared) {
            self.complain(&folder.path(&name), &others, TRUST);
            return Ok(Found::Nothing);
        }
        let (metadata, mut bytes) = (entry.metadata()?, Vec::new());
        regular::read_into(&mut entry, &metadata, LARGEST, &mut bytes)?;
        Ok(match open_entry(key, &bytes).map(<[u8]>::len) {
            Some(length) => {
                bytes.truncate(length);
                Found::Object(entry, bytes)
            }
            None => Found::Damaged,
        })
    }

    /// Adds the object at `source` under `key`. That others' folders are closed to us is said
    /// once, and is no error.
    ///
    /// # Errors
    /// Where the object cannot be read, or its entry cannot be written.
    pub fn add(&mut self, key: Digest, source: &Path) -> Result<()> {
        self.add_with(key, |entry| copy_in(key, source, entry))
    }

    /// Adds these bytes under `key`, otherwise as [`Cache::add`].
    ///
    /// # Errors
    /// Where the entry cannot be written.
    pub fn add_bytes(&mut self, key: Digest, bytes: &[u8]) -> Result<()> {
        self.add_with(key, |entry| {
            let all = make_entry(key, bytes);
            entry.write_all(&all)?;
            Ok(all.len() as u64)
        })
    }

    fn add_with(
        &mut self,
        key: Digest,
        fill: impl FnOnce(&mut File) -> io::Result<u64>,
    ) -> Result<()> {
        let Some(part) = self.current.as_ref().filter(|_| !self.place.readonly) else {
            return Ok(());
        };
        let (folder, name) = names(key);
        let place = part.room.path(&folder).join(&name);
        match self.write(part, key, fill) {
            Ok(size) => self.added += size,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                self.complain(&place, CLOSED, ONE_GROUP);
            }
            Err(e) => return Err(Error::io("write into the cache", &place, e)),
        }
        if self.added > self.allowance {
            self.prune()?;
        }
        Ok(())
    }

    fn write(
        &self,
        part: &Part,
        key: Digest,
        fill: impl FnOnce(&mut File) -> io::Result<u64>,
    ) -> io::Result<u64> {
        let (folder, name) = names(key);
        let (folder_mode, mode) = self.place.modes();
        let folder = part.room.make(&folder, folder_mode)?;
        let aside = random_name();
        let mut entry = folder.create(&aside, mode)?;
        let written = fill(&mut entry).and_then(|size| {
            folder.rename(&aside, &name)?;
            Ok(size)
        });
        if written.is_err() {
            let _ = folder.remove(&aside);
        }
        written
    }

    /// Removes entries, those longest not used first, until the cache keeps to its limit.
    ///
    /// # Errors
    /// Where its folders cannot be read.
    pub fn prune(&mut self) -> Result<Stats> {
        self.added = 0;
        let (surplus, stats) = self.surplus(self.entries(true)?);
        for entry in surplus {
            // Another process may prune too: what it removed is gone as well.
            let _ = entry.remove();
        }
        // Others add at the same time: look again before the room that is left can be full.
        self.allowance = (self.place.limit - stats.bytes.min(self.place.limit)) / 8;
        Ok(stats)
    }

    /// What [`Cache::prune`] would leave.
    ///
    /// # Errors
    /// Where its folders cannot be read.
    pub fn after_pruning(&self) -> Result<Stats> {
        Ok(self.surplus(self.entries(false)?).1)
    }

    /// The entries that have to go, and what the others are.
    fn surplus<'a>(&self, mut entries: Vec<Entry<'a>>) -> (Vec<Entry<'a>>, Stats) {
        let total: u64 = entries.iter().map(|entry| entry.size).sum();
        let mut stats = Stats { entries: entries.len(), bytes: total };
        let limit = self.place.limit;
        let wanted = if total > limit { limit - limit / SPARE } else { total };
        entries.sort_by_key(|entry| entry.used);
        let mut count = 0;
        for entry in &entries {
            if stats.bytes <= wanted {
                break;
            }
            stats.bytes -= entry.size;
            stats.entries -= 1;
            count += 1;
        }
        entries.truncate(count);
        (entries, stats)
    }

    /// What is in the cache.
    ///
    /// # Errors
    /// Where its folders cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        let entries = self.entries(false)?;
        let bytes = entries.iter().map(|entry| entry.size).sum();
        Ok(Stats { entries: entries.len(), bytes })
    }

    /// Removes all entries.
    ///
    /// # Errors
    /// Where one could not be removed, after all others were.
    pub fn clear(&self) -> Result<()> {
        let removed = self.entries(true)?.into_iter().map(|entry| {
            let path = entry.part.room.path(&entry.folder).join(&entry.name);
            entry.remove().map_err(|e| Error::io("remove", path, e))
        });
        let failed: Vec<Error> = removed.filter_map(Result::err).collect();
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    /// All entries of both versions; with `sweep`, what killed processes left goes.
    fn entries(&self, sweep: bool) -> Result<Vec<Entry<'_>>> {
        let mut found = Vec::new();
        for part in self.older.iter().chain(&self.current) {
            part.entries(sweep, &mut found)?;
        }
        Ok(found)
    }
}

/// What to do about a cache that others may write into.
const TRUST: &str = "remove their write permission (chmod go-w), or set KTHINLTO_CACHE_SHARED=yes \
                     if you trust all of them as much as yourself";
/// What is wrong with entries and folders of others that are closed to us, and what to do.
const CLOSED: &str = "and perhaps other entries of the cache are closed to this user";
const ONE_GROUP: &str = "put all who share the cache into the folder's group, with umask 002";

/// A file of the cache.
struct Entry<'a> {
    part: &'a Part,
    folder: OsString,
    name: OsString,
    size: u64,
    /// Seconds and nanoseconds; those of older versions come first.
    used: (i64, i64),
}

impl Entry<'_> {
    fn remove(&self) -> io::Result<()> {
        self.part.room.sub(&self.folder)?.remove(&self.name)
    }
}

/// The folder of a key's entry, and its name there.
fn names(key: Digest) -> (String, String) {
    let name = key.to_string();
    (name[..2].to_owned(), name[2..].to_owned())
}

/// What stands behind an object.
fn trailer(key: Digest, object: &[u8]) -> Digest {
    KeyBuilder::new("kthinlto cache entry 2").digest(&key).field(object).finish()
}

/// The bytes of an entry: what [`Cache::add`] writes.
pub fn make_entry(key: Digest, object: &[u8]) -> Vec<u8> {
    [object, trailer(key, object).as_bytes()].concat()
}

/// The object in an entry's bytes, if the entry is whole and this key's.
pub fn open_entry(key: Digest, bytes: &[u8]) -> Option<&[u8]> {
    let (object, found) = bytes.split_last_chunk::<TRAILER>()?;
    (trailer(key, object).as_bytes() == found).then_some(object)
}

/// Clones or copies an entry's object to `target`, a new file.
fn copy_out(entry: &File, object: &[u8], target: &Path) -> io::Result<()> {
    match fs::remove_file(target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(target)?;
    if rustix::fs::ioctl_ficlone(&file, entry).is_ok() {
        file.set_len(object.len() as u64)
    } else {
        file.write_all(object)
    }
}

/// Clones or copies an object into an entry, with what stands behind it; returns its size.
fn copy_in(key: Digest, source: &Path, entry: &mut File) -> io::Result<u64> {
    let (mut source, found) = regular::open(source)?;
    let mut bytes = Vec::new();
    regular::read_into(&mut source, &found, LARGEST - TRAILER as u64, &mut bytes)?;
    if rustix::fs::ioctl_ficlone(&*entry, &source).is_ok() {
        entry.seek(SeekFrom::End(0))?;
    } else {
        entry.write_all(&bytes)?;
    }
    entry.write_all(trailer(key, &bytes).as_bytes())?;
    Ok((bytes.len() + TRAILER) as u64)
}

/// A size as people write it: `500M`, `5G`, `1.5GiB`, `1048576`. Units are powers of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim().to_ascii_uppercase();
    let unit = unit.trim_end_matches('B').trim_end_matches('I');
    let power = match unit {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return None,
    };
    Some((number * 1024f64.powi(power)) as u64)
}

#[cfg(test)]
mod tests;
