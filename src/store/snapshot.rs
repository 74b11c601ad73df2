//! A run that found nothing to do leaves the stamp of everything that it looked at. While a
//! later run is asked the same and all stamps are equal, it has nothing to do either, and
//! needs neither the records nor the archives to say so. Any doubt is a "no": the whole walk
//! follows. Must not know what was looked at, or why.
//!
//! Format: a magic line, the CRC-32 of what follows, and the stamps by folder (postcard).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::digest::{Digest, KeyBuilder};
use super::stamp::{Stamp, TimeResolution, nanos_now};
use super::{FOLDER, own, sealed};
use crate::error::{Error, Result};
use crate::parallel;

/// First line of the file. It changes with what follows.
const MAGIC: &[u8] = b"kthinlto snapshot 1\n";
/// Entries that one thread looks at in one go.
const PIECE: usize = 128;

/// Names and what was seen of them; no stamp where there was nothing.
type Seen = Vec<(String, Option<Stamp>)>;

/// What is looked at outside of [`super::Files`]: each name with the stamp that it had
/// *before* it was read, so that a later write cannot hide.
#[derive(Debug, Default)]
pub struct Watch(HashMap<PathBuf, (i64, Option<Stamp>)>);

impl Watch {
    /// Takes the stamp of `path`, unless it was taken before. A folder's stamp covers the names in it.
    pub fn look(&mut self, path: &Path) {
        if self.0.contains_key(path) {
            return;
        }
        let now = nanos_now();
        let stamp = fs::metadata(path).ok().as_ref().map(Stamp::of);
        self.0.insert(path.to_path_buf(), (now, stamp));
    }

    /// What was seen, by names relative to `tree` where they are below it; `None` if something
    /// was too recent for its stamp to tell, or has a name that is no text.
    fn take(&self, tree: &Path, resolution: TimeResolution) -> Option<Seen> {
        let name = |path: &Path| path.strip_prefix(tree).unwrap_or(path).to_str().map(String::from);
        let seen = self.0.iter().map(|(path, (now, stamp))| {
            let tells = stamp.is_none_or(|stamp| stamp.is_conclusive(*now, resolution));
            tells.then_some((name(path)?, *stamp))
        });
        seen.collect()
    }
}

/// What a run is asked to do, and by which program: only an equal request has the same answer.
pub fn request(fields: &[&[u8]]) -> Digest {
    let mut key = KeyBuilder::new("kthinlto question 1");
    fields.iter().for_each(|field| {
        key.field(field);
    });
    // Another version may look at other things.
    key.field(env!("CARGO_PKG_VERSION").as_bytes());
    let program = fs::metadata("/proc/self/exe").map(|found| Stamp::of(&found));
    key.field(format!("{:?}", program.ok()).as_bytes());
    key.finish()
}

#[derive(Serialize, Deserialize)]
struct Snapshot<'a> {
    request: Digest,
    answer: u64,
    #[serde(borrow)]
    folders: Vec<Folder<'a>>,
}

/// Some names of one folder.
#[derive(Serialize, Deserialize)]
struct Folder<'a> {
    #[serde(borrow)]
    path: &'a str,
    #[serde(borrow)]
    entries: Vec<(&'a str, Option<Stamp>)>,
}

/// Bytes that a snapshot may have; the one of a defconfig has less than 2 MB.
const LARGEST: u64 = 1 << 28;

/// The answer that a snapshot of this name gives to `request`, if nothing changed since.
/// Looks at the files on up to `threads` threads.
pub fn find(tree: &Path, name: &str, request: Digest, threads: usize) -> Option<u64> {
    let bytes = own::find(tree).ok()??.read(name, LARGEST).ok()?;
    let snapshot = parse(sealed::open(MAGIC, &bytes)?)?;
    if snapshot.request != request {
        return None;
    }
    let same = parallel::map(threads, &snapshot.folders, |folder| folder.is_unchanged(tree));
    same.into_iter().all(|same| same).then_some(snapshot.answer)
}

fn parse(payload: &[u8]) -> Option<Snapshot<'_>> {
    postcard::from_bytes(payload).ok()
}

/// How many names are in what a snapshot holds behind its check; `None` where it is no snapshot.
pub fn names_in(payload: &[u8]) -> Option<usize> {
    Some(parse(payload)?.folders.iter().map(|folder| folder.entries.len()).sum())
}

impl Folder<'_> {
    fn is_unchanged(&self, tree: &Path) -> bool {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match openat(CWD, tree.join(self.path), flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return self.entries.iter().all(|(_, stamp)| stamp.is_none());
            }
            Err(_) => return false,
        };
        self.entries.iter().all(|(name, was)| {
            match (statat(&folder, *name, AtFlags::empty()), was) {
                (Ok(found), Some(was)) => Stamp::of_stat(&found) == *was,
                (Err(Errno::NOENT | Errno::NOTDIR), None) => true,
                _ => false,
            }
        })
    }
}

/// Leaves a snapshot for the next run, or none where something was too recent to be trusted.
/// It is an optimisation: nothing is lost where it cannot be written.
///
/// # Errors
/// Where it cannot be written.
pub fn write(
    tree: &Path,
    name: &str,
    request: Digest,
    answer: u64,
    watch: &Watch,
    files: &super::Files,
) -> Result<()> {
    let (Some(watched), Some(looked_at)) =
        (watch.take(tree, files.resolution()), files.looked_at())
    else {
        return Ok(());
    };
    // Runs that change anything append to the state: its size tells, however recent it is.
    let state = format!("{FOLDER}/{}", super::STATE);
    let stamp = fs::metadata(tree.join(&state)).ok().as_ref().map(Stamp::of);
    let mut seen: Seen = watched.into_iter().chain(looked_at).chain([(state, stamp)]).collect();
    seen.sort_by(|a, b| split(&a.0).cmp(&split(&b.0)));
    let folders = seen.chunk_by(|a, b| split(&a.0).0 == split(&b.0).0);
    let pieces = folders.flat_map(|folder| folder.chunks(PIECE));
    let folders = pieces.map(|piece| Folder {
        path: split(&piece[0].0).0,
        entries: piece.iter().map(|(name, stamp)| (split(name).1, *stamp)).collect(),
    });
    let snapshot = Snapshot { request, answer, folders: folders.collect() };
    // What the run itself made was absent when it looked, and must not be so next time: only
    // where all is still as it was seen, equal stamps mean that there is nothing to do.
    if !snapshot.folders.iter().all(|folder| folder.is_unchanged(tree)) {
        return Ok(());
    }
    // Plain data into memory: there is nothing that could fail.
    let payload = postcard::to_stdvec(&snapshot).unwrap_or_default();
    let room = own::make(tree)?;
    let written = room.write(name, &sealed::seal(MAGIC, &payload));
    written.map_err(|e| Error::io("write", room.path(name), e))
}

/// A name as its folder and its last part. A name that ends in `..` has none: its folder is
/// itself.
fn split(name: &str) -> (&str, &str) {
    match name.rsplit_once('/') {
        Some(("", last)) => ("/", last),
        Some((folder, last)) => (folder, last),
        None => ("", name),
    }
}
