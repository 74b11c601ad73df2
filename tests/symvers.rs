//! `kthinlto symvers` on small trees: objects by clang's assembler, in the shapes that
//! kernels of 6.1 and of 6.5 and later give them. The comparison with modpost itself is
//! `tests/kernel/symvers`.

#![cfg(feature = "program")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use kthinlto::modpost::exports::{self, Export};
use proptest::prelude::*;

use common::{assert_holds, bad, fails, good, tool, warnings};
use serde_json::Value;
use tempfile::TempDir;

/// An export of Linux 6.5 and later.
fn export(name: &str, license: &str, namespace: &str) -> String {
    format!(
        ".section \".export_symbol\",\"a\"\n__export_symbol_{name}:\n.asciz \"{license}\"\n\
         .ascii \"{namespace}\\0\"\n.balign 8\n.quad {name}\n.text\n.globl {name}\n{name}: ret\n"
    )
}

/// An export of Linux 6.4 and earlier.
fn old_export(name: &str, gpl: &str, namespace: &str) -> String {
    format!(
        ".section \"__ksymtab_strings\",\"aMS\",%progbits,1\n__kstrtab_{name}: .asciz \"{name}\"\n\
         __kstrtabns_{name}: .asciz \"{namespace}\"\n.section \"___ksymtab{gpl}+{name}\",\"a\"\n\
         __ksymtab_{name}: .long {name}-.\n.text\n.globl {name}\n{name}: ret\n"
    )
}

/// A tree that has been built as far as modpost.
struct Tree(TempDir);

impl Tree {
    /// vmlinux.o from this assembly, and its objects with their `#SYMVER` lines.
    fn new(assembly: &str, records: &[(&str, &str)]) -> Self {
        let tree = Tree(tempfile::tempdir().unwrap());
        tree.write("include/config/auto.conf", "CONFIG_MODULES=y\nCONFIG_MODVERSIONS=y\n");
        tree.assemble("vmlinux.o", assembly);
        tree.write(".vmlinux.objs", "");
        for (object, lines) in records {
            tree.record(object, lines);
            let list = tree.read(".vmlinux.objs");
            tree.write(".vmlinux.objs", format!("{list}{object}\n"));
        }
        tree
    }

    /// Three symbols, from a native object, from C with no LTO and from assembly.
    fn usual() -> Self {
        let exports =
            [export("second", "GPL", "NS"), export("first", "", ""), export("third", "", "")];
        Tree::new(
            &exports.concat(),
            &[
                ("kernel/a.thinlto-native.o", "#SYMVER first 0x00000001\n#SYMVER trimmed 0x9\n"),
                ("kernel/../lib/b.o", "#SYMVER second 0xfffffff2\n"),
                ("lib/asm.o", "#SYMVER third 3\n"),
            ],
        )
    }

    const USUAL: &str = "0xfffffff2\tsecond\tvmlinux\tEXPORT_SYMBOL_GPL\tNS\n\
                         0x00000001\tfirst\tvmlinux\tEXPORT_SYMBOL\t\n\
                         0x00000003\tthird\tvmlinux\tEXPORT_SYMBOL\t\n";

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    /// The `.cmd` file of the object that the front end made.
    fn record(&self, object: &str, lines: &str) {
        let front = object.replace(".thinlto-native.o", ".o");
        let (folder, base) = front.rsplit_once('/').unwrap();
        fs::create_dir_all(self.0.path().join(folder)).unwrap();
        let text = format!("savedcmd_{front} := clang -c\n\ndeps_{front} := \\\n\n{lines}");
        self.write(&format!("{folder}/.{base}.cmd"), text);
    }

    fn assemble(&self, name: &str, assembly: &str) {
        self.assemble_for("x86_64", name, assembly);
    }

    fn assemble_for(&self, machine: &str, name: &str, assembly: &str) {
        self.write("in.S", assembly);
        let mut command = Command::new(tool("clang"));
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        command.arg(format!("--target={machine}-linux-gnu")).args(["-c", "-o"]).arg(path);
        good({
            command.arg(self.0.path().join("in.S"));
            command
        });
    }

    /// A module with its list and one object's record.
    fn module(&self, name: &str, assembly: &str, lines: &str) {
        self.assemble(&format!("{name}.o"), assembly);
        self.write(&format!("{name}.mod"), format!("{name}-core.o\n"));
        self.record(&format!("{name}-core.o"), lines);
    }

    fn symvers(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kthinlto"));
        command.args(["symvers", "-C"]).arg(self.0.path()).args(arguments);
        for name in ["MAKEFLAGS", "MAKELEVEL", "KBUILD_VERBOSE", "quiet", "srctree"] {
            command.env_remove(name);
        }
        command
    }

    /// Writes vmlinux.symvers; returns it.
    fn made(&self) -> String {
        good(self.symvers(&[]));
        self.read("vmlinux.symvers")
    }

    /// The names that `--check` gives, which must fail.
    fn differences(&self) -> Vec<String> {
        let out = bad(self.symvers(&["--check"]), 8, "disagrees with the objects");
        let text = common::text(&out.stdout);
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }
}

#[test]
fn lines_are_modposts_in_its_order() {
    let tree = Tree::usual();
    assert_eq!(tree.made(), Tree::USUAL);
    assert_eq!(good(tree.symvers(&["-o", "-"])), Tree::USUAL);
    good(tree.symvers(&["--check"]));
}

#[test]
fn under_make_q_and_t_no_line_is_written() {
    let tree = Tree::usual();
    let place = tree.0.path().join("vmlinux.symvers");
    let ends = |letter, code| {
        let mut command = tree.symvers(&[]);
        command.env("MAKEFLAGS", letter);
        assert_eq!(command.output().unwrap().status.code(), Some(code), "make -{letter}");
    };
    ends("q", 1);
    assert!(!place.exists());
    ends("t", 0);
    assert_eq!(fs::read(&place).unwrap(), b"");
    assert_eq!(tree.made(), Tree::USUAL);
    ends("q", 0);
}

#[test]
fn exports_of_older_kernels_come_in_the_order_of_symbols() {
    let exports = [old_export("b", "_gpl", "NS"), old_export("a", "", "")];
    let tree = Tree::new(&exports.concat(), &[("k/a.o", "#SYMVER a 0xa\n#SYMVER b 0xb\n")]);
    let want =
        "0x0000000b\tb\tvmlinux\tEXPORT_SYMBOL_GPL\tNS\n0x0000000a\ta\tvmlinux\tEXPORT_SYMBOL\t\n";
    assert_eq!(tree.made(), want);
    // They were trimmed when they were compiled.
    tree.write(
        "include/config/auto.conf",
        "CONFIG_MODULES=y\nCONFIG_MODVERSIONS=y\nCONFIG_TRIM_UNUSED_KSYMS=y\n",
    );
    tree.write("modules.order", "");
    assert_eq!(tree.made(), want);
}

#[test]
fn without_modversions_all_versions_are_zero() {
    let tree = Tree::usual();
    tree.write("include/config/auto.conf", "CONFIG_MODULES=y\n");
    fs::remove_file(tree.0.path().join(".vmlinux.objs")).unwrap();
    let made = tree.made();
    assert_eq!((made.lines().count(), made.matches("0x00000000\t").count()), (3, 3));
    good(tree.symvers(&["--check"]));
    tree.write("include/config/auto.conf", "CONFIG_64BIT=y\n");
    assert_eq!(tree.made(), "");
}

#[test]
fn modules_follow_vmlinux_and_have_their_own_versions() {
    let tree = Tree::usual();
    let exports = export("of_module", "GPL", "");
    tree.module("drv/m", &exports, "#SYMVER of_module 0x5\n#SYMVER first 0x6\n");
    tree.write("drv/n.o", "BC\u{c0}\u{de} bitcode");
    tree.write("drv/n.mod", "");
    tree.write("modules.order", "drv/n.o\ndrv/m.ko\n");
    good(tree.symvers(&["--modules"]));
    let line = "0x00000005\tof_module\tdrv/m\tEXPORT_SYMBOL_GPL\t\n";
    assert_eq!(tree.read("Module.symvers"), format!("{}{line}", Tree::USUAL));
    // Without modules, only vmlinux' part of the file is compared.
    good(tree.symvers(&["--check"]));
}

#[test]
fn unused_exports_are_trimmed() {
    let tree = Tree::usual();
    let conf = "CONFIG_MODULES=y\nCONFIG_MODVERSIONS=y\nCONFIG_TRIM_UNUSED_KSYMS=y\n";
    tree.write("include/config/auto.conf", conf);
    fails(tree.symvers(&[]), 3, &["modules.order", "no such file"]);
    tree.write("modules.order", "drv/m.o\n");
    tree.module("drv/m", ".quad second\n.weak third\n.quad third\n", "");
    assert_eq!(tree.made().lines().count(), 2);
    tree.module("drv/m", ".section \".no_trim_symbol\",\"a\"\n.asciz \"first\"\n", "");
    assert_holds(&tree.made(), &["\tfirst\t"]);
    tree.module("drv/m", "nop\n", "");
    assert_eq!(tree.made(), "");
    tree.write("include/config/auto.conf", format!("{conf}CONFIG_UNUSED_KSYMS_WHITELIST=\"wl\"\n"));
    tree.write("source/wl", "third\nunknown\n");
    assert_eq!(tree.made(), "0x00000003\tthird\tvmlinux\tEXPORT_SYMBOL\t\n");
}

#[test]
fn lost_versions_are_named_and_no_others() {
    let tree = Tree::usual();
    tree.made();
    tree.record("kernel/a.thinlto-native.o", "");
    tree.record("lib/asm.o", "#SYMVER third\n");
    assert_eq!(tree.differences(), ["first", "third"]);
    let out = tree.symvers(&[]).output().unwrap();
    assert!(out.status.success());
    let said = warnings(&out).join("\n");
    assert_holds(&said, &["'first'", "'third'", "lib/.asm.o.cmd: 1 broken"]);
    assert!(!said.contains("'second'"), "{said}");
    assert_holds(&tree.read("vmlinux.symvers"), &["0x00000000\tfirst\t"]);
    // The file says so as well now, but it is no good.
    assert_eq!(tree.differences(), ["first", "third"]);
}

#[test]
fn differences_are_told_to_people_and_to_scripts() {
    let tree = Tree::usual();
    let file = tree.made().replace("0x00000001", "0x00000007").replace("third", "extra");
    tree.write("vmlinux.symvers", file);
    assert_eq!(tree.differences(), ["first", "third", "extra"]);
    let out = bad(tree.symvers(&["--check", "--json"]), 8, "differences: 3");
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    let problems = json["problems"].as_array().unwrap();
    assert_eq!(problems[0]["problem"], "other-version");
    assert_eq!(problems[0]["file"], "0x00000007");
    assert_eq!(problems[1]["problem"], "missing");
    assert_eq!(problems[2]["symbol"], "extra");
    tree.write("vmlinux.symvers", "0x1\tfirst\n");
    fails(tree.symvers(&["--check"]), 3, &["vmlinux.symvers", "line 1 has fewer than five fields"]);
    fails(tree.symvers(&["--check", "-o", "none"]), 3, &["none", "no such file"]);
}

#[test]
fn a_full_standard_output_is_an_error_and_one_that_is_closed_is_none() {
    let tree = Tree::usual();
    for words in [&["-o", "-"][..], &["--json"]] {
        let mut full = tree.symvers(words);
        full.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
        fails(full, 5, &["cannot write standard output", "free some space"]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut closed = tree.symvers(words);
        closed.stdout(writer);
        good(closed);
    }
}

#[test]
fn json_has_every_symbol() {
    let tree = Tree::usual();
    tree.record("lib/asm.o", "");
    let json: Value = serde_json::from_str(&good(tree.symvers(&["--json"]))).unwrap();
    assert_eq!((&json["schema"], &json["version"]), (&"kthinlto-symvers".into(), &1.into()));
    let symbols = json["symbols"].as_array().unwrap();
    assert_eq!(symbols.len(), 3);
    assert_eq!(symbols[0]["version"], "0xfffffff2");
    assert_eq!(symbols[0]["namespace"], "NS");
    assert_eq!(symbols[2]["version"], Value::Null);
    assert!(!tree.0.path().join("vmlinux.symvers").exists());
}

#[test]
fn the_last_of_two_versions_counts() {
    let tree = Tree::usual();
    tree.record("lib/asm.o", "#SYMVER third 3\n#SYMVER first 0x8\n");
    let out = tree.symvers(&[]).output().unwrap();
    assert_holds(
        &warnings(&out).join("\n"),
        &["'first'", "0x00000001", "kernel/.a.o.cmd", "0x00000008", "lib/.asm.o.cmd"],
    );
    assert_holds(&tree.read("vmlinux.symvers"), &["0x00000008\tfirst\t"]);
}

#[test]
fn what_is_missing_is_named() {
    let tree = Tree::usual();
    fs::remove_file(tree.0.path().join("kernel/.a.o.cmd")).unwrap();
    fails(tree.symvers(&[]), 3, &["kernel/.a.o.cmd", "kernel/a.thinlto-native.o", ".vmlinux.objs"]);
    tree.write(".vmlinux.objs", "lib/libfoo.a\n");
    fails(tree.symvers(&[]), 3, &[".vmlinux.objs", "lib/libfoo.a", ".o"]);
    fs::remove_file(tree.0.path().join(".vmlinux.objs")).unwrap();
    fails(tree.symvers(&[]), 3, &[".vmlinux.objs", "no such file"]);
    fs::remove_file(tree.0.path().join("vmlinux.o")).unwrap();
    tree.write(".vmlinux.objs", "");
    fails(tree.symvers(&[]), 3, &["vmlinux.o", "no such file"]);
    fs::remove_dir_all(tree.0.path().join("include")).unwrap();
    fails(tree.symvers(&[]), 3, &["auto.conf", "-C"]);
}

#[test]
fn foreign_objects_are_refused() {
    let tree = Tree::usual();
    tree.made();
    for (content, says) in [
        (&b""[..], "not an ELF"),
        (b"BC\xc0\xde and more that is no ELF", "not an ELF"),
        (b"!<thin>\n and more", "not an ELF"),
        (b"\x7fELF\x07\x01\x01 and more that is ELF", "class 7"),
        (b"\x7fELF\x02\x01\x01 and more that is ELF", "corrupt"),
    ] {
        tree.write("vmlinux.o", content);
        fails(tree.symvers(&[]), 3, &["vmlinux.o", says]);
    }
    let mut command = Command::new(tool("ld.lld"));
    tree.assemble("vmlinux.o", ".globl _start\n_start: ret\n");
    command.current_dir(tree.0.path()).args(["-o", "linked", "vmlinux.o"]);
    good(command);
    fs::rename(tree.0.path().join("linked"), tree.0.path().join("vmlinux.o")).unwrap();
    fails(tree.symvers(&[]), 3, &["vmlinux.o", "not a relocatable object"]);
    assert_eq!(tree.read("vmlinux.symvers"), Tree::USUAL);
}

#[test]
fn a_truncated_object_never_gives_a_line() {
    let tree = Tree::usual();
    let path = tree.0.path().join("vmlinux.o");
    let whole = fs::read(&path).unwrap();
    for cut in (0..whole.len()).step_by(whole.len() / 40) {
        fs::write(&path, &whole[..cut]).unwrap();
        fails(tree.symvers(&["-o", "-"]), 3, &["vmlinux.o"]);
    }
}

#[test]
fn a_section_outside_of_its_file_is_named() {
    let tree = Tree::usual();
    let path = tree.0.path().join("vmlinux.o");
    let whole = fs::read(&path).unwrap();
    let headers = u64::from_le_bytes(whole[40..48].try_into().unwrap()) as usize;
    let count = usize::from(whole[60]);
    let mut named = 0;
    for section in 1..count {
        let mut bytes = whole.clone();
        let offset = headers + section * 64 + 24;
        bytes[offset..offset + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let sentence = fails(tree.symvers(&["-o", "-"]), 3, &["vmlinux.o"]);
        named += usize::from(sentence.contains(&format!("section {section} `")));
    }
    // But for the section that has the names.
    assert_eq!(named, count - 2);
}

#[test]
fn exports_that_modpost_refuses_are_refused() {
    let good_one = export("fine", "", "");
    for (assembly, says) in [
        (export("a", "MIT", ""), "'MIT' was given for 'a'"),
        (export("a", "", "").replace(".globl a\n", ""), "local symbol 'a'"),
        (export("a", "", "").replace("__export_symbol_a", "other"), "strange symbol 'other'"),
        (
            export("a", "", "").replace(".quad a", ".quad fine"),
            "refers to 'fine' where it exports 'a'",
        ),
        (
            export("a", "", "")
                + &export("a", "", "").replace("a: ret\n", "").replace("_a:", "_a.2:"),
            "exported twice",
        ),
        (old_export("b", "_other", ""), "'b', which is not exported"),
    ] {
        let all =
            if assembly.contains("__ksymtab") { assembly } else { good_one.clone() + &assembly };
        let tree = Tree::new(&all, &[]);
        fails(tree.symvers(&["-o", "-"]), 3, &["vmlinux.o", says]);
    }
}

#[test]
fn odd_symbols_are_warned_of() {
    let assembly = ".comm old,4\n".to_owned()
        + &export("a", "", "").replace(".text", ".section .init.text,\"ax\"");
    let tree = Tree::new(&assembly, &[("k/a.o", "#SYMVER a 0x1\n")]);
    let out = tree.symvers(&[]).output().unwrap();
    assert!(out.status.success());
    assert_holds(&warnings(&out).join("\n"), &["'old' is a COMMON symbol", "init symbol 'a'"]);
}

#[test]
fn objects_come_from_archives_without_ar() {
    let tree = Tree::usual();
    fs::remove_file(tree.0.path().join(".vmlinux.objs")).unwrap();
    let objects = ["kernel/a.thinlto-native.o", "lib/b.o", "lib/asm.o"];
    objects.iter().for_each(|object| tree.assemble(object, "nop\n"));
    let mut ar = Command::new(tool("llvm-ar"));
    good({
        ar.current_dir(tree.0.path()).args(["cDPrST", "vmlinux.a"]).args(objects);
        ar
    });
    let mut listed = Command::new(tool("llvm-ar"));
    listed.current_dir(tree.0.path()).args(["t", "vmlinux.a"]);
    good(tree.symvers(&["vmlinux.a"]));
    assert_eq!(tree.read(".vmlinux.objs"), good(listed));
    assert_eq!(tree.read("vmlinux.symvers"), Tree::USUAL);
    good(tree.symvers(&["vmlinux.a", "--any-modpost"]));
    assert_eq!(tree.read(".vmlinux.objs"), "kernel/a.o\nlib/b.o\nlib/asm.o\n");
    assert_eq!(tree.made(), Tree::USUAL);
}

#[test]
fn a_file_that_is_right_is_left_alone() {
    let tree = Tree::usual();
    tree.made();
    let path = tree.0.path().join("vmlinux.symvers");
    let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let before = modified(&path);
    tree.made();
    assert_eq!(modified(&path), before);
    fs::write(&path, "old").unwrap();
    good(tree.symvers(&["-n"]));
    assert_eq!(tree.read("vmlinux.symvers"), "old");
    assert_eq!(tree.made(), Tree::USUAL);
}

#[test]
fn objects_of_other_machines_are_read() {
    let tree = Tree::usual();
    let want = [("a", true, "NS"), ("b", false, "")].map(|(name, gpl_only, namespace)| Export {
        name: name.to_owned(),
        gpl_only,
        namespace: namespace.to_owned(),
    });
    let new = export("a", "GPL", "NS") + &export("b", "", "");
    let old = old_export("a", "_gpl", "NS") + &old_export("b", "", "");
    // Both byte orders, both classes, relocations with and without addends.
    for machine in ["x86_64", "i386", "s390x", "powerpc64", "mips", "mips64", "mips64el", "aarch64"]
    {
        for assembly in [&new, &old] {
            let word = if matches!(machine, "i386" | "mips") { ".long" } else { ".quad" };
            let assembly = assembly.replace(": ret", ": .long 0").replace(".quad", word);
            tree.assemble_for(machine, "other.o", &assembly);
            let bytes = fs::read(tree.0.path().join("other.o")).unwrap();
            let object = exports::read(&bytes[..]).unwrap().unwrap();
            assert_eq!(
                (&object.errors[..], &object.exports[..]),
                (&[][..], &want[..]),
                "{machine}"
            );
        }
    }
}

#[test]
fn changed_bytes_of_an_object_are_survived() {
    let tree = Tree::usual();
    let whole = fs::read(tree.0.path().join("vmlinux.o")).unwrap();
    let size = whole.len();
    proptest!(|(changes in prop::collection::vec((0..size, any::<u8>()), 1..4))| {
        let mut bytes = whole.clone();
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        if let Ok(Some(object)) = exports::read(&bytes[..]) {
            prop_assert!(object.exports.len() <= size);
        }
    });
}
