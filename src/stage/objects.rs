//! The objects of modules: each is linked from the native objects of a unit by the commands that make
//! recorded, after which objtool may work on it. Whether one has to be linked, the command, and the
//! taking of what it made; when it runs is the queue's.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::archives::{after_lto, is_output_current, made_into};
use super::members;
use super::queue::UnitRun;
use super::session::Session;
use crate::backend::command::{aside_name, check_native};
use crate::backend::inputs::variables;
use crate::error::{Error, Result, advice, describe_status};
use crate::exec::action::Action;
use crate::exec::process::{Invocation, Outcome};
use crate::exec::refused::remedy;
use crate::exec::words::Words;
use crate::inputs::{self, InputVisitor, Inputs, Kind};
use crate::kbuild::cmd_file::BITCODE;
use crate::report::Event;
use crate::store::{Digest, Indexed, KeyBuilder, Stamped, Store, write_if_changed};
use crate::thinlink::{ThinLink, response_file};
use crate::toolchain::{self, Tool};
use crate::unit::{ObjectLink, Part, Unit};

/// What the keys of objects are for. It changes with the walk.
const PURPOSE: &str = "kthinlto module object 1";

/// Kbuild's verb for it.
const VERB: &str = "LD [M]";

/// Why it is linked, in the verbose log.
const WHY: &str = "changed parts, flags or tools";

/// An object that has to be linked.
pub(super) struct Job {
    link: ObjectLink,
    key: Digest,
    linker: Rc<Tool>,
    /// The programs that run after the link, as they were found.
    after: Vec<(String, Digest)>,
    /// Where it is written, until that is known to be good.
    aside: String,
    /// The bitcode that is kept of a module with one part, which make compiles to the object itself.
    kept: Option<String>,
    commands: Commands,
    reads: Arc<[inputs::File]>,
}

/// What makes an object.
struct Commands {
    link: Words,
    /// What follows it, each of them.
    after: Vec<Words>,
}

/// What of a job one process does: a shell can do all, while a fork server of the linker does the link alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// The link and what follows it.
    All,
    /// The link.
    Link,
    /// What follows it.
    After,
}

impl Commands {
    /// For a shell, or a reader.
    fn text(&self, share: Share) -> String {
        let link = (share != Share::After).then_some(&self.link);
        let after = self.after.iter().filter(|_| share != Share::Link);
        let commands: Vec<_> = link.into_iter().chain(after).collect();
        let texts = commands.into_iter().map(|words| shell_words::join(words.iter()));
        texts.collect::<Vec<_>>().join("; ")
    }
}

impl Job {
    /// What it makes.
    pub fn object(&self) -> &str {
        &self.link.object
    }

    /// The program that links it.
    pub fn linker(&self) -> &Tool {
        &self.linker
    }

    /// Whether a process that has done this leaves more to do.
    pub fn has_more_after(&self, share: Share) -> bool {
        share == Share::Link && !self.commands.after.is_empty()
    }
}

/// The flags of a unit's linker, which has to be that of the run.
pub(super) fn flags(link: &ObjectLink, linker: &str) -> Result<Vec<String>> {
    let words = shell_words::split(linker).unwrap_or_default();
    match link.linker.strip_prefix(words.as_slice()) {
        Some(flags) if !words.is_empty() => Ok(flags.to_vec()),
        _ => {
            let recorded = link.linker.first().map_or("", String::as_str);
            let found = format!("its record has it linked by `{recorded}`, and LD is `{linker}`");
            let remedy = "run make with the same LD, or build it again with make";
            Err(Error::bad_input(&link.object, found, remedy))
        }
    }
}

/// Looks whether the object of a unit has to be linked, and writes the list that it is linked from. In
/// a dry run, it only says so; `rebuilt` are the parts that would be compiled before.
pub(super) fn look(
    session: &mut Session<'_>,
    linker: &Rc<Tool>,
    one: &UnitRun,
    indexed: &[Indexed],
    rebuilt: &HashSet<Part>,
) -> Result<Option<Job>> {
    let UnitRun { unit, members, .. } = one;
    let Some(link) = &unit.link else {
        return Ok(None);
    };
    let flags = flags(link, &linker.text)?;
    let aside = aside_name(&link.object);
    let commands = commands(unit, link, linker, &flags, &aside);
    let settings = session.settings;
    if settings.dry_run && indexed.iter().any(|module| rebuilt.contains(&module.part)) {
        session.step(VERB, &link.object, &commands.text(Share::All), WHY);
        return Ok(None);
    }
    let (natives, _) = members::look(&session.store, settings, after_lto(members, indexed), 1)?;
    let after = identities(session, link)?;
    let store = &session.store;
    let mut inputs = Inputs::new(PURPOSE);
    ThinLink { linker, flags: &flags, members: &natives }.walk(store, &mut inputs)?;
    walk_after(link, &after, &mut inputs);
    let key = inputs.key.digest();
    if !settings.dry_run {
        let list = settings.tree.join(&unit.outputs.natives);
        write_if_changed(&list, response_file(&natives).as_bytes())?;
    }
    if linker.unidentified.is_none() && is_output_current(store, &link.object, key)? {
        return Ok(None);
    }
    if settings.dry_run {
        session.step(VERB, &link.object, &commands.text(Share::All), WHY);
        return Ok(None);
    }
    let kept = members.iter().map(|(name, _)| name).find(|name| name.ends_with(BITCODE)).cloned();
    if kept.is_some() && !settings.tree.join(&link.object).exists() {
        let found =
            "there is no such file, which the front end makes, although its bitcode is there";
        return Err(Error::bad_input(&link.object, found, "build it again with make"));
    }
    let (link, linker, reads) = (link.clone(), linker.clone(), inputs.files.into());
    Ok(Some(Job { link, key, linker, after, aside, kept, commands, reads }))
}

/// The programs that run after a link, as they are now.
fn identities(session: &mut Session<'_>, link: &ObjectLink) -> Result<Vec<(String, Digest)>> {
    let environment = &session.settings.environment;
    let programs = link.after.iter().filter_map(|words| words.first());
    let identity = |program: &String| {
        let identity = toolchain::identify(program, &mut session.store, environment)?;
        Ok((program.clone(), identity))
    };
    programs.map(identity).collect()
}

fn walk_after(link: &ObjectLink, after: &[(String, Digest)], visitor: &mut dyn InputVisitor) {
    for ((program, identity), words) in after.iter().zip(&link.after) {
        let mut key = KeyBuilder::new("kthinlto command after a link 1");
        words.iter().for_each(|word| {
            key.field(word.as_bytes());
        });
        visitor.input(Kind::Flags, program, &key.finish());
        visitor.input(Kind::Tool, program, identity);
    }
}

/// The commands that make an object aside: what make recorded, from native objects instead of bitcode.
fn commands(
    unit: &Unit,
    link: &ObjectLink,
    linker: &Tool,
    flags: &[String],
    aside: &str,
) -> Commands {
    let natives = format!("@{}", unit.outputs.natives);
    let words = linker.argv.iter().chain(flags).map(String::as_str);
    let words = words.chain(["--threads=1", "-r", "-o", aside, &natives]);
    let after = |words: &Vec<String>| words.iter().map(String::as_str).chain([aside]).collect();
    Commands { link: words.collect(), after: link.after.iter().map(after).collect() }
}

/// The job, or a share of it. A shell and objtool are not among its tools, so that it can only run here.
pub(super) fn begin(session: &mut Session<'_>, job: &Job, share: Share) -> Result<Action> {
    let tree = &session.settings.tree;
    let text = job.commands.text(share);
    let command = match share {
        Share::Link => Invocation::new(job.commands.link.iter(), tree),
        _ => Invocation::new(["sh", "-c", &format!("set -e; {text}")], tree),
    };
    if share != Share::After {
        session.step(VERB, &job.link.object, &job.commands.text(Share::All), WHY);
    }
    Ok(Action {
        command,
        environment: variables(&session.settings.environment).into(),
        inputs: job.reads.clone(),
        tools: job.linker.contents(&session.store)?,
        outputs: vec![job.aside.clone()],
    })
}

/// Passes on what a share of a job printed. A sentence says why what is left of it must not run.
pub(super) fn go_on(
    session: &mut Session<'_>,
    job: &Job,
    share: Share,
    outcome: io::Result<Outcome>,
) -> Result<(), String> {
    let ended = ended_well(session, job, share, outcome);
    if ended.is_err() {
        remove_aside(&session.store, job);
    }
    ended.map(drop)
}

/// Takes what a job has made, and puts it on record. A sentence says why it cannot be used.
pub(super) fn take(
    session: &mut Session<'_>,
    job: &Job,
    share: Share,
    outcome: io::Result<Outcome>,
) -> Result<Result<(), String>> {
    let made = match judge(session, job, share, outcome) {
        Ok(made) => made,
        Err(sentence) => {
            remove_aside(&session.store, job);
            return Ok(Err(sentence));
        }
    };
    let placed = check_tools(session, job).and_then(|()| put(&mut session.store, job, made));
    if placed.is_err() {
        remove_aside(&session.store, job);
    }
    placed.map(Ok)
}

/// Puts what was made in its place and on record.
fn put(store: &mut Store, job: &Job, made: Stamped) -> Result<()> {
    let object = &job.link.object;
    let (aside, place) = (store.tree().join(&job.aside), store.tree().join(object));
    fs::rename(&aside, &place).map_err(|e| Error::io("rename into", object, e))?;
    store.files.set(object, made)?;
    store.set_output(object, made_into(job.key, made.facts.digest))
}

/// Gives an object the time by which make decides whether to compile its one part again.
fn set_time(session: &mut Session<'_>, job: &Job) -> Result<()> {
    let Some(bitcode) = &job.kept else {
        return Ok(());
    };
    let time = session.written()?.time_for(bitcode)?;
    let aside = session.store.tree().join(&job.aside);
    match File::options().write(true).open(&aside).and_then(|file| file.set_modified(time)) {
        // Whether the link left an object is looked at next.
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("set the time of", &aside, e))
        }
        _ => Ok(()),
    }
}

/// What to do about the output of a share that ended well.
fn ended_well(
    session: &mut Session<'_>,
    job: &Job,
    share: Share,
    outcome: io::Result<Outcome>,
) -> Result<&'static str, String> {
    let object = &job.link.object;
    let outcome = outcome.map_err(|e| {
        let (program, check) = match share {
            Share::Link => (job.linker.text.as_str(), "check LD"),
            _ => ("a shell", "check that sh is there"),
        };
        format!("cannot run {program} to link {object}: {e}{}", remedy(&e, check))
    })?;
    if !outcome.output.is_empty() {
        session.listener.on(&Event::Output(&outcome.output));
    }
    let advice = advice(outcome.status, &outcome.output);
    if !outcome.status.success() {
        let (how, text) = (describe_status(outcome.status), job.commands.text(share));
        return Err(format!("linking {object} failed: `{text}` {how}; {advice}"));
    }
    Ok(advice)
}

fn judge(
    session: &mut Session<'_>,
    job: &Job,
    share: Share,
    outcome: io::Result<Outcome>,
) -> Result<Stamped, String> {
    let object = &job.link.object;
    let advice = ended_well(session, job, share, outcome)?;
    if let Err(error) = set_time(session, job) {
        return Err(format!("linking {object} failed: {error}"));
    }
    let store = &session.store;
    let made = check_native(&store.tree().join(&job.aside), &mut Vec::new())
        .map_err(|found| format!("linking {object} left {found}; {advice}"))?;
    match job.reads.iter().find(|file| !store.files.is_unchanged(&file.name)) {
        Some(inputs::File { name, .. }) => {
            Err(format!("{name} changed while {object} was linked from it; run again"))
        }
        None => Ok(made),
    }
}

/// Ends the run where a program is not the one any more that the key speaks of.
fn check_tools(session: &mut Session<'_>, job: &Job) -> Result<()> {
    let changed = |file: &str| {
        let found = format!("it changed while {} was made", job.link.object);
        Err(Error::bad_input(file, found, "run again"))
    };
    if let Some(file) = job.linker.changed(&session.store) {
        return changed(file);
    }
    let now = identities(session, &job.link)?;
    match now.iter().zip(&job.after).find(|(now, was)| now != was) {
        Some(((program, _), _)) => changed(program),
        None => Ok(()),
    }
}

/// Removes an unfinished output.
pub(super) fn remove_aside(store: &Store, job: &Job) {
    let _ = fs::remove_file(store.tree().join(Path::new(&job.aside)));
}
