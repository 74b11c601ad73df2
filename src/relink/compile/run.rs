//! Runs scripts, each for one target, under slots. What a script writes goes to a folder of its own, and
//! from there into its places when all of it is there; or it is compared with what is in those places. Must
//! not know which targets, or why.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::script::Script;
use crate::error::{Error, Result, advice, describe_status};
use crate::exec::action::Action;
use crate::exec::process::{Invocation, Outcome};
use crate::exec::refused::Refused;
use crate::exec::run::Work;
use crate::inputs::{Change, Kind, Label};
use crate::plan::Due;
use crate::regular;
use crate::relink::lines::Lines;
use crate::relink::tree::Tree;
use crate::report::{Event, Listener, words};

/// One target to be made.
#[derive(Debug)]
pub struct Job {
    /// The target's place among all.
    target: usize,
    name: String,
    /// The file because of which it is made.
    because: String,
    /// The folder that it is made in.
    aside: String,
    script: Script,
    started: SystemTime,
}

impl Job {
    /// A target that a script makes, because of a file.
    pub fn new(
        target: usize,
        name: String,
        because: String,
        aside: String,
        script: Script,
    ) -> Self {
        Job { target, name, because, aside, script, started: SystemTime::UNIX_EPOCH }
    }
}

/// A target that was made, or came out as it is.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Its place among all.
    pub target: usize,
    /// When that began.
    pub started: SystemTime,
}

/// Jobs that are being run.
pub struct Jobs<'a> {
    tree: &'a Tree,
    jobs: Vec<Job>,
    next: usize,
    /// What they make has to be what is there.
    compares: bool,
    lines: Lines,
    listener: &'a mut dyn Listener,
    done: Vec<Done>,
    failure: Option<Error>,
}

impl<'a> Jobs<'a> {
    /// Nothing is run yet.
    pub fn new(
        tree: &'a Tree,
        jobs: Vec<Job>,
        compares: bool,
        listener: &'a mut dyn Listener,
    ) -> Self {
        let (lines, done) = (Lines::default(), Vec::new());
        Jobs { tree, jobs, next: 0, compares, lines, listener, done, failure: None }
    }

    /// What was done, and the first failure.
    pub fn end(self) -> (Vec<Done>, Option<Error>) {
        (self.done, self.failure)
    }

    fn start(&mut self, number: usize) -> Result<Action> {
        let job = &mut self.jobs[number];
        job.started = SystemTime::now();
        let folder = self.tree.folder.join(&job.aside);
        fs::create_dir(&folder).map_err(|e| Error::io("make the folder", &folder, e))?;
        let Script { verb, shown, text, outputs } = &job.script;
        if !self.compares {
            let why = Due::Input(Change::Changed(Label::new(Kind::File, &job.because)));
            let why = &words::due(&why);
            self.listener.on(&Event::Step { verb, target: &job.name, command: shown, why });
        }
        self.lines.begin(number, verb, &job.name, self.listener);
        let argv = ["sh", "-c", &format!("set -e; {text}")];
        let command = Invocation::new(argv, &self.tree.folder);
        let outputs = outputs.iter().map(|(_, aside)| aside.clone()).collect();
        Ok(Action { outputs, ..command.into() })
    }

    fn judge(&mut self, number: usize, outcome: io::Result<Outcome>) -> Result<()> {
        let job = &self.jobs[number];
        let fail = |found: String, advice| Error::Step { step: job.name.clone(), found, advice };
        let outcome = outcome.map_err(|e| match Refused::is(&e) {
            true => Error::io("run", "sh", e),
            false => fail(format!("a shell cannot be run: {e}"), "install sh"),
        })?;
        if !outcome.output.is_empty() {
            self.listener.on(&Event::Output(&outcome.output));
        }
        if !outcome.status.success() {
            let how = format!("its command {}", describe_status(outcome.status));
            return Err(fail(how, advice(outcome.status, &outcome.output)));
        }
        let empty = job.script.outputs.iter().find(|(_, aside)| {
            !fs::metadata(self.tree.folder.join(aside)).is_ok_and(|found| found.len() > 0)
        });
        if let Some((place, _)) = empty {
            let found = format!("its command exited with 0, but {place} is empty or not there");
            return Err(fail(found, "V=1 shows the command"));
        }
        match self.compares {
            true => self.compare(job)?,
            false => self.put(job)?,
        }
        self.done.push(Done { target: job.target, started: job.started });
        Ok(())
    }

    /// Fails where a target would be another one: what is made of it is not known here.
    fn compare(&self, job: &Job) -> Result<()> {
        let read = |name: &str| {
            let path = self.tree.folder.join(name);
            regular::read(&path).map_err(|e| Error::io("read", &path, e))
        };
        let Some((place, aside)) = job.script.outputs.first() else {
            return Ok(());
        };
        if read(place)? == read(aside)? {
            return Ok(());
        }
        let found = format!(
            "it would be another one, as {} changed, and so would what make makes of it",
            job.because
        );
        Err(Error::bad_input(place, found, "run `make vmlinux`"))
    }

    /// The record goes last: it is newer than the object, as make leaves them.
    fn put(&self, job: &Job) -> Result<()> {
        for (place, aside) in &job.script.outputs {
            let aside = self.tree.folder.join(aside);
            fs::rename(aside, self.tree.folder.join(place))
                .map_err(|e| Error::io("rename into", Path::new(place), e))?;
        }
        Ok(())
    }
}

impl Work for Jobs<'_> {
    fn next(&mut self) -> Result<Option<(usize, Action)>> {
        if self.next == self.jobs.len() {
            return Ok(None);
        }
        self.next += 1;
        self.start(self.next - 1).map(|action| Some((self.next - 1, action)))
    }

    fn warn(&mut self, text: &str) {
        self.listener.on(&Event::Warning(text));
    }

    fn done(&mut self, number: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        let usage = outcome.as_ref().ok().map(|outcome| outcome.usage);
        let judged = self.judge(number, outcome);
        self.lines.end(number, usage, judged.is_ok(), self.listener);
        match judged {
            Ok(()) => Ok(true),
            Err(error @ Error::Step { .. }) => {
                match &self.failure {
                    None => self.failure = Some(error), // which ends the run
                    Some(_) => self.listener.on(&Event::Failure(&error.to_string())),
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
