//! The steps from the objects of modules to `.ko` files, each with the command that make recorded for it:
//! modpost for all modules, then for each of those that are asked for the object of what modpost wrote,
//! and the link, with type information (BTF) where modules have it. Knows what kernels of each age do;
//! must not run anything.
//!
//! Rules: `scripts/Makefile.modpost` and `Makefile.modfinal`, Linux 6.1 to 7.3.

use std::path::Path;

use super::btf;
use super::command::raw_words;
use super::planner::Planner;
use super::recipe::{Output, Procedure, Recipe, Step};
use super::steps::MODULE_SYMVERS;
use super::tree::Tree;
use crate::error::{Error, Result};
use crate::inputs::{Kind, Label};
use crate::kbuild::module;
use crate::store::Digest;

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
        let btf = match btf::is_on_for_modules(self.tree) {
            true => Some(self.btf()?),
            false => None,
        };
        for files in &all {
            steps.push(self.compiled("CC [M]", &files.compiled, &files.source)?);
            let link = self.module(files)?;
            steps.push(match &btf {
                Some(btf) => self.with_btf(link, btf),
                None => link,
            });
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

/// What adds type information to modules.
struct Btf {
    command: String,
    inputs: Vec<String>,
    made_by: Vec<(Label, Digest)>,
}

impl Planner<'_> {
    fn btf(&mut self) -> Result<Btf> {
        let tree = self.tree;
        let command = btf::module_command(tree)?;
        let mut inputs = btf::inputs_of_modules(tree);
        inputs.extend(self.host_tools(vec![btf::RESOLVE.to_owned()])?);
        let mut made_by = self.tools(&[&tree.pahole, &tree.objcopy])?;
        made_by.push((Label::new(Kind::Flags, "BTF"), Digest::of(command.as_bytes())));
        Ok(Btf { command, inputs, made_by })
    }

    /// The link of a module, and then what adds type information to what was linked.
    fn with_btf(&self, mut link: Step, btf: &Btf) -> Step {
        let add = |link: &str, module: &str| {
            format!("{link}; {}={}; {}", btf::MODULE, shell_words::quote(module), btf.command)
        };
        if let Procedure::Shell { text, .. } = &mut link.procedure {
            *text = add(text, &self.aside(&link.name));
        }
        link.shown = add(&link.shown, &link.name);
        link.inputs.extend(btf.inputs.iter().cloned());
        link.made_by.extend(btf.made_by.iter().cloned());
        link
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
    btf::check_for_modules(tree)?;
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
