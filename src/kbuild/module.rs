//! Loadable modules as kbuild describes them: lists of their objects (`modules.order`), the parts of an
//! object (`.mod`), and the commands that make it of them, from the object's own record. Must not know
//! who runs these commands, or when.
//!
//! Formats: `modules.order` and `.mod` hold names, one a line; the record of an object of many parts is
//! `cmd_ld_multi_m` (scripts/Makefile.build, Linux 6.1 to 7.3). With our patches, the commands that
//! follow the front end stand behind a colon, which a shell reads and does nothing: kthinlto runs them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::cmd_file::{self, CmdFile};
use crate::archive::read::normalize;
use crate::error::{Error, Result};
use crate::regular;

const REMEDY: &str = "build it again with make";

/// The object of a module that is linked from parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The object: `fs/xfs/xfs.o`.
    pub object: String,
    /// What it is linked from, in link order.
    pub parts: Vec<String>,
    /// The words of the link before `-r`: the linker and its flags.
    pub linker: Vec<String>,
    /// Commands that then change the object in place, without its name, which is their last word.
    pub after: Vec<Vec<String>>,
}

/// The objects of all modules that a list names.
///
/// # Errors
/// Where the list cannot be read.
pub fn list(tree: &Path, list: &Path) -> Result<Vec<String>> {
    let names = names_in(tree, list)?;
    names.iter().map(|name| object_of(name)).collect()
}

/// The object of a module that is named by it, or by its `.ko`.
///
/// # Errors
/// Where the name is neither.
pub fn object_of(name: &str) -> Result<String> {
    let stem = name.strip_suffix(".ko").or_else(|| name.strip_suffix(".o"));
    match stem {
        Some(stem) if !stem.is_empty() => Ok(plain(&format!("{stem}.o"))),
        _ => {
            let found = "a name that is no module's object";
            Err(Error::bad_input(name, found, "name modules as in fs/xfs/xfs.o or fs/xfs/xfs.ko"))
        }
    }
}

/// How the object of a module is made of its parts; `None` if make has done all that there is to
/// do. Calls `before` with each file that is about to be read.
///
/// # Errors
/// Where the records do not tell, or name no part.
pub fn read(tree: &Path, object: &str, before: &mut dyn FnMut(&Path)) -> Result<Option<Module>> {
    let record = cmd_file::path_for(Path::new(object));
    before(&tree.join(&record));
    let text = match CmdFile::read(&tree.join(&record)) {
        Ok(file) => file.command,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let found = format!("there is no record of how it is made ({})", record.display());
            return Err(Error::bad_input(object, found, REMEDY));
        }
        Err(e) => return Err(Error::io("read", record, e)),
    };
    let text = text.unwrap_or_default();
    let recorded = recorded(&text, object)
        .map_err(|found| Error::bad_input(&record, format!("it holds {found}"), REMEDY))?;
    let Some(Recorded { linker, inputs, after }) = recorded else {
        return Ok(None);
    };
    let mut parts = Vec::new();
    for input in inputs {
        match input.strip_prefix('@') {
            Some(list) => {
                before(&tree.join(list));
                parts.extend(names_in(tree, Path::new(list))?);
            }
            None => parts.push(input),
        }
    }
    if parts.is_empty() {
        let found = "a module without a part";
        return Err(Error::bad_input(object, found, "name its objects in the Makefile"));
    }
    let parts = parts.iter().map(|part| plain(part)).collect();
    Ok(Some(Module { object: object.to_owned(), parts, linker, after }))
}

/// Kbuild may spell one object in many ways: `arch/x86/kvm/../../../virt/kvm/eventfd.o`.
fn plain(name: &str) -> String {
    normalize(Path::new(name)).to_string_lossy().into_owned()
}

fn names_in(tree: &Path, list: &Path) -> Result<Vec<String>> {
    let text = regular::read_to_string(&tree.join(list)).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::bad_input(list, "there is no such file", REMEDY),
        ErrorKind::InvalidData => Error::bad_input(list, "it is not UTF-8", REMEDY),
        _ => Error::io("read", list, e),
    })?;
    let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
    Ok(names.map(str::to_owned).collect())
}

/// The folder's list of modules, for the name of a folder; any other name is a list or a module.
pub fn list_in(folder: &Path) -> PathBuf {
    folder.join("modules.order")
}

/// Whether make left no record of an object, as some of its rules do, though not that of a module's link.
pub fn has_no_record(tree: &Path, object: &str) -> bool {
    !tree.join(cmd_file::path_for(Path::new(object))).exists()
}

/// Whether a name is that of one module, and not of a list.
pub fn is_module(name: &Path) -> bool {
    name.extension().is_some_and(|ending| ending == "o" || ending == "ko")
}

#[derive(Debug, PartialEq, Eq)]
struct Recorded {
    linker: Vec<String>,
    inputs: Vec<String>,
    after: Vec<Vec<String>>,
}

/// The link of `object` in its recorded commands, and what comes after. Without one, the object is what
/// the compiler or the assembler made.
fn recorded(text: &str, object: &str) -> Result<Option<Recorded>, String> {
    if !text.contains(" -r -o ") {
        return Ok(None);
    }
    let mut is_left_to_us = false;
    let clauses = cmd_file::commands(text)?.into_iter().map(|mut words| {
        is_left_to_us |= words[0] == ":";
        words.drain(..usize::from(words[0] == ":"));
        words
    });
    let mut clauses = clauses.collect::<Vec<_>>().into_iter();
    let link = clauses.find_map(|words| {
        let is_it = |three: &[String]| three[..2] == ["-r", "-o"] && plain(&three[2]) == object;
        let at = words.windows(3).position(is_it)?;
        let (linker, inputs) = (words[..at].to_vec(), words[at + 3..].to_vec());
        Some((linker, inputs))
    });
    let Some((linker, inputs)) = link else {
        return match is_left_to_us {
            true => Err(format!("a command behind a colon, and no link of {object}")),
            false => Ok(None),
        };
    };
    if linker.is_empty() {
        return Err("a link without a linker".to_owned());
    }
    if let Some(option) = inputs.iter().find(|input| input.starts_with('-')) {
        // Some other link, such as that of vmlinux.o, which make has done.
        return match is_left_to_us {
            true => Err(format!("a link with `{option}` after the name of its output")),
            false => Ok(None),
        };
    }
    let after = clauses.map(|mut words| match words.pop() {
        Some(last) if plain(&last) == object && !words.is_empty() => Ok(words),
        last => {
            let words = words.into_iter().chain(last).collect::<Vec<_>>().join(" ");
            Err(format!("a command after the link that does not end with {object}: `{words}`"))
        }
    });
    let after = after.collect::<Result<_, _>>()?;
    Ok(Some(Recorded { linker, inputs, after }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MULTI: &str = "ld.lld -m elf_x86_64 -z noexecstack   -r -o fs/xfs/xfs.o @fs/xfs/xfs.mod  ; \
                         ./tools/objtool/objtool --orc  --link  --module fs/xfs/xfs.o";

    fn words(text: &str) -> Vec<String> {
        shell_words::split(text).unwrap()
    }

    #[test]
    fn a_link_is_read_from_the_record_with_colons_or_without() {
        let found = recorded(MULTI, "fs/xfs/xfs.o").unwrap().unwrap();
        assert_eq!(found.linker, words("ld.lld -m elf_x86_64 -z noexecstack"));
        assert_eq!(found.inputs, ["@fs/xfs/xfs.mod"]);
        assert_eq!(found.after, [words("./tools/objtool/objtool --orc --link --module")]);
        let later = format!(": {}", MULTI.replace("; ", "; : "));
        assert_eq!(recorded(&later, "fs/xfs/xfs.o").unwrap().unwrap(), found);
        let spelled = later.replace("fs/xfs/xfs.o", "fs/ext4/../xfs/xfs.o");
        assert_eq!(recorded(&spelled, "fs/xfs/xfs.o").unwrap().unwrap().after, found.after);
    }

    #[test]
    fn one_part_is_linked_from_the_bitcode_that_the_rule_kept() {
        let text = "clang -Wp,-MMD,a.d -D'x(y)=z;' -c -o a.o a.c ; ln -f a.o a.thinlto-bitcode.o ; : \
                    ld.lld -r -o a.o a.thinlto-bitcode.o ; : objtool --link a.o";
        let found = recorded(text, "a.o").unwrap().unwrap();
        assert_eq!(found.inputs, ["a.thinlto-bitcode.o"]);
        assert_eq!(found.after, [words("objtool --link")]);
        // What make made itself.
        let in_process = "clang -c -o a.o a.c ; ld.lld -r -o .tmp_a.o a.o; mv .tmp_a.o a.o";
        assert_eq!(recorded(in_process, "a.o"), Ok(None));
        assert_eq!(recorded("clang -c -o a.o a.S", "a.o"), Ok(None));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let wrong = |text: &str| recorded(text, "a.o").unwrap_err();
        assert!(wrong("ld.lld -r -o a.o @a.mod ; strip -g a.o b").contains("strip -g a.o b"));
        assert!(wrong("ld.lld -r -o a.o @a.mod ; a.o").contains("does not end"));
        assert!(wrong(": ld.lld -r -o a.o -T x @a.mod").contains("`-T`"));
        assert!(wrong(": ld.lld -r -o b.o @a.mod").contains("no link of a.o"));
        assert_eq!(recorded("ld.lld -r -o a.o --whole-archive x.a", "a.o"), Ok(None));
        assert!(wrong("ld.lld -r -o a.o `cat a.mod`").contains("expansion"));
        assert!(wrong(": -r -o a.o @a.mod").contains("without a linker"));
    }

    #[test]
    fn names_are_plain() {
        assert_eq!(object_of("a/../b/c.ko").unwrap(), "b/c.o");
        assert!(object_of("fs/xfs").is_err() && object_of(".o").is_err());
    }
}
