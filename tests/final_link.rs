//! The final link of `kthinlto relink` on a small tree: what the kernel's script is given, and who
//! links when.

#![cfg(feature = "program")]

#[path = "common/built.rs"]
mod built;
mod common;

use std::fs;

use built::{Built, steps};
use common::{assert_holds, assert_same, fails, good, text, tool};

/// Takes kallsyms out of the configuration, so that our own passes need none of its programs, and
/// lets the link make its map as the kernel's does.
fn that_we_can_link(built: &Built) {
    let conf = fs::read_to_string(built.path("include/config/auto.conf")).unwrap();
    let conf = conf.replace("CONFIG_KALLSYMS=y\n", "");
    built.tree.write_object("include/config/auto.conf", &conf);
    let source = |name: &str, text: &str| fs::write(built.tree.sources.join(name), text).unwrap();
    source("scripts/mksysmap", "#!/bin/sed -f\n/ [aNUw] /d\n/ \\.L/d\n");
    source(
        "scripts/link-vmlinux.sh",
        "#!/bin/sh
set -e
echo script >> $PIDS.who
${MAKE} -f \"${srctree}/scripts/Makefile.build\" obj=init init/version-timestamp.o
mksysmap() { ${NM} -n \"${1}\" | sed -f \"${srctree}/scripts/mksysmap\" > \"${2}\"; }
$1 $2 $3 --script=./$KBUILD_LDS -o \"$4\" --whole-archive vmlinux.o .vmlinux.export.o \\
	init/version-timestamp.o --no-whole-archive
mksysmap \"$4\" System.map
echo \"$4: $0\" > \".$4.d\"
",
    );
}

/// What kthinlto said to its users.
fn ours(said: &str) -> Vec<&str> {
    let is_ours =
        |line: &&str| line.starts_with("kthinlto: ") && !line.starts_with("kthinlto: debug: ");
    said.lines().filter(is_ours).collect()
}

#[test]
fn where_our_own_link_fails_the_script_does_it() {
    let built = Built::new();
    that_we_can_link(&built);
    let by_script = built.pids().with_extension("who");
    let relink = |number: u32, unforeseen: &str| {
        let layout = format!("SECTIONS {{ number = {number}; }}\n");
        built.tree.write_object("arch/x86/kernel/vmlinux.lds", &layout);
        let _ = fs::remove_file(&by_script);
        let mut command = built.relink(&[]);
        command.env("KTHINLTO_LOG", "debug").env("WARN_ON_UNUSED_TRACEPOINTS", unforeseen);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let script_ran = by_script.exists();
        assert_same(&built.results(), &built.by_hand());
        (text(&out.stderr), script_ran)
    };
    let (said, script_ran) = relink(1, "");
    assert_holds(&said, &["by the kernel's script, and compared"]);
    assert!(script_ran);
    let (said, script_ran) = relink(2, "");
    assert_holds(&said, &["by our own passes"]);
    assert!(ours(&said).is_empty() && !script_ran, "{said}");
    // Something that only the script knows of, and that nothing on record could foresee.
    let (said, script_ran) = relink(3, "1");
    assert_holds(&said, &["by our own passes"]);
    assert_holds(&ours(&said).concat(), &["rules that kthinlto does not know"]);
    assert!(script_ran);
    built.assert_nothing_aside();
}

#[test]
fn folders_of_headers_above_the_object_tree_are_found() {
    // As with `make O=build` in the sources, where kbuild names these `..`.
    let built = Built::new();
    built
        .tree
        .shell("mkdir ../above; echo '.globl kallsyms; kallsyms: .long 1' > ../above/tables.h");
    built.tree.write_object("scripts/kallsyms", "#!/bin/sh\necho '#include <tables.h>'\n");
    let source = format!("{}/kernel/head.S", built.tree.srctree());
    let command = format!(
        "{} --target=x86_64-linux-gnu -I../above -c -o kernel/head.o {source}",
        tool("clang")
    );
    built.tree.write_object(
        "kernel/.head.o.cmd",
        &format!("savedcmd_kernel/head.o := {command}\n\nsource_kernel/head.o := {source}\n"),
    );
    good(built.relink(&[]));
    let symbols = built.tree.shell(&format!("{} vmlinux.unstripped", tool("llvm-nm")));
    assert_holds(&symbols, &["kallsyms"]);
}

#[test]
fn pahole_gets_the_flags_that_the_kernels_makefile_has_for_it() {
    let built = Built::new();
    built.add_btf();
    let relink = || {
        let mut command = built.relink(&[]);
        command.env("PAHOLE", "./pahole").env("KBUILD_VERBOSE", "0").env("MAKEFLAGS", "k");
        command
    };
    let said = || fs::read_to_string(built.pids().with_extension("btf")).unwrap();
    good(relink());
    let resolve = "resolve --fatal_warnings --target=x86_64-linux-gnu\n";
    let pahole = built.path("pahole");
    assert_eq!(said(), format!("{} --lang_exclude=rust\n{resolve}", pahole.display()));
    assert_eq!(steps(&good(relink())), Vec::<String>::new());

    let mut command = relink();
    command.env_remove("KBUILD_BUILD_TIMESTAMP").env("KBUILD_BUILD_VERSION_TIMESTAMP", "today");
    assert!(steps(&good(command)).contains(&"LD vmlinux.unstripped".to_owned()));
    let flags = said();
    let threads = flags.split_once(" -j").unwrap().1.split('\n').next().unwrap();
    assert!((1..=2).contains(&threads.parse::<u32>().unwrap()), "{flags}");

    built.tree.shell("echo '# another one' >> pahole");
    assert!(steps(&good(relink())).contains(&"LD vmlinux.unstripped".to_owned()));
}

#[test]
fn a_dry_run_asks_neither_make_nor_pahole() {
    let built = Built::new();
    built.add_btf();
    let relink = |more: &[&str]| {
        let mut command = built.relink(more);
        command.env("PAHOLE", "./pahole");
        command
    };
    good(relink(&[]));
    let rule = built.tree.sources.join("scripts/Makefile.btf");
    let text_of = fs::read_to_string(&rule).unwrap();
    fs::write(rule, format!("{text_of}$(shell touch ran-make)\n")).unwrap();
    built.tree.write_object("pahole", "#!/bin/sh\ntouch ran-pahole; echo v1.24\n");
    let out = relink(&["-n"]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_holds(&text(&out.stderr), &["a dry run asks neither make nor pahole"]);
    assert_holds(&text(&out.stdout), &["LD      vmlinux.unstripped"]);
    assert_eq!(built.tree.shell("ls | grep ^ran || :"), "");
}

#[test]
fn pahole_that_is_missing_or_another_is_named_before_anything_is_run() {
    let built = Built::new();
    built.add_btf();
    let relink = |pahole: &str| {
        let mut command = built.relink(&[]);
        command.env("PAHOLE", pahole);
        command
    };
    fails(relink("no-such-pahole"), 4, &["PAHOLE `no-such-pahole`", "install it", "PAHOLE="]);
    fails(relink("true"), 4, &["PAHOLE `true`", "`--version` says `true"]);
    built.tree.shell("sed -i s/v1.24/v1.30/ pahole");
    let pieces = ["auto.conf", "pahole 124", "`./pahole` is 130", "make olddefconfig"];
    fails(relink("./pahole"), 3, &pieces);
    built.tree.shell("sed -i s/v1.30/v1.24/ pahole");
    built.tree.shell("rm tools/bpf/resolve_btfids/resolve_btfids");
    fails(relink("./pahole"), 3, &["resolve_btfids", "no such program", "make prepare"]);
    assert!(!built.path("vmlinux.a").exists());
}
