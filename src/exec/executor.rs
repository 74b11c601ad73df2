//! How a job becomes a process. Runner and planner know only the trait: a plain process
//! today, a copy that a fork server makes, or something else tomorrow.

use std::io;

use super::process::{Invocation, Outcome, Running};

/// Starts jobs. Whoever calls it holds a slot for the job.
pub trait Executor {
    /// Starts a job.
    fn start(&mut self, what: &Invocation) -> io::Result<Running>;

    /// Whether it begins a job at [`Invocation::inner`].
    fn takes_inner(&self) -> bool {
        false
    }

    /// A job failed. Starts it once more in another way, if the one that it was started in
    /// may be the cause.
    fn start_again(
        &mut self,
        _what: &Invocation,
        _failed: &Outcome,
    ) -> Option<io::Result<Running>> {
        None
    }

    /// A job that was started again succeeded.
    fn was_the_cause(&mut self) {}

    /// Sentences for the verbose log; each is given once.
    fn notes(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// A plain process for each job.
#[derive(Debug, Default)]
pub struct Processes;

impl Executor for Processes {
    fn start(&mut self, what: &Invocation) -> io::Result<Running> {
        Running::start(what)
    }
}

/// Which executor runs the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Choice {
    /// A fork server where it works and there are enough backends, else processes
    #[default]
    Auto,
    /// A process for each backend
    Process,
    /// A fork server for any number of backends, where it works
    ForkServer,
}
