//! What the user sees, as one stream of events to listeners. Nothing here decides anything.
//!
//! ```
//! use kthinlto::report::{Event, Listener};
//!
//! /// Counts what is made, and says nothing.
//! #[derive(Default)]
//! struct Count(usize);
//!
//! impl Listener for Count {
//!     fn on(&mut self, event: &Event<'_>) {
//!         self.0 += usize::from(matches!(event, Event::Step { .. }));
//!     }
//! }
//!
//! let mut count = Count::default();
//! count.on(&Event::Step { verb: "CC", target: "a.o", command: "clang -c a.c", why: "its flags" });
//! count.on(&Event::Warning("not counted"));
//! assert_eq!(count.0, 1);
//! ```

pub mod console;
mod estimate;
pub mod graph;
pub mod json;
pub mod plain;
pub mod progress;
pub mod promoted;
pub mod record;
mod screen;
mod status;
pub mod timings;
pub mod trace;
pub mod words;

use std::time::Duration;

use crate::exec::executor::{Machine, Traffic};
use crate::exec::process::{RemoteUsage, Usage};
use crate::plan::Due;
use crate::store::Indexed;
use crate::unit::Part;

/// Something that happened, or is about to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A phase begins, and with it the one before has ended: `thin link`, `plan`, `backends`.
    Phase(&'static str),
    /// A file is made: kbuild's short line, the full command, and why.
    Step {
        /// Kbuild's verb: `AR`, `GEN`, `LD`, `CC`.
        verb: &'static str,
        /// The file.
        target: &'a str,
        /// The command, as shell text.
        command: &'a str,
        /// Why it is made (`V=2`).
        why: &'a str,
    },
    /// What thin links found, and which backends have to run: all others are up to date. Of many units
    /// some may come later.
    Planned {
        /// The indexed modules in link order, with their imports.
        modules: &'a [Indexed],
        /// Those whose native object has to be made.
        backends: &'a [Backend<'a>],
    },
    /// A native object came from the shared cache.
    FromCache {
        /// The bitcode object.
        object: &'a str,
        /// How long that took.
        wall: Duration,
        /// Whose cache it was: a folder here, or another machine's store of results.
        machine: Machine,
    },
    /// A job was started.
    Started(Job<'a>),
    /// The job of a row has ended, and its result was looked at.
    Ended {
        /// The row, free from now on.
        row: Row,
        /// What came of it.
        ending: Ending,
        /// What it took; nothing, if it could not be started.
        usage: Option<Usage>,
        /// Where the time went, if it ran on another machine and that is known.
        remote: Option<RemoteUsage>,
    },
    /// Bytes that went to other machines and came from them in this run.
    Traffic(Traffic),
    /// What a compiler or linker printed, whole.
    Output(&'a [u8]),
    /// One sentence for the verbose log.
    Note(&'a str),
    /// One sentence that the user should read.
    Warning(&'a str),
    /// One sentence about something that failed.
    Failure(&'a str),
    /// The stage has ended well.
    Done(&'a Summary),
}

/// A backend that has to run.
#[derive(Debug, Clone, Copy)]
pub struct Backend<'a> {
    /// What it compiles.
    pub part: &'a Part,
    /// Size of its bitcode in bytes.
    pub size: u64,
    /// Why it has to run.
    pub due: &'a Due,
    /// Wall time of its last run, if that is on record.
    pub expected: Option<Duration>,
}

/// What a process is of a run. Its verb does not tell: kbuild compiles one more file after the
/// backends, and links more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JobKind {
    /// The thin link.
    ThinLink,
    /// One of the planned backends.
    Backend,
    /// A step of a relink.
    Step,
}

/// A row of jobs, of which one runs at a time: here each is a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// Where its jobs run.
    pub machine: Machine,
    /// Its number there, from 0.
    pub number: usize,
}

impl Row {
    /// A slot of this machine.
    pub fn here(number: usize) -> Self {
        Row { machine: Machine::This, number }
    }

    /// Jobs of other machines, which have no slots of ours.
    pub fn elsewhere(number: usize) -> Self {
        Row { machine: Machine::Other, number }
    }
}

/// A job that was started.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The row that it runs in.
    pub row: Row,
    /// What it is of the run.
    pub kind: JobKind,
    /// Kbuild's verb: `CC` for a backend, `LD` for the thin link.
    pub verb: &'static str,
    /// What it is about: a backend's bitcode object, else the file that it makes.
    pub object: &'a str,
}

/// What came of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its output is good.
    Good,
    /// It failed, or its output is not good.
    Failed,
    /// It does not count: another machine was quicker, or it failed on another one and is run here.
    Dropped,
}

/// What a stage did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bitcode modules that the thin link indexed.
    pub modules: usize,
    /// Those whose native object was right already.
    pub up_to_date: usize,
    /// Those whose native object came from the shared cache, or from another machine's.
    pub from_cache: usize,
    /// Those of them that came from another machine.
    pub from_remote_cache: usize,
    /// Those that were compiled.
    pub rebuilt: usize,
    /// Those of them that another machine compiled.
    pub rebuilt_remotely: usize,
    /// Whether the linker ran.
    pub linked: bool,
    /// Wall time.
    pub time: Duration,
}

/// Takes events, one at a time, on the thread that runs the stage.
pub trait Listener {
    /// Something happened.
    fn on(&mut self, event: &Event<'_>);

    /// Whether it has to hear of all modules, also where nothing is to be done.
    fn wants_modules(&self) -> bool {
        false
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::unit::Part;

    /// A part that events can name in tests.
    pub fn part(object: &str) -> &'static Part {
        Box::leak(Box::new(Part::of_vmlinux(object)))
    }
}
