//! The shared cache: native objects by key, for all trees of a user. Off unless a folder is
//! named for it. An entry is written aside and renamed, checked whenever it is read, and
//! dropped if it is damaged, so that kills, full disks and other processes can do no harm.
//! Must not know what a key is made of.
//!
//! An entry is the object's bytes with their digest behind them. It is cloned into a tree
//! where the file system can (reflink), else copied, never hard-linked: a tool that writes
//! into an object in place would then write into every other tree's too.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::digest::Digest;
use crate::error::{Error, Result};

/// Below the cache's folder: the version of the entries' format and of the keys.
const VERSION: &str = "v1";
/// Bytes behind an object: its digest.
const TRAILER: usize = 32;
/// Unfinished files older than this were left by a process that is gone.
const STALE: Duration = Duration::from_secs(3600);
/// Share of the limit that pruning leaves free, so that it is not needed again at once.
const SPARE: u64 = 10;

/// An open cache.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    limit: u64,
    added: u64,
    /// Bytes that may be added before the next look at the size.
    allowance: u64,
}

/// What is in a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of objects.
    pub entries: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

impl Cache {
    /// Opens the cache in `folder`, which is made if need be; it keeps to `limit` bytes.
    pub fn open(folder: &Path, limit: u64) -> Result<Self> {
        let fail = |e| Error::io("make the cache folder", folder, e);
        fs::create_dir_all(folder.join(VERSION)).map_err(fail)?;
        Self::existing(folder, limit)
    }

    /// Opens a cache in a folder that is there; whether it was ever used does not matter.
    pub fn existing(folder: &Path, limit: u64) -> Result<Self> {
        if !folder.is_dir() {
            let remedy = "see that the name is right; a build that is told of the cache makes it";
            return Err(Error::bad_input(folder, "there is no such folder", remedy));
        }
        Ok(Cache { folder: folder.join(VERSION), limit, added: 0, allowance: 0 })
    }

    fn place(&self, key: Digest) -> PathBuf {
        let name = key.to_string();
        self.folder.join(&name[..2]).join(&name[2..])
    }

    /// Puts the object of `key` at `target`, if the cache has it; says whether it did. A
    /// damaged entry is dropped.
    pub fn fetch(&self, key: Digest, target: &Path) -> bool {
        let place = self.place(key);
        match copy_out(&place, target) {
            Ok(true) => {
                // The time of the last use, for pruning. Not to have it costs an entry too early.
                let _ = File::options()
                    .append(true)
                    .open(&place)
                    .and_then(|file| file.set_modified(SystemTime::now()));
                true
            }
            Ok(false) => {
                tracing::warn!("{} is damaged and dropped from the cache", place.display());
                let _ = fs::remove_file(&place);
                let _ = fs::remove_file(target);
                false
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::debug!("{}: {error}", place.display());
                }
                let _ = fs::remove_file(target);
                false
            }
        }
    }

    /// Adds the object at `source` under `key`.
    pub fn add(&mut self, key: Digest, source: &Path) -> Result<()> {
        let place = self.place(key);
        let fail = |e| Error::io("write into the cache", &place, e);
        let folder = place.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(fail)?;
        let mut aside =
            tempfile::Builder::new().prefix(".tmp").tempfile_in(folder).map_err(fail)?;
        let size = copy_in(source, aside.as_file_mut()).map_err(fail)?;
        aside.persist(&place).map_err(|e| fail(e.error))?;
        self.added += size;
        if self.added > self.allowance {
            self.prune()?;
        }
        Ok(())
    }

    /// Removes entries, those longest not used first, until the cache keeps to its limit.
    pub fn prune(&mut self) -> Result<Stats> {
        self.added = 0;
        let (surplus, stats) = self.surplus(self.entries(true)?);
        for entry in surplus {
            // Another process may prune too: what it removed is gone as well.
            let _ = fs::remove_file(&entry.path);
        }
        // Others add at the same time: look again before the room that is left can be full.
        self.allowance = (self.limit - stats.bytes.min(self.limit)) / 8;
        Ok(stats)
    }

    /// What [`Cache::prune`] would leave.
    pub fn after_pruning(&self) -> Result<Stats> {
        Ok(self.surplus(self.entries(false)?).1)
    }

    /// The entries that have to go, and what the others are.
    fn surplus(&self, mut entries: Vec<Entry>) -> (Vec<Entry>, Stats) {
        let total: u64 = entries.iter().map(|entry| entry.size).sum();
        let mut stats = Stats { entries: entries.len(), bytes: total };
        let wanted = match total > self.limit {
            true => self.limit - self.limit / SPARE,
            false => total,
        };
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
    pub fn stats(&self) -> Result<Stats> {
        let entries = self.entries(false)?;
        let bytes = entries.iter().map(|entry| entry.size).sum();
        Ok(Stats { entries: entries.len(), bytes })
    }

    /// Removes all entries.
    pub fn clear(&self) -> Result<()> {
        for entry in self.entries(true)? {
            let removed = fs::remove_file(&entry.path);
            if let Err(e) = removed
                && e.kind() != io::ErrorKind::NotFound
            {
                return Err(Error::io("remove", &entry.path, e));
            }
        }
        Ok(())
    }

    fn entries(&self, sweep: bool) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        for folder in list(&self.folder)? {
            for path in list(&folder)? {
                let Ok(metadata) = fs::metadata(&path) else {
                    continue; // removed by another process meanwhile
                };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let unfinished = path.file_name().is_some_and(|n| n.as_encoded_bytes()[0] == b'.');
                let size = metadata.len();
                if !unfinished {
                    found.push(Entry { path, size, used });
                } else if sweep && used.elapsed().is_ok_and(|age| age > STALE) {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok(found)
    }
}

struct Entry {
    path: PathBuf,
    size: u64,
    used: SystemTime,
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(Error::io("read the cache folder", folder, e)),
    }
}

/// Clones or copies an entry's object to `target`; `Ok(false)` if it is damaged.
fn copy_out(place: &Path, target: &Path) -> io::Result<bool> {
    let mut entry = File::open(place)?;
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    let Some((object, trailer)) = bytes.split_last_chunk::<TRAILER>() else {
        return Ok(false);
    };
    if blake3::hash(object).as_bytes() != trailer {
        return Ok(false);
    }
    let mut file = File::create(target)?;
    if rustix::fs::ioctl_ficlone(&file, &entry).is_ok() {
        file.set_len(object.len() as u64)?;
    } else {
        file.write_all(object)?;
    }
    Ok(true)
}

/// Clones or copies an object into an entry, with its digest behind it; returns its size.
fn copy_in(source: &Path, entry: &mut File) -> io::Result<u64> {
    let mut source = File::open(source)?;
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes)?;
    if rustix::fs::ioctl_ficlone(&*entry, &source).is_ok() {
        entry.seek(SeekFrom::End(0))?;
    } else {
        entry.write_all(&bytes)?;
    }
    entry.write_all(blake3::hash(&bytes).as_bytes())?;
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
mod tests {
    use super::*;

    fn key(n: u32) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    fn add(cache: &mut Cache, dir: &Path, n: u32, size: usize) {
        let source = dir.join("source");
        fs::write(&source, vec![n as u8; size]).unwrap();
        cache.add(key(n), &source).unwrap();
    }

    #[test]
    fn what_goes_in_comes_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(&dir.path().join("c"), 1 << 20).unwrap();
        let target = dir.path().join("target");
        assert!(!cache.fetch(key(1), &target));
        assert!(!target.exists());
        add(&mut cache, dir.path(), 1, 1000);
        assert!(cache.fetch(key(1), &target));
        assert_eq!(fs::read(&target).unwrap(), vec![1; 1000]);
        assert_eq!(cache.stats().unwrap(), Stats { entries: 1, bytes: 1032 });
        cache.clear().unwrap();
        assert!(!cache.fetch(key(1), &target));
    }

    #[test]
    fn a_damaged_entry_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(&dir.path().join("c"), 1 << 20).unwrap();
        let target = dir.path().join("target");
        for damage in 0..3 {
            add(&mut cache, dir.path(), 1, 100);
            let place = cache.place(key(1));
            let mut bytes = fs::read(&place).unwrap();
            match damage {
                0 => bytes[50] ^= 1,
                1 => bytes.truncate(60),
                _ => bytes.clear(),
            }
            fs::write(&place, bytes).unwrap();
            assert!(!cache.fetch(key(1), &target), "damage {damage}");
            assert!(!target.exists() && !place.exists(), "damage {damage}");
        }
    }

    #[test]
    fn the_limit_is_kept_and_the_longest_unused_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(&dir.path().join("c"), 10_000).unwrap();
        let target = dir.path().join("target");
        for n in 0..40 {
            add(&mut cache, dir.path(), n, 968);
            assert!(cache.stats().unwrap().bytes <= 10_000 + 1000, "after {n}");
            assert!(cache.fetch(key(0), &target), "the one that is used stays, after {n}");
        }
        assert!(!cache.fetch(key(1), &target));
        assert!(cache.fetch(key(39), &target));
        assert!(cache.prune().unwrap().bytes <= 10_000);
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("1048576"), Some(1 << 20));
        assert_eq!(parse_size("5G"), Some(5 << 30));
        assert_eq!(parse_size(" 1.5 GiB "), Some(3 << 29));
        assert_eq!(parse_size("500mb"), Some(500 << 20));
        for bad in ["", "G", "5X", "-1", "1.2.3"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
