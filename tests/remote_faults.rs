//! A server behind a bad wire, killed, emptied, or with blobs that disappear: each job ends with the right bytes or
//! with an error, none hangs, and when all is well again the server is used again. 12 random faults, or as many as
//! `KTHINLTO_STEPS` says; `KTHINLTO_SEED` repeats a run.
#![cfg(feature = "remote")]

#[path = "common/casd.rs"]
mod casd;
mod common;
#[path = "common/copies.rs"]
mod copies;
#[path = "common/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use casd::Casd;
use copies::{Copies, client};
use kthinlto::exec::action::Action;
use kthinlto::exec::executor::{Engine, Executor, Job};
use kthinlto::exec::process::Outcome;
use kthinlto::exec::remote::Remote;
use wire::{Fault, Wire};

/// Numbers by chance, which a seed repeats.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Wire(Fault),
    /// The wire says nothing for so long, and is then cut.
    Silent(Duration),
    /// No connection can be made for so long, after the last was cut.
    Gone(Duration),
    /// The server is killed after so long, and starts again.
    Killed(Duration),
    /// The same, and it has lost its store.
    Emptied(Duration),
    /// After so long, every third blob is gone.
    Evicted(Duration),
}

/// Longer than any answer may take, which only many faults have time for.
const FOR_GOOD: Duration = Duration::from_secs(25);

fn trouble(chance: &mut Chance, many: bool) -> Trouble {
    if many && chance.below(40) == 0 {
        return Trouble::Silent(FOR_GOOD);
    }
    // A job has some thousand bytes to send, and as many to receive.
    let bytes = 1 << (3 + chance.below(14));
    let at = chance.below(bytes);
    match chance.below(8) {
        0 | 1 => Trouble::Wire(Fault::Cut(at)),
        2 => Trouble::Wire(Fault::Corrupt(at)),
        3 => Trouble::Wire(Fault::Late(chance.millis(20))),
        4 => Trouble::Silent(chance.millis(1500)),
        5 if chance.below(2) == 0 => Trouble::Gone(chance.millis(3000)),
        5 => Trouble::Killed(chance.millis(300)),
        6 => Trouble::Emptied(chance.millis(300)),
        _ => Trouble::Evicted(chance.millis(200)),
    }
}

fn wait_for(remote: &Remote) {
    let until = Instant::now() + Duration::from_secs(120);
    while !remote.is_there() {
        assert!(Instant::now() < until, "the server is not used again");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The end of a job, which has to come.
fn end(job: &mut Box<dyn Job>) -> std::io::Result<Outcome> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(outcome) = job.try_finish()? {
            return Ok(outcome);
        }
        assert!(Instant::now() < until, "a job hangs");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Removes every third blob of a store.
fn evict(folder: &Path) {
    let mut folders = vec![folder.to_path_buf()];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => folders.push(entry.path()),
                false if count % 3 == 0 => drop(fs::remove_file(entry.path())),
                false => {}
            }
            count += 1;
        }
    }
}

fn make(trouble: Trouble, server: &mut Casd, wire: &Wire) {
    match trouble {
        Trouble::Wire(fault) => wire.set(fault),
        Trouble::Silent(time) => {
            wire.set(Fault::Silent);
            std::thread::sleep(time);
            wire.cut();
            wire.set(Fault::None);
        }
        Trouble::Gone(time) => {
            wire.set(Fault::Refused);
            wire.cut();
            std::thread::sleep(time);
            wire.set(Fault::None);
        }
        Trouble::Killed(time) | Trouble::Emptied(time) => {
            std::thread::sleep(time);
            server.kill();
            if matches!(trouble, Trouble::Emptied(_)) {
                server.empty();
            }
            server.run();
        }
        Trouble::Evicted(time) => {
            std::thread::sleep(time);
            evict(&server.store().join("cas/objects"));
        }
    }
}

#[test]
fn whatever_goes_wrong_a_job_ends_with_the_right_bytes_or_an_error() {
    if !casd::is_there() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let steps: u64 = number("KTHINLTO_STEPS").unwrap_or(12);
    let clock = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let seed = number("KTHINLTO_SEED").unwrap_or(clock.as_nanos() as u64 | 1);
    println!("KTHINLTO_SEED={seed}");
    let mut chance = Chance(seed);
    let mut server = Casd::start();
    let wire = Wire::to(server.port);
    let copies = Copies::new();
    let mut remote = client(&wire.url(), &[("KTHINLTO_REMOTE_TIMEOUT", "20")]);
    let (mut good, mut bad, mut warnings) = (0, 0, 0);
    for step in 0..steps {
        wait_for(&remote);
        let trouble = trouble(&mut chance, steps >= 100);
        let began = Instant::now();
        let job = |remote: &mut Remote, number: u64, sleep: &str| -> (Action, _) {
            let bytes =
                format!("{seed} {step} {number}").repeat(1 + (number as usize * 4999) % 20_000);
            let job =
                copies.job(&format!("s{step}n{number}"), bytes.as_bytes(), &["-sleep", sleep]);
            let started = remote.start(&job);
            (job, started)
        };
        let first_on_the_wire = matches!(trouble, Trouble::Wire(_));
        if first_on_the_wire {
            make(trouble, &mut server, &wire);
        }
        let sleep = chance.below(150).to_string();
        let mut jobs: Vec<_> = (0..3).map(|number| job(&mut remote, number, &sleep)).collect();
        if !first_on_the_wire {
            make(trouble, &mut server, &wire);
        }
        for (job, started) in &mut jobs {
            let ended = match started {
                Ok(job) => end(job).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match ended {
                Ok(outcome) if outcome.status.success() => {
                    let sizes = copies.sizes(job);
                    let right = copies.is_right(job);
                    assert_eq!(right, Some(true), "step {step}, {trouble:?}: {sizes:?} bytes");
                    good += 1;
                }
                // Its input disappeared while it was read.
                Ok(outcome) => {
                    println!("step {step}, {trouble:?}: the compiler failed, {:?}", outcome.status);
                    assert!(matches!(trouble, Trouble::Evicted(_)), "step {step}, {trouble:?}");
                    assert_eq!(copies.is_right(job), None, "step {step}, {trouble:?}");
                    bad += 1;
                }
                Err(error) => {
                    println!("step {step}, {trouble:?}: {error}");
                    assert_eq!(copies.is_right(job), None, "step {step}, {trouble:?}: {error}");
                    bad += 1;
                }
            }
        }
        drop(jobs);
        wire.set(Fault::None);
        println!("step {step}, {trouble:?}: {:?}", began.elapsed());
        // What was in its way may have to end first.
        let all_well = (0..4).any(|number| {
            wait_for(&remote);
            let (job, started) = job(&mut remote, 10 + number, "0");
            let ended = started.and_then(|mut job| end(&mut job));
            ended.is_ok_and(|end| end.status.success() && copies.is_right(&job) == Some(true))
        });
        assert!(all_well, "step {step}, {trouble:?}: the server is there and of no use");
        warnings += remote.warnings().len();
        assert_eq!(copies.rests(), [""; 0], "step {step}, {trouble:?}");
    }
    println!("{good} jobs were done, {bad} failed, {warnings} warnings");
    assert!(good > bad, "{good} of {} jobs", good + bad);
    assert!(warnings as u64 <= steps, "at most one for each fault");
}
