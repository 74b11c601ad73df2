//! Backends, and links, as copies of one process of the compiler, or the linker, that has started already:
//! dynamic linking and constructors, a fifth of a kernel's ThinLTO stage, run once. Every doubt ends in a
//! plain process. Must not know what a backend is.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::action::Action;
use super::copy::{CopyJob, Line};
use super::executor::{Executor, Job};
use super::interrupt::Interrupts;
use super::process::{Invocation, Outcome, Running};
use super::served::{self, Served};
use super::server::{Failure, Server};
use crate::environment::Environment;

/// Processors for which one server is enough: it makes a copy in a millisecond, and jobs take a hundred.
const PROCESSORS: usize = 64;

/// An executor for one compiler, or linker, in one folder.
#[derive(Debug)]
pub struct ForkServer {
    program: String,
    folder: PathBuf,
    served: Served,
    /// Its processes, which all do the same; none once it was not to be trusted.
    lines: Vec<Rc<Line>>,
    notes: Vec<String>,
}

/// A fork server that is getting ready. It takes a slot until then.
#[derive(Debug)]
pub struct Starting {
    program: String,
    /// The program's real file.
    path: PathBuf,
    served: Served,
    folder: PathBuf,
    server: Server,
}

impl Starting {
    /// Begins what [`ForkServer::start`] does, and does not wait.
    ///
    /// # Errors
    /// A clause that says why it cannot be one.
    pub fn begin(
        program: &str,
        folder: PathBuf,
        environment: &Environment,
        interrupts: &Interrupts,
    ) -> Result<Self, String> {
        let (path, served) = served::find(program, &folder, environment)?;
        let server = Server::begin(program, &folder, environment, interrupts)?;
        Ok(Starting { program: program.to_owned(), path, served, folder, server })
    }

    /// The program, as it is called.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// A descriptor that is readable when it is ready, or never will be.
    ///
    /// # Errors
    /// Where there can be no other descriptor.
    pub fn answer(&self) -> io::Result<OwnedFd> {
        self.server.answer()
    }

    /// Whether [`Starting::finish`] need not wait.
    pub fn has_answered(&self) -> bool {
        self.server.has_answered()
    }

    /// Waits until it is ready. A signal ends the wait. On a machine with many processors it has several processes.
    ///
    /// # Errors
    /// A clause that says why it cannot be one.
    pub fn finish(self) -> Result<ForkServer, String> {
        let processors = std::thread::available_parallelism().map_or(1, Into::into);
        self.finish_as(processors.div_ceil(PROCESSORS))
    }

    /// The same with so many processes, or as many as there can be.
    ///
    /// # Errors
    /// As [`Starting::finish`].
    pub fn finish_as(self, processes: usize) -> Result<ForkServer, String> {
        let Starting { program, path, served, folder, server } = self;
        let failed = |error: io::Error| format!("it cannot be started: {error}");
        let first = Line::new(server.finish(&path)?).map_err(failed)?;
        let mut lines = vec![Rc::new(first)];
        let others = std::iter::repeat_with(|| lines[0].server().another().ok());
        let others = others.take(processes.saturating_sub(1)).map_while(|server| server);
        let others: Vec<_> = others.filter_map(|server| Line::new(server).ok()).collect();
        lines.extend(others.into_iter().map(Rc::new));
        let (number, job) = (lines[0].server().pid(), served.job());
        let more = match lines.len() {
            1 => String::new(),
            all => format!(", and {} more", all - 1),
        };
        let note = format!("a fork server of {program} (process {number}{more}) runs the {job}s");
        Ok(ForkServer { program, folder, served, lines, notes: vec![note] })
    }
}

impl ForkServer {
    /// Starts `program` in `folder` as a server. Takes a slot as any process does. A signal ends
    /// the wait for it. It inherits the environment of the process; in this one it is looked up where
    /// the program is, and which variables of the dynamic loader and of malloc are taken.
    ///
    /// # Errors
    /// A clause that says why it cannot be one.
    pub fn start(
        program: &str,
        folder: PathBuf,
        environment: &Environment,
        interrupts: &Interrupts,
    ) -> Result<Self, String> {
        Starting::begin(program, folder, environment, interrupts)?.finish()
    }

    fn give_up(&mut self, why: &str) {
        self.lines.clear();
        self.notes.push(format!(
            "the fork server of {} {why}; the other {}s ran as plain processes",
            self.program,
            self.served.job()
        ));
    }

    /// Whether it runs jobs of this program, as it is called, in this folder.
    pub fn serves(&self, program: &str, folder: &Path) -> bool {
        !self.lines.is_empty() && program == self.program && folder == self.folder
    }

    /// A copy for this job, if a server can be asked for one.
    fn copy(&mut self, what: &Invocation) -> Option<io::Result<CopyJob>> {
        let is_ours = what.argv.iter().next().is_some_and(|word| self.serves(word, &what.folder));
        if let Some(why) = self.lines.iter().find_map(|line| line.lost()) {
            self.give_up(&why);
        }
        let line = self.lines.iter().filter(|_| is_ours).min_by_key(|line| line.length())?;
        match CopyJob::ask(what, line) {
            Ok(copy) => Some(Ok(copy)),
            Err(Failure::Shortage(error)) => Some(Err(error)),
            Err(Failure::Unfit) => None,
            Err(Failure::Lost(why)) => {
                self.give_up(&why);
                None
            }
        }
    }
}

impl Executor for ForkServer {
    fn start(&mut self, what: &Action) -> io::Result<Box<dyn Job>> {
        match self.copy(&what.command) {
            Some(copy) => Ok(Box::new(copy?)),
            None => Ok(Box::new(Running::start(&what.command)?)),
        }
    }

    fn takes_inner(&self) -> bool {
        !self.lines.is_empty()
    }

    fn second_try(&mut self, what: &Action, _: &Outcome) -> Option<io::Result<Box<dyn Job>>> {
        Some(Running::start(&what.command).map(|running| Box::new(running) as Box<dyn Job>))
    }

    fn first_try_was_wrong(&mut self, _: &Action) {
        if !self.lines.is_empty() {
            let job = self.served.job();
            self.give_up(&format!("made a {job} fail that a plain process could run"));
        }
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }
}
