//! Which backends have to run, and why: the key of each is compared with the record of its
//! last run, and its output with what that run wrote. Must not know processes.

use crate::backend::command::native_name;
use crate::backend::inputs::{self, Common, Inputs};
use crate::error::Result;
use crate::parallel;
use crate::store::{BackendRecord, Digest, Indexed, Store};

/// One backend, and whether it has to run.
#[derive(Debug)]
pub struct Planned {
    /// The bitcode object that it compiles.
    pub object: String,
    /// All that its output is made from.
    pub inputs: Inputs,
    /// Key of the inputs.
    pub key: Digest,
    /// Size of its bitcode in bytes: the longest go first.
    pub size: u64,
    /// Why it has to run; `None` if its output is right.
    pub why: Option<String>,
}

/// Looks at all modules, on up to `threads` threads.
pub fn plan(
    store: &Store,
    common: &Common,
    modules: &[Indexed],
    threads: usize,
) -> Result<Vec<Planned>> {
    parallel::map(threads, modules, |module| plan_one(store, common, module)).into_iter().collect()
}

/// Looks at one module.
pub fn plan_one(store: &Store, common: &Common, module: &Indexed) -> Result<Planned> {
    let inputs = inputs::walk(store, common, module)?;
    let key = inputs.key();
    let size = store.files.facts(&module.object)?.size;
    let why = why(store, &module.object, &inputs, key)?;
    Ok(Planned { object: module.object.clone(), inputs, key, size, why })
}

fn why(store: &Store, object: &str, inputs: &Inputs, key: Digest) -> Result<Option<String>> {
    let Some(record) = store.backend(object) else {
        return Ok(Some("no record of an earlier run".to_owned()));
    };
    if inputs.unknown {
        return Ok(Some("a file that its assembly includes but does not name".to_owned()));
    }
    if record.key != key {
        return Ok(Some(first_change(record, inputs)));
    }
    let native = native_name(object);
    Ok(match store.files.find(&native)? {
        None => Some(format!("{native}, which is gone")),
        Some(found) if found.digest != record.output => {
            Some(format!("{native}, which was changed by others"))
        }
        Some(_) => None,
    })
}

/// Digits of a digest that a record keeps for each input: enough to tell two apart.
const SHORT: usize = 16;

/// What a record keeps of the inputs.
pub fn recorded_inputs(inputs: &Inputs) -> Vec<(String, String)> {
    let short = |digest: &Digest| digest.to_string()[..SHORT].to_owned();
    inputs.list.iter().map(|input| (input.label.clone(), short(&input.digest))).collect()
}

/// The first input that is not as it was.
fn first_change(record: &BackendRecord, inputs: &Inputs) -> String {
    let now = recorded_inputs(inputs);
    let changed = now.iter().find(|input| !record.inputs.contains(input));
    let gone = || record.inputs.iter().find(|was| !now.iter().any(|is| is.0 == was.0));
    match (changed, gone()) {
        (Some((label, _)), _) => label.clone(),
        (None, Some((label, _))) => format!("{label}, which is an input no more"),
        (None, None) => "the order of its inputs".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::inputs::Input;

    fn inputs(list: &[(&str, &str)]) -> Inputs {
        let input = |(label, text): &(&str, &str)| Input {
            label: (*label).to_owned(),
            digest: Digest::of(text.as_bytes()),
        };
        Inputs { list: list.iter().map(input).collect(), ..Inputs::default() }
    }

    #[test]
    fn the_first_change_is_named() {
        let was = inputs(&[("flags", "-O2"), ("import a.o", "1"), ("import b.o", "2")]);
        let record = BackendRecord {
            key: was.key(),
            output: Digest::of(b""),
            inputs: recorded_inputs(&was),
        };
        let why = |list: &[(&str, &str)]| first_change(&record, &inputs(list));
        assert_eq!(
            why(&[("flags", "-O2"), ("import a.o", "9"), ("import b.o", "2")]),
            "import a.o"
        );
        assert_eq!(
            why(&[("flags", "-O2"), ("import a.o", "1"), ("import c.o", "2")]),
            "import c.o"
        );
        let less = why(&[("flags", "-O2"), ("import a.o", "1")]);
        assert_eq!(less, "import b.o, which is an input no more");
        let moved = why(&[("flags", "-O2"), ("import b.o", "2"), ("import a.o", "1")]);
        assert_eq!(moved, "the order of its inputs");
    }
}
