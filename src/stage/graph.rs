//! Who imports from whom, as the last thin link asked for it, and what an edit of each module
//! costs. Reads, and changes nothing.

use std::collections::{BTreeMap, HashMap};

use super::explain;
use crate::bitcode::index::{self, Weight};
use crate::error::{Error, Result};
use crate::parallel;
use crate::regular;
use crate::report::graph::{Cost, Graph, Import, Node};
use crate::store::{Indexed, Store};
use crate::unit::Part;

/// The graph of the tree's last thin link, or the part around some objects: an object's, its
/// native object's name or its stem. Reads the indexes on up to `threads` threads.
///
/// # Errors
/// Where the tree has no record of a thin link or no such object, or an index cannot be read.
pub fn graph(store: &Store, objects: &[String], threads: usize) -> Result<Graph> {
    let linked = explain::linked(store)?;
    let chosen = objects.iter().map(|name| explain::find(&linked, name, store.tree()));
    let chosen: Vec<&Indexed> = chosen.collect::<Result<_>>()?;
    let number = |(number, module): (usize, &Indexed)| (module.part.clone(), number);
    let places: HashMap<Part, usize> = linked.iter().enumerate().map(number).collect();
    let nodes = parallel::map(threads, &linked, |module| node(store, &places, module));
    let mut modules: Vec<Node> = nodes.into_iter().collect::<Result<_>>()?;
    add_edits(&mut modules);
    let graph = Graph { tree: store.tree().to_string_lossy().into_owned(), modules };
    let chosen: Vec<String> =
        chosen.into_iter().map(|module| module.part.label().into_owned()).collect();
    Ok(if chosen.is_empty() { graph } else { graph.around(&chosen) })
}

fn node(store: &Store, places: &HashMap<Part, usize>, module: &Indexed) -> Result<Node> {
    let weights = weights(store, module)?;
    let import = |name: &str| {
        let weight = weights.get(name).copied().unwrap_or_default();
        Some(Import { module: *places.get(&module.part.beside(name))?, weight: weight.into() })
    };
    let record = store.backend(&module.part).and_then(|record| record.cost);
    Ok(Node {
        object: module.part.label().into_owned(),
        own: Cost::of(record.map(|cost| (cost.wall.into(), cost.cpu.into()))),
        edit: Cost::default(),
        imports: module.imports.iter().filter_map(|name| import(name)).collect(),
    })
}

/// What an index says, if it is the one that the last thin link made.
fn weights(store: &Store, module: &Indexed) -> Result<BTreeMap<String, Weight>> {
    let name = module.part.index();
    let remedy = "run `kthinlto build` again, through make or by hand";
    let found = store.files.find(&name)?;
    if found.is_none_or(|found| found.digest != module.index) {
        let found = "not the index that the last thin link made";
        return Err(Error::bad_input(store.files.path(&name), found, remedy));
    }
    let path = store.files.path(&name);
    let bytes = regular::read(&path).map_err(|e| Error::io("read", &path, e))?;
    index::weights(&bytes).map_err(|malformed| {
        Error::bad_input(&path, malformed.to_string(), "remove it and run `kthinlto build` again")
    })
}

/// An edit of a module runs its own backend and those of all that import from it, as long as
/// the thin link asks for the same imports.
fn add_edits(modules: &mut [Node]) {
    for place in 0..modules.len() {
        let own = modules[place].own;
        modules[place].edit += own;
        for import in modules[place].imports.clone() {
            modules[import.module].edit += own;
        }
    }
}
