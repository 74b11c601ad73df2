//! The patch series for kernel trees: picks the one for a tree's version, tries it in
//! memory, and writes all files or none. Must not know what the patches do.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use diffy::patch_set::{FileOperation, ParseOptions, PatchSet};
use include_dir::{Dir, include_dir};

use crate::error::{Error, Result};
use crate::regular;

/// All series, carried in the program.
static PATCHES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/patches");

/// What a series is to a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// All patches apply.
    Applies,
    /// All patches are in the tree.
    Applied,
}

/// A series: the kernel version that it is for, and its patches in order.
#[derive(Debug, Clone)]
pub struct Series {
    /// `7.3`, as `VERSION.PATCHLEVEL` in the kernel's Makefile.
    pub version: String,
    /// The name of an optional series, which is independent of the version's own.
    pub option: Option<String>,
    /// File names and texts.
    pub patches: Vec<(String, &'static str)>,
}

impl std::fmt::Display for Series {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let option = self.option.iter().map(|name| format!(" ({name})")).collect::<String>();
        write!(out, "Linux {}{option}", self.version)
    }
}

/// All series, oldest kernel first.
pub fn all() -> Vec<Series> {
    let mut series: Vec<Series> = PATCHES.dirs().filter_map(series_in).collect();
    let number = |part: &str| part.parse::<u32>().unwrap_or(0);
    series.sort_by_key(|s| s.version.split('.').map(number).collect::<Vec<_>>());
    series
}

fn series_in(dir: &'static Dir<'static>) -> Option<Series> {
    let version = dir.path().file_name()?.to_str()?.strip_prefix("linux-")?;
    let patches = dir.files().filter_map(|file| {
        let name = file.path().file_name()?.to_str()?;
        Some((name.to_owned(), file.contents_utf8()?)).filter(|_| name.ends_with(".patch"))
    });
    let mut patches: Vec<_> = patches.collect();
    patches.sort();
    Some(Series { version: version.to_owned(), option: None, patches })
}

/// Names of the optional series.
pub fn options() -> Vec<String> {
    let folders = PATCHES.get_dir("optional").into_iter().flat_map(Dir::dirs);
    let mut names: Vec<String> =
        folders.filter_map(|dir| Some(dir.path().file_name()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

/// The optional series of this name for a kernel version.
///
/// # Errors
/// Where there is none.
pub fn optional(name: &str, version: &str) -> Result<Series> {
    let folder = PATCHES.get_dir(format!("optional/{name}/linux-{version}"));
    let series = folder.filter(|_| options().iter().any(|known| known == name)).and_then(series_in);
    let series = series.ok_or_else(|| {
        let known = options().join(", ");
        Error::Patch(format!(
            "there is no optional series `{name}` for Linux {version}; the optional series are: \
             {known}"
        ))
    })?;
    Ok(Series { option: Some(name.to_owned()), ..series })
}

/// The series for the kernel source tree at `tree`.
///
/// # Errors
/// Where it is no kernel source tree, or there is no series for its version.
pub fn for_tree(tree: &Path) -> Result<Series> {
    let version = kernel_version(tree)?;
    let all = all();
    let known: Vec<String> = all.iter().map(|s| s.version.clone()).collect();
    all.into_iter().find(|series| series.version == version).ok_or_else(|| {
        let (tree, known) = (tree.display(), known.join(", "));
        Error::Patch(format!(
            "{tree} is Linux {version}, for which there is no patch series; there are series for \
             {known}: use one of these, or apply the nearest by hand"
        ))
    })
}

/// `VERSION.PATCHLEVEL` out of a kernel's top Makefile.
pub(crate) fn kernel_version(tree: &Path) -> Result<String> {
    let makefile = tree.join("Makefile");
    let text = regular::read_to_string(&makefile).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Error::Patch(format!(
            "{} is not a kernel source tree: it has no Makefile; name the top folder of one",
            tree.display()
        )),
        _ => Error::io("read", &makefile, e),
    })?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('='));
        line.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    match (value("VERSION "), value("PATCHLEVEL ")) {
        (Some(version), Some(level)) => Ok(format!("{version}.{level}")),
        _ => Err(Error::Patch(format!(
            "{} is not a kernel source tree: its Makefile has no VERSION and PATCHLEVEL; name the \
             top folder of one",
            tree.display()
        ))),
    }
}

/// Changed files by name: the new text, or `None` for a removed one.
type Changes = BTreeMap<PathBuf, Option<String>>;

/// Tries a series on a tree, in memory.
///
/// # Errors
/// Where the series neither applies nor is applied, or a file of the tree cannot be read.
pub fn check(tree: &Path, series: &Series) -> Result<State> {
    if undo(tree, series).is_ok() {
        return Ok(State::Applied);
    }
    changes(tree, series).map(|_| State::Applies)
}

/// Applies a series: all files, or none. Returns the names of the changed files.
///
/// # Errors
/// Where it does not apply, a file that it changes is a link, or a file cannot be written.
pub fn apply(tree: &Path, series: &Series) -> Result<Vec<PathBuf>> {
    write(tree, changes(tree, series)?)
}

/// Takes a series out of a tree that has it: all files, or none. Returns the names of the
/// changed files.
///
/// # Errors
/// Where it is not applied as a whole, a file that it changes is a link, or a file cannot be
/// written.
pub fn revert(tree: &Path, series: &Series) -> Result<Vec<PathBuf>> {
    write(tree, undo(tree, series)?)
}

/// Fails where a file that is changed is a link, or is reached through one: it may be another
/// tree's, and a link that is replaced by a file does not come back.
fn refuse_links(tree: &Path, changes: &Changes) -> Result<()> {
    for name in changes.keys() {
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

fn write(tree: &Path, changes: Changes) -> Result<Vec<PathBuf>> {
    let mut aside = Vec::new();
    for (name, text) in &changes {
        let place = tree.join(name);
        aside.push((
            place.clone(),
            text.as_deref().map(|text| write_beside(&place, text)).transpose()?,
        ));
    }
    // All is on disk: from here on only renames can fail, and they need no space.
    for (place, file) in aside {
        match file {
            Some(file) => {
                drop(file.persist(&place).map_err(|e| Error::io("write", &place, e.error))?)
            }
            None => fs::remove_file(&place).map_err(|e| Error::io("remove", &place, e))?,
        }
    }
    Ok(changes.into_keys().collect())
}

fn write_beside(place: &Path, text: &str) -> Result<tempfile::NamedTempFile> {
    let fail = |e| Error::io("write", place, e);
    let folder = place.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(fail)?;
    // The umask decides on a new file, and an old one stays what it is.
    let mode = fs::Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().permissions(mode).tempfile_in(folder);
    let mut file = file.map_err(fail)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    if let Ok(found) = fs::metadata(place) {
        fs::set_permissions(file.path(), found.permissions()).map_err(fail)?;
    }
    Ok(file)
}

/// What a tree's files would be with the whole series applied.
fn changes(tree: &Path, series: &Series) -> Result<Changes> {
    let mut changes = Changes::new();
    for (name, patch) in &series.patches {
        apply_one(tree, name, patch, false, &mut changes)?;
    }
    refuse_links(tree, &changes)?;
    Ok(changes)
}

/// The same backwards: succeeds if the series is in the tree.
fn undo(tree: &Path, series: &Series) -> Result<Changes> {
    let mut changes = Changes::new();
    for (name, patch) in series.patches.iter().rev() {
        apply_one(tree, name, patch, true, &mut changes)?;
    }
    refuse_links(tree, &changes)?;
    Ok(changes)
}

fn apply_one(
    tree: &Path,
    name: &str,
    patch: &str,
    back: bool,
    changes: &mut Changes,
) -> Result<()> {
    let broken = |e: &dyn std::fmt::Display| {
        Error::Patch(format!("the patch {name} of this program is damaged: {e}; install it again"))
    };
    for file in PatchSet::parse(patch, ParseOptions::gitdiff()) {
        let file = file.map_err(|e| broken(&e))?;
        let Some(text) = file.patch().as_text() else {
            return Err(broken(&"it is binary"));
        };
        let operation = file.operation().strip_prefix(1);
        let text = if back { text.reverse() } else { text.clone() };
        let (from, to) = match &operation {
            FileOperation::Modify { original, modified } => (Some(original), Some(modified)),
            FileOperation::Create(path) => (None, Some(path)),
            FileOperation::Delete(path) => (Some(path), None),
            _ => return Err(broken(&"it renames a file")),
        };
        let (from, to) = if back { (to, from) } else { (from, to) };
        let old = match from {
            Some(path) => current(tree, Path::new(path.as_ref()), changes)?,
            None => String::new(),
        };
        let new = diffy::apply(&old, &text).map_err(|e| misfit(tree, name, from.or(to), &e))?;
        match (from, to) {
            (_, Some(path)) => changes.insert(PathBuf::from(path.as_ref()), Some(new)),
            (Some(path), None) => changes.insert(PathBuf::from(path.as_ref()), None),
            (None, None) => None,
        };
    }
    Ok(())
}

/// A file as the patches before have left it.
fn current(tree: &Path, name: &Path, changes: &Changes) -> Result<String> {
    let absent = || {
        Error::Patch(format!(
            "{} was removed by an earlier patch of the series; report this",
            name.display()
        ))
    };
    match changes.get(name) {
        Some(text) => text.clone().ok_or_else(absent),
        None => {
            let path = tree.join(name);
            regular::read_to_string(&path).map_err(|e| match e.kind() {
                ErrorKind::NotFound => Error::Patch(format!(
                    "{} is not there, but the series changes it; nothing was changed: use a \
                     complete, clean tree",
                    path.display()
                )),
                _ => Error::io("read", &path, e),
            })
        }
    }
}

fn misfit(
    tree: &Path,
    patch: &str,
    file: Option<&std::borrow::Cow<'_, str>>,
    why: &dyn std::fmt::Display,
) -> Error {
    let (tree, file) = (tree.display(), file.map_or("?", |name| name.as_ref()));
    Error::Patch(format!(
        "{patch} does not fit {file} in {tree} ({why}), and the series is not applied there \
         either; nothing was changed: use a clean tree, or apply patches/ by hand"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_series_for_each_kernel_that_the_readme_names() {
        let versions: Vec<String> = all().into_iter().map(|s| s.version).collect();
        assert_eq!(versions, ["6.1", "6.12", "7.3"]);
        assert!(all().iter().all(|series| !series.patches.is_empty()));
    }

    /// So that each can go in and out without the other.
    #[test]
    fn optional_series_change_other_files_than_the_versions_own() {
        let files = |series: &Series| {
            let lines = series.patches.iter().flat_map(|(_, text)| text.lines());
            let names = lines.filter_map(|line| line.strip_prefix("--- a/").map(str::to_owned));
            names.collect::<std::collections::BTreeSet<String>>()
        };
        assert_eq!(options(), ["initcalls"]);
        for own in all() {
            let option = optional("initcalls", &own.version).unwrap();
            assert!(!files(&option).is_empty());
            assert!(files(&own).is_disjoint(&files(&option)), "{option}");
        }
        let error = optional("../linux-7.3", "7.3").unwrap_err().to_string();
        assert!(error.contains("the optional series are: initcalls"), "{error}");
    }

    #[test]
    fn the_option_of_the_older_series_is_the_one_in_kconfig() {
        let option = include_str!("../../kconfig/Kconfig.thin_dist");
        let lines: Vec<&str> =
            option.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert!(lines.len() > 5);
        for series in all().iter().filter(|series| series.version.starts_with('6')) {
            let text: String = series.patches.iter().map(|(_, text)| *text).collect();
            for line in &lines {
                assert!(text.contains(&format!("\n+{line}\n")), "{}: {line}", series.version);
            }
        }
    }

    fn tree(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("Makefile"), text).unwrap();
        dir
    }

    #[test]
    fn an_unknown_version_is_told_the_known_ones() {
        let dir = tree("VERSION = 5\nPATCHLEVEL = 4\n");
        let error = for_tree(dir.path()).unwrap_err();
        assert!(error.to_string().contains("Linux 5.4") && error.to_string().contains("7.3"));
        assert_eq!(error.exit_code(), 7);
        assert!(for_tree(tree("all:\n").path()).unwrap_err().to_string().contains("not a kernel"));
    }

    /// Two patches, of which the second can be made not to fit.
    fn series() -> Series {
        let one = "--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n one\n+new\n two\n";
        let two = "--- a/g\n+++ b/g\n@@ -1 +1 @@\n-old\n+other\n";
        let whole = |text: &str| {
            let (file, _) = text[6..].split_once('\n').unwrap();
            Box::leak(format!("diff --git a/{file} b/{file}\n{text}").into_boxed_str())
                as &'static str
        };
        Series {
            version: "0.0".into(),
            option: None,
            patches: vec![("1.patch".into(), whole(one)), ("2.patch".into(), whole(two))],
        }
    }

    #[test]
    fn nothing_behind_a_link_is_changed_and_no_link_is_replaced() {
        let dir = tree("");
        let (inner, outer) = (dir.path().join("tree"), dir.path().join("other"));
        fs::create_dir_all(inner.join("real")).unwrap();
        fs::create_dir(&outer).unwrap();
        fs::write(outer.join("f"), "one\ntwo\n").unwrap();
        std::os::unix::fs::symlink(outer.join("f"), inner.join("f")).unwrap();
        fs::write(inner.join("g"), "old\n").unwrap();
        let refused = |tree: &Path, series: &Series| {
            let error = apply(tree, series).unwrap_err();
            assert!(error.to_string().contains("is a symbolic link, and the series"), "{error}");
            assert_eq!(error.exit_code(), 7);
            assert!(check(tree, series).is_err());
        };
        refused(&inner, &series());
        assert!(inner.join("f").is_symlink());
        fs::remove_file(inner.join("f")).unwrap();
        fs::copy(outer.join("f"), inner.join("f")).unwrap();
        // The same patches, of files in a folder that is a link.
        let mut below = series();
        let moved = |(name, text): &(String, &'static str)| {
            let text = text.replace("a/", "a/link/").replace("b/", "b/link/");
            (name.clone(), &*Box::leak(text.into_boxed_str()))
        };
        below.patches = below.patches.iter().map(moved).collect();
        fs::write(outer.join("g"), "old\n").unwrap();
        std::os::unix::fs::symlink(&outer, inner.join("link")).unwrap();
        refused(&inner, &below);
        assert_eq!(fs::read_to_string(outer.join("f")).unwrap(), "one\ntwo\n");
        apply(&inner, &series()).unwrap();
    }

    #[test]
    fn a_new_file_has_the_mode_that_the_umask_gives() {
        let dir = tree("");
        let file = write_beside(&dir.path().join("new"), "text").unwrap();
        file.persist(dir.path().join("new")).unwrap();
        fs::write(dir.path().join("by-hand"), "").unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions();
        assert_eq!(mode("new"), mode("by-hand"));
        fs::set_permissions(dir.path().join("new"), fs::Permissions::from_mode(0o751)).unwrap();
        let file = write_beside(&dir.path().join("new"), "text").unwrap();
        file.persist(dir.path().join("new")).unwrap();
        assert_eq!(mode("new").mode() & 0o7777, 0o751);
    }

    #[test]
    fn all_files_or_none() {
        let dir = tree("");
        let file = |name: &str| dir.path().join(name);
        fs::write(file("f"), "one\ntwo\n").unwrap();
        fs::write(file("g"), "unlike\n").unwrap();
        let error = apply(dir.path(), &series()).unwrap_err().to_string();
        assert!(error.contains("2.patch does not fit g"), "{error}");
        assert_eq!(fs::read_to_string(file("f")).unwrap(), "one\ntwo\n");
        fs::write(file("g"), "old\n").unwrap();
        assert_eq!(check(dir.path(), &series()).unwrap(), State::Applies);
        assert_eq!(apply(dir.path(), &series()).unwrap().len(), 2);
        assert_eq!(fs::read_to_string(file("f")).unwrap(), "one\nnew\ntwo\n");
        assert_eq!(check(dir.path(), &series()).unwrap(), State::Applied);
        fs::write(file("f"), "one\nnewer\ntwo\n").unwrap();
        assert!(revert(dir.path(), &series()).is_err());
        assert_eq!(fs::read_to_string(file("g")).unwrap(), "other\n");
        fs::write(file("f"), "one\nnew\ntwo\n").unwrap();
        assert_eq!(revert(dir.path(), &series()).unwrap().len(), 2);
        assert_eq!(fs::read_to_string(file("f")).unwrap(), "one\ntwo\n");
        assert_eq!(check(dir.path(), &series()).unwrap(), State::Applies);
    }
}
