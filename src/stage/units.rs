//! The units of a run: the kernel, if archives are given, and those that the caller names. What their
//! names and members would have overwritten, or read as options, is an error before anything is made.
//! Must not know what is made of them.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use super::repeat::Repeat;
use super::{Settings, archives};
use crate::archive::read::check_member;
use crate::error::{Error, Result};
use crate::kbuild::module;
use crate::unit::{Part, Unit, VMLINUX};

/// What a run is about.
pub(super) struct Found {
    /// All units, with their members.
    pub units: Vec<Unit>,
    /// The objects of all modules, those included that make has finished.
    pub modules: Vec<String>,
}

/// All units of the run.
pub(super) fn of(settings: &Settings, repeat: &mut Repeat) -> Result<Found> {
    let mut units = Vec::new();
    let is_kernel = settings.units.is_empty() && settings.modules.is_empty();
    if !settings.archives.is_empty() || is_kernel {
        units.push(Unit::vmlinux(Vec::new()));
    }
    let given = units.len();
    units.extend(settings.units.iter().cloned());
    let look = &mut |path: &Path| repeat.watch.look(path);
    let modules = modules(&settings.tree, &settings.modules, look)?;
    for object in &modules {
        if is_another(settings, object) {
            continue;
        }
        let found = module::read(&settings.tree, object, &mut |path| repeat.watch.look(path))?;
        units.extend(found.map(Unit::module));
    }
    units[given..].iter().try_for_each(check)?;
    let mut known = HashSet::new();
    for unit in &units {
        // The last part of its name is in the names of files.
        if !known.insert(unit.qualifier()) {
            let found = "a second one of that name, which would have the same files";
            return Err(Error::bad_input(&unit.name, found, "name each once"));
        }
        repeat.look(&settings.tree, unit);
    }
    if let Some(kernel) = units.first_mut().filter(|unit| unit.name == VMLINUX) {
        kernel.members = archives::member_names(settings, &mut repeat.watch)?;
    }
    check_natives(&units)?;
    check_objects(&units)?;
    Ok(Found { units, modules })
}

/// Make names each object that it was asked for, though it may be no module's; in a dry run, it made none.
fn is_another(settings: &Settings, object: &str) -> bool {
    let is_named = settings.modules.iter().any(|name| name.as_os_str() == object);
    let may_be = settings.dry_run || settings.tree.join(object).is_file();
    is_named && may_be && module::has_no_record(&settings.tree, object)
}

/// The objects of the modules that are named, in lists or by themselves.
pub(super) fn modules(
    tree: &Path,
    names: &[PathBuf],
    before: &mut dyn FnMut(&Path),
) -> Result<Vec<String>> {
    let mut objects = Vec::new();
    for name in names {
        if module::is_module(name) {
            objects.push(module::object_of(&name.to_string_lossy())?);
        } else {
            before(&tree.join(name));
            objects.extend(module::list(tree, name)?);
        }
    }
    Ok(objects)
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
            let remedy = "name objects of the tree itself, or build this without KTHINLTO=";
            return Err(Error::bad_input(&unit.name, found, remedy));
        }
    }
    Ok(())
}

/// Fails where the object of a module is a part of one: it would be bitcode now, and native code later.
fn check_objects(units: &[Unit]) -> Result<()> {
    let made = units.iter().filter_map(|unit| unit.link.as_ref());
    let made: HashSet<&str> = made.map(|link| link.object.as_str()).collect();
    let parts = units.iter().flat_map(|unit| unit.members.iter().map(move |part| (unit, part)));
    match parts.into_iter().find(|(_, part)| made.contains(part.as_str())) {
        Some((unit, part)) => {
            let found = format!("it is the object of a module, and a part of {}", unit.name);
            Err(Error::bad_input(part, found, "compile its source under another name there"))
        }
        None => Ok(()),
    }
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
