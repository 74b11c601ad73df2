//! Runs backends again, aside and as plain processes, and compares what they make with the tree's
//! objects and with the shared cache: whether anyone was ever handed another object than a clean
//! build makes. Changes nothing that is compared.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Settings, compiler, explain};
use crate::backend::command::{check_native, invocation};
use crate::backend::flags::Flags;
use crate::backend::inputs::{self, Common};
use crate::error::{Error, Result, describe_status};
use crate::exec::action::Action;
use crate::exec::executor::Processes;
use crate::exec::interrupt::Interrupts;
use crate::exec::process::{Invocation, Outcome, Running};
use crate::exec::run::{Runner, Work};
use crate::exec::slots::Slots;
use crate::inputs::Inputs;
use crate::plan;
use crate::report::{Event, Listener, words};
use crate::store::cache::Cache;
use crate::store::{Digest, FOLDER, Indexed, Store};
use crate::toolchain::{self, Role, Tool};
use crate::unit::Part;

/// What is to be verified.
#[derive(Debug, Default)]
pub struct Selection {
    /// These objects; all, where none is named.
    pub objects: Vec<String>,
    /// As many of them, chosen at random.
    pub sample: Option<usize>,
    /// Entries of this cache too.
    pub cache: Option<Cache>,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Objects that were made again and compared.
    pub compared: usize,
    /// Objects that the next build makes again anyhow, so that there was nothing to compare.
    pub due: usize,
    /// Objects and entries that are not what their backends make, or whose backend failed.
    pub differing: usize,
}

/// Verifies objects of a tree that was built. Each that differs is a failure that the listener
/// hears of.
///
/// # Errors
/// Where the tree has no record of a thin link or no such object, the compiler cannot be used, a
/// file cannot be read, or a signal asks us to stop.
pub fn verify(
    settings: &Settings,
    mut store: Store,
    wanted: Selection,
    with: (&Slots, &Interrupts),
    listener: &mut dyn Listener,
) -> Result<Verified> {
    let linked = explain::linked(&store)?;
    let named = wanted.objects.iter();
    let named = named.map(|name| explain::find(&linked, name, &settings.tree));
    let mut modules: Vec<&Indexed> = named.collect::<Result<_>>()?;
    if modules.is_empty() {
        modules = linked.iter().collect();
    }
    let Some(first) = modules.first() else {
        return Ok(Verified::default());
    };
    let command = compiler(settings, &first.part.object)?;
    let compiler = toolchain::resolve(Role::Compiler, &command, &mut store, &settings.environment)?;
    let common = Common::new(&compiler, &settings.environment);
    let chosen = match wanted.sample {
        Some(count) => sample(modules, count),
        None => modules,
    };
    let subject = Subject { tree: &settings.tree, store: &store, compiler: &compiler };
    compare(&subject, &common, &chosen, wanted.cache.as_ref(), with, listener)
}

/// Where objects are, and what makes them.
pub(super) struct Subject<'a> {
    pub(super) tree: &'a Path,
    pub(super) store: &'a Store,
    pub(super) compiler: &'a Tool,
}

/// So many of these, another choice in each run.
pub(super) fn sample(modules: Vec<&Indexed>, count: usize) -> Vec<&Indexed> {
    let seed = format!("{:?} {}", std::time::SystemTime::now(), std::process::id());
    let mut all = modules;
    all.sort_by_cached_key(|module| {
        Digest::of(format!("{seed} {}", module.part.native()).as_bytes())
    });
    all.truncate(count);
    all
}

/// Makes these modules' objects again, and compares.
pub(super) fn compare(
    subject: &Subject<'_>,
    common: &Common,
    modules: &[&Indexed],
    cache: Option<&Cache>,
    (slots, interrupts): (&Slots, &Interrupts),
    listener: &mut dyn Listener,
) -> Result<Verified> {
    let folder = subject.tree.join(FOLDER);
    let scratch = tempfile::Builder::new().prefix("verify.").tempdir_in(&folder);
    let scratch = scratch.map_err(|e| Error::io("make a folder in", &folder, e))?;
    let mut found = Verified::default();
    let mut checks = Vec::new();
    for module in modules {
        match check(subject, common, module, cache.is_some())? {
            Some(check) => checks.push(check),
            None => found.due += 1,
        }
    }
    let mut run = Run { subject, listener, cache, checks, next: 0, scratch, found };
    // What differs is told object by object; a failure of one must not hide the others.
    let runner = Runner { slots, interrupts, keep_going: true };
    runner.run(&mut Processes, &mut run)?;
    Ok(run.found)
}

/// An object to make again.
struct Check {
    part: Part,
    flags: Flags,
    splits_dwarf: bool,
    inputs: Inputs,
    /// The tree's object should be this one.
    in_tree: bool,
}

/// `None` where there is nothing to compare with.
fn check(
    subject: &Subject<'_>,
    common: &Common,
    module: &Indexed,
    with_cache: bool,
) -> Result<Option<Check>> {
    let (store, object) = (subject.store, &module.part.object);
    let in_tree = plan::due(store, common, module)?.is_none();
    if !in_tree && !with_cache {
        return Ok(None);
    }
    let inputs = inputs::inputs(store, common, module)?;
    let flags = inputs::take_flags(store, common, object)?;
    let splits_dwarf = inputs::flag_set(store, common, object)?.splits_dwarf;
    Ok(Some(Check { part: module.part.clone(), flags, splits_dwarf, inputs, in_tree }))
}

struct Run<'a> {
    subject: &'a Subject<'a>,
    listener: &'a mut dyn Listener,
    cache: Option<&'a Cache>,
    checks: Vec<Check>,
    next: usize,
    scratch: TempDir,
    found: Verified,
}

impl Run<'_> {
    fn aside(&self, number: usize) -> PathBuf {
        self.scratch.path().join(format!("{number}.o"))
    }

    fn invocation(&self, number: usize) -> Invocation {
        let (check, Subject { tree, compiler, .. }) = (&self.checks[number], self.subject);
        let aside = self.aside(number);
        // Below the tree, where the compiler runs.
        let aside = aside.strip_prefix(tree).unwrap_or(&aside).to_string_lossy();
        invocation(&compiler.argv, &check.flags, &check.part, &aside, tree, check.splits_dwarf)
    }

    /// Digest of what a backend has made, or a clause that says why there is none.
    fn made(&self, number: usize, outcome: io::Result<Outcome>) -> Result<Digest, String> {
        let outcome = outcome.map_err(|e| format!("it cannot be run: {e}"))?;
        if !outcome.status.success() {
            return Err(format!("it {}", describe_status(outcome.status)));
        }
        let made = check_native(&self.aside(number), &mut Vec::new());
        made.map(|made| made.facts.digest).map_err(|found| format!("it left {found}"))
    }

    /// Says what is not what it should be.
    fn judge(&mut self, number: usize, made: Digest) -> Result<()> {
        let check = &self.checks[number];
        let native = check.part.native();
        let mut wrong = Vec::new();
        if check.in_tree && digest_of(&self.subject.tree.join(&native))? != Some(made) {
            wrong.push(format!(
                "{native} differs from what its backend makes: {}; remove it and build again",
                self.cause(number, &native, made)
            ));
        }
        if let Some(cache) = self.cache.filter(|_| !check.inputs.key.unknown) {
            let copy = self.scratch.path().join(format!("{number}.cached"));
            if cache.fetch(check.inputs.key.digest(), &copy) && digest_of(&copy)? != Some(made) {
                wrong.push(format!(
                    "the shared cache's object for {} differs from what its backend makes; empty \
                     the cache with `kthinlto cache clear`",
                    check.part.label()
                ));
            }
        }
        self.found.compared += 1;
        self.found.differing += wrong.len();
        wrong.iter().for_each(|text| self.listener.on(&Event::Failure(text)));
        Ok(())
    }

    /// A clause that says what may be the cause: inputs that are newer than the object, or a
    /// compiler that does not do the same twice.
    fn cause(&self, number: usize, native: &str, made: Digest) -> String {
        let again = Running::start(&self.invocation(number)).and_then(Running::finish);
        if self.made(number, again) != Ok(made) {
            return "the compiler's output differs each time".to_owned();
        }
        let tree = self.subject.tree;
        let time = |name: &str| fs::metadata(tree.join(name)).and_then(|found| found.modified());
        let Ok(written) = time(native) else {
            return "it cannot be read".to_owned();
        };
        let list = self.checks[number].inputs.list.iter();
        let newer = list.filter(|(label, _)| time(&label.name).is_ok_and(|time| time > written));
        let newer: Vec<String> = newer
            .filter(|(label, _)| !label.name.is_empty())
            .map(|(label, _)| words::label(label))
            .collect();
        match newer.as_slice() {
            [] => "no input is newer, so either it was changed, or its backend reads something \
                   that is not a known input"
                .to_owned(),
            some => format!("newer than it: {}", some.join(", ")),
        }
    }

    /// Nothing can be said of what changed meanwhile.
    fn check_unchanged(&self, number: usize) -> Result<()> {
        let Subject { store, compiler, .. } = self.subject;
        let mut files = self.checks[number].inputs.names();
        let changed = files.find(|name| !store.files.is_unchanged(name));
        match changed.or_else(|| compiler.changed(store)) {
            Some(name) => {
                let found = "it changed while objects were verified";
                Err(Error::bad_input(name, found, "run again"))
            }
            None => Ok(()),
        }
    }
}

impl Work for Run<'_> {
    fn next(&mut self) -> Result<Option<(usize, Action)>> {
        let number = self.next;
        if number == self.checks.len() {
            return Ok(None);
        }
        self.next += 1;
        Ok(Some((number, self.invocation(number).into())))
    }

    fn done(&mut self, number: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        let made = self.made(number, outcome);
        self.check_unchanged(number)?;
        match made {
            Ok(made) => self.judge(number, made)?,
            Err(found) => {
                let object = self.checks[number].part.label();
                let text = format!("the backend of {object} failed when it was run again: {found}");
                self.found.differing += 1;
                self.listener.on(&Event::Failure(&text));
            }
        }
        let _ = fs::remove_file(self.aside(number));
        Ok(true)
    }
}

/// Digest of the bytes that a file has now, whatever is on record; `None` where there is none.
fn digest_of(path: &Path) -> Result<Option<Digest>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(Digest::of(&bytes))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}
