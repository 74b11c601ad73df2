//! What the steps of a relink are made from and whether they would run: the walk of their keys,
//! told to a person. Reads, and changes nothing; starts no program.

use super::planner::Planner;
use super::recipe::{Recipe, Step};
use super::tree::Tree;
use super::work::due;
use super::{SCRATCH, Settings, inputs};
use crate::environment::Environment;
use crate::error::Result;
use crate::inputs::{Compared, Kind, Label, Recorded, compare};
use crate::plan::Due;
use crate::store::{BackendRecord, FOLDER, Store};
use crate::toolchain;

/// All that can be said about one step.
#[derive(Debug)]
pub struct Explained {
    /// The file that it is known by.
    pub name: String,
    /// Why it would run; `None` if it would not, as its inputs are now.
    pub due: Option<Due>,
    /// Its inputs, in the key's order, then those that are gone.
    pub inputs: Vec<Compared>,
    /// Files that are looked at for them.
    pub files: Vec<String>,
    /// Files that the tools among its inputs are made of.
    pub tools: Vec<String>,
}

/// Explains the steps that lead to a file, in their order.
///
/// # Errors
/// A tree that cannot be relinked, or a name that no step makes.
pub fn explain(settings: &Settings, name: &str) -> Result<Vec<Explained>> {
    let tree = Tree::recognize(&settings.tree, settings.nm.as_deref(), &settings.pahole)?;
    let tree = &Tree { is_look: true, ..tree };
    let store = &mut Store::peek(&settings.tree)?;
    let identity = &settings.identity.of(&tree.read_source("init/Makefile")?);
    let scratch = &format!("{FOLDER}/{SCRATCH}X");
    let program = settings.program.as_deref();
    let environment = &settings.environment;
    let recipe: Recipe =
        Planner { tree, store, scratch, identity, program, environment }.recipe()?;
    let steps = recipe.until(name)?.steps;
    let explained = steps.iter().map(|step| {
        let found = inputs::of(store, step)?;
        let before: Vec<Recorded> =
            store.step(&step.name).map(BackendRecord::inputs).unwrap_or_default();
        Ok(Explained {
            name: step.name.clone(),
            due: due(store, step, &found)?,
            inputs: compare(&found.recorded(), &before),
            tools: tools(store, step, environment),
            files: found.names().map(str::to_owned).collect(),
        })
    });
    explained.collect()
}

fn tools(store: &Store, step: &Step, environment: &Environment) -> Vec<String> {
    let tools = step.made_by.iter().filter(|(label, _)| label.kind == Kind::Tool);
    let files = |label: &Label| toolchain::files_on_record(&label.name, store, environment);
    let mut all: Vec<String> = tools.flat_map(|(label, _)| files(label)).collect();
    all.sort();
    all.dedup();
    all
}
