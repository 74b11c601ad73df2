//! A file that changes exactly when the object of a module does, or a record of one of its parts: make
//! decides by its time whether modpost has to run. Must not know how objects are made.

use std::collections::HashMap;

use super::archives::records_digest;
use super::session::Session;
use crate::error::Result;
use crate::store::write_if_changed;
use crate::unit::Unit;

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

/// Writes the file, if it is wanted and would not be the same: one line for each module.
pub(super) fn write_digests(
    session: &Session<'_>,
    modules: &[(String, Vec<String>)],
) -> Result<()> {
    let Some(file) = session.settings.module_digests.as_ref().filter(|_| !session.settings.dry_run)
    else {
        return Ok(());
    };
    let store = &session.store;
    let mut text = String::new();
    for (object, parts) in modules {
        let records = records_digest(store, parts.iter().map(String::as_str))?;
        text += &format!("{} {records} {object}\n", store.files.facts(object)?.digest);
    }
    write_if_changed(&session.settings.tree.join(file), text.as_bytes()).map(drop)
}
