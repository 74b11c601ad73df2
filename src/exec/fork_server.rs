//! Backends, and links, as copies of one process of the compiler, or the linker, that has started already:
//! dynamic linking and constructors, a fifth of a kernel's ThinLTO stage, run once. Every doubt ends in a
//! plain process. Must not know what a backend is.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::action::Action;
use super::executor::{Executor, Job};
use super::interrupt::Interrupts;
use super::process::{Invocation, Outcome, Running};
use super::served::{self, Served};
use super::server::{Failure, Server};
use crate::environment::Environment;

/// An executor for one compiler, or linker, in one folder.
#[derive(Debug)]
pub struct ForkServer {
    program: String,
    folder: PathBuf,
    served: Served,
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

    /// Waits until it is ready. A signal ends the wait.
    ///
    /// # Errors
    /// A clause that says why it cannot be one.
    pub fn finish(self) -> Result<ForkServer, String> {
        let Starting { program, path, served, folder, server } = self;
        let server = server.finish(&path)?;
        let number = server.pid();
        let notes = vec![format!(
            "a fork server of {program} (process {number}) runs the {}s",
            served.job()
        )];
        Ok(ForkServer { program, folder, served, server: Some(server), notes })
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
            "the fork server of {} {why}; the other {}s ran as plain processes",
            self.program,
            self.served.job()
        ));
    }

    /// Whether it runs jobs of this program, as it is called, in this folder.
    pub fn serves(&self, program: &str, folder: &Path) -> bool {
        self.server.is_some() && program == self.program && folder == self.folder
    }

    /// A copy for this job, if the server can make one.
    fn copy(&mut self, what: &Invocation) -> Option<io::Result<Running>> {
        let is_ours = what.argv.iter().next().is_some_and(|word| self.serves(word, &what.folder));
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

    fn first_try_was_wrong(&mut self, _: &Action) {
        if self.server.is_some() {
            let job = self.served.job();
            self.give_up(&format!("made a {job} fail that a plain process could run"));
        }
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }
}
