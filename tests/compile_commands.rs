//! `compile_commands.json` of a tree with native objects, by the kernel's own script with our patch
//! to it. Where the kernel's source is in the cache; `tests/kernel/mainline-7.3` has a whole kernel.

#![cfg(feature = "program")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Tree, good, tool};

const SCRIPT: &str = "scripts/clang-tools/gen_compile_commands.py";

/// The script of a kernel that the scripts of this repository have fetched.
fn script_of(kernel: &str) -> Option<String> {
    let home = || Some(Path::new(&std::env::var_os("HOME")?).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let ours = std::env::var_os("KTHINLTO_DEV_CACHE").map(PathBuf::from);
    let cache = ours.or_else(|| Some(cache?.join("kthinlto")))?;
    fs::read_to_string(cache.join("src").join(kernel).join(SCRIPT)).ok()
}

/// How many files the script lists for `vmlinux.a`.
fn listed(tree: &Tree, script: &Path) -> usize {
    let mut command = tree.command("python3".as_ref());
    command.arg(script).args(["-a", &tool("llvm-ar"), "-d", ".", "-o", "c.json", "vmlinux.a"]);
    good(command);
    let text = fs::read_to_string(tree.objects.join("c.json")).unwrap();
    text.matches("\"file\": ").count()
}

#[test]
fn code_that_is_built_in_has_entries_in_each_series() {
    let tree = Tree::new();
    tree.build();
    tree.write_object("kernel/.head.o.cmd", "savedcmd_kernel/head.o := as\n");
    let folder = tree.dir().join("kernel");
    let place = folder.join(SCRIPT);
    for (kernel, series) in [
        ("linux-7.3", "linux-7.2"),
        ("linux-6.12", "linux-6.5-6.12"),
        ("linux-6.12", "linux-6.13-7.1"),
        ("linux-6.1", "linux-6.1-6.4"),
    ] {
        let Some(script) = script_of(kernel) else {
            continue;
        };
        if kernel == "linux-6.1" {
            // As its records are.
            tree.shell("find . -name '.*.cmd' -exec sed -i 's/^savedcmd_/cmd_/' {} +");
        }
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, script).unwrap();
        assert_eq!(listed(&tree, &place), 0, "{series} without the patch");
        let patches = Path::new(env!("CARGO_MANIFEST_DIR")).join("patches").join(series);
        let mut apply = Command::new("sh");
        apply.args(["-ec", "cat \"$0\"/*gen_compile_commands*.patch | patch -s -p1"]);
        apply.arg(patches).current_dir(&folder);
        good(apply);
        let modules = common::sources().len();
        assert_eq!(listed(&tree, &place), modules, "{series}");
    }
}
