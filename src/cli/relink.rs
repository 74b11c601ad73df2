//! `kthinlto relink`: settings of a relink from the command line and the environment.

use anyhow::Context;

use super::args::{Common, FinalLink, Relink};
use super::{given, start};
use crate::exec::interrupt::Interrupts;
use crate::relink::{self, Identity, Settings};

/// Relinks the tree.
pub fn run(common: &Common, arguments: &Relink) -> anyhow::Result<()> {
    let mut start = start::start("relink", common, &arguments.stage)?;
    let settings = Settings {
        tree: start.tree,
        until: arguments.until.clone(),
        nm: given(&arguments.nm),
        pahole: given(&arguments.pahole).unwrap_or_else(|| "pahole".to_owned()),
        identity: identity(arguments),
        program: match arguments.final_link {
            FinalLink::Auto => std::env::current_exe().ok(),
            FinalLink::Script => None,
        },
        dry_run: start.dry_run,
        keep_going: start.keep_going,
        executor: arguments.stage.executor,
        scratch_in_memory: start.scratch_in_memory,
        cache: start.cache,
    };
    let interrupts = Interrupts::catch().context("cannot catch signals")?;
    let result = relink::relink(&settings, &start.slots, &interrupts, &mut start.shown);
    Ok(start.shown.finish(result)?)
}

/// The build's number and date, as far as they were chosen.
fn identity(arguments: &Relink) -> Identity {
    let variable = |name| given(&std::env::var(name).ok());
    // The variables in the order of the kernel's init/Makefile.
    let date = given(&arguments.build_timestamp)
        .or_else(|| variable("KBUILD_BUILD_VERSION_TIMESTAMP"))
        .or_else(|| variable("KBUILD_BUILD_TIMESTAMP"));
    Identity { number: given(&arguments.build_version), date }
}
