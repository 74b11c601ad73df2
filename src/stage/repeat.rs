//! The shortest way through the stage: asked again what was asked before, with every file as
//! it was, a run says so and ends. What is looked at is the whole walk's; here is only what
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
    NAMES[usize::from(!settings.units.is_empty())]
}

/// One question to the stage, and what is looked at to answer it.
#[derive(Debug)]
pub(super) struct Repeat {
    question: Option<Digest>,
    pub(super) watch: Watch,
}

impl Repeat {
    /// Takes the question. There is none where the compiler is not named: which one it is
    /// then stands in a file.
    pub(super) fn new(settings: &Settings) -> Self {
        let question = settings.compiler.as_ref().zip(settings.linker.as_ref());
        let question = question.filter(|_| !settings.dry_run).map(|(compiler, linker)| {
            let Settings { tree, environment, .. } = settings;
            let tools =
                [compiler, linker].map(|tool| toolchain::whereabouts(tool, tree, environment));
            snapshot::question(&[
                // The text has no variables: those that count follow.
                format!("{settings:?}").as_bytes(),
                format!("{tools:?} {}", inputs::environment(environment)).as_bytes(),
            ])
        });
        Repeat { question, watch: Watch::default() }
    }

    /// What the stage would say, if nothing changed since it last said it.
    pub(super) fn answer(&self, settings: &Settings, threads: usize) -> Option<Summary> {
        let question = self.question?;
        let modules = snapshot::answer(&settings.tree, name(settings), question, threads)?;
        let modules = usize::try_from(modules).ok()?;
        tracing::debug!("nothing changed since the last run");
        Some(Summary { modules, up_to_date: modules, ..Summary::default() })
    }

    /// Looks at what the stage will read of a unit by itself. It has to be called before that.
    pub(super) fn look(&mut self, tree: &Path, unit: &Unit) {
        let Outputs { order, indexed, archive, .. } = &unit.outputs;
        let record = cmd_file::path_for(Path::new(archive));
        for name in [Path::new(order), Path::new(indexed), &record] {
            self.watch.look(&tree.join(name));
        }
    }

    /// Leaves the answer for the next run, if this one did nothing but look.
    pub(super) fn leave(&self, settings: &Settings, store: &Store, summary: &Summary) {
        let idle = !summary.linked && summary.up_to_date == summary.modules;
        let Some(question) = self.question.filter(|_| idle) else {
            return;
        };
        let (tree, modules) = (store.tree(), summary.modules as u64);
        let left =
            snapshot::leave(tree, name(settings), question, modules, &self.watch, &store.files);
        if let Err(error) = left {
            tracing::debug!("the next run checks everything again: {error}");
        }
    }
}
