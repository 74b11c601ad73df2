//! Backends as copies of one compiler process that has started already: dynamic linking and
//! constructors, a fifth of a kernel's ThinLTO stage, run once. Every doubt ends in a plain
//! process. Must not know what a backend is.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::action::Action;
use super::clang;
use super::executor::{Executor, Job};
use super::interrupt::Interrupts;
use super::process::{Invocation, Outcome, Running};
use super::server::{Failure, Server};
use crate::environment::Environment;

/// An executor for one compiler in one folder.
#[derive(Debug)]
pub struct ForkServer {
    program: String,
    folder: PathBuf,
    /// `None` once it was not to be trusted.
    server: Option<Server>,
    notes: Vec<String>,
}

/// A fork server that is getting ready. It takes a slot until then.
#[derive(Debug)]
pub struct Starting {
    program: String,
    /// The program's real file.
    path: PathBuf,
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
        let path = clang::find(program, &folder, environment)?;
        let server = Server::begin(program, &folder, environment, interrupts)?;
        Ok(Starting { program: program.to_owned(), path, folder, server })
    }

    /// The compiler, as it is called.
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

    /// Waits until it is ready. A signal ends the wait.
    ///
    /// # Errors
    /// A clause that says why it cannot be one.
    pub fn finish(self) -> Result<ForkServer, String> {
        let Starting { program, path, folder, server } = self;
        let server = server.finish(&path)?;
        let number = server.pid();
        let notes =
            vec![format!("a fork server of {program} (process {number}) runs the backends")];
        Ok(ForkServer { program, folder, server: Some(server), notes })
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
        self.server = None;
        self.notes.push(format!(
            "the fork server of {} {why}; the other backends ran as plain processes",
            self.program
        ));
    }

    /// A copy for this job, if the server can make one.
    fn copy(&mut self, what: &Invocation) -> Option<io::Result<Running>> {
        let is_ours = what.argv.iter().next() == Some(&self.program) && what.folder == self.folder;
        let server = self.server.as_ref().filter(|_| is_ours)?;
        match server.run(what.inner.as_ref().unwrap_or(&what.argv)) {
            Ok(running) => Some(Ok(running)),
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
        Ok(Box::new(self.copy(&what.command).unwrap_or_else(|| Running::start(&what.command))?))
    }

    fn takes_inner(&self) -> bool {
        self.server.is_some()
    }

    fn second_try(&mut self, what: &Action, _: &Outcome) -> Option<io::Result<Box<dyn Job>>> {
        Some(Running::start(&what.command).map(|running| Box::new(running) as Box<dyn Job>))
    }

    fn first_try_was_wrong(&mut self) {
        if self.server.is_some() {
            self.give_up("made a backend fail that a plain process could run");
        }
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }
}
