//! The flags of a backend as its key sees them. Most modules of a folder share one set, so a
//! set is kept and looked at once; a module's record is read again only when it changed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::command;
use super::flags::{self, Flags};
use crate::error::{Error, Result};
use crate::flag_files::Named;
use crate::kbuild::cmd_file;
use crate::store::{Digest, Files, KeyBuilder, Store};
use crate::toolchain::Tool;

/// What a key needs to know of a set of flags.
#[derive(Debug)]
pub struct FlagSet {
    /// Digest of the flags that can change a backend's output.
    pub digest: Digest,
    /// Files that the flags name.
    pub named: Vec<String>,
    /// The backend leaves a `.dwo` file beside its object.
    pub splits_dwarf: bool,
    /// The backend leaves other files beside its object.
    pub side_files: bool,
    /// The assembler is a program outside clang, which no key covers.
    pub other_assembler: bool,
}

impl FlagSet {
    /// What a set of flags means behind the compiler's own words. Those are part of its identity,
    /// and so of no digest here; but what they ask for and name counts as if the set did.
    fn new(files: &Files, compiler: &CompilerWords, set: &[String]) -> Result<Self> {
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let own = compiler.options.iter().map(String::as_str);
        let words: Vec<&str> = own.chain(set.iter().copied()).collect();
        let mut named = Named::new(files, &compiler.folders);
        compiler.configuration.iter().try_for_each(|file| named.configure(file))?;
        named.add(&words)?;
        let taken_in: Vec<&str> = named.taken_in.iter().map(String::as_str).collect();
        Ok(FlagSet {
            digest: digest(&set),
            splits_dwarf: command::splits_dwarf(named.in_order()),
            side_files: words.iter().chain(&taken_in).any(|word| command::leaves_files(word)),
            other_assembler: uses_other_assembler(&words)
                .or_else(|| uses_other_assembler(&taken_in))
                .unwrap_or_default(),
            named: named.found,
        })
    }
}

/// What the compiler's own words add to every set of flags.
#[derive(Debug, Default)]
struct CompilerWords {
    options: Vec<String>,
    folders: Vec<String>,
    configuration: Vec<String>,
}

/// The `.cmd` file that the flags of `object` come from.
pub fn record_of(object: &str) -> String {
    cmd_file::path_for(Path::new(object)).to_string_lossy().into_owned()
}

fn digest(words: &[&str]) -> Digest {
    let mut key = KeyBuilder::new("kthinlto flags 1");
    for word in words {
        key.field(word.as_bytes());
    }
    key.finish()
}

/// What the last word about the assembler says, if there is one.
fn uses_other_assembler(words: &[&str]) -> Option<bool> {
    let last = words.iter().rev().find(|word| word.ends_with("integrated-as"));
    last.map(|word| word.contains("no-integrated-as"))
}

/// All sets of a run.
#[derive(Debug, Default)]
pub struct FlagSets {
    compiler: CompilerWords,
    sets: Mutex<HashMap<Digest, Arc<FlagSet>>>,
    /// Flags of the objects whose records were read in this run, until they are taken.
    read: Mutex<HashMap<String, Flags>>,
    /// Room for records that are read, one for each thread that has read some.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl FlagSets {
    /// Sets of flags for a compiler.
    pub fn new(compiler: &Tool) -> Self {
        let is_configuration = |file: &&String| {
            compiler.folders.iter().any(|folder| Path::new(file).starts_with(folder))
                && file.ends_with(".cfg")
        };
        let compiler = CompilerWords {
            options: compiler.options.clone(),
            folders: compiler.folders.clone(),
            configuration: compiler.files.iter().filter(is_configuration).cloned().collect(),
        };
        FlagSets { compiler, ..FlagSets::default() }
    }

    /// The set of one object's flags.
    pub fn of(&self, store: &Store, object: &str) -> Result<Arc<FlagSet>> {
        let mut bytes = self.spare().pop().unwrap_or_default();
        let set = self.set_of(store, object, &mut bytes);
        self.spare().push(bytes);
        self.resolved(store, set?)
    }

    fn set_of(&self, store: &Store, object: &str, bytes: &mut Vec<u8>) -> Result<Digest> {
        let record = record_of(object);
        let facts = store.files.find_and_read(&record, bytes)?.ok_or_else(|| Error::NoFlags {
            object: object.to_owned(),
            record: record.clone().into(),
            found: "no such file".to_owned(),
        })?;
        if let Some(set) = store.flag_set(object, facts.digest, flags::RULE) {
            return Ok(set);
        }
        if bytes.is_empty() {
            *bytes = store.files.read_known(&record)?;
        }
        let flags = flags::of_record(bytes, object)?;
        let words = flags::effective(&flags.words);
        let set = store.set_flags(object, facts.digest, flags::RULE, &words)?;
        self.read().insert(object.to_owned(), flags);
        Ok(set)
    }

    /// All flags of one object, to run its backend with. Its record is read once.
    pub fn take(&self, store: &Store, object: &str) -> Result<Flags> {
        let read = self.read().remove(object);
        match read {
            Some(read) => Ok(read),
            None => {
                let bytes = store.files.read_known(&record_of(object))?;
                flags::of_record(&bytes, object)
            }
        }
    }

    fn read(&self) -> MutexGuard<'_, HashMap<String, Flags>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolved(&self, store: &Store, set: Digest) -> Result<Arc<FlagSet>> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get(&set) {
            return Ok(Arc::clone(known));
        }
        let made = FlagSet::new(&store.files, &self.compiler, &store.flag_words(set))?;
        let made = Arc::new(made);
        sets.insert(set, Arc::clone(&made));
        Ok(made)
    }
}
