//! The state file: records appended as things happen, so that a kill at any moment costs
//! only what was in flight. Reading stops at a torn or damaged record; a file of another
//! version counts as none. Must not know what the records mean to whom.
//!
//! Format: a magic line with the version; then records, each a length (u32, little-endian),
//! the CRC-32 of its payload, and the payload (postcard).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap as HashMap;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::facts::Facts;
use super::records::{
    AsmRecord, BackendRecord, FlagsRecord, LinkRecord, SettingsRecord, ToolRecord,
};
use super::stamp::Stamp;
use crate::error::{Error, Result};
use crate::room::Room;
use crate::unit::Part;

/// First line of the file. It changes with the records below: another's file is not read.
const MAGIC: &[u8] = b"kthinlto state 6\n";

#[derive(Serialize, Deserialize)]
enum Line {
    File(String, Stamp, Facts),
    Asm(Digest, AsmRecord),
    Tool(String, ToolRecord),
    Link(LinkRecord),
    Backend(String, Option<String>, BackendRecord),
    Step(String, BackendRecord),
    Output(String, Digest),
    FlagSet(Digest, Vec<String>),
    Flags(String, FlagsRecord),
    Settings(SettingsRecord),
}

/// Everything that the state file says, last record first.
#[derive(Debug, Default)]
pub struct Records {
    /// Stamps and digests of files.
    pub files: HashMap<String, (Stamp, Facts)>,
    /// Assembly includes by bitcode digest.
    pub asm: HashMap<Digest, AsmRecord>,
    /// Tools by their command and environment.
    pub tools: HashMap<String, ToolRecord>,
    /// The last thin links, by unit.
    pub links: BTreeMap<String, LinkRecord>,
    /// Backends by what they compiled.
    pub backends: HashMap<Part, BackendRecord>,
    /// Steps of a relink by name.
    pub steps: HashMap<String, BackendRecord>,
    /// What other outputs were made from.
    pub outputs: HashMap<String, Digest>,
    /// Sets of flags.
    pub flag_sets: HashMap<Digest, Vec<String>>,
    /// Flags by object.
    pub flags: HashMap<String, FlagsRecord>,
    /// What the last build was asked to do.
    pub settings: Option<SettingsRecord>,
}

fn backend_line(part: &Part, record: &BackendRecord) -> Line {
    Line::Backend(part.object.clone(), part.unit.as_deref().map(str::to_owned), record.clone())
}

impl Records {
    fn take(&mut self, line: Line) {
        match line {
            Line::File(path, stamp, facts) => drop(self.files.insert(path, (stamp, facts))),
            Line::Asm(digest, record) => drop(self.asm.insert(digest, record)),
            Line::Tool(name, record) => drop(self.tools.insert(name, record)),
            Line::Link(record) => drop(self.links.insert(record.unit.clone(), record)),
            Line::Backend(object, unit, record) => {
                let part = Part { object, unit: unit.map(Into::into) };
                self.backends.insert(part, record);
            }
            Line::Step(name, record) => drop(self.steps.insert(name, record)),
            Line::Output(name, digest) => drop(self.outputs.insert(name, digest)),
            Line::FlagSet(digest, words) => drop(self.flag_sets.insert(digest, words)),
            Line::Flags(object, record) => drop(self.flags.insert(object, record)),
            Line::Settings(record) => self.settings = Some(record),
        }
    }

    fn count(&self) -> usize {
        let maps = self.files.len() + self.asm.len() + self.tools.len();
        let maps = maps + self.flag_sets.len() + self.flags.len();
        maps + self.backends.len() + self.steps.len() + self.outputs.len() + self.links.len()
    }

    fn lines(&self) -> impl Iterator<Item = Line> + '_ {
        let files = self.files.iter().map(|(p, (s, f))| Line::File(p.clone(), *s, *f));
        let asm = self.asm.iter().map(|(d, r)| Line::Asm(*d, r.clone()));
        let tools = self.tools.iter().map(|(n, r)| Line::Tool(n.clone(), r.clone()));
        let links = self.links.values().map(|r| Line::Link(r.clone()));
        let backends = self.backends.iter().map(|(part, r)| backend_line(part, r));
        let steps = self.steps.iter().map(|(n, r)| Line::Step(n.clone(), r.clone()));
        let outputs = self.outputs.iter().map(|(n, d)| Line::Output(n.clone(), *d));
        let sets = self.flag_sets.iter().map(|(d, w)| Line::FlagSet(*d, w.clone()));
        let flags = self.flags.iter().map(|(o, r)| Line::Flags(o.clone(), *r));
        let settings = self.settings.iter().map(|r| Line::Settings(r.clone()));
        let files = files.chain(sets).chain(flags).chain(settings);
        files.chain(asm).chain(tools).chain(links).chain(backends).chain(steps).chain(outputs)
    }
}

/// The open state file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    /// `None` where records are only read.
    file: Option<File>,
    /// Records that only save work, until one comes that has to be in the file.
    waiting: Vec<u8>,
    /// A sentence for the user, where the file was damaged or of another version.
    pub warning: Option<String>,
}

impl Log {
    /// Reads all records of the file in a folder, if there is one, and writes none, now or later.
    pub fn peek(room: Option<&Room>, name: &str) -> Result<(Self, Records)> {
        let bytes = room.map_or_else(|| Ok(Vec::new()), |room| read_or_empty(room, name))?;
        let read = Read::from(&bytes);
        let path = room.map_or_else(|| PathBuf::from(name), |room| room.path(name));
        let (waiting, warning) = (Vec::new(), read.warning(&path));
        let log = Log { path, file: None, waiting, warning };
        Ok((log, read.records))
    }

    /// Opens or makes the file and reads all records.
    pub fn open(room: &Room, name: &str) -> Result<(Self, Records)> {
        let path = room.path(name);
        let fail = |e| Error::io("open the state file", &path, e);
        let bytes = read_or_empty(room, name)?;
        let read = Read::from(&bytes);
        let warning = read.warning(&path);
        let stale = read.lines > read.records.count() * 3 / 2 + 1000;
        // What has another name too, in a copy of the tree made of hard links, is that one's.
        let linked = room.find(name).map_err(fail)?.is_some_and(|found| found.st_nlink > 1);
        if bytes.is_empty() || warning.is_some() || stale || linked {
            rewrite(room, name, &read.records)?;
        }
        let file = room.open_file(name, OFlags::WRONLY | OFlags::APPEND).map_err(fail)?;
        let log = Log { path, file: Some(file), waiting: Vec::new(), warning };
        Ok((log, read.records))
    }

    /// Takes a record that a kill may cost: what was learnt is learnt again.
    fn learn(&mut self, line: &Line) -> Result<()> {
        if self.file.is_some() {
            encode(line, &mut self.waiting);
        }
        if self.waiting.len() < MOST_WAITING { Ok(()) } else { self.write() }
    }

    /// Takes a record that is in the file when this returns.
    fn append(&mut self, line: &Line) -> Result<()> {
        self.learn(line)?;
        self.write()
    }

    /// Writes all records that wait.
    pub fn write(&mut self) -> Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| !self.waiting.is_empty()) else {
            return Ok(());
        };
        let length = file.metadata().map(|found| found.len());
        let written = file.write_all(&self.waiting);
        self.waiting.clear();
        written.map_err(|e| {
            // Half a record, on a full disk, would hide all that are appended after it.
            let _ = length.and_then(|length| file.set_len(length));
            Error::io("write the state file", &self.path, e)
        })
    }

    /// Takes the stamp and facts of a file.
    pub fn file(&mut self, path: &str, stamp: Stamp, facts: Facts) -> Result<()> {
        self.learn(&Line::File(path.to_owned(), stamp, facts))
    }

    /// Takes what a module's assembly includes.
    pub fn asm(&mut self, digest: Digest, record: &AsmRecord) -> Result<()> {
        self.learn(&Line::Asm(digest, record.clone()))
    }

    /// Takes what was learnt about a tool.
    pub fn tool(&mut self, name: &str, record: &ToolRecord) -> Result<()> {
        self.learn(&Line::Tool(name.to_owned(), record.clone()))
    }

    /// Appends a thin link.
    pub fn link(&mut self, record: &LinkRecord) -> Result<()> {
        self.append(&Line::Link(record.clone()))
    }

    /// Appends a backend.
    pub fn backend(&mut self, part: &Part, record: &BackendRecord) -> Result<()> {
        self.append(&backend_line(part, record))
    }

    /// Appends a step of a relink.
    pub fn step(&mut self, name: &str, record: &BackendRecord) -> Result<()> {
        self.append(&Line::Step(name.to_owned(), record.clone()))
    }

    /// Appends what a build is asked to do.
    pub fn settings(&mut self, record: &SettingsRecord) -> Result<()> {
        self.append(&Line::Settings(record.clone()))
    }

    /// Takes a set of flags.
    pub fn flag_set(&mut self, set: Digest, words: &[String]) -> Result<()> {
        self.learn(&Line::FlagSet(set, words.to_vec()))
    }

    /// Takes which flags an object has.
    pub fn flags(&mut self, object: &str, record: FlagsRecord) -> Result<()> {
        self.learn(&Line::Flags(object.to_owned(), record))
    }

    /// Appends what an output was made from.
    pub fn output(&mut self, name: &str, made_from: Digest) -> Result<()> {
        self.append(&Line::Output(name.to_owned(), made_from))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.write() {
            tracing::debug!("what this run recorded is lost: {error}");
        }
    }
}

fn read_or_empty(room: &Room, name: &str) -> Result<Vec<u8>> {
    match room.read(name, LARGEST) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("read the state file", room.path(name), e)),
    }
}

/// Bytes that a state file may have; the one of a defconfig has some 5 MB.
const LARGEST: u64 = 1 << 30;
/// Bytes of records that may wait.
const MOST_WAITING: usize = 64 << 10;
/// Bytes before a record's payload: its length and its check.
const FRAME: usize = 8;

/// Adds a record at the end of `all`.
fn encode(line: &Line, all: &mut Vec<u8>) {
    let start = all.len();
    all.extend([0; FRAME]);
    // Plain data into memory: there is nothing that could fail.
    let Ok(whole) = postcard::to_extend(line, std::mem::take(all)) else {
        return;
    };
    *all = whole;
    let (frame, payload) = all[start..].split_at_mut(FRAME);
    frame[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    frame[4..].copy_from_slice(&check(payload));
}

/// How many whole records the bytes of a state file begin with.
pub fn records_in(bytes: &[u8]) -> usize {
    Read::from(bytes).lines
}

/// Whether this is what a record holds, without its length and its check.
pub fn is_record(payload: &[u8]) -> bool {
    postcard::from_bytes::<Line>(payload).is_ok()
}

fn check(payload: &[u8]) -> [u8; 4] {
    crc32fast::hash(payload).to_le_bytes()
}

/// Takes the first record off `bytes`; `None` where there is no whole and right one.
fn decode(bytes: &mut &[u8]) -> Option<Line> {
    let (frame, rest) = bytes.split_at_checked(FRAME)?;
    let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
    let (payload, rest) = rest.split_at_checked(length as usize)?;
    if check(payload) != frame[4..] {
        return None;
    }
    *bytes = rest;
    postcard::from_bytes(payload).ok()
}

#[derive(Default)]
struct Read {
    records: Records,
    lines: usize,
    /// Bytes at the end that are no whole record.
    lost: usize,
    other_version: bool,
}

impl Read {
    fn from(bytes: &[u8]) -> Self {
        let mut read = Read::default();
        let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
            read.other_version = !bytes.is_empty();
            return read;
        };
        while let Some(line) = decode(&mut rest) {
            read.lines += 1;
            read.records.take(line);
        }
        read.lost = rest.len();
        read
    }

    fn warning(&self, path: &Path) -> Option<String> {
        let path = path.display();
        if self.other_version {
            return Some(format!("{path} is from another version; everything is checked again"));
        }
        (self.lost > 0).then(|| {
            let lost = self.lost;
            format!("{path} was damaged (its last {lost} bytes); what they covered is made again")
        })
    }
}

fn rewrite(room: &Room, name: &str, records: &Records) -> Result<()> {
    let mut bytes = MAGIC.to_vec();
    records.lines().for_each(|line| encode(&line, &mut bytes));
    room.write(name, &bytes).map_err(|e| Error::io("write", room.path(name), e))
}

#[cfg(test)]
mod tests {
    use super::super::records::{Cost, Indexed};
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::sync::Arc;

    fn part(object: &str) -> Part {
        Part::of_vmlinux(object)
    }

    fn backend(n: u8) -> BackendRecord {
        let inputs = [("bitcode a.o".to_owned(), "00".to_owned())];
        let cost = Cost { wall: n.into(), cpu: 2, peak: 3 };
        BackendRecord::new(Digest::of(&[n]), Digest::of(&[n, n]), Some(cost), &inputs)
    }

    fn open(path: &Path) -> Result<(Log, Records)> {
        Log::open(&Room::open(path.parent().unwrap()).unwrap(), "state")
    }

    fn filled(dir: &Path) -> PathBuf {
        let path = dir.join("state");
        let (mut log, records) = open(&path).unwrap();
        assert_eq!(records.count(), 0);
        log.backend(&part("a.o"), &backend(1)).unwrap();
        log.backend(&part("b.o"), &backend(2)).unwrap();
        log.backend(&part("a.o"), &backend(3)).unwrap();
        path
    }

    #[test]
    fn a_thin_link_reads_back() {
        let module = |object: &str, imports: &[&str]| Indexed {
            part: Part { object: object.to_owned(), unit: Some("xfs".into()) },
            index: Digest::of(object.as_bytes()),
            imports: imports.iter().map(|name| Arc::from(*name)).collect(),
        };
        let modules =
            vec![module("a.o", &["b.o", "c.o"]), module("b.o", &[]), module("c.o", &["b.o"])];
        let link = LinkRecord { unit: "fs/xfs/xfs".to_owned(), key: Digest::of(b"link"), modules };
        let bytes = postcard::to_stdvec(&link).unwrap();
        assert_eq!(postcard::from_bytes::<LinkRecord>(&bytes).unwrap(), link);
    }

    #[test]
    fn the_last_record_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (log, records) = open(&filled(dir.path())).unwrap();
        assert_eq!(log.warning, None);
        assert_eq!(records.backends[&part("a.o")], backend(3));
        assert_eq!(records.backends[&part("b.o")], backend(2));
    }

    #[test]
    fn a_file_torn_anywhere_gives_a_prefix_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let whole = fs::read(filled(dir.path())).unwrap();
        for cut in 0..whole.len() {
            let path = dir.path().join("state");
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut log, records) = open(&path).unwrap();
            if let Some(found) = records.backends.get(&part("b.o")) {
                assert_eq!(*found, backend(2));
            }
            log.backend(&part("c.o"), &backend(9)).unwrap();
            let (log, records) = open(&path).unwrap();
            assert_eq!(log.warning, None, "cut at {cut}: one warning only");
            assert_eq!(records.backends[&part("c.o")], backend(9), "cut at {cut}");
        }
    }

    #[test]
    fn what_was_learnt_is_written_with_the_next_record_or_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path());
        let size = || fs::metadata(&path).unwrap().len();
        let (mut log, _) = open(&path).unwrap();
        let before = size();
        let nothing = AsmRecord { rule: 1, files: Vec::new(), unknown: false };
        log.asm(Digest::of(b"1"), &nothing).unwrap();
        assert_eq!(size(), before, "it waits");
        log.backend(&part("c.o"), &backend(5)).unwrap();
        let (_, records) = open(&path).unwrap();
        assert_eq!(records.backends[&part("c.o")], backend(5));
        assert!(records.asm.contains_key(&Digest::of(b"1")));
        log.asm(Digest::of(b"2"), &nothing).unwrap();
        drop(log);
        assert_eq!(open(&path).unwrap().1.asm.len(), 2);
        let (mut log, _) = open(&path).unwrap();
        (0..2000).for_each(|n: u32| log.asm(Digest::of(&n.to_le_bytes()), &nothing).unwrap());
        assert!(size() > before + MOST_WAITING as u64, "not without end");
    }

    #[test]
    fn a_flipped_bit_loses_no_record_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path());
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(3).position(|w| w == b"b.o").unwrap();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (log, records) = open(&path).unwrap();
        assert!(log.warning.as_deref().unwrap().contains("was damaged"));
        assert_eq!(records.backends.len(), 1);
        assert_eq!(records.backends[&part("a.o")], backend(1));
        assert_eq!(open(&path).unwrap().0.warning, None, "one warning only");
    }

    #[test]
    fn another_version_is_no_state_and_one_warning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        for text in ["kthinlto state 0\n", "garbage"] {
            fs::write(&path, text).unwrap();
            let (log, records) = open(&path).unwrap();
            assert!(log.warning.as_deref().unwrap().contains("another version"));
            assert_eq!(records.count(), 0);
            assert_eq!(open(&path).unwrap().0.warning, None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Read::from(&[MAGIC, &tail].concat());
        }
    }

    #[test]
    fn a_long_log_is_rewritten_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path());
        let (mut log, _) = open(&path).unwrap();
        for _ in 0..1100 {
            log.backend(&part("a.o"), &backend(4)).unwrap();
        }
        let long = fs::metadata(&path).unwrap().len();
        let (_, records) = open(&path).unwrap();
        assert_eq!(records.backends[&part("a.o")], backend(4));
        assert!(fs::metadata(&path).unwrap().len() < long / 100);
    }
}
