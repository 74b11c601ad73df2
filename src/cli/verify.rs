//! `kthinlto verify`: which objects, and how the findings are shown.

use std::path::Path;

use anyhow::Context;

use super::args::{Common, Verify};
use super::{make_flags, place, say, tree, verbosity};
use crate::environment::Environment;
use crate::error::Error;
use crate::exec::interrupt::Interrupts;
use crate::exec::slots::Slots;
use crate::report::console::Console;
use crate::stage;
use crate::stage::explain::last_settings;
use crate::stage::verify::{Selection, verify};
use crate::store::Store;
use crate::store::cache::Cache;

/// Verifies objects of the tree.
pub fn run(common: &Common, arguments: &Verify, dry_run: bool) -> anyhow::Result<()> {
    let tree = tree(common);
    let store = open(&tree)?;
    let Some(mut settings) = last_settings(&store, Environment::of_process()) else {
        let found = "no record of a build by kthinlto";
        let remedy = "name an object tree with -C, and build it first";
        return Err(Error::bad_input(tree, found, remedy).into());
    };
    settings.compiler = super::given(&arguments.cc).or(settings.compiler);
    let wanted = Selection {
        objects: arguments.objects.clone(),
        sample: arguments.sample,
        cache: if arguments.cache { Some(cache(arguments)?) } else { None },
    };
    if dry_run {
        say("would run backends again and compare what they make");
        return Ok(());
    }
    let make = make_flags();
    let flags = make.clone().unwrap_or_default();
    let mut console = Console::new(verbosity(common, &flags));
    let slots = Slots::granted(make.as_ref(), common.jobs.map(usize::from), stage::cores()).slots;
    let interrupts = Interrupts::catch().context("cannot catch signals")?;
    let found = verify(&settings, store, wanted, (&slots, &interrupts), &mut console)?;
    if found.differing > 0 {
        let (differing, compared) = (found.differing, found.compared);
        return Err(Error::Verify { differing, compared }.into());
    }
    let due = match found.due {
        0 => String::new(),
        due => format!("; {due} are due to be made again, and were not compared"),
    };
    say(&format!("{} objects match what their backends make{due}", found.compared));
    Ok(())
}

fn open(tree: &Path) -> Result<Store, Error> {
    // Held to the end, so that no build changes what is compared. Where nothing was built there
    // is nothing to lock.
    match tree.join(crate::store::FOLDER).is_dir() {
        true => Store::open(tree),
        false => Store::peek(tree),
    }
}

fn cache(arguments: &Verify) -> Result<Cache, Error> {
    let place = place(&arguments.place).ok_or_else(|| {
        Error::Usage("no cache is named; set KTHINLTO_CACHE_DIR, or give --cache-dir".to_owned())
    })?;
    Cache::existing(&place)
}
