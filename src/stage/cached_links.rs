//! Thin links out of the shared cache and into it: a tree whose members another tree has linked takes
//! the indexes from there. Must not know how the cache keeps them.

use std::collections::HashSet;

use super::members::Member;
use super::session::Session;
use super::{cores, links};
use crate::error::Result;
use crate::parallel;
use crate::report::Event;
use crate::store::cache::{Cache, links as packed};
use crate::store::{Digest, Facts, Indexed, KeyBuilder, LinkRecord, Store};
use crate::unit::Unit;

/// The key of a unit's thin link in the cache. Units that link the same under other names have
/// other records.
fn key_of(unit: &Unit, link: Digest) -> Digest {
    let mut key = KeyBuilder::new("kthinlto cached thin link 1");
    key.digest(&link).field(unit.name.as_bytes());
    key.field(unit.qualifier().as_deref().unwrap_or_default().as_bytes());
    key.finish()
}

/// Takes the thin link of this key, if the cache has it: puts the indexes into their places, as
/// after a link, and puts it on record. `None` where it has to run.
pub(super) fn take(
    session: &mut Session<'_>,
    cache: &Cache,
    (unit, members): (&Unit, &[Member]),
    key: Digest,
) -> Result<Option<Vec<Indexed>>> {
    let Some(bytes) = cache.read(key_of(unit, key)) else {
        return Ok(None);
    };
    let known: HashSet<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    let unpacked = packed::unpack(&bytes).filter(|(record, _)| is_of(record, unit, key, &known));
    let Some((record, indexes)) = unpacked else {
        tracing::warn!("the thin link of {} in the cache is not used: it is damaged", unit.name);
        return Ok(None);
    };
    let found: Vec<(&Indexed, &[u8])> = record.modules.iter().zip(indexes).collect();
    let held = session.slots.try_acquire_up_to(cores());
    let store = &session.store;
    let placed = parallel::map(held.len(), &found, |(module, index)| place(store, module, index));
    drop(held);
    placed.into_iter().collect::<Result<()>>()?;
    links::write_list(session.settings, unit, &record.modules)?;
    let modules = record.modules.clone();
    session.store.set_link(record)?;
    let text = format!("the thin link of {} came from the cache", unit.name);
    session.listener.on(&Event::Note(&text));
    Ok(Some(modules))
}

/// Whether a record is of this link of this unit, and names nothing else than its members.
fn is_of(record: &LinkRecord, unit: &Unit, key: Digest, members: &HashSet<&str>) -> bool {
    let mut objects = HashSet::new();
    let qualifier = unit.qualifier();
    let mut modules = record.modules.iter();
    (&record.unit, record.key) == (&unit.name, key)
        && modules.all(|module| {
            let object = module.part.object.as_str();
            let mut names = module.imports.iter().map(|name| &**name).chain([object]);
            module.part.unit == qualifier
                && objects.insert(object)
                && names.all(|name| members.contains(name))
        })
}

/// Puts an index into its place, if other bytes are there.
fn place(store: &Store, module: &Indexed, index: &[u8]) -> Result<()> {
    let name = module.part.index();
    if store.files.find(&name)?.is_none_or(|old| old.digest != module.index) {
        store.files.write(&name, index, Facts::of(index))?;
    }
    Ok(())
}

/// Gives the cache a thin link that just ran. A cache that cannot be written is a warning, and is
/// not used any more.
pub(super) fn give(
    session: &mut Session<'_>,
    cache: &mut Option<Cache>,
    unit: &Unit,
    key: Digest,
    modules: &[Indexed],
) {
    let Some(open) = cache.as_mut().filter(|open| !open.is_readonly()) else {
        return;
    };
    let files = &session.store.files;
    let indexes = modules.iter().map(|module| files.read_known(&module.part.index()));
    let Ok(indexes) = indexes.collect::<Result<Vec<_>>>() else {
        return; // something changed one: whoever reads it next says so
    };
    let record = LinkRecord { unit: unit.name.clone(), key, modules: modules.to_vec() };
    let added = open.add_bytes(key_of(unit, key), &packed::pack(record, &indexes));
    if let Some(text) = open.warning() {
        session.warn(&text);
    }
    if let Err(error) = added {
        session.warn(&format!("{error}; going on without the cache"));
        *cache = None;
    }
}
