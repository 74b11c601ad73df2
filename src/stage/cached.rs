//! Objects out of caches and into them, the shared folder and an engine's store of results: looked for
//! before any backend runs, many at a time, and given after each. Must not know how a cache keeps them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::backends::{self, Backends, Job, Placement, Way, remove_aside};
use super::choose_executor::Elsewhere;
use super::cores;
use super::session::Session;
use crate::backend::command::check_native;
use crate::error::Result;
use crate::exec::action::Action;
use crate::exec::executor::Machine;
use crate::parallel;
use crate::report::Event;
use crate::store::cache::Cache;
use crate::store::{Digest, Stamped};

/// How many entries of the cache are looked for between two looks at signals.
const AT_ONCE: usize = 256;

/// The shared cache, if one is asked for. One that cannot be opened is a warning.
pub(super) fn open(session: &mut Session<'_>) -> Option<Cache> {
    let opened = Cache::open(session.settings.cache.as_ref()?);
    if let Err(error) = &opened {
        session.warn(&format!("{error}; going on without the cache"));
    }
    opened.ok()
}

/// Takes those of these jobs whose object the cache has; returns their places in the list. Entries are
/// read on as many threads as slots are free.
pub(super) fn take(
    session: &mut Session<'_>,
    backends: &Backends,
    cache: &Cache,
    jobs: &[Job],
) -> Result<BTreeSet<usize>> {
    let mut taken = BTreeSet::new();
    let wanted: Vec<usize> =
        (0..jobs.len()).filter(|number| jobs[*number].may_be_shared()).collect();
    for some in wanted.chunks(AT_ONCE) {
        session.check_interrupt()?;
        let some: Vec<(usize, &Job)> = some.iter().map(|at| (*at, &jobs[*at])).collect();
        let wanted = some.iter().map(|(_, job)| {
            let aside = session.settings.tree.join(&job.aside);
            (job.planned.inputs.key.digest(), aside, backends.placement(job))
        });
        let wanted: Vec<(Digest, PathBuf, Placement)> = wanted.collect();
        let held = session.slots.try_acquire_up_to(cores());
        let store = &session.store;
        let found = parallel::map(held.len(), &wanted, |(key, aside, placement)| {
            let found = fetch(cache, *key, aside)?;
            Some(placement.put(store, found.0).map(|()| found))
        });
        drop(held);
        taken.extend(accept(session, &some, found, Machine::This)?);
    }
    pass_on_warning(session, cache);
    Ok(taken)
}

/// How many results an engine is asked for at a time: their actions are in memory together.
const ASKED_AT_ONCE: usize = 1000;

/// How long an engine may take to answer, where making all objects here would take less.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes those of these jobs whose object the engine's store of results has; returns their numbers. What
/// is asked for longer than making it would take is made.
pub(super) fn take_elsewhere(
    session: &mut Session<'_>,
    backends: &Backends,
    engine: &Elsewhere,
    jobs: &[(usize, &Job)],
) -> Result<BTreeSet<usize>> {
    let work: u64 = jobs.iter().map(|(_, job)| job.weight().0).sum();
    let limit = Duration::from_millis(work / cores() as u64).max(PATIENCE);
    let (began, interrupts) = (Instant::now(), session.interrupts);
    let stop = || interrupts.signal().is_some() || began.elapsed() > limit;
    let mut taken = BTreeSet::new();
    for some in jobs.chunks(ASKED_AT_ONCE) {
        let (since, settings, store) = (Instant::now(), session.settings, &session.store);
        let action =
            |(_, job): &(usize, &Job)| backends.action(settings, store, job, Way::Elsewhere);
        let actions: Vec<Action> = some.iter().map(action).collect::<Result<_>>()?;
        let found = engine.with(|engine| engine.look_up(&actions, &stop)).unwrap_or_default();
        drop(actions);
        // An answer for each, whatever the engine says.
        let found = found.into_iter().chain(std::iter::repeat(false));
        let places = some.iter().zip(found).map(|((_, job), found)| {
            (settings.tree.join(&job.aside), found, backends.placement(job))
        });
        let places: Vec<(PathBuf, bool, Placement)> = places.collect();
        let held = session.slots.try_acquire_up_to(cores());
        let checked = parallel::map_with(
            held.len(),
            &places,
            Vec::new,
            |buffer, (aside, found, placement)| {
                let native = found.then(|| check(aside, buffer)).flatten()?;
                Some(placement.put(store, native).map(|()| native))
            },
        );
        drop(held);
        let count = checked.iter().flatten().count().max(1) as u32;
        let wall = since.elapsed() / count;
        let timed = |placed: Result<Stamped>| placed.map(|native| (native, wall));
        let found = checked.into_iter().map(|placed| placed.map(timed)).collect();
        let accepted = accept(session, some, found, Machine::Other)?;
        taken.extend(accepted);
        // Those that are there are right; the others need not be asked for any more.
        session.check_interrupt()?;
        if stop() {
            break;
        }
    }
    Ok(taken)
}

/// Puts what was found for these jobs, and is in its places, on record; returns their numbers.
fn accept(
    session: &mut Session<'_>,
    jobs: &[(usize, &Job)],
    found: Vec<Option<Result<(Stamped, Duration)>>>,
    machine: Machine,
) -> Result<Vec<usize>> {
    let mut taken = Vec::new();
    for ((number, job), found) in jobs.iter().zip(found) {
        let Some(found) = found else {
            continue;
        };
        let (native, wall) = match found {
            Ok(found) => found,
            Err(error) => {
                jobs.iter().for_each(|(_, job)| remove_aside(session, job));
                return Err(error);
            }
        };
        backends::record(&mut session.store, job, native, job.cost)?;
        let object = &job.part().label();
        session.listener.on(&Event::FromCache { object, wall, machine });
        taken.push(*number);
    }
    Ok(taken)
}

/// Adds a fresh object to the cache. A cache that cannot be written is a warning, once, and is not
/// used any more.
pub(super) fn give(session: &mut Session<'_>, cache: &mut Option<Cache>, job: &Job) {
    let Some(open) = cache.as_mut().filter(|_| job.may_be_shared()) else {
        return;
    };
    let native = session.settings.tree.join(job.part().native());
    let added = open.add(job.planned.inputs.key.digest(), &native);
    pass_on_warning(session, open);
    if let Err(error) = added {
        session.warn(&format!("{error}; going on without the cache"));
        *cache = None;
    }
}

/// Adds an object that was made here, and lies aside still, to an engine's store of results.
pub(super) fn give_elsewhere(
    session: &Session<'_>,
    backends: &Backends,
    engine: &Elsewhere,
    job: &Job,
) -> Result<()> {
    if engine.is_set() && backends.may_leave(job) {
        let action = backends.action(session.settings, &session.store, job, Way::Elsewhere)?;
        engine.with(|engine| engine.give(&action));
    }
    Ok(())
}

/// What the cache has to say, once in a run.
fn pass_on_warning(session: &mut Session<'_>, cache: &Cache) {
    if let Some(text) = cache.warning() {
        session.warn(&text);
    }
}

/// An object out of the cache, put aside, and how long that took. The entry is what was once
/// accepted; that it is an object is checked all the same.
fn fetch(cache: &Cache, key: Digest, aside: &Path) -> Option<(Stamped, Duration)> {
    let began = Instant::now();
    if !cache.fetch(key, aside) {
        return None;
    }
    check(aside, &mut Vec::new()).map(|native| (native, began.elapsed()))
}

/// An object that was put aside, if it is one; what is none is removed.
fn check(aside: &Path, buffer: &mut Vec<u8>) -> Option<Stamped> {
    check_native(aside, buffer).inspect_err(|_| drop(fs::remove_file(aside))).ok()
}
