//! Rebuilding by content: each kind of input changed alone makes exactly the right backends
//! run, and the result is what a clean build gives, byte for byte. What is left out of a
//! key is shown not to move the output.

#![cfg(feature = "program")]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::{LDFLAGS, Tree, good, text, tool};

/// Modules that import `shared` from `kernel/a`, and `kernel/a` itself.
const OF_A: usize = 10;

/// `(up to date, from cache, rebuilt)` out of a build's last line.
fn counts(output: &str) -> (usize, usize, usize) {
    let line = output.lines().find(|line| line.contains(" modules: ")).unwrap();
    let before = |word: &str| -> usize {
        let end = line.find(word).unwrap_or_else(|| panic!("{line}"));
        line[..end].trim().rsplit(' ').next().unwrap().parse().unwrap()
    };
    (before(" up to date"), before(" from cache"), before(" rebuilt"))
}

/// Builds after a change: that many backends run, then none, and all is as from clean.
fn rebuilds(tree: &Tree, expected: usize) {
    rebuilds_with(tree, expected, |_| {});
}

fn rebuilds_with(tree: &Tree, expected: usize, set: impl Fn(&mut Command)) {
    let build = || {
        let mut command = tree.kthinlto();
        set(&mut command);
        counts(&good(command))
    };
    assert_eq!(build(), (12 - expected, 0, expected));
    assert_eq!(build(), (12, 0, 0), "a second build has nothing to do");
    assert_eq!(tree.outputs(), tree.clean_outputs(&set), "as from clean");
}

/// A built tree whose next build would take the shortest way: all that it looks at is on
/// record, and too old to change unseen.
fn built() -> Tree {
    let tree = Tree::new();
    settle(&tree);
    tree
}

fn settle(tree: &Tree) {
    tree.build();
    let snapshot = tree.objects.join(".kthinlto/unchanged");
    let _ = fs::remove_file(&snapshot);
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(counts(&tree.build()).2, 0);
        if snapshot.exists() {
            return;
        }
    }
    panic!("a run with nothing to do left no snapshot");
}

#[test]
fn a_run_that_is_asked_the_same_of_an_unchanged_tree_takes_the_shortest_way() {
    let tree = built();
    let took_it = |set: &dyn Fn(&mut Command)| {
        let mut command = tree.kthinlto();
        command.env("KTHINLTO_LOG", "debug");
        set(&mut command);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stderr).contains("nothing changed since the last run")
    };
    assert!(took_it(&|_| {}));
    assert!(!took_it(&|command| {
        command.env("KBUILD_LDFLAGS", format!("{LDFLAGS} --no-warnings"));
    }));
    assert!(!took_it(&|command| {
        command.env("CLANG_NO_DEFAULT_CONFIG", "1");
    }));
}

#[test]
fn a_snapshot_that_is_torn_or_foreign_is_not_believed() {
    let tree = built();
    let snapshot = tree.objects.join(".kthinlto/unchanged");
    let whole = fs::read(&snapshot).unwrap();
    tree.edit("lib/alone", "int alone(int x) { return x + 41; }\n");
    for cut in [0, 10, 25, whole.len() / 2, whole.len() - 1] {
        fs::write(&snapshot, &whole[..cut]).unwrap();
        assert_eq!(counts(&tree.build()).2, usize::from(cut == 0), "cut at {cut}");
    }
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    fs::write(&snapshot, flipped).unwrap();
    rebuilds(&tree, 0);
}

#[test]
fn a_module_that_is_imported_rebuilds_its_importers() {
    let tree = built();
    tree.edit("kernel/a", "int shared(int x) { return x * 5 + 2; }\n");
    let importers = tree.links_that_import("kernel/a.o");
    assert_eq!(importers, OF_A - 1, "the small tree is as the test thinks");
    rebuilds(&tree, OF_A);
}

#[test]
fn a_module_that_nobody_imports_rebuilds_itself() {
    let tree = built();
    tree.edit("lib/alone", "int alone(int x) { return x + 43; }\n");
    rebuilds(&tree, 1);
}

#[test]
fn a_file_that_assembly_includes_rebuilds_its_module_only() {
    // IKCONFIG: the bitcode of kernel/configs.o stays the same (ClangBuiltLinux issue 2021).
    let tree = built();
    let bitcode = fs::read(tree.objects.join("kernel/configs.o")).unwrap();
    tree.write_object("kernel/config_data.gz", "CONFIG_A=m\n");
    assert_eq!(fs::read(tree.objects.join("kernel/configs.o")).unwrap(), bitcode);
    rebuilds(&tree, 1);
}

#[test]
fn other_bytes_with_equal_times_are_seen() {
    let tree = built();
    let data = tree.objects.join("kernel/config_data.gz");
    let times = fs::metadata(&data).unwrap().modified().unwrap();
    tree.write_object("kernel/config_data.gz", "CONFIG_A=n\n");
    File::options().write(true).open(&data).unwrap().set_modified(times).unwrap();
    rebuilds(&tree, 1);
}

#[test]
fn a_file_named_by_a_flag_rebuilds_those_that_name_it() {
    let tree = Tree::new();
    tree.write_object("list.txt", "!f\n");
    tree.compile("lib/w1", "-fbasic-block-sections=list=list.txt");
    tree.compile("lib/w2", "-fbasic-block-sections=list=list.txt");
    tree.archive();
    settle(&tree);
    tree.write_object("list.txt", "!worker1\n!!0\n");
    rebuilds(&tree, 2);
}

#[test]
fn a_changed_profile_rebuilds_those_that_use_it() {
    // A sample profile in text (clang's users manual, "Sample Profile Text Format").
    let profile = |hits: u32| format!("worker1:{hits}:{hits}\n 1: {hits}\n");
    let tree = Tree::new();
    tree.write_object("kernel.prof", &profile(1000));
    for stem in ["lib/w1", "lib/w2"] {
        tree.compile(stem, "-fprofile-sample-use=kernel.prof -fprofile-sample-accurate");
    }
    tree.archive();
    settle(&tree);
    tree.write_object("kernel.prof", &profile(0));
    rebuilds(&tree, 2);
}

#[test]
fn a_named_file_that_appears_or_goes_rebuilds_its_module() {
    let tree = Tree::new();
    tree.compile("lib/w1", "-Wno-missing-list=later.txt");
    tree.archive();
    settle(&tree);
    tree.write_object("later.txt", "x\n");
    rebuilds(&tree, 1);
    settle(&tree);
    fs::remove_file(tree.objects.join("later.txt")).unwrap();
    rebuilds(&tree, 1);
}

#[test]
fn flags_of_one_file_rebuild_that_file() {
    let tree = built();
    let before = fs::read(tree.objects.join("lib/w3.o")).unwrap();
    tree.compile("lib/w3", "-mno-red-zone -falign-functions=64");
    // The same bitcode again: what is left is the change of the recorded flags.
    fs::write(tree.objects.join("lib/w3.o"), before).unwrap();
    rebuilds(&tree, 1);
}

#[test]
fn front_end_flags_rebuild_nothing_and_move_no_output() {
    let tree = built();
    let before = tree.outputs();
    let extra = "-DNEW='a b' -UOLD -Iinclude -isystem sys -iquote q -Wp,-DX -MP \
                 -fmacro-prefix-map=/elsewhere/=";
    let record = tree.objects.join("lib/.w3.o.cmd");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(
        &record,
        text.replace("saved_c_flags_lib/w3.o := ", &format!("saved_c_flags_lib/w3.o := {extra} ")),
    )
    .unwrap();
    assert_eq!(counts(&tree.build()), (12, 0, 0));
    // Had it been compiled with them, the bytes would be these.
    assert_eq!(tree.clean_outputs(&|_| {}), before);
}

#[test]
fn a_module_whose_included_file_is_found_elsewhere_is_compiled_each_time() {
    // Some clangs look in folders that some flags name. Where an included file is not in the
    // place that is known, what was read cannot be known either.
    let tree = Tree::new();
    let cc = tree.script(
        "cc",
        &format!("mkdir -p kernel; echo x > kernel/config_data.gz; {} \"$@\"; r=$?; rm -f kernel/config_data.gz; exit $r", tool("clang")),
    );
    fs::remove_file(tree.objects.join("kernel/config_data.gz")).unwrap();
    let build = || {
        let mut command = tree.kthinlto();
        command.env("CC", &cc).arg("-j1");
        counts(&good(command))
    };
    assert_eq!(build(), (0, 0, 12));
    assert_eq!(build(), (11, 0, 1));
}

#[test]
fn symbol_versions_that_change_alone_make_vmlinux_a_new() {
    // genksyms sees what the compiler does not (`#ifdef __GENKSYMS__`): modpost has to run.
    let tree = built();
    let stamp = || tree.shell("stat -c %y vmlinux.a");
    let before = stamp();
    tree.shell("echo '#SYMVER shared 0x12345678' >> kernel/.a.o.cmd");
    assert_eq!(counts(&tree.build()), (12, 0, 0));
    let after = stamp();
    assert_ne!(after, before);
    tree.build();
    assert_eq!(stamp(), after);
}

#[test]
fn an_added_and_a_removed_object() {
    let tree = built();
    fs::write(tree.sources.join("lib/new.c"), "int fresh(int x) { return x; }\n").unwrap();
    tree.compile("lib/new", "");
    tree.archive();
    assert_eq!(counts(&tree.build()), (12, 0, 1));
    assert_eq!(tree.outputs(), tree.clean_outputs(&|_| {}));
    for name in ["lib/new.o", "lib/.new.o.cmd"] {
        fs::remove_file(tree.objects.join(name)).unwrap();
    }
    tree.archive();
    assert_eq!(counts(&tree.build()), (12, 0, 0));
    let list = fs::read_to_string(tree.objects.join("builtin.order")).unwrap();
    assert!(!list.contains("lib/new"));
}

#[test]
fn a_compiler_with_the_same_version_but_other_bytes_rebuilds_all() {
    let tree = Tree::new();
    let cc = tree.script("cc", &format!("exec {} \"$@\"", tool("clang")));
    let with = |command: &mut Command| {
        command.env("CC", &cc);
    };
    let mut first = tree.kthinlto();
    with(&mut first);
    good(first);
    let version = || Command::new(&cc).arg("--version").output().unwrap().stdout;
    let before = version();
    tree.script("cc", &format!("exec {} -fno-addrsig \"$@\"", tool("clang")));
    assert_eq!(version(), before);
    rebuilds_with(&tree, 12, with);
}

#[test]
fn flags_of_the_linker_make_a_new_thin_link() {
    let tree = built();
    let with = |command: &mut Command| {
        command.env("KBUILD_LDFLAGS", format!("{LDFLAGS} -mllvm -import-instr-limit=0"));
    };
    // Every index that had an import is another without it.
    let mut command = tree.kthinlto();
    with(&mut command);
    let (_, _, rebuilt) = counts(&good(command));
    assert!(rebuilt >= OF_A - 1, "{rebuilt}");
    assert_eq!(tree.outputs(), tree.clean_outputs(&with));
}

#[test]
fn a_lost_or_foreign_output_is_made_again() {
    let tree = built();
    fs::remove_file(tree.objects.join("lib/w0.thinlto-native.o")).unwrap();
    fs::copy(
        tree.objects.join("lib/w2.thinlto-native.o"),
        tree.objects.join("lib/w1.thinlto-native.o"),
    )
    .unwrap();
    rebuilds(&tree, 2);
    fs::write(tree.objects.join("lib/w1.o.thinlto.bc"), "foreign").unwrap();
    rebuilds(&tree, 0);
    for name in ["vmlinux.a", "built-in-fixup.a", "builtin.order", "vmlinux.thinlto-index"] {
        fs::write(tree.objects.join(name), "foreign").unwrap();
        rebuilds(&tree, 0);
    }
}

#[test]
fn an_output_that_is_lost_twice_is_made_twice() {
    let tree = built();
    for name in ["builtin.order", "vmlinux.thinlto-index", "vmlinux.a", "built-in-fixup.a"] {
        let path = tree.objects.join(name);
        for time in 1..=3 {
            fs::remove_file(&path).unwrap();
            // Old enough for a snapshot of what is there now.
            std::thread::sleep(Duration::from_millis(80));
            tree.build();
            assert!(path.exists(), "{name}, lost {time} times");
        }
    }
}

#[test]
fn the_environment_that_clang_reads_counts() {
    let tree = built();
    // `+` adds a flag to the end of clang's command line.
    let with = |command: &mut Command| {
        command.env("CCC_OVERRIDE_OPTIONS", "# +-fno-addrsig");
    };
    rebuilds_with(&tree, 12, with);
}

#[test]
fn a_moved_tree_rebuilds_nothing() {
    let tree = Tree::in_tree();
    tree.build();
    let moved = tree.dir().join("moved");
    fs::rename(&tree.objects, &moved).unwrap();
    let mut command = tree.kthinlto();
    command.current_dir(&moved).env("srctree", ".");
    assert_eq!(counts(&good(command)), (12, 0, 0));
}

#[test]
fn an_edit_and_its_revert_come_from_the_cache() {
    let tree = Tree::new();
    let cache = tree.dir().join("cache");
    let build = || {
        let mut command = tree.kthinlto();
        command.env("KTHINLTO_CACHE_DIR", &cache);
        counts(&good(command))
    };
    // Its bitcode names the source's path: the tree's own.
    let original = common::sources()["kernel/a"].clone();
    tree.edit("kernel/a", &original);
    assert_eq!(build(), (0, 0, 12));
    tree.edit("kernel/a", "int shared(int x) { return x * 7 - 2; }\n");
    assert_eq!(build(), (12 - OF_A, 0, OF_A));
    tree.edit("kernel/a", &original);
    assert_eq!(build(), (12 - OF_A, OF_A, 0));
    assert_eq!(tree.outputs(), tree.clean_outputs(&|_| {}));
}

#[test]
fn two_trees_share_a_cache_and_a_damaged_entry_is_made_again() {
    let first = Tree::in_tree();
    let cache = first.dir().join("cache");
    let build = |tree: &Tree| {
        let mut command = tree.kthinlto();
        command.env("KTHINLTO_CACHE_DIR", &cache).env("srctree", ".");
        counts(&good(command))
    };
    let relative = |tree: &Tree| {
        // As an in-tree kernel build names its sources: relative to the tree.
        tree.compile_relative();
        tree.archive();
    };
    relative(&first);
    assert_eq!(build(&first), (0, 0, 12));
    let second = Tree::in_tree();
    relative(&second);
    assert_eq!(build(&second), (0, 12, 0));
    assert_eq!(second.outputs(), first.outputs());

    let entry = biggest(&cache.join("v2"));
    let mut bytes = fs::read(&entry).unwrap();
    bytes[100] ^= 1;
    fs::write(&entry, bytes).unwrap();
    let third = Tree::in_tree();
    relative(&third);
    assert_eq!(build(&third), (0, 11, 1));
    assert_eq!(third.outputs(), first.outputs());
}

#[test]
fn a_second_tree_takes_its_thin_link_from_the_cache_and_an_edited_one_links() {
    let first = Tree::in_tree();
    let cache = first.dir().join("cache");
    let run = |tree: &Tree| {
        let mut command = tree.kthinlto();
        command.env("KTHINLTO_CACHE_DIR", &cache).env("srctree", ".").arg("-v");
        good(command)
    };
    let (came, linked) = ("the thin link of vmlinux came from the cache", "--thinlto-index-only");
    let made = |tree: &Tree| {
        tree.compile_relative();
        tree.archive();
        run(tree)
    };
    let said = made(&first);
    assert!(said.contains(linked) && !said.contains(came), "{said}");
    let second = Tree::in_tree();
    let said = made(&second);
    assert!(said.contains(came) && !said.contains(linked), "{said}");
    assert_eq!(second.outputs(), first.outputs());
    assert_eq!(counts(&run(&second)), (12, 0, 0));
    second.edit("kernel/b", "int b(int x);\nint b(int x) { return x + 3; }\n");
    second.compile_relative();
    let said = run(&second);
    assert!(said.contains(linked) && !said.contains(came), "other members: {said}");
    // One damaged byte, and one link by a linker that has something to say.
    first.shell("find ../cache -path '*/v2/*/*' -type f -exec sed -i '1s/^/x/' {} +");
    let third = Tree::in_tree();
    let said = made(&third);
    assert!(said.contains(linked) && !said.contains(came), "a damaged entry: {said}");
    assert_eq!(third.outputs(), first.outputs());
}

#[test]
fn a_thin_link_that_said_something_says_it_again() {
    let trees = [Tree::in_tree(), Tree::in_tree()];
    let cache = trees[0].dir().join("cache");
    let body = format!("echo warning: of the thin link >&2; exec {} \"$@\"", tool("ld.lld"));
    let ld = trees[0].linker("ld", &body);
    for tree in &trees {
        tree.compile_relative();
        tree.archive();
        let mut command = tree.kthinlto();
        command.env("KTHINLTO_CACHE_DIR", &cache).env("srctree", ".").env("LD", &ld);
        let out = command.output().unwrap();
        assert!(text(&out.stderr).contains("warning: of the thin link"), "{out:?}");
    }
}

fn biggest(folder: &Path) -> std::path::PathBuf {
    let folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let folders = folders.filter(|path| path.is_dir()); // there is a mark beside them
    let files = folders.flat_map(|dir| fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()));
    let files = files.filter(|path| fs::read(path).unwrap().starts_with(b"\x7fELF"));
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn four_builds_of_two_trees_share_a_cache_and_its_limit() {
    let trees = [Tree::new(), Tree::new(), Tree::new(), Tree::new()];
    let cache = trees[0].dir().join("cache");
    let builds: Vec<_> = trees
        .iter()
        .map(|tree| {
            let mut command = tree.kthinlto();
            command.env("KTHINLTO_CACHE_DIR", &cache).env("KTHINLTO_CACHE_SIZE", "8K");
            command.spawn().unwrap()
        })
        .collect();
    for mut build in builds {
        assert!(build.wait().unwrap().success());
    }
    for tree in &trees {
        assert_eq!(tree.outputs(), tree.clean_outputs(&|_| {}));
    }
    let mut stats = trees[0].bare(&["cache", "prune"]);
    stats.env("KTHINLTO_CACHE_DIR", &cache).env("KTHINLTO_CACHE_SIZE", "8K");
    assert!(good(stats).contains("of 0.0 MiB"));
    let size: u64 =
        trees[0].shell(&format!("cat {}/v2/*/* | wc -c", cache.display())).trim().parse().unwrap();
    assert!(size <= 8192, "{size}");
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    let tree = Tree::new();
    let file = tree.dir().join("file");
    fs::write(&file, "").unwrap();
    let mut command = tree.kthinlto();
    command.env("KTHINLTO_CACHE_DIR", file.join("cache"));
    let out = command.output().unwrap();
    assert!(out.status.success());
    let error = text(&out.stderr);
    assert!(error.contains("going on without the cache"), "{error}");
    assert_eq!(tree.outputs(), tree.clean_outputs(&|_| {}));
}

#[test]
fn explain_says_what_changed() {
    let tree = built();
    let explain = |object: &str| good(tree.bare(&["explain", object]));
    let quiet = explain("kernel/b.o");
    assert!(quiet.contains("would run      no\n"), "{quiet}");
    assert!(quiet.contains("import kernel/a.o\n"), "{quiet}");
    assert!(explain("kernel/a").contains("imported by    9\n"));
    // Older than the coarsest clock, so that its times alone could not tell.
    let old = SystemTime::now() - Duration::from_secs(1000);
    tree.write_object("kernel/config_data.gz", "CONFIG_A=x\n");
    let data = tree.objects.join("kernel/config_data.gz");
    File::options().write(true).open(data).unwrap().set_modified(old).unwrap();
    let changed = explain("kernel/configs.thinlto-native.o");
    let line = changed.lines().find(|line| line.starts_with("  ! ")).unwrap();
    assert!(line.contains("file included by assembly kernel/config_data.gz  (was: "), "{changed}");
    assert!(changed.contains("would run      yes, due to file included by assembly"), "{changed}");
    tree.edit("kernel/a", "int shared(int x) { return x - 9; }\n");
    assert!(explain("kernel/b.o").contains("thin link      would run first"));
    let link = explain("vmlinux.thinlto-index");
    assert!(link.contains("would run      yes") && link.contains("member kernel/b.o\n"), "{link}");
    assert!(link.contains("linker's files ") && link.contains("ld.lld"), "{link}");
    common::bad(tree.bare(&["explain", "no/such.o"]), 3, "not a module that the thin link indexed");
}

#[test]
fn an_object_of_the_cache_that_has_no_place_leaves_none_of_the_others_aside() {
    let tree = Tree::new();
    let build = || {
        let mut command = tree.kthinlto();
        command.env("KTHINLTO_CACHE_DIR", tree.dir().join("cache"));
        command
    };
    good(build());
    tree.shell("rm -rf .kthinlto; find . -name '*.thinlto-native.o' -delete");
    tree.shell("mkdir kernel/a.thinlto-native.o lib/w1.thinlto-native.o");
    common::bad(build(), 5, "thinlto-native.o");
    let out = Command::new("find").arg(&tree.objects).args(["-name", ".tmp_*"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "");
}
