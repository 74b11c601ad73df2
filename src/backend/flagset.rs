//! The flags of a backend as its key sees them. Most modules of a folder share one set, so a
//! set is kept and looked at once; a module's record is read again only when it changed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::command;
use super::flags::{self, Flags};
use crate::error::{Error, Result};
use crate::flag_files::named_files;
use crate::kbuild::cmd_file::{self, CmdFile};
use crate::store::{Digest, KeyBuilder, Store};

/// What a key needs to know of a set of flags.
#[derive(Debug)]
pub struct FlagSet {
    /// Digest of the flags that can change a backend's output.
    pub digest: Digest,
    /// Files that the flags name.
    pub named: Vec<String>,
    /// The backend leaves a `.dwo` file beside its object.
    pub splits_dwarf: bool,
    /// The assembler is a program outside clang, which no key covers.
    pub other_assembler: bool,
}

impl FlagSet {
    fn new(words: &[String], is_file: impl Fn(&str) -> bool) -> Self {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        FlagSet {
            digest: digest(&words),
            named: named_files(&words, is_file),
            splits_dwarf: command::splits_dwarf(words.iter().copied()),
            other_assembler: uses_other_assembler(&words),
        }
    }
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

fn uses_other_assembler(words: &[&str]) -> bool {
    let last = words.iter().rev().find(|word| word.ends_with("integrated-as"));
    last.is_some_and(|word| word.contains("no-integrated-as"))
}

/// All sets of a run.
#[derive(Debug, Default)]
pub struct FlagSets {
    sets: Mutex<HashMap<Digest, Arc<FlagSet>>>,
    /// Flags of the objects whose records were read in this run, until they are taken.
    read: Mutex<HashMap<String, Flags>>,
}

impl FlagSets {
    /// The set of one object's flags.
    pub fn of(&self, store: &Store, object: &str) -> Result<Arc<FlagSet>> {
        let record = record_of(object);
        let mut bytes = Vec::new();
        let facts =
            store.files.find_and_read(&record, &mut bytes)?.ok_or_else(|| Error::NoFlags {
                object: object.to_owned(),
                record: record.into(),
                found: "no such file".to_owned(),
            })?;
        let set = match store.flag_set(object, facts.digest) {
            Some(set) => set,
            None => {
                let flags = match bytes.is_empty() {
                    true => flags::recorded(store.tree(), object)?,
                    false => flags::of_record(CmdFile::of(&bytes), object)?,
                };
                let set = store.set_flags(object, facts.digest, &flags::effective(&flags.words))?;
                self.read().insert(object.to_owned(), flags);
                set
            }
        };
        Ok(self.resolved(store, set))
    }

    /// All flags of one object, to run its backend with. Its record is read once.
    pub fn take(&self, store: &Store, object: &str) -> Result<Flags> {
        let read = self.read().remove(object);
        read.map_or_else(|| flags::recorded(store.tree(), object), Ok)
    }

    fn read(&self) -> MutexGuard<'_, HashMap<String, Flags>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolved(&self, store: &Store, set: Digest) -> Arc<FlagSet> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let words = store.flag_words(set);
            Arc::new(FlagSet::new(&words, |name| store.files.is_file(name)))
        };
        Arc::clone(sets.entry(set).or_insert_with(make))
    }
}
