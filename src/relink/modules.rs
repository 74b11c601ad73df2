//! The steps from the objects of modules to `.ko` files, each with the command that make recorded for it:
//! modpost for all modules, then for each of those that are asked for the object of what modpost wrote,
//! and the link. Knows what kernels of each age do; must not run anything.
//!
//! Rules: `scripts/Makefile.modpost` and `Makefile.modfinal`, Linux 6.1 to 7.3.

use std::path::Path;

use super::command::raw_words;
use super::planner::Planner;
use super::recipe::{Output, Recipe, Step};
use super::steps::MODULE_SYMVERS;
use super::tree::Tree;
use crate::error::{Error, Result};
use crate::kbuild::{auto_conf, module};

/// modpost's part of each module, compiled.
const MOD_O: &str = ".mod.o";

/// The files of one module, by its object.
struct Files {
    object: String,
    /// What modpost writes: versions of symbols, dependencies, aliases.
    source: String,
    compiled: String,
    module: String,
}

impl Files {
    fn of(object: &str) -> Self {
        let stem = object.strip_suffix(".o").unwrap_or(object);
        Files {
            object: object.to_owned(),
            source: format!("{stem}.mod.c"),
            compiled: format!("{stem}{MOD_O}"),
            module: format!("{stem}.ko"),
        }
    }
}

impl Planner<'_> {
    /// All steps to the `.ko` files of these objects.
    pub fn modules_recipe(mut self, objects: &[String]) -> Result<Recipe> {
        let all: Vec<Files> = objects.iter().map(|object| Files::of(object)).collect();
        let command = self.tree.command(MODULE_SYMVERS)?;
        let mut modpost = self.modpost_by((command, MODULE_SYMVERS))?;
        modpost.outputs.extend(all.iter().map(|files| Output {
            // modpost does not touch one that is right.
            place: files.source.clone(),
            aside: files.source.clone(),
            may_be_empty: false,
        }));
        let mut steps = vec![modpost];
        for files in &all {
            steps.push(self.compiled("CC [M]", &files.compiled, &files.source)?);
            steps.push(self.module(files)?);
        }
        Ok(Recipe { steps })
    }

    fn module(&mut self, files: &Files) -> Result<Step> {
        let command = self.tree.command(&files.module)?;
        let words = raw_words(&command);
        let from =
            words.iter().position(|word| *word == files.module).map_or(words.len(), |at| at + 1);
        let inputs = words[from..].to_vec();
        if !inputs.contains(&files.object.as_str()) {
            let found =
                format!("a record by which {} is not linked from {}", files.module, files.object);
            return Err(Error::bad_input(&files.module, found, "build it again with make"));
        }
        self.recorded("LD [M]", &files.module, &inputs)
    }
}

/// The list of all modules of a tree, which modpost reads.
pub const LIST: &str = "modules.order";

/// Fails where the steps could not be planned: before the stage, which takes longest, is run.
pub fn check(tree: &Tree, objects: &[String]) -> Result<()> {
    let listed = module::list(&tree.folder, Path::new(LIST))?;
    if let Some(object) = objects.iter().find(|object| !listed.contains(object)) {
        let found = format!("{LIST}, the list of the modules that modpost reads, does not have it");
        return Err(Error::bad_input(object, found, "run `make modules` once"));
    }
    if tree.conf.is_on("CONFIG_DEBUG_INFO_BTF_MODULES") {
        let found =
            "CONFIG_DEBUG_INFO_BTF_MODULES, by which modules get type information from pahole";
        let remedy = "link modules of this kernel with `make modules`; `kthinlto modules` makes their objects";
        return Err(Error::bad_input(auto_conf::PATH, found, remedy));
    }
    let files = objects.iter().map(|object| Files::of(object));
    let needed = files.flat_map(|files| [files.compiled, files.module]);
    for target in needed.chain([MODULE_SYMVERS.to_owned()]) {
        if !tree.has_command(&target) {
            let found = "there is no record of how it was made";
            return Err(Error::bad_input(target, found, "build it once with `make modules`"));
        }
    }
    tree.check_host_tool("scripts/mod/modpost")
}
