//! The stage through the real program on a small tree: the same bytes as mainline's
//! commands, nothing done twice, and kbuild's manners.

#![cfg(feature = "program")]

mod common;

use std::fs;

use common::{Tree, good, text, tool};
use kthinlto::store::Store;
use kthinlto::unit::Part;

#[test]
fn all_bytes_are_mainlines() {
    let tree = Tree::new();
    tree.build();
    let (ours, theirs) = (tree.outputs(), tree.mainline());
    assert!(ours.len() == 28, "{:?}", ours.keys());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, bytes) in &ours {
        assert_eq!(bytes, &theirs[name], "{name}");
    }
}

#[test]
fn head_objects_come_first() {
    let tree = Tree::new();
    tree.build();
    let order = fs::read_to_string(tree.objects.join("builtin.order")).unwrap();
    assert_eq!(order.lines().next(), Some("kernel/head.o"));
}

#[test]
fn an_in_tree_build_is_the_same() {
    let tree = Tree::in_tree();
    tree.build();
    assert_eq!(tree.outputs(), tree.mainline());
}

#[test]
fn flags_derived_from_the_command_give_the_same_objects() {
    for command in ["savedcmd_", "cmd_"] {
        let tree = Tree::new();
        let want = tree.mainline();
        // As kernels before 7.2 leave their records: no saved_c_flags_, before 6.4 `cmd_`.
        tree.shell(&format!(
            "find . -name '.*.o.cmd' -exec sed -i '/^saved_c_flags_/d; s/^savedcmd_/{command}/' {{}} +"
        ));
        tree.build();
        assert_eq!(tree.outputs(), want);
    }
}

#[test]
fn what_each_backend_took_is_on_record() {
    let tree = Tree::new();
    tree.build();
    let store = Store::peek(&tree.objects).unwrap();
    let list = fs::read_to_string(tree.objects.join("vmlinux.thinlto-index")).unwrap();
    for object in list.lines() {
        let cost = store.backend(&Part::of_vmlinux(object)).unwrap().cost.unwrap();
        // clang alone is larger than that, and takes longer.
        assert!(cost.peak > 10_000 && cost.wall > 0 && cost.cpu > 0, "{object}: {cost:?}");
    }
}

#[test]
fn the_longest_backends_of_last_time_go_first() {
    let tree = Tree::new();
    let slow = tree.compiler(
        "slow",
        // By size none of these is the first.
        &format!(
            "case $object in lib/w3.o) i=0; while [ $i -lt 60000 ]; do i=$((i + 1)); done;; esac\n\
             exec {} \"$@\"",
            tool("clang")
        ),
    );
    let order = || {
        let mut command = tree.kthinlto();
        command.env("CC", &slow);
        let out = good(command);
        let made = out.lines().filter_map(|line| line.strip_prefix("  CC      "));
        made.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_ne!(order()[0], "lib/w3.thinlto-native.o");
    tree.shell("find . -name '*.thinlto-native.o' -delete");
    assert_eq!(order()[0], "lib/w3.thinlto-native.o");
}

#[test]
fn a_second_build_starts_nothing() {
    let tree = Tree::new();
    let (cc, ld) = (tree.counting(&tool("clang")), tree.counting(&tool("ld.lld")));
    let build = || {
        let mut command = tree.kthinlto();
        command.env("CC", &cc).env("LD", &ld);
        good(command)
    };
    build();
    let modules = fs::read_to_string(tree.objects.join("vmlinux.thinlto-index")).unwrap();
    assert_eq!(tree.calls(&tool("clang")), modules.lines().count());
    assert_eq!(tree.calls(&tool("ld.lld")), 1);
    let before = tree.shell("stat -c '%n %y' vmlinux.a builtin.order kernel/*.thinlto*");
    assert!(build().contains("12 up to date, 0 from cache, 0 rebuilt"));
    assert_eq!((tree.calls(&tool("clang")), tree.calls(&tool("ld.lld"))), (0, 0));
    assert_eq!(tree.shell("stat -c '%n %y' vmlinux.a builtin.order kernel/*.thinlto*"), before);
}

#[test]
fn touched_files_with_the_same_bytes_start_nothing() {
    let tree = Tree::new();
    tree.build();
    tree.shell("touch built-in.a kernel/*.o kernel/*.thinlto.bc init/.main.o.cmd");
    assert!(tree.build().contains("12 up to date, 0 from cache, 0 rebuilt"));
}

#[test]
fn vmlinux_a_is_new_when_only_an_object_changed() {
    // The archive's own bytes may stay the same: make goes by its time.
    let tree = Tree::new();
    tree.build();
    let stamp = || tree.shell("stat -c %y vmlinux.a");
    let before = stamp();
    tree.edit("lib/alone", "int alone(int x) { return x + 43; }\n");
    assert!(tree.build().contains("11 up to date, 0 from cache, 1 rebuilt"));
    assert_ne!(stamp(), before);
    assert_eq!(tree.outputs(), tree.mainline());
}

#[test]
fn lines_are_kbuilds() {
    let tree = Tree::new();
    let lines = tree.build();
    for line in [
        "  AR      built-in-fixup.a\n",
        "  GEN     builtin.order\n",
        "  LD      vmlinux.thinlto-index\n",
        "  CC      kernel/a.thinlto-native.o\n",
        "  AR      vmlinux.a\n",
    ] {
        assert!(lines.contains(line), "{line} not in {lines}");
    }
}

#[test]
fn the_thin_link_hears_nothing_that_in_process_lto_alone_understands() {
    // As 7.1 and vendors' trees have KBUILD_LDFLAGS in CONFIG_LTO_CLANG_THIN.
    let tree = Tree::new();
    let linker = tree.counting(&tool("ld.lld"));
    let mut command = tree.kthinlto();
    let own = "--lto-whole-program-visibility -mllvm -always-rename-promoted-locals=false";
    command.env("LD", linker).env("KBUILD_LDFLAGS", format!("{} {own}", common::LDFLAGS));
    good(command);
    let log = fs::read_to_string(tree.dir().join(format!("{}.log", tool("ld.lld")))).unwrap();
    let link = log.lines().find(|line| line.contains("--thinlto-index-only")).unwrap();
    assert!(link.contains(common::LDFLAGS), "{link}");
    assert!(!link.contains("whole-program") && !link.contains("rename"), "{link}");
    common::assert_same(&tree.outputs(), &tree.want());
}

#[test]
fn verbose_lines_can_be_run_by_hand_and_reasons_name_the_cause() {
    let tree = Tree::new();
    tree.build();
    let native = tree.objects.join("kernel/a.thinlto-native.o");
    let want = fs::read(&native).unwrap();
    fs::remove_file(&native).unwrap();
    let mut verbose = tree.kthinlto();
    verbose.env("KBUILD_VERBOSE", "12");
    let lines = good(verbose);
    let due =
        "# CC      kernel/a.thinlto-native.o - due to kernel/a.thinlto-native.o, which is missing";
    let at = lines.find(due).unwrap_or_else(|| panic!("{lines}"));
    let command = lines[at..].lines().nth(1).unwrap();
    fs::remove_file(&native).unwrap();
    tree.shell(command);
    assert_eq!(fs::read(&native).unwrap(), want);
    // The .cmd file records the same command.
    let record = fs::read_to_string(tree.objects.join("kernel/.a.thinlto-native.o.cmd")).unwrap();
    assert_eq!(record, format!("savedcmd_kernel/a.thinlto-native.o := {}\n", command.trim()));
}

#[test]
fn silence_is_silent() {
    for (name, value) in [("MAKEFLAGS", "s"), ("quiet", "silent_")] {
        let tree = Tree::new();
        let mut command = tree.kthinlto();
        command.env(name, value);
        let out = command.output().unwrap();
        assert!(out.status.success());
        assert_eq!((text(&out.stdout), text(&out.stderr)), (String::new(), String::new()));
    }
}

#[test]
fn a_dry_run_runs_nothing_and_writes_nothing() {
    let tree = Tree::new();
    let ls = || tree.shell("find . | sort");
    let before = ls();
    let mut command = tree.kthinlto();
    command.env("MAKEFLAGS", "n");
    assert!(good(command).contains("--thinlto-index-only="));
    assert_eq!(ls(), before);
    tree.build();
    fs::remove_file(tree.objects.join("kernel/a.thinlto-native.o")).unwrap();
    let before = ls();
    let mut command = tree.kthinlto();
    command.arg("-n");
    let lines = good(command);
    assert!(lines.contains("# CC      kernel/a.thinlto-native.o\n  clang"), "{lines}");
    assert_eq!(lines.matches("# CC ").count(), 1);
    assert_eq!(ls(), before);
}

#[test]
fn keep_going_compiles_all_that_can_be_compiled() {
    let tree = Tree::new();
    let cc = tree.script(
        "cc",
        &format!(
            "case \"$*\" in *kernel/a.o|*lib/w0.o) echo broken >&2; exit 1;; esac\nexec {} \"$@\"",
            tool("clang")
        ),
    );
    let natives = || tree.shell("find . -name '*.thinlto-native.o' | wc -l").trim().to_owned();
    let mut command = tree.kthinlto();
    command.env("CC", &cc).env("MAKEFLAGS", "k").arg("-j1");
    let out = common::bad(command, 1, "2 of 12 backends failed");
    assert_eq!(text(&out.stderr).matches("broken\n").count(), 2);
    assert_eq!(natives(), "10");
    assert!(!tree.objects.join("vmlinux.a").exists());
    // Without -k it stops at the first.
    let fresh = Tree::new();
    let mut command = fresh.kthinlto();
    command.env("CC", &cc).arg("-j1");
    common::bad(command, 1, "1 of 12 backends failed");
}

#[test]
fn warnings_come_whole() {
    let tree = Tree::new();
    let body = format!(
        "for i in 1 2 3 4 5; do echo \"$$ line $i\" >&2; sleep 0.01; done\nexec {} \"$@\"",
        tool("clang")
    );
    let cc = tree.script("cc", &body);
    let mut command = tree.kthinlto();
    command.env("CC", &cc).arg("-j8");
    let out = command.output().unwrap();
    assert!(out.status.success());
    let error = text(&out.stderr);
    let lines: Vec<&str> = error.lines().filter(|line| line.contains(" line ")).collect();
    assert!(lines.len() >= 60, "{error}");
    for group in lines.chunks(5) {
        let process = group[0].split(' ').next().unwrap();
        for (at, line) in group.iter().enumerate() {
            assert_eq!(*line, format!("{process} line {}", at + 1));
        }
    }
}

#[test]
fn clean_leaves_the_tree_as_it_was() {
    let tree = Tree::new();
    let ls = || tree.shell("find . | sort");
    let before = ls();
    tree.build();
    good(tree.bare(&["clean"]));
    assert_eq!(ls(), before);
    assert!(good(tree.bare(&["clean"])).contains("nothing to clean"));
}

#[test]
fn names_with_blanks_and_quotes_work() {
    let tree = Tree::new();
    let odd = "lib/an 'odd' na\"me\\x";
    fs::write(
        tree.sources.join(format!("{odd}.c")),
        "int shared(int);\nint odd(int x) { return shared(x); }\n",
    )
    .unwrap();
    let (cc, source) = (tool("clang"), tree.sources.join(format!("{odd}.c")));
    let words = [&cc, "--target=x86_64-linux-gnu", "-flto=thin", "-fsplit-lto-unit", "-c", "-o"];
    let command = shell_words::join(
        words.iter().copied().chain([format!("{odd}.o").as_str(), source.to_str().unwrap()]),
    );
    tree.shell(&command);
    fs::write(
        tree.objects.join("lib/.an 'odd' na\"me\\x.o.cmd"),
        format!("savedcmd_x := {command}\n"),
    )
    .unwrap();
    tree.archive();
    assert!(tree.build().contains("13 modules: 0 up to date, 0 from cache, 13 rebuilt"));
    assert!(tree.objects.join(format!("{odd}.thinlto-native.o")).exists());
    assert!(tree.build().contains("13 up to date"));
}

#[test]
fn a_thin_link_in_memory_gives_the_same_and_leaves_nothing_there() {
    let tree = Tree::new();
    let mut command = tree.kthinlto();
    command.env("KTHINLTO_SCRATCH", "memory").env("KBUILD_VERBOSE", "1");
    let lines = good(command);
    let folder = lines.split("--thinlto-prefix-replace=;").nth(1).unwrap();
    let folder = folder.split("/objects/").next().unwrap();
    assert!(!std::path::Path::new(folder).exists(), "{folder}");
    assert_eq!(tree.outputs(), tree.mainline());
}

#[test]
fn split_debug_information_that_files_with_flags_ask_for_has_its_final_name() {
    let tree = Tree::new();
    tree.write_object("split.rsp", "-gsplit-dwarf\n");
    tree.write_object("own.cfg", "-gsplit-dwarf\n");
    tree.compile("lib/w0", "-g @split.rsp");
    tree.compile("lib/w1", "-g --config=./own.cfg");
    // What stands in a command decides against a configuration file.
    tree.compile("lib/w2", "-g -gno-split-dwarf --config=./own.cfg");
    tree.compile("lib/w3", "-g @split.rsp -gno-split-dwarf");
    tree.archive();
    tree.build();
    common::assert_same(&tree.outputs(), &tree.mainline());
    assert_eq!(
        tree.shell("ls lib/*.dwo"),
        "lib/w0.thinlto-native.dwo\nlib/w1.thinlto-native.dwo\n"
    );
    assert_eq!(tree.shell("find . -name '.tmp_*'"), "");
    fs::remove_file(tree.objects.join("lib/w1.thinlto-native.dwo")).unwrap();
    assert!(tree.build().contains("11 up to date, 0 from cache, 1 rebuilt"));
    common::assert_same(&tree.outputs(), &tree.mainline());
}

#[test]
fn split_debug_information_has_its_final_name() {
    // The object names its .dwo: compiled into a temporary file it would name another.
    let tree = Tree::new();
    for name in ["lib/w0", "lib/w1"] {
        tree.compile(name, "-g -gsplit-dwarf");
    }
    tree.archive();
    tree.build();
    assert_eq!(tree.outputs(), tree.mainline());
    let dwo = tree.objects.join("lib/w0.thinlto-native.dwo");
    assert!(fs::read(&dwo).unwrap().starts_with(b"\x7fELF"));
    assert_eq!(tree.shell("find . -name '.tmp_*'"), "");
    fs::remove_file(&dwo).unwrap();
    assert!(tree.build().contains("11 up to date, 0 from cache, 1 rebuilt"));
    assert_eq!(tree.outputs(), tree.mainline());
}

/// The linker of `vmlinux.o` compiles it then, as it does after mainline's stage.
#[test]
fn bitcode_that_the_thin_link_does_not_index_stays_where_mainline_leaves_it() {
    let tree = Tree::new();
    tree.compile("lib/w5", "-flto=full");
    tree.archive();
    tree.build();
    let (ours, mut theirs) = (tree.outputs(), tree.mainline());
    // Of no use to anyone: clang would import nothing by it.
    assert_eq!(theirs.remove("lib/w5.o.thinlto.bc").unwrap(), b"");
    common::assert_same(&ours, &theirs);
    let script = format!(
        "{} {} -r -o out.o --whole-archive vmlinux.a; {} out.o",
        tool("ld.lld"),
        common::LDFLAGS,
        tool("llvm-nm")
    );
    assert!(tree.shell(&script).contains("T worker5"));
}
