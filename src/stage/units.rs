//! The units of a run: the kernel, if archives are given, and those that the caller names. What their
//! names and members would have overwritten, or read as options, is an error before anything is made.
//! Must not know what is made of them.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path};

use super::repeat::Repeat;
use super::{Settings, archives};
use crate::archive::read::check_member;
use crate::error::{Error, Result};
use crate::unit::{Part, Unit, VMLINUX};

/// All units of the run, with their members.
pub(super) fn of(settings: &Settings, repeat: &mut Repeat) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    if !settings.archives.is_empty() || settings.units.is_empty() {
        units.push(Unit::vmlinux(Vec::new()));
    }
    units.extend(settings.units.iter().cloned());
    settings.units.iter().try_for_each(check)?;
    let mut known = HashSet::new();
    for unit in &units {
        // The last part of its name is in the names of files.
        if !known.insert(unit.qualifier()) {
            let found = "a second unit of that name, which would have the same files";
            return Err(Error::bad_input(&unit.name, found, "name each unit once"));
        }
        repeat.look(&settings.tree, unit);
    }
    if let Some(kernel) = units.first_mut().filter(|unit| unit.name == VMLINUX) {
        kernel.members = archives::member_names(settings, &mut repeat.watch)?;
    }
    check_natives(&units)?;
    Ok(units)
}

/// Names that a caller gave: below the tree, and none that a linker reads as an option. Those of the
/// kernel's members are checked where archives are read.
fn check(unit: &Unit) -> Result<()> {
    let is_below = |name: &str| {
        let mut parts = Path::new(name).components();
        !name.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    if !is_below(&unit.name) {
        let found = "the name of a unit that is not below the object tree";
        return Err(Error::bad_input(&unit.name, found, "name it as its module: fs/xfs/xfs"));
    }
    for member in &unit.members {
        check_member(member, Path::new(&unit.name))?;
        if !is_below(member) {
            let found = format!("the member {member}, which is not a name below the object tree");
            return Err(Error::bad_input(&unit.name, found, "name objects of the tree itself"));
        }
    }
    Ok(())
}

/// Fails where two units would write one native object: `a.xfs.o` of the kernel, and `a.o` of `xfs`.
fn check_natives(units: &[Unit]) -> Result<()> {
    let mut known: HashMap<String, &str> = HashMap::new();
    for unit in units.iter().filter(|_| units.len() > 1) {
        let qualifier = unit.qualifier();
        for object in &unit.members {
            let native = Part { object: object.clone(), unit: qualifier.clone() }.native();
            let other = known.insert(native, &unit.name).filter(|other| *other != unit.name);
            if let Some(other) = other {
                let found = format!("its native object would be one of {other} too");
                return Err(Error::bad_input(object, found, "rename it, or the module"));
            }
        }
    }
    Ok(())
}
