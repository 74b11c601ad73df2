//! The patch series for kernel trees: which there are, for which kernels, and which of them a tree
//! has or can have. That is read from the tree's files; its version only serves to explain. Must
//! not know what the patches do.

mod fit;
mod write;

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

pub use self::fit::{Fit, State};
use crate::error::{Error, Result};
use crate::kbuild::architecture;
use crate::regular;

/// All series, carried in the program.
static PATCHES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/patches");
/// What each of them was built and booted on.
const TESTED: &str = "tested";

/// A series: the kernels that it is for, and its patches in order.
#[derive(Debug, Clone)]
pub struct Series {
    /// The first version and the last, as `(6, 5)`; none is the last where it is for all later ones.
    pub from: (u32, u32),
    /// See `from`.
    pub to: Option<(u32, u32)>,
    /// The name of an optional series, which is independent of the others.
    pub option: Option<String>,
    /// The kernel that it was made on.
    pub made_on: Option<String>,
    /// The kernels that were built with it and booted.
    pub tested: Vec<String>,
    /// File names and texts.
    pub patches: Vec<(String, &'static str)>,
}

impl std::fmt::Display for Series {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.from;
        write!(out, "Linux {major}.{minor}")?;
        match self.to {
            Some((major, minor)) => write!(out, " to {major}.{minor}")?,
            None => out.write_str(" and later")?,
        }
        self.option.iter().try_for_each(|name| write!(out, " ({name})"))
    }
}

impl Series {
    /// Whether it is for this version.
    fn covers(&self, version: (u32, u32)) -> bool {
        self.from <= version && self.to.is_none_or(|last| version <= last)
    }

    /// What is known of it on a kernel of this release, as a sentence's part.
    pub fn reach(&self, release: &str) -> String {
        if self.tested.iter().any(|tested| tested == release) {
            return format!("built and booted by us on {release}");
        }
        let made_on = self.made_on.iter().map(|made_on| format!("made on {made_on}, "));
        let mut said: String = made_on.collect();
        if !self.tested.is_empty() {
            let _ = write!(said, "built and booted by us on {}, ", self.tested.join(", "));
        }
        said + "not tested by us on " + release
    }
}

/// All series, oldest kernel first.
pub fn all() -> Vec<Series> {
    let mut series: Vec<Series> = PATCHES.dirs().filter_map(series_in).collect();
    series.sort_by_key(|series| series.from);
    series
}

/// `linux-6.5-6.12`: from 6.5 to 6.12; `linux-7.2`: 7.2 and later.
fn series_in(dir: &'static Dir<'static>) -> Option<Series> {
    let folder = dir.path().file_name()?.to_str()?;
    let versions = folder.strip_prefix("linux-")?;
    let (from, to) = match versions.split_once('-') {
        Some((from, to)) => (version(from)?, Some(version(to)?)),
        None => (version(versions)?, None),
    };
    let patches = dir.files().filter_map(|file| {
        let name = file.path().file_name()?.to_str()?;
        Some((name.to_owned(), file.contents_utf8()?)).filter(|_| name.ends_with(".patch"))
    });
    let mut patches: Vec<_> = patches.collect();
    patches.sort();
    let mut kernels = kernels(folder).into_iter();
    let (made_on, tested) = (kernels.next(), kernels.collect());
    Some(Series { from, to, option: None, made_on, tested, patches })
}

/// The kernels of a folder in the list of what was tested; first the one that it was made on.
fn kernels(folder: &str) -> Vec<String> {
    let list = PATCHES.get_file(TESTED).and_then(|file| file.contents_utf8()).unwrap_or_default();
    let line = list.lines().map(str::split_whitespace).find_map(|mut words| {
        (words.next() == Some(folder)).then(|| words.map(str::to_owned).collect())
    });
    line.unwrap_or_default()
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Names of the optional series.
pub fn options() -> Vec<String> {
    let folders = PATCHES.get_dir("optional").into_iter().flat_map(Dir::dirs);
    let mut names: Vec<String> =
        folders.filter_map(|dir| Some(dir.path().file_name()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

/// The optional series of this name, oldest kernel first.
///
/// # Errors
/// Where there is none.
pub fn optional(name: &str) -> Result<Vec<Series>> {
    let known = options();
    let folder = PATCHES.get_dir(format!("optional/{name}"));
    let folder = folder.filter(|_| known.iter().any(|known| known == name)).ok_or_else(|| {
        let known = known.join(", ");
        Error::Patch(format!(
            "there is no optional series `{name}`; the optional series are: {known}"
        ))
    })?;
    let series = folder.dirs().filter_map(series_in);
    let series = series.map(|series| Series { option: Some(name.to_owned()), ..series });
    let mut series: Vec<Series> = series.collect();
    series.sort_by_key(|series| series.from);
    Ok(series)
}

/// A kernel source tree, by its top Makefile.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The folder.
    pub tree: PathBuf,
    /// `VERSION` and `PATCHLEVEL`.
    version: (u32, u32),
    /// The same and `SUBLEVEL`, as `6.12.117`.
    pub release: String,
}

impl Kernel {
    /// Reads what the Makefile in `tree` says.
    ///
    /// # Errors
    /// Where it is no kernel source tree.
    pub fn read(tree: &Path) -> Result<Self> {
        let makefile = tree.join("Makefile");
        let unlike = |found: &str| {
            let tree = tree.display();
            Error::Patch(format!(
                "{tree} is not a kernel source tree: {found}; name the top folder of one"
            ))
        };
        let text = regular::read_to_string(&makefile).map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => unlike("it has no Makefile"),
            _ => Error::io("read", &makefile, e),
        })?;
        let value = |name: &str| {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('='));
            line.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let (Some(major), Some(minor)) = (value("VERSION "), value("PATCHLEVEL ")) else {
            return Err(unlike("its Makefile has no VERSION and PATCHLEVEL"));
        };
        let Some(version) = version(&format!("{major}.{minor}")) else {
            return Err(unlike(&format!(
                "its Makefile says that it is version {major}.{minor}, which are no numbers"
            )));
        };
        let mut release = format!("{}.{}", version.0, version.1);
        if let Some(level) = value("SUBLEVEL ").filter(|level| level.parse::<u32>().is_ok()) {
            let _ = write!(release, ".{level}");
        }
        Ok(Kernel { tree: tree.to_path_buf(), version, release })
    }

    /// Of these series, the one that the tree has, or else the one that fits it.
    ///
    /// # Errors
    /// Where there is none: what is in the way of the nearest.
    pub fn choose(&self, all: Vec<Series>) -> Result<Fit> {
        let tried: Vec<Fit> =
            all.into_iter().map(|series| Fit::of(&self.tree, series)).collect::<Result<_>>()?;
        // What is for the version comes first, should several fit.
        let foreign = |fit: &&Fit| !fit.series.covers(self.version);
        for state in [State::Applied, State::Applies] {
            let of_state = tried.iter().filter(|fit| fit.state() == Some(state));
            if let Some(fit) = of_state.min_by_key(foreign) {
                return Ok(fit.clone());
            }
        }
        Err(fit::why_none(self, &tried))
    }

    /// A sentence where the architecture that make is told cannot have the mode: the series change
    /// nothing for it.
    pub fn without_thinlto(&self, arch: &str) -> Option<String> {
        let folder = architecture::without_thinlto(&self.tree, arch)?;
        Some(format!(
            "{folder} of Linux {} has no ThinLTO, so nothing changes for ARCH={arch}",
            self.release
        ))
    }
}

impl Fit {
    /// Writes what the tree's files are with the series, or without it if it is applied: all
    /// files, or none. Returns the names of the changed ones. `stop` gives the signal that asked
    /// us to stop, if one did.
    ///
    /// # Errors
    /// Where a file is a link or cannot be written, or a signal came in time.
    pub fn write(&self, stop: &dyn Fn() -> Option<i32>) -> Result<Vec<PathBuf>> {
        write::all_or_none(&self.tree, self.changes(), stop)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    #[test]
    fn there_is_a_series_for_each_kernel_that_the_readme_names() {
        let versions: Vec<String> = all().iter().map(Series::to_string).collect();
        let want =
            ["Linux 6.1 to 6.4", "Linux 6.5 to 6.12", "Linux 6.13 to 7.1", "Linux 7.2 and later"];
        assert_eq!(versions, want);
        for series in all() {
            assert!(!series.patches.is_empty());
            assert!(series.made_on.is_some(), "{series}: which kernel it was made on");
        }
        let of = |version| all().iter().filter(|series| series.covers(version)).count();
        assert_eq!((of((6, 0)), of((6, 1)), of((6, 12)), of((7, 1)), of((8, 0))), (0, 1, 1, 1, 1));
    }

    /// So that each can go in and out without the other.
    #[test]
    fn optional_series_change_other_files_than_the_versions_own() {
        let files = |series: &Series| {
            let lines = series.patches.iter().flat_map(|(_, text)| text.lines());
            let names = lines.filter_map(|line| line.strip_prefix("--- a/").map(str::to_owned));
            names.collect::<BTreeSet<String>>()
        };
        assert_eq!(options(), ["autofdo", "initcalls"]);
        for option in options().iter().flat_map(|name| optional(name).unwrap()) {
            assert!(!files(&option).is_empty());
            assert!(all().iter().all(|own| files(own).is_disjoint(&files(&option))), "{option}");
        }
        let error = optional("../linux-7.2").unwrap_err().to_string();
        assert!(error.contains("the optional series are: autofdo, initcalls"), "{error}");
    }

    #[test]
    fn the_option_of_the_older_series_is_the_one_in_kconfig() {
        let option = include_str!("../../../kconfig/Kconfig.thin_dist");
        let lines: Vec<&str> =
            option.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert!(lines.len() > 5);
        for series in all().iter().filter(|series| series.from < (7, 2)) {
            let text: String = series.patches.iter().map(|(_, text)| *text).collect();
            for line in &lines {
                assert!(text.contains(&format!("\n+{line}\n")), "{series}: {line}");
            }
        }
    }

    /// Kbuild may select nothing that a later patch defines.
    #[test]
    fn each_patch_of_the_older_series_uses_only_options_that_are_there() {
        for series in all().iter().filter(|series| series.from < (7, 2)) {
            let mut defined = false;
            for (name, text) in &series.patches {
                defined |= text.contains("\n+config LTO_CLANG_THIN_DIST\n");
                let mut added = text.lines().filter(|line| line.starts_with('+'));
                let uses = added.any(|line| {
                    line.contains("$(CONFIG_LTO_CLANG_THIN_DIST)")
                        || line.starts_with("+ifdef CONFIG_LTO")
                });
                assert!(defined || !uses, "{series}: {name}");
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
        let error = Kernel::read(dir.path()).unwrap().choose(all()).unwrap_err();
        assert!(error.to_string().contains("Linux 5.4") && error.to_string().contains("7.2"));
        assert_eq!(error.exit_code(), 7);
        let error = Kernel::read(tree("all:\n").path()).unwrap_err().to_string();
        assert!(error.contains("not a kernel"), "{error}");
        let odd = tree("VERSION = 6\nPATCHLEVEL = 1\u{1b}[2J\n");
        let error = Kernel::read(odd.path()).unwrap_err().to_string();
        assert!(error.contains("no numbers"), "{error}"); // who prints it escapes it
    }

    #[test]
    fn what_was_tested_is_said() {
        let series = |tested: &[&str]| Series {
            from: (7, 2),
            to: None,
            option: None,
            made_on: Some("7.3.4".to_owned()),
            tested: tested.iter().map(|&release| release.to_owned()).collect(),
            patches: Vec::new(),
        };
        assert_eq!(series(&["7.3.4"]).reach("7.3.4"), "built and booted by us on 7.3.4");
        assert_eq!(series(&[]).reach("7.2.13"), "made on 7.3.4, not tested by us on 7.2.13");
        assert_eq!(
            series(&["7.3.4", "7.2.13"]).reach("7.4.0"),
            "made on 7.3.4, built and booted by us on 7.3.4, 7.2.13, not tested by us on 7.4.0"
        );
    }

    #[test]
    fn an_architecture_without_thinlto_is_named() {
        let dir = tree("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 117\n");
        for (arch, text) in [("x86", "select ARCH_SUPPORTS_LTO_CLANG_THIN\n"), ("powerpc", "\n")] {
            fs::create_dir_all(dir.path().join("arch").join(arch)).unwrap();
            fs::write(dir.path().join("arch").join(arch).join("Kconfig"), text).unwrap();
        }
        let kernel = Kernel::read(dir.path()).unwrap();
        assert_eq!(kernel.without_thinlto("x86_64"), None);
        assert_eq!(kernel.without_thinlto("nothing"), None);
        assert_eq!(
            kernel.without_thinlto("powerpc").unwrap(),
            "arch/powerpc of Linux 6.12.117 has no ThinLTO, so nothing changes for ARCH=powerpc"
        );
    }
}
