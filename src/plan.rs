//! Which backends have to run, and why: the key of each is compared with the record of its
//! last run, and its output with what that run wrote. Must not know processes.
//!
//! ```
//! use kthinlto::backend::inputs::Common;
//! use kthinlto::environment::Environment;
//! use kthinlto::store::{Digest, Indexed, Store};
//! use kthinlto::toolchain::Tool;
//! use kthinlto::unit::Part;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tree = tempfile::tempdir()?;
//! let store = Store::open(tree.path())?;
//! let compiler = Tool::new("clang", Digest::of(b"what it is made of"), 22);
//! let common = Common::new(&compiler, &Environment::of_process());
//! let index = Digest::of(b"the bytes of panic.o.thinlto.bc");
//! let part = Part::of_vmlinux("panic.o");
//! let module = Indexed { part, index, imports: vec!["printk.o".into()] };
//! let due = kthinlto::plan::due(&store, &common, &module)?;
//! assert_eq!(due, Some(kthinlto::plan::Due::NeverRun));
//! # Ok(()) }
//! ```

use crate::backend::command::dwo_name;
use crate::backend::inputs::{self, Common};
use crate::error::Result;
use crate::inputs::{Change, Inputs, Recorded};
use crate::parallel;
use crate::store::{BackendRecord, Indexed, Store};
use crate::unit::Part;

/// Why a backend has to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// There is no record of an earlier run.
    NeverRun,
    /// Its assembly includes a file that it does not name, or that is not where it was looked for.
    Unnamed,
    /// Its assembler is a program that no key covers.
    OtherAssembler,
    /// It cannot be told which program compiles.
    UnidentifiedCompiler,
    /// An input is not as it was.
    Input(Change),
    /// A file that it made is gone.
    OutputGone(String),
    /// A file that it made was changed by others.
    OutputForeign(String),
}

/// A backend that has to run.
#[derive(Debug)]
pub struct Planned {
    /// What it compiles.
    pub part: Part,
    /// All that its output is made from.
    pub inputs: Inputs,
    /// Size of its bitcode in bytes: the longest go first.
    pub size: u64,
    /// Why it has to run.
    pub due: Due,
}

/// Looks at all modules, on up to `threads` threads; returns those that have to run.
///
/// # Errors
/// Where an object or one of its inputs cannot be read.
pub fn plan(
    store: &Store,
    common: &Common,
    modules: &[Indexed],
    threads: usize,
) -> Result<Vec<Planned>> {
    let planned = parallel::map(threads, modules, |module| plan_one(store, common, module));
    planned.into_iter().filter_map(Result::transpose).collect()
}

fn plan_one(store: &Store, common: &Common, module: &Indexed) -> Result<Option<Planned>> {
    let Some((due, inputs)) = look(store, common, module)? else {
        return Ok(None);
    };
    let size = store.files.facts(&module.part.object)?.size;
    Ok(Some(Planned { part: module.part.clone(), inputs, size, due }))
}

/// Why a module's backend has to run; `None` if its native object is right.
///
/// # Errors
/// Where an object or one of its inputs cannot be read.
pub fn due(store: &Store, common: &Common, module: &Indexed) -> Result<Option<Due>> {
    // Without an index there are no inputs to list, and no record can hold.
    match store.backend(&module.part) {
        Some(_) => Ok(look(store, common, module)?.map(|(due, _)| due)),
        None => Ok(Some(Due::NeverRun)),
    }
}

/// The same with all inputs, which are listed only where there is something to do.
fn look(store: &Store, common: &Common, module: &Indexed) -> Result<Option<(Due, Inputs)>> {
    let list = || inputs::inputs(store, common, module);
    let Some(record) = store.backend(&module.part) else {
        return Ok(Some((Due::NeverRun, list()?)));
    };
    let key = inputs::key(store, common, module)?;
    if key.unknown {
        return Ok(Some((unknown(store, common, module)?, list()?)));
    }
    if record.key != key.digest() {
        let inputs = list()?;
        let was: Vec<Recorded> = record.inputs();
        let change = Change::first(&was, &inputs.recorded());
        return Ok(Some((Due::Input(change), inputs)));
    }
    match output(store, common, module, record)? {
        Some(due) => Ok(Some((due, list()?))),
        None => Ok(None),
    }
}

fn unknown(store: &Store, common: &Common, module: &Indexed) -> Result<Due> {
    if common.is_unidentified() {
        return Ok(Due::UnidentifiedCompiler);
    }
    let set = inputs::flag_set(store, common, &module.part.object)?;
    Ok(if set.other_assembler { Due::OtherAssembler } else { Due::Unnamed })
}

/// What is wrong with the outputs of the last run, if something is.
fn output(
    store: &Store,
    common: &Common,
    module: &Indexed,
    record: &BackendRecord,
) -> Result<Option<Due>> {
    let native = module.part.native();
    match store.files.find(&native)? {
        None => return Ok(Some(Due::OutputGone(native))),
        Some(found) if found.digest != record.output => {
            return Ok(Some(Due::OutputForeign(native)));
        }
        Some(_) => {}
    }
    let splits = inputs::flag_set(store, common, &module.part.object)?.splits_dwarf;
    let beside = splits.then(|| dwo_name(&native));
    Ok(beside.filter(|name| !store.files.is_file(name)).map(Due::OutputGone))
}
