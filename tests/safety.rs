//! Hosts that are shared: caches of several users, folders that anyone may write into, one /dev/shm
//! for several containers. Nothing of others is taken, written or removed. Tests with two users
//! need root, make no users, and say so where they are passed over.

#![cfg(feature = "program")]

mod common;
#[path = "common/strangers.rs"]
mod strangers;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Beside, Tree, assert_holds, bad, good, text, warnings};
use strangers::{COPY, GROUP, USERS, as_user, assert_home_is_whole, ended, home, is_root, pipe};

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
    // Where the cache may have a folder, and has none yet.
    let mut folders = (0..=255).map(|number| inner.join(format!("{number:02x}")));
    symlink(home.join("docs"), folders.find(|folder| !folder.exists()).unwrap()).unwrap();
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
        let found = "v1: not a cache of kthinlto: it holds other files and no CACHEDIR.TAG";
        bad(command, 3, &format!("{found} of kthinlto's"));
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

    // What is closed to the other is passed over, and said once. The thin link, whose entry is larger,
    // would only be made again.
    let entries = shared.entries();
    let one = entries.iter().min_by_key(|entry| fs::metadata(entry).unwrap().len()).unwrap();
    fs::set_permissions(one, fs::Permissions::from_mode(0o600)).unwrap();
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

/// Runs a script with mounts of its own; `None` where that is not allowed.
fn with_own_mounts(tree: &Tree, script: &str) -> Option<Command> {
    let able = Command::new("unshare").args(["-m", "true"]).output();
    if !able.is_ok_and(|out| out.status.success()) {
        eprintln!("passed over: mounts of its own are not allowed here");
        return None;
    }
    let mut command = tree.command(Path::new("unshare"));
    command.args(["-m", "sh", "-ec", script]);
    Some(command)
}

#[test]
fn two_builds_at_one_path_in_two_namespaces_do_not_meet() {
    let trees = [Tree::new(), Tree::new()];
    trees[1].edit("kernel/a", "int shared(int x) { return x * 77 + 5; }\n");
    let place = trees[0].dir().join("build");
    fs::create_dir(&place).unwrap();
    let start = |tree: &Tree| {
        // Long enough for the other to begin after this has written.
        let linker =
            tree.linker("ld-slow", &format!("{} \"$@\" || exit; sleep 2", common::tool("ld.lld")));
        let script = format!(
            "mount --bind {} {place}; cd {place}; exec {} build built-in.a lib/lib.a -j2",
            tree.objects.display(),
            env!("CARGO_BIN_EXE_kthinlto"),
            place = place.display()
        );
        let mut command = with_own_mounts(tree, &script)?;
        command.env("LD", linker).env("KTHINLTO_SCRATCH", "memory");
        Some(Beside::start(command))
    };
    let Some(first) = start(&trees[0]) else {
        return;
    };
    std::thread::sleep(Duration::from_millis(700));
    let second = start(&trees[1]).unwrap();
    for (build, tree) in [first, second].into_iter().zip(&trees) {
        let out = build.end();
        assert!(out.status.success(), "{}", text(&out.stderr));
        common::assert_same(&tree.outputs(), &tree.clean_outputs(&|_| {}));
    }
}

#[test]
fn a_named_output_in_a_folder_of_all_is_written_past_what_others_put_there() {
    let tree = Tree::new();
    let home = home(&tree);
    let all = tree.dir().join("tmp");
    fs::create_dir(&all).unwrap();
    fs::set_permissions(&all, fs::Permissions::from_mode(0o1777)).unwrap();
    tree.write_object(
        "initcall.S",
        ".section \".initcall6.init..kmod_head__1_2_head6\",\"a\"\n\
         __initcall__kmod_head__1_2_head6: .long 0\n",
    );
    tree.shell(&format!(
        "{} --target=x86_64-linux-gnu -c -o initcall.o initcall.S",
        common::tool("clang")
    ));
    let initcalls = |name: &str| {
        let mut command = tree.bare(&["initcalls", "initcall.o", "-o"]);
        command.arg(all.join(name));
        ended(command)
    };
    let aside = all.join(".tmp_x.lds");
    symlink(home.join("notes.txt"), &aside).unwrap();
    let with_link = initcalls("x.lds");
    assert_home_is_whole(&home);
    fs::remove_file(&aside).unwrap();
    pipe(&aside);
    let with_pipe = initcalls("x.lds");
    for out in [with_link, with_pipe] {
        assert!(out.status.success(), "{}", text(&out.stderr));
    }
    assert!(fs::read_to_string(all.join("x.lds")).unwrap().contains("kmod_head"));
    if !is_root() {
        return;
    }
    for kind in ["link", "pipe"] {
        let name = all.join(kind);
        match kind {
            "link" => symlink(home.join("notes.txt"), &name).unwrap(),
            _ => pipe(&name),
        }
        std::os::unix::fs::lchown(&name, Some(USERS[0]), None).unwrap();
        let mut build = tree.kthinlto();
        build.arg("--json").arg(&name);
        let out = ended(build);
        assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
        assert_holds(&text(&out.stderr), &["of user 64201 in a folder that others may write into"]);
    }
    assert_home_is_whole(&home);
}

#[test]
fn the_lock_cannot_be_held_by_who_only_reads_the_tree() {
    if !is_root() {
        return;
    }
    let tree = Tree::new();
    tree.build();
    let lock = tree.objects.join(".kthinlto/lock");
    fs::set_permissions(tree.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let open = || {
        let mut command = Command::new("cat");
        command.arg(&lock);
        as_user(&mut command, USERS[0], 0o022);
        command.output().unwrap().status.success()
    };
    assert!(!open());
    // A lock that a version before made.
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(open());
    fs::remove_file(tree.objects.join("vmlinux.a")).unwrap();
    tree.build();
    assert!(!open());
}

#[test]
fn a_file_system_without_locks_is_one_warning() {
    let tree = Tree::new();
    let (source, library) = (tree.dir().join("noflock.c"), tree.dir().join("noflock.so"));
    for error in ["ENOSYS", "EOPNOTSUPP", "ENOLCK"] {
        fs::write(
            &source,
            format!(
                "#include <errno.h>\nint flock(int a, int b) {{ errno = {error}; return -1; }}\n"
            ),
        )
        .unwrap();
        let mut compile = Command::new(common::tool("clang"));
        good({
            compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
            compile
        });
        fs::remove_dir_all(tree.objects.join(".kthinlto")).unwrap_or_default();
        let mut command = tree.kthinlto();
        command.env("CC", tree.compiler("cc", COPY)).env("LD_PRELOAD", &library);
        let out = ended(command);
        assert!(out.status.success(), "{error}: {}", text(&out.stderr));
        let said = warnings(&out);
        assert_eq!(said.len(), 1, "{said:?}");
        assert_holds(&said[0], &["cannot be locked", "no other kthinlto runs in this tree"]);
    }
}

#[test]
fn a_blank_in_a_prefix_makes_uninstall_remove_no_more() {
    if !Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile").exists() {
        return; // the crate has none
    }
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("opt/my apps");
    for name in ["opt/my/notes", "apps/share/kthinlto/notes", "opt/my apps/share/kthinlto/x"] {
        fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        fs::write(dir.path().join(name), "").unwrap();
    }
    let make = |words: &[&str]| {
        let mut command = Command::new("make");
        command.arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(words).env_remove("MAKEFLAGS");
        command.env_remove("CARGO_TARGET_DIR");
        good(command)
    };
    make(&["uninstall", &format!("PREFIX={}", prefix.display())]);
    assert!(dir.path().join("opt/my/notes").exists());
    assert!(!prefix.join("share/kthinlto").exists());
    // What a build would remove, as a shell reads it.
    let printed = make(&["-n", "build", "CARGO=:", "CARGO_TARGET_DIR=/x/my target"]);
    let removes = printed.lines().find(|line| line.starts_with("rm ")).unwrap();
    let words = shell_words::split(removes).unwrap();
    assert_eq!(words, ["rm", "-rf", "/x/my target/release/share"]);
}
