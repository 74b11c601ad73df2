//! Other machines in this process: an engine whose jobs run each in a folder of its own, with a store of
//! results that several trees can share, and with whatever goes wrong on the way.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::apart::Away;
use kthinlto::error::Result;
use kthinlto::exec::action::Action;
use kthinlto::exec::executor::{Capacity, Engine, Executor, Job, MakeEngine, Traffic};
use kthinlto::exec::process::{Outcome, RemoteUsage};
use kthinlto::store::{Digest, KeyBuilder};

/// What becomes of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is run.
    Runs,
    /// A shell does something first.
    After(&'static str),
    /// It is not even taken.
    Refused,
    /// There is no room for it.
    Full,
    /// Nobody can say what became of it.
    Lost,
    /// It never ends.
    Hangs,
    /// It is said to be good, and leaves these bytes.
    Leaves(Vec<u8>),
    /// It is said to be good, and leaves nothing.
    LeavesNothing,
}

/// What was done, and how often.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    /// Engines that were made.
    pub made: usize,
    pub started: usize,
    /// Jobs that ended by themselves.
    pub ended: usize,
    /// Jobs that were given up by the run.
    pub cancelled: usize,
    pub running: usize,
    pub most: usize,
    /// Actions that were looked up, and how many of them were there.
    pub asked: usize,
    pub found: usize,
    /// Results that came from here.
    pub given: usize,
    /// Objects that jobs were for.
    pub objects: Vec<String>,
}

type Fates = Box<dyn Fn(usize) -> Fate + Send + Sync>;

/// The machines, and their store of results.
pub struct Farm {
    places: usize,
    /// What becomes of the job of this number, from 0.
    fates: Fates,
    results: Mutex<HashMap<String, Vec<u8>>>,
    counts: Mutex<Counts>,
    away_until: Mutex<Option<Instant>>,
    /// How long it is away after a job was lost.
    outage: Duration,
    /// A look-up takes so long, unless it is stopped.
    slow: Duration,
    /// What it can run does not run here.
    alone: bool,
}

impl fmt::Debug for Farm {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Farm")
    }
}

impl Farm {
    /// So many places, of which each does this.
    pub fn new(places: usize, fates: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Self {
        Farm {
            places,
            fates: Box::new(fates),
            results: Mutex::default(),
            counts: Mutex::default(),
            away_until: Mutex::default(),
            outage: Duration::ZERO,
            slow: Duration::ZERO,
            alone: false,
        }
    }

    /// It is away for so long after a job was lost.
    pub fn with_outages(self, outage: Duration) -> Self {
        Farm { outage, ..self }
    }

    /// A look-up takes so long.
    pub fn with_slow_answers(self, slow: Duration) -> Self {
        Farm { slow, ..self }
    }

    /// All that it can run is left to it.
    pub fn alone(self) -> Self {
        Farm { alone: true, ..self }
    }

    /// What another farm has, and made.
    pub fn with_results_of(self, other: &Farm) -> Self {
        *self.results.lock().unwrap() = other.results.lock().unwrap().clone();
        self
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.count().clone()
    }

    fn count(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap()
    }

    /// Another object in the place of each result.
    pub fn spoil(&self, bytes: &[u8]) {
        self.results.lock().unwrap().values_mut().for_each(|found| *found = bytes.to_vec());
    }
}

/// How a run gets to it.
#[derive(Debug, Clone)]
pub struct Road(pub Arc<Farm>);

impl MakeEngine for Road {
    fn make(&self) -> Result<Box<dyn Engine>> {
        self.0.count().made += 1;
        Ok(Box::new(self.clone()))
    }
}

/// What two actions have in common that are the same.
fn digest(action: &Action) -> Digest {
    let mut key = KeyBuilder::new("farm");
    action.command.argv.iter().for_each(|word| _ = key.field(word.as_bytes()));
    for (name, value) in action.environment.iter() {
        key.field(name.as_encoded_bytes()).field(value.as_encoded_bytes());
    }
    for file in action.inputs.iter().chain(action.tools.iter()) {
        key.field(file.name.as_bytes()).digest(&file.digest);
    }
    action.outputs.iter().for_each(|name| _ = key.field(name.as_bytes()));
    key.finish()
}

impl Executor for Road {
    fn capacity(&self) -> Capacity {
        Capacity::Jobs(self.0.places)
    }

    fn start(&mut self, action: &Action) -> io::Result<Box<dyn Job>> {
        let farm = &self.0;
        let number = farm.count().started;
        let fate = (farm.fates)(number);
        {
            let mut counts = farm.count();
            counts.started += 1;
            counts.objects.push(action.outputs[0].clone());
            assert_eq!(action.outputs.len(), 1, "one object and nothing else");
            assert_eq!(action.command.inner, None, "of fork servers nobody elsewhere knows");
        }
        match fate {
            Fate::Refused => return Err(io::ErrorKind::ConnectionRefused.into()),
            Fate::Full => return Err(io::ErrorKind::WouldBlock.into()),
            _ => {}
        }
        let (wake, mut sender) = UnixStream::pair()?;
        let away = match fate {
            Fate::Hangs => None,
            Fate::Lost => {
                sender.write_all(&[1])?;
                None
            }
            Fate::After(before) => Some(Away::start(action, None, before)?),
            _ => Some(Away::start(action, None, "")?),
        };
        let mut counts = farm.count();
        counts.running += 1;
        counts.most = counts.most.max(counts.running);
        drop(counts);
        let place = action.command.folder.join(&action.outputs[0]);
        let digest = digest(action).to_string();
        let (farm, ended) = (farm.clone(), false);
        Ok(Box::new(Far { farm, away, fate, wake, _sender: sender, place, digest, ended }))
    }
}

impl Engine for Road {
    fn look_up(&mut self, actions: &[Action], stop: &dyn Fn() -> bool) -> Vec<bool> {
        let began = Instant::now();
        while began.elapsed() < self.0.slow && !stop() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let results = self.0.results.lock().unwrap();
        let mut counts = self.0.count();
        counts.asked += actions.len();
        let found = actions.iter().map(|action| {
            assert!(action.outputs.len() == 1 && !action.tools.is_empty());
            match results.get(&digest(action).to_string()).filter(|_| !stop()) {
                Some(bytes) => {
                    fs::write(action.command.folder.join(&action.outputs[0]), bytes).unwrap();
                    true
                }
                None => false,
            }
        });
        let found: Vec<bool> = found.collect();
        counts.found += found.iter().filter(|found| **found).count();
        found
    }

    fn give(&mut self, action: &Action) {
        // What is to be given lies where the action says, and is read now.
        let bytes = fs::read(action.command.folder.join(&action.outputs[0])).unwrap();
        self.0.results.lock().unwrap().insert(digest(action).to_string(), bytes);
        self.0.count().given += 1;
    }

    fn is_there(&self) -> bool {
        let until = self.0.away_until.lock().unwrap();
        until.is_none_or(|until| Instant::now() > until)
    }

    fn shares(&self) -> bool {
        !self.0.alone
    }

    fn digest(&self, action: &Action) -> Option<String> {
        Some(format!("{}/1", digest(action)))
    }

    fn traffic(&self) -> Traffic {
        Traffic { sent: 10 * self.0.count().started as u64, received: 7 }
    }
}

/// A job there.
struct Far {
    farm: Arc<Farm>,
    away: Option<Away>,
    fate: Fate,
    wake: UnixStream,
    _sender: UnixStream,
    place: std::path::PathBuf,
    digest: String,
    ended: bool,
}

impl Far {
    fn end(&mut self) {
        self.ended = true;
        let mut counts = self.farm.count();
        counts.ended += 1;
        counts.running -= 1;
    }
}

impl AsFd for Far {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.away.as_ref().map_or(self.wake.as_fd(), AsFd::as_fd)
    }
}

impl Job for Far {
    fn try_finish(&mut self) -> io::Result<Option<Outcome>> {
        let Some(away) = &mut self.away else {
            if self.fate != Fate::Lost {
                return Ok(None);
            }
            self.end();
            *self.farm.away_until.lock().unwrap() = Some(Instant::now() + self.farm.outage);
            return Err(io::Error::other("the stream was cut"));
        };
        let Some(mut outcome) = away.try_finish()? else {
            return Ok(None);
        };
        let upload = Duration::from_millis(3);
        outcome.remote = Some(RemoteUsage { upload, ..RemoteUsage::default() });
        match &self.fate {
            Fate::Leaves(bytes) => fs::write(&self.place, bytes)?,
            Fate::LeavesNothing => fs::remove_file(&self.place)?,
            _ if outcome.status.success() => {
                let bytes = fs::read(&self.place)?;
                self.farm.results.lock().unwrap().insert(self.digest.clone(), bytes);
            }
            _ => {}
        }
        self.end();
        Ok(Some(outcome))
    }

    fn has_ended(&self) -> bool {
        self.away.as_ref().is_some_and(Job::has_ended)
    }

    fn cancel(&self) {
        self.away.iter().for_each(Job::cancel);
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if !self.ended {
            let mut counts = self.farm.count();
            counts.cancelled += 1;
            counts.running -= 1;
        }
    }
}
