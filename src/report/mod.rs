//! What the user sees, as one stream of events to listeners. Nothing here decides anything.

pub mod console;

use std::time::Duration;

/// Something that happened, or is about to.
#[derive(Debug)]
pub enum Event<'a> {
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
    /// What a compiler or linker printed, whole.
    Output(&'a [u8]),
    /// One sentence that the user should read.
    Warning(&'a str),
    /// One sentence about something that failed.
    Failure(&'a str),
    /// The stage has ended well.
    Done(&'a Summary),
}

/// What a stage did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bitcode modules that the thin link indexed.
    pub modules: usize,
    /// Those whose native object was right already.
    pub up_to_date: usize,
    /// Those whose native object came from the shared cache.
    pub from_cache: usize,
    /// Those that were compiled.
    pub rebuilt: usize,
    /// Whether the linker ran.
    pub linked: bool,
    /// Wall time.
    pub time: Duration,
}

/// Takes events, one at a time, on the thread that runs the stage.
pub trait Listener {
    /// Something happened.
    fn on(&mut self, event: &Event<'_>);
}
