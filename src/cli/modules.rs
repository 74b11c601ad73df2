//! `kthinlto modules`: settings of a run over loadable modules, from the command line and the
//! environment.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::args::{Common, Modules};
use super::start;
use crate::exec::interrupt::Interrupts;
use crate::kbuild::module;
use crate::relink;
use crate::stage::{self, Settings};

/// Makes the objects of the modules.
pub fn run(common: &Common, arguments: &Modules) -> anyhow::Result<ExitCode> {
    let mut start = start::start("modules", common, &arguments.stage)?;
    let modules = arguments.modules.iter().filter_map(|name| list_of(&start.tree, name));
    let modules: Vec<PathBuf> = modules.collect();
    if modules.is_empty() {
        return Ok(start.finish_without_target(Ok(()))?); // folders without modules
    }
    let base = start.settings(arguments.stage.executor, (&arguments.cc, &arguments.ld));
    let settings = Settings { modules, module_digests: arguments.digests.clone(), ..base };
    let interrupts = Interrupts::catch().context("cannot catch signals")?;
    let result = stage::build(&settings, &start.slots, &interrupts, &mut start.shown);
    if result.is_ok() && arguments.digests.is_some() && !settings.dry_run {
        relink::note_made(&settings.tree, true);
    }
    match &arguments.digests {
        Some(file) => Ok(start.finish(result, &file.to_string_lossy())?),
        None => Ok(start.finish_without_target(result)?),
    }
}

/// A folder stands for the list that kbuild leaves there, if it has modules.
fn list_of(tree: &Path, name: &Path) -> Option<PathBuf> {
    match tree.join(name).is_dir() {
        true => Some(module::list_in(name)).filter(|list| tree.join(list).exists()),
        false => Some(name.to_path_buf()),
    }
}
