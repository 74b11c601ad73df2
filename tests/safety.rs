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
        let linker = tree.linker("ld-slow", "ld.lld-22 \"$@\" || exit; sleep 2");
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
fn cleaning_a_tree_with_links_writes_and_removes_nothing_behind_them() {
    let tree = Tree::new();
    let home = home(&tree);
    let notes = home.join("notes.txt");
    let own = tree.objects.join(".kthinlto");
    let dry = || ended(tree.bare(&["clean", "-n"]));
    fs::create_dir(&own).unwrap();
    symlink(&notes, own.join("lock")).unwrap();
    symlink(&notes, own.join(".tmp_state")).unwrap();
    assert!(dry().status.success());
    bad(tree.bare(&["clean"]), 3, "lock: a symbolic link where a file or folder of its own");
    fs::remove_file(own.join("lock")).unwrap();
    good(tree.kthinlto()); // it writes the state anew, and so aside
    assert_home_is_whole(&home);

    // The folder itself leads elsewhere.
    let other = tree.dir().join("other");
    fs::rename(&own, &other).unwrap();
    fs::create_dir(other.join("link")).unwrap();
    fs::create_dir(other.join("relink.notes")).unwrap();
    symlink(&other, &own).unwrap();
    for words in [&["clean", "-n"][..], &["clean"], &["build", "built-in.a"], &["explain", "a"]] {
        bad(tree.bare(words), 3, ".kthinlto: a symbolic link where");
    }
    assert!(other.join("state").exists() && other.join("relink.notes").exists());
}

#[test]
fn a_state_that_names_files_outside_of_the_tree_cleans_none_of_them() {
    use kthinlto::store::{BackendRecord, Digest, Store};
    let tree = Tree::new();
    let outside = tree.dir().join("out");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, tree.objects.join("linked")).unwrap();
    let absolute = outside.join("y.o").to_string_lossy().into_owned();
    let mut store = Store::open(&tree.objects).unwrap();
    for object in ["../out/x.o", &absolute, "linked/z.o", "lib/w1.o", "kernel/../../out/x.o"] {
        let digest = Digest::of(b"");
        store.set_backend(object, BackendRecord::new(digest, digest, None, &[0_u8; 0])).unwrap();
    }
    drop(store);
    let files = ["x", "y", "z"].map(|stem| outside.join(format!("{stem}.thinlto-native.o")));
    for file in &files {
        fs::write(file, "kept").unwrap();
    }
    tree.write_object("lib/w1.thinlto-native.o", "ours");
    let look = ended(tree.bare(&["clean", "-n"]));
    assert_holds(&text(&look.stdout), &["would remove lib/w1.thinlto-native.o"]);
    assert!(!text(&look.stdout).contains("/x.") && !text(&look.stdout).contains("/z."));
    let out = ended(tree.bare(&["clean"]));
    assert!(out.status.success());
    assert_holds(&warnings(&out).concat(), &["../out/x.o", "leads out of its folder", "linked/"]);
    assert!(files.iter().all(|file| file.exists()), "{files:?}");
    assert!(!tree.objects.join("lib/w1.thinlto-native.o").exists());
}

#[test]
fn what_stands_in_the_way_of_an_aside_is_not_written_into() {
    let tree = Tree::new();
    let home = home(&tree);
    let notes = home.join("notes.txt");
    let all = ["vmlinux.a", "kernel/a.o.thinlto.bc", "kernel/a.thinlto-native.o", "builtin.order"];
    for hard in [false, true] {
        tree.shell("rm -rf .kthinlto vmlinux.a; find . -name '*.thinlto*' -delete");
        for name in all {
            let (folder, base) = name.rsplit_once('/').unwrap_or((".", name));
            let aside = tree.objects.join(folder).join(format!(".tmp_{base}"));
            let _ = fs::remove_file(&aside);
            match hard {
                true => fs::hard_link(&notes, &aside).unwrap(),
                false => symlink(&notes, &aside).unwrap(),
            }
        }
        tree.build();
        assert_home_is_whole(&home);
        common::assert_same(&tree.outputs(), &tree.want());
        assert_eq!(fs::metadata(tree.objects.join("vmlinux.a")).unwrap().nlink(), 1);
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
fn a_look_starts_no_program_that_the_tree_names() {
    let tree = Tree::new();
    let script = |name: &str, says: &str, body: &str| {
        tree.write_object(
            name,
            &format!(
                "#!/bin/sh\ncase \"$*\" in --version|*-###*) {says}; exit;; esac\n\
                 for object; do [ \"$was\" = -o ] && out=$object; was=$object; done\n{body}\n"
            ),
        );
        tree.shell(&format!("chmod +x {name}"));
    };
    script("cc", &format!("{} \"$@\"", common::tool("clang")), COPY);
    script("ld", "echo LLD 22.0.0", "exec ld.lld-22 \"$@\"");
    let mut build = tree.kthinlto();
    build.env("CC", "./cc").env("LD", "./ld");
    good(build);
    // From here on it is a tree that came from elsewhere.
    script("cc", "touch ran-cc; echo clang version 22.0.0", "touch ran-cc");
    script("ld", "touch ran-ld; echo LLD 22.0.0", "touch ran-ld");
    let kernel = tree.srctree();
    let looks: [&[&str]; 6] = [
        &["explain", "kernel/a.o"],
        &["graph"],
        &["clean", "-n"],
        &["patch", "--check", &kernel],
        &["build", "-n", "built-in.a", "lib/lib.a"],
        &["relink", "-n"],
    ];
    for words in looks {
        let mut command = tree.bare(words);
        command.env_remove("CC").env_remove("LD");
        if words[0] == "build" {
            command.env("CC", "./cc").env("LD", "./ld");
        }
        let out = ended(command);
        assert_eq!(tree.shell("ls | grep ^ran || :"), "", "{words:?}");
        if words[0] == "explain" {
            assert_holds(&text(&out.stdout), &["would run      yes, due to compiler"]);
        }
    }
    // A compiler that no build met is said to be unknown.
    let mut other = tree.bare(&["explain", "kernel/a.o"]);
    other.env("CC", "./cc -O1");
    let said = good(other);
    assert_holds(
        &said,
        &["key            unknown\n", "would run      unknown: no build here has met"],
    );
    assert_holds(&said, &["unknown           compiler"]);
    assert_eq!(tree.shell("ls | grep ^ran || :"), "");
    let mut other = tree.kthinlto();
    other.args(["-n"]).env("CC", "./cc -O1").env("LD", "./ld -O1");
    let out = ended(other);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(tree.shell("ls | grep ^ran || :"), "");
}

#[test]
fn a_dry_run_starts_no_dynamic_loader_that_a_record_names() {
    let tree = Tree::new();
    tree.build();
    tree.write_object("interp", "#!/bin/sh\ntouch ran\n");
    tree.write_object("elfcc.c", "int main(void) { return 0; }\n");
    let cc = common::tool("clang");
    tree.shell(&format!(
        "chmod +x interp; {cc} -o elfcc elfcc.c -Wl,--dynamic-linker=$PWD/interp; \
         sed -i 's|:= {cc} |:= ./elfcc |' init/.main.o.cmd kernel/.head.o.cmd 2>/dev/null || :; \
         find . -name '.*.o.cmd' -exec sed -i 's|^\\(savedcmd_[^ ]*\\) := {cc} |\\1 := ./elfcc |' {{}} +"
    ));
    let mut command = tree.kthinlto();
    command.arg("-n").env_remove("CC");
    let out = ended(command);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_holds(&warnings(&out).concat(), &["a dry run starts no compiler", "`./elfcc`"]);
    assert!(!tree.objects.join("ran").exists());
}

/// Where a file should be stands something that never ends or never begins.
#[test]
fn a_pipe_where_a_file_should_be_is_refused_at_once() {
    let tree = Tree::new();
    let kernel = tree.dir().join("kernel-tree");
    fs::create_dir(&kernel).unwrap();
    pipe(&kernel.join("Makefile"));
    let start = Instant::now();
    let patch = tree.bare(&["patch", "--check", kernel.to_str().unwrap()]);
    bad(patch, 3, "Makefile: a pipe where a regular file should be; remove it");
    tree.build();
    let put = |name: &str, then: &dyn Fn()| {
        let path = tree.objects.join(name);
        let aside = path.with_extension("kept");
        fs::rename(&path, &aside).unwrap();
        pipe(&path);
        then();
        fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        then();
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    };
    let refused = |words: &[&str], name: &str| {
        let out = ended(tree.bare(words));
        assert_eq!(out.status.code(), Some(3), "{words:?}: {}", text(&out.stderr));
        assert_holds(&text(&out.stderr), &[name]);
    };
    let build = ["build", "built-in.a", "lib/lib.a"];
    for name in ["kernel/b.o", "lib/lib.a", ".kthinlto/state"] {
        put(name, &|| refused(&build, name));
    }
    put(".kthinlto/state", &|| refused(&["clean", "-n"], "state"));
    put(".kthinlto/state", &|| refused(&["explain", "kernel/a.o"], "state"));
    put("kernel/.a.o.cmd", &|| {
        fs::remove_file(tree.objects.join("kernel/a.thinlto-native.o")).unwrap_or_default();
        refused(&build, "kernel/.a.o.cmd");
    });
    assert!(start.elapsed() < Duration::from_secs(30));
    tree.build();
}

#[test]
fn assembly_that_includes_what_has_no_end_is_compiled_each_time() {
    let tree = Tree::new();
    let cc = tree.compiler("cc", COPY);
    let build = || {
        let mut command = tree.kthinlto();
        command.env("CC", &cc);
        let out = ended(command);
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout).lines().last().unwrap_or_default().to_owned()
    };
    fs::remove_file(tree.objects.join("kernel/config_data.gz")).unwrap();
    symlink("/dev/zero", tree.objects.join("kernel/config_data.gz")).unwrap();
    build();
    assert_holds(&build(), &["11 up to date, 0 from cache, 1 rebuilt"]);
    // Files that include each other, more than a stack would hold.
    fs::remove_file(tree.objects.join("kernel/config_data.gz")).unwrap();
    tree.write_object("kernel/config_data.gz", ".include \"inc/0\"\n");
    fs::create_dir(tree.objects.join("inc")).unwrap();
    for number in 0..30_000 {
        let next = format!(".include \"inc/{}\"\n", number + 1);
        fs::write(tree.objects.join(format!("inc/{number}")), next).unwrap();
    }
    let start = Instant::now();
    build();
    assert_holds(&build(), &["11 up to date, 0 from cache, 1 rebuilt"]);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_second_signal_ends_a_read_that_hangs() {
    use rustix::process::Signal;
    let tree = Tree::new();
    // It reads its report's pipe open, to which nobody listens: as long as it likes.
    let report = tree.dir().join("report");
    pipe(&report);
    let before_signals = {
        let mut command = tree.kthinlto();
        command.arg("--json").arg(&report);
        Beside::start(command)
    };
    std::thread::sleep(Duration::from_millis(300));
    before_signals.signal(Signal::TERM);
    assert!(!before_signals.end().status.success());
    // A hash that takes for ever: an object on a file system that does not answer is like this.
    let big = fs::File::create(tree.objects.join("kernel/config_data.gz")).unwrap();
    big.set_len(1 << 40).unwrap();
    let build = Beside::start(tree.kthinlto());
    std::thread::sleep(Duration::from_millis(1500));
    build.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    build.signal(Signal::TERM);
    let start = Instant::now();
    build.end();
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_archive_that_is_in_others_times_over_is_refused_within_seconds() {
    use kthinlto::archive::write::{Entry, thin_archive};
    let tree = Tree::new();
    for level in 0..8 {
        let below = format!("bomb{}.a", level + 1);
        let entry =
            || Entry::new(if level == 7 { "kernel/a.o".to_owned() } else { below.clone() }, 1);
        let entries: Vec<Entry> = (0..20).map(|_| entry()).collect();
        fs::write(tree.objects.join(format!("bomb{level}.a")), thin_archive(&entries)).unwrap();
    }
    let start = Instant::now();
    bad(tree.bare(&["build", "bomb0.a"]), 3, "more than 20000 archives, one in the other");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn members_cannot_be_options_of_the_linker() {
    use kthinlto::archive::write::{Entry, thin_archive};
    let tree = Tree::new();
    for name in ["--reproduce=pwn.tar", "@rsp", "-o.o"] {
        tree.write_object(name, "");
        let entries = [Entry::new("init/main.o", 1), Entry::new(name, 1)];
        fs::write(tree.objects.join("odd.a"), thin_archive(&entries)).unwrap();
        bad(tree.bare(&["build", "odd.a"]), 3, "whose name a linker reads as an option");
    }
    assert!(!tree.objects.join("pwn.tar").exists());
}

#[test]
fn what_a_compiler_prints_without_end_ends_it_and_not_the_machine() {
    let tree = Tree::new();
    let cc = tree.compiler("cc", "exec yes");
    let mut command = tree.kthinlto();
    command.env("CC", cc).arg("-j1");
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(out.stderr.len() < 5 << 20, "{}", out.stderr.len());
    let end = text(&out.stderr[out.stderr.len() - 2000..]);
    assert_holds(&end, &["MiB more of this are left out", "was killed by signal 9"]);
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

#[test]
fn names_of_files_do_not_act_on_a_terminal() {
    use kthinlto::archive::write::{Entry, thin_archive};
    let tree = Tree::new();
    let name = "kernel/\x1b]0;PWNED\x07\x1b[31m\u{202e}red.o";
    fs::copy(tree.objects.join("kernel/a.o"), tree.objects.join(name)).unwrap();
    let record = tree.objects.join(kthinlto::kbuild::cmd_file::path_for(Path::new(name)));
    fs::copy(tree.objects.join("kernel/.a.o.cmd"), record).unwrap();
    fs::write(tree.objects.join("odd.a"), thin_archive(&[Entry::new(name, 1)])).unwrap();
    let cc = tree.compiler("cc", "exit 7");
    let mut outputs = Vec::new();
    for verbose in ["0", "12"] {
        let mut command = tree.bare(&["build", "odd.a"]);
        command.env("CC", &cc).env("KBUILD_VERBOSE", verbose).env("KTHINLTO_LOG", "trace");
        outputs.push(command.output().unwrap());
    }
    let kernel = tree.dir().join("kernel-6");
    fs::create_dir(&kernel).unwrap();
    let makefile = "VERSION = 6\x1b]0;PWNED\x07\nPATCHLEVEL = 99\n";
    fs::write(kernel.join("Makefile"), makefile).unwrap();
    outputs.push(tree.bare(&["patch", kernel.to_str().unwrap()]).output().unwrap());
    let mut jobserver = tree.kthinlto();
    jobserver.env("CC", &cc).env("MAKEFLAGS", "-j2 --jobserver-auth=fifo:/no\x1b[2J");
    outputs.push(jobserver.output().unwrap());
    for out in &outputs {
        let said = text(&out.stdout) + &text(&out.stderr);
        assert!(said.contains("\\x1b") && !said.contains(['\x1b', '\x07', '\u{202e}']), "{said}");
    }
}
