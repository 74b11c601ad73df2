//! `relink --compile`: objects of which a source or a header has other contents are made again by the
//! commands that make recorded for them, as make would. What else changed is only make's to follow: then
//! nothing is done but to say so. Knows the order: look, judge, try aside, make, keep; must not know what
//! is done with objects.
//!
//! An object is right as long as all that it read holds what it held when the object was known to be
//! right. An object that this does not know, because make made it since, is judged as make does: by times.
//! A target that is no object of what is relinked, such as `asm-offsets.s`, is made aside, and has to come
//! out as it is: what make makes of another one, nobody else knows.

mod found;
mod run;
mod script;
mod state;
pub mod watch;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::SystemTime;

use self::found::Found;
use self::run::{Done, Job, Jobs};
use self::state::{How, KnownFile, State, Target};
use self::watch::Made;
use super::tree::Tree;
use super::work::sweep;
use super::{SCRATCH, Settings, final_link, modules, version};
use crate::archive::read::flatten;
use crate::error::{Error, Result};
use crate::exec::executor::Processes;
use crate::exec::helper::Helper;
use crate::exec::interrupt::Interrupts;
use crate::exec::run::Runner;
use crate::exec::slots::Slots;
use crate::inputs::{Change, Kind, Label};
use crate::kbuild::cmd_file::front_ends_name;
use crate::kbuild::{auto_conf, module};
use crate::parallel;
use crate::plan::Due;
use crate::report::{Event, Listener};
use crate::stage::cores;
use crate::store::stamp::Stamp;
use crate::store::{self, FOLDER, Facts, Files, Held};

/// How many files a refusal names.
const NAMED: usize = 3;

/// What one run works with.
struct Run<'a> {
    settings: &'a Settings,
    tree: &'a Tree,
    /// The objects that are made again in their places.
    members: HashSet<String>,
    made: Made,
    files: Files,
    found: Found,
    /// What each file holds now, by place.
    now: Vec<Option<Facts>>,
    /// Whether it is known what each file held when all was right, and that it holds something else.
    known: usize,
    changed: Vec<bool>,
    threads: usize,
}

/// Makes the objects again that are not right, and returns how many. A dry run says which.
///
/// # Errors
/// Where something changed that only make can follow, an object cannot be compiled, a file cannot be read
/// or written, or a signal asks us to stop.
pub fn compile(
    settings: &Settings,
    tree: &Tree,
    slots: &Slots,
    interrupts: &Interrupts,
    listener: &mut dyn Listener,
) -> Result<usize> {
    listener.on(&Event::Phase("sources"));
    check_configuration(tree)?;
    let held = match settings.dry_run {
        true => None,
        false => Some(Held::new(&tree.folder)?),
    };
    let state = match &held {
        Some(held) => State::read(&held.room),
        None => store::room(&tree.folder)?.map(|room| State::read(&room)).unwrap_or_default(),
    };
    let more = slots.try_acquire_up_to(cores());
    let mut run = Run::look(settings, tree, &state, held.as_ref(), more.len().max(1))?;
    drop(more);
    let watched = run.watched(&state)?;
    run.judge_watched(&watched)?;
    watch::check_release(tree)?;
    run.check_records()?;
    let due = run.due()?;
    if settings.dry_run {
        due.iter()
            .filter(|due| run.is_member(due.0))
            .try_for_each(|due| run.announce(due, listener))?;
        return Ok(due.len());
    }
    if !due.is_empty() {
        check_compiler(tree)?;
    }
    let (objects, others): (Vec<_>, Vec<_>) = due.iter().partition(|due| run.is_member(due.0));
    run.check_derived(&objects)?;
    let result = run.make(&others, &objects, (slots, interrupts, listener));
    if let Some(held) = held {
        run.keep(&state, &watched, &held)?;
    }
    result.map(|()| objects.len())
}

/// A target to be made again, by its place, and the file because of which it is.
type DueTarget = (usize, String);

impl<'a> Run<'a> {
    fn look(
        settings: &'a Settings,
        tree: &'a Tree,
        state: &State,
        held: Option<&Held>,
        threads: usize,
    ) -> Result<Self> {
        let members = members(settings, tree)?;
        let found = found::find(
            tree,
            state,
            |name| members.contains(name) || is_of_interest(tree, name),
            threads,
        )?;
        let resolution = held.map(|held| held.resolution).unwrap_or_default();
        let recorded = state
            .files
            .iter()
            .filter_map(|file| Some((file.name.clone(), (file.stamp?, file.facts?))));
        let files = Files::new(&tree.folder, resolution, recorded.collect());
        let made = Made::of(tree, !settings.modules.is_empty());
        let mut run = Run {
            settings,
            tree,
            members,
            made,
            files,
            found,
            now: Vec::new(),
            known: state.files.len(),
            changed: Vec::new(),
            threads,
        };
        run.look_at_files()?;
        let held = |facts: &Option<Facts>| facts.map(|facts| facts.digest);
        let both = state.files.iter().zip(&run.now);
        run.changed = both.map(|(was, now)| held(&was.facts) != held(now)).collect();
        Ok(run)
    }

    /// Looks at all files that have a name and were not looked at.
    fn look_at_files(&mut self) -> Result<()> {
        let names = &self.found.names.all[self.now.len()..];
        let found = parallel::map(self.threads, names, |name| self.files.find(name));
        self.now.extend(found.into_iter().collect::<Result<Vec<_>>>()?);
        Ok(())
    }

    fn is_member(&self, target: usize) -> bool {
        let name = &self.found.targets[target].name;
        self.members.contains(name) || *name == final_link::lds(self.tree)
    }

    /// Fails where an object has no record: make would compile it anew.
    fn check_records(&self) -> Result<()> {
        let there = self.found.targets.iter().map(|target| target.name.as_str());
        let there: HashSet<&str> = there.collect();
        let without = self.members.iter().filter(|name| !there.contains(name.as_str()));
        match without.min() {
            None => Ok(()),
            Some(name) => {
                let found = "there is no record of how it was made";
                Err(Error::bad_input(name, found, "run `make vmlinux`, which makes it again"))
            }
        }
    }

    /// Places of the files that only make can follow.
    fn watched(&mut self, state: &State) -> Result<Vec<u32>> {
        let targets = self.found.targets.iter().map(|target| target.name.as_str());
        let mut names = watch::files(self.tree, targets)?;
        let others = self.found.targets.iter().filter(|target| target.how == How::Otherwise);
        for place in others.flat_map(Target::reads) {
            names.insert(self.found.names.all[place].clone());
        }
        // What is made by make is looked at where it is read.
        let compiled = self.found.targets.iter().filter(|target| target.how == How::Compiled);
        let read: HashSet<usize> = compiled.flat_map(Target::reads).collect();
        let generated = read.into_iter().map(|place| &self.found.names.all[place]);
        names.extend(generated.filter(|name| is_generated(name)).cloned());
        let mut watched: Vec<u32> = names.iter().map(|name| self.found.names.place(name)).collect();
        self.look_at_files()?;
        // One that is gone was seen before.
        watched.extend(&state.watched);
        watched.sort_unstable();
        watched.dedup();
        Ok(watched)
    }

    /// Fails where one of them is not what make saw.
    fn judge_watched(&self, watched: &[u32]) -> Result<()> {
        let others = watched.iter().map(|place| *place as usize).filter(|place| {
            let is_known = *place < self.known;
            is_known && self.changed[*place] || !is_known && self.now[*place].is_some()
        });
        let names = others.map(|place| self.found.names.all[place].as_str());
        let unseen: Vec<&str> = names.filter(|name| !self.made.saw(self.tree, name)).collect();
        let Some(first) = unseen.first() else {
            return Ok(());
        };
        let rest = match unseen.len() - 1 {
            0 => String::new(),
            more if more < NAMED => format!(", and so did {}", unseen[1..].join(" and ")),
            more => format!(", and so did {} and {} others", unseen[1], more - 1),
        };
        let found = format!("it changed after make had made the objects of this tree{rest}");
        let target = if self.settings.modules.is_empty() { "vmlinux" } else { "modules" };
        let remedy = match self.made.is_marked {
            true => format!("only make knows what follows: run `make {target}`"),
            false => {
                format!("only make knows what follows: run `rm -f vmlinux.o` and `make {target}`")
            }
        };
        Err(Error::bad_input(first, found, remedy))
    }

    /// The targets that are not right and count. Others are marked: they may count in a later run, when
    /// the contents that are found now are known as those with which all is right.
    fn due(&mut self) -> Result<Vec<DueTarget>> {
        let modified = self.modified();
        let name = |place: usize| self.found.names.all[place].clone();
        let any = self.changed.contains(&true);
        let counts = self.counting();
        let (mut due, mut others) = (Vec::new(), Vec::new());
        for (at, target) in self.found.targets.iter().enumerate() {
            if target.how == How::Otherwise {
                continue;
            }
            let because = match (self.found.is_new[at], target.made) {
                (_, None) => Some(target.name.clone()),
                (true, Some(made)) => {
                    target.reads().find(|place| modified[*place] > made.modified()).map(name)
                }
                (false, _) if target.stale => Some(target.name.clone()),
                (false, _) if any => target.reads().find(|place| self.changed[*place]).map(name),
                (false, _) => None,
            };
            match because {
                Some(because) if self.is_member(at) || counts(&target.name) => {
                    due.push((at, because))
                }
                Some(_) => others.push(at),
                None => {}
            }
        }
        due.iter().try_for_each(|(at, _)| self.check_there(*at))?;
        others.into_iter().for_each(|at| self.found.targets[at].stale = true);
        Ok(due)
    }

    /// When each file was written last, by place: where that is needed, and late for one that is gone.
    fn modified(&self) -> Vec<i64> {
        if !self.found.is_new.contains(&true) {
            return Vec::new();
        }
        parallel::map(self.threads, &self.found.names.all, |name| {
            let found = std::fs::metadata(self.tree.folder.join(name));
            found.map_or(i64::MAX, |found| Stamp::of(&found).modified())
        })
    }

    /// Fails where make would follow that a file is gone. An object that make could not compile is gone too,
    /// and nothing else is wrong with it.
    fn check_there(&self, at: usize) -> Result<()> {
        let target = &self.found.targets[at];
        let source = target.reads().next().map_or("", |place| self.found.names.all[place].as_str());
        let gone = match self.tree.folder.join(source).is_file() {
            false => source,
            true if target.made.is_none() && !self.is_member(at) => &target.name,
            true => return Ok(()),
        };
        let found = format!("it is not there any more, and {} depends on it", target.name);
        let remedy = "run `make vmlinux`, which follows new and removed files";
        Err(Error::bad_input(gone, found, remedy))
    }

    /// Whether a target counts that is no object of what is relinked: one that something else is made of.
    /// Other objects are left from another configuration, or of what is not relinked.
    fn counting(&self) -> impl Fn(&str) -> bool + use<> {
        let others = self.found.targets.iter().filter(|target| target.how == How::Otherwise);
        let places = others.flat_map(Target::reads);
        let read: HashSet<String> =
            places.map(|place| self.found.names.all[place].clone()).collect();
        move |name| !name.ends_with(".o") || read.contains(name)
    }

    fn announce(&self, due: &DueTarget, listener: &mut dyn Listener) -> Result<()> {
        let target = &self.found.targets[due.0].name;
        let script = script::script(self.tree, target, &format!("{FOLDER}/{SCRATCH}X"))?;
        let why = Due::Input(Change::Changed(Label::new(Kind::File, &due.1)));
        let why = &crate::report::words::due(&why);
        listener.on(&Event::Step { verb: script.verb, target, command: &script.shown, why });
        Ok(())
    }

    /// Fails where something is made of one of these objects in a way that is not known here.
    fn check_derived(&self, objects: &[&DueTarget]) -> Result<()> {
        let names: HashSet<&str> =
            objects.iter().map(|due| self.found.targets[due.0].name.as_str()).collect();
        for target in self.found.targets.iter().filter(|target| target.how == How::Otherwise) {
            let mut reads = target.reads().map(|place| self.found.names.all[place].as_str());
            if let Some(object) = reads.find(|name| names.contains(name)) {
                let found = format!("make makes {} of it, by a command of its own", target.name);
                return Err(Error::bad_input(object, found, "run `make vmlinux`"));
            }
        }
        Ok(())
    }

    /// Makes targets aside that have to come out as they are, and then the objects.
    fn make(
        &mut self,
        others: &[&DueTarget],
        objects: &[&DueTarget],
        (slots, interrupts, listener): (&Slots, &Interrupts, &mut dyn Listener),
    ) -> Result<()> {
        if others.is_empty() && objects.is_empty() {
            return Ok(());
        }
        listener.on(&Event::Phase("compile"));
        let folder = self.tree.folder.join(FOLDER);
        sweep(&folder, SCRATCH);
        let aside = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&folder);
        let aside = aside.map_err(|e| Error::io("make a folder in", &folder, e))?;
        let name = aside.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let runner = Runner { slots, interrupts, keep_going: self.settings.keep_going };
        for (at, _) in others.iter().chain(objects) {
            self.found.targets[*at].stale = true; // until it is made
        }
        for (part, due) in [others, objects].into_iter().enumerate() {
            let jobs = due.iter().enumerate().map(|(number, (at, because))| {
                let aside = format!("{FOLDER}/{name}/{part}.{number}");
                let target = &self.found.targets[*at].name;
                let script = script::script(self.tree, target, &aside)?;
                Ok(Job::new(*at, target.clone(), because.clone(), aside, script))
            });
            let jobs = jobs.collect::<Result<Vec<Job>>>()?;
            let mut jobs = Jobs::new(self.tree, jobs, part == 0, listener);
            let ended = runner.run(&mut Processes, &mut jobs);
            let (done, failure) = jobs.end();
            self.take(&done, part == 0)?;
            ended?;
            failure.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// Takes down what was made. What a target that came out as it was has read is what its record says.
    fn take(&mut self, done: &[Done], was_aside: bool) -> Result<()> {
        for one in done {
            self.found.targets[one.target].stale = false;
            if was_aside {
                continue;
            }
            let name = self.found.targets[one.target].name.clone();
            let before = self.found.names.all.len();
            if let Some(target) = found::read(self.tree, &name, &mut self.found.names)? {
                // A file that nobody had looked at may have changed since the compiler read it.
                let new = &self.found.names.all[before..];
                let late = new.iter().any(|name| !self.is_older(name, one.started));
                self.found.targets[one.target] = Target { stale: late, ..target };
            }
        }
        self.look_at_files()
    }

    fn is_older(&self, name: &str, than: SystemTime) -> bool {
        let found = std::fs::metadata(self.tree.folder.join(name));
        found.and_then(|found| found.modified()).is_ok_and(|modified| modified < than)
    }

    /// Leaves for the next run what is known by now: the contents that were found in this run, with which
    /// all targets are right but for those that are marked.
    fn keep(self, state: &State, watched: &[u32], held: &Held) -> Result<()> {
        let fresh = self.files.take_unrecorded();
        let marks = |targets: &[Target]| targets.iter().filter(|target| target.stale).count();
        let same = state.targets.len() == self.found.targets.len()
            && marks(&state.targets) == marks(&self.found.targets)
            && state.watched == watched
            && fresh.is_empty()
            && !self.changed.contains(&true);
        if same && !self.found.is_new.contains(&true) {
            return Ok(());
        }
        let mut stamps: HashMap<String, Stamp> = HashMap::default();
        let before = state.files.iter().zip(&self.changed).filter(|(_, changed)| !**changed);
        stamps.extend(before.filter_map(|(file, _)| Some((file.name.clone(), file.stamp?))));
        stamps.extend(fresh.into_iter().map(|(name, stamp, _)| (name, stamp)));
        let mut next = State::default();
        let mut places = vec![None; self.found.names.all.len()];
        let mut place = |old: usize| {
            *places[old].get_or_insert_with(|| {
                let name = self.found.names.all[old].clone();
                let (stamp, facts) = (stamps.get(&name).copied(), self.now[old]);
                next.files.push(KnownFile { name, stamp, facts });
                next.files.len() as u32 - 1
            })
        };
        for target in &self.found.targets {
            let reads: Vec<u32> = target.reads().map(&mut place).collect();
            let Target { name, record, made, how, stale, .. } = target.clone();
            let moved = Target { stale, ..Target::new(name, record, made, how, &reads) };
            next.targets.push(moved);
        }
        let there = watched.iter().map(|old| *old as usize).filter(|old| self.now[*old].is_some());
        next.watched = there.map(&mut place).collect();
        next.watched.sort_unstable();
        next.write(&held.room)
    }
}

/// The objects that are made again in their places: those of the kernel, or of all modules.
fn members(settings: &Settings, tree: &Tree) -> Result<HashSet<String>> {
    if settings.modules.is_empty() {
        return Ok(flatten(&tree.folder, &tree.archives)?.into_iter().collect());
    }
    let mut members = HashSet::new();
    for object in module::list(&tree.folder, Path::new(modules::LIST))? {
        match module::read(&tree.folder, &object, &mut |_| ())? {
            Some(module) => {
                members.extend(module.parts.iter().map(|part| front_ends_name(part).into_owned()))
            }
            None => members.extend([object]),
        }
    }
    Ok(members)
}

/// Whether something else with a record can be a part of the kernel, or of what it is made from.
fn is_of_interest(tree: &Tree, name: &str) -> bool {
    let boot = format!("arch/{}/boot/", tree.arch);
    let not = [boot.as_str(), "usr/", version::OBJECT];
    !not.iter().any(|start| name.starts_with(start))
}

/// Whether a file is made from the configuration, or by make before it descends.
fn is_generated(name: &str) -> bool {
    name.contains("include/generated/") || name.contains("include/config/")
}

/// Fails where objects are made in a way of which their records do not tell all.
fn check_configuration(tree: &Tree) -> Result<()> {
    let options = ["CONFIG_FTRACE_MCOUNT_USE_RECORDMCOUNT", "CONFIG_IKHEADERS"];
    match options.iter().find(|option| tree.conf.text(option).is_some()) {
        None => Ok(()),
        Some(option) => {
            let found = format!("{option}, for which make does more than it records");
            let remedy = "compile with make, and run relink without --compile";
            Err(Error::bad_input(auto_conf::PATH, found, remedy))
        }
    }
}

/// Fails where the compiler is not the one that the kernel is configured for: make would ask for the
/// configuration again.
fn check_compiler(tree: &Tree) -> Result<()> {
    let Some(configured) = tree.conf.text("CONFIG_CC_VERSION_TEXT") else {
        return Ok(());
    };
    let argv = tree.compiler.split_whitespace().chain(["--version"]);
    let missing = |e: std::io::Error| Error::ToolMissing {
        role: "CC",
        command: tree.compiler.clone(),
        found: e.to_string(),
    };
    let asked = Helper::new(argv, &tree.folder).env("LC_ALL", "C").run();
    let asked = asked.map_err(|failure| failure.into_error(missing))?;
    let text = String::from_utf8_lossy(&asked.output);
    let first = text.lines().next().unwrap_or_default();
    match first == configured {
        true => Ok(()),
        false => {
            let found =
                format!("configured for `{configured}`, but `{}` is `{first}`", tree.compiler);
            Err(Error::bad_input(
                auto_conf::PATH,
                found,
                "run `make vmlinux`, which compiles all anew",
            ))
        }
    }
}
