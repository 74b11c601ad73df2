//! What is known of the targets that make compiled in a tree: what each was made from, and the contents
//! with which all of them are right. Kept between runs; where it is lost or damaged, times decide as make
//! has them decide. Must not know which targets are wanted, nor what runs.
//!
//! Format: a magic line, the CRC-32 of what follows, and [`State`] (postcard).

use rustc_hash::FxHashMap as HashMap;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::room::Room;
use crate::store::stamp::Stamp;
use crate::store::{Facts, sealed};

/// Its name in the store's folder.
const FILE: &str = "compiled";
/// First line of the file. It changes with what follows.
const MAGIC: &[u8] = b"kthinlto compiled 1\n";
/// Bytes that it may have; that of a defconfig has 7 MB.
const LARGEST: u64 = 1 << 28;

/// How a target was made, as its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// By a command with a list of what it read: it can be run again with another output.
    Compiled,
    /// In any other way: what the record names is only looked at.
    Otherwise,
}

/// A file, as it was when all targets that read it were right, but for those that are marked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KnownFile {
    /// Its name, as the records have it.
    pub name: String,
    /// Its stamp, where that can be trusted.
    pub stamp: Option<Stamp>,
    /// What it held; nothing, where it was not there.
    pub facts: Option<Facts>,
}

/// A target with a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Target {
    /// Its name in the object tree.
    pub name: String,
    /// Its record when that was read.
    pub record: Stamp,
    /// The target itself at that time.
    pub made: Option<Stamp>,
    /// How it is made.
    pub how: How,
    /// It has to be made again, whatever its files are now.
    pub stale: bool,
    /// What it reads, as places in the list of files: four bytes each.
    #[serde(with = "serde_bytes")]
    pub(super) reads: Vec<u8>,
}

impl Target {
    /// A target that reads these files.
    pub fn new(name: String, record: Stamp, made: Option<Stamp>, how: How, reads: &[u32]) -> Self {
        let reads = reads.iter().flat_map(|place| place.to_le_bytes()).collect();
        Target { name, record, made, how, stale: false, reads }
    }

    /// What it reads, as places in the list of files.
    pub fn reads(&self) -> impl Iterator<Item = usize> {
        let (places, _) = self.reads.as_chunks::<4>();
        places.iter().map(|place| u32::from_le_bytes(*place) as usize)
    }
}

/// All that is known.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Files that targets read, and that are watched.
    pub files: Vec<KnownFile>,
    /// Places of the files that only make can follow.
    pub watched: Vec<u32>,
    /// Targets, by any order.
    pub targets: Vec<Target>,
}

impl State {
    /// Reads what the last run left; nothing where that cannot be used.
    pub fn read(room: &Room) -> Self {
        room.read(FILE, LARGEST).ok().and_then(|bytes| Self::parse(&bytes)).unwrap_or_default()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let payload = sealed::open(MAGIC, bytes)?;
        let state: State = postcard::from_bytes(payload).ok()?;
        let count = state.files.len();
        let within = state.targets.iter().flat_map(Target::reads).all(|place| place < count);
        let watched = state.watched.iter().all(|place| (*place as usize) < count);
        (within && watched).then_some(state)
    }

    /// Leaves it for the next run.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, room: &Room) -> Result<()> {
        // Plain data into memory: there is nothing that could fail.
        let payload = postcard::to_stdvec(self).unwrap_or_default();
        let written = room.write(FILE, &sealed::seal(MAGIC, &payload));
        written.map_err(|e| Error::io("write", room.path(FILE), e))
    }
}

/// Names of files, each with its place.
#[derive(Debug, Default)]
pub struct Names {
    /// By place.
    pub all: Vec<String>,
    places: HashMap<String, u32>,
}

impl Names {
    /// The names of these files, in their order.
    pub fn of(files: &[KnownFile]) -> Self {
        let all: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
        let places = all.iter().enumerate().map(|(at, name)| (name.clone(), at as u32)).collect();
        Names { all, places }
    }

    /// The place of a name, a new one if need be.
    pub fn place(&mut self, name: &str) -> u32 {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.all.len() as u32;
        self.all.push(name.to_owned());
        self.places.insert(name.to_owned(), place);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> State {
        let dir = tempfile::tempdir().unwrap();
        let stamp = Stamp::of(&std::fs::metadata(dir.path()).unwrap());
        let file = |name: &str| KnownFile { name: name.into(), stamp: Some(stamp), facts: None };
        let target = |reads: &[u32]| Target::new("a.o".into(), stamp, None, How::Compiled, reads);
        State {
            files: vec![file("a.c"), file("a.h")],
            watched: vec![1],
            targets: vec![target(&[0, 1])],
        }
    }

    #[test]
    fn what_was_written_is_read_and_what_was_damaged_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::open(dir.path()).unwrap();
        assert!(State::read(&room).targets.is_empty());
        some().write(&room).unwrap();
        let read = State::read(&room);
        assert_eq!(read.targets[0].reads().collect::<Vec<_>>(), [0, 1]);
        let mut bytes = std::fs::read(dir.path().join(FILE)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(dir.path().join(FILE), bytes).unwrap();
        assert!(State::read(&room).targets.is_empty());
    }

    #[test]
    fn a_place_beyond_the_files_is_no_state() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::open(dir.path()).unwrap();
        let mut state = some();
        state.files.pop();
        state.write(&room).unwrap();
        assert!(State::read(&room).targets.is_empty());
    }
}
