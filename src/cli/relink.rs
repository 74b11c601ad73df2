//! `kthinlto relink`: settings of a relink from the command line and the environment.

use anyhow::Context;

use super::args::{Common, Relink, Scratch};
use super::reports::{About, Shown};
use super::{given, make_flags, place, tree, verbosity};
use crate::exec::interrupt::Interrupts;
use crate::exec::slots::Slots;
use crate::relink::{self, Identity, Settings};
use crate::report::{Event, Listener};
use crate::stage;

/// Relinks the tree.
pub fn run(common: &Common, arguments: &Relink) -> anyhow::Result<()> {
    let make = make_flags();
    let flags = make.clone().unwrap_or_default();
    let dry_run = common.dry_run || flags.dry_run;
    let tree = tree(common);
    let about = About { command: "relink", tree: &tree, dry_run };
    let mut shown = Shown::new(verbosity(common, &flags), &arguments.reports, &flags, about)?;
    let asked = common.jobs.map(usize::from);
    let granted = Slots::granted(make.as_ref(), asked, stage::cores());
    if let Some(warning) = granted.warning {
        shown.on(&Event::Warning(&warning));
    }
    let settings = Settings {
        tree: tree.clone(),
        until: arguments.until.clone(),
        nm: given(&arguments.nm),
        identity: identity(arguments),
        dry_run,
        keep_going: common.keep_going || flags.keep_going,
        executor: arguments.executor,
        scratch_in_memory: arguments.scratch == Scratch::Memory,
        cache: place(&arguments.cache).map(|folder| (folder, arguments.cache.cache_size)),
    };
    let interrupts = Interrupts::catch().context("cannot catch signals")?;
    let result = relink::relink(&settings, &granted.slots, &interrupts, &mut shown);
    Ok(shown.finish(result)?)
}

/// The build's number and date, as far as they were chosen.
fn identity(arguments: &Relink) -> Identity {
    let of_version = std::env::var("KBUILD_BUILD_VERSION_TIMESTAMP").ok();
    Identity {
        number: given(&arguments.build_version),
        date: given(&of_version).or_else(|| given(&arguments.build_timestamp)),
    }
}
