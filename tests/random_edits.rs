//! Random edits, reverts, touches, deletions, damage and kills, other words of CC and LD, other
//! compilers, archives in another order; after each the incremental result is what a clean build by
//! mainline's commands with the same words gives. `KTHINLTO_SEED` repeats a run, `KTHINLTO_STEPS`
//! makes it longer or shorter: 500 of them are the part `steps` of `make check-kernels`. What else
//! than files differs is one thing at a time, and not for long: a state that was not met before costs
//! a clean build.

#![cfg(feature = "program")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Tree, good, tool};

/// Modules that are edited, with their second text; the first is the tree's own.
const EDITED: [(&str, &str); 4] = [
    ("kernel/a", "int shared(int x) { return x * 9 - 4; }\n"),
    ("kernel/b", "int shared(int); int use_b(int x) { return shared(x) - 5; }\n"),
    ("lib/w0", "int shared(int);\nint worker0(int x) { return shared(x) << 2; }\n"),
    ("lib/alone", "int alone(int x) { return x ^ 1; }\n"),
];
/// Both contents of the file that inline assembly includes.
const INCLUDED: [&str; 2] = ["CONFIG_A=y\n", "CONFIG_A=m\n"];

/// What differs from a plain build. Two that stand together are two of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Other {
    Nothing,
    /// Words of CC.
    Inlining,
    Addresses,
    /// Words of LD.
    Imports,
    Harmless,
    /// A script that CC is, by its text.
    Wrapper,
    SecondWrapper,
    /// A configuration file that CC names, by its text.
    Configured,
    OtherwiseConfigured,
    /// The members of an archive.
    Order,
    Member,
    /// Compilers behind a symbolic link.
    Linked,
    OtherwiseLinked,
}

const OTHERS: [Other; 12] = [
    Other::Inlining,
    Other::Addresses,
    Other::Imports,
    Other::Harmless,
    Other::Wrapper,
    Other::SecondWrapper,
    Other::Configured,
    Other::OtherwiseConfigured,
    Other::Order,
    Other::Member,
    Other::Linked,
    Other::OtherwiseLinked,
];

/// A small generator of random numbers: the test needs a seed that can be given again.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let given = std::env::var("KTHINLTO_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or(now) | 1;
        println!("KTHINLTO_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, limit: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

fn steps(default: usize) -> usize {
    std::env::var("KTHINLTO_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(default)
}

type Outputs = BTreeMap<String, Vec<u8>>;

/// A tree, which of the texts each file has, and what a clean build gives for each state.
struct Play {
    tree: Tree,
    random: Random,
    variants: [usize; 5],
    bitcode: HashMap<(usize, usize), [Vec<u8>; 2]>,
    other: Other,
    clean: HashMap<([usize; 5], Other), Outputs>,
    cache: bool,
}

impl Play {
    fn new() -> Self {
        let tree = Tree::new();
        let mut play = Play {
            tree,
            random: Random::new(),
            variants: [0; 5],
            bitcode: HashMap::new(),
            other: Other::Nothing,
            clean: HashMap::new(),
            cache: false,
        };
        play.assemble("nop; ret");
        for (module, (name, second)) in EDITED.iter().enumerate() {
            for variant in [1, 0] {
                let first = common::sources()[name].clone();
                play.tree.edit(name, if variant == 1 { second } else { &first });
                let files = play.files(module).map(|file| fs::read(file).unwrap());
                play.bitcode.insert((module, variant), files);
            }
        }
        play
    }

    /// A module's object and its record.
    fn files(&self, module: usize) -> [std::path::PathBuf; 2] {
        let (dir, base) = EDITED[module].0.split_once('/').unwrap();
        let folder = self.tree.objects.join(dir);
        [folder.join(format!("{base}.o")), folder.join(format!(".{base}.o.cmd"))]
    }

    fn edit(&mut self) {
        let file = self.random.below(5);
        self.variants[file] ^= 1;
        if file == 4 {
            self.tree.write_object("kernel/config_data.gz", INCLUDED[self.variants[4]]);
            return;
        }
        let contents = &self.bitcode[&(file, self.variants[file])];
        for (path, bytes) in self.files(file).iter().zip(contents) {
            fs::write(path, bytes).unwrap();
        }
        self.archive();
    }

    /// A member of the library that is no bitcode.
    fn assemble(&self, text: &str) {
        self.tree.write_object("lib/asm.S", &format!(".globl asm\nasm: {text}\n"));
        let cc = tool("clang");
        self.tree.shell(&format!("{cc} --target=x86_64-linux-gnu -c -o lib/asm.o lib/asm.S"));
    }

    fn archive(&self) {
        self.tree.archive();
        if self.other == Other::Order {
            let ar = tool("llvm-ar");
            self.tree.shell(&format!(
                "members=$({ar} t lib/lib.a | sort -r); rm lib/lib.a; {ar} cDPrST lib/lib.a $members"
            ));
        }
    }

    /// Another thing differs now, or none does.
    fn change_other(&mut self) {
        let was = OTHERS.iter().position(|other| *other == self.other);
        self.other = match (self.random.below(3), was) {
            (0, Some(_)) => Other::Nothing,
            (1, Some(was)) => OTHERS[was ^ 1],
            _ => OTHERS[self.random.below(OTHERS.len())],
        };
        let run = |options: &str| format!("exec {} {options} \"$@\"", tool("clang"));
        match self.other {
            Other::Wrapper => drop(self.tree.script("wrapper", &run(""))),
            Other::SecondWrapper => drop(self.tree.script("wrapper", &run("-ffunction-sections"))),
            Other::Configured => self.tree.write_object("own.cfg", "-fno-addrsig\n"),
            Other::OtherwiseConfigured => {
                self.tree.write_object("own.cfg", "-ffunction-sections\n");
            }
            Other::Linked => self.link_to(&self.tree.script("one", &run(""))),
            Other::OtherwiseLinked => self.link_to(&self.tree.script("two", &run("-fno-addrsig"))),
            _ => {}
        }
        self.assemble(if self.other == Other::Member { "ret" } else { "nop; ret" });
        self.archive();
    }

    fn link_to(&self, compiler: &str) {
        let link = self.tree.dir().join("compiler");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(compiler, link).unwrap();
    }

    /// CC and LD.
    fn words(&self) -> [String; 2] {
        let (cc, ld) = (tool("clang"), tool("ld.lld"));
        let own = |name: &str| self.tree.dir().join(name).display().to_string();
        match self.other {
            Other::Inlining => [format!("{cc} -mllvm -inline-threshold=-1000"), ld],
            Other::Addresses => [format!("{cc} -fno-addrsig"), ld],
            Other::Imports => [cc, format!("{ld} -mllvm -import-instr-limit=0")],
            Other::Harmless => [cc, format!("{ld} --no-warnings")],
            Other::Wrapper | Other::SecondWrapper => [own("wrapper"), ld],
            Other::Configured | Other::OtherwiseConfigured => {
                [format!("{cc} --config=./own.cfg"), ld]
            }
            Other::Linked | Other::OtherwiseLinked => [own("compiler"), ld],
            Other::Nothing | Other::Order | Other::Member => [cc, ld],
        }
    }

    /// A file of the stage's, chosen at random.
    fn an_output(&mut self) -> std::path::PathBuf {
        let mut names: Vec<String> = self.tree.outputs().into_keys().collect();
        names.push(".kthinlto/state".to_owned());
        names.push("kernel/.a.thinlto-native.o.cmd".to_owned());
        self.tree.objects.join(names.swap_remove(self.random.below(names.len())))
    }

    /// Cuts a file, or changes a byte, and leaves its times as they were.
    fn damage(&mut self) {
        let path = self.an_output();
        let Ok(mut bytes) = fs::read(&path) else {
            return;
        };
        let times = fs::metadata(&path).unwrap().modified().unwrap();
        match self.random.below(2) {
            0 => bytes.truncate(self.random.below(bytes.len() + 1)),
            _ if !bytes.is_empty() => {
                let at = self.random.below(bytes.len());
                bytes[at] ^= 0x40;
            }
            _ => {}
        }
        fs::write(&path, bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
    }

    fn step(&mut self) -> &'static str {
        // Everything is compiled for another compiler, here and by hand: seldom, and not for long.
        let (most, of) = if self.other == Other::Nothing { (1, 20) } else { (2, 3) };
        if self.random.below(of) < most {
            self.change_other();
            return "words, compilers, archives";
        }
        match self.random.below(8) {
            0..3 => {
                self.edit();
                "edit"
            }
            3 => {
                self.tree.shell("touch built-in.a kernel/*.o lib/*.o kernel/config_data.gz");
                "touch"
            }
            4 => {
                let _ = fs::remove_file(self.an_output());
                "delete"
            }
            5 => {
                self.damage();
                "damage"
            }
            6 => {
                self.cache = !self.cache;
                "cache on or off"
            }
            _ => {
                self.edit();
                let command = self.command();
                let delay = self.random.below(400);
                kill_after(command, delay);
                "edit and kill"
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = self.tree.kthinlto();
        let [cc, ld] = self.words();
        command.env("CC", cc).env("LD", ld);
        if self.cache {
            command.env("KTHINLTO_CACHE_DIR", self.tree.dir().join("cache"));
        }
        command
    }

    fn check(&mut self, step: usize, what: &str) {
        good(self.command());
        let (tree, [cc, ld]) = (&self.tree, self.words());
        let state = (self.variants, self.other);
        let clean = self.clean.entry(state).or_insert_with(|| tree.mainline_with(&cc, &ld));
        let ours = tree.outputs();
        assert_eq!(ours.keys().collect::<Vec<_>>(), clean.keys().collect::<Vec<_>>());
        for (name, bytes) in &ours {
            assert!(bytes == &clean[name], "step {step} ({what}), state {state:?}: {name}");
        }
    }
}

fn kill_after(mut command: Command, milliseconds: usize) {
    let mut child: Child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(milliseconds as u64));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn every_step_gives_what_a_clean_build_gives() {
    let mut play = Play::new();
    play.check(0, "start");
    for step in 1..=steps(80) {
        let what = play.step();
        play.check(step, what);
    }
    println!("{} states", play.clean.len());
}

#[test]
fn a_kill_at_any_moment_costs_only_the_jobs_in_flight() {
    let tree = Tree::new();
    let want = tree.mainline();
    let (cc, jobs) = (tree.counting(&tool("clang")), 2);
    let mut random = Random::new();
    for round in 1..=steps(80) * 2 / 5 {
        tree.shell("rm -rf .kthinlto vmlinux.a; find . -name '*.thinlto*' -delete");
        let command = || {
            let mut command = tree.kthinlto();
            command.env("CC", &cc);
            command
        };
        kill_after(command(), random.below(700));
        good(command());
        let ran = tree.calls(&tool("clang"));
        assert!(ran <= 12 + jobs, "round {round}: {ran} backends");
        assert!(tree.outputs() == want, "round {round}");
    }
}
