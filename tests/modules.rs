//! Loadable modules: their objects against the recorded commands run one after the other, with parts that
//! two modules share, of one part, and of assembly; what is run after each kind of change; records and
//! lists that cannot be used; runs that are killed.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Beside, LDFLAGS, Tree, bad, good, text, tool};
use rustix::process::Signal;

/// Changes an object in place, as objtool does.
const OBJTOOL: &str = "./tools/objtool/objtool --orc --module";

/// Parts by module; the last of all modules has one part only, which the front end made as the module.
const MODULES: [(&str, &[&str]); 3] = [
    ("fs/one/one", &["fs/one/a.o", "fs/one/b.o", "fs/shared.o"]),
    ("fs/two/two", &["fs/two/c.o", "fs/shared.o", "fs/two/asm.o"]),
    ("fs/single", &["fs/single.thinlto-bitcode.o"]),
];

/// A tree whose modules were compiled, and not linked yet.
struct Modules {
    tree: Tree,
}

impl Modules {
    fn new() -> Self {
        let tree = Tree::new();
        tree.shell("mkdir -p tools/objtool fs/one fs/two");
        let objcopy = tool("llvm-objcopy");
        let body = format!(
            "#!/bin/sh\nfor last; do :; done\necho seen >.note.$$\n\
             {objcopy} --add-section .seen=.note.$$ $last; rc=$?; rm -f .note.$$; exit $rc\n"
        );
        tree.write_object("tools/objtool/objtool", &body);
        tree.shell("chmod +x tools/objtool/objtool");
        let modules = Modules { tree };
        modules.source("fs/shared", "int shared_part(int x) { return x * 7; }");
        modules.source(
            "fs/one/a",
            "int shared_part(int); int b(int); int a(int x) { return b(shared_part(x)); }",
        );
        modules.source("fs/one/b", "int b(int x) { return x + 11; }");
        modules.source(
            "fs/two/c",
            "int shared_part(int); int c(int x) { return shared_part(x) + 1; }",
        );
        let cc = tool("clang");
        modules.tree.shell(&format!(
            "printf '.globl asm_part\\nasm_part: ret\\n' >fs/two/asm.S; \
             {cc} --target=x86_64-linux-gnu -c -o fs/two/asm.o fs/two/asm.S; \
             echo 'savedcmd_fs/two/asm.o := {cc} -c -o fs/two/asm.o fs/two/asm.S' >fs/two/.asm.o.cmd"
        ));
        modules.single("int single(int x) { return x ^ 1; }");
        for (name, parts) in &MODULES[..2] {
            modules.tree.write_object(&format!("{name}.mod"), &(parts.join("\n") + "\n"));
            modules.record(name, LDFLAGS);
        }
        let order: String = MODULES.iter().map(|(name, _)| format!("{name}.o\n")).collect();
        modules.tree.write_object("modules.order", &order);
        modules
    }

    fn source(&self, name: &str, text: &str) {
        self.tree.edit(name, &format!("{text}\n"));
    }

    /// The one part of a module, as a kernel with our patches has it compiled.
    fn single(&self, text: &str) {
        self.source("fs/single", text);
        let ld = tool("ld.lld");
        let later = format!(
            " ; ln -f fs/single.o fs/single.thinlto-bitcode.o ; : {ld} {LDFLAGS} -r -o fs/single.o \
             fs/single.thinlto-bitcode.o ; : {OBJTOOL} fs/single.o"
        );
        let record = self.tree.objects.join("fs/.single.o.cmd");
        let old = fs::read_to_string(&record).unwrap();
        let (first, rest) = old.split_once('\n').unwrap();
        fs::write(&record, format!("{first}{later}\n{rest}")).unwrap();
        self.tree.shell("ln -f fs/single.o fs/single.thinlto-bitcode.o");
    }

    /// How make would link a module.
    fn record(&self, name: &str, flags: &str) {
        let (folder, base) = name.rsplit_once('/').unwrap();
        let ld = tool("ld.lld");
        let text = format!(
            "savedcmd_{name}.o := : {ld} {flags} -r -o {name}.o @{name}.mod  ; : {OBJTOOL} {name}.o\n"
        );
        self.tree.write_object(&format!("{folder}/.{base}.o.cmd"), &text);
    }

    /// `kthinlto modules`, as our patches call it.
    fn run(&self) -> Command {
        self.tree.bare(&["modules", "--digests", ".modules.thinlto", "modules.order", "-j2"])
    }

    fn build(&self) -> String {
        good(self.run())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.tree.objects.join(name)).unwrap()
    }

    fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        MODULES
            .iter()
            .map(|(name, _)| (format!("{name}.o"), self.bytes(&format!("{name}.o"))))
            .collect()
    }

    fn written(&self, name: &str) -> (i64, i64) {
        let found = fs::metadata(self.tree.objects.join(name)).unwrap();
        (found.mtime(), found.mtime_nsec())
    }

    /// The objects, made by a shell from the same parts, and the commands as they are in the records.
    fn by_hand(&self) -> BTreeMap<String, Vec<u8>> {
        let (cc, ld) = (tool("clang"), tool("ld.lld"));
        let mut made = BTreeMap::new();
        for (name, parts) in MODULES {
            let script = format!(
                "rm -rf ../hand; mkdir ../hand
                 {ld} {LDFLAGS} -r --thinlto-index-only=../hand/list '--thinlto-prefix-replace=;../hand/' {parts}
                 for o in {parts}; do
                   n=../hand/$(basename $o)
                   if grep -Fqx ../hand/$o ../hand/list; then
                     record=$(dirname $o)/.$(basename $o .thinlto-bitcode.o | sed 's/\\.o$//').o.cmd
                     flags=$(sed -n '/saved_c_flags_/s/.*:= //p' $record)
                     eval \"{cc} $flags -x ir -fno-lto -Wno-unused-command-line-argument \
                           -fthinlto-index=../hand/$o.thinlto.bc -c -o $n $o\"
                   else cp $o $n; fi
                   echo $n >>../hand/natives
                 done
                 {ld} {LDFLAGS} -r -o ../hand/made.o @../hand/natives
                 {OBJTOOL} ../hand/made.o",
                parts = parts.join(" ")
            );
            self.tree.shell(&script);
            made.insert(format!("{name}.o"), self.bytes("../hand/made.o"));
        }
        made
    }
}

/// What was linked or compiled, from kbuild's short lines.
fn lines(out: &str) -> Vec<String> {
    out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn linked(out: &str) -> Vec<String> {
    let found = lines(out).into_iter();
    let mut found: Vec<String> =
        found.filter_map(|line| line.strip_prefix("LD [M] ").map(str::to_owned)).collect();
    found.sort();
    found
}

#[test]
fn objects_of_modules_are_what_their_commands_make_one_after_the_other() {
    let modules = Modules::new();
    let out = modules.build();
    assert_eq!(linked(&out), ["fs/one/one.o", "fs/single.o", "fs/two/two.o"], "{out}");
    common::assert_same(&modules.objects(), &modules.by_hand());
    let shared = ["fs/shared.one.thinlto-native.o", "fs/shared.two.thinlto-native.o"];
    shared.iter().for_each(|name| assert!(!modules.bytes(name).is_empty()));
    let digests = text(&modules.bytes(".modules.thinlto"));
    assert_eq!(digests.lines().count(), 3, "{digests}");
    let before = modules.written(".modules.thinlto");
    for _ in 0..2 {
        let out = modules.build();
        assert!(linked(&out).is_empty() && !out.contains("CC"), "{out}");
    }
    assert_eq!(modules.written(".modules.thinlto"), before);
    // What was looked at by the quick way counts as well.
    fs::remove_file(modules.tree.objects.join(".modules.thinlto")).unwrap();
    modules.build();
    assert_eq!(text(&modules.bytes(".modules.thinlto")), digests);
}

#[test]
fn an_edit_links_the_modules_that_have_the_part_and_no_others() {
    let modules = Modules::new();
    modules.build();
    let two = modules.written("fs/two/two.o");
    modules.source("fs/one/b", "int b(int x) { return x + 12; }");
    let out = modules.build();
    assert_eq!(linked(&out), ["fs/one/one.o"], "{out}");
    assert_eq!(modules.written("fs/two/two.o"), two);
    common::assert_same(&modules.objects(), &modules.by_hand());
    modules.source("fs/shared", "int shared_part(int x) { return x * 9; }");
    assert_eq!(linked(&modules.build()), ["fs/one/one.o", "fs/two/two.o"]);
    modules.single("int single(int x) { return x ^ 2; }");
    assert_eq!(linked(&modules.build()), ["fs/single.o"]);
    common::assert_same(&modules.objects(), &modules.by_hand());
    // The front end made the same again, over the module's object.
    modules.single("int single(int x) { return x ^ 2; }");
    let out = modules.build();
    assert!(!out.contains("CC"), "{out}");
    assert_eq!(linked(&out), ["fs/single.o"]);
    common::assert_same(&modules.objects(), &modules.by_hand());
}

/// Make without kthinlto, or relink, has linked a module in another way and run modpost on it: make has to
/// run it again when the object is back, though the object itself is the one that was there before.
#[test]
fn modpost_runs_again_when_an_object_of_others_was_in_between() {
    let modules = Modules::new();
    modules.build();
    let (digests, objects) = (modules.bytes(".modules.thinlto"), modules.objects());
    for name in ["fs/one/one.o", "fs/single.o"] {
        let before = modules.written(".modules.thinlto");
        fs::write(modules.tree.objects.join(name), "linked in another way").unwrap();
        modules.build();
        common::assert_same(&modules.objects(), &objects);
        assert_eq!(modules.bytes(".modules.thinlto"), digests);
        assert_ne!(modules.written(".modules.thinlto"), before, "{name}");
    }
    // Also where the run in between ended without an end.
    let before = modules.written(".modules.thinlto");
    fs::write(modules.tree.objects.join("fs/two/two.o"), "not an object").unwrap();
    modules.tree.shell("mv tools/objtool/objtool aside");
    assert!(!modules.run().output().unwrap().status.success());
    modules.tree.shell("mv aside tools/objtool/objtool");
    modules.build();
    assert_ne!(modules.written(".modules.thinlto"), before);
    common::assert_same(&modules.objects(), &objects);
}

#[test]
fn tools_flags_and_order_count_and_a_record_changes_the_digests_alone() {
    let modules = Modules::new();
    // Of a run with nothing to do, the next one knows what it looked at.
    (0..3).for_each(|_| drop(modules.build()));
    let tool_text = text(&modules.bytes("tools/objtool/objtool"));
    modules.tree.write_object("tools/objtool/objtool", &tool_text.replace("echo seen", "echo new"));
    let out = modules.build();
    assert_eq!(linked(&out).len(), 3, "{out}");
    assert!(!out.contains("CC"), "{out}");
    common::assert_same(&modules.objects(), &modules.by_hand());

    modules.record("fs/one/one", &format!("{LDFLAGS} -z nognustack"));
    let out = modules.build();
    assert_eq!(linked(&out), ["fs/one/one.o"], "{out}");
    // A file that a flag names counts by its content.
    modules.tree.write_object("fs/one/one.lds", "SECTIONS { }\n");
    modules.record("fs/one/one", &format!("{LDFLAGS} -T fs/one/one.lds"));
    (0..3).for_each(|_| drop(modules.build()));
    modules.tree.write_object("fs/one/one.lds", "SECTIONS { .kept : { *(.text) } }\n");
    assert_eq!(linked(&modules.build()), ["fs/one/one.o"]);
    modules.record("fs/one/one", LDFLAGS);
    modules.build();

    (0..2).for_each(|_| drop(modules.build()));
    modules.tree.write_object("fs/one/one.mod", "fs/shared.o\nfs/one/b.o\nfs/one/a.o\n");
    assert_eq!(linked(&modules.build()), ["fs/one/one.o"]);

    (0..2).for_each(|_| drop(modules.build()));
    let digests = modules.bytes(".modules.thinlto");
    let record = modules.tree.objects.join("fs/one/.a.o.cmd");
    let old = fs::read_to_string(&record).unwrap();
    fs::write(&record, old + "#SYMVER a 0x12345678\n").unwrap();
    assert!(linked(&modules.build()).is_empty());
    assert_ne!(modules.bytes(".modules.thinlto"), digests, "modpost reads versions there");
}

#[test]
fn one_module_or_a_folder_can_be_named() {
    let modules = Modules::new();
    assert_eq!(linked(&good(modules.tree.bare(&["modules", "fs/one/one.ko"]))), ["fs/one/one.o"]);
    modules.tree.write_object("fs/two/modules.order", "fs/two/two.o\n");
    assert_eq!(linked(&good(modules.tree.bare(&["modules", "fs/two/"]))), ["fs/two/two.o"]);
    assert_eq!(linked(&modules.build()), ["fs/single.o"]);
}

#[test]
fn what_make_has_finished_is_left_alone() {
    let modules = Modules::new();
    modules.tree.shell(
        "cp fs/two/asm.o fs/native.o; echo 'savedcmd_fs/native.o := clang -c -o fs/native.o n.S' >fs/.native.o.cmd; \
         echo fs/native.o >>modules.order",
    );
    let before = modules.bytes("fs/native.o");
    let out = modules.build();
    assert_eq!(linked(&out).len(), 3, "{out}");
    assert_eq!(modules.bytes("fs/native.o"), before);
    assert!(text(&modules.bytes(".modules.thinlto")).contains("fs/native.o"));
}

#[test]
fn a_source_that_changes_after_its_compile_is_still_newer_than_the_object_of_its_module() {
    let modules = Modules::new();
    modules.build();
    let source = modules.tree.sources.join("fs/single.c");
    let newer = |modules: &Modules| {
        let written = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        written(&source) > written(&modules.tree.objects.join("fs/single.o"))
    };
    assert!(!newer(&modules));
    modules.single("int single(int x) { return x ^ 3; }");
    std::thread::sleep(Duration::from_millis(20));
    fs::write(&source, "int single(int x) { return x ^ 4; }\n").unwrap();
    assert_eq!(linked(&modules.build()), ["fs/single.o"]);
    assert!(newer(&modules), "make has to compile it again");
    common::assert_same(&modules.objects(), &modules.by_hand());
    assert!(linked(&modules.build()).is_empty());
}

#[test]
fn objects_that_are_no_modules_and_folders_without_modules_are_passed_over() {
    let modules = Modules::new();
    modules.tree.shell(
        "echo \"savedcmd_vmlinux.o := ld.lld -r -o vmlinux.o --whole-archive x.a ; objtool vmlinux.o\" >.vmlinux.o.cmd; \
         cp fs/two/asm.o vmlinux.o; cp fs/two/asm.o fs/none.o; mkdir empty",
    );
    for name in ["vmlinux.o", "fs/none.o", "fs/one/a.o", "empty/"] {
        assert_eq!(good(modules.tree.bare(&["modules", name])), "", "{name}");
    }
    assert_eq!(good(modules.tree.bare(&["modules", "-n", "fs/new/new.o"])), "");
}

#[test]
fn a_dry_run_says_what_would_run_and_writes_nothing() {
    let modules = Modules::new();
    let mut dry = modules.run();
    dry.arg("-n");
    let before = modules
        .tree
        .shell("find . -path ./.kthinlto -prune -o -type f -printf '%p %s %T@\\n' | sort");
    good(dry);
    assert_eq!(
        modules
            .tree
            .shell("find . -path ./.kthinlto -prune -o -type f -printf '%p %s %T@\\n' | sort"),
        before
    );
    modules.build();
    modules.source("fs/one/b", "int b(int x) { return x + 13; }");
    let before = modules
        .tree
        .shell("find . -path ./.kthinlto -prune -o -type f -printf '%p %s %T@\\n' | sort");
    let mut dry = modules.run();
    dry.arg("-n");
    let out = good(dry);
    assert!(out.contains("--thinlto-index-only"), "{out}");
    assert_eq!(
        modules
            .tree
            .shell("find . -path ./.kthinlto -prune -o -type f -printf '%p %s %T@\\n' | sort"),
        before
    );
}

#[test]
fn what_cannot_be_used_is_one_sentence_and_leaves_the_objects() {
    let break_it: [(&str, &str, i32); 11] = [
        (
            "echo fs/two/two.o >>fs/one/one.mod",
            "it is the object of a module, and a part of fs/one/one",
            3,
        ),
        ("sed -i 's/-o fs.one.one.o/-o other.o/' fs/one/.one.o.cmd", "no link of fs/one/one.o", 3),
        (
            "echo fs/one/gone.o >>fs/one/one.mod",
            "fs/one/gone.o does not exist, but is a member of fs/one/one.o",
            3,
        ),
        ("rm fs/one/.a.o.cmd", "no recorded compiler flags for the bitcode object fs/one/a.o", 3),
        ("echo fs/one/one.o >>modules.order", "a second one of that name", 3),
        (": >fs/one/one.mod", "a module without a part", 3),
        ("rm fs/one/one.mod", "cannot use fs/one/one.mod: there is no such file", 3),
        ("rm fs/one/.one.o.cmd", "there is no record of how it is made", 3),
        (
            "sed -i 's/ld.lld/ld.other/' fs/one/.one.o.cmd",
            "its record has it linked by `ld.other",
            3,
        ),
        ("rm fs/single.thinlto-bitcode.o", "remove fs/single.o and build it again with make", 3),
        ("echo 'not a module' >>modules.order", "a name that is no module's object", 3),
    ];
    for (script, says, code) in break_it {
        let modules = Modules::new();
        modules.build();
        let before = modules.objects();
        let digests = modules.bytes(".modules.thinlto");
        modules.tree.shell(script);
        bad(modules.run(), code, says);
        common::assert_same(&modules.objects(), &before);
        assert_eq!(modules.bytes(".modules.thinlto"), digests, "{script}");
    }
}

/// Where a fork server of the linker runs the links, what follows a link is a job of its own.
#[test]
fn links_of_a_fork_server_make_the_same_objects() {
    let modules = Modules::new();
    let run = |executor: &str| {
        let mut command = modules.run();
        command.arg("--executor").arg(executor).env("KBUILD_VERBOSE", "1");
        good(command)
    };
    let by_server = |out: &str| out.contains("runs the links");
    let out = run("process");
    assert!(!by_server(&out), "{out}");
    let (want, by_hand) = (modules.objects(), modules.by_hand());
    common::assert_same(&want, &by_hand);
    let again = "rm -rf .kthinlto fs/one/one.o fs/two/two.o; find fs -name '*.thinlto*.o*' ! -name '*bitcode*' -delete";
    modules.tree.shell(again);
    let out = run("fork-server");
    assert!(by_server(&out) || !cfg!(target_arch = "x86_64"), "{out}");
    common::assert_same(&modules.objects(), &want);
    assert!(linked(&run("fork-server")).is_empty(), "nothing is left to do");
    // With three modules there is none unless it is asked for.
    modules.tree.shell(again);
    assert!(!by_server(&run("auto")));
}

#[test]
fn a_failed_link_leaves_the_old_object_and_does_not_keep_others_from_theirs() {
    for executor in ["process", "fork-server"] {
        let modules = Modules::new();
        modules.build();
        let before = modules.objects();
        let tool_text = text(&modules.bytes("tools/objtool/objtool"));
        let broken = tool_text.replace(
            "for last; do :; done",
            "for last; do :; done\ncase $last in *one*) echo no; exit 3;; esac",
        );
        modules.tree.write_object("tools/objtool/objtool", &broken);
        modules.source("fs/shared", "int shared_part(int x) { return x * 99; }");
        let mut run = modules.run();
        run.args(["-k", "--executor", executor]);
        bad(run, 1, "linking fs/one/one.o failed");
        assert_eq!(modules.bytes("fs/one/one.o"), before["fs/one/one.o"]);
        assert_ne!(modules.bytes("fs/two/two.o"), before["fs/two/two.o"]);
        assert!(!modules.tree.objects.join("fs/one/.tmp_one.o").exists());
        modules.tree.write_object("tools/objtool/objtool", &tool_text);
        modules.build();
        common::assert_same(&modules.objects(), &modules.by_hand());
    }
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_where_it_was() {
    let modules = Modules::new();
    let want = modules.by_hand();
    for moment in 0..50 {
        let mut run = modules.run();
        run.args(["--executor", ["auto", "fork-server"][moment as usize % 2]]);
        let started = Beside::start(run);
        std::thread::sleep(Duration::from_millis(4 * moment));
        started.signal(Signal::KILL);
        started.end();
        if moment % 10 == 9 {
            modules.build();
            common::assert_same(&modules.objects(), &want);
            modules.tree.shell("rm -rf .kthinlto fs/one/one.o fs/two/two.o; find fs -name '*.thinlto-native.o' -delete");
        }
    }
}

#[test]
fn parts_are_explained_verified_and_cleaned_like_any_object() {
    let modules = Modules::new();
    modules.tree.build();
    modules.build();
    let out = good(modules.tree.bare(&["explain", "fs/shared.o (two)"]));
    assert!(
        out.contains("would run      no") && out.contains("fs/shared.two.thinlto-native.o"),
        "{out}"
    );
    let out = good(modules.tree.bare(&["verify", "fs/one/b.o"]));
    assert!(!out.is_empty());
    good(modules.tree.bare(&["clean"]));
    let left = modules.tree.shell(
        "find . -name '*thinlto-native*' -o -name '*.thinlto.bc' -o -name '*.thinlto-order'",
    );
    assert_eq!(left, "");
    assert!(
        Path::new(&modules.tree.objects).join("fs/single.thinlto-bitcode.o").exists(),
        "make's own"
    );
}
