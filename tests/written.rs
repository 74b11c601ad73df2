//! Nothing elsewhere is written or removed (SECURITY.md), seen from outside: a whole build, a
//! relink, the tidying of a cache and a clean, in a tree and a cache that others planted links,
//! pipes and odd names in, under strace(1). Every path that kthinlto or a child of it changed has to be
//! in the tree, the cache, the scratch folder, or a file that was named on the command line.
//! `a_change_outside_is_seen` is what makes the rest worth something.

#![cfg(feature = "program")]

#[path = "common/built.rs"]
mod built;
mod common;
#[path = "common/strangers.rs"]
mod strangers;
#[path = "common/traced.rs"]
mod traced;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use built::Built;
use common::{assert_holds, text};
use strangers::pipe;
use traced::{Change, Traced, can_trace, traced};

/// All that can be seen of what is in a folder: kind, mode, times, content or target.
fn seen(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        let content = match found.file_type() {
            kind if kind.is_file() => format!("{:?}", fs::read(&path).unwrap()),
            kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            _ => String::new(),
        };
        let facts =
            (found.mode(), found.uid(), found.nlink(), found.mtime_nsec(), found.ctime_nsec());
        all.insert(path.clone(), format!("{facts:?} {content}"));
        if found.is_dir() {
            all.extend(seen(&path));
        }
    }
    all
}

/// A folder in memory that is made as if a killed run had left it.
struct Left(PathBuf);

impl Left {
    fn new(ending: &str) -> Self {
        let user = rustix::process::geteuid().as_raw();
        let place = format!("/dev/shm/kthinlto-{user}-{ending}{:08x}", std::process::id());
        Left(PathBuf::from(place))
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0).or_else(|_| fs::remove_dir_all(&self.0));
    }
}

/// A tree that was built once and then fell among strangers.
struct Hostile {
    built: Built,
    /// What has to stay as it is: a home, and the sources.
    outside: PathBuf,
    before: BTreeMap<PathBuf, String>,
    cache: PathBuf,
    report: PathBuf,
    /// Where compilers put what they hand from one part to the next.
    temporary: PathBuf,
    /// Names that are links, with where they lead.
    links: Vec<(PathBuf, PathBuf)>,
    left: [Left; 2],
}

impl Hostile {
    fn new() -> Self {
        let built = Built::new();
        let dir = fs::canonicalize(built.tree.dir()).unwrap();
        let outside = dir.join("outside");
        fs::create_dir_all(outside.join("home/docs")).unwrap();
        let temporary = dir.join("tmp");
        fs::create_dir(&temporary).unwrap();
        let old = SystemTime::now() - Duration::from_secs(300_000);
        for name in ["home/.bashrc", "home/notes", "home/docs/.tmpabcdef", "x.thinlto-native.o"] {
            fs::write(outside.join(name), "mine").unwrap();
            let file = fs::File::options().write(true).open(outside.join(name)).unwrap();
            file.set_modified(old).unwrap();
        }
        let (cache, report) = (dir.join("cache"), dir.join("report.json"));
        let left = [Left::new("00000001"), Left::new("00000002")];
        let before = BTreeMap::new();
        Hostile { built, outside, before, cache, report, temporary, links: Vec::new(), left }
    }

    fn tree(&self) -> &Path {
        &self.built.tree.objects
    }

    /// A link in the tree or the cache, in the place of whatever is there.
    fn link(&mut self, name: &Path, to: &str) {
        let target = self.outside.join(to);
        let _ = fs::remove_file(name);
        fs::create_dir_all(name.parent().unwrap()).unwrap();
        symlink(&target, name).unwrap();
        let folder = fs::canonicalize(name.parent().unwrap()).unwrap();
        self.links.push((folder.join(name.file_name().unwrap()), target));
    }

    fn pipe(&self, name: &Path) {
        let _ = fs::remove_file(name);
        fs::create_dir_all(name.parent().unwrap()).unwrap();
        pipe(name);
    }

    /// The places that SECURITY.md names: state, `.kthinlto`, outputs.
    fn plant_in_tree(&mut self) {
        let tree = self.tree().to_path_buf();
        let own = tree.join(".kthinlto");
        for name in [".tmp_state", ".tmp_snapshot", ".tmp_members.rsp", ".tmp_lock", "members.rsp"]
        {
            self.link(&own.join(name), "home/notes");
        }
        self.link(&own.join("link"), "home");
        self.link(&own.join("relink.notes"), "home/docs");
        self.pipe(&own.join(".tmp_scratch"));
        for name in ["-rf", "a\nb", "\x1b[31m", "* ", "..."] {
            fs::write(own.join(name), "").unwrap();
        }
        for name in [
            ".tmp_vmlinux.a",
            ".tmp_builtin.order",
            "builtin.order",
            "vmlinux.thinlto-index",
            ".tmp_vmlinux.thinlto-index",
            "kernel/.tmp_a.thinlto-native.o",
            "kernel/a.thinlto-native.o",
            "kernel/b.o.thinlto.bc",
            "kernel/.tmp_b.o.thinlto.bc",
            "lib/.w1.thinlto-native.o.cmd",
            "lib/..tmp_w1.thinlto-native.o.cmd",
            "vmlinux.o",
            "vmlinux.symvers",
            ".vmlinux.objs",
            ".version",
            ".tmp_.version",
        ] {
            self.link(&tree.join(name), "home/notes");
        }
        self.pipe(&tree.join("lib/.tmp_w2.thinlto-native.o"));
        self.pipe(&tree.join(".tmp_vmlinux.a.x"));
        self.link(&tree.join("relink.left"), "home");
        self.link(&tree.join("relink.dead/inner"), "home/docs");
        self.link(&tree.join("linked"), "");
        self.name_what_is_outside();
    }

    /// In the state, and in what is on record of the scratch folder.
    fn name_what_is_outside(&self) {
        use kthinlto::store::{BackendRecord, Digest, Store};
        use kthinlto::unit::Part;
        let absolute = self.outside.join("x.o").to_string_lossy().into_owned();
        let mut store = Store::open(self.tree()).unwrap();
        for object in ["../outside/x.o", &absolute, "linked/x.o", "kernel/../../outside/x.o"] {
            let digest = Digest::of(b"");
            store
                .set_backend(
                    &Part::of_vmlinux(object),
                    BackendRecord::new(digest, digest, None, &[0_u8; 0]),
                )
                .unwrap();
        }
    }

    /// A folder of ours with a link in it that is on record, or a link of such a name.
    fn plant_in_memory(&mut self, as_link: bool) {
        let place = self.left[usize::from(as_link)].0.clone();
        if as_link {
            symlink(self.outside.join("home"), &place).unwrap();
            self.links.push((place.clone(), self.outside.join("home")));
        } else {
            fs::DirBuilder::new().mode(0o700).create(&place).unwrap();
            symlink(self.outside.join("home"), place.join("objects")).unwrap();
            self.links.push((place.join("objects"), self.outside.join("home")));
        }
        let found = fs::metadata(&place).unwrap();
        let base = place.file_name().unwrap().to_string_lossy().into_owned();
        let record = format!("{base} {} {}\n", found.dev(), found.ino());
        fs::write(self.tree().join(".kthinlto/scratch"), record).unwrap();
    }

    fn plant_in_cache(&mut self) {
        let inner = self.cache.join("v2");
        // In the place of a folder of entries that no key has made yet.
        let mut folders = (0..=255).map(|number| inner.join(format!("{number:02x}")));
        let free = folders.find(|folder| folder.symlink_metadata().is_err()).unwrap();
        self.link(&free, "home/docs");
        self.link(&inner.join("zy"), "home");
        let entry = "0".repeat(62);
        self.pipe(&inner.join("0a").join(&entry));
        self.link(&inner.join("0b").join(&entry), "home/notes");
        self.link(&inner.join("0b/.tmpabcdef"), "home/notes");
        self.link(&inner.join("0c").join(&entry), "home");
        for name in ["0c/-rf", "0c/a\nb", "0c/\x1b[31m"] {
            fs::write(inner.join(name), "").unwrap();
        }
        self.pipe(&inner.join("size"));
    }

    /// From here on nothing outside may change.
    fn remember(&mut self) {
        self.before = seen(&self.outside);
        self.before.extend(seen(&self.built.tree.sources));
    }

    /// Runs it; asserts what it changed and what it left alone.
    fn runs(&self, mut command: Command) -> Traced {
        command.env("KTHINLTO_SCRATCH", "memory").env("KTHINLTO_CACHE_DIR", &self.cache);
        command.env("HOME", self.outside.join("home")).env("TMPDIR", &self.temporary);
        for name in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"] {
            command.env_remove(name);
        }
        let run = traced(&command, self.tree(), &self.links);
        let said = format!("{command:?}: {}{}", text(&run.out.stdout), text(&run.out.stderr));
        let elsewhere = run.elsewhere(&|path| self.is_ours(path));
        let elsewhere = elsewhere.into_iter().filter(|change| !self.is_compilers(change));
        let elsewhere: Vec<_> = elsewhere.collect();
        assert!(elsewhere.is_empty(), "{elsewhere:#?}\n{said}");
        let mut now = seen(&self.outside);
        now.extend(seen(&self.built.tree.sources));
        assert_eq!(now, self.before, "{said}");
        assert!(run.out.status.success(), "{said}");
        assert_eq!(seen(&self.temporary), BTreeMap::new(), "{said}");
        run
    }

    fn is_ours(&self, path: &Path) -> bool {
        let user = rustix::process::geteuid().as_raw();
        let scratch = format!("/dev/shm/kthinlto-{user}-");
        let in_scratch = path.to_str().and_then(|path| path.strip_prefix(&scratch));
        let is_scratch = |rest: &str| {
            let name = rest.split('/').next().unwrap_or_default();
            name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        path.starts_with(fs::canonicalize(self.tree()).unwrap())
            || path.starts_with(&self.cache)
            || in_scratch.is_some_and(is_scratch)
            || path == self.report
            || path.parent() == self.report.parent() && is_aside_of(path, &self.report)
            || path == Path::new("/dev/null")
    }

    /// A file of a compiler's between its parts: a new one of a name that nobody can foretell.
    fn is_compilers(&self, change: &Change) -> bool {
        let opens = change.line.starts_with("open");
        change.path.starts_with(&self.temporary) && (!opens || change.line.contains("O_EXCL"))
    }

    fn build(&self) -> Command {
        self.built.tree.kthinlto()
    }

    fn bare(&self, words: &[&str]) -> Command {
        self.built.tree.bare(words)
    }
}

/// A named file is written beside itself first, under a random name.
fn is_aside_of(path: &Path, named: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".tmp_") && name.contains(&*named.file_name().unwrap().to_string_lossy())
}

/// The last parts of what a run changed.
fn changed(run: &Traced) -> String {
    let names = run.changes.iter().filter_map(|change| change.path.file_name());
    names.map(|name| format!("{}\n", name.to_string_lossy())).collect()
}

#[test]
fn a_change_outside_is_seen() {
    if !can_trace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(dir.path()).unwrap();
    let (tree, outside) = (dir.join("tree"), dir.join("outside"));
    fs::create_dir_all(outside.join("folder")).unwrap();
    fs::create_dir(&tree).unwrap();
    symlink(&outside, tree.join("in")).unwrap();
    let links = [(tree.join("in"), outside.clone())];
    // Each leaves the folder as the next one needs it.
    for (script, last) in [
        ("echo a > ../outside/a", "a"),
        ("echo a >> in/a", "a"),
        ("truncate -s 0 in/a", "a"),
        ("chmod 600 in/a", "a"),
        ("touch in/a", "a"),
        ("chown $(id -u) in/a", "a"),
        ("ln in/a in/b", "b"),
        ("mv in/b 'in/c, \"<d>\n'", "c, \"<d>\n"),
        ("mv in/c* here; rm here", "c, \"<d>\n"),
        ("ln -s nowhere in/l", "l"),
        ("mkfifo in/p", "p"),
        ("mkdir in/d", "d"),
        ("rmdir in/d", "d"),
        ("cd in && rm p", "p"),
        ("cd in; (cd folder; sh -c 'cd .. && rm l; :')", "l"),
        ("ln -s in/a e; chmod 640 e; rm e", "a"),
        ("rm in/a; rm in; mkdir in; echo a > in/a", "a"),
    ] {
        let mut command = Command::new("sh");
        command.args(["-ec", script]);
        let run = traced(&command, &tree, &links);
        assert!(run.out.status.success(), "{script}: {}", text(&run.out.stderr));
        let elsewhere = run.elsewhere(&|path| path.starts_with(&tree));
        let found = elsewhere.iter().any(|change| change.path == outside.join(last));
        assert!(found, "{script}: {:#?}", run.changes);
    }
    let mut command = Command::new("sh");
    command
        .args(["-ec", "echo a > b; cat b; mv b c; mkdir d; (cd d; ln -s ../../outside l; rm l)"]);
    let run = traced(&command, &tree, &links);
    assert!(run.elsewhere(&|path| path.starts_with(&tree)).is_empty(), "{:#?}", run.changes);
    assert!(run.changes.len() >= 6, "{:#?}", run.changes);
}

#[test]
fn a_build_a_relink_a_prune_and_a_clean_change_nothing_outside() {
    if !can_trace() {
        return;
    }
    let mut hostile = Hostile::new();
    hostile.remember();
    let first = hostile.runs(hostile.build());
    assert_holds(&changed(&first), &["vmlinux.a", "state", "a.o.thinlto.bc", "CACHEDIR.TAG"]);

    // A build among strangers, of which two objects are new.
    hostile.plant_in_tree();
    hostile.plant_in_cache();
    hostile.plant_in_memory(false);
    hostile.built.tree.edit("kernel/a", "int shared(int x) { return x * 7 + 2; }\n");
    hostile.remember();
    let mut build = hostile.build();
    build.arg("--json").arg(&hostile.report);
    let second = hostile.runs(build);
    assert_holds(&changed(&second), &["vmlinux.a", "a.thinlto-native.o", "b.o.thinlto.bc"]);
    assert!(hostile.report.exists() && !hostile.left[0].0.exists(), "ours was removed");

    // A record that leads to a link.
    hostile.plant_in_memory(true);
    hostile.built.tree.edit("lib/w1", "int worker1(int x) { return x; }\n");
    hostile.remember();
    hostile.runs(hostile.build());
    assert!(hostile.left[1].0.is_symlink());

    let relink = hostile.runs(hostile.built.relink(&[]));
    assert_holds(&changed(&relink), &["vmlinux.o", "vmlinux", "System.map", ".vmlinux.objs"]);
    hostile.plant_in_cache();
    hostile.remember();
    let cache = hostile.cache.to_string_lossy().into_owned();
    for words in [&["prune", "--cache-size", "1K"][..], &["clear"]] {
        hostile.runs(hostile.bare(&[&["cache"], words, &["--cache-dir", &cache]].concat()));
    }
    let look = hostile.runs(hostile.bare(&["clean", "-n"]));
    assert!(look.changes.is_empty(), "{:#?}", look.changes);
    hostile.plant_in_tree();
    hostile.remember();
    let clean = hostile.runs(hostile.bare(&["clean"]));
    assert_holds(&changed(&clean), &["vmlinux.a", ".kthinlto", "a.thinlto-native.o"]);
    assert!(!hostile.tree().join(".kthinlto").exists());
}

/// Killed before any of the calls that make, lock or name the folder in memory.
#[test]
fn a_kill_at_any_moment_leaves_no_folder_in_memory_after_the_next_run() {
    if !can_trace() {
        return;
    }
    let tree = common::Tree::new();
    let cc = tree.compiler("cc", strangers::COPY);
    let log = tree.dir().join("log");
    let (mut made, mut left_by_kills) = (0, 0);
    for (call, most) in [("mkdirat", 3), ("flock", 4), ("renameat", 4), ("unlinkat", 8)] {
        for number in 1..=most {
            tree.shell("rm -rf .kthinlto vmlinux.a");
            let mut strace = tree.command(Path::new("strace"));
            strace.args([
                "-y",
                "-qq",
                "-e",
                "signal=none",
                "-e",
                "trace=mkdirat,flock,renameat,unlinkat",
            ]);
            strace.arg("-e").arg(format!("inject={call}:signal=KILL:when={number}"));
            strace.arg("-o").arg(&log).arg(env!("CARGO_BIN_EXE_kthinlto"));
            strace.args(["build", "built-in.a", "lib/lib.a", "-j2"]);
            strace.env("CC", &cc).env("KTHINLTO_SCRATCH", "memory");
            let killed = strangers::ended(strace);
            let text = fs::read_to_string(&log).unwrap();
            let of_memory = text.lines().filter(|line| {
                line.starts_with("mkdirat(") && line.contains("</dev/shm>, \"kthinlto-")
            });
            let names = of_memory.filter(|line| line.ends_with(" = 0"));
            let folders: Vec<PathBuf> = names
                .map(|line| Path::new("/dev/shm").join(line.split('"').nth(1).unwrap()))
                .collect();
            made += folders.len();
            left_by_kills += folders.iter().filter(|folder| folder.exists()).count();
            if killed.status.success() {
                break; // there are no more calls of that name
            }
            let mut next = tree.kthinlto();
            next.env("CC", &cc).env("KTHINLTO_SCRATCH", "memory");
            common::good(next);
            let left: Vec<&PathBuf> = folders.iter().filter(|folder| folder.exists()).collect();
            assert!(left.is_empty(), "{call} {number}: {left:?}");
        }
    }
    if made == 0 {
        eprintln!("passed over: there is no room in memory here");
    } else {
        assert!(left_by_kills > 0, "no kill came at a moment that matters");
    }
}
