//! Copies of the compiler that begin where its driver would end: the same bytes, and the driver
//! itself wherever it may have more to say than one answer for all.

#![cfg(feature = "program")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use common::{Tree, assert_holds, assert_same, bad, good, text, tool};

/// Backends of a tree of [`many`].
const BACKENDS: usize = 12 + 20;

/// A tree with so many equal sets of flags that asking the driver pays.
fn many() -> Tree {
    let tree = Tree::new();
    for n in 0..20 {
        let name = format!("lib/more{n}");
        let source =
            format!("int shared(int);\nint more{n}(int x) {{ return shared({n} - x); }}\n");
        fs::write(tree.sources.join(format!("{name}.c")), source).unwrap();
        tree.compile(&name, "");
    }
    tree.archive();
    tree
}

/// A stand-in that notes what it is called as, runs `main`, and then is clang.
fn noting(tree: &Tree, main: &str) -> String {
    let note = format!(
        "int cc1 = argc > 2 && !strcmp(argv[1], \"-cc1\");\n\
         if (argc > 2) {{ FILE *log = fopen(\"{}\", \"a\"); fputs(cc1 ? \"cc1\\n\" : \
         !strcmp(argv[argc - 1], \"-###\") ? \"asked\\n\" : \"driver\\n\", log); fclose(log); }}\n\
         (void)cc1; {main}",
        tree.dir().join("calls").display()
    );
    tree.program("clang-noting", &tool("clang"), "", "", &note)
}

/// How often the stand-in was called, and as what.
fn calls(tree: &Tree) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for line in fs::read_to_string(tree.dir().join("calls")).unwrap_or_default().lines() {
        *found.entry(line.to_owned()).or_insert(0) += 1;
    }
    found
}

fn called(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(name, count)| (name.to_string(), *count)).collect()
}

fn command(tree: &Tree, compiler: &str) -> Command {
    let mut command = tree.kthinlto();
    command.arg("-v").env("CC", compiler).env("KTHINLTO_EXECUTOR", "fork-server");
    command
}

#[test]
fn the_driver_is_asked_twice_for_equal_flags() {
    let tree = many();
    let compiler = noting(&tree, "");
    let out = good(command(&tree, &compiler));
    assert_holds(&out, &["32 backends begin at cc1, past the compiler's driver"]);
    assert_eq!(calls(&tree), called(&[("asked", 2), ("cc1", BACKENDS)]));
    assert_same(&tree.outputs(), &tree.mainline());
}

#[test]
fn flags_of_few_keep_the_driver() {
    let tree = many();
    tree.compile("kernel/b", "-O1 -fno-omit-frame-pointer");
    tree.compile("lib/w0", "-DNO_BACKEND_READS_THIS");
    let compiler = noting(&tree, "");
    good(command(&tree, &compiler));
    assert_eq!(calls(&tree), called(&[("asked", 2), ("cc1", BACKENDS - 1), ("driver", 1)]));
    assert_same(&tree.outputs(), &tree.mainline());
}

#[test]
fn plain_processes_and_small_trees_keep_the_driver() {
    let tree = many();
    let compiler = noting(&tree, "");
    let mut plain = command(&tree, &compiler);
    plain.env("KTHINLTO_EXECUTOR", "process");
    good(plain);
    assert_eq!(calls(&tree), called(&[("driver", BACKENDS)]));
    let small = Tree::new();
    let compiler = noting(&small, "");
    good(command(&small, &compiler));
    assert_eq!(calls(&small), called(&[("driver", 12)]));
}

#[test]
fn a_driver_with_more_to_say_is_run() {
    // One puts the names of files into one word of its command, the other runs several commands.
    for flag in ["-frecord-command-line", "-save-temps"] {
        let tree = many();
        tree.shell(&format!(
            "find . -name '.*.o.cmd' -exec sed -i '/^saved_c_flags_/s/$/ {flag}/' {{}} +"
        ));
        let compiler = noting(&tree, "");
        good(command(&tree, &compiler));
        let wanted = called(&[("asked", 2), ("driver", BACKENDS)]);
        assert_eq!(calls(&tree), wanted, "{flag}");
    }
}

#[test]
fn a_driver_that_reports_what_it_runs_is_run() {
    let tree = many();
    let compiler = noting(&tree, "");
    let mut command = command(&tree, &compiler);
    let report = tree.dir().join("report");
    command.env("CC_PRINT_OPTIONS", "1").env("CC_PRINT_OPTIONS_FILE", &report);
    good(command);
    assert_eq!(calls(&tree), called(&[("driver", BACKENDS)]));
    let report = fs::read_to_string(report).unwrap();
    assert_eq!(report.matches("\"-cc1\"").count(), BACKENDS, "{report}");
}

#[test]
fn an_answer_that_is_none_leaves_the_driver_its_work() {
    for how in ["return 1;", "return 0;", "abort();"] {
        let tree = many();
        let asked = format!("if (argc > 2 && !strcmp(argv[argc - 1], \"-###\")) {how}");
        let compiler = noting(&tree, &asked);
        good(command(&tree, &compiler));
        assert_eq!(calls(&tree)["driver"], BACKENDS, "{how}");
        assert_same(&tree.outputs(), &tree.mainline());
    }
}

#[test]
fn what_fails_at_cc1_is_run_by_the_driver_before_it_counts() {
    let tree = many();
    let fails =
        "for (int i = 1; i < argc && cc1; i++) if (!strcmp(argv[i], \"kernel/b.o\")) abort();";
    let compiler = noting(&tree, fails);
    let out = good(command(&tree, &compiler));
    assert_holds(&out, &["made a backend fail that a plain process could run"]);
    assert!(calls(&tree)["driver"] >= 1);
    assert_same(&tree.outputs(), &tree.mainline());
}

#[test]
fn a_real_failure_is_told_as_the_driver_tells_it() {
    let told = |executor: &str| {
        let tree = many();
        tree.shell("printf 'no bitcode' > kernel/b.o.thinlto.bc");
        // An index that clang cannot read, put there after the thin link.
        let linker = tree.linker(
            "ld",
            &format!(
                "{} \"$@\" || exit\nfor word; do case $word in --thinlto-prefix-replace=*) \
                 to=${{word#*;}};; esac; done\nprintf 'no bitcode' > \"${{to}}kernel/b.o.thinlto.bc\"",
                tool("ld.lld")
            ),
        );
        let mut command = command(&tree, &tool("clang"));
        command.env("LD", linker).env("KTHINLTO_EXECUTOR", executor).arg("-k");
        text(&bad(command, 1, "1 of 32 backends failed").stderr)
    };
    let (copies, plain) = (told("fork-server"), told("process"));
    assert_holds(&copies, &["the backend of kernel/b.o failed"]);
    assert_eq!(copies, plain);
}
