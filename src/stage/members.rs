//! What the members of the archives hold. Each is read once, for all phases that will ask; one
//! that is known from an earlier run is not read at all. Must not know what is made of them.

use std::collections::HashMap;

use super::Settings;
use super::queue::UnitRun;
use crate::archive::symbols::defined_globals;
use crate::backend::inputs;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::kbuild::cmd_file;
use crate::parallel;
use crate::store::{Facts, Store};
use crate::unit::Unit;

/// Name and facts of a member.
pub type Member = (String, Facts);

/// Symbols of the members that were read, as [`defined_globals`] finds them.
pub type Symbols = HashMap<String, Option<Vec<String>>>;

struct FoundMember {
    facts: Facts,
    /// Of a member that was read.
    symbols: Option<Option<Vec<String>>>,
}

/// Looks at the members of all units, on up to `threads` threads.
pub fn look_at_units(
    store: &Store,
    settings: &Settings,
    mut units: Vec<Unit>,
    threads: usize,
) -> Result<(Vec<UnitRun>, Symbols)> {
    let counts: Vec<usize> = units.iter().map(|unit| unit.members.len()).collect();
    let linked = units.iter().filter_map(|unit| Some((unit.link.as_ref()?, &unit.members)));
    let parts: HashMap<String, String> = linked
        .flat_map(|(link, parts)| parts.iter().map(|part| (part.clone(), link.object.clone())))
        .collect();
    let names = units.iter_mut().flat_map(|unit| std::mem::take(&mut unit.members)).collect();
    let looked = look(store, settings, names, threads);
    let (members, symbols) = looked.map_err(|error| of_module(error, &parts))?;
    let mut members = members.into_iter();
    let units = units.into_iter().zip(counts);
    let units =
        units.map(|(unit, count)| UnitRun::new(unit, members.by_ref().take(count).collect()));
    let units = units.collect();
    Ok((units, symbols))
}

/// Looks at all members, on up to `threads` threads.
pub fn look(
    store: &Store,
    settings: &Settings,
    names: Vec<String>,
    threads: usize,
) -> Result<(Vec<Member>, Symbols)> {
    let looked =
        parallel::map_with(threads, &names, Vec::new, |bytes, name| look_at(store, name, bytes));
    let (mut members, mut symbols) = (Vec::with_capacity(names.len()), Symbols::new());
    for (name, looked) in names.into_iter().zip(looked) {
        let Some(looked) = looked? else {
            return Err(missing(settings, &name));
        };
        if looked.facts.format == Format::Archive {
            let found = "an archive whose name does not end in .a";
            return Err(Error::bad_input(name, found, "name it as kbuild does"));
        }
        if let Some(found) = looked.symbols {
            symbols.insert(name.clone(), found);
        }
        members.push((name, looked.facts));
    }
    Ok((members, symbols))
}

/// Looks at one. `bytes` is for what it holds, if that has to be read.
fn look_at(store: &Store, name: &str, bytes: &mut Vec<u8>) -> Result<Option<FoundMember>> {
    let Some(facts) = store.files.find_and_read(name, bytes)? else {
        return Ok(None);
    };
    let was_read = !bytes.is_empty();
    if was_read {
        inputs::learn(store, name, facts, bytes);
    }
    Ok(Some(FoundMember { facts, symbols: was_read.then(|| defined_globals(bytes)) }))
}

/// Says whose part is missing: what make keeps of a module's one part, it does not make again by itself.
fn of_module(error: Error, modules: &HashMap<String, String>) -> Error {
    let Error::MissingMember { archive, member } = error else {
        return error;
    };
    match modules.get(&*member.to_string_lossy()) {
        Some(object) if member.to_string_lossy().ends_with(cmd_file::BITCODE) => {
            let found = format!("there is no such file, and {object} is made from it");
            let remedy = format!("remove {object} and build it again with make");
            Error::bad_input(member, found, remedy)
        }
        Some(object) => Error::MissingMember { archive: object.into(), member },
        None => Error::MissingMember { archive, member },
    }
}

fn missing(settings: &Settings, name: &str) -> Error {
    let archives = settings.archives.iter().map(|archive| archive.to_string_lossy());
    let archive = archives.collect::<Vec<_>>().join(" or ").into();
    Error::MissingMember { archive, member: name.into() }
}
