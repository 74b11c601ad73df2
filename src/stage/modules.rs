//! A file that changes exactly when the object of a module does, or a record of one of its parts: make
//! decides by its time whether modpost has to run. Where somebody else may have run modpost meanwhile, it is
//! written anew, whatever it holds. Must not know how objects are made.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::archives::records_digest;
use super::session::Session;
use crate::error::{Error, Result};
use crate::regular;
use crate::store::write_if_changed;
use crate::unit::Unit;

/// What the kernel's makefiles call it.
pub(crate) const FILE: &str = ".modules.thinlto";

/// The objects of all modules, each with what it is linked from. One that make has finished has itself.
pub(super) fn parts(modules: &[String], units: &[Unit]) -> Vec<(String, Vec<String>)> {
    let linked = units.iter().filter_map(|unit| Some((&unit.link.as_ref()?.object, &unit.members)));
    let linked: HashMap<&String, &Vec<String>> = linked.collect();
    let parts = modules.iter().map(|object| {
        let parts =
            linked.get(object).map_or_else(|| vec![object.clone()], |parts| (*parts).clone());
        (object.clone(), parts)
    });
    parts.collect()
}

/// Where the file is, if it is wanted in this run.
fn file(session: &Session<'_>) -> Option<PathBuf> {
    let file = session.settings.module_digests.as_ref()?;
    (!session.settings.dry_run).then(|| session.settings.tree.join(file))
}

/// Writes the file, if it is wanted and would not be the same: one line for each module.
pub(super) fn write_digests(
    session: &Session<'_>,
    modules: &[(String, Vec<String>)],
) -> Result<()> {
    let Some(file) = file(session) else {
        return Ok(());
    };
    let store = &session.store;
    let mut text = String::new();
    for (object, parts) in modules {
        let records = records_digest(store, parts.iter().map(String::as_str))?;
        text += &format!("{} {records} {object}\n", store.files.facts(object)?.digest);
    }
    write_if_changed(&file, text.as_bytes()).map(drop)
}

/// Removes the file if the object of a module is not the one that it names: whoever wrote that, make without
/// kthinlto for one, may have run modpost on it. Once this run has made the objects anew, the file would be
/// what it was, and make would keep what modpost wrote of the others.
pub(super) fn forget_if_others_wrote(
    session: &Session<'_>,
    modules: &[(String, Vec<String>)],
) -> Result<()> {
    let Some(file) = file(session) else {
        return Ok(());
    };
    let Ok(written) = regular::read(&file) else {
        return Ok(());
    };
    let written = String::from_utf8_lossy(&written);
    let lines = written.lines().filter_map(|line| {
        let (digest, rest) = line.split_once(' ')?;
        Some((rest.split_once(' ')?.1, digest))
    });
    let lines: HashMap<&str, &str> = lines.collect();
    for (object, _) in modules {
        let found = session.store.files.find(object)?.map(|facts| facts.digest.to_string());
        if found.as_deref() != lines.get(object.as_str()).copied() {
            tracing::debug!(object, "somebody else wrote it, so modpost has to run again");
            return forget(&file);
        }
    }
    Ok(())
}

/// Removes such a file: make then runs modpost, whatever the next run finds.
pub(crate) fn forget(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", file, e)),
        _ => Ok(()),
    }
}
