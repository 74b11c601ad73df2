//! `kthinlto initcalls` on small archives of objects by clang, native and bitcode, with the
//! names that kernels and nobody give to initcalls. Where a kernel's source is in the cache,
//! its own perl script must print the same; `tests/kernel/initcalls` has whole kernels.

#![cfg(feature = "program")]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kthinlto::initcalls::Initcall;
use proptest::prelude::*;
use tempfile::TempDir;

use common::{bad, fails, good, tool};

/// Assembly of an initcall as the kernel's `__define_initcall()` makes it: its section has
/// no level in its last part, its symbol has.
fn initcall(id: &str, level: &str) -> String {
    let section = if level == "con" { ".con_initcall.init" } else { ".initcall" };
    let rest = if level == "con" { String::new() } else { format!("{level}.init") };
    format!(
        ".section \"{section}{rest}..{id}\",\"a\"\n\"__initcall__{id}{level}\": .long 0\n.text\n"
    )
}

/// An object tree.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        Tree(tempfile::tempdir().unwrap())
    }

    /// Two folders and a library, in link order `init`, `drivers`, `lib`.
    fn usual() -> Self {
        let tree = Tree::new();
        let texts = [
            (
                "init/main.o",
                [initcall("kmod_main__12_9_last", "7"), initcall("kmod_main__9_80_first", "7")],
            ),
            (
                "drivers/tty.o",
                [
                    initcall("kmod_tty__1_2_tty_init", "con"),
                    initcall("kmod_tty__2_3_tty_late", "7s"),
                ],
            ),
            (
                "lib/lib.o",
                [
                    initcall("kmod_lib__100_1_rootfs", "rootfs"),
                    initcall("kmod_lib__20_1_e", "early"),
                ],
            ),
        ];
        for (name, text) in texts {
            tree.assemble(name, &text.concat());
        }
        tree.archive("cDPrST", "built-in.a", &["init/main.o", "drivers/tty.o"]);
        tree.archive("cDPrST", "lib/lib.a", &["lib/lib.o"]);
        tree
    }

    const USUAL: &str = "SECTIONS {\n\
        \t.initcall7.init : {\n\
        \t\t*(.initcall7.init..kmod_main__9_80_first) ;\n\
        \t\t*(.initcall7.init..kmod_main__12_9_last) ;\n\t}\n\
        \t.initcall7s.init : {\n\t\t*(.initcall7s.init..kmod_tty__2_3_tty_late) ;\n\t}\n\
        \t.con_initcall.init : {\n\t\t*(.con_initcall.init..kmod_tty__1_2_tty_init) ;\n\t}\n\
        \t.initcallearly.init : {\n\t\t*(.initcallearly.init..kmod_lib__20_1_e) ;\n\t}\n\
        \t.initcallrootfs.init : {\n\t\t*(.initcallrootfs.init..kmod_lib__100_1_rootfs) ;\n\t}\n}\n";

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    fn compile(&self, name: &str, language: &str, text: &str, flags: &[&str]) {
        let mut command = Command::new(tool("clang"));
        command.args(["-x", language, "-", "-c", "-o"]).arg(self.path(name));
        command
            .args(["--target=x86_64-linux-gnu", "-Wno-unused-command-line-argument", "-O2"])
            .args(flags)
            .stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{name}");
    }

    fn assemble(&self, name: &str, text: &str) {
        self.compile(name, "assembler", text, &[]);
    }

    /// The same from a source file, whose module-level assembly it is.
    fn compile_c(&self, name: &str, assembly: &str, flags: &[&str]) {
        let lines = assembly.lines().map(|line| format!("__asm__({line:?});\n"));
        self.compile(name, "c", &lines.chain(["int x;\n".to_owned()]).collect::<String>(), flags);
    }

    fn archive(&self, how: &str, archive: &str, members: &[&str]) {
        let mut command = Command::new(tool("llvm-ar"));
        command.current_dir(self.0.path()).args([how, archive]).args(members);
        good(command);
    }

    fn initcalls(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kthinlto"));
        command.args(["initcalls", "-C"]).arg(self.0.path()).args(arguments);
        for name in ["MAKEFLAGS", "MAKELEVEL", "KBUILD_VERBOSE", "quiet"] {
            command.env_remove(name);
        }
        command
    }

    /// What we print for these files. The kernel's script, if there is one, prints the same.
    fn script(&self, files: &[&str]) -> String {
        let ours = good(self.initcalls(&[&["-o", "-"], files].concat()));
        for perl in kernel_scripts() {
            let mut command = Command::new("perl");
            command.arg(&perl).args(files).env("NM", tool("llvm-nm")).env("objtree", self.0.path());
            assert_eq!(ours, good(command), "{}", perl.display());
        }
        ours
    }
}

/// `generate_initcall_order.pl` of the kernels that the scripts of this repository have fetched.
fn kernel_scripts() -> Vec<PathBuf> {
    let home = || Some(Path::new(&std::env::var_os("HOME")?).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let ours = std::env::var_os("KTHINLTO_DEV_CACHE").map(PathBuf::from);
    let Some(cache) = ours.or_else(|| Some(cache?.join("kthinlto"))) else {
        return Vec::new();
    };
    let trees = fs::read_dir(cache.join("src")).into_iter().flatten().flatten();
    let scripts = trees.map(|tree| tree.path().join("scripts/generate_initcall_order.pl"));
    scripts.filter(|script| script.is_file()).collect()
}

#[test]
fn initcalls_go_by_archive_then_member_then_counter() {
    let tree = Tree::usual();
    assert_eq!(tree.script(&["built-in.a", "lib/lib.a"]), Tree::USUAL);
    let objects = tree.script(&["lib/lib.o", "init/main.o", "drivers/tty.o"]);
    assert_eq!(objects, Tree::USUAL);
    tree.assemble("z.o", &initcall("kmod_z__1_1_z", "7"));
    tree.archive("cDPrST", "z.a", &["z.o"]);
    let before = tree.script(&["z.a", "built-in.a"]);
    assert!(before.find("_z)") < before.find("_first)"), "{before}");
    let after = tree.script(&["built-in.a", "z.a"]);
    assert!(after.find("_z)") > after.find("_last)"), "{after}");
}

#[test]
fn archives_that_hold_their_members_are_read() {
    let tree = Tree::usual();
    tree.archive("cDPrS", "all.a", &["init/main.o", "drivers/tty.o", "lib/lib.o"]);
    tree.archive("cDPrS", "none.a", &[]);
    assert_eq!(tree.script(&["none.a", "all.a"]), Tree::USUAL);
}

#[test]
fn bitcode_gives_what_its_native_object_gives() {
    let tree = Tree::new();
    let text = [
        initcall("kmod_core__31_7_b", "6"),
        initcall("kmod_core__4_99_a", "6s"),
        initcall("kmod_core__30_8_a", "6"),
    ]
    .concat();
    let kinds = [
        ("native", &[][..]),
        ("thin", &["-flto=thin"][..]),
        ("split", &["-flto=thin", "-fsplit-lto-unit", "-ffunction-sections"][..]),
        ("full", &["-flto"][..]),
    ];
    let scripts = kinds.map(|(name, flags)| {
        let object = format!("{name}.o");
        tree.compile_c(&object, &text, flags);
        tree.script(&[&object])
    });
    assert!(scripts[0].contains("30_8_a) ;\n\t\t*(.initcall6.init..kmod_core__31_7_b)"));
    assert!(scripts.iter().all(|script| *script == scripts[0]));
}

/// Where an architecture has no relative initcall entries, they are variables of C, and LTO
/// may give them another name.
#[test]
fn variables_of_c_are_initcalls_too() {
    let tree = Tree::new();
    let text = "static int f(void) { return 0; }\n\
        static int (*__initcall__kmod_v__5_6_f4)(void) __attribute__((used, section(\".initcall4.init..kmod_v__5_6_f\"))) = f;\n";
    for (name, flags) in [("native.o", &[][..]), ("thin.o", &["-flto=thin"])] {
        tree.compile(name, "c", text, flags);
        let script = tree.script(&[name]);
        assert!(script.contains("\t\t*(.initcall4.init..kmod_v__5_6_f) ;\n"), "{script}");
    }
    tree.assemble("renamed.o", &initcall("kmod_v__5_6_f4.llvm.123456789", ""));
    assert!(tree.script(&["renamed.o"]).contains(".initcall9.init..kmod_v__5_6_f4.llvm.12345678)"));
}

#[test]
fn odd_names_are_read_as_perl_reads_them() {
    let tree = Tree::new();
    let odd = [
        ("a__b__1_2__3_4_f", "0"), // the last counter
        ("__5_6_", "1"),           // nothing but a counter
        ("kmod_x__7_8_consolidate", "con"),
        ("kmod_x__9_8_cons", "early"),
        ("kmod_x__10_8_initrootfs", "rootfs"),
        ("kmod_x__011_8_7", "5s"),
        ("kmod_x__12_8_é$*;{", "2"),
        ("kmod_x__13_8_a b", "2"),
        ("kmod_x__14_8_", "rootfss"),
        ("kmod_x__99999999999999999999_8_big", "2"),
    ];
    let text: String = odd.iter().map(|(id, level)| initcall(id, level)).collect();
    let no_initcalls = "__initcall__kmod_x__1_f6: nop\n__initcall__nothing: nop\n\
        str__initcall__trace_system_name: nop\n.globl __initcall__kmod_g__1_2_g6\n\
        __initcall__kmod_g__1_2_g6: nop\n.quad __initcall__kmod_u__1_2_u6\n";
    tree.assemble("odd.o", &(text + no_initcalls));
    let script = tree.script(&["odd.o"]);
    assert_eq!(script.lines().filter(|line| line.contains("*(")).count(), odd.len(), "{script}");
    for piece in ["11_8_7) ", "14_8_) ", "..a__b__1_2__3_4_f) ", ".con_initcall.init..kmod_x__7"] {
        assert!(script.contains(piece), "no {piece} in {script}");
    }
    assert!(script.find("é$*;{)") < script.find("99_8_big"), "{script}");
}

/// nm shows `?` for what is in no loaded section, or in one that it knows nothing of.
#[test]
fn symbols_outside_of_loaded_sections_count_as_in_nm() {
    let tree = Tree::new();
    let at =
        |section: &str, n: u8| format!(".section {section}\n__initcall__k__{n}_1_f6: .long 0\n");
    let text = [
        at(".a,\"aw\"", 1),
        at(".b,\"aw\",@nobits", 2),
        at(".c,\"w\"", 3),
        at(".d,\"\"", 4),
        at(".debug_x,\"\"", 5),
        at(".e,\"ax\"", 6),
        ".set __initcall__k__7_1_f6, 42\n".to_owned(),
    ];
    tree.assemble("in.o", &text.concat());
    let script = tree.script(&["in.o"]);
    let there = |n: u8| script.contains(&format!("k__{n}_1_f"));
    assert_eq!(
        (1..=7).map(there).collect::<Vec<_>>(),
        [true, true, false, true, false, true, true]
    );
}

#[test]
fn the_script_is_written_beside_vmlinux_o_where_nothing_else_is_said() {
    let tree = Tree::usual();
    tree.archive("cDPrST", "vmlinux.a", &["init/main.o", "drivers/tty.o", "lib/lib.o"]);
    good(tree.initcalls(&[]));
    assert_eq!(fs::read_to_string(tree.path(".tmp_initcalls.lds")).unwrap(), Tree::USUAL);
    let said = good(tree.initcalls(&["-n", "-o", "other.lds"]));
    assert!(said.contains("kthinlto initcalls vmlinux.a"), "{said}");
    assert!(!tree.path("other.lds").exists());
}

#[test]
fn under_make_q_and_t_no_script_is_written() {
    let tree = Tree::usual();
    tree.archive("cDPrST", "vmlinux.a", &["init/main.o", "drivers/tty.o", "lib/lib.o"]);
    let script = tree.path(".tmp_initcalls.lds");
    let ends = |letter, code| {
        let mut command = tree.initcalls(&[]);
        command.env("MAKEFLAGS", letter);
        assert_eq!(command.output().unwrap().status.code(), Some(code), "make -{letter}");
    };
    ends("q", 1);
    assert!(!script.exists());
    ends("t", 0);
    assert_eq!(fs::read(&script).unwrap(), b"");
    good(tree.initcalls(&[]));
    ends("q", 0);
}

#[test]
fn what_cannot_be_read_gets_a_sentence_and_the_old_script_stays() {
    let tree = Tree::usual();
    tree.write(".tmp_initcalls.lds", "old");
    let whole = fs::read(tree.path("lib/lib.o")).unwrap();
    tree.compile_c("bitcode.o", &initcall("k__1_1_f", "6"), &["-flto=thin"]);
    let bitcode = fs::read(tree.path("bitcode.o")).unwrap();
    for (content, found) in [
        (&whole[..whole.len() - 70], "truncated or corrupt ELF"),
        (&whole[..40], "truncated or corrupt ELF"),
        (&bitcode[..bitcode.len() / 2], "bitcode"),
        (&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], "neither an ELF object nor bitcode"),
        (b"", "neither an ELF object nor bitcode"),
    ] {
        tree.write("lib/lib.o", content);
        fails(tree.initcalls(&["built-in.a", "lib/lib.a"]), 3, &["cannot use lib/lib.o", found]);
    }
    fs::remove_file(tree.path("lib/lib.o")).unwrap();
    fails(
        tree.initcalls(&["built-in.a", "lib/lib.a"]),
        3,
        &["lib/lib.o does not exist, but is a member of"],
    );
    fails(tree.initcalls(&["gone.a"]), 3, &["cannot use gone.a", "no such file"]);
    fails(tree.initcalls(&["drivers"]), 3, &["cannot use drivers", "a folder"]);
    tree.write("short", "!<th");
    fails(tree.initcalls(&["short"]), 3, &["cannot use short", "neither an archive nor an object"]);
    tree.archive("cDPrS", "all.a", &["init/main.o", "drivers/tty.o"]);
    let archive = fs::read(tree.path("all.a")).unwrap();
    tree.write("all.a", &archive[..archive.len() - 200]);
    fails(tree.initcalls(&["all.a"]), 3, &["cannot use all.a", "truncated"]);
    assert_eq!(fs::read_to_string(tree.path(".tmp_initcalls.lds")).unwrap(), "old");
}

/// Perl would go on, and the kernel would boot without one of them.
#[test]
fn an_initcall_that_would_be_lost_is_an_error() {
    let tree = Tree::new();
    tree.assemble("none.o", "ret\n");
    fails(tree.initcalls(&["none.o"]), 3, &["none.o", "no initcall"]);
    tree.assemble("level.o", &initcall("kmod_x__1_2_f", ""));
    fails(tree.initcalls(&["level.o"]), 3, &["level.o", "`__initcall__kmod_x__1_2_f`", "level"]);
    tree.assemble(
        "two.o",
        &[initcall("kmod_x__1_2_f", "6"), initcall("kmod_y__1_9_g", "7")].concat(),
    );
    fails(tree.initcalls(&["two.o"]), 3, &["two.o", "`kmod_x__1_2_f6` and `kmod_y__1_9_g7`"]);
}

#[test]
fn a_full_disk_is_named() {
    let tree = Tree::usual();
    let out = bad(tree.initcalls(&["-o", "/dev/full/x", "built-in.a"]), 5, "cannot write");
    assert!(out.stdout.is_empty());
}

/// What perl's own engine makes of symbols' names: `LEVEL ID COUNTER` for each.
fn by_perl(names: &[String]) -> Vec<Option<(String, String)>> {
    const PROGRAM: &str = r#"
        while (<STDIN>) {
            chomp;
            unless (/^__initcall__(\S*)__(\d+)_(\d+)_(.*)$/) { print "none\n"; next }
            my $id = "$1__$2_$3_";
            if ($4 =~ /^(.*)((?:early|rootfs|con|\d)s?)$/) { print "$2 ${1}_of_$id\n" } else { print "bad\n" }
        }"#;
    let mut perl = Command::new("perl")
        .args(["-e", &PROGRAM.replace("\"$1__$2_$3_\"", "$1 . '__' . $2 . '_' . $3 . '_'")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    perl.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = String::from_utf8(perl.wait_with_output().unwrap().stdout).unwrap();
    let line = |line: &str| match line {
        "none" => None,
        "bad" => Some((String::new(), String::new())),
        line => {
            let (level, rest) = line.split_once(' ').unwrap();
            let (function, id) = rest.rsplit_once("_of_").unwrap();
            Some((level.to_owned(), format!("{id}{function}")))
        }
    };
    out.split_terminator('\n').map(line).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn names_are_taken_apart_as_perl_does(
        names in prop::collection::vec(
            "__initcall__(kmod|_|__|0|7_|__1_2_|[a-c ]|s){0,4}(__[0-9]{1,2}_[0-9]_)?\
             (f|con|early|rootfs|s|_|[0-9]| |__3_4_){0,4}(early|rootfs|con|[0-9])?s{0,2}", 1..40)
    ) {
        let want = by_perl(&names);
        prop_assert_eq!(want.len(), names.len());
        for (name, want) in names.iter().zip(want) {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let got = match Initcall::parse(name.as_bytes()) {
                Ok(found) => found.map(|found| (text(found.level()), text(found.id()))),
                Err(_) => Some((String::new(), String::new())),
            };
            prop_assert_eq!(got, want, "{}", name);
        }
    }
}
