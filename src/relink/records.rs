//! Whether the records of vmlinux' members are those of the files that are there: one that was
//! written after its record may have been made in any way. Contents that were once found right stay
//! so, whatever a copy of the tree did to the times. Must not know what the records are for.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use rustc_hash::FxHashMap as HashMap;

use super::tree::Tree;
use crate::archive::read::flatten;
use crate::error::{Error, Result};
use crate::kbuild::{cmd_file, module};
use crate::store::stamp::TimeResolution;
use crate::store::{Digest, FOLDER, Files, KeyBuilder, Store, write_if_changed};
use crate::unit::ARCHIVE;
use crate::unit::ORDER;

/// The name under which the members of `vmlinux.a` go on record whose own records were checked.
const CHECKED: &str = "relink checked";

/// The file, below the store's folder, with a digest for each object and record found right.
const FOUND_RIGHT: &str = "relink-checked";

/// Checks the records of these members once; as long as one is wrong, each time.
pub fn check_members(tree: &Tree, store: &mut Store) -> Result<()> {
    match store.output(ARCHIVE) {
        Some(members) if store.output(CHECKED) != Some(members) => {
            check_all(tree, store)?;
            store.set_output(CHECKED, members)
        }
        _ => Ok(()),
    }
}

/// Checks the records of the parts of these modules.
pub fn check_parts(tree: &Tree, store: &Store, objects: &[String]) -> Result<()> {
    check_these(tree, store, &parts(tree, objects)?)
}

/// The members of the kernel: those of the last stage, which are looked up without reading archives.
pub fn members(tree: &Tree) -> Result<Vec<String>> {
    match fs::read_to_string(tree.folder.join(ORDER)) {
        Ok(order) => Ok(order.lines().map(str::to_owned).collect()),
        Err(_) => flatten(&tree.folder, &tree.archives),
    }
}

/// The parts of these modules that make has not linked.
pub fn parts(tree: &Tree, objects: &[String]) -> Result<Vec<String>> {
    let mut parts = Vec::new();
    for object in objects {
        let module = module::read(&tree.folder, object, &mut |_| ())?;
        parts.extend(module.into_iter().flat_map(|module| module.parts));
    }
    Ok(parts)
}

/// Fails where one of these objects would be refused after the stage. The stage takes longest, and does not
/// change them.
pub fn check_before(tree: &Tree, objects: &[String]) -> Result<()> {
    let newer = objects.iter().map(String::as_str);
    let newer: Vec<&str> =
        newer.filter(|object| is_newer_than_its_record(&tree.folder, object)).collect();
    if newer.is_empty() {
        return Ok(());
    }
    let place = tree.folder.join(FOLDER).join(FOUND_RIGHT);
    let right = fs::read_to_string(&place).unwrap_or_default();
    let right: HashSet<&str> = right.lines().collect();
    let files = Files::new(&tree.folder, TimeResolution::default(), HashMap::default());
    let mut wrong = Vec::new();
    for object in newer {
        if !right.contains(digest(&files, object)?.to_string().as_str()) {
            wrong.push(object);
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(refuse(&wrong)) }
}

fn check_all(tree: &Tree, store: &Store) -> Result<()> {
    let order = fs::read_to_string(tree.folder.join(ORDER)).unwrap_or_default();
    check_these(tree, store, &order.lines().map(str::to_owned).collect::<Vec<_>>())
}

/// What was found right before stays so: of the kernel and of modules in one list, to which each
/// changed object adds a line.
fn check_these(tree: &Tree, store: &Store, objects: &[String]) -> Result<()> {
    let place = tree.folder.join(FOLDER).join(FOUND_RIGHT);
    let before = fs::read_to_string(&place).unwrap_or_default();
    let known: HashSet<&str> = before.lines().collect();
    let (mut right, mut wrong) = (before.clone(), Vec::new());
    for object in objects.iter().map(String::as_str) {
        let digest = digest(&store.files, object)?.to_string();
        if known.contains(digest.as_str()) {
            continue;
        } else if is_newer_than_its_record(&tree.folder, object) {
            wrong.push(object);
        } else {
            right += &digest;
            right.push('\n');
        }
    }
    if !wrong.is_empty() {
        return Err(refuse(&wrong));
    }
    write_if_changed(&place, right.as_bytes()).map(drop)
}

/// Of an object and its record.
fn digest(files: &Files, object: &str) -> Result<Digest> {
    let mut key = KeyBuilder::new("kthinlto checked record 1");
    let record = cmd_file::path_for(Path::new(object));
    for name in [object, &record.to_string_lossy()] {
        key.field(name.as_bytes());
        match files.find(name)? {
            Some(facts) => key.digest(&facts.digest),
            None => key.field(b"absent"),
        };
    }
    Ok(key.finish())
}

/// The stage says what is missing.
fn is_newer_than_its_record(folder: &Path, object: &str) -> bool {
    let written = |name: &Path| fs::metadata(folder.join(name)).and_then(|found| found.modified());
    let object = Path::new(object);
    matches!(
        (written(object), written(&cmd_file::path_for(object))),
        (Ok(object), Ok(record)) if object > record
    )
}

/// One object was made in another way; several are what a copy of a tree leaves.
fn refuse(wrong: &[&str]) -> Error {
    let record = cmd_file::path_for(Path::new(wrong[0]));
    let found = format!("it is newer than {}, the record of how it was made", record.display());
    let remedy = format!("remove it and have it made again with `make {}`", wrong[0]);
    match wrong.len() - 1 {
        0 => Error::bad_input(wrong[0], found, remedy),
        others => {
            let found = format!(
                "{found}, and so are {others} other objects newer than theirs, as in a copy of a \
                 tree that did not keep its times"
            );
            let remedy = "copy it again with `cp -a`, or run `make vmlinux` there once";
            Error::bad_input(wrong[0], found, remedy)
        }
    }
}
