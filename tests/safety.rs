//! Beside strangers: shared caches and folders, trees with links and pipes where files should be,
//! inputs made to hurt. Nothing of others is written or removed, nothing hangs, nothing is run by
//! a look. Tests with two users need root, make no users, and say so where they are passed over.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use common::{Beside, Tree, assert_holds, bad, good, text, warnings};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// What a stand-in for clang does to be quick: any ELF object is good enough here.
const COPY: &str = "cp kernel/head.o $out";

/// A tree, a cache beside it, and a compiler that is quick.
struct Shared {
    tree: Tree,
    cc: String,
    cache: PathBuf,
}

impl Shared {
    fn new() -> Self {
        let tree = Tree::new();
        let cc = tree.compiler("cc", COPY);
        let cache = tree.dir().join("cache");
        Shared { tree, cc, cache }
    }

    fn build(&self) -> Command {
        let mut command = self.tree.kthinlto();
        command.env("CC", &self.cc).env("KTHINLTO_CACHE_DIR", &self.cache);
        command
    }

    /// Builds, and returns the last line and the warnings.
    fn built(&self, set: impl FnOnce(&mut Command)) -> (String, Vec<String>) {
        let mut command = self.build();
        set(&mut command);
        let out = ended(command);
        assert!(out.status.success(), "{}", text(&out.stderr));
        (text(&out.stdout).lines().last().unwrap_or_default().to_owned(), warnings(&out))
    }

    fn forget(&self) {
        self.tree.shell("rm -rf .kthinlto; find . -name '*.thinlto*' -delete");
    }

    /// All entries.
    fn entries(&self) -> Vec<PathBuf> {
        let script =
            format!("find {}/v2 -mindepth 2 -type f -name '??????*' | sort", self.cache.display());
        self.tree.shell(&script).lines().map(PathBuf::from).collect()
    }
}

/// Runs a command that has to come to its end soon.
fn ended(command: Command) -> Output {
    let start = Instant::now();
    let out = Beside::start(command).end();
    assert!(start.elapsed() < Duration::from_secs(40), "it hung");
    out
}

fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
}

/// A folder of somebody's, with old files in it.
fn home(tree: &Tree) -> PathBuf {
    let home = tree.dir().join("home");
    fs::create_dir_all(home.join("docs")).unwrap();
    let old = SystemTime::now() - Duration::from_secs(300_000);
    for name in [".bashrc", "notes.txt", "docs/thesis.tex"] {
        fs::write(home.join(name), "mine").unwrap();
        fs::File::options()
            .write(true)
            .open(home.join(name))
            .and_then(|file| file.set_modified(old))
            .unwrap();
    }
    home
}

fn assert_home_is_whole(home: &Path) {
    for name in [".bashrc", "notes.txt", "docs/thesis.tex"] {
        assert_eq!(fs::read(home.join(name)).unwrap(), b"mine", "{name}");
    }
}

/// Whether tests may work as other users; says so where they may not.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("passed over: working as two users needs root");
    }
    root
}

/// Two users who are in no list, and a group that both are in.
const USERS: [u32; 2] = [64201, 64202];
const GROUP: u32 = 64203;

/// Runs a command as another user, with this umask.
fn as_user(command: &mut Command, user: u32, umask: u32) {
    command.uid(user).gid(GROUP);
    // SAFETY: umask(2) is one system call, and cannot fail.
    unsafe {
        command.pre_exec(move || {
            rustix::process::umask(Mode::from_raw_mode(umask));
            Ok(())
        });
    }
}

/// A program that all users can reach.
fn reachable(tree: &Tree) -> PathBuf {
    let program = tree.dir().join("kthinlto");
    fs::copy(env!("CARGO_BIN_EXE_kthinlto"), &program).unwrap();
    program
}

#[test]
fn a_build_and_cache_commands_leave_what_is_not_the_caches() {
    let shared = Shared::new();
    let home = home(&shared.tree);
    let (cache, inner) = (shared.cache.to_str().unwrap(), shared.cache.join("v2"));
    shared.built(|_| {});
    symlink(&home, inner.join("zy")).unwrap();
    symlink(home.join("docs"), inner.join("ff")).unwrap();
    fs::create_dir(inner.join("zz")).unwrap();
    fs::write(inner.join("zz/.env"), "mine").unwrap();
    shared.forget();
    fs::remove_file(&shared.entries()[0]).unwrap();
    shared.built(|_| {}); // it adds one, and so prunes
    assert_home_is_whole(&home);
    for words in [&["prune", "--cache-size", "5K"][..], &["clear"]] {
        let words = [&["cache"], words, &["--cache-dir", cache]].concat();
        good(shared.tree.bare(&words));
        assert_home_is_whole(&home);
    }
    assert!(inner.join("zz/.env").exists() && shared.entries().is_empty());
}

#[test]
fn a_folder_that_is_no_cache_is_not_cleared() {
    let tree = Tree::new();
    let proj = tree.dir().join("proj");
    for name in ["v1/handlers/main.go", "v1/model/.env"] {
        fs::create_dir_all(proj.join(name).parent().unwrap()).unwrap();
        fs::write(proj.join(name), "source").unwrap();
    }
    for action in ["clear", "prune", "stats"] {
        let command = tree.bare(&["cache", action, "--cache-dir", proj.to_str().unwrap()]);
        bad(command, 3, "v1: no cache of kthinlto: it has no CACHEDIR.TAG of kthinlto's");
    }
    assert!(proj.join("v1/handlers/main.go").exists() && proj.join("v1/model/.env").exists());
}

#[test]
fn an_entry_put_over_anothers_is_not_taken() {
    let shared = Shared::new();
    // Each object holds its own name, so that all are different.
    let cc = shared.tree.compiler("cc-own", "cp kernel/head.o $out; echo $object >> $out");
    let build = || {
        shared.built(|command| {
            command.env("CC", &cc);
        })
    };
    assert_holds(&build().0, &["12 rebuilt"]);
    let entries = shared.entries();
    let all: Vec<Vec<u8>> = entries.iter().map(|entry| fs::read(entry).unwrap()).collect();
    for (number, entry) in entries.iter().enumerate() {
        fs::write(entry, &all[(number + 1) % all.len()]).unwrap();
    }
    shared.forget();
    let (line, _) = build();
    assert_holds(&line, &["0 from cache, 12 rebuilt"]);
}

#[test]
fn an_entry_that_is_a_pipe_does_not_hold_a_build_up() {
    let shared = Shared::new();
    shared.built(|_| {});
    for entry in shared.entries() {
        fs::remove_file(&entry).unwrap();
        pipe(&entry);
    }
    shared.forget();
    let (line, warnings) = shared.built(|_| {});
    assert_holds(&line, &["0 from cache, 12 rebuilt"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_holds(&warnings[0], &["a pipe where a regular file should be", "compiled here"]);
    let prune =
        shared.tree.bare(&["cache", "prune", "--cache-dir", shared.cache.to_str().unwrap()]);
    assert!(ended(prune).status.success());
}

#[test]
fn users_of_one_group_share_a_cache_as_its_folder_and_the_umask_say() {
    if !is_root() {
        return;
    }
    let shared = Shared::new();
    let (dir, program) = (shared.tree.dir().to_path_buf(), reachable(&shared.tree));
    fs::create_dir(&shared.cache).unwrap();
    std::os::unix::fs::chown(&shared.cache, Some(USERS[0]), Some(GROUP)).unwrap();
    fs::set_permissions(&shared.cache, fs::Permissions::from_mode(0o2775)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let build = |user: u32, umask, taken: bool| {
        shared.forget();
        shared.tree.shell(&format!("chown -R {user} ."));
        let mut command = shared.tree.command(&program);
        command.args(["build", "built-in.a", "lib/lib.a", "-j2"]);
        command.env("CC", &shared.cc).env("KTHINLTO_CACHE_DIR", &shared.cache);
        if taken {
            command.env("KTHINLTO_CACHE_SHARED", "yes");
        }
        as_user(&mut command, user, umask);
        let out = ended(command);
        assert!(out.status.success(), "{}", text(&out.stderr));
        (text(&out.stdout), warnings(&out))
    };
    // Unless it is said that all who can write there are trusted, the cache is not used.
    let (out, said) = build(USERS[0], 0o002, false);
    assert_holds(&out, &["0 from cache, 12 rebuilt"]);
    assert_holds(&said[0], &["can be written by group 64203", "KTHINLTO_CACHE_SHARED=yes"]);
    assert!(!shared.cache.join("v2").exists());

    assert_holds(&build(USERS[0], 0o002, true).0, &["0 from cache, 12 rebuilt"]);
    let modes = |entry: &PathBuf| fs::metadata(entry).unwrap().mode() & 0o7777;
    assert!(shared.entries().iter().all(|entry| modes(entry) == 0o664));
    let (out, said) = build(USERS[1], 0o002, true);
    assert_holds(&out, &["12 from cache, 0 rebuilt"]);
    assert!(said.is_empty(), "{said:?}");

    // What is closed to the other is passed over, and said once.
    let one = shared.entries()[0].clone();
    fs::set_permissions(&one, fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(shared.cache.join("v2/zz")).unwrap();
    for name in ["v2/zz", one.parent().unwrap().to_str().unwrap()] {
        let name = shared.cache.join(name);
        fs::set_permissions(&name, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&name, Some(USERS[0]), None).unwrap();
    }
    let (out, said) = build(USERS[1], 0o002, true);
    assert!(!out.contains("12 from cache") && !out.contains(" 0 from cache"), "{out}");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_holds(&said[0], &["closed to this user", "umask 002"]);
}
