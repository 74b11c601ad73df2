//! Everything that can change what a backend makes: one walk, read by the key and by
//! whoever explains it. Must not know whether anything runs.

use std::path::Path;

use crate::bitcode::asm::{self, Includes};
use crate::error::{Error, Result};
use crate::store::{AsmRecord, Digest, Format, Indexed, KeyBuilder, Store};

use super::flags::{self, Flags};

/// One module to compile.
#[derive(Debug, Clone)]
pub struct Module {
    /// Object, index and imports, as the thin link gave them.
    pub indexed: Indexed,
    /// Flags from the front end's record.
    pub flags: Flags,
}

/// What all backends of a run have in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// Identity of the compiler: its program, libraries, configuration.
    pub compiler: Digest,
    /// Digest of the environment that clang reads.
    pub environment: Digest,
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
pub fn environment() -> Digest {
    let mut key = KeyBuilder::new("kthinlto environment 1");
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            key.field(name.as_bytes()).field(value.as_encoded_bytes());
        }
    }
    key.finish()
}

/// Walks all inputs of one backend.
pub fn walk(store: &Store, common: &Common, module: &Module) -> Result<Inputs> {
    let object = &module.indexed.object;
    let bitcode = store.files.facts(object)?;
    if bitcode.format != Format::Bitcode {
        let found = "no bitcode, though the thin link indexed it";
        return Err(Error::bad_input(object, found, "run again: it changed meanwhile"));
    }
    let included = store.asm_includes(bitcode.digest, || asm_record(store, object))?;
    let with_folders = included.unknown || !included.files.is_empty();
    let effective = flags::effective(&module.flags.words, with_folders);

    let mut inputs = Inputs {
        unknown: included.unknown || uses_other_assembler(&effective),
        ..Inputs::default()
    };
    inputs.add("compiler", common.compiler);
    inputs.add("environment", common.environment);
    inputs.add("flags", flags_digest(&effective));
    inputs.add_file("bitcode", object, bitcode.digest);
    let index = index_name(object);
    inputs.add_file("index", &index, store.files.facts(&index)?.digest);
    for import in &module.indexed.imports {
        inputs.add_file("import", import, store.files.facts(import)?.digest);
    }
    for name in flags::named_files(&effective, |name| store.files.path(name).is_file()) {
        inputs.add_file("file named by a flag", &name, store.files.facts(&name)?.digest);
    }
    let folders = flags::include_folders(&module.flags.words);
    add_asm_files(store, &folders, &included.files, 0, &mut inputs)?;
    Ok(inputs)
}

/// Name of the index beside a bitcode object (lld's, LLVM 7 and later).
pub fn index_name(object: &str) -> String {
    format!("{object}.thinlto.bc")
}

fn flags_digest(effective: &[&str]) -> Digest {
    let mut key = KeyBuilder::new("kthinlto flags 1");
    for word in effective {
        key.field(word.as_bytes());
    }
    key.finish()
}

/// An assembler outside clang is a program that no key covers.
fn uses_other_assembler(flags: &[&str]) -> bool {
    let last = flags.iter().rev().find(|flag| flag.ends_with("integrated-as"));
    last.is_some_and(|flag| flag.contains("no-integrated-as"))
}

fn asm_record(store: &Store, object: &str) -> Result<AsmRecord> {
    let path = store.files.path(object);
    let bytes = std::fs::read(&path).map_err(|e| Error::io("read", object, e))?;
    let Includes { files, unknown } = asm::includes(&bytes).map_err(|malformed| {
        let remedy = "remove it and build it again with make";
        Error::bad_input(object, malformed.to_string(), remedy)
    })?;
    Ok(AsmRecord { files, unknown })
}

/// Included files may include others: deeper than this is a loop.
const MAX_DEPTH: usize = 16;

/// Adds files that assembly includes, where LLVM would find them: the name as it is, then
/// below each folder. Places where it is looked for in vain are inputs too.
fn add_asm_files(
    store: &Store,
    folders: &[&str],
    names: &[String],
    depth: usize,
    inputs: &mut Inputs,
) -> Result<()> {
    for name in names {
        let places = std::iter::once(name.clone()).chain(
            folders
                .iter()
                .map(|folder| Path::new(folder).join(name).to_string_lossy().into_owned()),
        );
        for place in places {
            let label = format!("file included by assembly {place}");
            if inputs.list.iter().any(|input| input.label == label) {
                break;
            }
            let Some(facts) = store.files.find(&place)? else {
                inputs.add(label, Digest::of(b"absent"));
                continue;
            };
            inputs.add(label, facts.digest);
            inputs.files.push(place.clone());
            if depth < MAX_DEPTH {
                let mut nested = Includes::default();
                let path = store.files.path(&place);
                let text = std::fs::read(&path).map_err(|e| Error::io("read", &place, e))?;
                asm::scan(&text, &mut nested);
                inputs.unknown |= nested.unknown && is_text(&text);
                add_asm_files(store, folders, &nested.files, depth + 1, inputs)?;
            }
            break;
        }
    }
    Ok(())
}

/// A binary that is included may hold any bytes; only text can include more.
fn is_text(bytes: &[u8]) -> bool {
    !bytes.contains(&0)
}
