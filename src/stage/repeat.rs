//! The shortest way through the stage: if the request is the one before, and every file is as it was,
//! a run says so and ends. What is looked at is the whole walk's; here is only what
//! that walk reads outside of the store.

use std::path::Path;

use super::{Settings, Summary};
use crate::backend::inputs;
use crate::kbuild::cmd_file;
use crate::store::snapshot::{self, Watch};
use crate::store::{Digest, Store};
use crate::toolchain;
use crate::unit::{Outputs, Unit};

/// The snapshot's name below the store's folder, for the kernel and for runs with other units.
const NAMES: [&str; 2] = ["unchanged", "unchanged.units"];

fn name(settings: &Settings) -> &'static str {
    NAMES[usize::from(!(settings.units.is_empty() && settings.modules.is_empty()))]
}

/// One request to the stage, and what is looked at to find out whether its result still holds.
#[derive(Debug)]
pub(super) struct Repeat {
    request: Option<Digest>,
    pub(super) watch: Watch,
}

impl Repeat {
    /// Takes the request down. There is none where the compiler is not named: which one it is
    /// then stands in a file.
    pub(super) fn new(settings: &Settings) -> Self {
        let request = settings.compiler.as_ref().zip(settings.linker.as_ref());
        let request = request.filter(|_| !settings.dry_run).map(|(compiler, linker)| {
            let Settings { tree, environment, .. } = settings;
            let tools = [compiler, linker].map(|tool| toolchain::location(tool, tree, environment));
            snapshot::request(&[
                // The text has no variables: those that count follow.
                format!("{settings:?}").as_bytes(),
                format!("{tools:?} {}", inputs::environment(environment)).as_bytes(),
            ])
        });
        Repeat { request, watch: Watch::default() }
    }

    /// The result of the last run, if nothing changed since.
    pub(super) fn find(&self, settings: &Settings, threads: usize) -> Option<Summary> {
        let request = self.request?;
        let modules = snapshot::find(&settings.tree, name(settings), request, threads)?;
        let modules = usize::try_from(modules).ok()?;
        tracing::debug!("nothing changed since the last run");
        Some(Summary { modules, up_to_date: modules, ..Summary::default() })
    }

    /// Looks at what the stage will read of a unit by itself. It has to be called before that.
    pub(super) fn look(&mut self, tree: &Path, unit: &Unit) {
        let Outputs { order, indexed, natives, .. } = &unit.outputs;
        let other = match unit.link {
            Some(_) => natives.into(),
            None => cmd_file::path_for(Path::new(natives)),
        };
        for name in [Path::new(order), Path::new(indexed), &other] {
            self.watch.look(&tree.join(name));
        }
    }

    /// Writes the result down for the next run, if this one did nothing but look.
    pub(super) fn write(&self, settings: &Settings, store: &Store, summary: &Summary) {
        let idle = !summary.linked && summary.up_to_date == summary.modules;
        let Some(request) = self.request.filter(|_| idle) else {
            return;
        };
        let (tree, modules) = (store.tree(), summary.modules as u64);
        let written =
            snapshot::write(tree, name(settings), request, modules, &self.watch, &store.files);
        if let Err(error) = written {
            tracing::debug!("the next run checks everything again: {error}");
        }
    }
}
