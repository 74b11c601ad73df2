//! Nothing that can change an object is outside its key: the words of tools, the programs behind
//! wrappers and launchers, configuration files, and what changes while a run goes on.

#![cfg(feature = "program")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Tree, good, text, tool};
use kthinlto::store::cache::make_entry;

/// `(up to date, from cache, rebuilt)` of a build with these variables, and all that it said.
fn build_and_hear(tree: &Tree, set: &[(&str, &str)]) -> ((usize, usize, usize), String) {
    let mut command = tree.kthinlto();
    command.envs(set.iter().copied());
    let out = command.output().unwrap();
    let said = text(&out.stdout) + &text(&out.stderr);
    assert!(out.status.success(), "{said}");
    let line = said.lines().find(|line| line.contains(" modules: ")).unwrap();
    let before = |word: &str| -> usize {
        line[..line.find(word).unwrap()].trim().rsplit(' ').next().unwrap().parse().unwrap()
    };
    ((before(" up to date"), before(" from cache"), before(" rebuilt")), said)
}

fn build(tree: &Tree, set: &[(&str, &str)]) -> (usize, usize, usize) {
    build_and_hear(tree, set).0
}

/// The outputs are those of a clean build with the same variables.
fn is_as_from_clean(tree: &Tree, set: &[(&str, &str)]) {
    let with = |command: &mut Command| {
        command.envs(set.iter().copied());
    };
    assert_eq!(tree.outputs(), tree.clean_outputs(&with), "as from clean");
}

/// The file of a tool, behind all links.
fn real(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|folder| folder.join(tool(name)));
    fs::canonicalize(found.into_iter().find(|path| path.exists()).unwrap()).unwrap()
}

const ALL: (usize, usize, usize) = (0, 0, 12);
const NONE: (usize, usize, usize) = (12, 0, 0);

#[test]
fn other_words_in_cc_rebuild_all_and_share_nothing() {
    let tree = Tree::new();
    let cache = tree.dir().join("cache").display().to_string();
    let plain = [("KTHINLTO_CACHE_DIR", cache.as_str())];
    assert_eq!(build(&tree, &plain), ALL);
    let more = format!("{} -mllvm -inline-threshold=1", tool("clang"));
    let with = [plain[0], ("CC", more.as_str())];
    assert_eq!(build(&tree, &with), ALL);
    assert_eq!(build(&tree, &with), NONE);
    is_as_from_clean(&tree, &with);
    let inner = format!("env CCC_OVERRIDE_OPTIONS='# +-fno-addrsig' {}", tool("clang"));
    assert_eq!(build(&tree, &[plain[0], ("CC", inner.as_str())]), ALL);
    assert_eq!(build(&tree, &plain), (0, 12, 0), "its own objects are there still");
    is_as_from_clean(&tree, &plain);
}

#[test]
fn other_words_in_ld_make_a_new_thin_link() {
    let tree = Tree::new();
    tree.build();
    let more = format!("{} -mllvm -import-instr-limit=0", tool("ld.lld"));
    let with = [("LD", more.as_str())];
    let ((_, _, rebuilt), said) = build_and_hear(&tree, &with);
    assert!(said.contains("  LD      vmlinux.thinlto-index"), "{said}");
    assert!(rebuilt >= 9, "indexes are others without imports: {rebuilt}");
    is_as_from_clean(&tree, &with);
}

#[test]
fn the_compiler_behind_a_launcher_counts() {
    let tree = Tree::new();
    let bin = tree.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    let link = bin.join("clang");
    symlink(tree.script("one", &format!("exec {} \"$@\"", real("clang").display())), &link)
        .unwrap();
    let cc = format!("nice -n 1 {}", link.display());
    let with = [("CC", cc.as_str())];
    assert_eq!(build(&tree, &with), ALL);
    assert_eq!(build(&tree, &with), NONE);
    let two = format!("exec {} -fno-addrsig \"$@\"", real("clang").display());
    fs::remove_file(&link).unwrap();
    symlink(tree.script("two", &two), &link).unwrap();
    assert_eq!(build(&tree, &with), ALL);
    is_as_from_clean(&tree, &with);
}

/// A compiler in a folder of its own, as a program that another one can take the place of.
fn own_compiler(folder: &Path, extra: &str) {
    fs::create_dir_all(folder).unwrap();
    let text = format!("#!/bin/sh\nexec {} {extra} \"$@\"\n", real("clang").display());
    let aside = folder.join("aside");
    fs::write(&aside, text).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(aside, folder.join("clang.real")).unwrap();
}

#[test]
fn a_script_that_computes_its_compiler_is_asked_for_it() {
    let tree = Tree::new();
    // Copies, so that each is a program of its own that -### names.
    let (one, two) = (tree.dir().join("one/bin"), tree.dir().join("two/bin"));
    for folder in [&one, &two] {
        fs::create_dir_all(folder).unwrap();
        fs::copy(real("clang"), folder.join("clang")).unwrap();
        let lib = real("clang").parent().unwrap().parent().unwrap().join("lib");
        symlink(lib, folder.parent().unwrap().join("lib")).unwrap();
    }
    let which = tree.dir().join("which");
    fs::write(&which, one.display().to_string()).unwrap();
    let script = format!("exec \"$(cat {})/clang\" \"$@\"", which.display());
    let cc = tree.script("cc", &script);
    let with = [("CC", cc.as_str())];
    assert_eq!(build(&tree, &with), ALL);
    let (counts, said) = build_and_hear(&tree, &with);
    assert_eq!(counts, NONE, "{said}");
    // The compiler itself is replaced, its version is the same.
    let mut bytes = fs::read(one.join("clang")).unwrap();
    bytes.push(0);
    fs::write(one.join("clang"), bytes).unwrap();
    assert_eq!(build(&tree, &with), ALL);
    assert_eq!(build(&tree, &with), NONE);
    // The script leads elsewhere.
    fs::write(&which, two.display().to_string()).unwrap();
    assert_eq!(build(&tree, &with), ALL);
    assert_eq!(build(&tree, &with), NONE);
    is_as_from_clean(&tree, &with);
}

/// Thin links are in the cache too.
fn objects_in_cache(tree: &Tree) -> usize {
    let magics = tree.shell("find ../cache -path '*/v2/*/*' -type f -exec head -qc4 {} +");
    magics.matches("ELF").count()
}

#[test]
fn a_wrapper_that_does_not_tell_its_compiler_is_compiled_with_each_time_and_never_shared() {
    let tree = Tree::new();
    own_compiler(tree.dir(), "");
    let hidden = tree.dir().join("clang.real").display().to_string();
    let (a, b) = hidden.split_at(hidden.len() - 4);
    let script = format!("case \"$*\" in *-###*) exit 0; esac; p={a}; exec \"$p\"{b} \"$@\"");
    let cc = tree.script("cc", &script);
    let cache = tree.dir().join("cache").display().to_string();
    let with = [("CC", cc.as_str()), ("KTHINLTO_CACHE_DIR", cache.as_str())];
    for _ in 0..2 {
        let (counts, said) = build_and_hear(&tree, &with);
        assert_eq!(counts, ALL);
        assert_eq!(said.matches("cannot tell which program CC").count(), 1, "{said}");
    }
    own_compiler(tree.dir(), "-fno-addrsig");
    assert_eq!(build(&tree, &with), ALL);
    assert_eq!(objects_in_cache(&tree), 0);
    is_as_from_clean(&tree, &with[..1]);
}

#[test]
fn a_linker_that_nobody_can_see_links_each_time() {
    let tree = Tree::new();
    let lld = real("ld.lld").parent().unwrap().display().to_string();
    let ld = tree.script("ld", &format!("d={lld}; exec \"$d\"/ld.lld \"$@\""));
    let with = [("LD", ld.as_str())];
    build(&tree, &with);
    let (counts, said) = build_and_hear(&tree, &with);
    assert_eq!(counts, NONE);
    assert!(said.contains("  LD      vmlinux.thinlto-index"), "{said}");
    assert!(said.contains("the thin link is made each time"), "{said}");
}

#[test]
fn configuration_files_outside_of_clangs_folder_count() {
    let tree = Tree::new();
    let system = tree.dir().join("system");
    fs::create_dir(&system).unwrap();
    fs::write(system.join("clang.cfg"), "@more.rsp\n").unwrap();
    fs::write(system.join("more.rsp"), "-fno-addrsig\n").unwrap();
    let cc = format!("{} --config-system-dir={}", tool("clang"), system.display());
    let with = [("CC", cc.as_str())];
    assert_eq!(build(&tree, &with), ALL);
    assert_eq!(build(&tree, &with), NONE);
    fs::write(system.join("more.rsp"), "-fno-addrsig -falign-functions=64\n").unwrap();
    assert_eq!(build(&tree, &with), ALL);
    assert_eq!(build(&tree, &with), NONE);
    is_as_from_clean(&tree, &with);
    // A file that clang prefers, where there was none.
    fs::write(system.join("x86_64-unknown-linux-gnu-clang.cfg"), "-falign-functions=32\n").unwrap();
    assert_eq!(build(&tree, &with), ALL);
    is_as_from_clean(&tree, &with);
}

#[test]
fn a_configuration_file_that_a_flag_names_counts_with_all_that_it_takes_in() {
    let tree = Tree::new();
    tree.write_object("cfg/own.cfg", "@more.rsp\n");
    tree.write_object("cfg/more.rsp", "-falign-functions=64\n");
    tree.compile("lib/w1", "--config=./cfg/own.cfg");
    tree.archive();
    assert_eq!(build(&tree, &[]), ALL);
    tree.write_object("cfg/more.rsp", "-falign-functions=32\n");
    assert_eq!(build(&tree, &[]), (11, 0, 1));
    is_as_from_clean(&tree, &[]);
}

#[test]
fn a_configuration_file_that_takes_itself_in_is_one_sentence() {
    let tree = Tree::new();
    tree.write_object("own.cfg", "@own.cfg\n");
    let mut command = tree.kthinlto();
    command.env("CC", format!("{} --config=./own.cfg", tool("clang")));
    common::bad(command, 4, "recursive expansion of");
}

#[test]
fn a_compiler_that_is_replaced_while_it_runs_makes_nothing_that_counts() {
    let tree = Tree::new();
    let cache = tree.dir().join("cache").display().to_string();
    let place = tree.dir().join("cc");
    // The last backend that begins puts another compiler into its own place.
    let script = format!(
        "case \"$*\" in *-###*|*--version*) ;; *-o*w5.thinlto*) cp {0} {0}.new; \
         echo '# another' >> {0}.new; mv {0}.new {0};; esac; exec {1} \"$@\"",
        place.display(),
        real("clang").display()
    );
    let cc = tree.script("cc", &script);
    let with = [("CC", cc.as_str()), ("KTHINLTO_CACHE_DIR", cache.as_str())];
    let mut command = tree.kthinlto();
    command.envs(with).arg("-j1");
    let out = command.output().unwrap();
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert_eq!(said.matches("it is unknown which one made the objects").count(), 1, "{said}");
    let shared = |tree: &Tree| tree.shell("find ../cache -path '*/v2/*/*' -type f | wc -l");
    let before: usize = shared(&tree).trim().parse().unwrap();
    assert!(before < 12, "what it compiled then is not shared");
    assert!(!tree.objects.join("lib/w5.thinlto-native.o").exists());
    tree.script("cc", &format!("exec {} \"$@\"", real("clang").display()));
    assert_eq!(build(&tree, &with), ALL);
}

#[test]
fn ln_chmod_and_other_inode_numbers_of_inputs_while_a_run_goes_on_are_no_change() {
    let tree = Tree::new();
    // Once for each name of a new link. The last is a file system with unstable inode numbers.
    let disturb = "n=../links/$$; mkdir -p ../links; ln $file $n; chmod g+w $file; \
                   cp -p $file $n.new; mv $n.new $file";
    let asked = "case \"$*\" in *-###*|*--version*) ;; *)";
    let last = "for file; do :; done; file=${file#@}";
    let cc = format!("{asked} {last}; {disturb};; esac; exec {} \"$@\"", tool("clang"));
    let cc = tree.script("cc", &cc);
    let ld = format!("{asked} file=lib/w1.o; {disturb};; esac; exec {} \"$@\"", tool("ld.lld"));
    let ld = tree.script("ld", &ld);
    let with = [("CC", cc.as_str()), ("LD", ld.as_str())];
    assert_eq!(build(&tree, &with), ALL);
    assert_eq!(build(&tree, &with), NONE);
    is_as_from_clean(&tree, &with);
    // Bytes decide, and the time of the last write: what was written may have been read half.
    let touch =
        format!("{asked} touch kernel/config_data.gz;; esac; exec {} \"$@\"", tool("clang"));
    let touch = tree.script("touch", &touch);
    tree.write_object("kernel/config_data.gz", "CONFIG_A=n\n");
    let mut command = tree.kthinlto();
    command.env("CC", touch);
    common::bad(command, 1, "kernel/config_data.gz changed while");
}

#[test]
fn what_words_of_cc_ask_for_counts_as_if_a_flag_did() {
    let profile = |hits: u32| format!("worker1:{hits}:{hits}\n 1: {hits}\n");
    let tree = Tree::new();
    tree.write_object("kernel.prof", &profile(1000));
    let cc = format!("{} -fprofile-sample-use=kernel.prof", tool("clang"));
    let with = [("CC", cc.as_str())];
    assert_eq!(build(&tree, &with), ALL);
    assert_eq!(build(&tree, &with), NONE);
    tree.write_object("kernel.prof", &profile(1));
    assert_eq!(build(&tree, &with), ALL);
    is_as_from_clean(&tree, &with);
    // An assembler outside of clang is covered by no key.
    let cc = format!("{} -no-integrated-as", tool("clang"));
    for _ in 0..2 {
        assert_eq!(build(&tree, &[("CC", cc.as_str())]), ALL);
    }
    let cc = format!("{} -g -gsplit-dwarf", tool("clang"));
    let with = [("CC", cc.as_str())];
    build(&tree, &with);
    assert_eq!(build(&tree, &with), NONE);
    let dwo = tree.objects.join("lib/w1.thinlto-native.dwo");
    if dwo.exists() {
        fs::remove_file(&dwo).unwrap();
        assert_eq!(build(&tree, &with), (11, 0, 1));
    }
}

/// A cache of backends as ccache from 4.13 on is one: by object, index and flags.
fn fake_ccache(tree: &Tree) -> String {
    let script = format!(
        "[ \"$CCACHE_DISABLE\" ] || case \"$*\" in *-fthinlto-index=*) \
         for last; do :; done; out=; prev=; for w; do [ \"$prev\" = -o ] && out=$w; prev=$w; done; \
         key={}/$(echo \"$*\" | cat - $last $last.thinlto.bc | md5sum | cut -c1-32); \
         if [ -e $key ]; then cp $key $out; else \"$@\" || exit; cp $out $key; fi; exit;; esac; \
         exec \"$@\"",
        tree.dir().join("kept").display()
    );
    fs::create_dir_all(tree.dir().join("kept")).unwrap();
    tree.script("ccache", &script)
}

#[test]
fn ccache_between_us_and_the_compiler_answers_for_nothing() {
    let tree = Tree::new();
    let ccache = fake_ccache(&tree);
    let script = tree.script("cc", &format!("exec {ccache} {} \"$@\"", tool("clang")));
    for cc in [format!("{ccache} {}", tool("clang")), script] {
        let with = [("CC", cc.as_str())];
        tree.write_object("kernel/config_data.gz", "CONFIG_A=y\n");
        assert_eq!(build(&tree, &with), ALL);
        tree.write_object("kernel/config_data.gz", "CONFIG_A=m\n");
        assert_eq!(build(&tree, &with), (11, 0, 1));
        is_as_from_clean(&tree, &with);
        let object = fs::read(tree.objects.join("kernel/configs.thinlto-native.o")).unwrap();
        assert!(object.windows(10).any(|bytes| bytes == b"CONFIG_A=m"), "{cc}");
        let record =
            fs::read_to_string(tree.objects.join("kernel/.configs.thinlto-native.o.cmd")).unwrap();
        assert!(record.contains(&cc), "the recorded command is make's: {record}");
    }
    assert_eq!(tree.shell("ls ../kept | wc -l").trim(), "0");
    good(tree.bare(&["explain", "kernel/configs.o"]));
}

#[test]
fn a_build_by_hand_runs_the_compiler_of_the_records_with_its_options() {
    let tree = Tree::new();
    let cc = format!("{} -mllvm -inline-threshold=1 -fno-addrsig", tool("clang"));
    let with = [("CC", cc.as_str())];
    let by_hand = || {
        let mut command = tree.kthinlto();
        command.env_remove("CC");
        good(command)
    };
    tree.shell(&format!("sed -i 's/{} -Wp,/{cc} -Wp,/' $(find . -name '.*.cmd')", tool("clang")));
    // The second time as older kernels do, with no flags beside the command: options of CC are
    // given once.
    for change in ["true", "sed -i '/^saved_c_flags/d' $(find . -name '.*.cmd')"] {
        tree.shell(change);
        build(&tree, &with);
        assert!(by_hand().contains("12 up to date"));
        let made = tree.outputs();
        tree.shell("rm -r .kthinlto; find . -name '*.thinlto*' -delete");
        assert!(by_hand().contains("12 rebuilt"));
        assert!(tree.outputs() == made, "the same objects as make's, by the same commands");
    }
}

#[test]
fn a_recorded_command_keeps_options_whose_value_is_the_next_word() {
    let tree = Tree::new();
    let want = tree.build();
    assert!(want.contains("12 rebuilt"), "{want}");
    let outputs = tree.outputs();
    tree.shell(
        "sed -i -e '/^saved_c_flags/d' -e 's/ -O2 / --sysroot \\/none -isysroot \\/none -O2 /' \
         $(find . -name '.*.cmd')",
    );
    assert_eq!(build(&tree, &[]), ALL);
    let text = fs::read_to_string(tree.objects.join("lib/.w1.thinlto-native.o.cmd")).unwrap();
    assert!(text.contains("--sysroot /none -isysroot /none -O2"), "{text}");
    for (name, bytes) in outputs.iter().filter(|(name, _)| name.ends_with("native.o")) {
        assert_eq!(&fs::read(tree.objects.join(name)).unwrap(), bytes, "{name}");
    }
    tree.shell("sed -i 's/ -c -o lib.w1.o / other.c -c -o lib\\/w1.o /' lib/.w1.o.cmd");
    let said = common::bad(tree.kthinlto(), 3, "a command with two sources, other.c and");
    assert!(!said.status.success());
}

/// Changes an object, and makes its record fit.
fn forge(tree: &Tree, set: &[(&str, &str)], with_cache: &Path) {
    // Another object under the keys of this one: as a build with a wrong key would leave it.
    let entries = tree.shell(&format!("find {} -path '*/v2/*/*' -type f", with_cache.display()));
    let place = tree.objects.join("lib/w1.thinlto-native.o");
    let own = fs::read(&place).unwrap();
    let entry = entries.lines().find(|entry| fs::read(entry).unwrap().starts_with(&own)).unwrap();
    let other = fs::read(tree.objects.join("lib/w2.thinlto-native.o")).unwrap();
    // The key in hexadecimal, the first two figures as a folder.
    let name: Vec<&str> = entry.rsplit('/').take(2).collect();
    let key = format!("{}{}", name[1], name[0]).parse().unwrap();
    fs::write(entry, make_entry(key, &other)).unwrap();
    fs::remove_file(&place).unwrap();
    assert_eq!(build(tree, set), (11, 1, 0), "taken from the cache, and on record");
}

#[test]
fn verify_finds_a_changed_object_whose_record_fits_and_a_poisoned_cache_entry() {
    let tree = Tree::new();
    let cache = tree.dir().join("cache");
    let with = [("KTHINLTO_CACHE_DIR", cache.to_str().unwrap())];
    build(&tree, &with);
    let verify = |more: &[&str]| {
        let mut command = tree.bare(&[&["verify"], more].concat());
        command.envs(with);
        command
    };
    assert!(good(verify(&["--cache"])).contains("12 objects match what their backends make"));
    assert!(good(verify(&["--sample", "3"])).contains("3 objects match what their backends make"));
    forge(&tree, &with, &cache);
    let out = common::bad(verify(&["--cache", "-j2"]), 9, "2 of 12 objects");
    let said = text(&out.stderr);
    assert!(said.contains("lib/w1.thinlto-native.o differs from what its backend makes"), "{said}");
    assert!(said.contains("the shared cache's object for lib/w1.o differs"), "{said}");
    good(verify(&["lib/w2.o", "lib/w3.o"]));
    common::bad(verify(&["lib/w1"]), 9, "1 of 1 objects");
    tree.shell("rm -r ../cache; mkdir ../cache; rm lib/w1.thinlto-native.o");
    build(&tree, &with);
    good(verify(&[]));
    assert_eq!(tree.shell("find .kthinlto -name 'verify*'"), "");
    is_as_from_clean(&tree, &with);
}

#[test]
fn verify_leaves_out_what_is_due_and_says_so() {
    let tree = Tree::new();
    common::bad(tree.bare(&["verify"]), 3, "no record of a build");
    tree.build();
    tree.write_object("kernel/config_data.gz", "CONFIG_A=n\n");
    let said = good(tree.bare(&["verify"]));
    assert!(said.contains("11 objects match what their backends make; 1 are due"), "{said}");
    let mut no_cache = tree.bare(&["verify", "--cache"]);
    no_cache.env_remove("KTHINLTO_CACHE_DIR");
    common::bad(no_cache, 2, "no cache is named");
}

#[test]
fn a_build_that_is_to_verify_ends_where_an_object_differs() {
    let tree = Tree::new();
    let cache = tree.dir().join("cache");
    let with = [("KTHINLTO_CACHE_DIR", cache.to_str().unwrap())];
    let verified = [with[0], ("KTHINLTO_VERIFY", "100%")];
    build(&tree, &with);
    assert_eq!(build(&tree, &verified), NONE);
    forge(&tree, &with, &cache);
    let run = |share: &str, code| {
        let mut command = tree.kthinlto();
        command.envs(with).env("KTHINLTO_VERIFY", share);
        text(&common::bad(command, code, "").stderr)
    };
    let said = run("100%", 9);
    assert!(said.contains("lib/w1.thinlto-native.o differs from what its backend makes"), "{said}");
    // What comes from the cache is looked at as well.
    fs::remove_file(tree.objects.join("lib/w1.thinlto-native.o")).unwrap();
    assert!(run("100%", 9).contains("lib/w1.thinlto-native.o"));
    assert!(run("much", 2).contains("this is the value of KTHINLTO_VERIFY"));
    assert_eq!(build(&tree, &with), NONE, "without it all is as it was");
}

#[test]
fn files_beside_an_object_have_mainlines_names_and_are_not_shared() {
    let tree = Tree::new();
    let cache = tree.dir().join("cache");
    let with = [("KTHINLTO_CACHE_DIR", cache.to_str().unwrap())];
    let flags = "-fstack-usage -ftime-trace -fsave-optimization-record";
    tree.compile("lib/w1", flags);
    tree.archive();
    assert_eq!(build(&tree, &with), ALL);
    let made = || tree.shell("ls -A lib | grep -E 'w1.*(su|json|opt.yaml)$' | grep native");
    let want = "w1.thinlto-native.json\nw1.thinlto-native.opt.yaml\nw1.thinlto-native.su\n";
    assert_eq!(made(), want);
    assert!(fs::read_to_string(tree.objects.join("lib/w1.thinlto-native.su")).unwrap().len() > 3);
    assert_eq!(objects_in_cache(&tree), 11);
    tree.shell("rm lib/w1.thinlto-native.*");
    assert_eq!(build(&tree, &with), (11, 0, 1));
    assert_eq!(made(), want);
    // A failure leaves nothing aside.
    tree.shell("rm lib/w1.thinlto-native.o; find . -name '.tmp_*' | grep . && exit 1 || true");
    good(tree.bare(&["clean"]));
    assert_eq!(tree.shell("ls lib | grep thinlto || true"), "");
}

#[test]
fn maps_of_paths_rebuild_nothing_and_move_no_output() {
    let tree = Tree::new();
    for stem in ["lib/w1", "kernel/a"] {
        tree.compile(stem, "-g");
    }
    tree.archive();
    tree.build();
    let before = tree.outputs();
    let maps = "-ffile-prefix-map=/=here/ -fdebug-prefix-map=/=x -fcoverage-prefix-map=/=y";
    tree.shell(&format!(
        "sed -i 's|^\\(saved_c_flags_.* := \\)|\\1{maps} |' $(find . -name '.*.cmd')"
    ));
    assert_eq!(build(&tree, &[]), NONE);
    // Had they been compiled with them, the bytes would be these.
    for (name, bytes) in tree.clean_outputs(&|_| {}) {
        assert!(!name.ends_with(".o") || before[&name] == bytes, "{name}");
    }
}
