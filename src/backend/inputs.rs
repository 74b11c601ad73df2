//! Everything that can change what a backend makes: one walk, read by the key and by
//! whoever explains it. Must not know whether anything runs.

use std::fs;

use crate::bitcode::asm::{self, Includes};
use crate::error::{Error, Result};
use crate::store::{AsmRecord, Digest, Format, Indexed, KeyBuilder, Store};

use super::flagset::{self, FlagSets};

/// What all backends of a run have in common.
#[derive(Debug)]
pub struct Common {
    /// Identity of the compiler: its program, libraries, configuration.
    compiler: Digest,
    /// Digest of the environment that clang reads.
    environment: Digest,
    /// Sets of flags, resolved once in a run.
    sets: FlagSets,
}

impl Common {
    /// Takes the compiler's identity and looks at the environment.
    pub fn new(compiler: Digest) -> Self {
        Common { compiler, environment: environment(), sets: FlagSets::default() }
    }
}

/// One input: what it is, and a digest of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// For people: `import kernel/cpu.o`, `flags`.
    pub label: String,
    /// Content.
    pub digest: Digest,
}

/// All inputs of a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// In a fixed order.
    pub list: Vec<Input>,
    /// Files among them, by name below the tree: to see that they did not change meanwhile.
    pub files: Vec<String>,
    /// Something is included that could not be named: the backend has to run every time.
    pub unknown: bool,
}

impl Inputs {
    fn add(&mut self, label: impl Into<String>, digest: Digest) {
        let label = label.into();
        self.list.push(Input { label, digest });
    }

    fn add_file(&mut self, kind: &str, name: &str, digest: Digest) {
        self.add(format!("{kind} {name}"), digest);
        self.files.push(name.to_owned());
    }

    /// The key: equal keys mean equal output.
    pub fn key(&self) -> Digest {
        let mut key = KeyBuilder::new("kthinlto backend 1");
        for input in &self.list {
            key.field(input.label.as_bytes()).digest(&input.digest);
        }
        key.finish()
    }
}

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

/// Digest of the environment that clang reads.
fn environment() -> Digest {
    let mut key = KeyBuilder::new("kthinlto environment 1");
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            key.field(name.as_bytes()).field(value.as_encoded_bytes());
        }
    }
    key.finish()
}

/// Walks all inputs of one backend.
pub fn walk(store: &Store, common: &Common, module: &Indexed) -> Result<Inputs> {
    let object = &module.object;
    let bitcode = store.files.facts(object)?;
    if bitcode.format != Format::Bitcode {
        let found = "no bitcode, though the thin link indexed it";
        return Err(Error::bad_input(object, found, "run again: it changed meanwhile"));
    }
    let included = store.asm_includes(bitcode.digest, || asm_record(store, object))?;
    let flags = common.sets.of(store, object)?;

    let mut inputs =
        Inputs { unknown: included.unknown || flags.other_assembler, ..Inputs::default() };
    inputs.add("compiler", common.compiler);
    inputs.add("environment", common.environment);
    inputs.add("flags", flags.digest);
    inputs.files.push(flagset::record_of(object));
    inputs.add_file("bitcode", object, bitcode.digest);
    let index = index_name(object);
    inputs.add_file("index", &index, store.files.facts(&index)?.digest);
    for import in &module.imports {
        inputs.add_file("import", import, store.files.facts(import)?.digest);
    }
    for name in &flags.named {
        inputs.add_file("file named by a flag", name, store.files.facts(name)?.digest);
    }
    add_asm_files(store, &included.files, 0, &mut inputs)?;
    Ok(inputs)
}

/// Name of the index beside a bitcode object (lld's, LLVM 7 and later).
pub fn index_name(object: &str) -> String {
    format!("{object}.thinlto.bc")
}

fn asm_record(store: &Store, object: &str) -> Result<AsmRecord> {
    let path = store.files.path(object);
    let bytes = fs::read(&path).map_err(|e| Error::io("read", object, e))?;
    let Includes { files, unknown } = asm::includes(&bytes).map_err(|malformed| {
        let remedy = "remove it and build it again with make";
        Error::bad_input(object, malformed.to_string(), remedy)
    })?;
    Ok(AsmRecord { files, unknown })
}

/// Included files may include others: deeper than this is a loop.
const MAX_DEPTH: usize = 16;

/// Adds files that assembly includes: LLVM looks for them in the folder where clang runs. One
/// that is not there might be found in a way that is not known here, so that its module is
/// compiled each time.
fn add_asm_files(store: &Store, names: &[String], depth: usize, inputs: &mut Inputs) -> Result<()> {
    for name in names {
        let label = format!("file included by assembly {name}");
        if inputs.list.iter().any(|input| input.label == label) {
            continue;
        }
        let Some(facts) = store.files.find(name)? else {
            inputs.add(label, Digest::of(b"absent"));
            inputs.unknown = true;
            continue;
        };
        inputs.add(label, facts.digest);
        inputs.files.push(name.clone());
        if depth < MAX_DEPTH {
            let text = fs::read(store.files.path(name)).map_err(|e| Error::io("read", name, e))?;
            let mut nested = Includes::default();
            asm::scan(&text, &mut nested);
            inputs.unknown |= nested.unknown && is_text(&text);
            add_asm_files(store, &nested.files, depth + 1, inputs)?;
        }
    }
    Ok(())
}

/// A binary that is included may hold any bytes; only text can include more.
fn is_text(bytes: &[u8]) -> bool {
    !bytes.contains(&0)
}
