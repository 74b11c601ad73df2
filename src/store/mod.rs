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
pub mod files;
mod log;
pub mod snapshot;
pub mod stamp;

use std::collections::hash_map::Entry;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap as HashMap;

pub use self::digest::{Digest, KeyBuilder};
pub use self::files::{Facts, Files, Stamped};
pub use self::log::{
    AsmRecord, BackendRecord, Cost, Indexed, LinkRecord, SettingsRecord, ToolRecord,
};
use self::log::{FlagsRecord, Log, Records};
use self::stamp::{Grain, Stamp};
use crate::error::{Error, Result};

/// The folder, at the top of an object tree, that holds everything but the outputs.
pub const FOLDER: &str = ".kthinlto";
/// The state file, in it.
const STATE: &str = "state";

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
    _lock: Option<File>,
}

impl Store {
    /// Locks and opens the state of the object tree at `tree`; makes it if there is none.
    pub fn open(tree: &Path) -> Result<Self> {
        let folder = tree.join(FOLDER);
        fs::create_dir_all(&folder).map_err(|e| Error::io("make the folder", &folder, e))?;
        let lock = lock(tree, &folder.join("lock"))?;
        let grain = sign(&lock);
        Ok(Self::with(tree, grain, Log::open(&folder.join(STATE))?, Some(lock)))
    }

    /// Reads the state without a lock, and changes nothing on disk.
    pub fn peek(tree: &Path) -> Result<Self> {
        let grain = Grain::default();
        Ok(Self::with(tree, grain, Log::peek(&tree.join(FOLDER).join(STATE))?, None))
    }

    fn with(
        tree: &Path,
        grain: Grain,
        (log, mut records): (Log, Records),
        lock: Option<File>,
    ) -> Self {
        let files = Files::new(tree, grain, std::mem::take(&mut records.files));
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
            _lock: lock,
        }
    }

    /// The object tree.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// A sentence for the user where the state file was damaged.
    pub fn warning(&self) -> Option<String> {
        self.log().warning.clone()
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last thin link that succeeded.
    pub fn link(&self) -> Option<&LinkRecord> {
        self.records.link.as_ref()
    }

    /// Records a thin link.
    pub fn set_link(&mut self, record: LinkRecord) -> Result<()> {
        self.log().link(&record)?;
        self.records.link = Some(record);
        Ok(())
    }

    /// The last backend that succeeded for an object.
    pub fn backend(&self, object: &str) -> Option<&BackendRecord> {
        self.records.backends.get(object)
    }

    /// Records a backend.
    pub fn set_backend(&mut self, object: &str, record: BackendRecord) -> Result<()> {
        self.log().backend(object, &record)?;
        self.records.backends.insert(object.to_owned(), record);
        Ok(())
    }

    /// All objects that a thin link indexed or a backend compiled.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        let linked = self.records.link.iter().flat_map(|link| &link.modules);
        let compiled = self.records.backends.keys().map(String::as_str);
        linked.map(|module| module.object.as_str()).chain(compiled)
    }

    /// What the last build was asked to do.
    pub fn settings(&self) -> Option<&SettingsRecord> {
        self.records.settings.as_ref()
    }

    /// Records what a build is asked to do, if that is new.
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
    pub fn set_tool(&mut self, name: &str, record: ToolRecord) -> Result<()> {
        self.log().tool(name, &record)?;
        self.records.tools.insert(name.to_owned(), record);
        Ok(())
    }

    /// What the assembly of the bitcode with this digest includes; `find` is asked once.
    pub fn asm_includes(
        &self,
        bitcode: Digest,
        find: impl FnOnce() -> Result<AsmRecord>,
    ) -> Result<AsmRecord> {
        let known = || self.asm.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = known().get(&bitcode) {
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

    /// The set of flags that an object's `.cmd` file gave when it had these bytes.
    pub fn flag_set(&self, object: &str, record: Digest) -> Option<Digest> {
        let flags = self.flags();
        let known = flags.objects.get(object).filter(|known| known.record == record)?;
        flags.sets.contains_key(&known.set).then_some(known.set)
    }

    /// The words of a set; none if it is not known.
    pub fn flag_words(&self, set: Digest) -> Vec<String> {
        self.flags().sets.get(&set).cloned().unwrap_or_default()
    }

    /// Records which flags an object's `.cmd` file gives; returns their set.
    pub fn set_flags(&self, object: &str, record: Digest, words: &[&str]) -> Result<Digest> {
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
        let known = FlagsRecord { record, set };
        self.log().flags(object, known)?;
        flags.objects.insert(object.to_owned(), known);
        Ok(set)
    }

    /// Writes down what was learnt about files.
    pub fn flush(&self) -> Result<()> {
        let mut log = self.log();
        for (name, stamp, facts) in self.files.take_unrecorded() {
            log.file(&name, stamp, facts)?;
        }
        log.write()
    }
}

/// Takes the tree's lock, or says who has it.
fn lock(tree: &Path, path: &Path) -> Result<File> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|e| Error::io("open the lock", path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            // Its holder may be writing over the number of an earlier one.
            let pid = text.lines().next().unwrap_or_default().trim();
            let holder = if pid.is_empty() { String::new() } else { format!(" (process {pid})") };
            let tree = std::path::absolute(tree).unwrap_or_else(|_| tree.to_path_buf());
            return Err(Error::Locked { tree, holder });
        }
        Err(TryLockError::Error(e)) => return Err(Error::io("lock", path, e)),
    }
    Ok(file)
}

/// Writes our number into the lock, and learns from that how fine the times of files are.
/// The number is only for the message above: a lock without one is a lock.
fn sign(lock: &File) -> Grain {
    let text = format!("{}\n", std::process::id());
    let grain = Grain::by_writing(lock, text.as_bytes()).unwrap_or_default();
    let _ = lock.set_len(text.len() as u64);
    grain
}

/// Writes a file aside and renames it into place: a reader sees the old or the new one.
///
/// The file aside has one name, `.tmp_` and the file's own, so that the next writer takes over
/// what a kill left there; kbuild's `make clean` removes such names too.
pub fn write_aside(path: &Path, bytes: &[u8]) -> Result<()> {
    write_stamped(path, bytes).map(drop)
}

/// The same; returns the stamp that the file had before it was renamed.
fn write_stamped(path: &Path, bytes: &[u8]) -> Result<Stamp> {
    let fail = |e| Error::io("write", path, e);
    let name = path.file_name().ok_or_else(|| fail(io::ErrorKind::InvalidFilename.into()))?;
    let mut aside = OsString::from(".tmp_");
    aside.push(name);
    let aside = path.with_file_name(aside);
    let mut file = open_aside(&aside).map_err(fail)?;
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

/// An empty file of this name that no one else writes while it is open.
fn open_aside(aside: &Path) -> io::Result<File> {
    loop {
        let file = File::options().write(true).create(true).truncate(false).open(aside)?;
        file.lock()?;
        // While we waited, its writer may have renamed it into place.
        let own = file.metadata()?;
        let there = fs::metadata(aside);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
            // Not for a new file: ext4 writes one that was truncated to the disk when it is closed.
            if own.len() > 0 {
                file.set_len(0)?;
            }
            return Ok(file);
        }
    }
}

/// Writes a file only if its bytes are not these already; says whether it did.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
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
    fn writers_of_one_file_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::thread::scope(|scope| {
            for writer in b'a'..b'i' {
                let path = &path;
                scope.spawn(move || {
                    for length in 1..100 {
                        write_aside(path, &vec![writer; 1000 * length]).unwrap();
                        let seen = fs::read(path).unwrap();
                        assert!(
                            seen.len().is_multiple_of(1000) && seen.iter().all(|&b| b == seen[0])
                        );
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
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
