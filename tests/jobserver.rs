//! Job control against real GNU make, with its pipe (4.3) and its fifo (4.4), and against servers
//! of other kinds: never more
//! processes at once than make allows, as many as it allows, and every token given back.

#![cfg(feature = "program")]

mod common;

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{Beside, Tree, sentences, text, tool, until, warnings};
use rustix::fs::{CWD, FileType, Mode};
use rustix::process::Signal;

/// Backends of the tree.
const BACKENDS: usize = 12;

/// Targets that make runs beside kthinlto.
const BESIDE: usize = 6;

/// A GNU make, and the jobserver that it is to have.
struct Make {
    program: PathBuf,
    style: Option<&'static str>,
    /// How its jobserver begins in `MAKEFLAGS`.
    auth: &'static str,
}

/// The system's make with a pipe.
fn pipe_make() -> Make {
    let out = Command::new("make").arg("--version").output().unwrap();
    let old =
        ["4.2", "4.3"].iter().any(|v| text(&out.stdout).starts_with(&format!("GNU Make {v}")));
    let style = (!old).then_some("--jobserver-style=pipe");
    Make { program: "make".into(), style, auth: "--jobserver-auth=" }
}

/// GNU make 4.4 from where `scripts/fetch-make44` puts it.
fn fifo_make() -> Make {
    let program = std::env::var_os("KTHINLTO_MAKE44").map_or_else(cached_make44, PathBuf::from);
    let there = program.is_file();
    assert!(there, "GNU make 4.4 is not at {}: run `scripts/setup check`", program.display());
    Make { program, style: None, auth: "--jobserver-auth=fifo:" }
}

fn cached_make44() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap());
    let cache =
        || std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    let ours = std::env::var_os("KTHINLTO_DEV_CACHE");
    ours.map_or_else(|| cache().join("kthinlto"), PathBuf::from).join("make-4.4/usr/bin/make")
}

/// A tree whose compiler, linker and other jobs write down when they begin and end.
struct Watched {
    tree: Tree,
    log: PathBuf,
    /// Backends are a fork server's copies.
    forks: bool,
}

impl Watched {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(forks: bool) -> Self {
        let tree = Tree::new();
        let log = tree.dir().join("jobs");
        fs::write(&log, "").unwrap();
        Watched { tree, log, forks }
    }

    fn executor(&self) -> &'static str {
        if self.forks { "fork-server" } else { "process" }
    }

    /// A shell command that waits until `count` backends have begun. When one has waited in
    /// vain for long, none waits any more: the test has failed, and is to end.
    fn barrier(&self, count: usize) -> String {
        let (log, vain) = (self.log.display(), self.vain());
        let vain = vain.display();
        format!(
            "tries=0; while [ $(grep -c '^+1 cc' {log}) -lt {count} ] && ! [ -e {vain} ]; do \
             sleep 0.05; tries=$((tries + 1)); [ $tries -lt 600 ] || : > {vain}; done"
        )
    }

    /// Is there when a job has waited in vain.
    fn vain(&self) -> PathBuf {
        self.tree.dir().join("vain")
    }

    /// A compiler that waits for `at_once` of its like, and then runs `then`.
    fn compiler(&self, at_once: usize, then: &str) -> String {
        let (log, barrier) = (self.log.display(), self.barrier(at_once));
        let body =
            format!("echo '+1 cc' >> {log}\n{barrier}\nsleep 0.05\n{then}\necho '-1 cc' >> {log}");
        let script = self.tree.compiler("cc", &body);
        if !self.forks {
            return script;
        }
        let log = self.log.display();
        let note = format!(
            "if (forked) {{ FILE *log = fopen(\"{log}\", \"a\"); fputs(\"+0 copy\\n\", log); fclose(log); }}"
        );
        self.tree.program("clang-cc", &script, "", "", &note)
    }

    /// The linker, which counts as many times as it has threads.
    fn linker(&self) -> String {
        let (log, real) = (self.log.display(), tool("ld.lld"));
        let body = format!(
            "threads=$(echo \"$*\" | sed 's/.*--threads=\\([0-9]*\\).*/\\1/')\n\
             echo \"+$threads ld\" >> {log}\n{real} \"$@\" || exit\necho \"-$threads ld\" >> {log}"
        );
        self.tree.linker("ld", &body)
    }

    /// Runs make with `jobs` (`-j4`) on a makefile whose recipe calls kthinlto after `prefix`,
    /// with targets beside it that begin before the backends and end after the first began.
    fn make(&self, make: &Make, jobs: &str, prefix: &str, options: &str) -> Output {
        let (log, barrier) = (self.log.display(), self.barrier(1));
        let job =
            format!("echo '+1 beside' >> {log}; {barrier}; sleep 0.05; echo '-1 beside' >> {log}");
        let job = self.tree.script("job", &job);
        let kthinlto = env!("CARGO_BIN_EXE_kthinlto");
        let makefile = format!(
            "beside := $(patsubst %,beside-%,{numbers})\n\
             all: flags stage $(beside)\n.PHONY: all flags stage $(beside)\n\
             flags:\n\t+@echo \"$$MAKEFLAGS\" > {flags}\n\
             stage: flags\n\t{prefix}@{kthinlto} build built-in.a lib/lib.a {options}\n\
             $(beside): flags\n\t@{job}\n",
            numbers = (0..BESIDE).map(|n| format!("{n} ")).collect::<String>(),
            flags = self.tree.dir().join("flags").display(),
        );
        fs::write(self.tree.dir().join("Makefile"), makefile).unwrap();
        let mut command = self.tree.command(&make.program);
        command.arg("-f").arg(self.tree.dir().join("Makefile")).args(make.style);
        command.args((!jobs.is_empty()).then_some(jobs)).env("LD", self.linker());
        let compiler = if self.forks { "clang-cc" } else { "cc" };
        command.env("CC", self.tree.dir().join(compiler));
        command.env("KTHINLTO_EXECUTOR", self.executor());
        Beside::start(command).end()
    }

    /// What `MAKEFLAGS` was in a recipe with `+`.
    fn makeflags(&self) -> String {
        fs::read_to_string(self.tree.dir().join("flags")).unwrap()
    }

    /// The most jobs of a kind at one time; of all kinds if `kind` is empty.
    fn most(&self, kind: &str) -> i32 {
        let (mut now, mut most) = (0, 0);
        for line in fs::read_to_string(&self.log).unwrap().lines().filter(|l| l.ends_with(kind)) {
            now += line.split(' ').next().unwrap().parse::<i32>().unwrap();
            most = most.max(now);
        }
        assert_eq!(now, 0, "all that began has ended");
        assert!(!self.vain().exists(), "fewer than should be ran at once");
        most
    }

    fn begun(&self, kind: &str) -> usize {
        let log = fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.starts_with('+') && line.ends_with(kind)).count()
    }
}

/// What a stand-in for clang does to be quick: any ELF object is good enough here.
const COPY: &str = "cp kernel/head.o $out";

/// Make found all its tokens again when it ended: it complains otherwise.
fn assert_good(out: &Output) {
    let error = text(&out.stderr);
    assert!(out.status.success(), "{}{error}", text(&out.stdout));
    assert!(!error.contains("INTERNAL") && !error.contains("jobserver"), "{error}");
}

fn as_many_as_make_allows(make: &Make, forks: bool) {
    for jobs in 1..=4 {
        let watched = Watched::with(forks);
        watched.compiler(jobs, COPY);
        let out = watched.make(make, &format!("-j{jobs}"), "+", "");
        assert_good(&out);
        assert_eq!((watched.begun("cc"), watched.begun("beside")), (BACKENDS, BESIDE));
        assert_eq!(watched.begun("copy"), if forks { BACKENDS } else { 0 });
        assert_eq!(watched.most(""), jobs as i32, "-j{jobs}");
        assert_eq!(watched.most("cc"), jobs as i32, "-j{jobs}: backends alone");
        let flags = watched.makeflags();
        assert_eq!(flags.contains(make.auth), jobs > 1, "{flags}");
        assert_eq!(flags.contains("fifo:"), jobs > 1 && make.auth.ends_with("fifo:"), "{flags}");
    }
}

#[test]
fn make_finds_its_tokens_after_a_failure() {
    for make in [pipe_make(), fifo_make()] {
        let watched = Watched::new();
        watched.compiler(3, "exit 1");
        let out = watched.make(&make, "-j3", "+", "");
        let error = text(&out.stderr);
        assert!(error.contains("backends failed") && !error.contains("INTERNAL"), "{error}");
        assert_eq!(out.status.code(), Some(2));
    }
}

#[test]
fn as_many_jobs_as_a_pipe_allows() {
    as_many_as_make_allows(&pipe_make(), false);
}

#[test]
fn as_many_copies_as_a_pipe_allows() {
    as_many_as_make_allows(&pipe_make(), true);
}

#[test]
fn as_many_jobs_as_a_fifo_allows() {
    as_many_as_make_allows(&fifo_make(), false);
}

#[test]
fn as_many_copies_as_a_fifo_allows() {
    as_many_as_make_allows(&fifo_make(), true);
}

/// The end of a warning where a recipe has no `+`, and so gets no pipe.
const PLUS: &str = "begin the recipe line that calls kthinlto with `+`";

fn assert_one_job_and_a_warning(watched: &Watched, out: &Output, remedy: &str) {
    assert!(out.status.success(), "{}", text(&out.stderr));
    let warnings = warnings(out);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].ends_with(remedy), "{warnings:?}");
    assert_eq!((watched.most("cc"), watched.begun("cc")), (1, BACKENDS));
}

#[test]
fn a_recipe_without_plus_runs_one_job_at_a_time_and_says_so() {
    let watched = Watched::new();
    watched.compiler(1, COPY);
    let out = watched.make(&pipe_make(), "-j4", "", "");
    assert_one_job_and_a_warning(&watched, &out, PLUS);
    assert!(watched.most("") <= 4);
}

#[test]
fn a_disabled_jobserver_is_the_same() {
    // Make 4.4 with a pipe says so to a recipe without `+`.
    let make = Make { style: Some("--jobserver-style=pipe"), ..fifo_make() };
    let watched = Watched::new();
    watched.compiler(1, COPY);
    let out = watched.make(&make, "-j3", "", "");
    assert_one_job_and_a_warning(&watched, &out, PLUS);
    assert!(watched.most("") <= 3);
}

#[test]
fn a_fifo_serves_a_recipe_without_plus() {
    let watched = Watched::new();
    watched.compiler(3, COPY);
    let out = watched.make(&fifo_make(), "-j3", "", "");
    assert_good(&out);
    assert_eq!((watched.most("cc"), watched.most("")), (3, 3));
}

#[test]
fn descriptors_that_are_something_else_are_left_alone() {
    let watched = Watched::new();
    let (cc, ld) = (watched.compiler(1, COPY), watched.linker());
    let other = watched.tree.dir().join("other");
    fs::write(&other, "abc").unwrap();
    for (auth, remedy) in [
        ("3,4", PLUS),
        ("5,6", PLUS),
        ("7,7", PLUS),
        ("-2,-2", PLUS),
        ("sem:x", "a pipe, a fifo, a device or a socket"),
        ("fifo:/nonexistent", "is still running and that its files can be reached"),
    ] {
        fs::write(&watched.log, "").unwrap();
        let mut command = watched.tree.command("sh".as_ref());
        // 3 and 4 are a file, 5 and 6 are closed, 7 is a device that nobody serves.
        let script =
            "exec \"$0\" build built-in.a lib/lib.a 3<../other 4>>../other 5<&- 6<&- 7<>/dev/null";
        command.args(["-c", script, env!("CARGO_BIN_EXE_kthinlto")]);
        command.env("MAKEFLAGS", format!(" -j4 --jobserver-auth={auth}"));
        command.env("CC", &cc).env("LD", &ld);
        let out = Beside::start(command).end();
        assert_one_job_and_a_warning(&watched, &out, remedy);
        assert_eq!(fs::read(&other).unwrap(), b"abc");
        assert!(common::good(watched.tree.bare(&["clean"])).is_empty());
    }
}

#[test]
fn our_own_j_lowers_what_make_grants_and_never_raises_it() {
    for (make, ours, want) in [("-j4", "-j2", 2), ("-j2", "-j8", 2)] {
        let watched = Watched::new();
        watched.compiler(want, COPY);
        let out = watched.make(&pipe_make(), make, "+", ours);
        assert_good(&out);
        assert_eq!(watched.most("cc"), want as i32, "make {make}, kthinlto {ours}");
        assert!(watched.most("") <= make[2..].parse().unwrap());
    }
}

#[test]
fn make_without_a_jobserver() {
    let cores = std::thread::available_parallelism().unwrap().get().min(BACKENDS);
    for (jobs, want) in [("", 1), ("-j", cores)] {
        let watched = Watched::new();
        watched.compiler(want, COPY);
        let out = watched.make(&pipe_make(), jobs, "+", "");
        assert_good(&out);
        assert!(!watched.makeflags().contains("--jobserver"), "{}", watched.makeflags());
        assert_eq!(watched.most("cc"), want as i32, "make {jobs}");
        assert!(watched.most("ld") <= cores as i32);
    }
}

#[test]
fn no_make_at_all() {
    let cores = std::thread::available_parallelism().unwrap().get().min(BACKENDS);
    for (option, want) in [(Some("-j3"), 3), (Some("-j1"), 1), (None, cores)] {
        let watched = Watched::new();
        let mut command = watched.tree.bare(&["build", "built-in.a", "lib/lib.a"]);
        command.args(option).env("CC", watched.compiler(want, COPY)).env("LD", watched.linker());
        // Cargo's own jobserver is not ours.
        command.env("CARGO_MAKEFLAGS", "-j --jobserver-auth=3,4");
        assert_good(&Beside::start(command).end());
        assert_eq!(watched.most(""), want as i32, "{option:?}");
    }
}

/// A jobserver of the test's own, with tokens that can be told apart.
struct Server {
    read: OwnedFd,
    /// Kept open, as make keeps it.
    _write: OwnedFd,
    auth: String,
}

const TOKENS: &[u8] = b"abc";

impl Server {
    fn pipe() -> Self {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let auth = format!("{},{}", read.as_raw_fd(), write.as_raw_fd());
        Self::filled(read, write, auth)
    }

    /// A pair of sockets, used as a pipe.
    fn socket() -> Self {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let kind = (AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty());
        let (read, write) = socketpair(kind.0, kind.1, kind.2, None).unwrap();
        let auth = format!("{},{}", read.as_raw_fd(), write.as_raw_fd());
        Self::filled(read, write, auth)
    }

    fn fifo(tree: &Tree) -> Self {
        let path = tree.dir().join("fifo");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let open = || OwnedFd::from(File::options().read(true).write(true).open(&path).unwrap());
        Self::filled(open(), open(), format!("fifo:{}", path.display()))
    }

    fn filled(read: OwnedFd, write: OwnedFd, auth: String) -> Self {
        rustix::io::write(&write, TOKENS).unwrap();
        Server { read, _write: write, auth }
    }

    fn tokens_left(&self) -> usize {
        rustix::io::ioctl_fionread(self.read.as_fd()).unwrap() as usize
    }

    /// The bytes that are there now, sorted.
    fn tokens(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.tokens_left()];
        if !bytes.is_empty() {
            rustix::io::read(&self.read, &mut bytes).unwrap();
        }
        bytes.sort();
        bytes
    }
}

/// Runs kthinlto under a pipe, a fifo and a socket. `run` gets the command and what counts the
/// tokens that are left, and returns how it ended.
fn tokens_come_back(run: impl Fn(&Watched, Command, &Server) -> Output, code: i32) {
    for (kind, forks) in
        [("pipe", false), ("fifo", false), ("socket", false), ("pipe", true), ("fifo", true)]
    {
        let watched = Watched::with(forks);
        let server = match kind {
            "pipe" => Server::pipe(),
            "fifo" => Server::fifo(&watched.tree),
            _ => Server::socket(),
        };
        let mut command = watched.tree.bare(&["build", "built-in.a", "lib/lib.a"]);
        command.env("MAKEFLAGS", format!(" -j4 --jobserver-auth={}", server.auth));
        command.env("LD", watched.linker()).env("KTHINLTO_EXECUTOR", watched.executor());
        let out = run(&watched, command, &server);
        assert_eq!(out.status.code(), Some(code), "{}", text(&out.stderr));
        assert_eq!(warnings(&out), Vec::<String>::new());
        assert_eq!(text(&server.tokens()), text(TOKENS), "{}", server.auth);
    }
}

/// Runs all backends at once, with all tokens, each ending in `then`.
fn tokens_come_back_after(then: &str, code: i32, says: &str) {
    let run = |watched: &Watched, mut command: Command, _: &Server| {
        command.env("CC", watched.compiler(TOKENS.len() + 1, then));
        let out = Beside::start(command).end();
        assert!(watched.begun("cc") > TOKENS.len());
        assert!(says.is_empty() || sentences(&out)[0].contains(says), "{}", text(&out.stderr));
        out
    };
    tokens_come_back(run, code);
}

#[test]
fn tokens_come_back_after_success() {
    tokens_come_back_after(COPY, 0, "");
}

/// Readers of many files run on slots: while their output waits for its reader, they hold them.
#[test]
fn symvers_and_graph_take_no_more_threads_than_there_are_slots() {
    let tree = Tree::new();
    tree.build();
    tree.shell(
        "mkdir -p include/config && echo CONFIG_MODULES=y >include/config/auto.conf && \
         cp kernel/head.o vmlinux.o",
    );
    for (arguments, jobs, held) in [
        (["symvers", "--json"], "-j4", 3),
        (["symvers", "--json"], "-j2", 1),
        (["graph", "--format=json"], "-j4", 3),
        (["graph", "--format=json"], "-j1", 0),
    ] {
        let server = Server::pipe();
        let (mut reader, writer) = std::io::pipe().unwrap();
        // Full, so that whoever prints waits.
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        let filled = std::iter::from_fn(|| rustix::io::write(&writer, &[b' '; 4096]).ok());
        assert!(filled.sum::<usize>() > 0);
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
        let mut command = tree.bare(&arguments);
        command.arg(jobs).stdout(writer).stderr(std::process::Stdio::null());
        command.env("MAKEFLAGS", format!(" -j4 --jobserver-auth={}", server.auth));
        let mut running = command.spawn().unwrap();
        drop(command);
        until("the slots are taken", || server.tokens_left() == TOKENS.len() - held);
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(server.tokens_left(), TOKENS.len() - held, "and no more: {arguments:?}");
        let mut said = String::new();
        std::io::Read::read_to_string(&mut reader, &mut said).unwrap();
        assert!(running.wait().unwrap().success(), "{said}");
        assert!(said.contains('{'), "{said}");
        assert_eq!(text(&server.tokens()), text(TOKENS), "{arguments:?} {jobs}");
    }
}

#[test]
fn a_device_serves_tokens() {
    // One that never has enough of them: our own -j limits us.
    let watched = Watched::new();
    let mut command = watched.tree.bare(&["build", "built-in.a", "lib/lib.a", "-j3"]);
    command.env("MAKEFLAGS", " -j --jobserver-auth=fifo:/dev/zero");
    command.env("CC", watched.compiler(3, COPY)).env("LD", watched.linker());
    let out = Beside::start(command).end();
    assert_good(&out);
    assert_eq!((warnings(&out), watched.most("")), (Vec::new(), 3));
}

#[test]
fn no_second_job_above_the_load_of_make_l() {
    // Some process runs always, kthinlto itself while it looks.
    for (limit, most) in [("0.5", 1), ("100000", TOKENS.len() + 1)] {
        let watched = Watched::new();
        let server = Server::pipe();
        let mut command = watched.tree.bare(&["build", "built-in.a", "lib/lib.a"]);
        let flags = format!(" -j4 -l{limit} --jobserver-auth={}", server.auth);
        command.env("MAKEFLAGS", flags);
        command.env("CC", watched.compiler(most, COPY)).env("LD", watched.linker());
        assert_good(&Beside::start(command).end());
        assert_eq!((watched.most("cc"), watched.begun("cc")), (most as i32, BACKENDS), "-l{limit}");
        assert_eq!(text(&server.tokens()), text(TOKENS));
    }
}

#[test]
fn tokens_come_back_after_a_failed_backend() {
    tokens_come_back_after("exit 1", 1, "exited with 1");
}

#[test]
fn tokens_come_back_after_a_killed_backend() {
    tokens_come_back_after("kill -9 $$", 1, "was killed by signal 9 (SIGKILL)");
}

#[test]
fn tokens_come_back_after_a_failed_thin_link() {
    let run = |watched: &Watched, mut command: Command, _: &Server| {
        command.env("LD", watched.tree.linker("ld", "exit 1"));
        Beside::start(command).end()
    };
    tokens_come_back(run, 1);
}

#[test]
fn tokens_come_back_after_a_signal() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let run = |watched: &Watched, mut command: Command, server: &Server| {
            command.env("CC", watched.compiler(TOKENS.len() + 1, "exec sleep 600"));
            let kthinlto = Beside::start(command);
            until("all backends that may run", || watched.begun("cc") > TOKENS.len());
            assert_eq!(server.tokens_left(), 0);
            kthinlto.signal(signal);
            kthinlto.end()
        };
        tokens_come_back(run, code);
    }
}

#[test]
fn the_thin_link_has_a_thread_for_each_slot_that_is_free() {
    let cores = std::thread::available_parallelism().unwrap().get();
    for taken in 0..=TOKENS.len() {
        let watched = Watched::new();
        let server = Server::pipe();
        let held = &mut vec![0; taken][..];
        if taken > 0 {
            assert_eq!(rustix::io::read(&server.read, &mut *held).unwrap(), taken);
        }
        let mut command = watched.tree.bare(&["build", "built-in.a", "lib/lib.a"]);
        command.env("MAKEFLAGS", format!(" -j4 --jobserver-auth={}", server.auth));
        command.env("LD", watched.linker()).env("CC", watched.compiler(1, COPY));
        assert_good(&Beside::start(command).end());
        let threads = (TOKENS.len() - taken + 1).min(cores);
        assert_eq!(watched.most("ld"), threads as i32, "{taken} tokens are taken");
        assert_eq!(server.tokens_left(), TOKENS.len() - taken);
    }
}

#[test]
fn tokens_come_back_after_a_signal_in_the_thin_link() {
    let run = |watched: &Watched, mut command: Command, server: &Server| {
        let body = format!("echo '+1 ld' >> {}\nexec sleep 600", watched.log.display());
        command.env("LD", watched.tree.linker("ld", &body));
        let kthinlto = Beside::start(command);
        until("the linker", || watched.begun("ld") > 0);
        let cores = std::thread::available_parallelism().unwrap().get();
        let taken = TOKENS.len().min(cores - 1);
        assert_eq!(server.tokens_left(), TOKENS.len() - taken, "one for each thread but one");
        kthinlto.signal(Signal::INT);
        kthinlto.end()
    };
    tokens_come_back(run, 130);
}
