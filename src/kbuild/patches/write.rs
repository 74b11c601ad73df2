//! Writes the files of a patched tree: all or none. Must not know what is in them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// Gives each file below `tree` its new text, and returns their names. All are written beside
/// their places first; a signal that `stop` reports by then leaves the tree as it was, and one
/// that comes later does not stop the renames.
pub(super) fn all_or_none(
    tree: &Path,
    changes: BTreeMap<PathBuf, String>,
    stop: &dyn Fn() -> Option<i32>,
) -> Result<Vec<PathBuf>> {
    refuse_links(tree, changes.keys())?;
    let mut aside = Vec::new();
    for (name, text) in &changes {
        let place = tree.join(name);
        let before = fs::read(&place).map_err(|e| Error::io("read", &place, e))?;
        aside.push((write_beside(&place, text.as_bytes())?, before, place));
        if let Some(signal) = stop() {
            return Err(Error::Interrupted(signal));
        }
    }
    // All is on disk: from here on only renames can fail, and they need no space.
    let mut done: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for (file, before, place) in aside {
        if let Err(e) = file.persist(&place) {
            for (place, before) in done {
                let old = write_beside(&place, &before)?;
                drop(old.persist(&place).map_err(|e| Error::io("write", &place, e.error))?);
            }
            return Err(Error::io("patch", &place, e.error));
        }
        done.push((place, before));
    }
    Ok(changes.into_keys().collect())
}

/// Fails where a file that is changed is a link, or is reached through one: it may be another
/// tree's, and a link that is replaced by a file does not come back.
fn refuse_links<'n>(tree: &Path, names: impl Iterator<Item = &'n PathBuf>) -> Result<()> {
    for name in names {
        let mut place = tree.to_path_buf();
        for part in name.components() {
            place.push(part);
            let is_name = matches!(part, Component::Normal(_));
            if !is_name || fs::symlink_metadata(&place).is_ok_and(|found| found.is_symlink()) {
                let (place, name) = (place.display(), name.display());
                return Err(Error::Patch(format!(
                    "{place} is a symbolic link, and the series changes {name}; nothing was \
                     changed: apply it in the tree that the link leads to, or in a copy"
                )));
            }
        }
    }
    Ok(())
}

fn write_beside(place: &Path, text: &[u8]) -> Result<NamedTempFile> {
    let fail = |e| Error::io("patch", place, e);
    let folder = place.parent().unwrap_or(Path::new("."));
    // The umask decides on a new file, and an old one stays what it is.
    let mode = fs::Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().permissions(mode).tempfile_in(folder);
    let mut file = file.map_err(fail)?;
    file.write_all(text).map_err(fail)?;
    if let Ok(found) = fs::metadata(place) {
        fs::set_permissions(file.path(), found.permissions()).map_err(fail)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(names: &[&str]) -> BTreeMap<PathBuf, String> {
        names.iter().map(|name| (PathBuf::from(name), "new\n".to_owned())).collect()
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        for name in ["f", "real/g"] {
            fs::write(dir.path().join(name), "old\n").unwrap();
        }
        dir
    }

    fn texts(tree: &Path) -> [String; 2] {
        ["f", "real/g"].map(|name| fs::read_to_string(tree.join(name)).unwrap())
    }

    #[test]
    fn nothing_behind_a_link_is_changed_and_no_link_is_replaced() {
        let dir = tree();
        std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("folder")).unwrap();
        for name in ["link", "folder/g", "../f"] {
            let error = all_or_none(dir.path(), changes(&["f", name]), &|| None).unwrap_err();
            assert!(error.to_string().contains("is a symbolic link, and the series"), "{error}");
            assert_eq!(error.exit_code(), 7);
        }
        assert!(dir.path().join("link").is_symlink());
        assert_eq!(texts(dir.path()), ["old\n", "old\n"]);
    }

    #[test]
    fn a_signal_in_time_leaves_the_tree_as_it_was() {
        let dir = tree();
        let error = all_or_none(dir.path(), changes(&["f", "real/g"]), &|| Some(2)).unwrap_err();
        assert_eq!(error.exit_code(), 130);
        assert_eq!(texts(dir.path()), ["old\n", "old\n"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside");
        all_or_none(dir.path(), changes(&["f", "real/g"]), &|| None).unwrap();
        assert_eq!(texts(dir.path()), ["new\n", "new\n"]);
    }

    #[test]
    fn a_rename_that_fails_is_undone_with_those_before() {
        let dir = tree();
        let folder = dir.path().join("real");
        let count = std::cell::Cell::new(0);
        // After the last file is written aside, its place becomes a folder, which no rename replaces.
        let stop = || {
            count.set(count.get() + 1);
            if count.get() == 2 {
                fs::remove_file(folder.join("g")).unwrap();
                fs::create_dir(folder.join("g")).unwrap();
            }
            None
        };
        let error = all_or_none(dir.path(), changes(&["f", "real/g"]), &stop).unwrap_err();
        assert!(error.to_string().contains("cannot patch"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("f")).unwrap(), "old\n");
    }

    #[test]
    fn a_file_keeps_its_mode() {
        let dir = tree();
        let place = dir.path().join("f");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o751)).unwrap();
        all_or_none(dir.path(), changes(&["f"]), &|| None).unwrap();
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o7777, 0o751);
    }
}
