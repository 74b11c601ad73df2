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

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::exec::process::Invocation;
use crate::flag_files::Named;
use crate::parallel;
use crate::store::{self, Digest, Facts, Indexed, KeyBuilder, LinkRecord, Store};
use crate::toolchain::Tool;

/// Name of the index beside a bitcode object (lld's, LLVM 7 and later).
pub fn index_name(object: &str) -> String {
    format!("{object}.thinlto.bc")
}

/// The list of indexed objects, under mainline's name.
pub const LIST: &str = "vmlinux.thinlto-index";
/// The members in link order, under mainline's name.
pub const ORDER: &str = "builtin.order";

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
    pub fn key(&self, store: &Store) -> Result<Digest> {
        let mut key = KeyBuilder::new("kthinlto thin link 2");
        key.digest(&self.linker.identity);
        key.field(&(self.flags.len() as u64).to_le_bytes());
        for flag in self.flags {
            key.field(flag.as_bytes());
        }
        for (name, facts) in self.members {
            key.field(name.as_bytes()).digest(&facts.digest);
        }
        let options = self.linker.options(store.tree());
        let words: Vec<&str> = options.iter().chain(self.flags).map(String::as_str).collect();
        let mut named = Named::new(&store.files, &[]);
        named.add(&words)?;
        for name in named.found {
            key.field(name.as_bytes()).digest(&store.files.facts(&name)?.digest);
        }
        Ok(key.finish())
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

/// A folder for one thin link's outputs; removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Its name as the linker is told it.
    pub name: String,
}

/// A file system in memory that Linux systems have. Thousands of small files that live for a
/// second cost more than the link itself on a disk with a journal.
const MEMORY: &str = "/dev/shm";
/// Free bytes that have to be there: far more than the indexes of the largest kernels.
const MEMORY_FREE: u64 = 512 << 20;
/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: u64 = 0x0102_1994;

impl Scratch {
    /// Makes an empty one: in memory, if it may be there and there is room, else in the tree.
    /// Its name is the tree's own, so that the next run removes what a killed one left.
    pub fn new(tree: &Path, may_be_in_memory: bool) -> Result<Self> {
        let in_memory = may_be_in_memory.then(|| Self::in_memory(tree)).flatten();
        if let Some(scratch) = in_memory {
            return Ok(scratch);
        }
        let name = format!("{}/link", store::FOLDER);
        let path = tree.join(&name);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &path, e)),
            _ => {}
        }
        fs::create_dir_all(&path).map_err(|e| Error::io("make the folder", &path, e))?;
        Ok(Scratch { path, name })
    }

    fn in_memory(tree: &Path) -> Option<Self> {
        let found = rustix::fs::statfs(MEMORY).ok()?;
        let free = found.f_bavail.saturating_mul(found.f_bsize as u64);
        if found.f_type as u64 != TMPFS || free < MEMORY_FREE {
            return None;
        }
        let user = rustix::process::geteuid().as_raw();
        let tree = Digest::of(fs::canonicalize(tree).ok()?.as_os_str().as_encoded_bytes());
        let name = format!("{MEMORY}/kthinlto-{user}-{}", &tree.to_string()[..16]);
        let path = PathBuf::from(&name);
        // Anyone can write there: only a folder of our own, closed to others, will do.
        let make = || fs::DirBuilder::new().mode(0o700).create(&path);
        if make().is_err() {
            let old = fs::symlink_metadata(&path).ok()?;
            if !old.is_dir() || old.uid() != user || old.mode() & 0o077 != 0 {
                return None;
            }
            fs::remove_dir_all(&path).ok()?;
            make().ok()?;
        }
        Some(Scratch { path, name })
    }

    /// Takes the outputs of a link that succeeded: the indexed modules in link order. When
    /// all of them are good, an index is put into its place where its bytes are new.
    pub fn take(&self, store: &Store, members: &[(String, Facts)]) -> Result<Vec<Indexed>> {
        let list = self.path.join(LIST);
        let text = fs::read_to_string(&list).map_err(|e| unmade(&list, e))?;
        let known: HashSet<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        let prefix = format!("{}/objects/", self.name);
        let mut modules = Vec::new();
        for line in text.lines() {
            let object = line.strip_prefix(&prefix).filter(|name| known.contains(name));
            let object = object.ok_or_else(|| {
                let found =
                    format!("the linker indexed {line}, which is no member of the archives");
                Error::bad_input(&list, found, "report this with the linker's version")
            })?;
            modules.push((object, self.imports(object)?));
        }
        modules.into_iter().map(|(object, imports)| self.place(store, object, imports)).collect()
    }

    /// Where the linker wrote a file about an object.
    fn made(&self, object: &str, ending: &str) -> PathBuf {
        self.path.join("objects").join(format!("{object}{ending}"))
    }

    /// The names that an object imports from, if the linker wrote all that it should have.
    fn imports(&self, object: &str) -> Result<Vec<Arc<str>>> {
        let (fresh, imports) = (self.made(object, ".thinlto.bc"), self.made(object, ".imports"));
        if fs::metadata(&fresh).map_err(|e| unmade(&fresh, e))?.len() == 0 {
            // clang would take it, and import nothing, without a word.
            let remedy = "look for the linker's messages, or free some space";
            return Err(Error::bad_input(&fresh, "an empty index", remedy));
        }
        let imports = fs::read_to_string(&imports).map_err(|e| unmade(&imports, e))?;
        Ok(imports.lines().map(Into::into).collect())
    }

    fn place(&self, store: &Store, object: &str, imports: Vec<Arc<str>>) -> Result<Indexed> {
        let made = self.made(object, ".thinlto.bc");
        let bytes = fs::read(&made).map_err(|e| Error::io("read", &made, e))?;
        let (name, facts) = (index_name(object), Facts::of(&bytes));
        if store.files.find(&name)?.is_none_or(|old| old.digest != facts.digest) {
            store.files.write(&name, &bytes, facts)?;
        }
        Ok(Indexed { object: object.to_owned(), index: facts.digest, imports })
    }
}

/// The linker said that all is well, and did not write what it was asked for.
fn unmade(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            let remedy = "look for the linker's messages, or free some space";
            Error::bad_input(path, "the linker exited with 0 but did not write it", remedy)
        }
        _ => Error::io("read", path, error),
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!("{} stays: {error}", self.path.display());
        }
    }
}

/// The last thin link, if it still holds: the same key, and each index as it was. Looks at
/// the indexes on up to `threads` threads.
pub fn is_current(store: &Store, key: Digest, threads: usize) -> Result<Option<&LinkRecord>> {
    let Some(record) = store.link().filter(|record| record.key == key) else {
        return Ok(None);
    };
    let holds = parallel::map(threads, &record.modules, |module| {
        let found = store.files.find(&index_name(&module.object))?;
        Ok(found.is_some_and(|found| found.digest == module.index))
    });
    let holds: Vec<bool> = holds.into_iter().collect::<Result<_>>()?;
    Ok(holds.into_iter().all(|holds| holds).then_some(record))
}

/// The text of `vmlinux.thinlto-index`: one indexed object a line.
pub fn list_text(modules: &[Indexed]) -> String {
    modules.iter().map(|module| format!("{}\n", module.object)).collect()
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
