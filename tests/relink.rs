//! `kthinlto relink` on a small tree with the records that kbuild leaves: the same bytes as the
//! recorded commands make one after the other, nothing done twice, nothing half-written, and one
//! sentence for each thing that can be wrong with the tree.

#![cfg(feature = "program")]

#[path = "common/built.rs"]
mod built;
mod common;

use std::fs;
use std::path::PathBuf;

use built::{Built, RESULTS, steps};
use common::{Beside, LDFLAGS, assert_holds, assert_same, bad, fails, good, text, tool, until};
use rustix::process::Signal;

#[test]
fn the_recorded_commands_are_what_runs() {
    let built = Built::new();
    let out = good(built.relink(&[]));
    let ran = steps(&out);
    assert_eq!(ran[0], "GEN .tmp_initcalls.lds");
    for step in [
        "LD vmlinux.o",
        "MODPOST vmlinux.symvers",
        "CC .vmlinux.export.o",
        "LD vmlinux.unstripped",
        "OBJCOPY vmlinux",
        "GEN modules.builtin",
    ] {
        assert!(ran.iter().any(|line| line == step), "no {step} in {ran:?}");
    }
    assert_eq!(built.results().len(), RESULTS.len());
    assert_same(&built.results(), &built.by_hand());
    assert_eq!(
        fs::read_to_string(built.path("modules.builtin")).unwrap(),
        "kernel/kernel/head.ko\n"
    );
    built.assert_nothing_aside();
}

#[test]
fn nothing_is_done_twice_and_an_edit_costs_what_it_changes() {
    let built = Built::new();
    good(built.relink(&[]));
    let times =
        |built: &Built| built.tree.shell(&format!("stat -c '%n %i %y' {}", RESULTS.join(" ")));
    let before = times(&built);
    assert_eq!(steps(&good(built.relink(&[]))), Vec::<String>::new());
    assert_eq!(times(&built), before);

    built.tree.shell("touch lib/w1.o .vmlinux.export.c vmlinux.o");
    assert_eq!(steps(&good(built.relink(&[]))), Vec::<String>::new(), "a touch is no change");

    built.tree.edit("lib/w1", "int shared(int);\nint worker1(int x) { return shared(x + 77); }\n");
    let ran = steps(&good(built.relink(&[])));
    assert_holds(
        &ran.join("\n"),
        &["LD vmlinux.o", "MODPOST", "LD vmlinux.unstripped", "OBJCOPY vmlinux"],
    );
    assert!(
        !ran.iter().any(|line| line.contains(".vmlinux.export.o")),
        "exports are the same: {ran:?}"
    );
    assert!(!ran.iter().any(|line| line == "GEN modules.builtin"), "modinfo is the same: {ran:?}");
    assert_same(&built.results(), &built.by_hand());

    // An output that someone else changed or removed is made again.
    for name in ["System.map", "vmlinux", "vmlinux.o", "modules.builtin"] {
        built.tree.write_object(name, "something else");
        good(built.relink(&[]));
        fs::remove_file(built.path(name)).unwrap();
        good(built.relink(&[]));
        assert_same(&built.results(), &built.by_hand());
    }
}

#[test]
fn a_change_inside_a_member_of_a_library_is_a_change() {
    // As the stub library of arm64: a thin archive on the line of vmlinux.o, beside vmlinux.a.
    let built = Built::new();
    let make = |value: u32| {
        built.tree.write_object("stub/one.S", &format!(".globl one\none: .long {value}\n"));
        built.tree.shell(&format!(
            "{} --target=x86_64-linux-gnu -c -o stub/one.o stub/one.S; rm -f stub/lib.a; \
             {} cDPrST stub/lib.a stub/one.o",
            tool("clang"),
            tool("llvm-ar")
        ));
    };
    make(1);
    built.tree.shell("sed -i 's,--start-group ,--start-group stub/lib.a ,' .vmlinux.o.cmd");
    good(built.relink(&[]));
    let archive = fs::read(built.path("stub/lib.a")).unwrap();
    assert_eq!(steps(&good(built.relink(&[]))), Vec::<String>::new());
    make(2);
    assert_eq!(fs::read(built.path("stub/lib.a")).unwrap(), archive, "names and sizes are equal");
    let ran = steps(&good(built.relink(&[])));
    assert_holds(&ran.join("\n"), &["LD vmlinux.o"]);
    assert_eq!(steps(&good(built.relink(&[]))), Vec::<String>::new());
}

#[test]
fn a_changed_tool_or_script_or_option_is_a_change() {
    let built = Built::new();
    good(built.relink(&[]));
    let ran = |built: &Built| steps(&good(built.relink(&[]))).join("\n");
    built.tree.shell("echo '# other' >> scripts/mod/modpost");
    assert_holds(&ran(&built), &["MODPOST vmlinux.symvers"]);
    built.tree.shell("echo '# other' >> tools/objtool/objtool");
    assert_holds(&ran(&built), &["LD vmlinux.o", "CC .vmlinux.export.o"]);
    built.tree.shell("echo '# other' >> scripts/kallsyms");
    assert_holds(&ran(&built), &["LD vmlinux.unstripped"]);
    built
        .tree
        .shell(&format!("echo '# other' >> {}/scripts/link-vmlinux.sh", built.tree.srctree()));
    assert_holds(&ran(&built), &["LD vmlinux.unstripped"]);
    built.tree.shell("sed -i 's/--build-id=sha1/--build-id=md5/' .vmlinux.unstripped.cmd");
    assert_holds(&ran(&built), &["LD vmlinux.unstripped", "OBJCOPY vmlinux"]);
    let mut named = built.relink(&[]);
    named.env("KBUILD_BUILD_VERSION", "2");
    assert_holds(&steps(&good(named)).join("\n"), &["LD vmlinux.unstripped"]);
    assert!(
        String::from_utf8_lossy(&fs::read(built.path("vmlinux")).unwrap()).contains("#2 SMP today")
    );
    assert_eq!(
        steps(&{
            let mut named = built.relink(&[]);
            named.env("KBUILD_BUILD_VERSION", "2");
            good(named)
        }),
        Vec::<String>::new()
    );
}

#[test]
fn explain_tells_what_each_step_is_made_from_and_which_input_changed() {
    let built = Built::new();
    good(built.relink(&[]));
    let explain = |built: &Built, name: &str| {
        let mut command = built.tree.bare(&["explain", name]);
        command.env_remove("CC").env("KBUILD_BUILD_VERSION", "1");
        command.env("KBUILD_BUILD_TIMESTAMP", "today");
        good(command)
    };
    let before = explain(&built, "vmlinux");
    assert!(!before.contains("yes, due to") && !before.contains("  ! "), "{before}");
    for step in ["vmlinux.o", "vmlinux.symvers", ".vmlinux.export.o", "vmlinux.unstripped"] {
        assert!(before.lines().any(|line| line == step), "no {step} in {before}");
    }
    assert!(before.contains("  tools' files   ") && before.contains("/llvm-objcopy"), "{before}");
    let lds = "arch/x86/kernel/vmlinux.lds";
    built.tree.shell(&format!("echo '/* other */' >> {lds}"));
    let after = explain(&built, "vmlinux.unstripped");
    assert_eq!(after.matches("yes, due to").count(), 1, "{after}");
    assert_holds(&after, &[&format!("would run      yes, due to file {lds}\n"), "  (was: "]);
    assert_eq!(steps(&good(built.relink(&[]))), ["LD vmlinux.unstripped"]);
    fails(
        built.tree.bare(&["explain", "vmlinux.x"]),
        3,
        &["not a module that the thin link indexed"],
    );
}

#[test]
fn a_look_at_a_relink_starts_no_compiler_that_the_records_name() {
    let built = Built::new();
    good(built.relink(&[]));
    built.tree.write_object("cc", "#!/bin/sh\ntouch ran\n");
    built.tree.shell(&format!(
        "chmod +x cc; find . -name '.*.cmd' -exec sed -i 's|{} |./cc |g' {{}} +; grep -q './cc ' kernel/.a.o.cmd",
        tool("clang")
    ));
    for words in [&["relink", "-n"][..], &["explain", "vmlinux"]] {
        let mut command = built.tree.bare(words);
        command.env_remove("CC").env_remove("LD").env_remove("KBUILD_LDFLAGS");
        let out = command.output().unwrap();
        assert_eq!(
            built.tree.shell("ls ran 2>/dev/null || :"),
            "",
            "{words:?}: {}",
            text(&out.stderr)
        );
    }
}

#[test]
fn a_link_without_a_number_is_counted_and_only_then() {
    let built = Built::new();
    let counted = |built: &Built| {
        let mut command = built.relink(&[]);
        command.env_remove("KBUILD_BUILD_VERSION");
        good(command);
        fs::read_to_string(built.path(".version")).unwrap()
    };
    assert_eq!(counted(&built), "1\n");
    assert_eq!(counted(&built), "1\n", "nothing was linked");
    built.tree.edit("lib/w1", "int worker1(int x) { return x; }\n");
    assert_eq!(counted(&built), "2\n");
}

#[test]
fn until_stops_and_n_only_prints() {
    let built = Built::new();
    fails(
        built.relink(&["--until", "vmlinux.x"]),
        2,
        &["no step `vmlinux.x`", "vmlinux.a, .tmp_initcalls.lds, vmlinux.o"],
    );
    good(built.relink(&["--until", "vmlinux.a"]));
    assert!(!built.path(".tmp_initcalls.lds").exists());
    let printed = good(built.relink(&["-n"]));
    assert_holds(
        &printed,
        &[
            "# LD      vmlinux.o\n",
            "-T .tmp_initcalls.lds --whole-archive",
            "# OBJCOPY vmlinux\n",
            "link-vmlinux.sh",
        ],
    );
    assert!(built.results().is_empty(), "a dry run wrote something");
    good(built.relink(&["--until", "vmlinux.o"]));
    assert_eq!(built.results().len(), 2, "{:?}", built.results().keys());
    good(built.relink(&["--until", "System.map"]));
    assert!(!built.path("vmlinux").exists());
    good(built.relink(&[]));
    assert_same(&built.results(), &built.by_hand());
    let up_to_date = good(built.relink(&["-n"]));
    assert!(!up_to_date.contains("vmlinux.o"), "{up_to_date}");
}

#[test]
fn in_process_thinlto_and_a_modpost_that_knows_no_native_objects() {
    let built = Built::configured("CONFIG_LTO_CLANG_THIN=y\n");
    built.tree.shell(
        "sed -i 's/^savedcmd_vmlinux.o := [^ ]*/& --thinlto-cache-dir=.cache/' .vmlinux.o.cmd",
    );
    good(built.relink(&[]));
    let listed = fs::read_to_string(built.path(".vmlinux.objs")).unwrap();
    assert_holds(&listed, &["kernel/head.o\n", "lib/w1.o\n"]);
    assert!(!listed.contains("thinlto-native"), "{listed}");
    // The record that make compares says that the archive is not make's.
    assert_holds(
        &fs::read_to_string(built.path(".vmlinux.a.cmd")).unwrap(),
        &["kthinlto build built-in.a lib/lib.a"],
    );
    fs::remove_file(built.path(".built-in-fixup.a.cmd")).unwrap();
    fs::remove_dir_all(built.path(".kthinlto")).unwrap();
    good(built.relink(&[]));
}

/// A record of the tree, with this text in the place of that.
fn change_record(built: &Built, target: &str, change: impl Fn(&str) -> String) {
    let name = format!(".{target}.cmd");
    let text = fs::read_to_string(built.path(&name)).unwrap();
    let changed = change(&text);
    assert_ne!(changed, text);
    built.tree.write_object(&name, &changed);
}

#[test]
fn what_is_linked_is_asked_of_the_record_and_not_of_a_makefile() {
    // Linux 6.15 to 6.17 name it by a variable.
    let built = Built::new();
    let makefile = "vmlinux-final := vmlinux.unstripped\n$(vmlinux-final): x\nvmlinux: y\n";
    fs::write(built.tree.sources.join("scripts/Makefile.vmlinux"), makefile).unwrap();
    good(built.relink(&[]));
    assert_same(&built.results(), &built.by_hand());
}

#[test]
fn archives_of_a_backport_are_read() {
    let built = Built::configured("CONFIG_LTO_CLANG_THIN=y\n");
    change_record(&built, "built-in-fixup.a", |text| {
        text.replace("cDPrST", "cDPrS --thin").replace("built-in-fixup.a", "vmlinux.a")
    });
    fs::rename(built.path(".built-in-fixup.a.cmd"), built.path(".vmlinux.a.cmd")).unwrap();
    good(built.relink(&[]));
}

#[test]
fn a_tree_whose_initcalls_kthinlto_wrote_for_make_is_relinked() {
    let built = Built::new();
    let command = "kthinlto initcalls -o .tmp_initcalls.lds vmlinux.a";
    built.tree.write_object(
        "..tmp_initcalls.lds.cmd",
        &format!("savedcmd_.tmp_initcalls.lds := {command}\n"),
    );
    good(built.relink(&[]));
    assert_same(&built.results(), &built.by_hand());
}

#[test]
fn debians_date_is_used_where_the_tree_knows_it() {
    let built = Built::new();
    let dated = || {
        let mut command = built.relink(&[]);
        command.env("KBUILD_BUILD_VERSION_TIMESTAMP", "Debian 7.3.4-1");
        good(command);
        String::from_utf8_lossy(&fs::read(built.path("vmlinux")).unwrap()).into_owned()
    };
    assert!(dated().contains("#1 SMP today"));
    assert_same(&built.results(), &built.by_hand());
    let makefile = built.tree.sources.join("init/Makefile");
    let text = fs::read_to_string(&makefile).unwrap();
    let known = "build-timestamp = $(or $(KBUILD_BUILD_VERSION_TIMESTAMP), $(x))\n";
    fs::write(&makefile, text + known).unwrap();
    assert!(dated().contains("#1 SMP Debian 7.3.4-1"));
}

#[test]
fn a_copy_of_a_tree_without_its_times_is_relinked_where_contents_were_known() {
    let built = Built::new();
    // The last of the copied is the oldest, as far as times go.
    let copied = || {
        built.tree.shell(
            "find . -name '*.cmd' -exec touch -d '-1 hour' {} + ; find . -name '*.o' -exec touch {} +",
        );
    };
    copied();
    let pieces = [
        "newer than init/.main.o.cmd",
        "other objects newer than theirs, as in a copy of a tree that did not keep its times",
        "`cp -a`, or run `make vmlinux` there once",
    ];
    fails(built.relink(&[]), 3, &pieces);
    built.tree.shell("find . -name '*.cmd' -exec touch {} +");
    good(built.relink(&[]));
    // From then on contents decide: one object is another, and was made by make.
    copied();
    built.tree.edit("lib/w1", "int worker1(int x) { return x + 5; }\n");
    good(built.relink(&[]));
    assert_same(&built.results(), &built.by_hand());
    // Or it was not.
    copied();
    built.tree.edit("lib/w1", "int worker1(int x) { return x + 6; }\n");
    built.tree.shell("touch -d '+1 hour' lib/w1.o");
    fails(built.relink(&[]), 3, &["lib/w1.o", "newer than lib/.w1.o.cmd", "make lib/w1.o"]);
}

#[test]
fn a_frame_that_only_a_backend_sees_is_the_warning_that_the_linker_gives() {
    let source = "int worker1(int x) { volatile char a[500]; a[x] = 1; return a[0]; }\n";
    let flags = "-Werror -Wframe-larger-than=100";
    let with = |mode: &str| {
        let built = Built::configured(mode);
        built.tree.edit("lib/w1", source);
        built.tree.compile("lib/w1", flags);
        built
    };
    for executor in ["process", "fork-server"] {
        let built = with("CONFIG_LTO_CLANG_THIN=y\n");
        let mut command = built.relink(&["-v"]);
        let out = command.env("KTHINLTO_EXECUTOR", executor).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert_holds(&text(&out.stderr), &["warning: ", "stack frame size", "worker1"]);
        assert_holds(&text(&out.stdout), &["lib/w1.o -Wno-error\n"]);
    }
    // Mainline's own mode of distributed backends fails, and so does this.
    let built = with("CONFIG_LTO_CLANG_THIN_DIST=y\n");
    let out = bad(built.relink(&[]), 1, "the backend of lib/w1.o failed");
    assert_holds(&text(&out.stderr), &["error: ", "stack frame size"]);
}

#[test]
fn where_only_make_all_was_run_the_modules_are_left_out() {
    let built = Built::new();
    let record = fs::read_to_string(built.path(".vmlinux.symvers.cmd")).unwrap();
    fs::remove_file(built.path(".vmlinux.symvers.cmd")).unwrap();
    let all = record.replace("-o vmlinux.symvers", "-o Module.symvers -T modules.order");
    built
        .tree
        .write_object(".Module.symvers.cmd", &all.replace("savedcmd_vmlinux", "savedcmd_Module"));
    good(built.relink(&[]));
    assert!(built.path("vmlinux.symvers").is_file() && !built.path("Module.symvers").exists());
}

#[test]
fn a_step_that_fails_leaves_the_old_kernel() {
    let built = Built::new();
    good(built.relink(&[]));
    let before = built.results();
    built.tree.edit("lib/w1", "int worker1(int x) { return x; }\n");
    built.tree.write_object("fail-objtool", "");
    let out =
        bad(built.relink(&[]), 1, "relinking stopped at vmlinux.o: its command exited with 1");
    assert_holds(&text(&out.stderr), &["objtool: no good"]);
    assert_same(&built.results(), &before);
    built.assert_nothing_aside();
    fs::remove_file(built.path("fail-objtool")).unwrap();
    // A program that says that all is well and writes nothing.
    let modpost = fs::read_to_string(built.path("scripts/mod/modpost")).unwrap();
    built.tree.write_object("scripts/mod/modpost", "#!/bin/sh\n");
    fails(built.relink(&[]), 1, &["stopped at vmlinux.symvers", "exited with 0", "is not there"]);
    built.tree.write_object("scripts/mod/modpost", &modpost);
    good(built.relink(&[]));
    assert_same(&built.results(), &built.by_hand());
}

#[test]
fn interrupted_at_each_step_and_run_again_it_makes_the_same_bytes() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let built = Built::new();
    good(built.relink(&[]));
    let vmlinux = |built: &Built| fs::read(built.path("vmlinux")).unwrap();
    let cases = [
        ("objtool", Signal::INT, Some(130)),
        ("modpost", Signal::TERM, Some(143)),
        ("link", Signal::INT, Some(130)),
        ("objtool", Signal::KILL, None),
        ("link", Signal::KILL, None),
    ];
    for (number, (step, signal, code)) in cases.into_iter().enumerate() {
        let before = vmlinux(&built);
        built.tree.edit("lib/w1", &format!("int worker1(int x) {{ return x + {number}; }}\n"));
        let hold = PathBuf::from(format!("{}.hold-{step}", built.pids().display()));
        fs::write(&hold, "").unwrap();
        let _ = fs::remove_file(built.pids());
        let running = Beside::start(built.relink(&[]));
        until("a step that holds", || {
            fs::read_to_string(built.pids()).is_ok_and(|t| t.ends_with('\n'))
        });
        running.signal(signal);
        assert_eq!(running.end().status.code(), code, "{step}");
        let pid = fs::read_to_string(built.pids()).unwrap();
        let held: i32 = pid.split_whitespace().next().unwrap().parse().unwrap();
        if code.is_none() {
            // Its parent could not end it.
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(held).unwrap(),
                Signal::KILL,
            );
        }
        assert_eq!(vmlinux(&built), before, "{step}: the old kernel is whole");
        fs::remove_file(&hold).unwrap();
        good(built.relink(&[]));
        assert_same(&built.results(), &built.by_hand());
        built.assert_nothing_aside();
    }
}

#[test]
fn a_tree_that_cannot_be_relinked_is_told_why() {
    let built = Built::new();
    let conf = fs::read_to_string(built.path("include/config/auto.conf")).unwrap();
    let with_conf = |conf: &str, code, pieces: &[&str]| {
        built.tree.write_object("include/config/auto.conf", conf);
        fails(built.relink(&[]), code, pieces);
    };
    with_conf(
        &conf.replace("CONFIG_CC_IS_CLANG=y", "CONFIG_CC_IS_GCC=y"),
        3,
        &["auto.conf", "other than clang", "make LLVM=1"],
    );
    with_conf("CONFIG_CC_IS_CLANG=y\n", 3, &["a kernel without LTO", "CONFIG_LTO_CLANG_THIN"]);
    with_conf(&conf.replace("THIN_DIST", "FULL"), 3, &["CONFIG_LTO_CLANG_FULL", "no thin link"]);
    fs::remove_file(built.path("include/config/auto.conf")).unwrap();
    fails(built.relink(&[]), 3, &["auto.conf", "no such file", "configure it with make"]);
    built.tree.write_object("include/config/auto.conf", &conf);

    let without = |name: &str, pieces: &[&str]| {
        let (path, aside) = (built.path(name), built.tree.dir().join("aside"));
        fs::rename(&path, &aside).unwrap();
        fails(built.relink(&[]), 3, pieces);
        fs::rename(&aside, &path).unwrap();
    };
    without(
        ".vmlinux.unstripped.cmd",
        &["how vmlinux.unstripped was made", "half built", "make vmlinux"],
    );
    without("..vmlinux.export.o.cmd", &["how .vmlinux.export.o was made", "half built"]);
    for host_tool in ["tools/objtool/objtool", "scripts/mod/modpost", "scripts/kallsyms"] {
        without(host_tool, &[host_tool, "no such program", "make prepare"]);
    }
    fs::rename(built.path("built-in.a"), built.tree.dir().join("b.a")).unwrap();
    without(".vmlinux.unstripped.cmd", &["never built, or was cleaned", "make vmlinux"]);
    fails(built.relink(&[]), 3, &["built-in.a"]);
    fs::rename(built.tree.dir().join("b.a"), built.path("built-in.a")).unwrap();

    let moved = built.tree.dir().join("elsewhere");
    fs::rename(&built.tree.sources, &moved).unwrap();
    fails(built.relink(&[]), 3, &["no kernel sources", "moved", "make vmlinux"]);
    fs::rename(&moved, &built.tree.sources).unwrap();

    built.tree.shell("touch -d '+1 hour' lib/w1.o");
    for _ in 0..2 {
        let pieces = ["lib/w1.o", "newer than lib/.w1.o.cmd", "remove it", "make lib/w1.o"];
        fails(built.relink(&[]), 3, &pieces);
    }
    assert!(built.results().is_empty(), "{:?}", built.results().keys());
    built.tree.shell("touch -d '-1 hour' lib/w1.o");
    good(built.relink(&[]));
    assert_same(&built.results(), &built.by_hand());
}

/// A modpost that writes the part of each module that a list names, from what the module says of itself.
const MODULES_MODPOST: &str = r#"#!/bin/sh
for word; do [ "$was" = -o ] && out=$word; [ "$was" = -T ] && list=$word; was=$word; done
echo 'char exported[] = "shared";' > .vmlinux.export.c.new
cmp -s .vmlinux.export.c.new .vmlinux.export.c || cp .vmlinux.export.c.new .vmlinux.export.c
rm .vmlinux.export.c.new
while read -r object; do
	echo "char of_$(basename "$object" .o)[] = \"$(strings "$object" | grep kept_name | head -1)\";" >new.mod.c
	cmp -s new.mod.c "${object%.o}.mod.c" || cp new.mod.c "${object%.o}.mod.c"
done <"$list"
rm -f new.mod.c
sha256sum $(cat "$list") >"$out"
"#;

/// Two modules that were built once: one of two parts, one of a part that has no bitcode any more.
fn with_modules() -> Built {
    let built = Built::new();
    let cflags = "--target=x86_64-linux-gnu -O2";
    let (cc, ld) = (&built.words.cc, &built.words.ld);
    built.tree.write_object("scripts/mod/modpost", MODULES_MODPOST);
    built.tree.edit("fs/two/a", "int b(int); int kept_name(int x) { return b(x) + 1; }\n");
    built.tree.edit("fs/two/b", "int b(int x) { return x * 3; }\n");
    built.tree.write_object("fs/two/two.mod", "fs/two/a.o\nfs/two/b.o\n");
    built.tree.write_object("modules.order", "fs/two/two.o\nfs/one.o\n");
    built.tree.write_object("module.lds", "SECTIONS { }\n");
    let mut records = vec![
        (
            "fs/two/two.o",
            format!(
                "{ld} {LDFLAGS} -r -o fs/two/two.o @fs/two/two.mod  ; ./tools/objtool/objtool --module fs/two/two.o"
            ),
        ),
        (
            "fs/one.o",
            format!(
                "{cc} {cflags} -c -o fs/one.o fs/one.c ; {ld} -r -o fs/.tmp_one.o fs/one.o; mv fs/.tmp_one.o fs/one.o"
            ),
        ),
        (
            "Module.symvers",
            " ./scripts/mod/modpost -M -m -o Module.symvers -T modules.order vmlinux.o".to_owned(),
        ),
    ];
    for (stem, object, source, module) in [
        ("fs/two/two", "fs/two/two.mod.o", "fs/two/two.mod.c", "fs/two/two.ko"),
        ("fs/one", "fs/one.mod.o", "fs/one.mod.c", "fs/one.ko"),
    ] {
        // Both may run at the same time, as in the kernel.
        let own = object.replace('/', "-");
        records.push((object, format!("{cc} -Wp,-MMD,fs/.{own}.d {cflags} -c -o {object} {source} ; {ld} {LDFLAGS} -r -o fs/.tmp_{own} {object}; mv fs/.tmp_{own} {object}")));
        records.push((module, format!("{ld} -r {LDFLAGS} --build-id=sha1  -T module.lds -o {module} {stem}.o {object} .module-common.o")));
    }
    for (target, command) in &records {
        let (folder, base) = target.rsplit_once('/').unwrap_or((".", target));
        let text = format!("savedcmd_{target} := {command}\n");
        built.tree.write_object(&format!("{folder}/.{base}.cmd"), &text);
    }
    built.tree.shell(&format!(
        "echo 'int one(int x) {{ return x; }}' >fs/one.c; {cc} {cflags} -c -o fs/one.o fs/one.c; \
         echo 'char common[] = \"c\";' | {cc} {cflags} -xc -c -o .module-common.o -"
    ));
    good(built.relink(&[]));
    built
}

/// The recorded commands after the objects, by a shell.
fn kos_by_hand(built: &Built) -> Vec<Vec<u8>> {
    kos_by_hand_and(built, "")
}

/// The same, with a command for each linked module `$t`.
fn kos_by_hand_and(built: &Built, then: &str) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    built.tree.shell(&format!("cp -a . {}", folder.path().display()));
    let script = format!(
        "PIDS=/nowhere; export PIDS; set -e
        for t in Module.symvers fs/two/two.mod.o fs/one.mod.o fs/two/two.ko fs/one.ko; do
          sh -ec \"$(sed -n 's/^savedcmd_[^ ]* := //p' $(dirname $t)/.$(basename $t).cmd)\"
          case $t in *.ko) {then} ;; esac
        done"
    );
    let shell = &mut std::process::Command::new("sh");
    let out = shell.args(["-c", &script]).current_dir(folder.path()).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    KOS.iter().map(|name| fs::read(folder.path().join(name)).unwrap()).collect()
}

const KOS: [&str; 4] = ["fs/two/two.ko", "fs/one.ko", "fs/two/two.mod.c", "Module.symvers"];

fn kos(built: &Built) -> Vec<Vec<u8>> {
    KOS.iter().map(|name| fs::read(built.path(name)).unwrap()).collect()
}

#[test]
fn modules_are_what_the_recorded_commands_make() {
    let built = with_modules();
    let vmlinux = built.results();
    let out = good(built.relink(&["--modules"]));
    let made = [
        "MODPOST Module.symvers",
        "CC [M] fs/two/two.mod.o",
        "LD [M] fs/two/two.ko",
        "LD [M] fs/one.ko",
    ];
    made.iter()
        .for_each(|step| assert!(steps(&out).iter().any(|line| line == step), "{step}: {out}"));
    assert_eq!(kos(&built), kos_by_hand(&built));
    assert_eq!(steps(&good(built.relink(&["--modules"]))), Vec::<String>::new());
    // One that is named, by one part.
    built.tree.edit("fs/two/b", "int b(int x) { return x * 4; }\n");
    let one = fs::metadata(built.path("fs/one.ko")).unwrap().modified().unwrap();
    // By this file make knows what modpost last saw.
    built.tree.write_object(".modules.thinlto", "");
    let out = good(built.relink(&["fs/two/two.ko"]));
    assert!(!built.path(".modules.thinlto").exists(), "make has to run modpost again");
    assert!(out.contains("LD [M]  fs/two/two.o"), "{out}");
    assert_eq!(steps(&out), ["MODPOST Module.symvers", "LD [M] fs/two/two.ko"]);
    assert_eq!(fs::metadata(built.path("fs/one.ko")).unwrap().modified().unwrap(), one);
    assert_eq!(kos(&built), kos_by_hand(&built));
    assert_same(&built.results(), &vmlinux);
    built.assert_nothing_aside();
}

#[test]
fn modules_that_cannot_be_linked_are_told_why() {
    let built = with_modules();
    fails(built.relink(&["fs/none.ko"]), 3, &["fs/none.o", "modules.order", "make modules"]);
    built.tree.write_object("modules.order", "fs/two/two.o\nfs/one.o\nfs/none.o\n");
    fails(
        built.relink(&["fs/none.ko"]),
        3,
        &["fs/none.mod.o", "no record of how it was made", "make modules"],
    );
    built.tree.write_object("modules.order", "fs/two/two.o\nfs/one.o\n");
    fs::remove_file(built.path("fs/two/.two.o.cmd")).unwrap();
    fails(built.relink(&["fs/two/two.ko"]), 3, &["fs/two/two.o", "no record of how it is made"]);
    bad(built.relink(&["--modules", "fs/one.ko"]), 2, "cannot be used with");
}

/// What stands in for pahole: says its version, or adds what it is told as a section to its last argument.
const PAHOLE: &str = r#"#!/bin/sh
[ "$1" != --version ] || { echo v1.24 && exit; }
for file; do :; done
{ echo "${*%"$file"}" && sha256sum <vmlinux; } >"$file.BTF"
"$LLVM_OBJCOPY" --add-section .BTF="$file.BTF" "$file"
rm "$file.BTF"
"#;
/// And for the kernel's script that runs it, in later kernels.
const GEN_BTF: &str = r#"set -e
[ "$1 $objtree $KBUILD_VERBOSE" = "--btf_base . " ]
echo "$PAHOLE_FLAGS; $RESOLVE_BTFIDS $RESOLVE_BTFIDS_FLAGS" >"$3.flags"
$OBJCOPY --add-section .flags="$3.flags" "$3"
rm "$3.flags"
LLVM_OBJCOPY=$OBJCOPY $PAHOLE "$2" "$3"
"#;

fn with_btf_in_modules() -> Built {
    let built = with_modules();
    built.add_btf();
    let conf = fs::read_to_string(built.path("include/config/auto.conf")).unwrap();
    let conf = conf + "CONFIG_DEBUG_INFO_BTF_MODULES=y\n";
    built.tree.write_object("include/config/auto.conf", &conf);
    built.tree.write_object("pahole", PAHOLE);
    built
}

fn relink_with_btf(built: &Built, more: &[&str]) -> std::process::Command {
    let mut command = built.relink(more);
    command.env("PAHOLE", "./pahole");
    command
}

fn check_btf_of_modules(built: &Built, by_hand: &str) {
    let linked = ["LD [M] fs/two/two.ko", "LD [M] fs/one.ko"];
    let relink = || steps(&good(relink_with_btf(built, &["--modules"])));
    let all = relink();
    linked.iter().for_each(|step| assert!(all.iter().any(|line| line == step), "{step}: {all:?}"));
    assert_eq!(kos(built), kos_by_hand_and(built, by_hand));
    assert_eq!(relink(), Vec::<String>::new());
    // Types refer to those of vmlinux, and pahole writes them.
    for change in ["echo >>vmlinux", "echo '# another one' >>pahole"] {
        built.tree.shell(change);
        let mut again = relink();
        again.sort();
        assert_eq!(again, ["LD [M] fs/one.ko", "LD [M] fs/two/two.ko"], "{change}");
        assert_eq!(kos(built), kos_by_hand_and(built, by_hand), "{change}");
    }
    built.assert_nothing_aside();
}

#[test]
fn modules_get_type_information_by_the_kernels_script() {
    let built = with_btf_in_modules();
    fs::write(built.tree.sources.join("scripts/gen-btf.sh"), GEN_BTF).unwrap();
    let (objcopy, sources) = (&built.words.objcopy, built.tree.srctree());
    let resolve = "./tools/bpf/resolve_btfids/resolve_btfids";
    let by_hand = format!(
        "objtree=. KBUILD_VERBOSE= OBJCOPY={objcopy} PAHOLE=$PWD/pahole PAHOLE_FLAGS=--lang_exclude=rust \
         RESOLVE_BTFIDS={resolve} RESOLVE_BTFIDS_FLAGS=--fatal_warnings \
         sh {sources}/scripts/gen-btf.sh --btf_base ./vmlinux $t"
    );
    check_btf_of_modules(&built, &by_hand);
    // A script that fails leaves the modules that were there.
    let before = kos(&built);
    fs::write(built.tree.sources.join("scripts/gen-btf.sh"), "exit 3\n").unwrap();
    fails(relink_with_btf(&built, &["--modules"]), 1, &[".ko", "exit"]);
    assert_eq!(kos(&built), before);
}

#[test]
fn modules_of_older_kernels_get_type_information_from_pahole() {
    let built = with_btf_in_modules();
    let objcopy = &built.words.objcopy;
    let by_hand = format!(
        "LLVM_OBJCOPY={objcopy} ./pahole -J --lang_exclude=rust --btf_base vmlinux $t; \
         ./tools/bpf/resolve_btfids/resolve_btfids -b vmlinux $t"
    );
    check_btf_of_modules(&built, &by_hand);
    fs::remove_file(built.path("vmlinux")).unwrap();
    fails(relink_with_btf(&built, &["--modules"]), 3, &["vmlinux", "BTF", "kthinlto relink"]);
}
