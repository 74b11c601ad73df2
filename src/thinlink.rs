//! The thin link: the linker reads all members and writes one index for each bitcode
//! object. It writes below a scratch folder; only indexes whose bytes changed are then
//! put into their places, so that an interrupted or failed link changes nothing and an equal
//! index keeps its times. Must not know about backends.
//!
//! Linker behaviour: lld/ELF/LTO.cpp and `--thinlto-*` options, LLVM 15 to 22.
//!
//! ```
//! use kthinlto::format::Format;
//! use kthinlto::store::{Digest, Facts};
//! use kthinlto::thinlink::{ThinLink, response_file};
//! use kthinlto::toolchain::Tool;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let linker = Tool::new("ld.lld", Digest::of(b"what it is made of"), 22);
//! let facts = Facts { digest: Digest::of(b""), format: Format::Bitcode, size: 0 };
//! let members = [("kernel/panic.o".to_owned(), facts), ("lib/odd name.o".to_owned(), facts)];
//! assert_eq!(response_file(&members), "kernel/panic.o\nlib/odd\\ name.o\n");
//!
//! let link = ThinLink { linker: &linker, flags: &[], members: &members };
//! let command = link.invocation("/obj".as_ref(), "scratch", "builtin.order", 2);
//! assert!(command.argv.iter().take(3).eq(["ld.lld", "-r", "--threads=2"]));
//! # Ok(()) }
//! ```
//!
//! A run of the linker and the taking of its outputs ([`Scratch`]) is in `examples/phases.rs`.

mod scratch;

use std::path::Path;

pub use self::scratch::{Scratch, remove_left};
use crate::error::Result;
use crate::exec::process::Invocation;
use crate::flag_files::Named;
use crate::inputs::{InputVisitor, Inputs, Key, Kind};
use crate::parallel;
use crate::store::{Digest, Facts, Indexed, KeyBuilder, LinkRecord, Store};
use crate::toolchain::Tool;

/// Where the linker writes its list of indexed objects, below the scratch folder.
const LIST: &str = "vmlinux.thinlto-index";

/// What the keys of thin links are for. It changes with the walk.
const PURPOSE: &str = "kthinlto thin link 3";

/// What a thin link is made from.
#[derive(Debug)]
pub struct ThinLink<'a> {
    /// The linker.
    pub linker: &'a Tool,
    /// `KBUILD_LDFLAGS`, as words.
    pub flags: &'a [String],
    /// All members in link order, with their content.
    pub members: &'a [(String, Facts)],
}

impl ThinLink<'_> {
    /// Equal keys mean equal indexes. Native members count: they decide which symbols of a
    /// module are seen from outside.
    /// Files that the flags name count by content.
    ///
    /// # Errors
    /// Where a file that the flags name cannot be read.
    pub fn key(&self, store: &Store) -> Result<Digest> {
        let mut key = Key::new(PURPOSE);
        self.walk(store, &mut key)?;
        Ok(key.digest())
    }

    /// What the key is made of.
    ///
    /// # Errors
    /// Where a file that the flags name cannot be read.
    pub fn inputs(&self, store: &Store) -> Result<Inputs> {
        let mut inputs = Inputs::new(PURPOSE);
        self.walk(store, &mut inputs)?;
        Ok(inputs)
    }

    /// Walks all inputs, for the key and for others who link the same way.
    ///
    /// # Errors
    /// Where a file that the flags name cannot be read.
    pub(crate) fn walk(&self, store: &Store, visitor: &mut dyn InputVisitor) -> Result<()> {
        visitor.input(Kind::Tool, "LD", &self.linker.identity);
        let mut flags = KeyBuilder::new("kthinlto linker's flags 1");
        self.flags.iter().for_each(|flag| {
            flags.field(flag.as_bytes());
        });
        visitor.input(Kind::Flags, "", &flags.finish());
        for (name, facts) in self.members {
            visitor.input(Kind::Member, name, &facts.digest);
            visitor.file(name, Some(facts));
        }
        let options = self.linker.options.iter();
        let words: Vec<&str> = options.chain(self.flags).map(String::as_str).collect();
        let mut named = Named::new(&store.files, &[]);
        named.add(&words)?;
        for name in named.found {
            let facts = store.files.facts(&name)?;
            visitor.input(Kind::FlagFile, &name, &facts.digest);
            visitor.file(&name, Some(&facts));
        }
        Ok(())
    }

    /// The linker's command, writing below `scratch`; `response` lists the members.
    pub fn invocation(
        &self,
        tree: &Path,
        scratch: &str,
        response: &str,
        threads: usize,
    ) -> Invocation {
        let mut what = Invocation::new(self.linker.argv.iter().chain(self.flags), tree);
        what.argv.extend([
            "-r",
            &format!("--threads={threads}"),
            &format!("--thinlto-index-only={scratch}/{LIST}"),
            "--thinlto-emit-imports-files",
            &format!("--thinlto-prefix-replace=;{scratch}/objects/"),
            &format!("@{response}"),
        ]);
        what
    }
}

/// Member names as a response file that lld reads back unchanged (GNU quoting).
pub fn response_file(members: &[(String, Facts)]) -> String {
    members.iter().map(|(name, _)| escape(name) + "\n").collect()
}

fn escape(name: &str) -> String {
    let special = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '\\');
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if special(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The last thin link of a unit, if it still holds: the same key, and each index as it was. Looks
/// at the indexes on up to `threads` threads.
///
/// # Errors
/// Where an index is there and cannot be read.
pub fn is_current<'a>(
    store: &'a Store,
    unit: &str,
    key: Digest,
    threads: usize,
) -> Result<Option<&'a LinkRecord>> {
    let Some(record) = store.link(unit).filter(|record| record.key == key) else {
        return Ok(None);
    };
    let holds = parallel::map(threads, &record.modules, |module| {
        let found = store.files.find(&module.part.index())?;
        Ok(found.is_some_and(|found| found.digest == module.index))
    });
    let holds: Vec<bool> = holds.into_iter().collect::<Result<_>>()?;
    Ok(holds.into_iter().all(|holds| holds).then_some(record))
}

/// The text of the list of indexed objects (`vmlinux.thinlto-index`): one a line.
pub fn list_text(modules: &[Indexed]) -> String {
    modules.iter().map(|module| format!("{}\n", module.part.object)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_survive_the_response_file() {
        assert_eq!(escape("a b/c'd\"e\\f.o"), "a\\ b/c\\'d\\\"e\\\\f.o");
        assert_eq!(escape("arch/x86/a-b_c.o"), "arch/x86/a-b_c.o");
    }
}
