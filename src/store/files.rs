//! Digests of files. Times, sizes and inode numbers only save the reading of a file that
//! was hashed before; a file too recent for its times to tell is read again. Must not know
//! what a file is for.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap as HashMap;

use super::digest::Digest;
use super::facts::{Facts, hash};
use super::stamp::{Stamp, TimeResolution, nanos_now};
use super::user::UserDigests;
use super::{write_first, write_stamped};
use crate::error::{Error, Result};
use crate::regular;

/// Facts of bytes, and the stamp that their file had before they were read.
#[derive(Debug, Clone, Copy)]
pub struct Stamped {
    /// What the bytes are.
    pub facts: Facts,
    /// What the file was.
    pub stamp: Stamp,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    stamp: Stamp,
    facts: Facts,
    /// Read so soon after its last change that a later one may have given it the same stamp.
    recent: bool,
    /// On record in the state file.
    recorded: bool,
    /// Looked at in this run: its facts hold until [`Files::is_unchanged`] says otherwise.
    seen: bool,
}

impl Known {
    /// Whether an earlier reading was of the same write.
    fn is_as(&self, earlier: &Known) -> bool {
        earlier.facts == self.facts && earlier.stamp.is_same_write(&self.stamp)
    }

    /// This reading, if the file was not written meanwhile: its stamp is the same `now`. Where only
    /// links, modes or numbers of it are others, the reading before has to have been alike, and
    /// the stamp is not believed.
    fn if_whole(self, before: Option<&Known>, now: &Stamp) -> Option<Self> {
        if self.facts.size != now.size() || !self.stamp.is_same_write(now) {
            return None;
        }
        if self.stamp == *now {
            return Some(self);
        }
        before.is_some_and(|before| self.is_as(before)).then_some(Known { recent: true, ..self })
    }
}

/// Something that was looked at and not read.
#[derive(Debug, Clone, Copy)]
struct Unread {
    /// `None` where there was nothing of that name.
    stamp: Option<Stamp>,
    is_file: bool,
}

/// Facts of the files below one folder, by name; shared between threads.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    /// The folder is the one that this process runs in.
    is_here: bool,
    resolution: TimeResolution,
    known: Mutex<HashMap<String, Known>>,
    /// What was looked at in this run and not read.
    unread: Mutex<HashMap<String, Unread>>,
    /// What other trees of the user know of files outside of them.
    digests: Option<UserDigests>,
}

impl Files {
    /// Starts with what a state file says. Names are relative to `folder`, or absolute.
    /// `resolution` is what is known of the folder's file system.
    pub fn new(
        folder: &Path,
        resolution: TimeResolution,
        recorded: HashMap<String, (Stamp, Facts)>,
    ) -> Self {
        let known = recorded.into_iter().map(|(name, (stamp, facts))| {
            let known = Known { stamp, facts, recent: false, recorded: true, seen: false };
            (name, known)
        });
        Files {
            folder: folder.to_path_buf(),
            is_here: folder == Path::new("."),
            resolution,
            known: Mutex::new(known.collect()),
            unread: Mutex::default(),
            digests: None,
        }
    }

    /// Also takes what the user's other trees know of files outside of them.
    pub(super) fn use_digests(&mut self, digests: UserDigests) {
        self.digests = Some(digests);
    }

    /// Gives them what `found` has for them. Nothing is lost where that fails.
    pub(super) fn share(&self, found: &[(String, Stamp, Facts)]) {
        if let Some(digests) = &self.digests
            && let Err(error) = digests.add(found)
        {
            tracing::debug!(%error, "digests of tools are not kept for other trees");
        }
    }

    /// What another tree of the user knows of a file that this one does not know.
    fn find_in_digests(&self, name: &str, stamp: Stamp) -> Option<Known> {
        let facts = self.digests.as_ref()?.find(name, &stamp)?;
        Some(Known { stamp, facts, recent: false, recorded: false, seen: true })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a name leads.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The same, with no path made where the name is one from here.
    fn place<'n>(&self, name: &'n str) -> Cow<'n, Path> {
        match self.is_here && !name.is_empty() || name.starts_with('/') {
            true => Path::new(name).into(),
            false => self.path(name).into(),
        }
    }

    /// What is there now; a symbolic link is followed.
    fn stamp(&self, name: &str) -> io::Result<Stamp> {
        Ok(Stamp::of_stat(&rustix::fs::stat(&*self.place(name))?))
    }

    /// Facts of a file, looked at once in a run and read only if its stamp is new; `None`
    /// where there is no such file.
    ///
    /// # Errors
    /// Where it is there and cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Facts>> {
        let recorded = self.known().get(name).copied();
        match recorded {
            Some(known) if known.seen => Ok(Some(known.facts)),
            recorded => self.look_first(name, recorded, None),
        }
    }

    /// The same, for who wants the bytes too where they have to be read: they are the ones
    /// that the facts are of. `bytes` is empty where nothing was read.
    pub(crate) fn find_and_read(&self, name: &str, bytes: &mut Vec<u8>) -> Result<Option<Facts>> {
        bytes.clear();
        let recorded = self.known().get(name).copied();
        match recorded {
            Some(known) if known.seen => Ok(Some(known.facts)),
            recorded => self.look_first(name, recorded, Some(bytes)),
        }
    }

    /// Facts of a file that was just written.
    pub(crate) fn find_again(&self, name: &str) -> Result<Option<Facts>> {
        let recorded = self.known().get(name).copied();
        let Some(known) = self.look(name, recorded, None)? else {
            return Ok(None);
        };
        self.known().insert(name.to_owned(), known);
        Ok(Some(known.facts))
    }

    /// Looks at a file for the first time in this run, unless another thread was quicker: what is
    /// made from the one reading and what is made from the other must not be told apart later.
    fn look_first(
        &self,
        name: &str,
        recorded: Option<Known>,
        mut bytes: Option<&mut Vec<u8>>,
    ) -> Result<Option<Facts>> {
        let Some(known) = self.look(name, recorded, bytes.as_deref_mut())? else {
            return Ok(None);
        };
        let mut all = self.known();
        match all.get_mut(name) {
            Some(first) if first.seen => {
                if let Some(bytes) = bytes.filter(|_| first.facts != known.facts) {
                    bytes.clear();
                }
                return Ok(Some(first.facts));
            }
            Some(place) => *place = known,
            None => drop(all.insert(name.to_owned(), known)),
        }
        Ok(Some(known.facts))
    }

    /// Takes down what was put into a file just now under another name, and then renamed. If
    /// its stamp cannot tell, it is read again before it is recorded.
    ///
    /// # Errors
    /// Where the system does not say what it is by now.
    pub fn set(&self, name: &str, made: Stamped) -> Result<()> {
        let stamp = self.stamp(name).map_err(|e| Error::io("look at", name, e))?;
        self.take_down(name, stamp, made.facts, stamp.is_renamed(&made.stamp));
        Ok(())
    }

    fn take_down(&self, name: &str, stamp: Stamp, facts: Facts, is_it: bool) {
        let recent = !(is_it && self.is_conclusive(&stamp, nanos_now()));
        let known = Known { stamp, facts, recent, recorded: false, seen: true };
        self.known().insert(name.to_owned(), known);
    }

    /// Puts these bytes, whose facts are known, into a file: by way of one aside, unless it is new, which it
    /// only is for files that count once a record names them.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8], facts: Facts) -> Result<()> {
        let path = self.path(name);
        if let Some(stamp) = write_first(&path, bytes)? {
            self.take_down(name, stamp, facts, true);
            return Ok(());
        }
        let stamp = write_stamped(&path, bytes)?;
        self.set(name, Stamped { facts, stamp })
    }

    /// What is known of the folder's file system.
    pub(super) fn resolution(&self) -> TimeResolution {
        self.resolution
    }

    fn is_conclusive(&self, stamp: &Stamp, now: i64) -> bool {
        stamp.is_conclusive(now, self.resolution)
    }

    fn look(
        &self,
        name: &str,
        recorded: Option<Known>,
        bytes: Option<&mut Vec<u8>>,
    ) -> Result<Option<Known>> {
        let stamp = match self.stamp(name) {
            Ok(stamp) => stamp,
            Err(e) if is_absence(&e) => {
                self.unread().insert(name.to_owned(), Unread { stamp: None, is_file: false });
                return Ok(None);
            }
            Err(e) => return Err(Error::io("look at", name, e)),
        };
        let recorded = recorded.filter(|known| known.stamp == stamp && !known.recent);
        let known = recorded.map(|known| Known { seen: true, ..known });
        match known.or_else(|| self.find_in_digests(name, stamp)) {
            Some(known) => Ok(Some(known)),
            None => self
                .read_facts(&self.place(name), bytes)
                .map(Some)
                .map_err(|e| Error::io("read", name, e)),
        }
    }

    /// Facts of a file that has to be there.
    ///
    /// # Errors
    /// Where it is not there, or cannot be read.
    pub fn facts(&self, name: &str) -> Result<Facts> {
        let absent = || Error::io("read", name, io::ErrorKind::NotFound.into());
        self.find(name)?.ok_or_else(absent)
    }

    /// The bytes that a file's facts were taken of.
    ///
    /// # Errors
    /// Where it cannot be read, or has others by now.
    pub fn read_known(&self, name: &str) -> Result<Vec<u8>> {
        let facts = self.facts(name)?;
        let bytes = regular::read(&self.path(name)).map_err(|e| Error::io("read", name, e))?;
        match Digest::of(&bytes) == facts.digest {
            true => Ok(bytes),
            false => Err(Error::bad_input(name, "it changed while it was read", "run again")),
        }
    }

    fn unread(&self) -> MutexGuard<'_, HashMap<String, Unread>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a name leads to a file, which is not read; looked at once in a run.
    pub fn is_file(&self, name: &str) -> bool {
        if let Some(unread) = self.unread().get(name) {
            return unread.is_file;
        }
        let found = fs::metadata(self.path(name)).ok();
        let is_file = found.as_ref().is_some_and(fs::Metadata::is_file);
        let unread = Unread { stamp: found.as_ref().map(Stamp::of), is_file };
        self.unread().insert(name.to_owned(), unread);
        is_file
    }

    /// Everything that was looked at in this run, as it was then: names and stamps, no stamp
    /// where there was nothing. `None` if one was too recent for its stamp to tell.
    pub fn looked_at(&self) -> Option<Vec<(String, Option<Stamp>)>> {
        let now = nanos_now();
        let (known, unread) = (self.known(), self.unread());
        let seen = known.iter().filter(|(_, known)| known.seen);
        if seen.clone().any(|(_, known)| known.recent) {
            return None;
        }
        let read = seen.map(|(name, known)| (name.clone(), Some(known.stamp)));
        let others = unread.iter().map(|(name, unread)| (name.clone(), unread.stamp));
        let all: Vec<_> = read.chain(others).collect();
        let conclusive = |(_, stamp): &(String, Option<Stamp>)| {
            stamp.is_none_or(|stamp| self.is_conclusive(&stamp, now))
        };
        all.iter().all(conclusive).then_some(all)
    }

    /// Whether the file still is the one whose facts were last given out. Where links, modes or
    /// numbers of it are others, or its stamp cannot tell, its bytes decide. A file that was
    /// written meanwhile is not the same, whatever it holds now: it may have been read half.
    pub fn is_unchanged(&self, name: &str) -> bool {
        let known = self.known().get(name).copied();
        known.is_some_and(|known| self.is_still(name, &known))
    }

    fn is_still(&self, name: &str, known: &Known) -> bool {
        let Ok(stamp) = self.stamp(name) else {
            return false;
        };
        if stamp == known.stamp && !known.recent {
            return true;
        }
        if !stamp.is_same_write(&known.stamp) {
            return false;
        }
        match self.read_facts(&self.place(name), None) {
            Ok(now) if now.facts == known.facts && now.stamp.is_same_write(&known.stamp) => {
                // Perhaps it is old enough by now to be read no more.
                self.known().insert(name.to_owned(), now);
                true
            }
            _ => false,
        }
    }

    /// Whether a file that was asked for is as it was then, there or not.
    pub fn is_as_seen(&self, name: &str) -> bool {
        let known = self.known().get(name).copied();
        match known {
            Some(known) => self.is_still(name, &known),
            None => !self.place(name).exists(),
        }
    }

    /// Facts that a state file should have, and does not. What was read too soon after its last change is
    /// read again here, or left to the next run if it still is too recent.
    pub fn take_unrecorded(&self) -> Vec<(String, Stamp, Facts)> {
        let now = nanos_now();
        let wanted = |known: &&mut Known| !known.recorded && self.is_conclusive(&known.stamp, now);
        let mut taken = Vec::new();
        for (name, known) in self.known().iter_mut() {
            if let Some(known) = Some(known).filter(wanted) {
                if known.recent {
                    match self.read_facts(&self.folder.join(name), None) {
                        Ok(again) if !again.recent => *known = again,
                        _ => continue,
                    }
                }
                known.recorded = true;
                taken.push((name.clone(), known.stamp, known.facts));
            }
        }
        taken
    }

    /// Hashes a file, and keeps its bytes if they are wanted. If it changes meanwhile, it is read
    /// again.
    fn read_facts(&self, path: &Path, mut bytes: Option<&mut Vec<u8>>) -> io::Result<Known> {
        let mut last: Option<Known> = None;
        for _ in 0..5 {
            let nanos_before = nanos_now();
            let (mut file, found) = regular::open(path)?;
            let stamp = Stamp::of(&found);
            let facts = match bytes.as_deref_mut() {
                Some(bytes) => {
                    bytes.clear();
                    regular::read_into(&mut file, &found, regular::LIMIT, bytes)?;
                    Facts::of(bytes)
                }
                None => hash(&mut file, stamp.size())?,
            };
            let recent = !self.is_conclusive(&stamp, nanos_before);
            let now = Stamp::of(&fs::metadata(path)?);
            let known = Known { stamp, facts, recent, recorded: false, seen: true };
            if let Some(whole) = known.if_whole(last.as_ref(), &now) {
                return Ok(whole);
            }
            last = Some(known);
        }
        let found = "the file changes while it is read";
        Err(io::Error::new(io::ErrorKind::ResourceBusy, found))
    }
}

/// There is no such file: its name, or a folder on the way, does not exist.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests;
