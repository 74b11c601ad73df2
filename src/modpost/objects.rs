//! The lists of objects that vmlinux and modules are made of, and the `.cmd` file in which
//! an object's symbol versions are on record. Knows kbuild's names only; must not know what
//! is in a `.cmd` file.
//!
//! Format: `scripts/Makefile.modpost` (`.vmlinux.objs`), `scripts/Makefile.build` (`.mod`),
//! `mod_set_crcs()` and `extract_crcs_for_object()` of `scripts/mod/modpost.c`, Linux 6.1 to 7.3.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::archive::read::member_names;
use crate::error::{Error, Result};
use crate::kbuild::cmd_file;
use crate::regular;

/// The list of vmlinux' objects, at the object tree's top.
pub const VMLINUX_OBJS: &str = ".vmlinux.objs";
/// Ending of what a backend makes of `X.o`.
const NATIVE: &[u8] = b".thinlto-native.o";

/// The objects of a list, one a line. As modpost reads it: the first empty line ends it, and
/// so does a NUL byte.
pub fn parse_list(text: &[u8]) -> Vec<PathBuf> {
    let text = until_nul(text);
    let lines = text.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    lines.map(|line| PathBuf::from(OsStr::from_bytes(line))).collect()
}

/// A file's text as C's string functions see it.
pub(super) fn until_nul(text: &[u8]) -> &[u8] {
    memchr::memchr(0, text).map_or(text, |end| &text[..end])
}

/// The name of the list of a module's objects: `a/foo` → `a/foo.mod`.
pub(crate) fn list_of_module(module: &str) -> String {
    format!("{module}.mod")
}

/// The object that the front end made: `a/b.thinlto-native.o` → `a/b.o`; any other is its own.
pub fn front_end_object(object: &Path) -> PathBuf {
    match object.as_os_str().as_bytes().strip_suffix(NATIVE) {
        Some(stem) => PathBuf::from(OsStr::from_bytes(&[stem, b".o"].concat())),
        None => object.to_path_buf(),
    }
}

/// The `.cmd` file with the versions of an object's symbols: `a/b.o` and
/// `a/b.thinlto-native.o` → `a/.b.o.cmd`. The folder's spelling (`a/../b/`) is kept.
///
/// `None` for a name that does not end in `.o`: Linux 7.3 would cut two bytes off it, older
/// ones would not, and kbuild makes none.
pub fn record_of(object: &Path) -> Option<PathBuf> {
    let object = front_end_object(object);
    object.as_os_str().as_bytes().ends_with(b".o").then(|| cmd_file::path_for(&object))
}

/// The text of `.vmlinux.objs`: the members of `archives` (relative to `tree`), as
/// `llvm-ar t` prints them, one after the other. No process is run. `libgcc.a` is left out.
///
/// # Errors
/// Where an archive cannot be read or is malformed.
pub fn list_archives(tree: &Path, archives: &[PathBuf]) -> Result<String> {
    let mut text = String::new();
    for archive in archives {
        if archive.as_os_str().as_bytes().ends_with(b"libgcc.a") {
            continue;
        }
        let path = tree.join(archive);
        let bytes = regular::read(&path).map_err(|e| Error::io("read the archive", archive, e))?;
        let folder = archive.parent().unwrap_or(Path::new(""));
        for name in member_names(&bytes, archive)? {
            text += &folder.join(name).to_string_lossy();
            text.push('\n');
        }
    }
    Ok(text)
}

/// A `.vmlinux.objs` with which a modpost that does not know of native objects (before Linux
/// 7.2, without our patch) finds all versions: each native object by the name of the front
/// end's object. modpost reads the list for nothing else.
pub fn for_any_modpost(objects: &[PathBuf]) -> Vec<u8> {
    let mut text = Vec::new();
    for object in objects {
        text.extend_from_slice(front_end_object(object).as_os_str().as_bytes());
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::archive::write::{Entry, thin_archive};
    use proptest::prelude::*;

    fn record(object: &str) -> Option<String> {
        record_of(Path::new(object)).map(|path| path.to_string_lossy().into_owned())
    }

    #[test]
    fn records_are_the_front_ends() {
        for (object, want) in [
            ("a/b.o", "a/.b.o.cmd"),
            ("b.o", ".b.o.cmd"),
            ("a/b.thinlto-native.o", "a/.b.o.cmd"),
            ("b.thinlto-native.o", ".b.o.cmd"),
            (
                "arch/arm64/kvm/../../../virt/kvm/x.thinlto-native.o",
                "arch/arm64/kvm/../../../virt/kvm/.x.o.cmd",
            ),
            // Names that only look like it.
            ("a.thinlto-native.o/b.o", "a.thinlto-native.o/.b.o.cmd"),
            ("a/b.thinlto-native.o.o", "a/.b.thinlto-native.o.o.cmd"),
            ("a/thinlto-native.o", "a/.thinlto-native.o.cmd"),
            ("a/b c.o.thinlto-native.o", "a/.b c.o.o.cmd"),
            ("/abs//b.o", "/abs//.b.o.cmd"),
        ] {
            assert_eq!(record(object).as_deref(), Some(want), "{object}");
        }
        for object in ["a/lib.a", "a/o", "", "a/", "a/b.o/"] {
            assert_eq!(record(object), None, "{object}");
        }
    }

    #[test]
    fn an_empty_line_or_a_nul_ends_a_list() {
        let names = |text: &[u8]| parse_list(text).len();
        assert_eq!(names(b"a.o\nb.o\n"), 2);
        assert_eq!(names(b"a.o\nb.o"), 2);
        assert_eq!(names(b"a.o\n\nb.o\n"), 1);
        assert_eq!(names(b"a.o\nb.o\0c.o\nd.o\n"), 2);
        assert_eq!(names(b"\na.o\n"), 0);
        assert_eq!(names(b""), 0);
    }

    #[test]
    fn archives_are_listed_as_ar_does() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lib")).unwrap();
        let write = |name: &str, members: &[&str]| {
            let entries: Vec<_> = members.iter().map(|m| Entry::new(*m, 1)).collect();
            fs::write(dir.path().join(name), thin_archive(&entries)).unwrap();
        };
        write("vmlinux.a", &["init/main.thinlto-native.o", "a.o"]);
        write("lib/lib.a", &["x.o", "../y.o"]);
        let archives = ["vmlinux.a", "lib/lib.a", "/gcc/libgcc.a"].map(PathBuf::from);
        let text = list_archives(dir.path(), &archives).unwrap();
        assert_eq!(text, "init/main.thinlto-native.o\na.o\nlib/x.o\nlib/../y.o\n");
        let objects = parse_list(text.as_bytes());
        assert_eq!(for_any_modpost(&objects), b"init/main.o\na.o\nlib/x.o\nlib/../y.o\n");
    }

    proptest! {
        #[test]
        fn a_native_object_has_its_objects_record(stem in "[a-z.]{0,4}/?[a-z.]{1,8}") {
            prop_assert_eq!(record(&format!("{stem}.thinlto-native.o")), record(&format!("{stem}.o")));
        }

        #[test]
        fn any_list_is_survived(text in prop::collection::vec(any::<u8>(), 0..200)) {
            for object in parse_list(&text) {
                prop_assert!(!object.as_os_str().is_empty());
                let _ = record_of(&object);
            }
        }
    }
}
