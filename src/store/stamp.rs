//! Stamps: what `stat` says of a file, and when two equal ones mean equal bytes. Must not
//! know what is in a file.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::regular;

/// What `stat` says of a file: equal stamps of an old enough file mean equal bytes. The
/// change time is in it because `touch -r`, `cp -p` and archives cannot set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(u64, i64, i64, u64, u64);

impl Stamp {
    /// The stamp of a file's metadata: size, times in nanoseconds, inode, device.
    pub fn of(found: &Metadata) -> Self {
        let modified = nanos(found.mtime(), found.mtime_nsec());
        let changed = nanos(found.ctime(), found.ctime_nsec());
        Stamp(found.len(), modified, changed, found.ino(), found.dev())
    }

    /// The same, of what the system call gives.
    pub(super) fn of_stat(found: &rustix::fs::Stat) -> Self {
        let modified = nanos(found.st_mtime, found.st_mtime_nsec as i64);
        let changed = nanos(found.st_ctime, found.st_ctime_nsec as i64);
        Stamp(found.st_size as u64, modified, changed, found.st_ino, found.st_dev)
    }

    /// When the file was written last, in nanoseconds since 1970: what make compares.
    pub fn modified(&self) -> i64 {
        self.1
    }

    /// Size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.0
    }

    /// Whether a later write to the file, by now, must have given it another stamp. File
    /// systems tick, unless `resolution` knows better: in whole seconds where the nanoseconds are
    /// 0, else in a few milliseconds.
    pub(super) fn is_conclusive(&self, now: i64, resolution: TimeResolution) -> bool {
        let newest = self.1.max(self.2);
        let tick = match newest % 1_000_000_000 {
            0 => Duration::from_secs(2),
            _ if resolution.is_fine_for(self) => return true,
            _ => Duration::from_millis(50),
        };
        newest < now.saturating_sub(tick.as_nanos() as i64)
    }

    /// Whether nothing but the name of the file changed since `earlier`: a rename gives it
    /// another change time, a write another modification time too.
    pub(super) fn is_renamed(&self, earlier: &Stamp) -> bool {
        let Stamp(size, modified, _, inode, device) = *earlier;
        (self.0, self.1, self.3, self.4) == (size, modified, inode, device)
    }

    /// Whether nobody wrote to the file since: links, modes and renames give it another change
    /// time, and some file systems other numbers each time.
    pub(super) fn is_same_write(&self, other: &Stamp) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

/// The file system, if there is one, on which a write gives a file other times than any
/// that were looked at before: since Linux 6.13 ext4, XFS, Btrfs and tmpfs (multigrain
/// timestamps). No stamp is too recent to tell there.
#[derive(Debug, Clone, Copy, Default)]
pub struct TimeResolution(Option<u64>);

impl TimeResolution {
    /// Tries it with `file`, whose first bytes become `text`. By chance the clock would have to
    /// tick between each two of these writes.
    pub(super) fn by_writing(file: &File, text: &[u8]) -> io::Result<Self> {
        let mut fine = true;
        let mut last = Stamp::of(&file.metadata()?);
        for _ in 0..8 {
            file.write_all_at(text, 0)?;
            let next = Stamp::of(&file.metadata()?);
            fine &= next.1 > last.1 && next.2 > last.2;
            last = next;
        }
        Ok(TimeResolution(fine.then_some(last.4)))
    }

    fn is_fine_for(self, stamp: &Stamp) -> bool {
        self.0 == Some(stamp.4)
    }
}

/// The stamp that a file has before it is read; its bytes take the place of those in `bytes`.
///
/// # Errors
/// Where it cannot be read.
pub fn read_into(path: &Path, bytes: &mut Vec<u8>) -> io::Result<Stamp> {
    bytes.clear();
    let (mut file, found) = regular::open(path)?;
    regular::read_into(&mut file, &found, regular::LIMIT, bytes)?;
    Ok(Stamp::of(&found))
}

fn nanos(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000) + nanos
}

/// The clock that files are stamped by, in nanoseconds.
pub(super) fn nanos_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_stamps_tell_only_where_the_file_system_is_fine() {
        const NOW: i64 = 1_700_000_000_123_456_789;
        let stamp = |age: Duration, device| {
            let time = NOW - age.as_nanos() as i64;
            Stamp(1, time, time, 2, device)
        };
        let (coarse, fine) = (TimeResolution(None), TimeResolution(Some(7)));
        let recent = Duration::from_millis(10);
        assert!(!stamp(recent, 7).is_conclusive(NOW, coarse));
        assert!(stamp(recent, 7).is_conclusive(NOW, fine));
        assert!(!stamp(recent, 8).is_conclusive(NOW, fine), "another file system");
        assert!(stamp(Duration::from_millis(60), 8).is_conclusive(NOW, fine));
        let whole = Duration::from_nanos(1_123_456_789);
        assert!(!stamp(whole, 7).is_conclusive(NOW, fine), "in whole seconds");
    }

    #[test]
    fn a_rename_changes_no_bytes_and_a_write_does() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let look = |path| Stamp::of(&std::fs::metadata(path).unwrap());
        std::fs::write(&one, "a").unwrap();
        let before = look(&one);
        std::fs::rename(&one, &two).unwrap();
        assert!(look(&two).is_renamed(&before));
        std::fs::write(&two, "ab").unwrap();
        assert!(!look(&two).is_renamed(&before));
        std::fs::write(&one, "a").unwrap();
        assert!(!look(&one).is_renamed(&before), "another file");
    }

    /// Where trying says so, no write hides behind an equal stamp, however soon it comes.
    #[test]
    fn what_was_tried_holds() {
        let dir = tempfile::tempdir().unwrap();
        let tried = File::create(dir.path().join("tried")).unwrap();
        let resolution = TimeResolution::by_writing(&tried, b"12").unwrap();
        assert_eq!(std::fs::read(dir.path().join("tried")).unwrap(), b"12");
        let file = File::create(dir.path().join("file")).unwrap();
        let mut hidden = 0;
        for _ in 0..2000 {
            let before = Stamp::of(&file.metadata().unwrap());
            file.write_all_at(b"x", 0).unwrap();
            hidden += usize::from(before == Stamp::of(&file.metadata().unwrap()));
        }
        let last = Stamp::of(&file.metadata().unwrap());
        assert_eq!(last.is_conclusive(last.2, resolution), resolution.0.is_some());
        assert_eq!(hidden == 0, resolution.0.is_some(), "{hidden} of 2000");
    }
}
