//! Which executors the jobs of a run get: here a fork server of the compiler where it works and pays, and
//! one of the linker where modules have many links; and other machines where an engine is set. Each is made
//! when the first job for it is there.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use super::Settings;
use super::session::Session;
use crate::exec::action::Action;
use crate::exec::executor::{Capacity, Choice, Engine, Executor, Job, Processes};
use crate::exec::fork_server::{ForkServer, Starting};
use crate::exec::process::Outcome;
use crate::exec::slots::Slot;
use crate::report::Event;
use crate::toolchain::Tool;

/// From this many backends on a fork server has paid for its own start.
const ENOUGH: usize = 4;
/// The same for links that wait. A kernel without modules has one.
const ENOUGH_LINKS: usize = 4;

/// The executor of a run, which may be another one while the runner holds it.
#[derive(Clone)]
pub(super) struct Current(Rc<RefCell<Chosen>>);

struct Chosen {
    executor: Box<dyn Executor>,
    /// Runs the linker's jobs.
    linker: Option<ForkServer>,
    /// Takes its place when it is ready.
    next: Option<Next>,
    notes: Vec<String>,
}

/// A fork server that is getting ready.
struct Next {
    server: Starting,
    answer: Rc<OwnedFd>,
    /// It works until it is ready.
    _slot: Slot,
}

impl Current {
    /// The one that was given, or plain processes, until [`choose`] says otherwise.
    pub fn new(given: Option<Box<dyn Executor>>) -> Self {
        let executor = given.unwrap_or_else(|| Box::new(Processes));
        let (linker, next, notes) = (None, None, Vec::new());
        Current(Rc::new(RefCell::new(Chosen { executor, linker, next, notes })))
    }

    /// Whether jobs of this linker in this folder begin as copies.
    pub fn serves_linker(&self, linker: &Tool, folder: &Path) -> bool {
        let chosen = self.0.borrow();
        let program = linker.argv.first().zip(chosen.linker.as_ref());
        program.is_some_and(|(program, server)| server.serves(program, folder))
    }

    fn set(&self, executor: Box<dyn Executor>) {
        self.0.borrow_mut().executor = executor;
    }

    fn set_next(&self, server: Starting, slot: Slot) -> io::Result<()> {
        let answer = Rc::new(server.answer()?);
        self.0.borrow_mut().next = Some(Next { server, answer, _slot: slot });
        Ok(())
    }
}

impl Chosen {
    /// The executor of a job.
    fn of(&mut self, what: &Action) -> &mut dyn Executor {
        let (first, folder) = (what.command.argv.iter().next(), &what.command.folder);
        let is_link =
            |server: &&mut ForkServer| first.is_some_and(|word| server.serves(word, folder));
        match self.linker.as_mut().filter(is_link) {
            Some(server) => server,
            None => self.executor.as_mut(),
        }
    }
}

impl Executor for Current {
    fn capacity(&self) -> Capacity {
        self.0.borrow().executor.capacity()
    }

    fn start(&mut self, what: &Action) -> io::Result<Box<dyn Job>> {
        self.look();
        self.0.borrow_mut().of(what).start(what)
    }

    fn takes_inner(&self) -> bool {
        self.0.borrow().executor.takes_inner()
    }

    fn second_try(&mut self, what: &Action, failed: &Outcome) -> Option<io::Result<Box<dyn Job>>> {
        self.0.borrow_mut().of(what).second_try(what, failed)
    }

    fn first_try_was_wrong(&mut self, what: &Action) {
        self.0.borrow_mut().of(what).first_try_was_wrong(what);
    }

    fn waits_for(&self) -> Option<Rc<OwnedFd>> {
        self.0.borrow().next.as_ref().map(|next| next.answer.clone())
    }

    fn look(&mut self) {
        let mut chosen = self.0.borrow_mut();
        let ready = chosen.next.take_if(|next| next.server.has_answered());
        if let Some(Next { server, .. }) = ready {
            let program = server.program().to_owned();
            match server.finish() {
                Ok(server) => chosen.executor = Box::new(server),
                Err(why) => chosen.notes.push(no_server(&format!("{program}: {why}"))),
            }
        }
    }

    fn notes(&mut self) -> Vec<String> {
        let mut chosen = self.0.borrow_mut();
        let own = std::mem::take(&mut chosen.notes);
        let linker = chosen.linker.as_mut().map(ForkServer::notes).unwrap_or_default();
        own.into_iter().chain(linker).chain(chosen.executor.notes()).collect()
    }
}

/// The engine of a run, if it has one and a backend was there for it.
#[derive(Clone, Default)]
pub(super) struct Elsewhere(Rc<RefCell<Option<Box<dyn Engine>>>>);

impl Elsewhere {
    /// The engine is there, whether or not a server is.
    pub fn set(&self, engine: Box<dyn Engine>) {
        *self.0.borrow_mut() = Some(engine);
    }

    /// Whether there is an engine.
    pub fn is_set(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Whether it has room for any job now.
    pub fn takes_jobs(&self) -> bool {
        matches!(self.capacity(), Capacity::Jobs(1..))
    }

    /// Whether all that it can run is left to it now.
    pub fn takes_all(&self) -> bool {
        self.takes_jobs() && self.with(|engine| !engine.shares()).unwrap_or_default()
    }

    /// Does something with the engine, if there is one.
    pub fn with<R>(&self, what: impl FnOnce(&mut dyn Engine) -> R) -> Option<R> {
        self.0.borrow_mut().as_mut().map(|engine| what(engine.as_mut()))
    }
}

impl Executor for Elsewhere {
    /// None, as long as there is no engine, or it has lost its server.
    fn capacity(&self) -> Capacity {
        let engine = self.0.borrow();
        let there = engine.as_ref().filter(|engine| engine.is_there());
        there.map_or(Capacity::Jobs(0), |engine| engine.capacity())
    }

    fn start(&mut self, what: &Action) -> io::Result<Box<dyn Job>> {
        let started = self.with(|engine| engine.start(what));
        started.unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))
    }

    fn notes(&mut self) -> Vec<String> {
        self.with(|engine| engine.notes()).unwrap_or_default()
    }
}

/// Whether it is time to choose, with so many backends still to run.
pub(super) fn is_enough(choice: Choice, backends: usize) -> bool {
    match choice {
        Choice::Process => false,
        Choice::ForkServer => backends > 0,
        Choice::Auto => backends >= ENOUGH,
    }
}

/// Starts a fork server of the compiler. With a slot for it, backends run as processes beside it until it is
/// ready; otherwise, and where one was asked for, it gets ready on the slot that the caller holds. Where there
/// can be none, the verbose log says why; that is a warning only where one was asked for.
pub(super) fn choose(session: &mut Session<'_>, compiler: &Tool, executor: &Current) {
    let Some(program) = compiler.argv.first() else {
        return;
    };
    let Settings { tree, environment, executor: choice, .. } = session.settings;
    let slot = match choice {
        Choice::ForkServer => None,
        _ => session.slots.try_acquire(),
    };
    let begun = Starting::begin(program, tree.clone(), environment, session.interrupts);
    let chosen = begun.and_then(|server| match slot {
        Some(slot) => executor.set_next(server, slot).map_err(|e| e.to_string()),
        None => server.finish().map(|server| executor.set(Box::new(server))),
    });
    match chosen {
        Ok(()) => pass_on_notes(session, executor),
        Err(why) => {
            let text = no_server(&format!("{program}: {why}"));
            session.listener.on(&match choice {
                Choice::ForkServer => Event::Warning(&text),
                _ => Event::Note(&text),
            });
        }
    }
}

/// Whether it is time for a fork server of the linker, with so many links that wait.
pub(super) fn are_enough(choice: Choice, links: usize) -> bool {
    match choice {
        Choice::Process => false,
        Choice::ForkServer => links > 1,
        Choice::Auto => links >= ENOUGH_LINKS,
    }
}

/// Starts a fork server of the linker, on the slot that the caller holds. Where there can be none, the verbose
/// log says why.
pub(super) fn choose_linker(session: &mut Session<'_>, linker: &Tool, executor: &Current) {
    let Some(program) = linker.argv.first() else {
        return;
    };
    let Settings { tree, environment, .. } = session.settings;
    let begun = Starting::begin(program, tree.clone(), environment, session.interrupts);
    match begun.and_then(Starting::finish) {
        Ok(server) => {
            executor.0.borrow_mut().linker = Some(server);
            pass_on_notes(session, executor);
        }
        Err(why) => {
            let text = format!("no fork server of {program}: {why}; links run as processes");
            session.listener.on(&Event::Note(&text));
        }
    }
}

fn no_server(why: &str) -> String {
    format!("no fork server of {why}; backends run as processes")
}

/// Passes on what an executor has to say.
pub(super) fn pass_on_notes(session: &mut Session<'_>, executor: &(impl Executor + Clone)) {
    for text in executor.clone().notes() {
        session.listener.on(&Event::Note(&text));
    }
}
