//! Trees that came from elsewhere: links and pipes where files should be, states that name what is
//! not the tree's, inputs made to hurt. Nothing outside is written or removed, nothing hangs, and
//! nothing is run by a look.

#![cfg(feature = "program")]

mod common;
#[path = "common/strangers.rs"]
mod strangers;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Beside, Tree, assert_holds, bad, good, text, warnings};
use strangers::{COPY, assert_home_is_whole, ended, home, pipe};

#[test]
fn cleaning_a_tree_with_links_writes_and_removes_nothing_behind_them() {
    let tree = Tree::new();
    let home = home(&tree);
    let notes = home.join("notes.txt");
    let own = tree.objects.join(".kthinlto");
    let dry = || ended(tree.bare(&["clean", "-n"]));
    fs::create_dir(&own).unwrap();
    symlink(&notes, own.join("lock")).unwrap();
    symlink(&notes, own.join(".tmp_state")).unwrap();
    assert!(dry().status.success());
    bad(tree.bare(&["clean"]), 3, "lock: a symbolic link where kthinlto's own file or folder");
    fs::remove_file(own.join("lock")).unwrap();
    good(tree.kthinlto()); // it writes the state anew, and so aside
    assert_home_is_whole(&home);

    // The folder itself leads elsewhere.
    let other = tree.dir().join("other");
    fs::rename(&own, &other).unwrap();
    fs::create_dir(other.join("link")).unwrap();
    fs::create_dir(other.join("relink.notes")).unwrap();
    symlink(&other, &own).unwrap();
    for words in [&["clean", "-n"][..], &["clean"], &["build", "built-in.a"], &["explain", "a"]] {
        bad(tree.bare(words), 3, ".kthinlto: a symbolic link where");
    }
    assert!(other.join("state").exists() && other.join("relink.notes").exists());
}

#[test]
fn a_state_that_names_files_outside_of_the_tree_cleans_none_of_them() {
    use kthinlto::store::{BackendRecord, Digest, Store};
    let tree = Tree::new();
    let outside = tree.dir().join("out");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, tree.objects.join("linked")).unwrap();
    let absolute = outside.join("y.o").to_string_lossy().into_owned();
    let mut store = Store::open(&tree.objects).unwrap();
    for object in ["../out/x.o", &absolute, "linked/z.o", "lib/w1.o", "kernel/../../out/x.o"] {
        let digest = Digest::of(b"");
        store
            .set_backend(
                &kthinlto::unit::Part::of_vmlinux(object),
                BackendRecord::new(digest, digest, None, &[0_u8; 0]),
            )
            .unwrap();
    }
    drop(store);
    let files = ["x", "y", "z"].map(|stem| outside.join(format!("{stem}.thinlto-native.o")));
    for file in &files {
        fs::write(file, "kept").unwrap();
    }
    tree.write_object("lib/w1.thinlto-native.o", "ours");
    let look = ended(tree.bare(&["clean", "-n"]));
    assert_holds(&text(&look.stdout), &["would remove lib/w1.thinlto-native.o"]);
    assert!(!text(&look.stdout).contains("/x.") && !text(&look.stdout).contains("/z."));
    let out = ended(tree.bare(&["clean"]));
    assert!(out.status.success());
    assert_holds(&warnings(&out).concat(), &["../out/x.o", "leads out of its folder", "linked/"]);
    assert!(files.iter().all(|file| file.exists()), "{files:?}");
    assert!(!tree.objects.join("lib/w1.thinlto-native.o").exists());
}

#[test]
fn what_stands_in_the_way_of_an_aside_is_not_written_into() {
    let tree = Tree::new();
    let home = home(&tree);
    let notes = home.join("notes.txt");
    let all = ["vmlinux.a", "kernel/a.o.thinlto.bc", "kernel/a.thinlto-native.o", "builtin.order"];
    for hard in [false, true] {
        tree.shell("rm -rf .kthinlto vmlinux.a; find . -name '*.thinlto*' -delete");
        for name in all {
            let (folder, base) = name.rsplit_once('/').unwrap_or((".", name));
            let aside = tree.objects.join(folder).join(format!(".tmp_{base}"));
            let _ = fs::remove_file(&aside);
            match hard {
                true => fs::hard_link(&notes, &aside).unwrap(),
                false => symlink(&notes, &aside).unwrap(),
            }
        }
        // One that is not there yet would be written in its place.
        tree.write_object("kernel/a.o.thinlto.bc", "of another day");
        tree.build();
        assert_home_is_whole(&home);
        common::assert_same(&tree.outputs(), &tree.want());
        assert_eq!(fs::metadata(tree.objects.join("vmlinux.a")).unwrap().nlink(), 1);
    }
}

#[test]
fn a_look_starts_no_program_that_the_tree_names() {
    let tree = Tree::new();
    let script = |name: &str, says: &str, body: &str| {
        tree.write_object(
            name,
            &format!(
                "#!/bin/sh\ncase \"$*\" in --version|*-###*) {says}; exit;; esac\n\
                 for object; do [ \"$was\" = -o ] && out=$object; was=$object; done\n{body}\n"
            ),
        );
        tree.shell(&format!("chmod +x {name}"));
    };
    script("cc", &format!("{} \"$@\"", common::tool("clang")), COPY);
    script("ld", "echo LLD 22.0.0", &format!("exec {} \"$@\"", common::tool("ld.lld")));
    let mut build = tree.kthinlto();
    build.env("CC", "./cc").env("LD", "./ld");
    good(build);
    // From here on it is a tree that came from elsewhere.
    script("cc", "touch ran-cc; echo clang version 22.0.0", "touch ran-cc");
    script("ld", "touch ran-ld; echo LLD 22.0.0", "touch ran-ld");
    let kernel = tree.srctree();
    let looks: [&[&str]; 6] = [
        &["explain", "kernel/a.o"],
        &["graph"],
        &["clean", "-n"],
        &["patch", "--check", &kernel],
        &["build", "-n", "built-in.a", "lib/lib.a"],
        &["relink", "-n"],
    ];
    for words in looks {
        let mut command = tree.bare(words);
        command.env_remove("CC").env_remove("LD");
        if words[0] == "build" {
            command.env("CC", "./cc").env("LD", "./ld");
        }
        let out = ended(command);
        assert_eq!(tree.shell("ls | grep ^ran || :"), "", "{words:?}");
        if words[0] == "explain" {
            assert_holds(&text(&out.stdout), &["would run      yes, due to compiler"]);
        }
    }
    // A compiler that no build met is said to be unknown.
    let mut other = tree.bare(&["explain", "kernel/a.o"]);
    other.env("CC", "./cc -O1");
    let said = good(other);
    assert_holds(
        &said,
        &["key            unknown\n", "would run      unknown: no build in this tree has used"],
    );
    assert_holds(&said, &["unknown           compiler"]);
    assert_eq!(tree.shell("ls | grep ^ran || :"), "");
    let mut other = tree.kthinlto();
    other.args(["-n"]).env("CC", "./cc -O1").env("LD", "./ld -O1");
    let out = ended(other);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(tree.shell("ls | grep ^ran || :"), "");
}

#[test]
fn a_dry_run_starts_no_dynamic_loader_that_a_record_names() {
    let tree = Tree::new();
    tree.build();
    tree.write_object("interp", "#!/bin/sh\ntouch ran\n");
    tree.write_object("elfcc.c", "int main(void) { return 0; }\n");
    let cc = common::tool("clang");
    tree.shell(&format!(
        "chmod +x interp; {cc} -o elfcc elfcc.c -Wl,--dynamic-linker=$PWD/interp; \
         sed -i 's|:= {cc} |:= ./elfcc |' init/.main.o.cmd kernel/.head.o.cmd 2>/dev/null || :; \
         find . -name '.*.o.cmd' -exec sed -i 's|^\\(savedcmd_[^ ]*\\) := {cc} |\\1 := ./elfcc |' {{}} +"
    ));
    let mut command = tree.kthinlto();
    command.arg("-n").env_remove("CC");
    let out = ended(command);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_holds(&warnings(&out).concat(), &["a dry run starts no compiler", "`./elfcc`"]);
    assert!(!tree.objects.join("ran").exists());
}

/// Where a file should be stands something that never ends or never begins.
#[test]
fn a_pipe_where_a_file_should_be_is_refused_at_once() {
    let tree = Tree::new();
    let kernel = tree.dir().join("kernel-tree");
    fs::create_dir(&kernel).unwrap();
    pipe(&kernel.join("Makefile"));
    let start = Instant::now();
    let patch = tree.bare(&["patch", "--check", kernel.to_str().unwrap()]);
    bad(patch, 3, "Makefile: a pipe where a regular file should be; remove it");
    tree.build();
    let put = |name: &str, then: &dyn Fn()| {
        let path = tree.objects.join(name);
        let aside = path.with_extension("kept");
        fs::rename(&path, &aside).unwrap();
        pipe(&path);
        then();
        fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        then();
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    };
    let refused = |words: &[&str], name: &str| {
        let out = ended(tree.bare(words));
        assert_eq!(out.status.code(), Some(3), "{words:?}: {}", text(&out.stderr));
        assert_holds(&text(&out.stderr), &[name]);
    };
    let build = ["build", "built-in.a", "lib/lib.a"];
    for name in ["kernel/b.o", "lib/lib.a", ".kthinlto/state"] {
        put(name, &|| refused(&build, name));
    }
    put(".kthinlto/state", &|| refused(&["clean", "-n"], "state"));
    put(".kthinlto/state", &|| refused(&["explain", "kernel/a.o"], "state"));
    put("kernel/.a.o.cmd", &|| {
        fs::remove_file(tree.objects.join("kernel/a.thinlto-native.o")).unwrap_or_default();
        refused(&build, "kernel/.a.o.cmd");
    });
    assert!(start.elapsed() < Duration::from_secs(30));
    tree.build();
}

#[test]
fn assembly_that_includes_what_has_no_end_is_compiled_each_time() {
    let tree = Tree::new();
    let cc = tree.compiler("cc", COPY);
    let build = || {
        let mut command = tree.kthinlto();
        command.env("CC", &cc);
        let out = ended(command);
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout).lines().last().unwrap_or_default().to_owned()
    };
    fs::remove_file(tree.objects.join("kernel/config_data.gz")).unwrap();
    symlink("/dev/zero", tree.objects.join("kernel/config_data.gz")).unwrap();
    build();
    assert_holds(&build(), &["11 up to date, 0 from cache, 1 rebuilt"]);
    // Files that include each other, more than a stack would hold.
    fs::remove_file(tree.objects.join("kernel/config_data.gz")).unwrap();
    tree.write_object("kernel/config_data.gz", ".include \"inc/0\"\n");
    fs::create_dir(tree.objects.join("inc")).unwrap();
    for number in 0..30_000 {
        let next = format!(".include \"inc/{}\"\n", number + 1);
        fs::write(tree.objects.join(format!("inc/{number}")), next).unwrap();
    }
    let start = Instant::now();
    build();
    assert_holds(&build(), &["11 up to date, 0 from cache, 1 rebuilt"]);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_second_signal_ends_a_read_that_hangs() {
    use rustix::process::Signal;
    let tree = Tree::new();
    // It reads its report's pipe open, to which nobody listens: as long as it likes.
    let report = tree.dir().join("report");
    pipe(&report);
    let before_signals = {
        let mut command = tree.kthinlto();
        command.arg("--json").arg(&report);
        Beside::start(command)
    };
    std::thread::sleep(Duration::from_millis(300));
    before_signals.signal(Signal::TERM);
    assert!(!before_signals.end().status.success());
    // A hash that takes for ever: an object on a file system that does not answer is like this.
    let big = fs::File::create(tree.objects.join("kernel/config_data.gz")).unwrap();
    big.set_len(1 << 40).unwrap();
    let build = Beside::start(tree.kthinlto());
    std::thread::sleep(Duration::from_millis(1500));
    build.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    build.signal(Signal::TERM);
    let start = Instant::now();
    build.end();
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_archive_that_is_in_others_times_over_is_refused_within_seconds() {
    use kthinlto::archive::write::{Entry, thin_archive};
    let tree = Tree::new();
    for level in 0..8 {
        let below = format!("bomb{}.a", level + 1);
        let entry =
            || Entry::new(if level == 7 { "kernel/a.o".to_owned() } else { below.clone() }, 1);
        let entries: Vec<Entry> = (0..20).map(|_| entry()).collect();
        fs::write(tree.objects.join(format!("bomb{level}.a")), thin_archive(&entries)).unwrap();
    }
    let start = Instant::now();
    bad(tree.bare(&["build", "bomb0.a"]), 3, "more than 20000 archives, one inside another");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn members_cannot_be_options_of_the_linker() {
    use kthinlto::archive::write::{Entry, thin_archive};
    let tree = Tree::new();
    for name in ["--reproduce=pwn.tar", "@rsp", "-o.o"] {
        tree.write_object(name, "");
        let entries = [Entry::new("init/main.o", 1), Entry::new(name, 1)];
        fs::write(tree.objects.join("odd.a"), thin_archive(&entries)).unwrap();
        bad(tree.bare(&["build", "odd.a"]), 3, "whose name a linker reads as an option");
    }
    assert!(!tree.objects.join("pwn.tar").exists());
}

#[test]
fn what_a_compiler_prints_without_end_ends_it_and_not_the_machine() {
    let tree = Tree::new();
    let cc = tree.compiler("cc", "exec yes");
    let mut command = tree.kthinlto();
    command.env("CC", cc).arg("-j1");
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(out.stderr.len() < 5 << 20, "{}", out.stderr.len());
    let end = text(&out.stderr[out.stderr.len() - 2000..]);
    assert_holds(&end, &["MiB more of this output are left out", "was killed by signal 9"]);
}

#[test]
fn names_of_files_do_not_act_on_a_terminal() {
    use kthinlto::archive::write::{Entry, thin_archive};
    let tree = Tree::new();
    let name = "kernel/\x1b]0;PWNED\x07\x1b[31m\u{202e}red.o";
    fs::copy(tree.objects.join("kernel/a.o"), tree.objects.join(name)).unwrap();
    let record = tree.objects.join(kthinlto::kbuild::cmd_file::path_for(Path::new(name)));
    fs::copy(tree.objects.join("kernel/.a.o.cmd"), record).unwrap();
    fs::write(tree.objects.join("odd.a"), thin_archive(&[Entry::new(name, 1)])).unwrap();
    let cc = tree.compiler("cc", "exit 7");
    let mut outputs = Vec::new();
    for verbose in ["0", "12"] {
        let mut command = tree.bare(&["build", "odd.a"]);
        command.env("CC", &cc).env("KBUILD_VERBOSE", verbose).env("KTHINLTO_LOG", "trace");
        outputs.push(command.output().unwrap());
    }
    let kernel = tree.dir().join("kernel-6");
    fs::create_dir(&kernel).unwrap();
    let makefile = "VERSION = 6\x1b]0;PWNED\x07\nPATCHLEVEL = 99\n";
    fs::write(kernel.join("Makefile"), makefile).unwrap();
    outputs.push(tree.bare(&["patch", kernel.to_str().unwrap()]).output().unwrap());
    let mut jobserver = tree.kthinlto();
    jobserver.env("CC", &cc).env("MAKEFLAGS", "-j2 --jobserver-auth=fifo:/no\x1b[2J");
    outputs.push(jobserver.output().unwrap());
    for out in &outputs {
        let said = text(&out.stdout) + &text(&out.stderr);
        assert!(said.contains("\\x1b") && !said.contains(['\x1b', '\x07', '\u{202e}']), "{said}");
    }
}

#[test]
fn a_state_that_names_a_module_outside_of_the_tree_has_nothing_compiled_there() {
    use kthinlto::store::{Digest, Indexed, Store};
    use kthinlto::unit::Part;
    let tree = Tree::new();
    let cc = tree.compiler("cc", COPY);
    let build = || {
        let mut command = tree.kthinlto();
        command.env("CC", &cc);
        good(command)
    };
    build();
    let outside = tree.dir().join("out");
    fs::create_dir(&outside).unwrap();
    for name in ["x.o", "x.o.thinlto.bc", ".x.o.cmd"] {
        let own = name.replace('x', "a");
        fs::copy(tree.objects.join("kernel").join(own), outside.join(name)).unwrap();
    }
    let mut store = Store::open(&tree.objects).unwrap();
    let mut link = store.link("vmlinux").unwrap().clone();
    let index = Digest::of(&fs::read(outside.join("x.o.thinlto.bc")).unwrap());
    link.modules.push(Indexed { part: Part::of_vmlinux("../out/x.o"), index, imports: Vec::new() });
    store.set_link(link).unwrap();
    drop(store);
    fs::remove_file(tree.objects.join("vmlinux.a")).unwrap();
    assert_holds(&build(), &["  LD      vmlinux.thinlto-index", "12 modules: 12 up to date"]);
    assert!(!outside.join("x.thinlto-native.o").exists());
}
