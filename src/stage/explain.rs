//! What one native object is made from and whether its backend would run: the same walk
//! as the key's, told to a person. Reads, and changes nothing.

use std::path::Path;

use super::backends::{Backends, Job, Way, only_warn};
use super::{Settings, archives, compiler, members};
use crate::backend::inputs::{self, Common};
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::exec::executor::Choice;
use crate::inputs::{Compared, Inputs, Kind, Recorded, compare};
use crate::kbuild::module;
use crate::plan::{self, Due, Planned};
use crate::store::snapshot::Watch;
use crate::store::{BackendRecord, Indexed, Store};
use crate::thinlink::{self, ThinLink};
use crate::toolchain::{self, Role, Tool};
use crate::unit::{INDEXED, Part, Unit, VMLINUX};

/// Whether something would run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// No.
    No,
    /// Yes: what it is due to.
    Yes(T),
    /// Only starting a program would tell, and a look starts none: which, and why.
    Unknown(String),
}

impl<T> Answer<T> {
    fn of(why: Option<T>) -> Self {
        why.map_or(Answer::No, Answer::Yes)
    }

    fn unknown(role: Role, command: &str) -> Self {
        let role = role.variable();
        Answer::Unknown(format!(
            "no build in this tree has used {role} `{command}`, and it is not started to find out"
        ))
    }
}

/// All that can be said about one object.
#[derive(Debug)]
pub struct Explanation {
    /// The bitcode object.
    pub object: String,
    /// Its native object.
    pub native: String,
    /// Inputs, in the key's order, then those that are gone.
    pub inputs: Vec<Compared>,
    /// Files that the compiler is made of.
    pub tool: Vec<String>,
    /// Modules that it imports from.
    pub imports: Vec<String>,
    /// Modules that import from it: their backends run when it changes.
    pub importers: Vec<String>,
    /// The key, in hexadecimal; `None` where the compiler is not known.
    pub key: Option<String>,
    /// What the server of an engine calls its backend's action, with the size of that in bytes
    /// (`HASH/SIZE`); `None` without an engine, and where the backend can only run here.
    pub action: Option<String>,
    /// Whether its backend would run, and why.
    pub due: Answer<Due>,
    /// Whether the thin link would run first, and might change the imports.
    pub relink: Answer<String>,
}

/// Settings of the last build of a tree, as a start for looking at it in this environment.
pub fn last_settings(store: &Store, environment: Environment) -> Option<Settings> {
    let record = store.settings()?;
    Some(Settings {
        tree: store.tree().to_path_buf(),
        srctree: record.srctree.clone().into(),
        archives: record.archives.iter().map(Into::into).collect(),
        units: Vec::new(),
        modules: Vec::new(),
        module_digests: None,
        compiler: record.compiler.clone(),
        linker: record.linker.clone(),
        linker_flags: record.linker_flags.clone(),
        stable_names: record.compiler.as_deref().is_some_and(super::keeps_names),
        dry_run: true,
        keep_going: false,
        executor: Choice::Process,
        scratch_in_memory: false,
        verify: 0.0,
        cache: None,
        tool_digests: None,
        engine: None,
        environment,
    })
}

/// Explains one object of the tree; `name` is the object, its native object or its stem.
///
/// # Errors
/// Where the tree has no record of a thin link or no such object, or an input cannot be read.
pub fn explain(settings: &Settings, mut store: Store, name: &str) -> Result<Explanation> {
    let modules = linked(&store)?;
    let module = find(&modules, name, &settings.tree)?;
    let object = &module.part.object;
    let unit = unit_of(settings, &store, &module.part)?;
    let relink = why_relink(settings, &mut store, unit)?;
    let command = compiler(settings, object)?;
    let Settings { tree, environment, .. } = settings;
    let known = toolchain::known(Role::Compiler, &command, &store, environment)?;
    let is_known = known.is_some();
    let compiler = known.unwrap_or_else(|| toolchain::unknown(&command, tree, environment));
    let common = Common::new(&compiler, environment);
    let inputs = inputs::inputs(&store, &common, module)?;
    let action = match is_known {
        true => action(settings, &store, &compiler, module)?,
        false => None,
    };
    let importers = modules.iter().filter(|other| {
        let is_beside = other.part.unit == module.part.unit;
        is_beside && other.imports.iter().any(|name| **name == **object)
    });
    Ok(Explanation {
        object: module.part.label().into_owned(),
        native: module.part.native(),
        inputs: compared(&inputs, store.backend(&module.part), is_known),
        tool: compiler.files.clone(),
        imports: module.imports.iter().map(|name| name.to_string()).collect(),
        importers: importers.map(|other| other.part.label().into_owned()).collect(),
        key: is_known.then(|| inputs.key.digest().to_string()),
        action,
        due: match is_known {
            true => Answer::of(plan::due(&store, &common, module)?),
            false => Answer::unknown(Role::Compiler, &command),
        },
        relink,
    })
}

/// What the server of the engine that is set would call the action of a module's backend.
fn action(
    settings: &Settings,
    store: &Store,
    compiler: &Tool,
    module: &Indexed,
) -> Result<Option<String>> {
    let Some(make) = &settings.engine else {
        return Ok(None);
    };
    let common = Common::new(compiler, &settings.environment);
    let inputs = inputs::inputs(store, &common, module)?;
    let size = store.files.facts(&module.part.object)?.size;
    let planned = Planned { part: module.part.clone(), inputs, size, due: Due::NeverRun };
    let job = Job::new(store, &common, planned)?;
    let only_warn = only_warn(settings);
    let backends = Backends::new(compiler.clone(), common, only_warn);
    if !backends.may_leave(&job) {
        return Ok(None);
    }
    let action = backends.action(settings, store, &job, Way::Elsewhere)?;
    Ok(make.make()?.digest(&action))
}

/// What the last thin links of all units indexed.
pub(super) fn linked(store: &Store) -> Result<Vec<Indexed>> {
    let mut links = store.links().peekable();
    if links.peek().is_none() {
        let found = "no record of a thin link";
        let remedy = "run `kthinlto build` there first, through make or by hand";
        return Err(Error::bad_input(store.tree(), found, remedy));
    }
    Ok(links.flat_map(|link| link.modules.iter().cloned()).collect())
}

/// All that can be said about the thin link.
#[derive(Debug)]
pub struct ThinLinkExplanation {
    /// Its inputs, in the key's order. What they were is on no record.
    pub inputs: Vec<Recorded>,
    /// Files that the linker is made of.
    pub tool: Vec<String>,
    /// Whether it would run, and why.
    pub due: Answer<String>,
}

/// Explains the thin link, which is known by the list that it makes.
///
/// # Errors
/// Where an archive, a member or a setting cannot be read or used.
pub fn explain_thin_link(settings: &Settings, mut store: Store) -> Result<ThinLinkExplanation> {
    let mut unit = kernel(settings)?;
    let due = why_relink(settings, &mut store, unit.clone())?;
    let names = std::mem::take(&mut unit.members);
    let (members, _) = members::look(&store, settings, names, 1)?;
    let command = settings.linker.as_deref().unwrap_or_default();
    let Settings { tree, environment, .. } = settings;
    let known = toolchain::known(Role::Linker, command, &store, environment)?;
    let linker = known.clone().unwrap_or_else(|| toolchain::unknown(command, tree, environment));
    let flags = super::links::flags(settings, &unit, &members)?;
    let link = ThinLink { linker: &linker, flags: &flags, members: &members };
    let mut inputs = link.inputs(&store)?.recorded();
    let linker_of = |input: &&mut Recorded| input.0.kind == Kind::Tool && known.is_none();
    inputs.iter_mut().filter(linker_of).for_each(|input| input.1 = UNKNOWN.to_owned());
    Ok(ThinLinkExplanation { inputs, tool: linker.files.clone(), due })
}

/// The module that a person means: by its object, its native object or its stem.
pub(super) fn find<'a>(modules: &'a [Indexed], name: &str, tree: &Path) -> Result<&'a Indexed> {
    let plain = name.strip_prefix("./").unwrap_or(name);
    let names = [plain.to_owned(), format!("{plain}.o")];
    let is_it = |module: &&Indexed| {
        names.contains(&module.part.object)
            || module.part.native() == plain
            || module.part.label() == plain
    };
    modules.iter().find(is_it).ok_or_else(|| {
        let objects = modules.iter().map(|module| module.part.object.as_str());
        let hint = match alike(plain, objects).as_slice() {
            [] => format!("{} lists the modules", INDEXED),
            [one] => format!("did you mean {one}?"),
            [others @ .., last] => format!("did you mean {} or {last}?", others.join(", ")),
        };
        Error::bad_input(tree.join(plain), "not a module that the thin link indexed", hint)
    })
}

/// How many names a hint gives.
const HINTS: usize = 3;

/// The objects that a mistyped name may stand for, the likeliest first: those of the same
/// file name in whatever folder, else those that differ in a few letters.
fn alike<'a>(name: &str, objects: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let stem = |name: &str| {
        let plain = name.strip_suffix(".c").or(name.strip_suffix(".o")).unwrap_or(name);
        plain.strip_suffix(".thinlto-native").unwrap_or(plain).to_owned()
    };
    let wanted = stem(name);
    let few = wanted.len() / 4 + 1;
    let file = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let mut found: Vec<(bool, usize, &str)> = objects
        .map(|object| (stem(object), object))
        .map(|(path, object)| {
            let distance = strsim::damerau_levenshtein(&wanted, &path);
            (file(&path) != file(&wanted), distance, object)
        })
        .filter(|(other_file, distance, _)| !other_file || *distance <= few)
        .collect();
    found.sort_unstable();
    found.into_iter().take(HINTS).map(|(_, _, object)| object).collect()
}

fn kernel(settings: &Settings) -> Result<Unit> {
    Ok(Unit::vmlinux(archives::member_names(settings, &mut Watch::default())?))
}

/// The unit that a part belongs to, as its records have it now.
fn unit_of(settings: &Settings, store: &Store, part: &Part) -> Result<Unit> {
    let is_it = |unit: &&str| Unit::new(*unit, Vec::new()).qualifier() == part.unit;
    let name = store.links().map(|link| link.unit.as_str()).find(is_it).unwrap_or(VMLINUX);
    if name == VMLINUX {
        return kernel(settings);
    }
    let module = module::read(&settings.tree, &format!("{name}.o"), &mut |_| ())?;
    module.map(Unit::module).ok_or_else(|| {
        let found = "its record does not say any more that it is linked from bitcode";
        Error::bad_input(format!("{name}.o"), found, "build it again with make")
    })
}

/// Why the next build would begin with a thin link of this unit.
fn why_relink(settings: &Settings, store: &mut Store, mut unit: Unit) -> Result<Answer<String>> {
    let names = std::mem::take(&mut unit.members);
    let (members, _) = members::look(store, settings, names, 1)?;
    let Some(command) = &settings.linker else {
        return Ok(Answer::No);
    };
    let known = toolchain::known(Role::Linker, command, store, &settings.environment)?;
    let Some(linker) = known else {
        return Ok(Answer::unknown(Role::Linker, command));
    };
    let flags = super::links::flags(settings, &unit, &members)?;
    let link = ThinLink { linker: &linker, flags: &flags, members: &members };
    let key = link.key(store)?;
    if thinlink::is_current(store, &unit.name, key, 1)?.is_some() {
        return Ok(Answer::No);
    }
    let why = "members, the linker, its flags or an index changed since the last one";
    Ok(Answer::Yes(why.to_owned()))
}

/// What a digest is called that only starting a program would tell.
const UNKNOWN: &str = "unknown         ";

fn compared(inputs: &Inputs, record: Option<&BackendRecord>, compiler: bool) -> Vec<Compared> {
    let mut now = inputs.recorded();
    let compiler_of = |input: &&mut Recorded| input.0.kind == Kind::Tool && !compiler;
    now.iter_mut().filter(compiler_of).for_each(|input| input.1 = UNKNOWN.to_owned());
    let before: Vec<Recorded> = record.map(BackendRecord::inputs).unwrap_or_default();
    compare(&now, &before)
}

#[cfg(test)]
mod tests {
    use super::alike;

    #[test]
    fn a_mistyped_name_finds_what_was_meant() {
        let all = ["kernel/panic.o", "kernel/sched/core.o", "drivers/base/core.o", "mm/slub.o"];
        let hints = |name| alike(name, all.into_iter());
        assert_eq!(hints("kernel/panik.o"), ["kernel/panic.o"]);
        assert_eq!(hints("panic"), ["kernel/panic.o"]);
        assert_eq!(hints("panic.c"), ["kernel/panic.o"]);
        assert_eq!(hints("kernel/core.o"), ["kernel/sched/core.o", "drivers/base/core.o"]);
        assert_eq!(hints("mm/slab.thinlto-native.o"), ["mm/slub.o"]);
        assert!(hints("fs/ext4/inode.o").is_empty());
    }
}
