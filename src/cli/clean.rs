//! `kthinlto clean`: removes from an object tree what `build` made there, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::say;
use crate::backend::command::outputs;
use crate::error::{Error, Result};
use crate::store::{FOLDER, Store};
use crate::thinlink::{LIST, ORDER};

/// Files at the top of the tree.
const TOP: [&str; 5] = ["built-in-fixup.a", ORDER, LIST, "vmlinux.a", ".vmlinux.a.cmd"];

/// Removes everything, or with `dry_run` lists it.
pub fn clean(tree: &Path, dry_run: bool) -> anyhow::Result<()> {
    if !tree.is_dir() {
        let remedy = "name the object tree with -C";
        return Err(Error::bad_input(tree, "there is no such folder", remedy).into());
    }
    if !tree.join(FOLDER).is_dir() {
        say(&format!("{}: no {FOLDER}, nothing to clean", tree.display()));
        return Ok(());
    }
    // Held until the end, so that no build starts in between.
    let store = Store::open(tree)?;
    let objects: BTreeSet<String> = store.objects().map(str::to_owned).collect();
    let made = objects.iter().flat_map(|object| outputs(object));
    for name in made.chain(TOP.map(PathBuf::from)) {
        remove(tree, &name, dry_run)?;
    }
    if !dry_run {
        let folder = tree.join(FOLDER);
        fs::remove_dir_all(&folder).map_err(|e| Error::io("remove", &folder, e))?;
    }
    Ok(())
}

fn remove(tree: &Path, name: &Path, dry_run: bool) -> Result<()> {
    let place = tree.join(name);
    if dry_run {
        if place.exists() {
            say(&format!("would remove {}", name.display()));
        }
        return Ok(());
    }
    match fs::remove_file(&place) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", &place, e)),
        _ => Ok(()),
    }
}
