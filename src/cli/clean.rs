//! `kthinlto clean`: removes from an object tree what `build` made there, and nothing else.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{say, warn};
use crate::backend::command::outputs;
use crate::error::{Error, Result};
use crate::kbuild::cmd_file;
use crate::room::Room;
use crate::store::{FOLDER, Store};
use crate::thinlink;
use crate::unit::{Outputs, Part, Unit};

/// Removes everything, or with `dry_run` lists it.
pub fn clean(tree: &Path, dry_run: bool) -> anyhow::Result<()> {
    if !tree.is_dir() {
        let remedy = "name the object tree with -C";
        return Err(Error::bad_input(tree, "there is no such folder", remedy).into());
    }
    let fail = |e| Error::io("look at", tree.join(FOLDER), e);
    let root = Room::open(tree).map_err(fail)?;
    if root.find(FOLDER).map_err(fail)?.is_none() {
        say(&format!("{}: no {FOLDER}, nothing to clean", tree.display()));
        return Ok(());
    }
    // Held until the end, so that no build starts in between; a look writes nothing.
    let store = if dry_run { Store::peek(tree)? } else { Store::open(tree)? };
    let parts: BTreeSet<&Part> = store.parts().collect();
    let made = parts.into_iter().flat_map(outputs);
    let mut units = vec![Outputs::vmlinux()];
    // What kind of unit it was, its name does not tell.
    units.extend(store.links().map(|link| Unit::new(&link.unit, Vec::new()).outputs));
    units.extend(store.links().map(|link| Outputs::module(&format!("{}.o", link.unit))));
    let of_units = units.iter().flat_map(|outputs| {
        let record = cmd_file::path_for(Path::new(&outputs.natives));
        outputs.all().map(PathBuf::from).chain([record])
    });
    for name in made.chain(of_units) {
        remove(&root, &name, dry_run)?;
    }
    if !dry_run {
        thinlink::remove_left(&store);
        root.remove_all(FOLDER).map_err(|e| Error::io("remove", root.path(FOLDER), e))?;
    }
    Ok(())
}

/// Removes a file that a record names. Records are files of the tree, and may say anything: what
/// is outside of it, or behind a link, is not what `build` made.
fn remove(root: &Room, name: &Path, dry_run: bool) -> Result<()> {
    let fail = |e| Error::io("remove", root.path(name), e);
    let (folder, last) = match root.below(name) {
        Ok(found) => found,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(e) if e.kind() == ErrorKind::InvalidInput => {
            warn(&format!("{} is skipped: {e}", name.display()));
            return Ok(());
        }
        Err(e) => return Err(fail(e)),
    };
    if !dry_run {
        return folder.remove(last).map_err(fail);
    }
    if folder.find(last).map_err(fail)?.is_some() {
        say(&format!("would remove {}", name.display()));
    }
    Ok(())
}
