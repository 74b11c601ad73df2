//! Which backends have to run, and why: the key of each is compared with the record of its
//! last run, and its output with what that run wrote. Must not know processes.
//!
//! ```
//! use kthinlto::backend::inputs::Common;
//! use kthinlto::store::{Digest, Indexed, Store};
//! use kthinlto::toolchain::Tool;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tree = tempfile::tempdir()?;
//! let store = Store::open(tree.path())?;
//! let compiler = Tool::new("clang", Digest::of(b"what it is made of"), 22);
//! let common = Common::new(&compiler, tree.path());
//! let index = Digest::of(b"the bytes of panic.o.thinlto.bc");
//! let module = Indexed { object: "panic.o".into(), index, imports: vec!["printk.o".into()] };
//! let why = kthinlto::plan::why(&store, &common, &module)?;
//! assert_eq!(why.as_deref(), Some("no record of an earlier run"));
//! # Ok(()) }
//! ```

use crate::backend::command::{dwo_name, native_name};
use crate::backend::inputs::{self, Common, Inputs};
use crate::error::Result;
use crate::parallel;
use crate::store::{Digest, Indexed, Store};

/// A backend that has to run.
#[derive(Debug)]
pub struct Planned {
    /// The bitcode object that it compiles.
    pub object: String,
    /// All that its output is made from.
    pub inputs: Inputs,
    /// Size of its bitcode in bytes: the longest go first.
    pub size: u64,
    /// Why it has to run.
    pub why: String,
}

/// Looks at all modules, on up to `threads` threads; returns those that have to run.
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
    let Some(why) = why(store, common, module)? else {
        return Ok(None);
    };
    let inputs = inputs::inputs(store, common, module)?;
    let size = store.files.facts(&module.object)?.size;
    Ok(Some(Planned { object: module.object.clone(), inputs, size, why }))
}

/// Why a module's backend has to run; `None` if its native object is right.
pub fn why(store: &Store, common: &Common, module: &Indexed) -> Result<Option<String>> {
    let object = &module.object;
    let Some(record) = store.backend(object) else {
        return Ok(Some("no record of an earlier run".to_owned()));
    };
    let key = inputs::key(store, common, module)?;
    if key.unknown {
        return Ok(Some("a file that its assembly includes but does not name".to_owned()));
    }
    if record.key != key.digest() {
        return Ok(Some(first_change(
            &record.inputs(),
            &recorded_inputs(&inputs::inputs(store, common, module)?),
        )));
    }
    let native = native_name(object);
    Ok(match store.files.find(&native)? {
        None => Some(format!("{native}, which is gone")),
        Some(found) if found.digest != record.output => {
            Some(format!("{native}, which was changed by others"))
        }
        Some(_) if inputs::flag_set(store, common, object)?.splits_dwarf => {
            let dwo = dwo_name(&native);
            (!store.files.is_file(&dwo)).then(|| format!("{dwo}, which is gone"))
        }
        Some(_) => None,
    })
}

/// What a record keeps of the inputs.
pub fn recorded_inputs(inputs: &Inputs) -> Vec<(String, String)> {
    shortened(&inputs.list)
}

fn shortened(list: &[(String, Digest)]) -> Vec<(String, String)> {
    list.iter().map(|(label, digest)| (label.clone(), digest.short())).collect()
}

/// The first input that is not as it was. An index comes last: it holds the hashes of all
/// imported modules, and so changes with each of them.
fn first_change(was: &[(String, String)], now: &[(String, String)]) -> String {
    let changed = |index| {
        let kind = |label: &str| label.starts_with("index ") == index;
        now.iter().find(|input| kind(&input.0) && !was.contains(input))
    };
    let changed = changed(false).or_else(|| changed(true));
    let gone = || was.iter().find(|was| !now.iter().any(|is| is.0 == was.0));
    match (changed, gone()) {
        (Some((label, _)), _) => label.clone(),
        (None, Some((label, _))) => format!("{label}, which is an input no more"),
        (None, None) => "the order of its inputs".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BackendRecord;

    type List<'a> = &'a [(&'a str, &'a str)];

    fn listed(list: List<'_>) -> Vec<(String, Digest)> {
        list.iter().map(|(label, text)| (label.to_string(), Digest::of(text.as_bytes()))).collect()
    }

    #[test]
    fn the_first_change_is_named() {
        let was = listed(&[("flags", "-O2"), ("import a.o", "1"), ("import b.o", "2")]);
        let none = Digest::of(b"");
        let record = BackendRecord::new(none, none, None, &shortened(&was));
        let why = |list: List<'_>| first_change(&record.inputs(), &shortened(&listed(list)));
        assert_eq!(
            why(&[("flags", "-O2"), ("import a.o", "9"), ("import b.o", "2")]),
            "import a.o"
        );
        assert_eq!(
            why(&[("flags", "-O2"), ("import a.o", "1"), ("import c.o", "2")]),
            "import c.o"
        );
        let with_index = |index, import| why(&[("index a.o", index), ("import a.o", import)]);
        assert_eq!(with_index("2", "9"), "import a.o", "the cause, not what comes of it");
        let less = why(&[("flags", "-O2"), ("import a.o", "1")]);
        assert_eq!(less, "import b.o, which is an input no more");
        let moved = why(&[("flags", "-O2"), ("import b.o", "2"), ("import a.o", "1")]);
        assert_eq!(moved, "the order of its inputs");
    }
}
