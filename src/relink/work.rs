//! Runs a recipe: steps whose inputs are ready side by side, each only if something that it reads
//! changed or its outputs are not what it left. A result is taken when the command succeeded and
//! its inputs are still the same. Must not know what the steps are for.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::btf::THREADS;
use super::command::add_to_program;
use super::lines::Lines;
use super::recipe::{Output, Prepare, Procedure, Recipe, Step};
use super::tree::Tree;
use super::version::Identity;
use super::{final_link, inputs};
use crate::error::{Error, Result, advice, describe_status};
use crate::exec::action::Action;
use crate::exec::process::{Invocation, Outcome, Usage};
use crate::exec::refused::Refused;
use crate::exec::run::Work;
use crate::exec::slots::{Slot, Slots};
use crate::initcalls;
use crate::inputs::{Change, Inputs, Kind, Label};
use crate::modpost::objects;
use crate::plan::Due;
use crate::report::{Event, Listener, words};
use crate::stage::{cores, modules};
use crate::store::{BackendRecord, Digest, KeyBuilder, Store, write_aside};
use crate::unit::ARCHIVE;

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Done,
}

/// What a run works with.
pub struct Context<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// Its state.
    pub store: &'a mut Store,
    /// The steps.
    pub recipe: &'a Recipe,
    /// The folder that outputs are written to first, relative to the tree.
    pub scratch: &'a str,
    /// The build's number and date.
    pub identity: &'a Identity,
    /// Slots for threads of the linker.
    pub slots: &'a Slots,
    /// Who is told.
    pub listener: &'a mut dyn Listener,
}

/// A recipe that is being run.
pub struct RelinkWork<'a> {
    with: Context<'a>,
    states: Vec<State>,
    before: Vec<Vec<usize>>,
    /// Steps that have ended, and whose results wait for checks.
    unchecked: Vec<usize>,
    /// What a step that was started is made from.
    started: Vec<Option<Inputs>>,
    /// Slots of a linker's threads beyond the first.
    threads: BTreeMap<usize, Vec<Slot>>,
    /// The steps that run now, each on a line of the screen.
    lines: Lines,
    failure: Option<Error>,
}

impl<'a> RelinkWork<'a> {
    /// Nothing is run yet.
    pub fn new(with: Context<'a>) -> Self {
        let count = with.recipe.steps.len();
        RelinkWork {
            states: vec![State::Waiting; count],
            before: (0..count).map(|step| with.recipe.before(step)).collect(),
            started: (0..count).map(|_| None).collect(),
            unchecked: Vec::new(),
            threads: BTreeMap::new(),
            lines: Lines::default(),
            failure: None,
            with,
        }
    }

    /// Tells the listener what would be run. `changed` says that `vmlinux.a` would be new.
    pub fn announce_all(&mut self, changed: bool) -> Result<()> {
        let mut would_run = vec![false; self.with.recipe.steps.len()];
        for number in 0..self.with.recipe.steps.len() {
            let step = &self.with.recipe.steps[number];
            let of = changed && step.inputs.iter().any(|input| input == ARCHIVE);
            let earlier = self.before[number].iter().find(|before| would_run[**before]);
            let follows = earlier.map(|before| self.with.recipe.steps[*before].name.as_str());
            let due = match follows.or(of.then_some(ARCHIVE)) {
                Some(first) => Some(Due::Input(Change::Changed(Label::new(Kind::File, first)))),
                None => due(self.with.store, step, &inputs::of(self.with.store, step)?)?,
            };
            if let Some(due) = due {
                would_run[number] = true;
                self.announce(step, &due);
            }
        }
        Ok(())
    }

    /// Tells the listener of a doubt.
    pub fn warn(&mut self, text: &str) {
        self.with.listener.on(&Event::Warning(text));
    }

    /// The failure that ended the run early, if one did.
    pub fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn announce(&mut self, step: &Step, due: &Due) {
        let Step { verb, name, shown, .. } = step;
        let why = &words::due(due);
        self.with.listener.on(&Event::Step { verb, target: name, command: shown, why });
    }

    /// A step that could be started now.
    fn ready(&self) -> Option<usize> {
        let done = |step: &usize| self.states[*step] == State::Done;
        (0..self.states.len()).find(|step| {
            self.states[*step] == State::Waiting && self.before[*step].iter().all(done)
        })
    }

    /// Starts a step, or does it right here. `None`: it is done.
    fn start(&mut self, number: usize) -> Result<Option<Action>> {
        let recipe = self.with.recipe;
        let step = &recipe.steps[number];
        let inputs = inputs::of(self.with.store, step)?;
        let Some(due) = due(self.with.store, step, &inputs)? else {
            self.states[number] = State::Done;
            return Ok(None);
        };
        self.started[number] = Some(inputs);
        self.announce(step, &due);
        match step.prepare {
            Prepare::Nothing => {}
            Prepare::FinalLink => {
                final_link::prepare(self.with.tree, self.with.scratch, self.with.identity)?;
            }
            Prepare::Modpost => modules::forget(&self.with.tree.folder.join(modules::FILE))?,
        }
        match &step.procedure {
            Procedure::Shell { text, linker } => {
                self.begin(number);
                let text = match linker {
                    Some(linker) => self.with_threads(number, text, linker),
                    None => text.clone(),
                };
                let argv = ["sh", "-c", &format!("set -e; {text}")];
                let command = Invocation::new(argv, &self.with.tree.folder);
                return Ok(Some(self.action(number, command)));
            }
            Procedure::ListObjects { front_end_names } => {
                self.list_objects(step, *front_end_names)?
            }
            Procedure::Initcalls { files } => self.write_initcalls(step, files)?,
        }
        self.accept(number)?;
        Ok(None)
    }

    /// All that is known of a step. Its programs are not, since a shell finds them, nor are the members of
    /// vmlinux.a, which stand for themselves: a step can only run here.
    fn action(&self, number: usize, command: Invocation) -> Action {
        let read = self.started[number].iter().flat_map(|inputs| &inputs.files).cloned();
        let outputs = self.with.recipe.steps[number].outputs.iter();
        Action {
            inputs: read.collect(),
            outputs: outputs.map(|output| output.aside.clone()).collect(),
            ..command.into()
        }
    }

    fn begin(&mut self, number: usize) {
        self.states[number] = State::Running;
        let step = &self.with.recipe.steps[number];
        self.lines.begin(number, step.verb, &step.name, self.with.listener);
    }

    fn end(&mut self, number: usize, usage: Option<Usage>, good: bool) {
        self.lines.end(number, usage, good, self.with.listener);
    }

    /// The command with as many threads for the linker as slots are free now.
    fn with_threads(&mut self, number: usize, text: &str, linker: &str) -> String {
        let more = self.with.slots.try_acquire_up_to(cores().saturating_sub(1));
        let threads = more.len() + 1;
        self.threads.insert(number, more);
        let text = add_to_program(text, linker, &format!("--threads={threads}"));
        format!("{THREADS}={threads}; {text}")
    }

    fn list_objects(&self, step: &Step, front_end_names: bool) -> Result<()> {
        let archives = [ARCHIVE.into()];
        let mut text = objects::list_archives(&self.with.tree.folder, &archives)?.into_bytes();
        if front_end_names {
            text = objects::for_any_modpost(&objects::parse_list(&text));
        }
        write_aside(&self.with.tree.folder.join(&step.outputs[0].aside), &text)
    }

    /// Reads on as many threads as slots are free now; the first is this step's own.
    fn write_initcalls(&self, step: &Step, files: &[String]) -> Result<()> {
        let tree = &self.with.tree.folder;
        let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        let more = self.with.slots.try_acquire_up_to(cores().saturating_sub(1));
        let script = initcalls::linker_script(tree, &files, more.len() + 1)?;
        drop(more);
        write_aside(&tree.join(&step.outputs[0].aside), &script)
    }

    /// Puts what a step made into its places, and on record.
    fn accept(&mut self, number: usize) -> Result<()> {
        let recipe = self.with.recipe;
        let step = &recipe.steps[number];
        for output in &step.outputs {
            self.check(step, output)?;
        }
        let mut read = self.started[number].iter().flat_map(Inputs::names);
        if let Some(name) = read.find(|name| self.changed(name)) {
            let found = format!("it changed while {} was made from it", step.name);
            return Err(Error::bad_input(name, found, "run again"));
        }
        for output in step.outputs.iter().filter(|output| output.aside != output.place) {
            let (aside, place) = (
                self.with.tree.folder.join(&output.aside),
                self.with.tree.folder.join(&output.place),
            );
            fs::rename(&aside, &place).map_err(|e| Error::io("rename into", &output.place, e))?;
        }
        for output in &step.outputs {
            self.with.store.files.find_again(&output.place)?;
        }
        if let Some(inputs) = &self.started[number]
            && let Some(made) = made(self.with.store, step)?
        {
            let record = BackendRecord::new(inputs.key.digest(), made, None, &inputs.recorded());
            self.with.store.set_step(&step.name, record)?;
        }
        if let Some(proof) = &step.proof
            && self.with.tree.folder.join(&proof.marker).exists()
        {
            self.with.store.set_output(proof.record, proof.key)?;
        }
        self.states[number] = State::Done;
        Ok(())
    }

    fn changed(&self, name: &str) -> bool {
        let there = self.with.tree.folder.join(name).exists();
        there && !self.with.store.files.is_unchanged(name)
    }

    /// A command may exit with 0 and leave nothing.
    fn check(&self, step: &Step, output: &Output) -> Result<()> {
        let found = match fs::metadata(self.with.tree.folder.join(&output.aside)) {
            Ok(found) if found.len() > 0 || output.may_be_empty => return Ok(()),
            Ok(_) => "is empty",
            Err(_) => "is not there",
        };
        Err(Error::Step {
            step: step.name.clone(),
            found: format!("its command exited with 0, but {} {found}", output.place),
            advice: "V=1 shows the command",
        })
    }

    fn judge(&mut self, number: usize, outcome: io::Result<Outcome>) -> Result<()> {
        let step = &self.with.recipe.steps[number];
        let fail = |found: String, advice| Error::Step { step: step.name.clone(), found, advice };
        let outcome = outcome.map_err(|e| match Refused::is(&e) {
            true => Error::io("run", "sh", e),
            false => fail(format!("a shell cannot be run: {e}"), "install sh"),
        })?;
        if !outcome.output.is_empty() {
            self.with.listener.on(&Event::Output(&outcome.output));
        }
        if !outcome.status.success() {
            let how = format!("its command {}", describe_status(outcome.status));
            return Err(fail(how, advice(outcome.status, &outcome.output)));
        }
        self.unchecked.push(number);
        Ok(())
    }

    /// Accepts all results that wait for no check. One may be what another waited for.
    fn accept_checked(&mut self) -> Result<()> {
        let is_done = |step: &usize| self.states[*step] == State::Done;
        let is_checked = |number: &usize| self.with.recipe.checks(*number).iter().all(is_done);
        let Some(at) = self.unchecked.iter().position(is_checked) else {
            return Ok(());
        };
        let number = self.unchecked.remove(at);
        self.accept(number)?;
        self.accept_checked()
    }
}

impl Work for RelinkWork<'_> {
    fn next(&mut self) -> Result<Option<(usize, Action)>> {
        while let Some(number) = self.ready().filter(|_| self.failure.is_none()) {
            match self.start(number) {
                Ok(Some(what)) => return Ok(Some((number, what))),
                Ok(None) => {}
                Err(error) => self.failure = Some(error),
            }
            if self.failure.is_none() {
                self.failure = self.accept_checked().err();
            }
        }
        Ok(None)
    }

    fn warn(&mut self, text: &str) {
        self.with.listener.on(&Event::Warning(text));
    }

    fn done(&mut self, number: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        self.threads.remove(&number);
        let usage = outcome.as_ref().ok().map(|outcome| outcome.usage);
        let judged = self.judge(number, outcome);
        self.end(number, usage, judged.is_ok());
        judged.and_then(|()| self.accept_checked()).map(|()| true)
    }
}

/// The contents of a step's outputs; `None` where one is not there.
fn made(store: &Store, step: &Step) -> Result<Option<Digest>> {
    let mut made = KeyBuilder::new("kthinlto relinked 2");
    for output in &step.outputs {
        match store.files.find(&output.place)? {
            Some(facts) => made.digest(&facts.digest),
            None => return Ok(None),
        };
    }
    Ok(Some(made.finish()))
}

/// Why a step has to run, which is made from these; `None` if its outputs are right.
pub fn due(store: &Store, step: &Step, inputs: &Inputs) -> Result<Option<Due>> {
    let Some(record) = store.step(&step.name) else {
        return Ok(Some(Due::NeverRun));
    };
    if record.key != inputs.key.digest() {
        return Ok(Some(Due::Input(Change::first(&record.inputs::<Vec<_>>(), &inputs.recorded()))));
    }
    let first = || step.outputs.first().map_or(step.name.clone(), |output| output.place.clone());
    Ok(match made(store, step)? {
        None => Some(Due::OutputGone(first())),
        Some(made) if made != record.output => Some(Due::OutputForeign(first())),
        Some(_) => None,
    })
}

/// Removes what killed runs left aside.
pub fn sweep(folder: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let ours = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(prefix);
    for entry in entries.filter_map(io::Result::ok).filter(|entry| ours(&entry.file_name())) {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::debug!("{} stays: {error}", entry.path().display());
        }
    }
}
