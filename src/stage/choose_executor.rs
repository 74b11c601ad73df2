//! Which executors the backends of a run get: here a fork server where it works and pays, and other
//! machines where an engine is set. Each is made when the first backend for it is there, and thin links
//! may have run before.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::Settings;
use super::session::Session;
use crate::exec::action::Action;
use crate::exec::executor::{Capacity, Choice, Engine, Executor, Job, Processes};
use crate::exec::fork_server::ForkServer;
use crate::exec::process::Outcome;
use crate::report::Event;
use crate::toolchain::Tool;

/// From this many backends on a fork server has paid for its own start.
const ENOUGH: usize = 4;

/// The executor of a run, which may be another one while the runner holds it.
#[derive(Clone)]
pub(super) struct Current(Rc<RefCell<Box<dyn Executor>>>);

impl Current {
    /// The one that was given, or plain processes, until [`choose`] says otherwise.
    pub fn new(given: Option<Box<dyn Executor>>) -> Self {
        Current(Rc::new(RefCell::new(given.unwrap_or_else(|| Box::new(Processes)))))
    }

    fn set(&self, executor: Box<dyn Executor>) {
        *self.0.borrow_mut() = executor;
    }
}

impl Executor for Current {
    fn capacity(&self) -> Capacity {
        self.0.borrow().capacity()
    }

    fn start(&mut self, what: &Action) -> io::Result<Box<dyn Job>> {
        self.0.borrow_mut().start(what)
    }

    fn takes_inner(&self) -> bool {
        self.0.borrow().takes_inner()
    }

    fn second_try(&mut self, what: &Action, failed: &Outcome) -> Option<io::Result<Box<dyn Job>>> {
        self.0.borrow_mut().second_try(what, failed)
    }

    fn first_try_was_wrong(&mut self) {
        self.0.borrow_mut().first_try_was_wrong();
    }

    fn notes(&mut self) -> Vec<String> {
        self.0.borrow_mut().notes()
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

/// Starts a fork server of the compiler, on a slot that the caller holds. Where there can be none, the
/// verbose log says why; that is a warning only where one was asked for.
pub(super) fn choose(session: &mut Session<'_>, compiler: &Tool, executor: &Current) {
    let Some(program) = compiler.argv.first() else {
        return;
    };
    let Settings { tree, environment, .. } = session.settings;
    match ForkServer::start(program, tree.clone(), environment, session.interrupts) {
        Ok(server) => {
            executor.set(Box::new(server));
            pass_on_notes(session, executor);
        }
        Err(why) => {
            let text = format!("no fork server of {program}: {why}; backends run as processes");
            session.listener.on(&match session.settings.executor {
                Choice::ForkServer => Event::Warning(&text),
                _ => Event::Note(&text),
            });
        }
    }
}

/// Passes on what an executor has to say.
pub(super) fn pass_on_notes(session: &mut Session<'_>, executor: &(impl Executor + Clone)) {
    for text in executor.clone().notes() {
        session.listener.on(&Event::Note(&text));
    }
}
