//! Tries a series on a tree, in memory: each hunk at the one place where its lines stand, with an
//! offset but with all of its context; and says what is in the way. Must not know how a file is
//! written, or where the series come from.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use diffy::patch_set::{FileOperation, ParseOptions, PatchSet};
use diffy::{Hunk, Line};

use super::{Kernel, Series};
use crate::error::{Error, Result};
use crate::regular;

/// What a series is to a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All patches apply.
    Applies,
    /// All patches are in the tree.
    Applied,
}

/// Files that no build reads: where one is missing, the series is applied without it.
const DISPENSABLE: [&str; 2] = [".gitignore", "Documentation/"];

/// A hunk, and the patch that it is of.
struct Change<'p> {
    patch: &'p str,
    /// Counted from 1, in its patch and file.
    number: usize,
    /// Its lines before.
    old: String,
    /// Its lines after.
    new: String,
    /// The first line that it takes out or puts in.
    line: String,
}

impl<'p> Change<'p> {
    fn of(patch: &'p str, number: usize, hunk: &Hunk<'_, str>) -> Self {
        let mut change =
            Change { patch, number, old: String::new(), new: String::new(), line: String::new() };
        for line in hunk.lines() {
            let (Line::Context(text) | Line::Delete(text) | Line::Insert(text)) = line;
            if !matches!(line, Line::Insert(_)) {
                change.old.push_str(text);
            }
            if !matches!(line, Line::Delete(_)) {
                change.new.push_str(text);
            }
            if !matches!(line, Line::Context(_)) && change.line.is_empty() {
                change.line = text.trim().to_owned();
            }
        }
        change
    }
}

/// What a series does to one file, in order.
type Edits<'p> = BTreeMap<PathBuf, Vec<Change<'p>>>;

/// A hunk that has no place.
#[derive(Debug, Clone)]
struct Miss {
    patch: String,
    number: usize,
    /// The first line that it takes out or puts in.
    line: String,
    /// How many places have its lines.
    places: usize,
}

/// One file with all hunks of a series.
#[derive(Debug, Clone)]
enum Attempt {
    /// Its new text.
    Fits(String),
    Misses(Miss),
    /// There is no such file.
    Absent,
}

/// A series on a tree.
#[derive(Debug, Clone)]
pub struct Fit {
    /// The series.
    pub series: Series,
    pub(super) tree: PathBuf,
    /// Each file with the series applied.
    forward: BTreeMap<PathBuf, Attempt>,
    /// Each file with the series taken out.
    back: BTreeMap<PathBuf, Attempt>,
    /// The lines of these files end in a carriage return.
    carriage_returns: BTreeSet<PathBuf>,
    /// How many patches are in the tree if the others apply, but not all or none.
    first_patches: Option<usize>,
}

impl Fit {
    /// Tries `series` on the files below `tree`.
    ///
    /// # Errors
    /// Where a file of the tree cannot be read, or a patch of the program is damaged.
    pub fn of(tree: &Path, series: Series) -> Result<Self> {
        let edits = edits(&series, 0..series.patches.len())?;
        let mut texts = BTreeMap::new();
        for name in edits.keys() {
            texts.insert(name.clone(), read(tree, name)?);
        }
        let with = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains("\r\n"));
        let carriage_returns = texts.iter().filter(|(_, text)| with(text));
        let carriage_returns = carriage_returns.map(|(name, _)| name.clone()).collect();
        let (forward, back) = (attempts(&texts, &edits, false), attempts(&texts, &edits, true));
        let mut fit = Fit {
            tree: tree.to_path_buf(),
            series,
            forward,
            back,
            carriage_returns,
            first_patches: None,
        };
        if fit.state().is_none() {
            fit.first_patches = first_patches(&fit.series, &texts)?;
        }
        Ok(fit)
    }

    /// What the series is to the tree, if it is anything.
    pub fn state(&self) -> Option<State> {
        match () {
            () if all_fit(&self.back) => Some(State::Applied),
            () if all_fit(&self.forward) => Some(State::Applies),
            () => None,
        }
    }

    /// Files that the series would change and that are not there, nor needed.
    pub fn left_out(&self) -> Vec<PathBuf> {
        let absent = self.forward.iter().filter(|(_, attempt)| matches!(attempt, Attempt::Absent));
        absent.map(|(name, _)| name.clone()).collect()
    }

    /// The changed files: with the series, or without it if it is applied.
    pub(super) fn changes(&self) -> BTreeMap<PathBuf, String> {
        let attempts = match self.state() {
            Some(State::Applied) => &self.back,
            Some(State::Applies) => &self.forward,
            None => return BTreeMap::new(),
        };
        let fits = attempts.iter().filter_map(|(name, attempt)| match attempt {
            Attempt::Fits(text) => Some((name.clone(), text.clone())),
            _ => None,
        });
        fits.collect()
    }

    /// How many files it fits.
    fn fitting(&self) -> usize {
        self.forward.values().filter(|attempt| matches!(attempt, Attempt::Fits(_))).count()
    }
}

fn dispensable(name: &Path) -> bool {
    DISPENSABLE.iter().any(|start| name.to_string_lossy().starts_with(start))
}

/// Whether a file lets the series be applied.
fn is_fine(name: &Path, attempt: &Attempt) -> bool {
    match attempt {
        Attempt::Fits(_) => true,
        Attempt::Misses(_) => false,
        Attempt::Absent => dispensable(name),
    }
}

fn all_fit(attempts: &BTreeMap<PathBuf, Attempt>) -> bool {
    attempts.iter().all(|(name, attempt)| is_fine(name, attempt))
        && attempts.values().any(|attempt| matches!(attempt, Attempt::Fits(_)))
}

/// The hunks of some patches of a series, by file.
fn edits(series: &Series, patches: std::ops::Range<usize>) -> Result<Edits<'_>> {
    let mut edits = Edits::new();
    for (name, text) in &series.patches[patches] {
        let broken = |e: &dyn std::fmt::Display| {
            let text =
                format!("the patch {name} of this program is damaged: {e}; install it again");
            Error::Patch(text)
        };
        for file in PatchSet::parse(text, ParseOptions::gitdiff()) {
            let file = file.map_err(|e| broken(&e))?;
            let operation = file.operation().strip_prefix(1);
            let FileOperation::Modify { original, .. } = operation else {
                return Err(broken(&"it does more than to change files"));
            };
            let place = PathBuf::from(original.as_ref());
            let Some(patch) = file.patch().as_text() else {
                return Err(broken(&"it is binary"));
            };
            let hunks = patch.hunks().iter().enumerate();
            let changes = hunks.map(|(index, hunk)| Change::of(name, index + 1, hunk));
            edits.entry(place).or_default().extend(changes);
        }
    }
    Ok(edits)
}

/// A file's text, unless there is no such file.
fn read(tree: &Path, name: &Path) -> Result<Option<String>> {
    let path = tree.join(name);
    match regular::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(Error::io("read", &path, e)),
    }
}

fn attempts(
    texts: &BTreeMap<PathBuf, Option<String>>,
    edits: &Edits<'_>,
    back: bool,
) -> BTreeMap<PathBuf, Attempt> {
    let of_file = |(name, changes): (&PathBuf, &Vec<Change<'_>>)| {
        let attempt = match texts.get(name).and_then(Option::as_ref) {
            Some(text) => attempt(text, changes, back),
            None => Attempt::Absent,
        };
        (name.clone(), attempt)
    };
    edits.iter().map(of_file).collect()
}

/// A file's text with all changes, or without them.
fn attempt(text: &str, changes: &[Change<'_>], back: bool) -> Attempt {
    let mut text = text.to_owned();
    let ordered: Box<dyn Iterator<Item = &Change<'_>>> = match back {
        true => Box::new(changes.iter().rev()),
        false => Box::new(changes.iter()),
    };
    for change in ordered {
        let (old, new) = match back {
            true => (&change.new, &change.old),
            false => (&change.old, &change.new),
        };
        match replace(&text, old, new) {
            Ok(new) => text = new,
            Err(places) => {
                return Attempt::Misses(Miss {
                    patch: change.patch.to_owned(),
                    number: change.number,
                    line: change.line.clone(),
                    places,
                });
            }
        }
    }
    Attempt::Fits(text)
}

/// The text with other lines at the only place that has the old ones; else how many places have them.
fn replace(text: &str, old: &str, new: &str) -> std::result::Result<String, usize> {
    let begins_line = |at: &usize| *at == 0 || text.as_bytes()[at - 1] == b'\n';
    let places: Vec<usize> =
        text.match_indices(old).map(|(at, _)| at).filter(begins_line).collect();
    match places.as_slice() {
        [at] => Ok([&text[..*at], new, &text[at + old.len()..]].concat()),
        places => Err(places.len()),
    }
}

/// How many patches, from the first on, are in the tree where all others apply to it.
fn first_patches(
    series: &Series,
    texts: &BTreeMap<PathBuf, Option<String>>,
) -> Result<Option<usize>> {
    for count in 1..series.patches.len() {
        let without = attempts(texts, &edits(series, 0..count)?, true);
        let rest = attempts(texts, &edits(series, count..series.patches.len())?, false);
        if all_fit(&without) && all_fit(&rest) {
            return Ok(Some(count));
        }
    }
    Ok(None)
}

/// The error where no series fits: what is in the way of the one for the tree's version, or else of
/// the one that fits the most files.
pub(super) fn why_none(kernel: &Kernel, tried: &[Fit]) -> Error {
    let known = tried.iter().map(|fit| fit.series.to_string()).collect::<Vec<_>>().join(", ");
    let (tree, release) = (kernel.tree.display(), &kernel.release);
    let by_version = tried.iter().find(|fit| fit.series.covers(kernel.version));
    if by_version.is_none() && tried.iter().all(|fit| fit.fitting() == 0) {
        return Error::Patch(format!(
            "{tree} is Linux {release}, for which there is no patch series; there are series for \
             {known}: use one of these, or apply the nearest by hand"
        ));
    }
    let Some(nearest) = by_version.or_else(|| tried.iter().max_by_key(|fit| fit.fitting())) else {
        return Error::Patch(format!("{tree} is Linux {release}, and there is no series at all"));
    };
    let found = changed_since(nearest).or_else(|| half_applied(nearest));
    let found = found.or_else(|| mixed(nearest, tried)).or_else(|| miss(nearest));
    let found = found.unwrap_or_else(|| "no file of it is there".to_owned());
    let series = &nearest.series;
    Error::Patch(format!(
        "{tree}, which says that it is Linux {release}, does not fit the series for {series}: \
         {found}"
    ))
}

/// Where the series is in the tree, and a file that it changes was changed again.
fn changed_since(fit: &Fit) -> Option<String> {
    let fits = |attempt: &Attempt| matches!(attempt, Attempt::Fits(_));
    if fit.forward.values().any(fits) || !fit.back.values().any(fits) {
        return None;
    }
    let mut misses = fit.back.iter().filter_map(|(name, attempt)| match attempt {
        Attempt::Misses(miss) => Some((name, miss)),
        _ => None,
    });
    let (name, Miss { patch, number, line, .. }) = misses.next()?;
    Some(format!(
        "it has the series, but {} was changed since, at hunk {number} of {patch}, `{line}`; nothing \
         was changed: undo that change first",
        name.display()
    ))
}

/// Where some of it is in the tree: that much is said, and not guessed which was meant.
fn half_applied(fit: &Fit) -> Option<String> {
    if let Some(count) = fit.first_patches {
        let (all, last) = (fit.series.patches.len(), &fit.series.patches[count - 1].0);
        return Some(format!(
            "it has the first {count} of its {all} patches, to {last}, but not the others; nothing \
             was changed: apply these by hand, or take those out and run this again"
        ));
    }
    let fits = |attempts: &BTreeMap<PathBuf, Attempt>, name: &Path| {
        attempts.get(name).is_some_and(|attempt| matches!(attempt, Attempt::Fits(_)))
    };
    let with: Vec<&PathBuf> = fit.back.keys().filter(|name| fits(&fit.back, name)).collect();
    let without = fit.forward.keys().find(|name| fits(&fit.forward, name))?;
    let first = with.first()?;
    Some(format!(
        "{} has it, and {} has not: {} of {} files have it; nothing was changed: restore the files \
         as they were, and run this again",
        first.display(),
        without.display(),
        with.len(),
        fit.back.len()
    ))
}

/// Where each file that does not fit has the lines of another version.
fn mixed(nearest: &Fit, tried: &[Fit]) -> Option<String> {
    let unfit = nearest.forward.iter().filter(|(name, attempt)| !is_fine(name, attempt));
    let fits_other = |name: &Path| {
        let others = tried.iter().filter(|other| other.series.from != nearest.series.from);
        let mut others = others.filter(|other| {
            other.forward.get(name).is_some_and(|attempt| matches!(attempt, Attempt::Fits(_)))
        });
        others.next().map(|other| other.series.to_string())
    };
    let mut unfit = unfit.map(|(name, _)| (name, fits_other(name)));
    let (first, other) = unfit.next()?;
    if nearest.fitting() == 0 || unfit.any(|(_, other)| other.is_none()) {
        return None;
    }
    Some(format!(
        "{} has the lines of {}, and other files have those of {}: the tree is of two versions; \
         nothing was changed: use a clean tree",
        first.display(),
        other?,
        nearest.series
    ))
}

/// The first hunk, in the order of the patches, that has no place.
fn miss(fit: &Fit) -> Option<String> {
    let mut misses: Vec<(&PathBuf, &Miss)> = Vec::new();
    for (name, attempt) in &fit.forward {
        match attempt {
            Attempt::Misses(miss) => misses.push((name, miss)),
            Attempt::Absent if !dispensable(name) => {
                return Some(format!(
                    "it has no {}, which the series changes; nothing was changed: use a complete, \
                     clean tree",
                    name.display()
                ));
            }
            _ => {}
        }
    }
    let (name, miss) = misses.into_iter().min_by_key(|(_, miss)| &miss.patch)?;
    let shown = name.display();
    if fit.carriage_returns.contains(name) {
        return Some(format!(
            "the lines of {shown} end in a carriage return (CRLF), and those of the patches do not; \
             nothing was changed: check the tree out with core.autocrlf=false"
        ));
    }
    let Miss { patch, number, line, places } = miss;
    let places = match places {
        0 => "finds no place".to_owned(),
        places => format!("finds {places} places"),
    };
    Some(format!(
        "hunk {number} of {shown} in {patch}, `{line}`, {places} there; nothing was changed: use a \
         clean tree, or apply patches/ by hand"
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::kbuild::patches::Kernel;

    /// Two patches of two files, of which the second also changes what the first put in.
    fn series(from: (u32, u32), word: &str) -> Series {
        let text = |text: String| &*Box::leak(text.into_boxed_str());
        let diff = |file: &str, hunks: &str| {
            format!("diff --git a/{file} b/{file}\n--- a/{file}\n+++ b/{file}\n{hunks}")
        };
        let one = diff("f", &format!("@@ -1,2 +1,3 @@\n {word}\n+new\n two\n"));
        let two = diff("f", &format!("@@ -1,3 +1,3 @@\n {word}\n-new\n+newer\n two\n"))
            + &diff("g", &format!("@@ -1,2 +1,2 @@\n-old {word}\n+other {word}\n end\n"));
        let three = diff(".gitignore", "@@ -1,2 +1,3 @@\n a\n+b\n z\n");
        let patches = [("1.patch", one), ("2.patch", two), ("3.patch", three)];
        Series {
            from,
            to: Some(from),
            option: None,
            made_on: None,
            tested: Vec::new(),
            patches: patches.map(|(name, diff)| (name.to_owned(), text(diff))).to_vec(),
        }
    }

    fn both() -> Vec<Series> {
        vec![series((6, 1), "one"), series((7, 3), "seven")]
    }

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let whole = [
            ("Makefile", "VERSION = 6\nPATCHLEVEL = 1\n"),
            ("f", "one\ntwo\n"),
            ("g", "old one\nend\n"),
            (".gitignore", "a\nz\n"),
        ];
        for (name, text) in whole.iter().chain(files) {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn choose(tree: &Path) -> Result<Fit> {
        Kernel::read(tree)?.choose(both())
    }

    #[track_caller]
    fn refused(files: &[(&str, &str)], words: &[&str]) {
        let dir = tree(files);
        let error = choose(dir.path()).unwrap_err();
        assert_eq!(error.exit_code(), 7);
        let said = error.to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(said.contains("nothing was changed"), "{said}");
    }

    #[test]
    fn a_hunk_is_placed_with_an_offset_but_with_all_of_its_context() {
        let dir = tree(&[("f", "0\n0\n0\n0\none\ntwo\n")]);
        let fit = choose(dir.path()).unwrap();
        assert_eq!(fit.state(), Some(State::Applies));
        assert_eq!(fit.changes()[Path::new("f")], "0\n0\n0\n0\none\nnewer\ntwo\n");
        refused(&[("f", "one\n0\ntwo\n")], &["hunk 1 of f in 1.patch, `new`, finds no place"]);
        refused(&[("f", "one\ntwo\none\ntwo\n")], &["hunk 1 of f in 1.patch", "finds 2 places"]);
        refused(&[("f", "someone\ntwo\n")], &["hunk 1 of f in 1.patch", "finds no place"]);
    }

    #[test]
    fn the_series_is_chosen_by_what_is_in_the_tree() {
        let seven = [("f", "seven\ntwo\n"), ("g", "old seven\nend\n")];
        let dir = tree(&seven);
        let fit = choose(dir.path()).unwrap();
        assert_eq!((fit.series.from, fit.state()), ((7, 3), Some(State::Applies)));
        let applied = tree(&[
            ("f", "one\nnewer\ntwo\n"),
            ("g", "other one\nend\n"),
            (".gitignore", "a\nb\nz\n"),
        ]);
        let fit = choose(applied.path()).unwrap();
        assert_eq!((fit.series.from, fit.state()), ((6, 1), Some(State::Applied)));
        assert_eq!(fit.changes()[Path::new("f")], "one\ntwo\n");
    }

    #[test]
    fn a_missing_gitignore_is_no_reason_to_refuse() {
        let dir = tree(&[]);
        fs::remove_file(dir.path().join(".gitignore")).unwrap();
        let fit = choose(dir.path()).unwrap();
        assert_eq!(fit.state(), Some(State::Applies));
        assert_eq!(fit.left_out(), [Path::new(".gitignore")]);
        assert_eq!(fit.changes().len(), 2);
        fs::remove_file(dir.path().join("g")).unwrap();
        let error = choose(dir.path()).unwrap_err().to_string();
        assert!(error.contains("it has no g, which the series changes"), "{error}");
    }

    #[test]
    fn a_tree_of_two_versions_is_told_apart() {
        refused(
            &[("g", "old seven\nend\n")],
            &["g has the lines of Linux 7.3 to 7.3", "two versions"],
        );
    }

    #[test]
    fn a_series_that_is_half_there_is_told_apart() {
        refused(&[("f", "one\nnew\ntwo\n")], &["the first 1 of its 3 patches, to 1.patch"]);
        let two = [("f", "one\nnewer\ntwo\n"), ("g", "other one\nend\n")];
        refused(&two, &["the first 2 of its 3 patches, to 2.patch"]);
        refused(&[("f", "one\nnewer\ntwo\n")], &["f has it, and .gitignore has not: 1 of 3 files"]);
    }

    #[test]
    fn a_change_to_a_patched_file_is_named() {
        let since =
            [("f", "one\nnewest\ntwo\n"), ("g", "other one\nend\n"), (".gitignore", "a\nb\nz\n")];
        refused(
            &since,
            &["it has the series, but f was changed since, at hunk 1 of 2.patch, `new`"],
        );
    }

    #[test]
    fn carriage_returns_are_named() {
        refused(&[("f", "one\r\ntwo\r\n")], &["the lines of f end in a carriage return"]);
    }

    #[test]
    fn a_vendors_change_is_named_by_its_hunk() {
        refused(
            &[("g", "vendor's one\nend\n")],
            &["hunk 1 of g in 2.patch, `old one`, finds no place"],
        );
    }
}
