//! What other machines have of the queue: objects out of their store of results before any backend runs,
//! backends that run there, and what comes of these. All that goes wrong there ends in a backend that runs
//! here. Must not know how anything gets there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::{Queue, Task, tell_end};
use crate::error::{Result, describe_status};
use crate::exec::action::Action;
use crate::exec::executor::Machine;
use crate::exec::process::Outcome;
use crate::report::{Ending, Event, JobKind};
use crate::stage::backends::{self, Job, Way};
use crate::stage::{cached, choose_executor};
use crate::store::Stamped;

/// What is known of other machines, and of the backends there.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Backends that nobody has looked up there.
    unknown: Vec<usize>,
    /// Native objects of the backends that run here and elsewhere.
    raced: BTreeMap<usize, String>,
    /// How backends failed elsewhere that run here since.
    failed: BTreeMap<usize, String>,
    /// Something went wrong on the way, and the user knows.
    told: bool,
    /// A backend failed elsewhere and not here, and the user knows.
    told_of_failure: bool,
}

/// Why what came from elsewhere is not taken.
enum Refused {
    /// The way is to blame, or the machine.
    Way(String),
    /// It can only be made here.
    Unfit,
    /// The compiler itself failed there.
    Compiler(String),
}

impl Queue<'_, '_> {
    /// Whether the next backend may run on another machine. The engine is made when the first one may.
    pub(super) fn may_go_elsewhere(&mut self, job: &Job) -> Result<bool> {
        let Some(make) = &self.session.settings.engine else {
            return Ok(true); // there is none, and one queue is enough
        };
        if !self.backends.as_ref().is_some_and(|backends| backends.may_leave(job)) {
            return Ok(false);
        }
        if !self.elsewhere.is_set() {
            self.elsewhere.set(make.make()?);
        }
        self.state.unknown.push(self.tasks.len());
        Ok(true)
    }

    /// Takes the objects that are in the engine's store of results. It is asked when backends are about to
    /// start, for all that came until then.
    pub(super) fn look_up_elsewhere(&mut self) -> Result<()> {
        if self.state.unknown.is_empty() {
            return Ok(());
        }
        let numbers = std::mem::take(&mut self.state.unknown);
        let is_first = self.in_flight.is_empty();
        if is_first {
            self.session.phase("remote cache");
        }
        let job = |number: &usize| match &self.tasks[*number] {
            Task::Backend { job, .. } => Some((*number, &**job)),
            _ => None,
        };
        let jobs: Vec<(usize, &Job)> = numbers.iter().filter_map(job).collect();
        let taken = match &self.backends {
            Some(known) => cached::take_elsewhere(self.session, known, &self.elsewhere, &jobs)?,
            None => BTreeSet::new(),
        };
        self.ready.retain(|(_, number)| !taken.contains(&number.0));
        self.ran.from_cache += taken.len();
        self.ran.from_remote_cache += taken.len();
        self.ran.backends -= taken.len();
        for number in taken {
            if let Task::Backend { unit, job } =
                std::mem::replace(&mut self.tasks[number], Task::Ended)
            {
                cached::give(self.session, &mut self.cache, &job);
                self.units[unit].lacks -= 1;
                self.complete(unit)?;
            }
        }
        self.pass_on();
        if is_first {
            self.session.phase("backends");
        }
        Ok(())
    }

    /// The action of a backend that was started elsewhere, to run here too, or instead.
    pub(super) fn start_here(&mut self, number: usize, race: bool) -> Result<Option<Action>> {
        let (Task::Backend { job, .. }, Some(backends)) = (&self.tasks[number], &self.backends)
        else {
            return Ok(None);
        };
        let way = if race { Way::Race } else { Way::Here };
        let what = backends.action(self.session.settings, &self.session.store, job, way)?;
        if race {
            self.state.raced.insert(number, job.part().native());
        }
        self.tell_start((Machine::This, number), JobKind::Backend);
        Ok(Some(what))
    }

    /// What comes of a backend elsewhere: whether its object was taken.
    pub(super) fn ended_elsewhere(
        &mut self,
        number: usize,
        outcome: io::Result<Outcome>,
    ) -> Result<bool> {
        let row = self.in_flight.remove(&(Machine::Other, number));
        let usage = outcome.as_ref().ok().map(|outcome| outcome.usage);
        let remote = outcome.as_ref().ok().and_then(|outcome| outcome.remote);
        let (Task::Backend { unit, job }, Some(backends)) =
            (std::mem::replace(&mut self.tasks[number], Task::Ended), &self.backends)
        else {
            return Ok(true);
        };
        let judged =
            judge(outcome, |outcome| backends.judge(&self.session.store, &job, Ok(outcome)));
        let ending = if judged.is_ok() { Ending::Good } else { Ending::Dropped };
        tell_end(self.session, row, ending, usage, remote);
        match judged {
            Ok((native, output)) => {
                if !output.is_empty() {
                    self.session.listener.on(&Event::Output(&output));
                }
                backends.check_compiler(&self.session.store)?;
                let cost = usage.map(|usage| backends::cost_elsewhere(&job, &usage));
                backends.accept(&mut self.session.store, &job, native, cost)?;
                self.state.told = false;
                self.ran.rebuilt_remotely += 1;
                self.backend_is_good(unit, &job)?;
                Ok(true)
            }
            Err(refused) => {
                backends::remove_aside(self.session, &job);
                let label = job.part().label().into_owned();
                self.tasks[number] = Task::Backend { unit, job };
                match refused {
                    Refused::Way(why) => self.tell_trouble(&why),
                    Refused::Unfit => {}
                    Refused::Compiler(how) => {
                        let text = format!("the backend of {label} failed elsewhere: {how}");
                        self.session.listener.on(&Event::Note(&text));
                        self.state.failed.insert(number, how);
                    }
                }
                self.pass_on();
                Ok(false)
            }
        }
    }

    /// One of a race is ended, or all are.
    pub(super) fn drop_job(&mut self, number: usize, from: Machine) {
        let row = self.in_flight.remove(&(from, number));
        tell_end(self.session, row, Ending::Dropped, None, None);
        match (from, &self.tasks[number]) {
            (Machine::This, _) => self.remove_race(number),
            (Machine::Other, Task::Backend { job, .. }) => {
                backends::remove_aside(self.session, job);
            }
            (Machine::Other, _) => {}
        }
    }

    /// What was left half-written in a race goes.
    pub(super) fn remove_race(&mut self, number: usize) {
        if let Some(native) = self.state.raced.remove(&number) {
            backends::remove_race(self.session, &native);
        }
    }

    /// A backend has ended here that may have run elsewhere too.
    pub(super) fn end_race(&mut self, number: usize, job: &Job) {
        if self.state.raced.remove(&number).is_some() {
            backends::take_race(self.session, job);
        }
    }

    /// A backend is good here. If it was not elsewhere the user has to know that, once.
    pub(super) fn compare_failure(&mut self, number: usize, job: &Job) {
        if let Some(how) = self.state.failed.remove(&number)
            && !std::mem::replace(&mut self.state.told_of_failure, true)
        {
            let label = job.part().label();
            self.session.warn(&format!(
                "the backend of {label} failed on another machine, and not on this one: {how}; \
                 compare what the workers have with docs/remote.md"
            ));
        }
    }

    /// Tells the user, once until it works again.
    fn tell_trouble(&mut self, why: &str) {
        self.pass_on();
        if !std::mem::replace(&mut self.state.told, true) {
            self.session.warn(&format!(
                "backends do not run on other machines: {why}; they run here until it works again"
            ));
        }
    }

    /// What the engine itself has to say. It knows more of its server than its jobs tell.
    fn pass_on(&mut self) {
        choose_executor::pass_on_notes(self.session, &self.elsewhere);
        let warnings = self.elsewhere.with(|engine| engine.warnings()).unwrap_or_default();
        for text in warnings {
            match std::mem::replace(&mut self.state.told, true) {
                true => self.session.listener.on(&Event::Note(&text)),
                false => self.session.warn(&text),
            }
        }
    }

    /// The queue is at its end: what went over the wire. After a signal nobody waits.
    pub(super) fn end_elsewhere(&mut self) {
        self.pass_on();
        if let Some(traffic) = self.elsewhere.with(|engine| engine.traffic()) {
            self.session.listener.on(&Event::Traffic(traffic));
        }
        if self.session.interrupts.signal().is_some() {
            self.elsewhere.with(|engine| engine.hurry());
        }
    }
}

/// What a backend made elsewhere and what it printed, if that may be used.
fn judge(
    outcome: io::Result<Outcome>,
    look: impl FnOnce(Outcome) -> std::result::Result<Stamped, String>,
) -> std::result::Result<(Stamped, Vec<u8>), Refused> {
    let mut outcome = outcome.map_err(|error| match error.kind() {
        io::ErrorKind::Unsupported => Refused::Unfit,
        _ => Refused::Way(error.to_string()),
    })?;
    let output = std::mem::take(&mut outcome.output);
    if !outcome.status.success() {
        let text = String::from_utf8_lossy(&output).into_owned();
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        let how = format!("it {}: {}", describe_status(outcome.status), first.trim());
        return Err(Refused::Compiler(how));
    }
    let native = look(outcome).map_err(Refused::Way)?;
    Ok((native, output))
}
