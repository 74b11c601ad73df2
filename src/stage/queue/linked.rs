//! The objects of modules in the queue: each is linked, by one shell with what follows the link, or by a copy of
//! the linker and a shell after it. Must not know the commands.

use std::io;

use super::{Queue, Task, good_or_not, tell_end};
use crate::error::Result;
use crate::exec::action::Action;
use crate::exec::executor::Machine;
use crate::exec::process::Outcome;
use crate::report::{Event, JobKind, Row};
use crate::stage::choose_executor;
use crate::stage::objects::{self, Share};
use crate::toolchain::Tool;

impl Queue<'_, '_> {
    /// The next of the links of modules and what follows them, if there is one.
    pub(super) fn start_object(&mut self) -> Result<Option<(usize, Action)>> {
        let (job, share) = match self.linked.pop() {
            Some(job) => (job, Share::After),
            None => {
                let Some(job) = self.objects.pop_front() else {
                    return Ok(None);
                };
                self.make_linker_ready(job.linker(), 1 + self.objects.len());
                let tree = &self.session.settings.tree;
                match self.executor.serves_linker(job.linker(), tree) {
                    true => (job, Share::Link),
                    false => (job, Share::All),
                }
            }
        };
        let what = objects::begin(self.session, &job, share)?;
        let number = self.tasks.len();
        self.tasks.push(Task::Object(Box::new(job), share));
        self.tell_start((Machine::This, number), JobKind::Step);
        Ok(Some((number, what)))
    }

    /// Starts a fork server of the linker where so many links that wait are enough for one.
    pub(super) fn make_linker_ready(&mut self, linker: &Tool, links: usize) {
        let choice = self.session.settings.executor;
        if !self.chosen_linker && choose_executor::are_enough(choice, links) {
            self.chosen_linker = true;
            choose_executor::choose_linker(self.session, linker, &self.executor);
        }
    }

    pub(super) fn object_ended(
        &mut self,
        job: objects::Job,
        share: Share,
        outcome: io::Result<Outcome>,
        row: Option<Row>,
    ) -> Result<bool> {
        let usage = outcome.as_ref().ok().map(|outcome| outcome.usage);
        let made = match job.has_more_after(share) {
            true => objects::go_on(self.session, &job, share, outcome),
            false => objects::take(self.session, &job, share, outcome)?,
        };
        tell_end(self.session, row, good_or_not(made.is_ok()), usage, None);
        if made.is_ok() && job.has_more_after(share) {
            self.linked.push(job);
            return Ok(true);
        }
        match &made {
            Ok(()) => self.ran.linked = true,
            Err(sentence) => self.session.listener.on(&Event::Failure(sentence)),
        }
        Ok(made.is_ok())
    }
}
