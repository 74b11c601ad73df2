//! Reads kbuild's thin archives and flattens them into a list of members, in order,
//! with the names that `llvm-ar` gives them in an archive at the tree's top.
//! Must not know what a member contains.
//!
//! Format: thin archives (`!<thin>`), GNU flavour; names as LLVM's
//! `computeArchiveRelativePath` (lib/Object/ArchiveWriter.cpp, LLVM 22) makes them.

use std::io;
use std::path::{Component, Path, PathBuf};

use object::read::archive::ArchiveFile;

use crate::error::{Error, Result};
use crate::format::{REGULAR_ARCHIVE, THIN_ARCHIVE};
use crate::regular;

/// Archives within archives deeper than this are taken for a loop.
const MAX_DEPTH: usize = 64;

/// Archives that are read, and members that come of them: an archive may be in others many times
/// over, each with as many more. An allyesconfig has some thousand, and some ten thousand.
const MOST_ARCHIVES: usize = 20_000;
const MOST_MEMBERS: usize = 1_000_000;

/// Flattens `archives` (paths relative to `tree`, or absolute) into member names relative to
/// `tree`, in the order in which `llvm-ar cDPrST` would store them.
///
/// A member whose name ends in `.a` is an archive, as in kbuild; others are not opened here.
///
/// # Errors
/// Where an archive, or one within it, is not there, cannot be read or is malformed. Regular archives
/// are refused: their members are not files that a backend could compile.
pub fn flatten(tree: &Path, archives: &[PathBuf]) -> Result<Vec<String>> {
    flatten_seen(tree, archives, &mut |_| ())
}

/// As [`flatten`]; calls `before` with the full path of each archive before it is read.
pub(crate) fn flatten_seen(
    tree: &Path,
    archives: &[PathBuf],
    before: &mut dyn FnMut(&Path),
) -> Result<Vec<String>> {
    let base = std::path::absolute(tree).map_err(|e| Error::io("resolve", tree, e))?;
    let mut all = Flattened { base: &base, before, archives: 0, members: Vec::new() };
    for archive in archives {
        all.add(&normalize(&base.join(archive)), archive, 0)?;
    }
    Ok(all.members)
}

struct Flattened<'a> {
    base: &'a Path,
    before: &'a mut dyn FnMut(&Path),
    /// How many were read.
    archives: usize,
    members: Vec<String>,
}

impl Flattened<'_> {
    /// Adds the members of the archive at `file`; `shown` is its name in messages.
    fn add(&mut self, file: &Path, shown: &Path, depth: usize) -> Result<()> {
        let bad = |found: String| Err(Error::bad_input(shown, found, "build it again with make"));
        self.archives += 1;
        if depth > MAX_DEPTH {
            return bad(format!("archives nested more than {MAX_DEPTH} deep"));
        }
        if self.archives > MOST_ARCHIVES {
            return bad(format!("one of more than {MOST_ARCHIVES} archives, one inside another"));
        }
        (self.before)(file);
        let bytes = regular::read(file).map_err(|e| unreadable(self.base, shown, e))?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        for name in member_names(&bytes, shown)? {
            let member = normalize(&folder.join(&name));
            let relative = relative_to(&member, self.base);
            if relative.starts_with("../") {
                let found = format!("the member {relative}, which is outside the object tree");
                return Err(Error::bad_input(shown, found, "name archives of the tree itself"));
            }
            check_member(&relative, shown)?;
            if self.members.len() >= MOST_MEMBERS {
                return bad(format!("archives with more than {MOST_MEMBERS} members"));
            }
            if !relative.ends_with(".a") {
                self.members.push(relative);
            } else if member.is_file() {
                self.add(&member, Path::new(&relative), depth + 1)?;
            } else {
                let archive = shown.to_path_buf();
                return Err(Error::MissingMember { archive, member: relative.into() });
            }
        }
        Ok(())
    }
}

/// Fails for a member of `shown` whose name the linker would take for an option, or for a list of them.
pub(crate) fn check_member(name: &str, shown: &Path) -> Result<()> {
    if name.starts_with(['-', '@']) {
        let found = format!("the member {name}, whose name a linker reads as an option");
        return Err(Error::bad_input(shown, found, "give the object another name"));
    }
    Ok(())
}

/// The member names of one thin archive, as they are stored.
pub(crate) fn member_names(bytes: &[u8], shown: &Path) -> Result<Vec<String>> {
    let corrupt =
        |found: String| Error::bad_input(shown, found, "remove it and build it again with make");
    if bytes.starts_with(REGULAR_ARCHIVE) && bytes.len() > REGULAR_ARCHIVE.len() {
        return Err(regular(shown));
    }
    // `ar` makes an empty archive, thin or not, of the regular magic alone.
    if bytes == REGULAR_ARCHIVE || bytes == THIN_ARCHIVE {
        return Ok(Vec::new());
    }
    if bytes.is_empty() {
        return Err(corrupt("an empty file".into()));
    }
    if !bytes.starts_with(THIN_ARCHIVE) {
        return Err(corrupt("not a thin archive (it does not begin like one)".into()));
    }
    let archive =
        ArchiveFile::parse(bytes).map_err(|e| corrupt(format!("a corrupt archive: {e}")))?;
    let mut names = Vec::new();
    for member in archive.members() {
        let member = member.map_err(|e| corrupt(format!("a corrupt or truncated archive: {e}")))?;
        let name = std::str::from_utf8(member.name())
            .map_err(|_| corrupt("a member whose name is not UTF-8".into()))?;
        if name.is_empty() {
            return Err(corrupt("a member with no name".into()));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn unreadable(base: &Path, shown: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            let found = format!("there is no such archive in {}", base.display());
            Error::bad_input(shown, found, "build it with make, or name the object tree with -C")
        }
        io::ErrorKind::IsADirectory => {
            Error::bad_input(shown, "a folder", "name the archives that kbuild makes")
        }
        _ => Error::io("read the archive", shown, error),
    }
}

fn regular(shown: &Path) -> Error {
    Error::bad_input(
        shown,
        "a regular archive, whose members are not files",
        "kbuild makes thin ones (`ar cDPrST`); build it again with make",
    )
}

/// Removes `.` and resolves `..` by text alone, as LLVM's `remove_dots` does.
pub(crate) fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                if !out.pop() {
                    out.push("..");
                }
            }
            other => out.push(other),
        }
    }
    out
}

/// The path of `file` as seen from `base`; both absolute and normalized.
fn relative_to(file: &Path, base: &Path) -> String {
    let shared = file.components().zip(base.components()).take_while(|(a, b)| a == b).count();
    let up = base.components().skip(shared).map(|_| Component::ParentDir);
    let relative: PathBuf = up.chain(file.components().skip(shared)).collect();
    relative.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::archive::write::{Entry, thin_archive};
    use proptest::prelude::*;

    fn write(dir: &Path, name: &str, members: &[&str]) {
        let entries: Vec<_> = members.iter().map(|m| Entry::new(*m, 1)).collect();
        fs::write(dir.join(name), thin_archive(&entries)).unwrap();
    }

    #[test]
    fn nested_archives_give_their_members_in_place() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sub")).unwrap();
        for name in ["a.o", "sub/b.o", "c.o"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        write(dir.path(), "sub/built-in.a", &["b.o", "../sub/./b.o"]);
        write(dir.path(), "built-in.a", &["a.o", "sub/built-in.a", "c.o"]);
        let members = flatten(dir.path(), &["./built-in.a".into()]).unwrap();
        assert_eq!(members, ["a.o", "sub/b.o", "sub/b.o", "c.o"]);
    }

    #[test]
    fn an_archive_that_holds_itself_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "loop.a", &["loop.a"]);
        let error = flatten(dir.path(), &["loop.a".into()]).unwrap_err();
        assert!(error.to_string().contains("nested more than"), "{error}");
    }

    #[test]
    fn a_missing_archive_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "built-in.a", &["gone.a"]);
        let error = flatten(dir.path(), &["built-in.a".into()]).unwrap_err();
        assert!(matches!(&error, Error::MissingMember { .. }), "{error}");
        assert!(error.to_string().contains("gone.a"), "{error}");
    }

    #[test]
    fn paths_are_normalized_as_llvm_does() {
        let path = Path::new("/t/arch/arm64/kvm/../../../virt/kvm/./x.o");
        assert_eq!(normalize(path), Path::new("/t/virt/kvm/x.o"));
        assert_eq!(relative_to(Path::new("/s/x.o"), Path::new("/t/o")), "../../s/x.o");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [THIN_ARCHIVE.as_slice(), &tail].concat();
            let _ = member_names(&bytes, Path::new("x.a"));
        }

        #[test]
        fn every_truncation_is_survived(cut in 0usize..200) {
            let whole = thin_archive(&[Entry::new("a.o", 5), Entry::new("dir/b.o", 7)]);
            let cut = cut.min(whole.len());
            if let Ok(names) = member_names(&whole[..cut], Path::new("x.a")) {
                prop_assert!(names.len() <= 2);
            }
        }
    }
}
