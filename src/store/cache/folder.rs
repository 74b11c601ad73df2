//! The folders of a cache: which are kthinlto's, and what in them is an entry. Everything else that
//! may be there is somebody's, and stays. Must not know what an entry holds.
//!
//! `CACHE/v2/CACHEDIR.TAG` says whose the folder is, `CACHE/v2/XX/62 hexadecimal digits` is an
//! entry, and `.tmp…` beside it one that is being written.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Entry, LARGEST, TRAILER};
use crate::error::{Error, Result};
use crate::room::{Room, is_file};
use crate::store::Digest;

/// Below the cache's folder: the version of the entries' format and of the keys.
pub const CURRENT: &str = "v2";
/// The one before, whose entries were not bound to their keys, and which had no mark.
pub const OLDER: &str = "v1";
/// The mark of a folder that is kthinlto's: <https://bford.info/cachedir/>, which backup programs
/// pass over, and whose it is.
const MARK: &str = "CACHEDIR.TAG";
const MARK_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
                         # Native objects by content, of kthinlto; `kthinlto cache clear` empties it.\n";
/// Bytes of its first line, which is the same in all such files.
const SIGNATURE: usize = 43;
/// Unfinished files older than this were left by a process that is gone.
const STALE: Duration = Duration::from_secs(3600);
/// Entries without a mark that are read until one is right.
const TRIED: usize = 8;

/// The folder of one version.
#[derive(Debug)]
pub struct Part {
    pub room: Room,
    older: bool,
}

impl Part {
    /// Opens the folder of this version and makes it if need be. One that is there, has no mark
    /// and is not empty is somebody else's.
    pub fn make(root: &Room, mode: u32) -> Result<Self> {
        let fail = |e| Error::io("make the cache folder", root.path(CURRENT), e);
        let part = Part { room: root.make(CURRENT, mode).map_err(fail)?, older: false };
        if !part.is_marked() {
            let names = part.room.names().map_err(fail)?;
            // Another process may be about to mark it: its aside is there, or the mark by now.
            if !names.iter().all(|name| is_unfinished(name) || name == MARK) {
                return Err(foreign(&part.room));
            }
            part.mark()?;
        }
        Ok(part)
    }

    /// Opens the folder of a version, if there is one and it is kthinlto's.
    pub fn find(root: &Room, name: &str) -> Result<Option<Self>> {
        let room = match root.sub(name) {
            Ok(room) => room,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if name == OLDER => {
                tracing::debug!("{}: {e}", root.path(name).display());
                return Ok(None);
            }
            Err(e) => return Err(Error::io("open the cache folder", root.path(name), e)),
        };
        let part = Part { room, older: name == OLDER };
        let ours = part.is_marked() || part.older && part.is_recognized();
        match ours || name == OLDER {
            true => Ok(Some(part).filter(|_| ours)),
            false => Err(foreign(&part.room)),
        }
    }

    fn is_marked(&self) -> bool {
        // Other programs mark their caches too: it has to be kthinlto's.
        let is_ours =
            |text: &str| text.starts_with(&MARK_TEXT[..SIGNATURE]) && text.contains("kthinlto");
        self.room.read(MARK, 4096).is_ok_and(|text| is_ours(&String::from_utf8_lossy(&text)))
    }

    /// Marks the folder as kthinlto's.
    pub fn mark(&self) -> Result<()> {
        if self.is_marked() {
            return Ok(());
        }
        let write = || {
            let aside = random_name();
            let mut file = self.room.create(&aside, 0o644)?;
            io::Write::write_all(&mut file, MARK_TEXT.as_bytes())?;
            self.room.rename(&aside, MARK)
        };
        write().map_err(|e| Error::io("mark the cache folder", self.room.path(MARK), e))
    }

    /// Whether a folder without a mark is a cache of the version before: all names in it are
    /// those of entries, and an entry is what it should be.
    fn is_recognized(&self) -> bool {
        let (mut tried, mut good) = (0, false);
        let Ok(folders) = self.room.names() else {
            return false;
        };
        for name in folders {
            let Ok(folder) = Some(&name)
                .filter(|name| is_hex(name, 2))
                .ok_or(())
                .and_then(|name| self.room.sub(name).map_err(drop))
            else {
                return false;
            };
            let Ok(names) = folder.names() else {
                return false;
            };
            for name in names {
                let regular =
                    folder.find(&name).is_ok_and(|found| found.is_some_and(|f| is_file(&f)));
                if !regular || !(is_hex(&name, 62) || is_unfinished(&name)) {
                    return false;
                }
                if !good && tried < TRIED && is_hex(&name, 62) {
                    tried += 1;
                    good = folder.read(&name, LARGEST).is_ok_and(|bytes| is_old_entry(&bytes));
                }
            }
        }
        good
    }

    /// Adds all entries. What cannot be read is passed over; with `sweep`, what killed processes
    /// left is removed.
    pub fn entries<'a>(&'a self, sweep: bool, found: &mut Vec<Entry<'a>>) -> Result<()> {
        let fail = |e| Error::io("read the cache folder", self.room.place(), e);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let stale = now.saturating_sub(STALE).as_secs() as i64;
        for folder in self.room.names().map_err(fail)?.into_iter().filter(|name| is_hex(name, 2)) {
            let Ok((room, names)) =
                self.room.sub(&folder).and_then(|room| room.names().map(|names| (room, names)))
            else {
                continue; // another user's, or no folder
            };
            for name in names {
                let Some(stat) = room.find(&name).ok().flatten().filter(is_file) else {
                    continue; // no file, or removed by another process meanwhile
                };
                if is_hex(&name, 62) {
                    let used = match self.older {
                        true => (0, 0),
                        false => (stat.st_mtime, stat.st_mtime_nsec as i64),
                    };
                    let (folder, size) = (folder.clone(), stat.st_size as u64);
                    found.push(Entry { part: self, folder, name, size, used });
                } else if sweep && is_unfinished(&name) && stat.st_mtime < stale {
                    let _ = room.remove(&name);
                }
            }
        }
        Ok(())
    }
}

/// Fails where a folder that has the name of ours is another's.
pub fn refuse_foreign(root: &Room) -> Result<()> {
    match root.find(OLDER) {
        Ok(Some(_)) => match root.sub(OLDER) {
            // An empty one may be ours, and nothing can be lost.
            Ok(room) if room.names().is_ok_and(|names| names.is_empty()) => Ok(()),
            Ok(room) => Err(foreign(&room)),
            Err(e) => Err(Error::io("open the cache folder", root.path(OLDER), e)),
        },
        _ => Ok(()),
    }
}

fn foreign(room: &Room) -> Error {
    let found =
        format!("not a cache of kthinlto: it holds other files and no {MARK} of kthinlto's");
    Error::bad_input(
        room.place(),
        found,
        "name another folder with KTHINLTO_CACHE_DIR or --cache-dir",
    )
}

/// A name that nobody else has: with exclusive creation, it need not be secret.
pub fn random_name() -> OsString {
    format!(".tmp{:016x}", RandomState::new().build_hasher().finish()).into()
}

fn is_hex(name: &OsStr, length: usize) -> bool {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.len() == length && name.as_bytes().iter().all(is_digit)
}

/// `.tmp` and what makes it unique: six characters, or 16.
fn is_unfinished(name: &OsStr) -> bool {
    let rest = name.as_bytes().strip_prefix(b".tmp").unwrap_or_default();
    matches!(rest.len(), 6 | 16) && rest.iter().all(u8::is_ascii_alphanumeric)
}

/// An object with its own digest behind it.
fn is_old_entry(bytes: &[u8]) -> bool {
    let whole = bytes.split_last_chunk::<TRAILER>();
    whole.is_some_and(|(object, trailer)| Digest::of(object).as_bytes() == trailer)
}
