//! Many units in one run: an object that several have, jobs of all in one queue, a run that is killed
//! and goes on. The last with 200 units, or `KTHINLTO_UNITS` of them (2,000 in `make check-kernels steps`). What is made is what a run of each unit alone makes, and what the tools make by hand.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{LDFLAGS, Tree, tool};
use kthinlto::environment::Environment;
use kthinlto::error::{Error, Result};
use kthinlto::exec::executor::Choice;
use kthinlto::exec::interrupt::Interrupts;
use kthinlto::exec::slots::Slots;
use kthinlto::report::{Event, Listener, Summary};
use kthinlto::stage::{self, Settings};
use kthinlto::unit::{Part, Unit};

/// Keeps the failures that it hears of, and how many jobs ran at a time.
#[derive(Default)]
struct Hears {
    failures: Vec<String>,
    running: usize,
    most: usize,
}

impl Listener for Hears {
    fn on(&mut self, event: &Event<'_>) {
        match event {
            Event::Failure(text) => self.failures.push((*text).to_owned()),
            Event::Started(_) => self.running += 1,
            Event::Ended { .. } => self.running -= 1,
            _ => {}
        }
        self.most = self.most.max(self.running);
    }
}

fn settings(tree: &Path, cc: &str, ld: &str, units: Vec<Unit>) -> Settings {
    Settings {
        tree: tree.to_path_buf(),
        srctree: "../linux".into(),
        archives: Vec::new(),
        units,
        modules: Vec::new(),
        module_digests: None,
        compiler: Some(cc.to_owned()),
        linker: Some(ld.to_owned()),
        linker_flags: LDFLAGS.to_owned(),
        stable_names: false,
        environment: Environment::of_process(),
        dry_run: false,
        keep_going: false,
        executor: Choice::Auto,
        scratch_in_memory: true,
        verify: 0.0,
        cache: None,
        tool_digests: None,
        engine: None,
    }
}

fn build(settings: &Settings) -> (Result<Summary>, Hears) {
    let mut hears = Hears::default();
    let interrupts = Interrupts::catch().unwrap();
    (stage::build(settings, &Slots::local(2), &interrupts, &mut hears), hears)
}

fn unit(name: &str, members: &[&str]) -> Unit {
    Unit::new(name, members.iter().map(|name| (*name).to_owned()).collect())
}

/// Two modules that share an object, beside the kernel that has it too.
fn modules() -> Vec<Unit> {
    vec![
        unit("lib/one", &["kernel/a.o", "lib/w0.o", "lib/w1.o"]),
        unit("lib/two", &["lib/w2.o", "kernel/a.o", "kernel/b.o"]),
        unit("lib/alone_m", &["lib/alone.o"]),
    ]
}

/// The tree's modules and its kernel, by real tools.
fn whole(tree: &Tree) -> Settings {
    let all = settings(&tree.objects, &tool("clang"), &tool("ld.lld"), modules());
    let archives = vec!["built-in.a".into(), "lib/lib.a".into()];
    Settings { archives, srctree: tree.srctree().into(), ..all }
}

/// The native objects of a unit, made one after the other by the linker and the compiler.
fn by_hand(tree: &Tree, unit: &Unit) -> BTreeMap<String, Vec<u8>> {
    let (ld, cc) = (tool("ld.lld"), tool("clang"));
    let name = unit.name.replace('/', "-");
    let members = unit.members.join(" ");
    tree.shell(&format!(
        "mkdir -p ../{name} && {ld} {LDFLAGS} -r --thinlto-index-only=../{name}/list \
         '--thinlto-prefix-replace=;../{name}/' {members}"
    ));
    let made = unit.members.iter().map(|object| {
        let record = tree.objects.join(kthinlto::kbuild::cmd_file::path_for(Path::new(object)));
        let text = fs::read_to_string(record).unwrap();
        let flags = text.lines().find_map(|line| line.strip_prefix("saved_c_flags_")).unwrap();
        let flags = flags.split_once(":= ").unwrap().1;
        tree.shell(&format!(
            "{cc} {flags} -x ir -fno-lto -Wno-unused-command-line-argument \
             -fthinlto-index=../{name}/{object}.thinlto.bc -c -o ../{name}/out.o {object}"
        ));
        let bytes = fs::read(tree.objects.join(format!("../{name}/out.o"))).unwrap();
        (Part { object: object.clone(), unit: unit.qualifier() }.native(), bytes)
    });
    made.collect()
}

#[test]
fn an_object_of_several_units_has_a_native_object_in_each() {
    let tree = Tree::new();
    let all = whole(&tree);
    let (summary, hears) = build(&all);
    let summary = summary.unwrap();
    assert_eq!((summary.modules, summary.rebuilt), (12 + 7, 12 + 7));
    assert_eq!(hears.most, 2, "jobs at a time");
    let natives: BTreeMap<String, Vec<u8>> =
        modules().iter().flat_map(|unit| by_hand(&tree, unit)).collect();
    assert_eq!(natives.len(), 7);
    for (name, bytes) in &natives {
        assert_eq!(fs::read(tree.objects.join(name)).unwrap(), *bytes, "{name}");
    }
    // What was made of modules lies beside the kernel's files.
    let is_of_a_module = |name: &String| {
        let named = ["one", "two", "alone_m"];
        named.iter().any(|unit| name.contains(&format!("{unit}.thinlto")))
    };
    let mut outputs = tree.outputs();
    outputs.retain(|name, _| !is_of_a_module(name));
    let mut mainline = tree.mainline();
    mainline.retain(|name, _| !is_of_a_module(name));
    common::assert_same(&outputs, &mainline);
}

#[test]
fn an_edit_runs_the_backends_of_all_units_that_have_the_object_and_no_others() {
    let tree = Tree::new();
    let all = whole(&tree);
    build(&all).0.unwrap();
    let (again, _) = build(&all);
    assert_eq!(again.unwrap().rebuilt, 0);
    tree.edit("lib/w2", "int shared(int);\nint worker2(int x) { return shared(x * 7); }\n");
    tree.compile("lib/w2", "");
    let (summary, _) = build(&all);
    // In the kernel, and in the second module.
    assert_eq!(summary.unwrap().rebuilt, 2);
    let bytes = by_hand(&tree, &modules()[1]);
    for (name, bytes) in &bytes {
        assert_eq!(fs::read(tree.objects.join(name)).unwrap(), *bytes, "{name}");
    }
}

#[test]
fn a_unit_that_fails_keeps_no_other_from_being_made() {
    let tree = Tree::new();
    let cc = tree.compiler(
        "cc",
        &format!("case $object in lib/w0.o) exit 1;; esac; exec {} \"$@\"", tool("clang")),
    );
    let all =
        Settings { compiler: Some(cc), keep_going: true, archives: Vec::new(), ..whole(&tree) };
    let (failed, hears) = build(&all);
    assert!(matches!(failed, Err(Error::Modules { failed: 1 })), "{failed:?}");
    assert!(
        hears.failures[0].contains("the backend of lib/w0.o (one) failed"),
        "{:?}",
        hears.failures
    );
    let is_there = |name: &str| tree.objects.join(name).exists();
    assert!(is_there("lib/two.thinlto-native.a") && is_there("lib/alone_m.thinlto-native.a"));
    assert!(!is_there("lib/one.thinlto-native.a"));
}

#[test]
fn a_run_that_ends_at_a_failure_makes_no_archive_of_a_unit_that_lacks_an_object() {
    let tree = Tree::new();
    let cc = tree.compiler("cc", "exit 1");
    let all = Settings { compiler: Some(cc), archives: Vec::new(), ..whole(&tree) };
    let (failed, _) = build(&all);
    assert!(matches!(failed, Err(Error::Modules { .. })), "{failed:?}");
    for unit in modules() {
        assert!(!tree.objects.join(unit.outputs.natives).exists(), "{}", unit.name);
    }
}

#[test]
fn a_thin_link_that_fails_keeps_no_other_unit_from_being_made() {
    let tree = Tree::new();
    let real = format!("exec {} \"$@\"", tool("ld.lld"));
    let ld = tree.linker("ld", &format!("case \"$*\" in *@lib/one.*) exit 1;; esac; {real}"));
    let all = Settings { linker: Some(ld), archives: Vec::new(), ..whole(&tree) };
    let (failed, _) = build(&Settings { keep_going: true, ..all.clone() });
    assert!(matches!(failed, Err(Error::ThinLink { .. })), "{failed:?}");
    let archive = |unit: &str| tree.objects.join(format!("lib/{unit}.thinlto-native.a"));
    assert!(archive("two").exists() && archive("alone_m").exists() && !archive("one").exists());
    let (failed, _) = build(&all);
    assert!(matches!(failed, Err(Error::ThinLink { .. })), "{failed:?}");
}

#[test]
fn names_that_would_lead_elsewhere_are_refused() {
    let tree = Tree::new();
    let refused = |units: Vec<Unit>, archives: Vec<PathBuf>| {
        build(&Settings { units, archives, ..whole(&tree) }).0.unwrap_err().to_string()
    };
    for (name, member, says) in [
        ("lib/m", "-o", "a linker reads as an option"),
        ("lib/m", "@kernel/a.o", "a linker reads as an option"),
        ("lib/m", "../obj/kernel/a.o", "not a name below the object tree"),
        ("lib/m", "/kernel/a.o", "not a name below the object tree"),
        ("../m", "kernel/a.o", "a unit that is not below the object tree"),
        ("", "kernel/a.o", "a unit that is not below the object tree"),
    ] {
        let text = refused(vec![unit(name, &[member])], Vec::new());
        assert!(text.contains(says), "{name}, {member}: {text}");
    }
    // Both would be compiled to kernel/a.m.thinlto-native.o.
    let units = vec![unit("lib/m", &["kernel/a.o"]), unit("lib/n", &["kernel/b.o"])];
    fs::copy(tree.objects.join("kernel/a.o"), tree.objects.join("kernel/a.m.o")).unwrap();
    tree.shell(&format!("{} rcsTPD more.a kernel/a.m.o", tool("llvm-ar")));
    let text = refused(units, vec!["more.a".into()]);
    assert!(text.contains("its native object would be one of vmlinux too"), "{text}");
}

#[test]
fn two_units_of_one_name_are_an_error() {
    let tree = Tree::new();
    let units = vec![unit("fs/same", &["kernel/a.o"]), unit("lib/same", &["kernel/b.o"])];
    let (refused, _) = build(&Settings { units, archives: Vec::new(), ..whole(&tree) });
    assert!(refused.unwrap_err().to_string().contains("a second one of that name"));
}

/// A tree of very many units, and programs that make them quickly.
struct Many {
    dir: tempfile::TempDir,
    units: Vec<Unit>,
}

/// How many units the tree has. In each 200 there are all kinds.
fn count(default: usize) -> usize {
    std::env::var("KTHINLTO_UNITS").ok().and_then(|units| units.parse().ok()).unwrap_or(default)
}

/// Members of a unit: few have many.
fn size(unit: usize) -> usize {
    match unit % 200 {
        0 => 200,
        1..=2 => 40,
        3..=8 => 10,
        _ => 1 + usize::from(unit.is_multiple_of(4)),
    }
}

impl Many {
    fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (cc, objects) = (tool("clang"), dir.path().join("obj"));
        let shell = |script: &str| {
            let done = Command::new("sh").args(["-ec", script]).current_dir(dir.path()).status();
            assert!(done.unwrap().success(), "{script}");
        };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/pretend.c");
        let real = [("cc", cc.clone()), ("ld", tool("ld.lld"))];
        for (name, pretends) in real {
            shell(&format!(
                "{cc} -O1 -Wall -Werror -DPRETENDS='\"{pretends}\"' -DTEMPLATE='\"{}/t.o\"' -o {name} {}",
                dir.path().display(),
                source.display()
            ));
        }
        shell(&format!(
            "echo 'int t;' >t.c; {cc} -c t.c; for n in 0 1 2 3; do echo \"__attribute__((weak)) int f$n(int x) {{ return x + $n; }}\" >$n.c; \
             {cc} -O2 -fno-lto -flto=thin -c -o $n.o $n.c; done"
        ));
        let bitcode = [0, 1, 2, 3].map(|n| fs::read(dir.path().join(format!("{n}.o"))).unwrap());
        let mut units: Vec<Unit> = Vec::new();
        for number in 0..count {
            let folder = format!("drivers/d{number}");
            fs::create_dir_all(objects.join(&folder)).unwrap();
            let mut members = Vec::new();
            for part in 0..size(number) {
                let name = format!("{folder}/p{part}.o");
                fs::write(objects.join(&name), &bitcode[(number + part) % 4]).unwrap();
                let record =
                    format!("savedcmd_{name} := clang -O2 -c -o {name} {folder}/p{part}.c\n");
                fs::write(objects.join(format!("{folder}/.p{part}.o.cmd")), record).unwrap();
                members.push(name);
            }
            // An object of the unit before it, too.
            if number % 50 == 7 {
                members.push(format!("drivers/d{}/p0.o", number - 1));
            }
            units.push(Unit::new(format!("{folder}/m{number}"), members));
        }
        Many { dir, units }
    }

    fn objects(&self) -> PathBuf {
        self.dir.path().join("obj")
    }

    fn settings(&self, units: Vec<Unit>) -> Settings {
        let tool = |name: &str| self.dir.path().join(name).to_string_lossy().into_owned();
        let all = settings(&self.objects(), &tool("cc"), &tool("ld"), units);
        Settings { executor: Choice::Process, ..all }
    }

    /// All files that were made.
    fn made(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut made = BTreeMap::new();
        for unit in &self.units {
            let folder = self.objects().join(Path::new(&unit.name).parent().unwrap());
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                assert!(!name.starts_with(".tmp_"), "{}", path.display());
                if name.contains(".thinlto") {
                    made.insert(path.clone(), fs::read(path).unwrap());
                }
            }
        }
        made
    }

    fn remove_made(&self) {
        self.made().keys().for_each(|path| fs::remove_file(path).unwrap());
        fs::remove_dir_all(self.objects().join(".kthinlto")).unwrap();
    }
}

/// Where the process that is killed finds its tree.
const TREE: &str = "KTHINLTO_TEST_UNITS";

/// Not a test of its own: the process that another test kills.
#[test]
#[ignore = "a_run_of_many_units_that_is_killed_ends_as_each_alone runs it"]
fn run_of_the_units_of_a_tree() {
    let Some(dir) = std::env::var_os(TREE) else {
        return;
    };
    let list = fs::read_to_string(Path::new(&dir).join("units")).unwrap();
    let units = list.lines().map(|line| {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        Unit::new(name, words.map(str::to_owned).collect())
    });
    let tool = |name: &str| Path::new(&dir).join(name).to_string_lossy().into_owned();
    let all = settings(&Path::new(&dir).join("obj"), &tool("cc"), &tool("ld"), units.collect());
    let (summary, hears) = build(&Settings { executor: Choice::Process, ..all });
    summary.unwrap();
    assert!(hears.most <= 2, "jobs at a time");
}

#[test]
fn a_run_of_many_units_that_is_killed_ends_as_each_alone() {
    let many = Many::new(count(200));
    let lines = many.units.iter().map(|unit| format!("{} {}\n", unit.name, unit.members.join(" ")));
    fs::write(many.dir.path().join("units"), lines.collect::<String>()).unwrap();
    let run = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "run_of_the_units_of_a_tree", "--ignored"]);
        command.env(TREE, many.dir.path()).stdout(Stdio::null());
        command
    };
    // How long a whole run takes tells where its middle is.
    let began = Instant::now();
    assert!(run().status().unwrap().success());
    let whole = began.elapsed();
    many.remove_made();
    let mut kills = 0;
    for _ in 0..8 {
        let mut child = run().spawn().unwrap();
        std::thread::sleep(whole / 8);
        kills += u32::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert!(kills >= 3, "killed {kills} times only");
    assert!(run().status().unwrap().success());
    let made = many.made();
    let members: usize = many.units.iter().map(|unit| unit.members.len()).sum();
    // An index, a native object and its record for each; three files for each unit.
    assert_eq!(made.len(), 3 * members + 3 * many.units.len());
    let (again, _) = build(&many.settings(many.units.clone()));
    let again = again.unwrap();
    assert_eq!((again.modules, again.up_to_date, again.linked), (members, members, false));
    many.remove_made();
    // Each with a state that knows the tools, and nothing of other units.
    let (state, seed) = (many.objects().join(".kthinlto/state"), many.dir.path().join("seed"));
    build(&many.settings(vec![many.units[9].clone()])).0.unwrap();
    fs::copy(&state, &seed).unwrap();
    for unit in &many.units {
        fs::copy(&seed, &state).unwrap();
        build(&many.settings(vec![unit.clone()])).0.unwrap();
    }
    let alone = many.made();
    assert_eq!(made.len(), alone.len());
    for (path, bytes) in &made {
        assert!(alone.get(path) == Some(bytes), "{}", path.display());
    }
}

/// A figure, not a test: how long a run of all units takes where nothing is to be done. By real tools:
/// what stands in for them is asked in each run what it is.
#[test]
#[ignore = "prints a time: cargo test --release --test units -- --ignored --nocapture no_op"]
fn no_op_of_many_units() {
    let many = Many::new(count(2000));
    let real = settings(&many.objects(), &tool("clang"), &tool("ld.lld"), many.units.clone());
    let began = Instant::now();
    build(&real).0.unwrap();
    println!("all: {:?}", began.elapsed());
    std::thread::sleep(Duration::from_millis(50));
    for number in 1..=6 {
        let began = Instant::now();
        let summary = build(&real).0.unwrap();
        let ended = began.elapsed();
        println!(
            "run {number}: {ended:?}, {} of {} up to date",
            summary.up_to_date, summary.modules
        );
    }
}
