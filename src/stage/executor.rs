//! Which executor the backends of a run get: a fork server where it works and pays.

use super::Settings;
use super::backends::Backends;
use crate::exec::executor::{Choice, Executor, Processes};
use crate::exec::fork_server::ForkServer;
use crate::exec::interrupt::Interrupts;
use crate::exec::slots::Slots;
use crate::report::Event;

/// From this many backends on a fork server has paid for its own start.
const ENOUGH: usize = 4;

impl Backends<'_> {
    /// An executor for the jobs that are left. Where there can be no fork server, the verbose
    /// log says why; that is a warning only where one was asked for.
    pub(super) fn executor(&mut self, slots: &Slots, interrupts: &Interrupts) -> Box<dyn Executor> {
        let choice = self.settings.executor;
        let enough = match choice {
            Choice::Process => false,
            Choice::ForkServer => !self.jobs.is_empty(),
            Choice::Auto => self.jobs.len() >= ENOUGH,
        };
        let Some(program) = self.compiler.argv.first().filter(|_| enough) else {
            return Box::new(Processes);
        };
        // No child runs yet: the implicit slot is free. It is held while the server starts.
        let slot = slots.try_acquire();
        let Settings { tree, environment, .. } = self.settings;
        let started = ForkServer::start(program, tree.clone(), environment, interrupts);
        drop(slot);
        match started {
            Ok(mut server) => {
                self.note(&mut server);
                Box::new(server)
            }
            Err(why) => {
                let text = format!("no fork server of {program}: {why}; backends run as processes");
                self.listener.on(&match choice {
                    Choice::ForkServer => Event::Warning(&text),
                    _ => Event::Note(&text),
                });
                Box::new(Processes)
            }
        }
    }

    /// Passes on what the executor has to say.
    pub(super) fn note(&mut self, executor: &mut dyn Executor) {
        for text in executor.notes() {
            self.listener.on(&Event::Note(&text));
        }
    }
}
