//! What the state of a tree says of one thing: a module, a thin link, a backend or a step, a tool,
//! flags. Plain data, in the layout that the log has on disk: a change of it changes the log's
//! magic line. Must not know the log.

use std::sync::Arc;

use rustc_hash::FxHashMap as HashMap;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::unit::Part;

/// What was learnt from a thin link about one module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indexed {
    /// The bitcode object, and the unit whose thin link it was.
    pub part: Part,
    /// Digest of its index.
    pub index: Digest,
    /// Objects that it imports from.
    pub imports: Vec<Arc<str>>,
}

/// A thin link that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "PackedLink", try_from = "PackedLink")]
pub struct LinkRecord {
    /// The unit that was linked.
    pub unit: String,
    /// Key of all that went into it.
    pub key: Digest,
    /// The indexed modules, in link order.
    pub modules: Vec<Indexed>,
}

/// A thin link on disk: each name once, imports as numbers of names.
#[derive(Serialize, Deserialize)]
struct PackedLink {
    unit: String,
    qualifier: Option<String>,
    key: Digest,
    names: Vec<String>,
    modules: Vec<(u32, Digest, Vec<u32>)>,
}

impl From<LinkRecord> for PackedLink {
    fn from(link: LinkRecord) -> Self {
        let mut names = Vec::new();
        let mut numbers: HashMap<String, u32> = HashMap::default();
        let mut number = |name: &str| {
            *numbers.entry(name.to_owned()).or_insert_with(|| {
                names.push(name.to_owned());
                names.len() as u32 - 1
            })
        };
        let modules = link.modules.iter().map(|module| {
            let object = number(&module.part.object);
            (object, module.index, module.imports.iter().map(|name| number(name)).collect())
        });
        let modules = modules.collect();
        let first = link.modules.first().and_then(|module| module.part.unit.as_deref());
        let qualifier = first.map(str::to_owned);
        PackedLink { unit: link.unit, qualifier, key: link.key, names, modules }
    }
}

/// Bytes of names that the modules of one link may have in all; a defconfig has 100 KB.
const MOST_NAMES: usize = 64 << 20;

impl TryFrom<PackedLink> for LinkRecord {
    type Error = &'static str;

    fn try_from(packed: PackedLink) -> Result<Self, Self::Error> {
        let names: Vec<Arc<str>> = packed.names.into_iter().map(Arc::from).collect();
        let unit: Option<Arc<str>> = packed.qualifier.map(Arc::from);
        let name = |number: u32| names.get(number as usize).cloned().ok_or("a name of no number");
        let mut taken = 0;
        let mut modules = Vec::new();
        for (object, index, imports) in packed.modules {
            let object = name(object)?.to_string();
            // One name may be that of many: it is copied for each.
            taken += object.len();
            if taken > MOST_NAMES {
                return Err("names without end");
            }
            let imports = imports.into_iter().map(name).collect::<Result<_, _>>()?;
            let part = Part { object, unit: unit.clone() };
            modules.push(Indexed { part, index, imports });
        }
        Ok(LinkRecord { unit: packed.unit, key: packed.key, modules })
    }
}

/// What a backend took when it ran: what the next run plans and estimates with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall time in milliseconds.
    pub wall: u32,
    /// CPU time in milliseconds.
    pub cpu: u32,
    /// The most memory that it held, in KiB.
    pub peak: u32,
}

/// A backend that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendRecord {
    /// Key of all that went into it.
    pub key: Digest,
    /// Digest of the native object.
    pub output: Digest,
    /// What it took; unknown where the object came from the shared cache, and was not made
    /// here before.
    pub cost: Option<Cost>,
    /// Each input's label and the start of its digest, packed: read only to say what changed.
    #[serde(with = "serde_bytes")]
    inputs: Vec<u8>,
}

impl BackendRecord {
    /// A record of a backend with these inputs: what they are, and the start of their digests.
    pub fn new<I: Serialize + ?Sized>(
        key: Digest,
        output: Digest,
        cost: Option<Cost>,
        inputs: &I,
    ) -> Self {
        const USUAL: usize = 1024;
        // Plain data into memory: there is nothing that could fail.
        let mut inputs = postcard::to_extend(inputs, Vec::with_capacity(USUAL)).unwrap_or_default();
        inputs.shrink_to_fit();
        BackendRecord { key, output, cost, inputs }
    }

    /// The inputs, as they were given.
    pub fn inputs<I: serde::de::DeserializeOwned + Default>(&self) -> I {
        postcard::from_bytes(&self.inputs).unwrap_or_default()
    }
}

/// What was learnt about a compiler or linker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRecord {
    /// Version of the rules by which all this was found.
    pub rule: u32,
    /// The words that are run.
    pub argv: Vec<String>,
    /// Programs, the libraries that they load, and configuration files.
    pub files: Vec<String>,
    /// Folders where it looks for configuration files.
    pub folders: Vec<String>,
    /// Digest of the loader's cache when they were looked up.
    pub loader: Option<Digest>,
    /// Digest over all of them, at the time when `release` was asked for.
    pub identity: Digest,
    /// Major version.
    pub release: u32,
    /// The program that compiles, as the compiler names it.
    pub behind: Option<String>,
    /// Why it cannot be told what runs.
    pub unidentified: Option<String>,
    /// Nothing but the words and the files decides what runs.
    pub self_contained: bool,
}

/// Files that a module's assembly includes (by the module's digest).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsmRecord {
    /// Version of the rules by which they were found.
    pub rule: u32,
    /// Names as written.
    pub files: Vec<String>,
    /// There are others that could not be read.
    pub unknown: bool,
}

/// What a build was asked to do, for commands that look at the tree later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsRecord {
    /// The archives.
    pub archives: Vec<String>,
    /// `srctree`.
    pub srctree: String,
    /// `CC`, if it was given.
    pub compiler: Option<String>,
    /// `LD`, if it was given.
    pub linker: Option<String>,
    /// `KBUILD_LDFLAGS`.
    pub linker_flags: String,
}

/// Which flags an object's `.cmd` file gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagsRecord {
    /// Version of the rules by which the set was made.
    pub rule: u32,
    /// Content of the `.cmd` file.
    pub record: Digest,
    /// The set of flags.
    pub set: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_for_thousands_of_modules_is_no_record() {
        let module = (0, Digest::of(b""), Vec::new());
        let packed = |modules: usize, names: &[String]| PackedLink {
            unit: "vmlinux".to_owned(),
            qualifier: None,
            key: Digest::of(b"link"),
            names: names.to_vec(),
            modules: vec![module.clone(); modules],
        };
        let read = |packed| {
            let bytes = postcard::to_stdvec(&packed).unwrap();
            postcard::from_bytes::<LinkRecord>(&bytes).map(|link| link.modules.len())
        };
        assert_eq!(read(packed(20, &["a.o".to_owned()])), Ok(20));
        assert!(read(packed(2000, &["x".repeat(5 << 20)])).is_err());
        assert!(read(packed(1, &[])).is_err(), "a number of no name");
    }
}
