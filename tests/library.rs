//! The library as another program uses it: the example calls each phase on its own, and what
//! it makes is what `kthinlto build` makes.

#![cfg(feature = "program")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Tree, assert_holds, good};

/// An example, built and run by cargo: `cargo test --test library` alone does not build it.
fn example(tree: &Tree, name: &str) -> Command {
    let mut command = tree.command(Path::new(env!("CARGO")));
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    command.args(["run", "--quiet", "--locked", "--manifest-path", manifest]);
    command.args(["--example", name, "--"]);
    command
}

#[test]
fn a_program_that_calls_each_phase_makes_what_the_stage_makes() {
    let (theirs, ours) = (Tree::new(), Tree::new());
    let mut phases = example(&theirs, "phases");
    phases.arg(&theirs.objects).args(["built-in.a", "lib/lib.a"]);
    let said = good(phases);
    assert_holds(&said, &["archive: 13 members", "12 of 12 bitcode", "12 of 12 backends"]);
    assert_holds(&said, &["backend: kernel/a.thinlto-native.o, due to no record", "vmlinux.a"]);
    ours.build();
    let (mut made, mut want) = (theirs.outputs(), ours.outputs());
    // The example leaves out the archive that only later makefiles look at.
    assert!(want.remove("built-in-fixup.a").is_some());
    made.remove("built-in-fixup.a");
    common::assert_same(&made, &want);
    assert!(made.contains_key("vmlinux.a") && made.contains_key("kernel/a.thinlto-native.o"));
}

/// What only the command line needs is nothing that a program with one of its own should build.
#[test]
fn alone_it_has_none_of_the_programs_crates() {
    let mut tree = Command::new(env!("CARGO"));
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    tree.args(["tree", "--quiet", "--locked", "--manifest-path", manifest]);
    tree.args(["--no-default-features", "-e", "normal", "--prefix", "none", "-f", "{lib}"]);
    let said = good(tree);
    let crates: Vec<&str> = said.lines().map(str::trim).collect();
    assert!(crates.contains(&"blake3"), "{said}");
    let of_the_program =
        ["anyhow", "clap", "clap_builder", "clap_complete", "clap_mangen", "diffy", "include_dir"];
    for name in of_the_program.iter().chain(&["tracing_subscriber"]) {
        assert!(!crates.contains(name), "{name}: {said}");
    }
}

#[test]
fn its_mistakes_are_told_apart_by_type() {
    let error = kthinlto::archive::read::flatten(Path::new("/"), &["no.a".into()]).unwrap_err();
    assert!(matches!(error, kthinlto::error::Error::BadInput { .. }), "{error:?}");
    assert_eq!(error.exit_code(), 3);
}
