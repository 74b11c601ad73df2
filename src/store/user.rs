//! Digests of large files outside of object trees (compilers, linkers, their libraries), kept for all trees
//! of one user: the first build of a tree does not read a compiler that another tree's has read. Must not
//! know what the files are for.
//!
//! An entry counts only where the stamp is the very same, change time and inode number included, as in a
//! tree's own state. Whatever is wrong with the file, its entries are not used, and the files are read.
//!
//! Format: a magic line, the CRC-32 of what follows, and the entries (postcard).

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::sealed;
use super::stamp::Stamp;
use crate::room::{Room, writers};

/// First line of the file. It changes with what follows.
const MAGIC: &[u8] = b"kthinlto digests 1\n";
/// The file's name.
const NAME: &str = "tool-digests";
/// Bytes from which on a file is worth an entry: hashing fewer takes less than reading the entries.
const LARGE: u64 = 1 << 20;
/// Entries that are kept; the files of one LLVM are about ten.
const MOST: usize = 500;
/// Bytes of the largest file that is read.
const LARGEST: u64 = 1 << 20;

type Entries = BTreeMap<String, (Stamp, Facts)>;

#[derive(Serialize, Deserialize, Default)]
struct Saved {
    entries: Entries,
}

/// The digests of one user.
#[derive(Debug)]
pub struct UserDigests {
    folder: PathBuf,
    read: OnceLock<Entries>,
}

impl UserDigests {
    /// Those in `folder`, which is made when there is something to keep. Nothing is read before it is
    /// needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        UserDigests { folder: folder.into(), read: OnceLock::new() }
    }

    /// Whether a file of this name and stamp is one that is kept here.
    fn is_kept(name: &str, stamp: &Stamp) -> bool {
        name.starts_with('/') && stamp.size() >= LARGE
    }

    /// What is known of the file of this absolute name, if its stamp is the same.
    pub(super) fn find(&self, name: &str, stamp: &Stamp) -> Option<Facts> {
        let entries = || self.read.get_or_init(|| self.room().map(load).unwrap_or_default());
        let (was, facts) = *Self::is_kept(name, stamp).then(entries)?.get(name)?;
        (was == *stamp && facts.size == stamp.size()).then_some(facts)
    }

    /// Keeps those of these files that are new here. What other processes added meanwhile stays, if the
    /// file is still the same.
    ///
    /// # Errors
    /// Where the folder cannot be made, is not this user's alone, or cannot be written into.
    pub(super) fn add(&self, found: &[(String, Stamp, Facts)]) -> io::Result<()> {
        let is_new = |(name, stamp, _): &&(String, Stamp, Facts)| {
            Self::is_kept(name, stamp) && self.find(name, stamp).is_none()
        };
        let new: Vec<_> = found.iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let room = self.room()?;
        let mut entries = load(self.room()?);
        entries.retain(|name, (stamp, _)| {
            fs::metadata(name).is_ok_and(|found| Stamp::of(&found) == *stamp)
        });
        entries
            .extend(new.into_iter().map(|(name, stamp, facts)| (name.clone(), (*stamp, *facts))));
        while entries.len() > MOST {
            entries.pop_first();
        }
        let payload = postcard::to_stdvec(&Saved { entries }).unwrap_or_default();
        room.write(NAME, &sealed::seal(MAGIC, &payload))
    }

    /// The folder, if it is this user's and nobody else may write into it.
    fn room(&self) -> io::Result<Room> {
        let room = Room::open(&self.folder)?;
        let found = room.stat()?;
        let others = writers(&found).is_some();
        match found.st_uid == rustix::process::geteuid().as_raw() && !others {
            true => Ok(room),
            false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may write there")),
        }
    }
}

/// The entries of a folder; none where there is anything else than what [`UserDigests::add`] writes.
fn load(room: Room) -> Entries {
    let read = || {
        let bytes = room.read(NAME, LARGEST).ok()?;
        let saved: Saved = postcard::from_bytes(sealed::open(MAGIC, &bytes)?).ok()?;
        Some(saved.entries)
    };
    read().unwrap_or_default()
}

/// Where a user's digests are by custom: `kthinlto` in `$XDG_CACHE_HOME`, or in `~/.cache` (the XDG Base
/// Directory Specification, version 0.8, which ignores relative names). None without a home.
pub fn usual_folder(environment: &crate::environment::Environment) -> Option<PathBuf> {
    let folder = |name| environment.get(name).map(Path::new).filter(|path| path.is_absolute());
    let caches = folder("XDG_CACHE_HOME").map(Path::to_path_buf);
    let caches = caches.or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(caches.join("kthinlto"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use rustc_hash::FxHashMap as HashMap;

    use super::super::digest::Digest;
    use super::super::files::Files;
    use super::super::stamp::TimeResolution;
    use super::*;
    use crate::environment::Environment;

    struct Case {
        dir: tempfile::TempDir,
        tool: String,
    }

    impl Case {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let tool = dir.path().join("clang").to_str().unwrap().to_owned();
            fs::write(&tool, vec![1; LARGE as usize]).unwrap();
            // A stamp as young as its file proves nothing.
            std::thread::sleep(Duration::from_millis(80));
            Case { dir, tool }
        }

        fn digests(&self) -> UserDigests {
            UserDigests::new(self.dir.path().join("home/kthinlto"))
        }

        fn files(&self) -> Files {
            let mut files = Files::new(
                &self.dir.path().join("tree"),
                TimeResolution::default(),
                HashMap::default(),
            );
            files.use_digests(self.digests());
            files
        }

        /// One run that looks at the tool and keeps what it learnt.
        fn run(&self) -> Facts {
            let files = self.files();
            let facts = files.facts(&self.tool).unwrap();
            self.digests().add(&files.take_unrecorded()).unwrap();
            facts
        }

        /// Makes the entry say something that no reading would find.
        fn plant(&self) -> Facts {
            let stamp = Stamp::of(&fs::metadata(&self.tool).unwrap());
            let lie = Facts { size: stamp.size(), ..Facts::of(b"a lie") };
            let saved = Saved { entries: [(self.tool.clone(), (stamp, lie))].into() };
            let payload = postcard::to_stdvec(&saved).unwrap();
            let file = self.digests().folder.join(NAME);
            fs::write(file, sealed::seal(MAGIC, &payload)).unwrap();
            lie
        }
    }

    #[test]
    fn a_second_tree_does_not_read_what_the_first_one_has_read() {
        let case = Case::new();
        let read = case.run();
        assert_eq!(read.digest, Digest::of(&vec![1; LARGE as usize]));
        assert_eq!(
            case.digests().find(&case.tool, &Stamp::of(&fs::metadata(&case.tool).unwrap())),
            Some(read)
        );
        let lie = case.plant();
        assert_eq!(case.run(), lie, "it was not read");
    }

    #[test]
    fn a_tool_that_was_written_again_is_read() {
        let case = Case::new();
        case.run();
        case.plant();
        let modified = fs::metadata(&case.tool).unwrap().modified().unwrap();
        fs::write(&case.tool, vec![2; LARGE as usize]).unwrap();
        fs::File::options().write(true).open(&case.tool).unwrap().set_modified(modified).unwrap();
        std::thread::sleep(Duration::from_millis(80));
        assert_eq!(case.run().digest, Digest::of(&vec![2; LARGE as usize]), "same size and time");
        assert_eq!(case.files().facts(&case.tool).unwrap().digest, case.run().digest);
    }

    #[test]
    fn what_is_damaged_is_not_used() {
        let case = Case::new();
        let read = case.run();
        case.plant();
        let file = case.digests().folder.join(NAME);
        let good = fs::read(&file).unwrap();
        for place in [0, MAGIC.len() + 1, good.len() - 1] {
            let mut bad = good.clone();
            bad[place] ^= 1;
            fs::write(&file, &bad).unwrap();
            assert_eq!(case.run(), read, "byte {place}");
            assert_eq!(case.digests().read.get(), None);
        }
        fs::write(&file, &good[..good.len() / 2]).unwrap();
        assert_eq!(case.run(), read, "half a file");
    }

    #[test]
    fn a_folder_that_others_may_write_into_is_not_used() {
        let case = Case::new();
        let read = case.run();
        case.plant();
        let folder = case.digests().folder;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(case.files().facts(&case.tool).unwrap(), read);
        let files = case.files();
        files.facts(&case.tool).unwrap();
        assert!(case.digests().add(&files.take_unrecorded()).is_err());
    }

    #[test]
    fn small_files_and_those_of_the_tree_are_not_kept() {
        let case = Case::new();
        let stamp = Stamp::of(&fs::metadata(&case.tool).unwrap());
        let facts = Facts::of(b"");
        let small = dir_file(&case, "small", 10);
        let named_from_here = ("vmlinux.o".to_owned(), stamp, facts);
        case.digests().add(&[named_from_here, (small.0, small.1, facts)]).unwrap();
        assert!(!case.digests().folder.exists());
    }

    fn dir_file(case: &Case, name: &str, size: usize) -> (String, Stamp) {
        let path = case.dir.path().join(name);
        fs::write(&path, vec![0; size]).unwrap();
        (path.to_str().unwrap().to_owned(), Stamp::of(&fs::metadata(path).unwrap()))
    }

    #[test]
    fn what_is_gone_or_changed_leaves_the_file() {
        let case = Case::new();
        case.run();
        let other = dir_file(&case, "ld.lld", LARGE as usize);
        fs::remove_file(&case.tool).unwrap();
        case.digests().add(&[(other.0.clone(), other.1, Facts::of(b"linker"))]).unwrap();
        let names =
            |digests: &UserDigests| load(digests.room().unwrap()).into_keys().collect::<Vec<_>>();
        assert_eq!(names(&case.digests()), [other.0]);
    }

    #[test]
    fn the_usual_folder_is_that_of_the_custom() {
        let folder = |variables: &[(&str, &str)]| {
            usual_folder(&variables.iter().copied().collect::<Environment>())
        };
        assert_eq!(folder(&[("HOME", "/home/a")]), Some("/home/a/.cache/kthinlto".into()));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]), Some("/c/kthinlto".into()));
        assert_eq!(
            folder(&[("XDG_CACHE_HOME", "c"), ("HOME", "/h")]),
            Some("/h/.cache/kthinlto".into())
        );
        assert_eq!(folder(&[("XDG_CACHE_HOME", ""), ("HOME", "")]), None);
    }
}
