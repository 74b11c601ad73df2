//! From the objects of a built tree to `vmlinux`, without make: the LTO stage, then kbuild's steps
//! after it, each with the command that make recorded and only if something it reads changed.
//! Knows the order; how a step is made is its file's.
//!
//! ```text
//! tree ─► stage ─► planner ─► steps, final_link, btf, version ─► recipe ─► work
//! ```

mod btf;
mod command;
mod compile;
pub mod explain;
mod final_link;
mod inputs;
mod lines;
mod modules;
mod planner;
mod reads;
mod recipe;
mod records;
mod steps;
mod tree;
mod version;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

pub use self::compile::watch::note_made;
pub use self::version::Identity;

use self::planner::Planner;
use self::recipe::Recipe;
use self::tree::Tree;
use self::work::{Context, RelinkWork, sweep};
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::exec::executor::{Choice, MakeEngine, Processes};
use crate::exec::interrupt::Interrupts;
use crate::exec::run::Runner;
use crate::exec::slots::Slots;
use crate::report::{Event, Listener, Summary};
use crate::stage;
use crate::store::cache::Place;
use crate::store::{FOLDER, Store};
use crate::unit::ARCHIVE;

/// Beginning of the names of folders that outputs are written to first.
const SCRATCH: &str = "relink.";

/// What a relink is to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The object tree.
    pub tree: PathBuf,
    /// These modules instead of vmlinux: by their objects or `.ko` files, or lists of them.
    pub modules: Vec<PathBuf>,
    /// First compile the objects whose sources changed.
    pub compile: bool,
    /// Stop after this step.
    pub until: Option<String>,
    /// `NM`, for trees whose records do not tell.
    pub nm: Option<String>,
    /// `PAHOLE`, for kernels with BTF; the records do not tell it.
    pub pahole: String,
    /// Number and date of the build.
    pub identity: Identity,
    /// This program's file, if it has the command `link-vmlinux`: where that was seen to make
    /// what the kernel's script makes, it does the final link.
    pub program: Option<PathBuf>,
    /// `-n`: say what would be done.
    pub dry_run: bool,
    /// `-k`: go on after a failed backend.
    pub keep_going: bool,
    /// How backends are started.
    pub executor: Choice,
    /// The thin link may write in memory first.
    pub scratch_in_memory: bool,
    /// Promoted functions keep their names, also where the last stage did not keep them.
    pub stable_names: bool,
    /// Share of objects that the stage verifies, in percent.
    pub verify: f64,
    /// The shared cache, if one is to be used.
    pub cache: Option<Place>,
    /// As [`stage::Settings::tool_digests`].
    pub tool_digests: Option<PathBuf>,
    /// Other machines that run backends beside this one, if there are any.
    pub engine: Option<Arc<dyn MakeEngine>>,
    /// Where variables are looked up: `PATH`, and those that compilers and the dynamic loader read.
    /// The programs that are run inherit the environment of the process.
    pub environment: Environment,
}

/// Relinks a tree. Each file is replaced when its step is done; a failed or interrupted run
/// leaves the others, and `vmlinux`, as they were.
///
/// # Errors
/// Where the tree cannot be relinked, a step fails, a file cannot be read or written, or a signal
/// asks us to stop.
pub fn relink(
    settings: &Settings,
    slots: &Slots,
    interrupts: &Interrupts,
    listener: &mut dyn Listener,
) -> Result<()> {
    let tree = Tree::recognize(&settings.tree, settings.nm.as_deref(), &settings.pahole)?;
    let tree = Tree { is_look: settings.dry_run, ..tree };
    let objects = stage::module_objects(&settings.tree, &settings.modules)?;
    if objects.is_empty() && !settings.modules.is_empty() {
        return Ok(()); // a tree without modules
    }
    check(settings, &tree, &objects)?;
    if settings.compile {
        let compiled = compile::compile(settings, &tree, slots, interrupts, listener)?;
        if settings.dry_run && compiled > 0 {
            listener.on(&Event::Warning(
                "what else would run depends on what these compile to: the stage is not shown",
            ));
            return Ok(());
        }
    }
    let stage = stage_settings(settings, &tree);
    let (mut store, summary) = stage::build_keeping_store(&stage, slots, interrupts, listener)?;
    if !settings.dry_run {
        match objects.is_empty() {
            true => records::check_members(&tree, &mut store)?,
            false => records::check_parts(&tree, &store, &objects)?,
        }
    }
    if settings.until.as_deref() == Some(ARCHIVE) {
        return Ok(());
    }
    let of = (&tree, objects.as_slice());
    let result = finish(settings, of, &mut store, &summary, slots, interrupts, listener);
    let flushed = store.flush();
    result.and(flushed)
}

/// Fails where the tree cannot be relinked, as far as that can be told before the stage.
fn check(settings: &Settings, tree: &Tree, objects: &[String]) -> Result<()> {
    match settings.modules.is_empty() {
        true => steps::check(tree)?,
        false => modules::check(tree, objects)?,
    }
    tree.check_tools(&settings.environment)?;
    if settings.dry_run {
        return Ok(());
    }
    match settings.modules.is_empty() {
        true => records::check_before(tree, &records::members(tree)?),
        false => records::check_before(tree, &records::parts(tree, objects)?),
    }
}

/// The steps after the stage.
fn finish(
    settings: &Settings,
    (tree, objects): (&Tree, &[String]),
    store: &mut Store,
    summary: &Summary,
    slots: &Slots,
    interrupts: &Interrupts,
    listener: &mut dyn Listener,
) -> Result<()> {
    let folder = tree.folder.join(FOLDER);
    let aside = match settings.dry_run {
        true => None,
        false => {
            sweep(&folder, SCRATCH);
            let made = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&folder);
            Some(made.map_err(|e| Error::io("make a folder in", &folder, e))?)
        }
    };
    let scratch = match aside.as_ref().and_then(|aside| aside.path().file_name()) {
        Some(name) => format!("{FOLDER}/{}", name.to_string_lossy()),
        None => format!("{FOLDER}/{SCRATCH}X"),
    };
    let identity = &settings.identity.of(&tree.read_source("init/Makefile")?);
    for made in objects.iter().map(String::as_str).chain([ARCHIVE]) {
        store.files.find_again(made)?; // it may have been written since it was looked at
    }
    let (program, environment) = (settings.program.as_deref(), &settings.environment);
    let planner = Planner { tree, store, scratch: &scratch, identity, program, environment };
    let recipe: Recipe = match objects.is_empty() {
        true => planner.recipe()?,
        false => planner.modules_recipe(objects)?,
    };
    let recipe = match &settings.until {
        Some(name) => recipe.until(name)?,
        None => recipe,
    };
    listener.on(&Event::Phase("link"));
    let with =
        Context { tree, store, recipe: &recipe, scratch: &scratch, identity, slots, listener };
    let mut run = RelinkWork::new(with);
    if settings.dry_run {
        let has_btf = match objects.is_empty() {
            true => btf::is_on(tree),
            false => btf::is_on_for_modules(tree),
        };
        if has_btf {
            run.warn(
                "a dry run asks neither make nor pahole for the flags of BTF: links that need them are \
                 shown, though they may be up to date",
            );
        }
        return run.announce_all(summary.modules == 0 || summary.rebuilt > 0);
    }
    let runner = Runner { slots, interrupts, keep_going: false };
    let ended = runner.run(&mut Processes, &mut run);
    match run.failure() {
        Some(error) => Err(error),
        None => ended.map(drop),
    }
}

fn stage_settings(settings: &Settings, tree: &Tree) -> stage::Settings {
    stage::Settings {
        tree: tree.folder.clone(),
        srctree: tree.sources.clone(),
        archives: match settings.modules.is_empty() {
            true => tree.archives.clone(),
            false => Vec::new(),
        },
        units: Vec::new(),
        // modpost reads the objects of all modules.
        modules: match settings.modules.is_empty() {
            true => Vec::new(),
            false => vec![modules::LIST.into()],
        },
        module_digests: None,
        compiler: Some(tree.compiler.clone()),
        linker: Some(tree.link.linker.clone()),
        linker_flags: tree.link.flags.clone(),
        stable_names: settings.stable_names || stage::kept_names(&tree.folder),
        dry_run: settings.dry_run,
        keep_going: settings.keep_going,
        executor: settings.executor,
        scratch_in_memory: settings.scratch_in_memory,
        verify: settings.verify,
        cache: settings.cache.clone(),
        tool_digests: settings.tool_digests.clone(),
        engine: settings.engine.clone(),
        environment: settings.environment.clone(),
    }
}
