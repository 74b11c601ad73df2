//! The lines of the screen on which jobs of a relink are shown: the first that is free for each. Must
//! not know what runs.

use crate::exec::process::Usage;
use crate::report::{Ending, Event, Job, JobKind, Listener, Row};

/// The jobs that run now, by line.
#[derive(Debug, Default)]
pub struct Lines(Vec<Option<usize>>);

impl Lines {
    /// Tells the listener that a job begins, which makes `object`.
    pub fn begin(
        &mut self,
        number: usize,
        verb: &'static str,
        object: &str,
        listener: &mut dyn Listener,
    ) {
        let free = self.0.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.0.len());
        match free {
            Some(line) => self.0[line] = Some(number),
            None => self.0.push(Some(number)),
        }
        let row = Row::here(slot);
        listener.on(&Event::Started(Job { row, kind: JobKind::Step, verb, object }));
    }

    /// Tells the listener that a job has ended; one that never began has no line.
    pub fn end(
        &mut self,
        number: usize,
        usage: Option<Usage>,
        good: bool,
        listener: &mut dyn Listener,
    ) {
        let Some(slot) = self.0.iter().position(|line| *line == Some(number)) else {
            return;
        };
        self.0[slot] = None;
        let ending = if good { Ending::Good } else { Ending::Failed };
        let (row, remote) = (Row::here(slot), None);
        listener.on(&Event::Ended { row, ending, usage, remote });
    }
}
