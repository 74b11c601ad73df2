//! `kthinlto relink` on a small tree with the records that kbuild leaves: the same bytes as the
//! recorded commands make one after the other, nothing done twice, nothing half-written, and one
//! sentence for each thing that can be wrong with the tree.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    Beside, LDFLAGS, Tree, assert_holds, assert_same, bad, fails, good, text, tool, until,
};
use rustix::process::Signal;

/// What a relink leaves.
const RESULTS: [&str; 10] = [
    ".tmp_initcalls.lds",
    ".vmlinux.objs",
    "vmlinux.o",
    "vmlinux.symvers",
    ".vmlinux.export.c",
    ".vmlinux.export.o",
    "vmlinux.unstripped",
    "System.map",
    "vmlinux",
    "modules.builtin",
];

/// Objects that need no front end: an initcall, and what names built-in modules.
const HEAD: &str = ".globl head\nhead: ret\n\
    .section \".initcall6.init..kmod_head__1_2_head6\",\"a\"\n\
    __initcall__kmod_head__1_2_head6: .long 0\n\
    .section .modinfo,\"a\"\n.asciz \"head.file=kernel/head\"\n";

/// A link of vmlinux in kbuild's shape: a first pass, a final one, and the map.
const LINK: &str = r#"#!/bin/sh
set -e
is_enabled() { grep -q "^$1=y" include/config/auto.conf; }
${MAKE} -f "${srctree}/scripts/Makefile.build" obj=init init/version-timestamp.o
[ ! -e "$PIDS.hold-link" ] || { echo half > "$4"; echo $$ $$ >> "$PIDS"; exec sleep 600; }
objs="vmlinux.o .vmlinux.export.o init/version-timestamp.o"
is_enabled CONFIG_KALLSYMS && scripts/kallsyms > .tmp_vmlinux0.kallsyms.S
${CC} ${KBUILD_AFLAGS} -c -o .tmp_vmlinux0.kallsyms.o .tmp_vmlinux0.kallsyms.S
echo "  LD      $4"
$1 $2 $3 -o "$4" --whole-archive ${objs} .tmp_vmlinux0.kallsyms.o
${NM} -n "$4" > System.map
echo "$4: $0" > ".$4.d"
"#;

/// Objtool and modpost, as far as it matters here: both write, and can be held or made to fail.
const OBJTOOL: &str = r#"#!/bin/sh
for out; do :; done
[ ! -e "$PIDS.hold-objtool" ] || { echo half > "$out"; echo $$ $$ >> "$PIDS"; exec sleep 600; }
[ ! -e fail-objtool ] || { echo "objtool: no good" >&2; exit 1; }
"#;
const MODPOST: &str = r#"#!/bin/sh
[ ! -e "$PIDS.hold-modpost" ] || { echo $$ $$ >> "$PIDS"; exec sleep 600; }
for word; do [ "$was" = -o ] && out=$word; was=$word; done
echo 'char exported[] = "shared";' > .vmlinux.export.c.new
cmp -s .vmlinux.export.c.new .vmlinux.export.c || cp .vmlinux.export.c.new .vmlinux.export.c
rm .vmlinux.export.c.new
grep -v "^$" .vmlinux.objs | sed 's/^/0x1 /' > "$out"
"#;

/// A tree that was built once, as its records say.
struct Built {
    tree: Tree,
}

impl Built {
    fn new() -> Self {
        Self::configured("CONFIG_LTO_CLANG_THIN_DIST=y\n")
    }

    fn configured(mode: &str) -> Self {
        let built = Built { tree: Tree::new() };
        let conf = format!(
            "CONFIG_CC_IS_CLANG=y\nCONFIG_LTO_CLANG=y\n{mode}CONFIG_MODULES=y\n\
             CONFIG_MODVERSIONS=y\nCONFIG_SMP=y\nCONFIG_KALLSYMS=y\n"
        );
        built.tree.write_object("include/config/auto.conf", &conf);
        built.tree.write_object("include/generated/utsversion.h", "#define UTS_VERSION \"\"\n");
        built.tree.write_object("arch/x86/kernel/vmlinux.lds", "SECTIONS { }\n");
        built.write_sources();
        built.tree.shell(&format!(
            "{} --target=x86_64-linux-gnu -c -o kernel/head.o {}/kernel/head.S",
            tool("clang"),
            built.tree.srctree()
        ));
        built.tree.archive();
        built.write_records();
        built
    }

    fn write_sources(&self) {
        let source = |name: &str, text: &str| {
            let path = self.tree.sources.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        source("kernel/head.S", HEAD);
        source("init/version-timestamp.c", "const char linux_banner[] = UTS_VERSION;\n");
        source("init/Makefile", "smp-flag-$(CONFIG_SMP)\t:= SMP\n");
        source(
            "scripts/Makefile.vmlinux",
            "vmlinux: vmlinux.unstripped FORCE\nvmlinux.unstripped: x\n",
        );
        source("scripts/generate_initcall_order.pl", "die;\n");
        source("scripts/link-vmlinux.sh", LINK);
        self.tree.shell(&format!("chmod +x {}/scripts/link-vmlinux.sh", self.tree.srctree()));
        for (name, text) in [
            ("tools/objtool/objtool", OBJTOOL),
            ("scripts/mod/modpost", MODPOST),
            ("scripts/kallsyms", "#!/bin/sh\necho '.globl kallsyms; kallsyms: .long 1'\n"),
        ] {
            self.tree.write_object(name, text);
            self.tree.shell(&format!("chmod +x {name}"));
        }
    }

    /// The commands that kbuild would have run, by target.
    fn commands(&self) -> Vec<(&'static str, String)> {
        let (cc, ld, objcopy) = (tool("clang"), tool("ld.lld"), tool("llvm-objcopy"));
        let src = self.tree.srctree();
        let cflags = "--target=x86_64-linux-gnu -O2 -D'A=\"vmlinux.o\"'";
        vec![
            ("built-in-fixup.a", format!("rm -f built-in-fixup.a; {0} cDPrST built-in-fixup.a built-in.a  lib/lib.a; {0} mPi x", tool("llvm-ar"))),
            (".tmp_initcalls.lds", format!("python3 {src}/scripts/jobserver-exec perl {src}/scripts/generate_initcall_order.pl vmlinux.a > .tmp_initcalls.lds")),
            ("vmlinux.o", format!("{ld} {LDFLAGS} -r -o vmlinux.o  -T .tmp_initcalls.lds --whole-archive vmlinux.a --no-whole-archive --start-group  --end-group  ; ./tools/objtool/objtool --link vmlinux.o")),
            ("vmlinux.symvers", " ./scripts/mod/modpost -M -m    -o vmlinux.symvers vmlinux.o".to_owned()),
            (".vmlinux.export.o", format!("{cc} -Wp,-MMD,./..vmlinux.export.o.d {cflags} -c -o .vmlinux.export.o .vmlinux.export.c  ; {ld} {LDFLAGS} -r -o ./.tmp_.vmlinux.export.o .vmlinux.export.o; mv ./.tmp_.vmlinux.export.o .vmlinux.export.o  ; ./tools/objtool/objtool --link  .vmlinux.export.o")),
            ("init/version-timestamp.o", format!("{cc} -Wp,-MMD,init/.version-timestamp.o.d -nostdinc -I{src}/arch/x86/include {cflags} -include include/generated/utsversion.h -c -o init/version-timestamp.o {src}/init/version-timestamp.c")),
            ("vmlinux.unstripped", format!("{src}/scripts/link-vmlinux.sh \"{ld}\" \"{LDFLAGS}\" \"-z max-page-size=0x200000 --build-id=sha1 -e head\" \"vmlinux.unstripped\";  true")),
            ("vmlinux", format!("{objcopy} --set-section-flags .modinfo=noload vmlinux.unstripped vmlinux; {objcopy} --remove-section=.modinfo vmlinux")),
            ("modules.builtin.modinfo", format!("{objcopy}  -j .modinfo -O binary vmlinux.unstripped modules.builtin.modinfo")),
            ("modules.builtin", "tr '\\0' '\\n' < modules.builtin.modinfo | sed -n 's/^[[:alnum:]:_]*\\.file=//p' | sed -e 's:^:kernel/:' -e 's/$/.ko/' > modules.builtin".to_owned()),
        ]
    }

    fn write_records(&self) {
        for (target, command) in self.commands() {
            let (folder, base) = target.rsplit_once('/').map_or((".", target), |both| both);
            let text = command.replace('$', "$$").replace('#', "$(pound)");
            self.tree.write_object(
                &format!("{folder}/.{base}.cmd"),
                &format!("savedcmd_{target} := {text}\n"),
            );
        }
    }

    /// The command under test; what holds writes its number into the file `pids`.
    fn relink(&self, more: &[&str]) -> Command {
        let mut command = self.tree.bare(&["relink"]);
        command.args(more).args(["-j2"]).env("PIDS", self.pids());
        command.env_remove("CC").env_remove("LD").env_remove("KBUILD_LDFLAGS");
        command.env("KBUILD_BUILD_VERSION", "1").env("KBUILD_BUILD_TIMESTAMP", "today");
        command
    }

    fn pids(&self) -> PathBuf {
        self.tree.dir().join("pids")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tree.objects.join(name)
    }

    /// What the recorded commands make in a copy of the tree, one after the other.
    fn by_hand(&self) -> BTreeMap<String, Vec<u8>> {
        let copy = tempfile::tempdir().unwrap();
        let ar = tool("llvm-ar");
        let mut script = format!(
            "cp -a {}/. .; rm -rf {}\necho '#define UTS_VERSION \"#1 SMP today\"' > include/generated/utsversion.h\n",
            self.tree.objects.display(),
            RESULTS.join(" ")
        );
        for (target, command) in self.commands() {
            match target {
                "built-in-fixup.a" => {} // the stage has tests of its own
                ".tmp_initcalls.lds" => {
                    let own = env!("CARGO_BIN_EXE_kthinlto");
                    script += &format!(
                        "{ar} t vmlinux.a > .vmlinux.objs\n{own} initcalls vmlinux.a > .tmp_initcalls.lds\n"
                    );
                }
                _ => script += &format!("{command}\n"),
            }
        }
        let mut command = Command::new("sh");
        command.args(["-ec", &script]).current_dir(copy.path()).env("PIDS", self.pids());
        command.env("CC", tool("clang")).env("NM", tool("llvm-nm")).env("MAKE", ":");
        command
            .env("KBUILD_AFLAGS", "--target=x86_64-linux-gnu")
            .env("srctree", self.tree.srctree());
        good(command);
        read_all(copy.path())
    }

    fn results(&self) -> BTreeMap<String, Vec<u8>> {
        read_all(&self.tree.objects)
    }

    fn assert_nothing_aside(&self) {
        assert_eq!(
            self.tree.shell("find . -name 'relink.*' -o -name '.tmp_*' ! -name .tmp_initcalls.lds"),
            ""
        );
    }
}

fn read_all(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: &&str| Some(((*name).to_owned(), fs::read(folder.join(name)).ok()?));
    RESULTS.iter().filter_map(read).collect()
}

/// The steps that a run printed, less those of the stage.
fn steps(out: &str) -> Vec<String> {
    let all = out.lines().skip_while(|line| !line.contains("THINLTO")).skip(1);
    all.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

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

/// Adds BTF to the configuration, and the files of the kernel that are for it. The link notes
/// what it would run in the file `pids.btf`.
fn with_btf(built: &Built) {
    let source = |name: &str, text: &str| fs::write(built.tree.sources.join(name), text).unwrap();
    source("scripts/Kbuild.include", "test-ge = $(if $(filter 124,$1),y)\n");
    source(
        "scripts/Makefile.btf",
        "JOBS := $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS)))\n\
         flags-$(call test-ge,$(CONFIG_PAHOLE_VERSION)) += --lang_exclude=rust\n\
         ifeq ($(KBUILD_BUILD_TIMESTAMP),)\nflags-y += -j$(JOBS)\nendif\n\
         export PAHOLE_FLAGS := $(flags-y)\n\
         export RESOLVE_BTFIDS_FLAGS := $(if $(KBUILD_VERBOSE),--verbose) --fatal_warnings\n",
    );
    let note = "echo \"$PAHOLE $PAHOLE_FLAGS\" > $PIDS.btf\n$RESOLVE_BTFIDS $RESOLVE_BTFIDS_FLAGS $KBUILD_CFLAGS >> $PIDS.btf\n";
    source("scripts/link-vmlinux.sh", &LINK.replace("objs=", &format!("{note}objs=")));
    let resolve = "tools/bpf/resolve_btfids/resolve_btfids";
    built.tree.write_object(resolve, "#!/bin/sh\necho resolve \"$@\"\n");
    built.tree.write_object("pahole", "#!/bin/sh\necho v1.24\n");
    built.tree.shell(&format!("chmod +x {resolve} pahole"));
    let conf = fs::read_to_string(built.path("include/config/auto.conf")).unwrap();
    built.tree.write_object(
        "include/config/auto.conf",
        &format!("{conf}CONFIG_DEBUG_INFO_BTF=y\nCONFIG_PAHOLE_VERSION=124\n"),
    );
}

#[test]
fn pahole_gets_the_flags_that_the_kernels_makefile_has_for_it() {
    let built = Built::new();
    with_btf(&built);
    let relink = || {
        let mut command = built.relink(&[]);
        command.env("PAHOLE", "./pahole").env("KBUILD_VERBOSE", "0").env("MAKEFLAGS", "k");
        command
    };
    let said = || fs::read_to_string(built.pids().with_extension("btf")).unwrap();
    good(relink());
    let resolve = "resolve --fatal_warnings --target=x86_64-linux-gnu\n";
    assert_eq!(said(), format!("./pahole --lang_exclude=rust\n{resolve}"));
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
fn pahole_that_is_missing_or_another_is_named_before_anything_is_run() {
    let built = Built::new();
    with_btf(&built);
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
