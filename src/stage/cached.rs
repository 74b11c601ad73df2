//! Objects out of the shared cache and into it: looked for before any backend runs, many at a time, and
//! given after each. Must not know how the cache keeps them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::backends::{Backends, Job, remove_aside};
use super::cores;
use super::session::Session;
use crate::backend::command::check_native;
use crate::error::Result;
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
        let wanted = some.iter().map(|number| {
            let job = &jobs[*number];
            (job.planned.inputs.key.digest(), session.settings.tree.join(&job.aside))
        });
        let wanted: Vec<(Digest, PathBuf)> = wanted.collect();
        let held = session.slots.try_acquire_up_to(cores());
        let found = parallel::map(held.len(), &wanted, |(key, aside)| fetch(cache, *key, aside));
        drop(held);
        for (number, found) in some.iter().zip(found) {
            let Some((native, wall)) = found else {
                continue;
            };
            let job = &jobs[*number];
            if let Err(error) = backends.accept(&mut session.store, job, native, job.cost) {
                // Those after it were put aside already.
                some.iter().for_each(|number| remove_aside(session, &jobs[*number]));
                return Err(error);
            }
            session.listener.on(&Event::FromCache { object: &job.part().label(), wall });
            taken.insert(*number);
        }
    }
    pass_on_warning(session, cache);
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
    let native =
        check_native(aside, &mut Vec::new()).inspect_err(|_| drop(fs::remove_file(aside))).ok()?;
    Some((native, began.elapsed()))
}
