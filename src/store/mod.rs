//! What this tree built from what: digests of files, records of thin links and backends,
//! one log on disk, one lock against a second run. Must not know who asks, or why.
//!
//! ```
//! use kthinlto::store::cache::{Cache, Place};
//! use kthinlto::store::{Digest, KeyBuilder, Store};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tree = tempfile::tempdir()?;
//! std::fs::write(tree.path().join("a.o"), "bytes")?;
//! let store = Store::open(tree.path())?;
//! assert!(Store::open(tree.path()).is_err(), "one at a time");
//! let facts = store.files.facts("a.o")?;
//! assert_eq!((facts.digest, facts.size), (Digest::of(b"bytes"), 5));
//!
//! let key = KeyBuilder::new("what this key is for").digest(&facts.digest).field(b"-O2").finish();
//! let mut cache = Cache::open(&Place::new(tree.path().join("cache"), 1 << 20))?;
//! cache.add(key, &tree.path().join("a.o"))?;
//! assert!(cache.fetch(key, &tree.path().join("b.o")));
//! assert_eq!(std::fs::read(tree.path().join("b.o"))?, b"bytes");
//! # Ok(()) }
//! ```

pub mod cache;
pub mod digest;
mod facts;
pub mod files;
mod log;
pub mod snapshot;
pub mod stamp;

pub mod user;

mod own;
mod records;
pub(crate) mod sealed;

use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustc_hash::FxHashMap as HashMap;

pub use self::digest::{Digest, KeyBuilder};
pub use self::facts::Facts;
pub use self::files::{Files, Stamped};
use self::log::{Log, Records};
pub use self::log::{is_record, records_in};
use self::own::Lock;
use self::records::FlagsRecord;
pub use self::records::{
    AsmRecord, BackendRecord, Cost, Indexed, LinkRecord, SettingsRecord, ToolRecord,
};
use self::stamp::{Stamp, TimeResolution};
use self::user::UserDigests;
use crate::error::{Error, Result};
use crate::regular;
use crate::room::{self, Room};
use crate::unit::Part;

/// The folder, at the top of an object tree, that holds everything but the outputs.
pub const FOLDER: &str = ".kthinlto";
/// The state file, in it.
const STATE: &str = "state";

/// The lock of an object tree without its state, and the folder of both.
#[derive(Debug)]
pub struct Held {
    /// The folder.
    pub room: Room,
    /// How fine the times of its files are.
    pub resolution: TimeResolution,
    _lock: Lock,
}

impl Held {
    /// Locks a tree. While this lives no other process can open its state.
    ///
    /// # Errors
    /// Where another kthinlto has the lock, or the folder cannot be made.
    pub fn new(tree: &Path) -> Result<Self> {
        let room = own::make(tree)?;
        let lock = own::lock(tree, &room)?;
        Ok(Held { room, resolution: lock.write_owner(), _lock: lock })
    }
}

/// The folder of a tree's state, for who only looks; `None` if there is none.
///
/// # Errors
/// Where something else stands there.
pub fn room(tree: &Path) -> Result<Option<Room>> {
    own::find(tree)
}

/// Flags by object, and the sets that they share.
#[derive(Debug)]
struct Flags {
    sets: HashMap<Digest, Vec<String>>,
    objects: HashMap<String, FlagsRecord>,
}

/// The open state of one object tree. While it lives no other process can open it.
#[derive(Debug)]
pub struct Store {
    tree: PathBuf,
    /// Digests of the tree's files.
    pub files: Files,
    log: Mutex<Log>,
    asm: Mutex<HashMap<Digest, AsmRecord>>,
    flags: Mutex<Flags>,
    records: Records,
    /// The folder of the state and its lock; none where the state was only read.
    own: Option<(Room, Lock)>,
}

impl Store {
    /// Locks and opens the state of the object tree at `tree`; makes it if there is none.
    ///
    /// # Errors
    /// Where another kthinlto has the lock, or the state cannot be made, read or written.
    pub fn open(tree: &Path) -> Result<Self> {
        let room = own::make(tree)?;
        let lock = own::lock(tree, &room)?;
        let resolution = lock.write_owner();
        let read = Log::open(&room, STATE)?;
        Ok(Self::with(tree, resolution, read, Some((room, lock))))
    }

    /// Reads the state without a lock, and changes nothing on disk.
    ///
    /// # Errors
    /// Where the state is there and cannot be read.
    pub fn peek(tree: &Path) -> Result<Self> {
        let read = Log::peek(own::find(tree)?.as_ref(), STATE)?;
        Ok(Self::with(tree, TimeResolution::default(), read, None))
    }

    fn with(
        tree: &Path,
        resolution: TimeResolution,
        (log, mut records): (Log, Records),
        own: Option<(Room, Lock)>,
    ) -> Self {
        let files = Files::new(tree, resolution, std::mem::take(&mut records.files));
        Store {
            tree: tree.to_path_buf(),
            files,
            log: Mutex::new(log),
            asm: Mutex::new(std::mem::take(&mut records.asm)),
            flags: Mutex::new(Flags {
                sets: std::mem::take(&mut records.flag_sets),
                objects: std::mem::take(&mut records.flags),
            }),
            records,
            own,
        }
    }

    /// Knows large files outside of the tree from the user's other trees, and tells these what it
    /// learns ([`user::usual_folder`]).
    #[must_use]
    pub fn with_digests(mut self, folder: Option<&Path>) -> Self {
        if let Some(folder) = folder {
            self.files.use_digests(UserDigests::new(folder));
        }
        self
    }

    /// When it was opened, by the clock that gives the tree's files their times.
    ///
    /// # Errors
    /// Where it was only read, or the lock's time cannot be found out.
    pub fn opened(&self) -> Result<SystemTime> {
        let time = match &self.own {
            Some((_, lock)) => lock.written(),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        time.map_err(|e| Error::io("look at the lock of", &self.tree, e))
    }

    /// The object tree.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// Sentences for the user: that the state file was damaged, or that nothing keeps others out.
    pub fn warnings(&self) -> Vec<String> {
        let unlocked = self.own.as_ref().and_then(|(_, lock)| lock.warning.clone());
        self.log().warning.clone().into_iter().chain(unlocked).collect()
    }

    /// Whether the state is only read, for a command that looks and does nothing.
    pub fn is_look(&self) -> bool {
        self.own.is_none()
    }

    /// The folder of the state, for who has more to keep in it; none where the state is only read.
    pub(crate) fn room(&self) -> Option<&Room> {
        self.own.as_ref().map(|(room, _)| room)
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last thin link of a unit that succeeded.
    pub fn link(&self, unit: &str) -> Option<&LinkRecord> {
        self.records.links.get(unit)
    }

    /// The last thin links of all units, by name.
    pub fn links(&self) -> impl Iterator<Item = &LinkRecord> {
        self.records.links.values()
    }

    /// Records a thin link.
    ///
    /// # Errors
    /// Where the state cannot be written.
    pub fn set_link(&mut self, record: LinkRecord) -> Result<()> {
        self.log().link(&record)?;
        self.records.links.insert(record.unit.clone(), record);
        Ok(())
    }

    /// The last backend that succeeded for a part of a unit.
    pub fn backend(&self, part: &Part) -> Option<&BackendRecord> {
        self.records.backends.get(part)
    }

    /// Records a backend.
    ///
    /// # Errors
    /// Where the state cannot be written.
    pub fn set_backend(&mut self, part: &Part, record: BackendRecord) -> Result<()> {
        self.log().backend(part, &record)?;
        self.records.backends.insert(part.clone(), record);
        Ok(())
    }

    /// The record of the last run of a step of a relink, which is one as a backend's is.
    pub fn step(&self, name: &str) -> Option<&BackendRecord> {
        self.records.steps.get(name)
    }

    /// Records the run of a step.
    ///
    /// # Errors
    /// Where the state cannot be written.
    pub fn set_step(&mut self, name: &str, record: BackendRecord) -> Result<()> {
        self.log().step(name, &record)?;
        self.records.steps.insert(name.to_owned(), record);
        Ok(())
    }

    /// All that a thin link indexed or a backend compiled.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        let linked = self.links().flat_map(|link| &link.modules);
        linked.map(|module| &module.part).chain(self.records.backends.keys())
    }

    /// What the last build was asked to do.
    pub fn settings(&self) -> Option<&SettingsRecord> {
        self.records.settings.as_ref()
    }

    /// Records what a build is asked to do, if that is new.
    ///
    /// # Errors
    /// Where the state cannot be written.
    pub fn set_settings(&mut self, record: SettingsRecord) -> Result<()> {
        if self.records.settings.as_ref() != Some(&record) {
            self.log().settings(&record)?;
            self.records.settings = Some(record);
        }
        Ok(())
    }

    /// What an output was last made from.
    pub fn output(&self, name: &str) -> Option<Digest> {
        self.records.outputs.get(name).copied()
    }

    /// Records what an output was made from.
    ///
    /// # Errors
    /// Where the state cannot be written.
    pub fn set_output(&mut self, name: &str, made_from: Digest) -> Result<()> {
        self.log().output(name, made_from)?;
        self.records.outputs.insert(name.to_owned(), made_from);
        Ok(())
    }

    /// What is known of a tool under this name.
    pub fn tool(&self, name: &str) -> Option<&ToolRecord> {
        self.records.tools.get(name)
    }

    /// Records a tool.
    ///
    /// # Errors
    /// Where the state cannot be written.
    pub fn set_tool(&mut self, name: &str, record: ToolRecord) -> Result<()> {
        self.log().tool(name, &record)?;
        self.records.tools.insert(name.to_owned(), record);
        Ok(())
    }

    /// What the assembly of the bitcode with this digest includes, by this version of the rules;
    /// `find` is asked once.
    ///
    /// # Errors
    /// What `find` gives, or where the state cannot be written.
    pub fn asm_includes(
        &self,
        bitcode: Digest,
        rule: u32,
        find: impl FnOnce() -> Result<AsmRecord>,
    ) -> Result<AsmRecord> {
        let known = || self.asm.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = known().get(&bitcode).filter(|record| record.rule == rule) {
            return Ok(record.clone());
        }
        let record = find()?;
        self.log().asm(bitcode, &record)?;
        known().insert(bitcode, record.clone());
        Ok(record)
    }

    fn flags(&self) -> std::sync::MutexGuard<'_, Flags> {
        self.flags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The set of flags that an object's `.cmd` file gave when it had these bytes, by this version
    /// of the rules.
    pub fn flag_set(&self, object: &str, record: Digest, rule: u32) -> Option<Digest> {
        let flags = self.flags();
        let is_it = |known: &&FlagsRecord| (known.record, known.rule) == (record, rule);
        let known = flags.objects.get(object).filter(is_it)?;
        flags.sets.contains_key(&known.set).then_some(known.set)
    }

    /// The words of a set; none if it is not known.
    pub fn flag_words(&self, set: Digest) -> Vec<String> {
        self.flags().sets.get(&set).cloned().unwrap_or_default()
    }

    /// Records which flags an object's `.cmd` file gives; returns their set.
    ///
    /// # Errors
    /// Where the state cannot be written.
    pub fn set_flags(
        &self,
        object: &str,
        record: Digest,
        rule: u32,
        words: &[&str],
    ) -> Result<Digest> {
        let mut key = KeyBuilder::new("kthinlto flag set 1");
        for word in words {
            key.field(word.as_bytes());
        }
        let set = key.finish();
        let mut flags = self.flags();
        if let Entry::Vacant(place) = flags.sets.entry(set) {
            let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
            self.log().flag_set(set, &words)?;
            place.insert(words);
        }
        let known = FlagsRecord { rule, record, set };
        self.log().flags(object, known)?;
        flags.objects.insert(object.to_owned(), known);
        Ok(set)
    }

    /// Writes down what was learnt about files.
    ///
    /// # Errors
    /// Where the state cannot be written.
    pub fn flush(&self) -> Result<()> {
        let mut log = self.log();
        let found = self.files.take_unrecorded();
        for (name, stamp, facts) in &found {
            log.file(name, *stamp, *facts)?;
        }
        self.files.share(&found);
        log.write()
    }
}

/// Writes a file aside and renames it into place: a reader sees the old or the new one.
///
/// The file aside has one name, `.tmp_` and the file's own, so that the next writer removes
/// what a kill left there; kbuild's `make clean` removes such names too. It is made anew, where
/// nothing is: never written through a link. One process writes a file, as the tree's lock says.
///
/// # Errors
/// Where it cannot be made, written or renamed.
pub fn write_aside(path: &Path, bytes: &[u8]) -> Result<()> {
    write_stamped(path, bytes).map(drop)
}

/// The same; returns the stamp that the file had before it was renamed.
fn write_stamped(path: &Path, bytes: &[u8]) -> Result<Stamp> {
    let fail = |e| Error::io("write", path, e);
    let name = path.file_name().ok_or_else(|| fail(io::ErrorKind::InvalidFilename.into()))?;
    let aside = path.with_file_name(room::aside(name));
    let mut file = create_anew(&aside).map_err(fail)?;
    let mut write = || {
        file.write_all(bytes)?;
        let stamp = Stamp::of(&file.metadata()?);
        fs::rename(&aside, path).map(|()| stamp)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written.map_err(fail)
}

/// Writes a file that is not there yet, in its place, and returns its stamp; `None` where something has its name.
///
/// That spares a rename, of which a cold run would make two for each module. But a kill may leave such a file
/// half-written: it is only for files that count once a record names them.
///
/// # Errors
/// Where it cannot be made or written; nothing is left then.
pub(crate) fn write_first(path: &Path, bytes: &[u8]) -> Result<Option<Stamp>> {
    let fail = |e| Error::io("write", path, e);
    let mut file = match File::options().write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    let written = file.write_all(bytes).and_then(|()| file.metadata());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written.map(|found| Some(Stamp::of(&found))).map_err(fail)
}

/// A new file of this name, in the place of whatever file or link has it.
fn create_anew(path: &Path) -> io::Result<File> {
    let create = || File::options().write(true).create_new(true).open(path);
    match create() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            create()
        }
        made => made,
    }
}

/// Writes a file only if its bytes are not these already; says whether it did.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if regular::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    write_aside(path, bytes).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_in_one_tree_is_told_who_runs() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
        assert_eq!(error.exit_code(), 6);
        drop(first);
        Store::open(dir.path()).unwrap();
    }

    /// What was learnt by rules that were wrong must not outlive them.
    #[test]
    fn what_other_rules_found_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (bitcode, record) = (Digest::of(b"bitcode"), Digest::of(b"record"));
        let found = |rule, file: &str| AsmRecord { rule, files: vec![file.into()], unknown: false };
        let store = Store::open(dir.path()).unwrap();
        store.asm_includes(bitcode, 1, || Ok(found(1, "old"))).unwrap();
        store.set_flags("a.o", record, 1, &["-O2"]).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        let again = |rule| store.asm_includes(bitcode, rule, || Ok(found(rule, "new"))).unwrap();
        assert_eq!(again(1), found(1, "old"));
        assert_eq!(again(2), found(2, "new"));
        assert!(store.flag_set("a.o", record, 1).is_some());
        assert_eq!(store.flag_set("a.o", record, 2), None);
    }

    #[test]
    fn a_first_file_is_written_where_nothing_is_and_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link, far) = (dir.path().join("a"), dir.path().join("l"), dir.path().join("f"));
        let stamp = write_first(&path, b"first").unwrap().unwrap();
        assert_eq!(stamp, Stamp::of(&fs::metadata(&path).unwrap()));
        assert!(write_first(&path, b"second").unwrap().is_none());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        std::os::unix::fs::symlink(&far, &link).unwrap();
        assert!(write_first(&link, b"text").unwrap().is_none());
        assert!(!far.exists());
        let error = write_first(&dir.path().join("no/a"), b"").unwrap_err().to_string();
        assert!(error.contains("no/a"), "{error}");
    }

    #[test]
    fn an_equal_file_keeps_its_times() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert!(write_if_changed(&path, b"x").unwrap());
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(!write_if_changed(&path, b"x").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        assert!(write_if_changed(&path, b"y").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"y");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn what_a_kill_left_aside_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".tmp_a.o.cmd"), "half of something longer").unwrap();
        let path = dir.path().join("a.o.cmd");
        write_aside(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_aside_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (other, aside) = (dir.path().join("other"), dir.path().join(".tmp_a"));
        fs::write(&other, "kept").unwrap();
        for hard in [false, true] {
            match hard {
                true => fs::hard_link(&other, &aside).unwrap(),
                false => std::os::unix::fs::symlink(&other, &aside).unwrap(),
            }
            write_aside(&dir.path().join("a"), b"new").unwrap();
            assert_eq!(fs::read(&other).unwrap(), b"kept");
            assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
            let found = fs::symlink_metadata(dir.path().join("a")).unwrap();
            assert!(found.is_file() && std::os::unix::fs::MetadataExt::nlink(&found) == 1);
        }
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::create_dir(&path).unwrap();
        let error = write_aside(&path, b"x").unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
