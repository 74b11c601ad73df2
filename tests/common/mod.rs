//! A small object tree in kbuild's shape, compiled by real clang, archived by real llvm-ar:
//! nested thin archives, `.cmd` files, a head object list, C that imports across modules,
//! an assembly file, and one module whose inline assembly includes a file.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// Flags of the thin link.
pub const LDFLAGS: &str = "-m elf_x86_64 -z noexecstack";
/// Flags of every compile that a backend reads too.
const CFLAGS: &str = "--target=x86_64-linux-gnu -O2 -fno-PIE -fno-lto -flto=thin -fsplit-lto-unit -fvisibility=hidden";

/// Finds `NAME-22`, then `NAME`: the suffix is Debian's.
pub fn tool(name: &str) -> String {
    let suffixed = format!("{name}-22");
    let found = Command::new(&suffixed).arg("--version").output().is_ok();
    if found { suffixed } else { name.to_owned() }
}

/// The modules of the tree: source text by path without its ending. `a` is inlined into all.
pub fn sources() -> BTreeMap<&'static str, String> {
    let mut sources = BTreeMap::from([
        (
            "init/main",
            "int shared(int); int use_b(int); int deep(int);\n\
          int start(int x) { return shared(x) + use_b(x) + deep(x); }\n"
                .to_owned(),
        ),
        ("kernel/a", "int shared(int x) { return x * 3 + 1; }\n".to_owned()),
        ("kernel/b", "int shared(int); int use_b(int x) { return shared(x) ^ 5; }\n".to_owned()),
        (
            "kernel/sub/deep",
            "int use_b(int); int deep(int x) { return use_b(x) - 7; }\n".to_owned(),
        ),
        (
            "kernel/configs",
            "__asm__(\".pushsection .rodata\\n.globl config_data\\nconfig_data:\\n\
          .incbin \\\"kernel/config_data.gz\\\"\\n.popsection\\n\");\n\
          extern char config_data; char *config(void) { return &config_data; }\n"
                .to_owned(),
        ),
        ("lib/alone", "int alone(int x) { return x + 42; }\n".to_owned()),
    ]);
    for n in 0..6 {
        let text =
            format!("int shared(int);\nint worker{n}(int x) {{ return shared(x + {n}); }}\n");
        sources.insert(["lib/w0", "lib/w1", "lib/w2", "lib/w3", "lib/w4", "lib/w5"][n], text);
    }
    sources
}

/// An object tree with its source tree.
pub struct Tree {
    dir: TempDir,
    /// Where objects are, and commands run.
    pub objects: PathBuf,
    /// Where sources are.
    pub sources: PathBuf,
}

/// A compiled tree (`obj`, `src`) and what mainline makes of it (`mainline`), for all test
/// programs to copy: compiling it takes longer than most tests. Its name says what it was
/// made from: this file and the tools.
fn template() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let mut made_from = DefaultHasher::new();
        include_str!("mod.rs").hash(&mut made_from);
        for name in ["clang", "ld.lld", "llvm-ar"] {
            let mut command = Command::new(tool(name));
            command.arg("--version");
            good(command).hash(&mut made_from);
        }
        let name = format!("tree-{:016x}", made_from.finish());
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if !place.exists() {
            make_template(&place);
        }
        place
    })
}

fn make_template(place: &Path) {
    let tree = Tree::laid_out(|dir| (dir.join("obj"), dir.join("src")));
    write(&tree.dir.path().join("path"), &tree.dir.path().to_string_lossy());
    for (name, bytes) in tree.mainline() {
        let path = tree.dir.path().join("mainline").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let aside = place.with_extension(std::process::id().to_string());
    copy_into(tree.dir.path(), &aside);
    // Where another test program was quicker, its own serves as well.
    if fs::rename(&aside, place).is_err() {
        fs::remove_dir_all(&aside).unwrap();
    }
}

fn copy_into(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let all = format!("{}/.", from.display());
    let done = Command::new("cp").args(["-a", &all]).arg(to).status().unwrap();
    assert!(done.success());
}

impl Tree {
    /// A tree with separate folders for objects and sources (`O=`).
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for part in ["obj", "src"] {
            copy_into(&template().join(part), &dir.path().join(part));
        }
        let tree = Tree { objects: dir.path().join("obj"), sources: dir.path().join("src"), dir };
        let was = fs::read_to_string(template().join("path")).unwrap();
        let now = tree.dir.path().display();
        tree.shell(&format!("find . -name '.*.cmd' -exec sed -i 's|{was}/|{now}/|g' {{}} +"));
        tree
    }

    /// What mainline makes of a new tree: quicker than [`mainline`](Self::mainline).
    pub fn want(&self) -> BTreeMap<String, Vec<u8>> {
        let (root, mut found) = (template().join("mainline"), BTreeMap::new());
        collect(&root, &root, &mut found);
        found
    }

    /// Builds a tree with objects beside their sources.
    pub fn in_tree() -> Self {
        Self::laid_out(|dir| (dir.join("linux"), dir.join("linux")))
    }

    fn laid_out(places: impl FnOnce(&Path) -> (PathBuf, PathBuf)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (objects, source_dir) = places(dir.path());
        let tree = Tree { dir, objects, sources: source_dir };
        tree.write_source("scripts/head-object-list.txt", "# Head objects\nkernel/head.o\n");
        tree.write_source("kernel/head.S", ".globl head\nhead: ret\n");
        for (name, text) in sources() {
            tree.write_source(&format!("{name}.c"), &text);
        }
        tree.write_object("kernel/config_data.gz", "CONFIG_A=y\n");
        for name in sources().keys() {
            tree.compile(name, "");
        }
        tree.assemble("kernel/head");
        tree.archive();
        tree
    }

    fn write_source(&self, name: &str, text: &str) {
        write(&self.sources.join(name), text);
    }

    /// Writes a file of the object tree.
    pub fn write_object(&self, name: &str, text: &str) {
        write(&self.objects.join(name), text);
    }

    /// The source tree as seen from the object tree.
    pub fn srctree(&self) -> String {
        self.sources.to_string_lossy().into_owned()
    }

    /// Replaces a source file and compiles it, as make would.
    pub fn edit(&self, name: &str, text: &str) {
        self.write_source(&format!("{name}.c"), text);
        self.compile(name, "");
        self.archive();
    }

    /// The front end: bitcode and its `.cmd` file, as kbuild of 7.2 and later writes it.
    pub fn compile(&self, name: &str, extra: &str) {
        self.compile_from(name, extra, &self.sources);
    }

    fn compile_from(&self, name: &str, extra: &str, sources: &Path) {
        let (cc, src) = (tool("clang"), sources.join(format!("{name}.c")));
        let flags = format!("{CFLAGS} {extra} -DKBUILD_MODFILE='\"{name}\"'");
        let (dir, base) = name.rsplit_once('/').unwrap();
        fs::create_dir_all(self.objects.join(dir)).unwrap();
        let command = format!(
            "{cc} -Wp,-MMD,{dir}/.{base}.o.d -nostdinc -I{0}/include -D__KERNEL__ {flags} -c -o {name}.o {1}",
            self.srctree(),
            src.display()
        );
        self.shell(&command);
        let record = format!(
            "savedcmd_{name}.o := {}\n\nsource_{name}.o := {}\n\ndeps_{name}.o := \\\n\n{name}.o: $(deps_{name}.o)\n\nsaved_c_flags_{name}.o := {flags}\n",
            command.replace('$', "$$").replace('#', "$(pound)"),
            src.display(),
        );
        write(&self.objects.join(format!("{dir}/.{base}.o.cmd")), &record);
    }

    fn assemble(&self, name: &str) {
        let (cc, src) = (tool("clang"), self.sources.join(format!("{name}.S")));
        self.shell(&format!("{cc} --target=x86_64-linux-gnu -c -o {name}.o {}", src.display()));
    }

    /// Archives as kbuild makes them: one in each folder, the lower ones flattened into the upper.
    pub fn archive(&self) {
        let ar = tool("llvm-ar");
        let script = format!(
            "(cd kernel/sub && {ar} cDPrST built-in.a.new deep.o && mv built-in.a.new built-in.a) && \
             (cd kernel && rm -f built-in.a && {ar} cDPrST built-in.a a.o b.o head.o configs.o sub/built-in.a) && \
             rm -f built-in.a lib/lib.a && {ar} cDPrST built-in.a init/main.o kernel/built-in.a && \
             find lib -name '*.o' ! -name '*.thinlto-native.o' -print0 | sort -z | xargs -0 {ar} cDPrST lib/lib.a"
        );
        self.shell(&script);
    }

    /// Runs a shell script in the object tree; it must succeed.
    pub fn shell(&self, script: &str) -> String {
        let out =
            Command::new("sh").args(["-ec", script]).current_dir(&self.objects).output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{script}\n{error}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// `kthinlto build` with all archives, in the environment that kbuild exports.
    pub fn kthinlto(&self) -> Command {
        let mut command = self.bare(&["build", "built-in.a", "lib/lib.a"]);
        command.arg("-j2");
        command
    }

    /// `kthinlto` with these arguments.
    pub fn bare(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(Path::new(env!("CARGO_BIN_EXE_kthinlto")));
        command.args(arguments);
        command
    }

    /// A program, in the object tree and the environment that kbuild exports.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.objects).stdin(Stdio::null());
        for name in
            ["MAKEFLAGS", "MAKELEVEL", "MFLAGS", "KBUILD_VERBOSE", "quiet", "CARGO_MAKEFLAGS"]
        {
            command.env_remove(name);
        }
        command
            .env("CC", tool("clang"))
            // Where a test can see it, and a small disk can be too small for it.
            .env("KTHINLTO_SCRATCH", "tree")
            .env("KTHINLTO_TOOL_DIGESTS", "no")
            .env("LD", tool("ld.lld"))
            .env("KBUILD_LDFLAGS", LDFLAGS)
            .env("srctree", self.srctree());
        command
    }

    /// Builds; it must succeed.
    pub fn build(&self) -> String {
        good(self.kthinlto())
    }

    /// Everything that the stage makes, by name.
    pub fn outputs(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        collect(&self.objects, &self.objects, &mut found);
        found
    }

    /// The same outputs made by hand, as mainline's makefiles do it, in a copy of the tree.
    pub fn mainline(&self) -> BTreeMap<String, Vec<u8>> {
        self.mainline_with(&tool("clang"), &tool("ld.lld"))
    }

    /// The same with these words for CC and LD.
    pub fn mainline_with(&self, cc: &str, ld: &str) -> BTreeMap<String, Vec<u8>> {
        let (copy, ar) = (self.copy(), tool("llvm-ar"));
        let list = self.sources.join("scripts/head-object-list.txt");
        let script = format!(
            "rm -rf .kthinlto; find . -name '*.thinlto*' -delete; rm -f vmlinux.a built-in-fixup.a
             {ar} cDPrST built-in-fixup.a built-in.a lib/lib.a
             {ar} mPi $({ar} t built-in-fixup.a | sed -n 1p) built-in-fixup.a $({ar} t built-in-fixup.a | grep -F -f {list})
             {ar} t built-in-fixup.a > builtin.order
             {ld} {LDFLAGS} -r --thinlto-index-only=vmlinux.thinlto-index @builtin.order
             while read -r o; do
               record=$(dirname $o)/.$(basename $o).cmd
               flags=$(sed -n '/saved_c_flags_/s/.*:= //p' $record)
               n=${{o%.o}}.thinlto-native.o
               eval \"{cc} $flags -x ir -fno-lto -Wno-unused-command-line-argument -fthinlto-index=$o.thinlto.bc -c -o $n $o\" &
               if [ $((count = !count)) = 0 ]; then wait; fi
             done < vmlinux.thinlto-index
             wait
             while read -r o; do test -s ${{o%.o}}.thinlto-native.o; done < vmlinux.thinlto-index
             while read -r o; do
               if grep -Fqx $o vmlinux.thinlto-index; then echo ${{o%.o}}.thinlto-native.o; else echo $o; fi
             done < builtin.order | xargs {ar} cDPrS --thin vmlinux.a",
            list = list.display()
        );
        let out =
            Command::new("sh").args(["-ec", &script]).current_dir(copy.path()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let mut found = BTreeMap::new();
        collect(copy.path(), copy.path(), &mut found);
        found
    }

    /// The outputs of a clean build of the same objects by kthinlto itself.
    pub fn clean_outputs(&self, set: &dyn Fn(&mut Command)) -> BTreeMap<String, Vec<u8>> {
        let copy = self.copy();
        let script = "rm -rf .kthinlto; find . -name '*.thinlto*' -delete; \
                      rm -f vmlinux.a built-in-fixup.a builtin.order";
        let done = Command::new("sh").args(["-c", script]).current_dir(copy.path()).status();
        assert!(done.unwrap().success());
        let mut command = self.kthinlto();
        set(&mut command);
        command.current_dir(copy.path()).env_remove("KTHINLTO_CACHE_DIR");
        good(command);
        let mut found = BTreeMap::new();
        collect(copy.path(), copy.path(), &mut found);
        found
    }

    /// How many modules import from an object, asked of the linker.
    pub fn links_that_import(&self, object: &str) -> usize {
        let script = format!(
            "mkdir -p ../imports && {} {LDFLAGS} -r --thinlto-index-only=/dev/null \
             --thinlto-emit-imports-files '--thinlto-prefix-replace=;../imports/' @builtin.order && \
             grep -rlFx --include=*.imports {object} ../imports | wc -l",
            tool("ld.lld")
        );
        self.shell(&script).trim().parse().unwrap()
    }

    /// Compiles all modules of an in-tree build by relative names.
    pub fn compile_relative(&self) {
        for name in sources().keys() {
            self.compile_from(name, "", Path::new("."));
        }
    }

    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_into(&self.objects, copy.path());
        copy
    }

    /// A wrapper around a program that appends a line to a log each time; returns its path.
    pub fn counting(&self, program: &str) -> String {
        let log = self.log(program);
        self.script(
            &format!("count-{program}"),
            &format!(
                "case \"$*\" in *-###*) ;; *) echo \"$*\" >> {};; esac\nexec {program} \"$@\"",
                log.display()
            ),
        )
    }

    fn log(&self, program: &str) -> PathBuf {
        self.dir.path().join(format!("{program}.log"))
    }

    /// How often a counting wrapper was called, but for questions; the log starts anew.
    pub fn calls(&self, program: &str) -> usize {
        let text = fs::read_to_string(self.log(program)).unwrap_or_default();
        let _ = fs::remove_file(self.log(program));
        text.lines().filter(|line| *line != "--version").count()
    }

    /// A script that passes for clang: it answers questions, and else runs `body`, which
    /// finds the bitcode's name in `$object` and the name of the file to make in `$out`.
    pub fn compiler(&self, name: &str, body: &str) -> String {
        self.script(
            name,
            &format!(
                "case \"$*\" in --version) echo 'clang version 22.0.0'; exit;; \
                 *-###*) exec {} \"$@\";; esac\n\
                 for object; do [ \"$was\" = -o ] && out=$object; was=$object; done\n{body}",
                tool("clang")
            ),
        )
    }

    /// A program that passes for clang itself, as a fork server wants it, and becomes `then`
    /// when it runs. `begin` is C that runs in a constructor; `main`, C that runs before `then`
    /// in each process that is not only asked a question: `forked` is true there in a copy, and `argc` and `argv` are its own.
    pub fn program(
        &self,
        name: &str,
        then: &str,
        options: &str,
        begin: &str,
        main: &str,
    ) -> String {
        let source = format!(
            "#include <malloc.h>\n\
             #include <pthread.h>\n#include <signal.h>\n#include <stdio.h>\n#include <stdlib.h>\n\
             #include <string.h>\n#include <sys/prctl.h>\n#include <unistd.h>\n\
             volatile const char option[] = \"fthinlto-index=\";\nstatic pid_t born;\n\
             static void *sleeps(void *p) {{ (void)p; for (;;) pause(); }}\n\
             __attribute__((constructor)) static void begin(void) {{\n\
             (void)sleeps; born = getpid(); {begin}\n}}\n\
             int main(int argc, char **argv) {{\nint forked = getpid() != born;\n\
             (void)argc; (void)forked;\n\
             int asked = 0; for (int i = 1; i < argc && i < 3; i++) asked |= !strcmp(argv[i], \"-###\");\n\
             if (!asked) {{ {main}\n}}\n\
             argv[0] = \"{then}\"; execvp(argv[0], argv); return option[0];\n}}\n"
        );
        let (path, file) = (self.dir.path().join(name), self.dir.path().join("program.c"));
        write(&file, &source);
        self.shell(&format!(
            "{} -Wall -Werror -O1 {options} -o {} {}",
            tool("clang"),
            path.display(),
            file.display()
        ));
        path.to_string_lossy().into_owned()
    }

    /// A script that passes for ld.lld, and runs `body` instead of a thin link.
    pub fn linker(&self, name: &str, body: &str) -> String {
        let version = format!(
            "# {}\ncase \"$*\" in --version) echo 'LLD 22.0.0'; exit;; esac",
            tool("ld.lld")
        );
        self.script(name, &format!("{version}\n{body}"))
    }

    /// An executable shell script outside of the tree; returns its path.
    pub fn script(&self, name: &str, body: &str) -> String {
        let path = self.dir.path().join(name);
        write(&path, &format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_string_lossy().into_owned()
    }

    /// A folder for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let ours = name.contains(".thinlto") && !name.ends_with(".cmd");
        let top = ["vmlinux.a", "built-in-fixup.a", "builtin.order", "vmlinux.thinlto-index"];
        if path.is_dir() && name != ".kthinlto" {
            collect(root, &path, found);
        } else if ours || top.contains(&name.as_str()) {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
}

/// Runs a command that must succeed; returns its standard output.
pub fn good(mut command: Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{:?}\n{}{}", command, text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

/// Runs a command that must fail with this code and say this.
pub fn bad(mut command: Command, code: i32, says: &str) -> Output {
    let out = command.output().unwrap();
    let error = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{command:?}\n{}{error}", text(&out.stdout));
    assert!(error.contains(says), "no `{says}` in: {error}");
    out
}

/// Runs a command that must fail with this code and one sentence, which has all of these
/// pieces in it; returns the sentence.
pub fn fails(command: Command, code: i32, pieces: &[&str]) -> String {
    let sentences = sentences(&bad(command, code, ""));
    assert_eq!(sentences.len(), 1, "{sentences:?}");
    assert_holds(&sentences[0], pieces);
    sentences[0].clone()
}

/// The outputs are these, byte for byte; names alone are shown where they are not.
pub fn assert_same(ours: &BTreeMap<String, Vec<u8>>, theirs: &BTreeMap<String, Vec<u8>>) {
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let other = names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name));
    assert_eq!(other.collect::<Vec<_>>(), Vec::<&String>::new(), "these are not the same");
}

/// All of the pieces are in the text.
pub fn assert_holds(text: &str, pieces: &[&str]) {
    for piece in pieces {
        assert!(text.contains(piece), "no `{piece}` in: {text}");
    }
}

/// What kthinlto itself says went wrong, one sentence a line; warnings are not among them.
pub fn sentences(out: &Output) -> Vec<String> {
    said(out, false)
}

/// Kthinlto's warnings.
pub fn warnings(out: &Output) -> Vec<String> {
    said(out, true)
}

fn said(out: &Output, warnings: bool) -> Vec<String> {
    let error = text(&out.stderr);
    let ours = error.lines().filter_map(|line| line.strip_prefix("kthinlto: "));
    ours.filter(|line| line.starts_with("warning: ") == warnings).map(str::to_owned).collect()
}

/// How long a test waits for what should happen at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process beside the test. It is killed if the test fails before its end.
pub struct Beside {
    child: Child,
}

impl Beside {
    /// Starts it, its output kept, with no signal ignored.
    pub fn start(mut command: Command) -> Self {
        heed_signals();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Beside { child: command.spawn().unwrap() }
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for its end. What it wrote must fit into a pipe.
    pub fn end(mut self) -> Output {
        until("the end of a process", || self.child.try_wait().unwrap().is_some());
        let status = self.child.wait().unwrap();
        let mut out = Output { status, stdout: Vec::new(), stderr: Vec::new() };
        self.child.stdout.take().unwrap().read_to_end(&mut out.stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_end(&mut out.stderr).unwrap();
        out
    }
}

/// What is ignored stays ignored in children, under nohup for one; what is handled does not.
pub fn heed_signals() {
    use signal_hook::{consts::signal, flag};
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| {
        for signal in [signal::SIGINT, signal::SIGTERM, signal::SIGHUP, signal::SIGQUIT] {
            let always = Arc::new(AtomicBool::new(true));
            flag::register_conditional_shutdown(signal, 128 + signal, always).unwrap();
        }
    });
}

impl Drop for Beside {
    fn drop(&mut self) {
        let ended = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
        if !ended(&mut self.child) {
            // Make has to tell its own children.
            let _ = rustix::process::kill_process(self.pid(), Signal::TERM);
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(5) && !ended(&mut self.child) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
