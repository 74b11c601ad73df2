//! Random edits, reverts, touches, deletions, damage and kills; after each the incremental
//! result is what a clean build by mainline's commands gives. `KTHINLTO_SEED` repeats a run,
//! `KTHINLTO_STEPS` makes it longer or shorter.

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
    clean: HashMap<[usize; 5], Outputs>,
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
            clean: HashMap::new(),
            cache: false,
        };
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
        self.tree.archive();
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
        if self.cache {
            command.env("KTHINLTO_CACHE_DIR", self.tree.dir().join("cache"));
        }
        command
    }

    fn check(&mut self, step: usize, what: &str) {
        good(self.command());
        let (tree, variants) = (&self.tree, self.variants);
        let clean = self.clean.entry(variants).or_insert_with(|| tree.mainline());
        let ours = tree.outputs();
        assert_eq!(ours.keys().collect::<Vec<_>>(), clean.keys().collect::<Vec<_>>());
        for (name, bytes) in &ours {
            assert!(bytes == &clean[name], "step {step} ({what}), state {variants:?}: {name}");
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
    for step in 1..=steps(500) {
        let what = play.step();
        play.check(step, what);
    }
}

#[test]
fn a_kill_at_any_moment_costs_only_the_jobs_in_flight() {
    let tree = Tree::new();
    let want = tree.mainline();
    let (cc, jobs) = (tree.counting(&tool("clang")), 2);
    let mut random = Random::new();
    for round in 1..=steps(500) * 2 / 5 {
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
