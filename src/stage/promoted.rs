//! Functions that a thin link made global, with their new names (`NAME.llvm.HASH`), in the native objects of
//! its modules, and which of them the kernel or the loadable module that is linked now does not have. Reads,
//! and changes nothing.

use std::collections::HashSet;
use std::path::Path;

use object::ReadCache;

use super::explain;
use crate::elf::nm;
use crate::error::{Error, Result};
use crate::parallel;
use crate::regular;
use crate::report::promoted::{Function, Promoted};
use crate::store::{LinkRecord, Store};
use crate::unit::{Part, VMLINUX};

/// What stands between the source's name and the hash of its module
/// (`ModuleSummaryIndex::getGlobalNameForLocal`, LLVM 15 to 22).
const MARK: &str = ".llvm.";

/// The promoted functions of the tree's thin links, or of these objects: an object's, its native object's name
/// or its stem. Reads native objects on up to `threads` threads.
///
/// # Errors
/// Where the tree has no record of a thin link or no such object, or a native object cannot be read.
pub fn promoted(store: &Store, objects: &[String], threads: usize) -> Result<Promoted> {
    let all = explain::linked(store)?;
    let chosen = objects.iter().map(|name| explain::find(&all, name, store.tree()));
    let chosen: HashSet<&Part> =
        chosen.map(|found| found.map(|module| &module.part)).collect::<Result<_>>()?;
    let mut found =
        Promoted { tree: store.tree().to_string_lossy().into_owned(), functions: Vec::new() };
    for link in store.links() {
        let parts = link.modules.iter().map(|module| &module.part);
        let parts: Vec<&Part> =
            parts.filter(|part| chosen.is_empty() || chosen.contains(part)).collect();
        let functions = parallel::map(threads, &parts, |part| functions(store, part));
        let functions = functions.into_iter().collect::<Result<Vec<_>>>()?.concat();
        if functions.is_empty() {
            continue;
        }
        let linked = linked(store.tree(), link)?;
        found.functions.extend(functions.into_iter().map(|(name, part)| Function {
            is_new: linked.as_ref().map(|linked| !linked.contains(plain(&name))),
            object: part.label().into_owned(),
            name,
        }));
    }
    Ok(found)
}

/// A promoted name as the source has it.
fn plain(name: &str) -> &str {
    name.rsplit_once(MARK).map_or(name, |(plain, _)| plain)
}

/// Those that a part's native object defines.
fn functions<'p>(store: &Store, part: &'p Part) -> Result<Vec<(String, &'p Part)>> {
    let path = store.files.path(&part.native());
    let names = names(&path).map_err(|found| {
        let remedy = "run `kthinlto build` again, through make or by hand";
        Error::bad_input(&path, found, remedy)
    })?;
    Ok(names.into_iter().map(|name| (name, part)).collect())
}

/// The plain names of those in the file that was last linked from a thin link's native objects; `None`
/// without one.
fn linked(tree: &Path, link: &LinkRecord) -> Result<Option<HashSet<String>>> {
    let name = match link.unit.as_str() {
        VMLINUX => VMLINUX.to_owned(),
        module => format!("{module}.ko"),
    };
    let path = tree.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let names = names(&path).map_err(|found| Error::bad_input(&path, found, "link it again"))?;
    Ok(Some(names.iter().map(|name| plain(name).to_owned()).collect()))
}

/// The promoted functions of an ELF file; a clause where it is none.
fn names(path: &Path) -> Result<Vec<String>, String> {
    let (file, _) = regular::open(path).map_err(|error| error.to_string())?;
    let cache = ReadCache::new(file);
    let symbols = nm::defined(&cache)?.into_iter();
    let functions = symbols.filter(|symbol| matches!(symbol.letter, b't' | b'T' | b'W'));
    let names = functions.filter_map(|symbol| std::str::from_utf8(symbol.name).ok());
    let mut names: Vec<String> =
        names.filter(|name| is_promoted(name)).map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// Whether ThinLTO made this name: the hash is a decimal number.
fn is_promoted(name: &str) -> bool {
    name.rsplit_once(MARK)
        .is_some_and(|(_, hash)| !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promoted_name_ends_with_a_number() {
        assert!(is_promoted("do_one.llvm.123"));
        assert!(
            !is_promoted("do_one") && !is_promoted("do_one.llvm.") && !is_promoted("a.llvm.1.cold")
        );
        assert_eq!(plain("do_one.llvm.123"), "do_one");
    }
}
