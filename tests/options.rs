//! Options and variables that mean the same to every command: `-n`, `-C`, empty variables, values
//! that cannot be used, folders that are not there.

#![cfg(feature = "program")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{Tree, assert_holds, bad, fails, good, text, tool};

/// A tree that was built once, with a cache beside it.
fn built() -> Tree {
    let tree = Tree::new();
    let cc = tree.compiler("cc", "cp kernel/head.o $out");
    let mut command = tree.kthinlto();
    command.env("CC", cc).env("KTHINLTO_CACHE_DIR", tree.dir().join("cache"));
    good(command);
    tree
}

#[test]
fn a_dry_run_of_any_command_removes_and_writes_nothing() {
    let tree = built();
    let (cache, pages) = (tree.dir().join("cache"), tree.dir().join("pages"));
    let cache = cache.to_str().unwrap();
    let commands = [
        vec!["clean"],
        vec!["cache", "clear", "--cache-dir", cache],
        vec!["cache", "prune", "--cache-dir", cache, "--cache-size", "0"],
        vec!["generate", "man", pages.to_str().unwrap()],
    ];
    let all = || tree.shell("find .. -type f ! -name lock -exec cksum {} + | sort");
    let before = all();
    for words in &commands {
        good(tree.bare(&[words.as_slice(), &["-n"]].concat()));
        let mut under_make = tree.bare(words);
        under_make.env("MAKEFLAGS", "n");
        good(under_make);
        assert!(all() == before && !pages.exists(), "{words:?}");
    }
    let said = good(tree.bare(&["cache", "clear", "-n", "--cache-dir", cache]));
    assert_holds(&said, &["would hold 0 objects"]);
    for words in &commands {
        good(tree.bare(words));
    }
    assert!(all() != before && pages.exists(), "each does something without -n");
    assert_holds(&good(tree.bare(&["cache", "stats", "--cache-dir", cache])), &[": 0 objects"]);
}

/// Runs make on a tree with one rule, whose line is run under `-n`, `-q` and `-t` too.
fn make(tree: &Tree, options: &[&str]) -> (Option<i32>, String) {
    let line = format!("{} build built-in.a lib/lib.a", env!("CARGO_BIN_EXE_kthinlto"));
    fs::write(tree.dir().join("Makefile"), format!("vmlinux.a: FORCE\n\t+@{line}\nFORCE:\n"))
        .unwrap();
    let mut command = tree.command("make".as_ref());
    let out = command.arg("-f").arg(tree.dir().join("Makefile")).args(options).output().unwrap();
    assert_eq!(text(&out.stderr).replace("make: *** ", ""), "", "{options:?}");
    (out.status.code(), text(&out.stdout))
}

#[test]
fn make_q_runs_nothing_and_asks_by_the_exit_code() {
    let tree = Tree::new();
    let all = || tree.shell("find .. -type f ! -name lock -exec cksum {} + | sort");
    make(&tree, &["-q"]); // writes the makefile
    for without in ["", "vmlinux.a", "lib/w0.thinlto-native.o", "lib/w1.o.thinlto.bc"] {
        if !without.is_empty() {
            fs::remove_file(tree.objects.join(without)).unwrap();
        }
        let before = all();
        assert_eq!(make(&tree, &["-q"]), (Some(1), String::new()), "{without}");
        assert!(all() == before, "{without}: something was written");
        assert_eq!(make(&tree, &[]).0, Some(0));
        assert_eq!(make(&tree, &["-q"]), (Some(0), String::new()), "{without} is there again");
    }
}

#[test]
fn make_t_touches_and_compiles_nothing() {
    let tree = Tree::new();
    let place = tree.objects.join("vmlinux.a");
    // As make itself: a file that is not there is made, an empty one.
    let (code, said) = make(&tree, &["-t"]);
    assert_eq!(code, Some(0));
    assert_holds(&said, &["touch ", "vmlinux.a"]);
    assert_eq!(fs::read(&place).unwrap(), b"");
    assert!(!tree.objects.join("lib/w0.thinlto-native.o").exists() && tree.outputs().len() == 1);
    // It deceives make's clock, and not us.
    make(&tree, &[]);
    let made = fs::read(&place).unwrap();
    assert!(made.starts_with(b"!<thin>"));
    let time = || fs::metadata(&place).unwrap().modified().unwrap();
    let before = time();
    assert_eq!(make(&tree, &["-t"]), (Some(0), String::new()));
    assert_eq!(time(), before, "it was up to date");
    fs::remove_file(tree.objects.join("lib/w0.thinlto-native.o")).unwrap();
    make(&tree, &["-st"]);
    assert!(time() > before && fs::read(&place).unwrap() == made);
    assert!(!tree.objects.join("lib/w0.thinlto-native.o").exists());
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    let tree = Tree::new();
    let names = [
        "KTHINLTO_CACHE_DIR",
        "KTHINLTO_CACHE_SIZE",
        "KTHINLTO_EXECUTOR",
        "KTHINLTO_SCRATCH",
        "KTHINLTO_TOOL_DIGESTS",
        "KTHINLTO_VERIFY",
        "KTHINLTO_FINAL_LINK",
        "KTHINLTO_PROGRESS",
        "KTHINLTO_TIMINGS",
        "KTHINLTO_TRACE",
        "KTHINLTO_JSON",
        "KTHINLTO_LOG",
    ];
    let with_empty = |mut command: Command| {
        command.envs(names.map(|name| (name, "")));
        command
    };
    good(with_empty(tree.kthinlto()));
    // It gets as far as the tree, which is no kernel's.
    bad(with_empty(tree.bare(&["relink"])), 3, "");
}

#[test]
fn a_value_that_came_from_a_variable_is_called_that() {
    let tree = Tree::new();
    let said = |set: bool, words: &[&str]| {
        let mut command = tree.bare(&[&["build", "built-in.a"], words].concat());
        if set {
            command.env("KTHINLTO_EXECUTOR", "fork").env("KTHINLTO_CACHE_SIZE", "5G");
        }
        text(&bad(command, 2, "invalid value 'fork' for '--executor").stderr)
    };
    assert_holds(&said(true, &[]), &["this is the value of KTHINLTO_EXECUTOR"]);
    for words in [&["--executor=fork"][..], &["--executor", "fork"]] {
        assert!(!said(true, words).contains("KTHINLTO_EXECUTOR in"), "{words:?} is the option's");
        assert!(!said(false, words).contains("KTHINLTO_EXECUTOR in"), "{words:?}");
    }
    let mut size = tree.bare(&["cache", "stats", "--cache-dir", "."]);
    size.env("KTHINLTO_CACHE_SIZE", "much");
    bad(size, 2, "this is the value of KTHINLTO_CACHE_SIZE");
    let mut log = tree.kthinlto();
    log.env("KTHINLTO_LOG", "debgu");
    bad(log, 2, "kthinlto: KTHINLTO_LOG is `debgu`, which is not a level; use off, error, ");
}

#[test]
fn a_folder_that_is_not_there_is_an_error_and_is_not_made() {
    let tree = Tree::new();
    let none = tree.dir().join("none");
    for action in ["stats", "prune", "clear"] {
        let command = tree.bare(&["cache", action, "--cache-dir", none.to_str().unwrap()]);
        fails(command, 3, &["none: there is no such folder"]);
    }
    fails(tree.bare(&["clean", "-C", none.to_str().unwrap()]), 3, &["there is no such folder"]);
    assert!(!none.exists());
    // One that is there, and was never used.
    good(tree.bare(&["cache", "stats", "--cache-dir", tree.dir().to_str().unwrap()]));
    assert!(!tree.dir().join("v2").exists());
}

#[test]
fn patch_takes_the_tree_of_directory() {
    let tree = Tree::new();
    let kernel = tree.dir().join("kernel-5.4");
    fs::create_dir(&kernel).unwrap();
    fs::write(kernel.join("Makefile"), "VERSION = 5\nPATCHLEVEL = 4\n").unwrap();
    let above = tree.dir().to_str().unwrap();
    for words in [
        &["patch", "-C", kernel.to_str().unwrap()][..],
        &["-C", above, "patch", "kernel-5.4"],
        &["patch", "-C", above, kernel.to_str().unwrap()],
    ] {
        fails(tree.bare(words), 7, &["kernel-5.4 is Linux 5.4", "no patch series"]);
    }
    good(tree.bare(&["patch", "--list", "-C", kernel.to_str().unwrap()]));
    bad(tree.bare(&["patch"]), 2, "TREE");
}

#[test]
fn trees_share_digests_of_tools_in_the_users_cache_folder_or_nowhere() {
    let tree = Tree::new();
    let (home, named) = (tree.dir().join("home"), tree.dir().join("named"));
    let file = home.join("kthinlto/tool-digests");
    let run = |words: &[&str], variable: Option<&str>| {
        let mut command = tree.kthinlto();
        command.args(words).env("XDG_CACHE_HOME", &home).env_remove("KTHINLTO_TOOL_DIGESTS");
        command.envs(variable.map(|value| ("KTHINLTO_TOOL_DIGESTS", value)));
        good(command);
    };
    run(&["-n"], None);
    run(&[], Some("no"));
    assert!(!home.exists(), "nothing is kept");
    // The first run knows all by now, and looks nothing up: its state has to go.
    let forget = || fs::remove_dir_all(tree.objects.join(".kthinlto")).unwrap();
    forget();
    run(&["--tool-digests", named.to_str().unwrap()], None);
    assert!(named.join("tool-digests").exists() && !home.exists());
    forget();
    run(&[], None);
    let kept = fs::read(&file).unwrap();
    let holds = |name: &[u8]| kept.windows(name.len()).any(|window| window == name);
    assert!(holds(b"clang") || holds(b"LLVM"), "what the compiler is made of");
    assert_eq!(fs::read(named.join("tool-digests")).unwrap(), kept);
}

/// The thin link and each backend are told, or none of them: one that is told alone names functions that the other
/// does not have.
#[test]
fn names_are_kept_by_the_thin_link_and_all_backends_or_by_none() {
    const FLAG: &str = "-always-rename-promoted-locals=false";
    let tree = Tree::new();
    let (log, flag) = (tree.dir().join("told"), format!("-mllvm {FLAG}"));
    // In the place of tools of LLVM 23, which know the flag: take it away, and note it.
    let newer = |name: &str| {
        let place = tree.dir().join(format!("newer-{name}"));
        let text = format!(
            "#!/bin/sh\nn=$#\nwhile [ $n -gt 0 ]; do\n\ta=$1; shift; n=$((n - 1))\n\
             \tif [ \"$a $1\" = '{flag}' ]; then\n\t\tshift; n=$((n - 1))\n\
             \t\tcase \"$*\" in *-###* | *-print-* | *--version*) ;; *) echo {name} >>{log} ;; esac\n\
             \telse set -- \"$@\" \"$a\"; fi\ndone\nexec {tool} \"$@\"\n",
            log = log.display(),
            tool = tool(name)
        );
        fs::write(&place, text).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        place
    };
    let (cc, ld) = (newer("clang"), newer("ld.lld"));
    let run = |words: &[&str], variable: Option<&str>| {
        let mut command = tree.kthinlto();
        command.args(words).env("CC", &cc).env("LD", &ld).env("KTHINLTO_EXECUTOR", "process");
        command.envs(variable.map(|value| ("KTHINLTO_STABLE_NAMES", value)));
        good(command)
    };
    let told = || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        ["clang", "ld.lld"].map(|name| text.lines().filter(|line| *line == name).count())
    };
    let count = list_of_backends(&run(&[], None));
    assert_eq!((told(), count > 8), ([0, 0], true));
    assert_eq!(list_of_backends(&run(&[], Some("yes"))), count);
    assert_eq!(told(), [count, 1]);
    let record = tree.objects.join("kernel/.a.thinlto-native.o.cmd");
    assert_eq!(fs::read_to_string(&record).unwrap().matches(FLAG).count(), 1);
    let mut explain = tree.bare(&["explain", "kernel/a.o"]);
    explain.env_remove("CC").env_remove("LD").env_remove("KBUILD_LDFLAGS");
    let explained = good(explain);
    assert!(explained.contains("would run      no"), "{explained}");
    assert_eq!(list_of_backends(&run(&["--stable-names"], None)), 0);
    assert_eq!(list_of_backends(&run(&[], Some("no"))), count);
    assert_eq!(told(), [0, 0]);
    // The front end's records have it already: nobody is told twice, and the linker is told as well.
    let add = format!(
        "sed -i 's/-fvisibility=hidden/& {flag}/' kernel/.*.o.cmd init/.*.o.cmd lib/.*.o.cmd kernel/sub/.*.o.cmd"
    );
    tree.shell(&add);
    for variable in [Some("yes"), None] {
        run(&[], variable);
        let [_, links] = told();
        assert_eq!(links, usize::from(variable.is_some()), "as before, if not the first");
        assert_eq!(fs::read_to_string(&record).unwrap().matches(FLAG).count(), 1);
    }
}

/// Backends that a run says it ran.
fn list_of_backends(out: &str) -> usize {
    out.lines().filter(|line| line.starts_with("  CC  ")).count()
}

#[test]
fn names_cannot_be_kept_by_an_older_llvm_and_a_sentence_says_so() {
    let tree = Tree::new();
    let mut command = tree.kthinlto();
    command.env("KTHINLTO_STABLE_NAMES", "yes");
    fails(command, 1, &["the thin link failed", "LLVM 23.1 or later is needed"]);
    let mut command = tree.kthinlto();
    command.env("KTHINLTO_STABLE_NAMES", "perhaps");
    bad(command, 2, "--stable-names");
}
