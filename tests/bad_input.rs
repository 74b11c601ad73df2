//! Bad input of every kind: one sentence that says what, on which file, and what to do, the
//! documented exit code, and the outputs of an earlier build left whole.

#![cfg(feature = "program")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{Tree, assert_holds, assert_same, bad, fails, good, sentences, text, tool, warnings};

/// What a stand-in for clang does to be quick: any ELF object is good enough here.
const COPY: &str = "cp kernel/head.o $out";

/// A tree that was built once.
struct Built {
    tree: Tree,
    cc: String,
    before: BTreeMap<String, Vec<u8>>,
}

impl Built {
    fn new() -> Self {
        let tree = Tree::new();
        let cc = tree.compiler("cc", COPY);
        let mut built = Built { tree, cc, before: BTreeMap::new() };
        good(built.command());
        built.before = built.tree.outputs();
        built
    }

    fn command(&self) -> Command {
        let mut command = self.tree.kthinlto();
        command.env("CC", &self.cc);
        command
    }

    fn with_archives(&self, archives: &[&str]) -> Command {
        let mut command = self.tree.bare(&["build"]);
        command.args(archives).env("CC", &self.cc);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tree.objects.join(name)
    }

    fn assert_whole(&self) {
        assert_same(&self.tree.outputs(), &self.before);
        assert_eq!(self.tree.shell("find . -name '.tmp_*'"), "");
    }

    /// A build that fails with one sentence; everything is as it was after it.
    fn fails(&self, command: Command, code: i32, pieces: &[&str]) -> String {
        let sentence = fails(command, code, pieces);
        self.assert_whole();
        sentence
    }

    /// Puts other bytes in a file while `then` runs.
    fn with_file(&self, name: &str, bytes: impl AsRef<[u8]>, then: impl FnOnce()) {
        let path = self.path(name);
        let was = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        then();
        fs::write(&path, was).unwrap();
    }
}

#[test]
fn archives() {
    let built = Built::new();
    built.fails(built.with_archives(&[]), 2, &["no archive was given", "kbuild calls"]);
    let remade = "build it again with make";
    let fails = |pieces: &[&str]| {
        let all = [&["built-in.a", remade], pieces].concat();
        built.fails(built.command(), 3, &all);
    };
    let whole = fs::read(built.path("built-in.a")).unwrap();
    let path = built.path("built-in.a");
    fs::remove_file(&path).unwrap();
    let place = built.tree.objects.to_str().unwrap();
    built.fails(
        built.command(),
        3,
        &["built-in.a", "no such archive in", place, "build it with make", "-C"],
    );
    fs::create_dir(&path).unwrap();
    built.fails(built.command(), 3, &["built-in.a", "a folder", "archives that kbuild makes"]);
    fs::remove_dir(&path).unwrap();
    fs::write(&path, &whole).unwrap();
    built.with_file("built-in.a", "", || fails(&["an empty file"]));
    built.with_file("built-in.a", "\x7fELF and so on", || fails(&["not a thin archive"]));
    built.with_file("built-in.a", &whole[..whole.len() - 20], || fails(&["truncated"]));
    let garbage = [&whole[..whole.len() - 60], [b'x'; 60].as_slice()].concat();
    built.with_file("built-in.a", garbage, || fails(&["corrupt"]));
    built.with_file("built-in.a", &whole, || {
        built.tree.shell(&format!("rm built-in.a; {} cr built-in.a init/main.o", tool("llvm-ar")));
        fails(&["a regular archive", "thin ones"]);
    });
    fs::rename(built.path("kernel/b.o"), built.path("kernel/gone.o")).unwrap();
    fails(&["kernel/b.o does not exist, but is a member of"]);
    fs::rename(built.path("kernel/gone.o"), built.path("kernel/b.o")).unwrap();
    good(built.command());
    built.assert_whole();
}

#[test]
fn records() {
    let built = Built::new();
    let record = "kernel/.a.o.cmd";
    let remedy = "rebuild the object with make";
    // As kernels before 7.2 have it: flags from the command.
    let command = built.tree.shell(&format!("grep ^savedcmd_ {record}"));
    let other = command.replace("-o kernel/a.o", "-o kernel/other.o");
    let fails = |found: &str| {
        // The object has to be made again, else nothing is asked of its record.
        fs::remove_file(built.path("kernel/a.thinlto-native.o")).unwrap();
        let pieces = ["no recorded compiler flags", "kernel/a.o", record, found, remedy];
        fails(built.command(), 3, &pieces);
    };
    let native = fs::read(built.path("kernel/a.thinlto-native.o")).unwrap();
    for (text, found) in [
        ("", "no command"),
        ("# empty\n", "no command"),
        (other.as_str(), "a command that makes kernel/other.o"),
        ("savedcmd_kernel/a.o := clang -O2 'x -c -o kernel/a.o a.c\n", "an unclosed quote"),
        ("savedcmd_kernel/a.o := clang $$(x) -c -o kernel/a.o a.c\n", "a shell expansion"),
        ("savedcmd_kernel/a.o := ld -r -o kernel/a.o x.o\n", "does not compile"),
    ] {
        built.with_file(record, text, || fails(found));
        fs::write(built.path("kernel/a.thinlto-native.o"), &native).unwrap();
        built.assert_whole();
    }
    fs::remove_file(built.path(record)).unwrap();
    fails("no such file");
}

#[test]
fn bitcode_that_another_compiler_made() {
    let built = Built::new();
    let record = "kernel/.a.o.cmd";
    for (command, maker) in [
        ("OBJTREE=/o rustc --edition=2021 -Clinker-plugin-lto --emit=obj=kernel/a.o a.rs", "rustc"),
        ("llvm-link-22 kernel/x.o kernel/y.o -o kernel/a.o", "llvm-link"),
    ] {
        built.with_file(record, format!("savedcmd_kernel/a.o := {command}\n"), || {
            fs::remove_file(built.path("kernel/a.thinlto-native.o")).unwrap();
            let pieces =
                ["kernel/a.o", record, maker, "a native object", "CONFIG_LTO_CLANG_THIN, which"];
            let said = fails(built.command(), 3, &pieces);
            assert!(!said.contains("rebuild"), "that would change nothing: {said}");
        });
        good(built.command());
    }
}

#[test]
fn bitcode() {
    let mut built = Built::new();
    // It lists what it was given, and that is not what it was.
    built.before.remove("built-in-fixup.a");
    let whole = fs::read(built.path("kernel/a.o")).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2..].iter_mut().for_each(|byte| *byte ^= 0x5a);
    for bytes in [&whole[..whole.len() / 2], &whole[..5], &flipped, b"BC\xC0\xDE"] {
        built.with_file("kernel/a.o", bytes, || {
            let pieces = ["the thin link failed", "exited with 1", "its messages are above"];
            let out = bad(built.command(), 1, "kernel/a.o: ");
            assert_eq!(sentences(&out).len(), 1);
            assert_holds(&sentences(&out)[0], &pieces);
            let mut now = built.tree.outputs();
            now.remove("built-in-fixup.a");
            assert_same(&now, &built.before);
        });
    }
}

#[test]
fn tools() {
    let built = Built::new();
    let old_cc = built.tree.script("old-cc", "echo clang version 14.0.6");
    let old_ld = built.tree.script("old-ld", "echo LLD 14.0.6");
    let needs = "needs clang 15 or later";
    for (name, value, pieces) in [
        ("CC", "no-such-clang", vec!["cannot run CC `no-such-clang`", "no program"]),
        ("CC", "gcc", vec!["CC `gcc`", "gcc", needs]),
        ("CC", &old_cc, vec!["`clang version 14.0.6`", needs]),
        ("CC", "/etc/passwd", vec!["cannot run CC `/etc/passwd`"]),
        ("CC", "clang 'x", vec!["cannot run CC `clang 'x`", "quote"]),
        ("LD", "no-such-ld", vec!["cannot run LD `no-such-ld`", "no program"]),
        ("LD", "ld", vec!["LD `ld`", "GNU ld", "needs LLD 15 or later"]),
        ("LD", &old_ld, vec!["`LLD 14.0.6`", "needs LLD 15 or later"]),
    ] {
        let mut command = built.command();
        command.env(name, value);
        let remedy = format!("{name}=");
        built.fails(command, 4, &[&pieces[..], &[&remedy]].concat());
    }
    let mut command = built.command();
    command.env_remove("LD");
    built.fails(command, 2, &["LD is not set", "--ld"]);
}

#[test]
fn backends() {
    let built = Built::new();
    let quiet = "it printed nothing; V=1 shows the command";
    for (number, (body, found)) in [
        ("exit 7", vec!["exited with 7", quiet]),
        ("echo broken >&2; exit 1", vec!["exited with 1", "its messages are above"]),
        (
            "echo 'x: No space left on device' >&2; exit 1",
            vec!["the disk is full", "free some space"],
        ),
        ("kill -KILL $$", vec!["was killed by signal 9 (SIGKILL)", "memory", "fewer jobs"]),
        ("ulimit -c 0; kill -SEGV $$", vec!["was killed by signal 11 (SIGSEGV)", quiet]),
        (": > $out", vec!["exited with 0 but left an empty object", quiet]),
        ("echo hello > $out", vec!["exited with 0 but left a file that is not an ELF object"]),
        ("head -c 100 kernel/head.o > $out", vec!["exited with 0 but left a damaged ELF object"]),
        ("head -c -1 kernel/head.o > $out", vec!["exited with 0 but left a damaged ELF object"]),
        (":", vec!["exited with 0 but left no object", quiet]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut command = built.command();
        command.env("CC", built.tree.compiler(&format!("cc{number}"), body)).arg("-j1");
        let sentences = sentences(&bad(command, 1, ""));
        assert_eq!(sentences.len(), 2, "{sentences:?}");
        assert_holds(&sentences[0], &["the backend of ", ".o failed: `"]);
        assert_holds(&sentences[0], &found);
        let want = ["1 of 12 backends failed; vmlinux.a was not written", "run again"];
        assert_holds(&sentences[1], &want);
        built.assert_whole();
    }
}

#[test]
fn linkers() {
    let built = Built::new();
    let scratch = ".kthinlto/link/0";
    // The real one, and then something happens to what it wrote.
    let then = |what: &str| format!("{} \"$@\"\ncd {scratch} && {what}", tool("ld.lld"));
    let new_first = "echo x >> objects/init/main.o.thinlto.bc";
    let foreign = then("echo .kthinlto/link/0/objects/kernel/x.o >> vmlinux.thinlto-index");
    let empty = then(&format!("{new_first}; : > objects/lib/w5.o.thinlto.bc"));
    let gone = then(&format!("{new_first}; rm objects/lib/w5.o.thinlto.bc"));
    let no_imports = then(&format!("{new_first}; rm objects/lib/w5.o.imports"));
    let changed = then("echo >> ../../../kernel/a.o");
    let failed = "the thin link failed";
    let a = fs::read(built.path("kernel/a.o")).unwrap();
    for (number, (body, code, found)) in [
        ("exit 3", 1, vec![failed, "exited with 3", "it printed nothing"]),
        ("echo oh; exit 1", 1, vec![failed, "exited with 1", "its messages are above"]),
        ("kill -KILL $$", 1, vec![failed, "killed by signal 9 (SIGKILL)", "fewer jobs"]),
        ("exit 0", 3, vec!["vmlinux.thinlto-index", "did not write it", "messages"]),
        (&foreign, 3, vec!["kernel/x.o", "not a member of the archives", "linker's version"]),
        (&empty, 3, vec!["lib/w5.o.thinlto.bc", "an empty index", "free some space"]),
        (&gone, 3, vec!["lib/w5.o.thinlto.bc", "did not write it", "free some space"]),
        (&no_imports, 3, vec!["lib/w5.o.imports", "did not write it", "free some space"]),
        (&changed, 3, vec!["kernel/a.o", "changed while the linker read", "run again"]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut command = built.command();
        command.env("LD", built.tree.linker(&format!("ld{number}"), body));
        built.fails(command, code, &found);
        assert!(!built.path(".kthinlto/link").exists());
    }
    fs::write(built.path("kernel/a.o"), a).unwrap();
    good(built.command());
    built.assert_whole();
}

/// Objects that a build for this machine left, in one for another: as bitcode and as native objects.
#[test]
fn objects_of_the_host_in_a_cross_build() {
    let tree = Tree::new();
    let cross = |name: &str, target: &str, lto: &str| {
        let source = if name.ends_with("head.o") { "kernel/head.c" } else { "kernel/a.c" };
        tree.shell(&format!(
            "printf 'int of_%s;\\n' $(basename {name} .o) >{source}; \
             {} --target={target}-linux-gnu {lto} -c -o {name} {source}",
            tool("clang")
        ));
    };
    let thin = "-flto=thin -fsplit-lto-unit";
    let build = || {
        let mut command = tree.bare(&["build", "cross.a"]);
        command.env("KBUILD_LDFLAGS", "-EL -maarch64elf");
        command
    };
    tree.shell(&format!(
        "mkdir -p kernel; rm -f cross.a; {} cDPrST cross.a kernel/head.o kernel/a.o",
        tool("llvm-ar")
    ));
    for (head, object) in [("aarch64", "x86_64"), ("x86_64", "aarch64")] {
        cross("kernel/head.o", head, "");
        cross("kernel/a.o", object, thin);
        let foreign = if head == "x86_64" { "kernel/head.o" } else { "kernel/a.o" };
        let out = bad(build(), 1, &format!("{foreign} is incompatible with aarch64elf"));
        assert_eq!(sentences(&out).len(), 1);
        let pieces = ["the thin link failed", "of another architecture", "`make clean`"];
        assert_holds(&sentences(&out)[0], &pieces);
        assert!(!tree.objects.join("vmlinux.a").exists());
    }
}

#[test]
fn settings() {
    let built = Built::new();
    let mut command = built.command();
    command.env("srctree", "../no-such-tree");
    let list = "../no-such-tree/scripts/head-object-list.txt";
    built.fails(command, 3, &[list, "set srctree"]);
    let mut command = built.command();
    command.env("KBUILD_LDFLAGS", "-m 'elf_x86_64");
    built.fails(command, 2, &["KBUILD_LDFLAGS cannot be split into words", "quote"]);
    let command = built.tree.bare(&["build", "built-in.a", "--no-such-option"]);
    bad(command, 2, "--no-such-option");
    built.assert_whole();
}

#[test]
fn makeflags_of_any_kind() {
    use std::os::unix::ffi::OsStrExt;
    let built = Built::new();
    let odd: [&[u8]; 8] =
        [b"--", b"=", b"  ", b"- -j -jx -j-5", b"\t\n", b"V=n", b"\xff\xfe k", b" -jk=n"];
    for flags in odd {
        let mut command = built.command();
        command.env("MAKEFLAGS", std::ffi::OsStr::from_bytes(flags));
        let out = command.output().unwrap();
        assert!(out.status.success(), "{flags:?}: {}", text(&out.stderr));
        assert_eq!(text(&out.stderr), "", "{flags:?}");
        assert!(text(&out.stdout).contains("12 up to date"), "{flags:?}");
    }
}

#[test]
fn object_trees() {
    let mut built = Built::new();
    for place in ["no/such/folder", "/dev/null", "kernel"] {
        let mut command = built.command();
        command.args(["-C", place]);
        built.fails(command, 3, &["no such archive in", place, "-C"]);
    }
    let odd = built.tree.dir().join("an 'odd' $name; with \"all");
    fs::rename(&built.tree.objects, &odd).unwrap();
    let mut command = built.tree.bare(&["build", "built-in.a", "lib/lib.a", "-C"]);
    command.arg(odd.file_name().unwrap()).current_dir(built.tree.dir());
    fs::remove_file(odd.join("kernel/a.thinlto-native.o")).unwrap();
    good({
        command.env("CC", &built.cc);
        command
    });
    built.tree.objects = odd;
    built.assert_whole();
}

#[test]
fn inputs_that_change_while_a_backend_reads_them() {
    let built = Built::new();
    for (number, (object, input)) in [
        ("kernel/b.o", "kernel/b.o"),
        ("kernel/b.o", "kernel/a.o"),
        ("kernel/b.o", "kernel/b.o.thinlto.bc"),
        ("kernel/configs.o", "kernel/config_data.gz"),
    ]
    .into_iter()
    .enumerate()
    {
        let body = format!("{COPY}\n[ $object != {object} ] || echo >> {input}");
        let mut command = built.command();
        command.env("CC", built.tree.compiler(&format!("cc{number}"), &body)).arg("-j1");
        let was = fs::read(built.path(input)).unwrap();
        let sentences = sentences(&bad(command, 1, "1 of 12 backends failed"));
        fs::write(built.path(input), was).unwrap();
        assert_eq!(sentences.len(), 2, "{sentences:?}");
        let want = format!("{input} changed while the backend of {object} read it; run again");
        assert_eq!(sentences[0], want);
        built.assert_whole();
    }
}

#[test]
fn damaged_state() {
    let built = Built::new();
    let state = built.path(".kthinlto/state");
    let whole = fs::read(&state).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (bytes, says) in [
        (b"garbage".as_slice(), "from another version"),
        (b"kthinlto state 999\n and more", "from another version"),
        (&whole[..10], "from another version"),
        (&whole[..whole.len() - 3], "damaged"),
        (&whole[..whole.len() / 3], "damaged"),
        (&flipped, "damaged"),
    ] {
        fs::write(&state, bytes).unwrap();
        let out = built.command().output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let warnings = warnings(&out);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_holds(&warnings[0], &[".kthinlto/state", says]);
        built.assert_whole();
        let again = built.command().output().unwrap();
        assert_eq!(text(&again.stderr), "");
        assert_holds(&text(&again.stdout), &["12 up to date"]);
    }
    // No file where a file should be is nothing that a build can mend.
    fs::remove_dir_all(built.path(".kthinlto")).unwrap();
    fs::write(built.path(".kthinlto"), "").unwrap();
    built.fails(built.command(), 5, &["cannot make the folder", ".kthinlto"]);
}

/// A small file system in memory; only root can make one.
struct Small {
    place: PathBuf,
}

impl Small {
    /// Moves a tree's objects into one.
    fn holding(tree: &mut Tree) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can mount a file system");
            return None;
        }
        let place = tree.dir().join("small");
        fs::create_dir(&place).unwrap();
        let mount = format!("mount -t tmpfs -o size=8m none {0}; cp -a . {0}/obj", place.display());
        tree.shell(&mount);
        tree.objects = place.join("obj");
        Some(Small { place })
    }

    /// Leaves as many free pages.
    fn fill_but(&self, pages: u64) {
        self.empty();
        let found = rustix::fs::statvfs(&self.place).unwrap();
        let size = found.f_bavail.saturating_sub(pages) * found.f_frsize;
        fs::write(self.filler(), vec![0; size as usize]).unwrap();
    }

    fn empty(&self) {
        let _ = fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.place.join("filler")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

/// What a build on a full disk says and leaves; returns its exit code.
fn assert_full(tree: &Tree, out: &Output, want: &BTreeMap<String, Vec<u8>>) -> i32 {
    let sentences = sentences(out);
    let says = sentences.iter().any(|one| one.contains("free some space and run again"));
    assert!(says, "{}", text(&out.stderr));
    assert_eq!(tree.shell("find . -name '.tmp_*' -o -name link"), "");
    let archive = fs::read(tree.objects.join("vmlinux.a")).unwrap();
    assert!(archive == OLD || archive == want["vmlinux.a"], "neither old nor new");
    out.status.code().unwrap()
}

/// `vmlinux.a` of an earlier build.
const OLD: &[u8] = b"the old one";

#[test]
fn a_disk_that_is_full_from_the_start() {
    let mut tree = Tree::new();
    fs::write(tree.objects.join("vmlinux.a"), OLD).unwrap();
    let Some(small) = Small::holding(&mut tree) else {
        return;
    };
    let (want, mut codes) = (tree.want(), Vec::new());
    for pages in (0..).step_by(4) {
        small.fill_but(pages);
        let out = tree.kthinlto().output().unwrap();
        if out.status.success() {
            break;
        }
        codes.push(assert_full(&tree, &out, &want));
    }
    assert!(codes.contains(&1) && codes.contains(&5), "linker and we ourselves: {codes:?}");
    assert_same(&tree.outputs(), &want);
}

#[test]
fn a_disk_that_becomes_full() {
    for (name, when, code, says) in [
        ("ld", "before", 1, "the thin link failed"),
        ("cc", "before", 1, "the backend of kernel/b.o failed"),
        ("cc", "after", 5, "cannot write ./kernel/.b.thinlto-native.o.cmd"),
    ] {
        let mut tree = Tree::new();
        fs::write(tree.objects.join("vmlinux.a"), OLD).unwrap();
        let Some(small) = Small::holding(&mut tree) else {
            return;
        };
        let wanted = tree.dir().join("fill");
        // At one backend, and at the link, for which no object is set.
        let fill = |at: &str| {
            let this = format!("[ {at} = {name}-{when} -a ${{object-kernel/b.o}} = kernel/b.o ]");
            let (wanted, filler) = (wanted.display(), small.filler());
            let filler = filler.display();
            format!("if {this} && [ -e {wanted} ]; then cat /dev/zero > {filler} 2>/dev/null; fi")
        };
        let body = |name: &str, real: &str| {
            let (before, after) = (fill(&format!("{name}-before")), fill(&format!("{name}-after")));
            format!("{before}\n{} \"$@\" || exit\n{after}\ntrue", tool(real))
        };
        let (cc, ld) = (body("cc", "clang"), body("ld", "ld.lld"));
        let (cc, ld) = (tree.compiler("cc", &cc), tree.linker("ld", &ld));
        let build = || {
            let mut command = tree.kthinlto();
            command.env("CC", &cc).env("LD", &ld).arg("-j1");
            command
        };
        fs::write(&wanted, "").unwrap();
        assert_full(&tree, &bad(build(), code, says), &tree.want());
        fs::remove_file(&wanted).unwrap();
        small.empty();
        let again = build().output().unwrap();
        assert_eq!(text(&again.stderr), "", "nothing was left half-written");
        assert_same(&tree.outputs(), &tree.want());
    }
}

#[test]
fn a_full_disk_when_all_but_the_archive_is_made() {
    let mut tree = Tree::new();
    let Some(small) = Small::holding(&mut tree) else {
        return;
    };
    let cc = tree.compiler("cc", COPY);
    let build = || {
        let mut command = tree.kthinlto();
        command.env("CC", &cc);
        command
    };
    good(build());
    let mut before = tree.outputs();
    for name in ["vmlinux.a", "built-in-fixup.a", "builtin.order", "vmlinux.thinlto-index"] {
        fs::remove_file(tree.objects.join(name)).unwrap();
        let removed = before.remove(name).unwrap();
        small.fill_but(0);
        fails(build(), 5, &["cannot write", name, "free some space and run again"]);
        assert_same(&tree.outputs(), &before);
        small.empty();
        good(build());
        before.insert(name.to_owned(), removed);
        assert_same(&tree.outputs(), &before);
    }
}

#[test]
fn a_tree_that_cannot_be_written() {
    let mut tree = Tree::new();
    let small = Small::holding(&mut tree);
    let cc = tree.compiler("cc", COPY);
    let build = || {
        let mut command = tree.kthinlto();
        command.env("CC", &cc);
        command
    };
    // Modes do not stop root.
    let writable = |yes: bool| match (&small, yes) {
        (Some(small), true) => {
            tree.shell(&format!("mount -o remount,rw {}", small.place.display()))
        }
        (Some(small), false) => {
            tree.shell(&format!("mount -o remount,ro {}", small.place.display()))
        }
        (None, true) => tree.shell("chmod -R u+w ."),
        (None, false) => tree.shell("chmod -R a-w ."),
    };
    writable(false);
    fails(build(), 5, &[".kthinlto", "(O=)"]);
    writable(true);
    good(build());
    let before = tree.outputs();
    fs::remove_file(tree.objects.join("kernel/b.thinlto-native.o")).unwrap();
    writable(false);
    fails(build(), 5, &[".kthinlto", "(O=)"]);
    fails(tree.bare(&["clean"]), 5, &[".kthinlto", "(O=)"]);
    let mut dry = build();
    dry.arg("-n");
    assert_holds(&good(dry), &["kernel/b.thinlto-native.o"]);
    writable(true);
    good(build());
    assert_same(&tree.outputs(), &before);
}
