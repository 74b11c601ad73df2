//! What all phases of one run share: settings, slots, signals, the listener, the store. Must not know
//! any phase.

use super::Settings;
use super::written::Written;
use crate::error::{Error, Result};
use crate::exec::executor::Executor;
use crate::exec::interrupt::Interrupts;
use crate::exec::slots::Slots;
use crate::report::{Event, Listener};
use crate::store::Store;
use crate::toolchain::{self, Role, Tool};

/// One run of the stage.
pub(super) struct Session<'a> {
    pub settings: &'a Settings,
    pub slots: &'a Slots,
    pub interrupts: &'a Interrupts,
    pub listener: &'a mut dyn Listener,
    pub store: Store,
    /// What runs the jobs, if the caller brought it.
    pub executor: Option<Box<dyn Executor>>,
    /// What was looked at decides which programs run.
    pub repeatable: bool,
    /// Times of files, once they are asked for.
    pub times: Option<Written>,
}

impl Session<'_> {
    /// Tells the listener that a phase begins.
    pub fn phase(&mut self, name: &'static str) {
        self.listener.on(&Event::Phase(name));
    }

    /// Tells the listener that a file is made.
    pub fn step(&mut self, verb: &'static str, target: &str, command: &str, why: &str) {
        self.listener.on(&Event::Step { verb, target, command, why });
    }

    /// Tells the user something.
    pub fn warn(&mut self, text: &str) {
        self.listener.on(&Event::Warning(text));
    }

    /// Times of files as make compares them.
    pub fn written(&mut self) -> Result<&mut Written> {
        match &mut self.times {
            Some(known) => Ok(known),
            none => Ok(none.insert(Written::new(&self.store)?)),
        }
    }

    /// Fails if a signal asked for the end.
    pub fn check_interrupt(&self) -> Result<()> {
        self.interrupts.signal().map_or(Ok(()), |signal| Err(Error::Interrupted(signal)))
    }

    /// A tool of the build. A dry run starts none, and knows only those that a build met.
    pub fn tool(&mut self, role: Role, command: &str) -> Result<Option<Tool>> {
        let environment = &self.settings.environment;
        match self.settings.dry_run {
            true => toolchain::known(role, command, &self.store, environment),
            false => toolchain::resolve(role, command, &mut self.store, environment).map(Some),
        }
    }

    /// Takes down whether a tool's answer can be kept, and says what follows where it cannot be
    /// told which program runs.
    pub fn note_tool(&mut self, role: Role, tool: &Tool) {
        self.repeatable &= tool.self_contained;
        let Some(why) = &tool.unidentified else {
            return;
        };
        let (name, text, product) = (role.variable(), &tool.text, role.product());
        let so = match role {
            Role::Compiler => {
                "every module is compiled each time, and none is taken from or given to the \
                 shared cache"
            }
            Role::Linker => "the thin link is made each time",
        };
        self.warn(&format!(
            "cannot tell which program {name} `{text}` runs: {why}; {so}; name {product} itself \
             with {name}="
        ));
    }
}
