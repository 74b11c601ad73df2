//! Everything that can change what a backend makes: one walk, read by the key and by
//! whoever explains it. Must not know whether anything runs.

use std::ffi::OsString;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::bitcode::asm::{self, Includes};
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::inputs::{InputVisitor, Inputs, Key, Kind};
use crate::store::{AsmRecord, Digest, Facts, Indexed, KeyBuilder, Store};
use crate::toolchain::Tool;

use super::flags::Flags;
use super::flagset::{self, FlagSet, FlagSets};

/// What all backends of a run have in common.
#[derive(Debug)]
pub struct Common {
    /// Identity of the compiler: its words, programs, libraries, configuration.
    compiler: Digest,
    /// It cannot be told which program compiles.
    unidentified: bool,
    /// Digest of the environment that clang reads.
    environment: Digest,
    /// Sets of flags, resolved once in a run.
    sets: FlagSets,
}

impl Common {
    /// Takes the compiler, and looks at the environment that it has.
    pub fn new(compiler: &Tool, environment: &Environment) -> Self {
        Common {
            compiler: compiler.identity,
            unidentified: compiler.unidentified.is_some(),
            environment: self::environment(environment),
            sets: FlagSets::new(compiler),
        }
    }

    /// It cannot be told which program compiles.
    pub(crate) fn is_unidentified(&self) -> bool {
        self.unidentified
    }
}

/// What the keys of backends are for. It changes with the walk.
const PURPOSE: &str = "kthinlto backend 3";

/// Environment variables that clang or LLVM reads while it compiles IR (clang/lib/Driver,
/// clang/tools/driver, LLVM 22), and those of the dynamic loader.
const ENVIRONMENT: [&str; 12] = [
    "CCC_OVERRIDE_OPTIONS",
    "CCC_ADD_ARGS",
    "CLANG_CONFIG_FILE_SYSTEM_DIR",
    "CLANG_CONFIG_FILE_USER_DIR",
    "CLANG_NO_DEFAULT_CONFIG",
    "COMPILER_PATH",
    "CPATH",
    "C_INCLUDE_PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LLVM_ENABLE_ABI_BREAKING_CHECKS",
    "LLVM_OVERRIDE_PRODUCER",
];

/// What clang reads of an environment.
pub(crate) fn variables(all: &Environment) -> Vec<(OsString, OsString)> {
    let found = ENVIRONMENT.iter().filter_map(|name| Some((name.into(), all.get(name)?.into())));
    found.collect()
}

/// Digest of what clang reads of an environment.
pub(crate) fn environment(all: &Environment) -> Digest {
    let mut key = KeyBuilder::new("kthinlto environment 1");
    for (name, value) in variables(all) {
        key.field(name.as_encoded_bytes()).field(value.as_encoded_bytes());
    }
    key.finish()
}

/// The key of one backend.
pub(crate) fn key(store: &Store, common: &Common, module: &Indexed) -> Result<Key> {
    let mut key = Key::new(PURPOSE);
    walk(store, common, module, &mut key)?;
    Ok(key)
}

/// All flags of a module, to run its backend with: out of the record that the key was made from.
pub(crate) fn take_flags(store: &Store, common: &Common, object: &str) -> Result<Flags> {
    common.sets.take(store, object)
}

/// What a key knows of a module's flags: one for all whose flags differ in nothing that a backend
/// reads.
pub(crate) fn flag_set(store: &Store, common: &Common, object: &str) -> Result<Arc<FlagSet>> {
    common.sets.of(store, object)
}

/// All inputs of one backend.
pub(crate) fn inputs(store: &Store, common: &Common, module: &Indexed) -> Result<Inputs> {
    let mut inputs = Inputs::new(PURPOSE);
    walk(store, common, module, &mut inputs)?;
    Ok(inputs)
}

/// Walks all inputs of one backend: what the key is made of, and what `explain` prints.
fn walk(
    store: &Store,
    common: &Common,
    module: &Indexed,
    visitor: &mut dyn InputVisitor,
) -> Result<()> {
    let object = &module.part.object;
    let bitcode = store.files.facts(object)?;
    if bitcode.format != Format::Bitcode {
        let found = "it holds no bitcode, although the thin link indexed it";
        return Err(Error::bad_input(object, found, "run again: it changed meanwhile"));
    }
    let included = store.asm_includes(bitcode.digest, asm::RULE, || {
        asm_record_of(object, &store.files.read_known(object)?)
    })?;
    let flags = common.sets.of(store, object)?;
    if common.unidentified || included.unknown || flags.other_assembler {
        visitor.unknown();
    }
    let mut file = |kind: Kind, name: &str| -> Result<()> {
        let facts = store.files.facts(name)?;
        visitor.input(kind, name, &facts.digest);
        visitor.file(name, Some(&facts));
        Ok(())
    };
    file(Kind::Bitcode, object)?;
    file(Kind::Index, &module.part.index())?;
    module.imports.iter().try_for_each(|import| file(Kind::Import, import))?;
    flags.named.iter().try_for_each(|name| file(Kind::FlagFile, name))?;
    visitor.file(&flagset::record_of(object), None);
    visitor.input(Kind::Tool, "", &common.compiler);
    visitor.input(Kind::Environment, "", &common.environment);
    visitor.input(Kind::Flags, "", &flags.digest);
    add_asm_files(store, &included.files, visitor)
}

/// Looks, where an object was read anyhow, for what a walk will ask of it. What is wrong with
/// it is for the walk to say: until then it may not even be an input.
pub(crate) fn learn(store: &Store, object: &str, facts: Facts, bytes: &[u8]) {
    if facts.format == Format::Bitcode {
        let _ = store.asm_includes(facts.digest, asm::RULE, || asm_record_of(object, bytes));
    }
}

fn asm_record_of(object: &str, bytes: &[u8]) -> Result<AsmRecord> {
    let Includes { files, unknown } = asm::includes(bytes).map_err(|malformed| {
        let remedy = "remove it and build it again with make";
        Error::bad_input(object, malformed.to_string(), remedy)
    })?;
    Ok(AsmRecord { rule: asm::RULE, files, unknown })
}

/// Files that assembly may include, one by way of the other; a module with more is compiled each
/// time. The kernel's have one.
const MOST_INCLUDED: usize = 1000;

/// Adds files that assembly includes: LLVM looks for them in the folder where clang runs. One
/// that is not there, or is no regular file, might be found or read in a way that is not known
/// here, so that its module is compiled each time. Text may include more.
fn add_asm_files(store: &Store, names: &[String], visitor: &mut dyn InputVisitor) -> Result<()> {
    let mut seen = FxHashSet::default();
    // The next one last: what a file includes comes before what is included after it.
    let mut rest: Vec<String> = names.iter().rev().cloned().collect();
    while let Some(name) = rest.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        if seen.len() > MOST_INCLUDED {
            visitor.unknown();
            return Ok(());
        }
        let found = match store.files.find(&name) {
            Err(Error::BadInput { .. }) => None,
            found => found?,
        };
        let Some(facts) = found else {
            visitor.input(Kind::AsmFile, &name, &Digest::of(b"absent"));
            visitor.unknown();
            continue;
        };
        visitor.input(Kind::AsmFile, &name, &facts.digest);
        visitor.file(&name, Some(&facts));
        let text = store.files.read_known(&name)?;
        let mut nested = Includes::default();
        asm::scan(&text, &mut nested);
        if nested.unknown && is_text(&text) {
            visitor.unknown();
        }
        rest.extend(nested.files.into_iter().rev());
    }
    Ok(())
}

/// A binary that is included may hold any bytes; only text can include more.
fn is_text(bytes: &[u8]) -> bool {
    !bytes.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_clang_reads_of_an_environment_counts() {
        let of = |variables: &[(&str, &str)]| {
            environment(&variables.iter().copied().collect::<Environment>())
        };
        let none = of(&[]);
        assert_eq!(of(&[("MAKEFLAGS", " -j8"), ("PATH", "/bin")]), none);
        let set = of(&[("CPATH", "")]);
        assert_ne!(set, none, "an empty one is set");
        assert_ne!(of(&[("CPATH", "/include")]), set);
    }
}
