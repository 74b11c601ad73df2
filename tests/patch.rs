//! `kthinlto patch` through the program, on trees that hold the lines that a series changes and
//! nothing else; `tests/kernel/patch` has real sources.

#![cfg(feature = "program")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Tree, bad, fails, good};

/// A hunk: the lines before and after.
type Hunk = (String, String);

/// The hunks of a series, in order, by file.
fn hunks(series: &str) -> BTreeMap<String, Vec<Hunk>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("patches").join(series);
    let mut patches: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    patches.sort();
    let mut files: BTreeMap<String, Vec<Hunk>> = BTreeMap::new();
    for patch in patches {
        let (mut file, mut in_hunk) = (String::new(), false);
        for line in fs::read_to_string(patch).unwrap().lines() {
            if let Some(name) = line.strip_prefix("+++ b/") {
                file = name.to_owned();
            } else if line.starts_with("@@ ") {
                files.entry(file.clone()).or_default().push(Hunk::default());
                in_hunk = true;
            } else if line.starts_with("diff --git ") {
                in_hunk = false;
            } else if in_hunk
                && let Some((old, new)) = files.get_mut(&file).and_then(|h| h.last_mut())
            {
                let (kind, rest) = line.split_at(1);
                if kind != "+" {
                    *old += &format!("{rest}\n");
                }
                if kind != "-" {
                    *new += &format!("{rest}\n");
                }
            }
        }
    }
    files
}

/// The shortest text that all hunks fit, one after the other, with a line of its own between.
fn shortest(hunks: &[Hunk]) -> String {
    let mut start = String::new();
    loop {
        let mut now = start.clone();
        let missing = hunks.iter().find(|(old, new)| match now.contains(old.as_str()) {
            true => {
                now = now.replacen(old, new, 1);
                false
            }
            false => true,
        });
        match missing {
            Some((old, _)) => start += &format!("# {}\n{old}", start.len()),
            None => return start,
        }
    }
}

/// A kernel of that version with those files.
fn kernel(tree: &Tree, version: &str, series: &str) -> PathBuf {
    let folder = tree.dir().join("linux");
    let _ = fs::remove_dir_all(&folder);
    for (name, hunks) in hunks(series) {
        let place = folder.join(&name);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, shortest(&hunks)).unwrap();
    }
    let numbers: Vec<&str> = version.split('.').collect();
    let head = format!(
        "VERSION = {}\nPATCHLEVEL = {}\nSUBLEVEL = {}\n",
        numbers[0], numbers[1], numbers[2]
    );
    let makefile = folder.join("Makefile");
    let text = fs::read_to_string(&makefile).unwrap();
    fs::write(&makefile, head + &text).unwrap();
    folder
}

/// All files below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(all.insert(path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    all
}

const SERIES: [(&str, &str, &str); 4] = [
    ("linux-6.1-6.4", "6.1.900", "Linux 6.1 to 6.4: made on 6.1.192"),
    ("linux-6.5-6.12", "6.6.900", "Linux 6.5 to 6.12: made on 6.12.117"),
    ("linux-6.13-7.1", "6.18.900", "Linux 6.13 to 7.1: made on 7.1.5"),
    ("linux-7.2", "7.4.900", "Linux 7.2 and later: made on 7.3.4"),
];

#[test]
fn each_series_goes_in_and_out_and_says_what_it_was_tested_on() {
    let tree = Tree::new();
    for (series, version, made_on) in SERIES {
        let folder = kernel(&tree, version, series);
        let shown = folder.to_str().unwrap();
        let before = files(&folder);
        let said = good(tree.bare(&["patch", "--check", shown]));
        assert!(said.contains("all 4 patches for Linux"), "{said}");
        assert_eq!(files(&folder), before);
        let said = good(tree.bare(&["patch", shown]));
        let untested = format!("not tested by us on {version}");
        assert!(said.contains(made_on) && said.contains(&untested), "{said}");
        assert_ne!(files(&folder), before);
        let said = good(tree.bare(&["patch", shown]));
        assert!(said.contains("already has the series"), "{said}");
        good(tree.bare(&["patch", "--reverse", shown]));
        assert_eq!(files(&folder), before);
    }
}

/// A vendor may have taken mainline's mode into an older kernel.
#[test]
fn the_version_does_not_choose_the_series() {
    let tree = Tree::new();
    let folder = kernel(&tree, "6.16.3", "linux-7.2");
    let said = good(tree.bare(&["patch", folder.to_str().unwrap()]));
    assert!(said.contains("Linux 7.2 and later: made on 7.3.4"), "{said}");
    assert!(said.contains("not tested by us on 6.16.3"), "{said}");
}

/// Runs `patch`, which has to refuse the tree with this sentence and leave it as it is.
#[track_caller]
fn refuses(tree: &Tree, folder: &Path, sentence: &str) {
    let before = files(folder);
    bad(tree.bare(&["patch", folder.to_str().unwrap()]), 7, sentence);
    assert_eq!(files(folder), before);
}

#[test]
fn a_tree_that_is_not_right_is_told_what_is_wrong() {
    let tree = Tree::new();
    let older = || kernel(&tree, "6.12.117", "linux-6.5-6.12");
    let folder = older();
    let build = shortest(&hunks("linux-7.2")["scripts/Makefile.build"]);
    fs::write(folder.join("scripts/Makefile.build"), build).unwrap();
    refuses(&tree, &folder, "scripts/Makefile.build has the lines of Linux 6.13 to 7.1");

    let folder = older();
    let makefile = fs::read_to_string(folder.join("Makefile")).unwrap();
    let vendors = makefile.replace("CC_FLAGS_LTO\t:= -flto\n", "CC_FLAGS_LTO\t:= -flto -fvendor\n");
    assert_ne!(vendors, makefile);
    fs::write(folder.join("Makefile"), vendors).unwrap();
    refuses(&tree, &folder, "hunk 1 of Makefile in 0003-kbuild-add-CONFIG_LTO_CLANG_THIN_DIST");

    fs::write(folder.join("Makefile"), makefile.replace('\n', "\r\n")).unwrap();
    refuses(&tree, &folder, "the lines of Makefile end in a carriage return (CRLF)");

    let folder = older();
    let (_, name) = first_patch("linux-6.5-6.12");
    tree.shell(&format!("cd {} && patch -s -p1 <{name}", folder.display()));
    refuses(&tree, &folder, "it has the first 1 of its 4 patches, to 0001-");

    let folder = older();
    let kept = fs::read(folder.join("scripts/Makefile.lib")).unwrap();
    good(tree.bare(&["patch", folder.to_str().unwrap()]));
    fs::write(folder.join("scripts/Makefile.lib"), kept).unwrap();
    refuses(&tree, &folder, "8 of 9 files have it; nothing was changed: restore the files");
}

fn first_patch(series: &str) -> (usize, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("patches").join(series);
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<PathBuf> = names.collect();
    names.sort();
    (names.len(), names[0].to_str().unwrap().to_owned())
}

#[test]
fn what_no_build_reads_may_be_missing() {
    let tree = Tree::new();
    let folder = kernel(&tree, "6.12.117", "linux-6.5-6.12");
    fs::remove_file(folder.join(".gitignore")).unwrap();
    fs::remove_dir_all(folder.join("Documentation")).unwrap();
    let said = good(tree.bare(&["patch", folder.to_str().unwrap()]));
    assert!(said.contains("\n.gitignore is not there, and was left out\n"), "{said}");
    assert!(!folder.join(".gitignore").exists());
    fs::remove_file(folder.join("arch/Kconfig")).unwrap();
    refuses(&tree, &folder, "does not fit the series for Linux 6.5 to 6.12");
}

#[test]
fn an_architecture_without_thinlto_is_told_that_nothing_changes() {
    let tree = Tree::new();
    let folder = kernel(&tree, "6.12.117", "linux-6.5-6.12");
    for (arch, option) in [("arm64", "\tselect ARCH_SUPPORTS_LTO_CLANG_THIN\n"), ("powerpc", "")] {
        fs::create_dir_all(folder.join("arch").join(arch)).unwrap();
        fs::write(folder.join("arch").join(arch).join("Kconfig"), option).unwrap();
        let mut check = tree.bare(&["patch", "--check", folder.to_str().unwrap()]);
        check.env("ARCH", arch);
        let said = good(check);
        let wanted = "arch/powerpc of Linux 6.12.117 has no ThinLTO";
        assert_eq!(said.contains(wanted), arch == "powerpc", "{said}");
    }
}

/// `patch` on a tree that cannot be written. Modes do not stop root, so there it is mounted that way, where
/// nobody else sees it.
fn in_read_only(tree: &Tree, folder: &str, arguments: &[&str]) -> Command {
    let mount = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let mut command = match rustix::process::geteuid().is_root() {
        true => tree.command(Path::new("unshare")),
        false => return tree.bare(&[&["patch"], arguments, &[folder]].concat()),
    };
    command.args(["--mount", "--propagation", "private", "sh", "-c", mount, folder]);
    command.args([env!("CARGO_BIN_EXE_kthinlto"), "patch"]).args(arguments).arg(folder);
    command
}

#[test]
fn a_read_only_tree_is_told_so_and_stays_as_it_is() {
    let tree = Tree::new();
    let folder = kernel(&tree, "7.3.4", "linux-7.2");
    let shown = folder.to_str().unwrap();
    let writable = |yes: bool| {
        let mode = if yes { "u+w" } else { "a-w" };
        tree.shell(&format!("chmod -R {mode} {shown}"));
    };
    let sentence = ["cannot patch ", shown, "nothing was changed: patch a copy of the tree"];
    for (before, arguments) in [(None, &[][..]), (Some(()), &["--reverse"])] {
        if before.is_some() {
            good(tree.bare(&["patch", shown]));
        }
        let was = files(&folder);
        writable(false);
        let said = good(in_read_only(&tree, shown, &[arguments, &["--check"]].concat()));
        assert!(said.contains("patches for Linux"), "{said}");
        fails(in_read_only(&tree, shown, arguments), 5, &sentence);
        writable(true);
        assert_eq!(files(&folder), was);
    }
}
