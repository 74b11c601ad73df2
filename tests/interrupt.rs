//! Signals and kills at every moment: everything that was started ends and is reaped, no
//! half-written file is left, and the next build makes the same bytes as an undisturbed one.

#![cfg(feature = "program")]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{
    Beside, Tree, assert_holds, assert_same, fails, good, heed_signals, sentences, text, tool,
    until,
};
use rustix::process::Signal;

/// Backends of the tree.
const BACKENDS: usize = 12;

/// `vmlinux.a` of an earlier build.
const OLD: &str = "the old one";

/// What clang has written when it is cut short.
const HALF: &str = "echo half > $out; echo half > ${out%.o}-12345678.o.tmp\n";

/// What a compiler or linker does while it holds; it has started a process of its own.
const HOLD: &str = "echo half > $out; echo half > ${out%.o}-12345678.o.tmp\n\
                    sleep 600 & echo $$ $! >> $pids; wait; exit 1";

/// The same with no process of its own: nobody could end that one after a kill.
const HOLD_ALONE: &str = "echo $$ $$ >> $pids; exec sleep 600";

/// A tree whose compiler and linker hold for as long as a file is there.
struct Held {
    executor: &'static str,
    tree: Tree,
    cc: String,
    ld: String,
}

impl Held {
    /// `hold` is what they do then; else they are the real ones.
    fn new(hold: &str) -> Self {
        Self::with(hold, false)
    }

    /// The same, with backends as copies that a fork server makes.
    fn with(hold: &str, forks: bool) -> Self {
        // Orphans come to this process: a child that kthinlto did not reap stays visible.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let tree = Tree::new();
        tree.write_object("vmlinux.a", OLD);
        let dir = tree.dir().display().to_string();
        let body = |name: &str, real: &str| {
            let real = tool(real);
            format!(
                "pids={dir}/pids\nif [ -e {dir}/hold-{name} ]; then {hold}\nfi\nexec {real} \"$@\""
            )
        };
        let mut cc = tree.compiler("cc", &body("cc", "clang"));
        if forks {
            let note = format!(
                "if (forked) {{ FILE *log = fopen(\"{dir}/servers\", \"a\"); \
                 fprintf(log, \"%d\\n\", born); fclose(log); }}"
            );
            cc = tree.program("clang-cc", &cc, "", "", &note);
        }
        let ld = tree.linker("ld", &format!("out={dir}/x.o\n{}", body("ld", "ld.lld")));
        let executor = if forks { "fork-server" } else { "process" };
        Held { executor, tree, cc, ld }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tree.dir().join(name)
    }

    fn hold(&self, name: &str) {
        fs::write(self.path(&format!("hold-{name}")), "").unwrap();
    }

    fn go_on(&self) {
        for name in ["hold-cc", "hold-ld"] {
            let _ = fs::remove_file(self.path(name));
        }
    }

    fn command(&self) -> Command {
        let mut command = self.tree.kthinlto();
        command.env("CC", &self.cc).env("LD", &self.ld);
        command.env("KTHINLTO_EXECUTOR", self.executor);
        command
    }

    /// Processes of fork servers that made copies.
    fn servers(&self) -> Vec<u32> {
        let lines = fs::read_to_string(self.path("servers")).unwrap_or_default();
        lines.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Starts kthinlto, and waits until `count` of its children hold.
    fn start(&self, count: usize) -> Beside {
        self.start_as(self.command(), count)
    }

    fn start_as(&self, command: Command, count: usize) -> Beside {
        let _ = fs::remove_file(self.path("pids"));
        let kthinlto = Beside::start(command);
        until("children that hold", || self.started().len() == count);
        kthinlto
    }

    /// The children that held: their numbers, and those of their own children.
    fn started(&self) -> Vec<(u32, u32)> {
        let lines = fs::read_to_string(self.path("pids")).unwrap_or_default();
        let whole = lines.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let number = |text: Option<&str>| text.unwrap().parse().unwrap();
        let pair = |line: &str| {
            let mut words = line.split_whitespace();
            (number(words.next()), number(words.next()))
        };
        whole.map(pair).collect()
    }

    /// Everything that was started has ended, and kthinlto waited for its own.
    fn assert_ended(&self) {
        for (child, grandchild) in self.started() {
            assert!(!Path::new(&format!("/proc/{child}")).exists(), "{child} was not reaped");
            until("the end of a child's child", || is_gone(grandchild));
        }
        for server in self.servers() {
            assert!(!Path::new(&format!("/proc/{server}")).exists(), "{server} was not reaped");
        }
    }

    fn assert_nothing_half_done(&self) {
        assert_eq!(self.temporaries(), "");
        assert_eq!(fs::read_to_string(self.tree.objects.join("vmlinux.a")).unwrap(), OLD);
        assert!(!self.tree.objects.join(".kthinlto/link").exists());
    }

    fn temporaries(&self) -> String {
        self.tree.shell("find . -name '.tmp_*' -o -name '*.tmp'")
    }

    /// An undisturbed build after it all.
    fn assert_next_build_is_good(&self) {
        self.go_on();
        good(self.command());
        assert_same(&self.tree.outputs(), &self.tree.want());
        assert_eq!(self.temporaries(), "");
    }
}

/// Ended; a dead process stays a zombie until its new parent looks.
fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// Interrupts a build while `name` (`cc` or `ld`) holds.
fn interrupted(name: &str, children: usize, signal: Signal, code: i32) -> Held {
    interrupted_with(Held::new(HOLD), name, children, signal, code)
}

fn interrupted_with(held: Held, name: &str, children: usize, signal: Signal, code: i32) -> Held {
    held.hold(name);
    let kthinlto = held.start(children);
    kthinlto.signal(signal);
    let out = kthinlto.end();
    assert_eq!(out.status.code(), Some(code), "{}", text(&out.stderr));
    let sentences = sentences(&out);
    assert_eq!(sentences.len(), 1, "{sentences:?}");
    assert_holds(&sentences[0], &["interrupted by signal", "finished objects are kept"]);
    held.assert_ended();
    held.assert_nothing_half_done();
    held
}

#[test]
fn sigint_while_backends_run() {
    let held = interrupted("cc", 2, Signal::INT, 130);
    assert!(!held.tree.outputs().keys().any(|name| name.ends_with(".thinlto-native.o")));
    held.assert_next_build_is_good();
}

#[test]
fn signals_while_copies_run() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let held = interrupted_with(Held::with(HOLD, true), "cc", 2, signal, code);
        assert_eq!(held.servers().len(), 2, "both were copies");
        held.assert_next_build_is_good();
    }
}

#[test]
fn copies_that_ignore_sigterm_or_outlive_their_parent_are_killed() {
    for hold in [
        format!("trap '' TERM\n{HOLD}"),
        "(trap '' TERM; exec sleep 600) & echo $$ $! >> $pids; wait".to_owned(),
    ] {
        let held = Held::with(&hold, true);
        held.hold("cc");
        let kthinlto = held.start(2);
        kthinlto.signal(Signal::INT);
        assert_eq!(kthinlto.end().status.code(), Some(130));
        held.assert_ended();
        assert_eq!(held.servers().len(), 2);
    }
}

#[test]
fn a_kill_takes_copies_and_their_server_with_it() {
    let held = Held::with(HOLD_ALONE, true);
    held.hold("cc");
    let kthinlto = held.start(2);
    kthinlto.signal(Signal::KILL);
    kthinlto.end();
    let copies = held.started().into_iter().map(|(pid, _)| pid);
    for pid in copies.chain(held.servers()) {
        until("the end of a copy or its server", || is_gone(pid));
    }
    assert_eq!(held.servers().len(), 2);
    held.assert_next_build_is_good();
}

#[test]
fn sigint_while_a_fork_server_gets_ready() {
    let tree = Tree::new();
    let ready = tree.dir().join("getting-ready");
    let begin = format!(
        "if (getenv(\"KTHINLTO_FORK_SERVER\")) {{ fclose(fopen(\"{}\", \"w\")); for (;;) pause(); }}",
        ready.display()
    );
    let cc = tree.program("clang-slow", &tool("clang"), "", &begin, "");
    let mut command = tree.kthinlto();
    command.env("CC", cc).env("KTHINLTO_EXECUTOR", "fork-server");
    let kthinlto = Beside::start(command);
    until("the server's process", || ready.exists());
    let start = Instant::now();
    kthinlto.signal(Signal::INT);
    assert_eq!(kthinlto.end().status.code(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(30), "it waited for the server all the same");
}

#[test]
fn sigint_in_the_thin_link() {
    let held = interrupted("ld", 1, Signal::INT, 130);
    assert!(!held.tree.outputs().keys().any(|name| name.ends_with(".thinlto.bc")));
    held.assert_next_build_is_good();
}

#[test]
fn sigterm_and_others() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)] {
        interrupted("cc", 2, signal, code);
        interrupted("ld", 1, signal, code);
    }
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    // As under nohup, and in a shell's background jobs.
    let held = Held::new(HOLD);
    held.hold("cc");
    let mut command = held.tree.command("sh".as_ref());
    let script = "trap '' HUP INT; exec \"$0\" build built-in.a lib/lib.a -j2";
    command.args(["-c", script, env!("CARGO_BIN_EXE_kthinlto")]);
    command.env("CC", &held.cc).env("LD", &held.ld);
    let kthinlto = held.start_as(command, 2);
    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        kthinlto.signal(signal);
    }
    assert_eq!(kthinlto.end().status.code(), Some(143));
    held.assert_ended();
}

#[test]
fn a_make_that_is_terminated_takes_all_with_it() {
    let held = Held::new(HOLD);
    held.hold("cc");
    let kthinlto = env!("CARGO_BIN_EXE_kthinlto");
    let makefile = format!("all:\n\t+@{kthinlto} build built-in.a lib/lib.a\n.PHONY: all\n");
    fs::write(held.path("Makefile"), makefile).unwrap();
    let mut command = held.tree.command("make".as_ref());
    command.arg("-f").arg(held.path("Makefile")).arg("-j3");
    command.env("CC", &held.cc).env("LD", &held.ld);
    let make = held.start_as(command, 3);
    make.signal(Signal::TERM);
    let out = make.end();
    assert_holds(&text(&out.stderr), &["interrupted by signal 15"]);
    held.assert_ended();
    held.assert_nothing_half_done();
}

/// What ps(1) calls a process's state: `T` is a stopped one.
fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").map_or(' ', |(_, rest)| rest.chars().next().unwrap_or(' '))
}

#[test]
fn ctrl_z_stops_what_runs_and_it_goes_on_with_us() {
    for forks in [false, true] {
        // It waits in a process of its own, which is to stop as well.
        let hold = "(read line < ${pids%pids}gate) & echo $$ $! >> $pids; wait $!";
        let held = Held::with(hold, forks);
        held.tree.shell("mkfifo ../gate");
        held.hold("cc");
        let kthinlto = held.start(2);
        let ours = kthinlto.pid().as_raw_nonzero().get() as u32;
        let all: Vec<u32> =
            held.started().into_iter().flat_map(|(a, b)| [a, b]).chain([ours]).collect();
        for _ in 0..2 {
            kthinlto.signal(Signal::TSTP);
            until("the stop of all", || all.iter().all(|pid| state(*pid) == 'T'));
            kthinlto.signal(Signal::CONT);
            until("that all go on", || all.iter().all(|pid| state(*pid) != 'T'));
        }
        held.go_on();
        let mut gate = fs::File::options().read(true).write(true).open(held.path("gate")).unwrap();
        gate.write_all(b"\n\n").unwrap();
        assert!(kthinlto.end().status.success());
        assert_same(&held.tree.outputs(), &held.tree.want());
    }
}

#[test]
fn a_stopped_run_can_be_ended() {
    let held = Held::new(HOLD);
    held.hold("cc");
    let kthinlto = held.start(2);
    let ours = kthinlto.pid().as_raw_nonzero().get() as u32;
    kthinlto.signal(Signal::TSTP);
    until("the stop", || state(ours) == 'T');
    // As a shell's kill does.
    kthinlto.signal(Signal::TERM);
    kthinlto.signal(Signal::CONT);
    assert_eq!(kthinlto.end().status.code(), Some(143));
    held.assert_ended();
}

#[test]
fn an_ignored_sigchld_is_heeded() {
    for executor in ["process", "fork-server"] {
        let tree = Tree::new();
        let mut command = tree.kthinlto();
        command.env("KTHINLTO_EXECUTOR", executor);
        // SAFETY: sigaction(2) of the child alone, before it is the program.
        unsafe {
            command.pre_exec(|| match libc::signal(libc::SIGCHLD, libc::SIG_IGN) {
                libc::SIG_ERR => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let out = Beside::start(command).end();
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert_same(&tree.outputs(), &tree.want());
    }
}

#[test]
fn a_signal_ends_us_again_where_nobody_waits_for_it_any_more() {
    // The library in a program of its own: this test's, started once more.
    const NAME: &str = "a_signal_ends_us_again_where_nobody_waits_for_it_any_more";
    if std::env::var_os("KTHINLTO_TEST_SIGNAL").is_some() {
        for _ in 0..2 {
            let caught = kthinlto::exec::interrupt::Interrupts::catch().unwrap();
            signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
            assert_eq!(caught.signal(), Some(15));
        }
        signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
        panic!("still here");
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", NAME]).env("KTHINLTO_TEST_SIGNAL", "1");
    heed_signals();
    let status = command.output().unwrap().status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15), "{status}");
}

#[test]
fn who_ignores_sigterm_is_killed() {
    let held = Held::new(&format!("trap '' TERM\n{HOLD}"));
    held.hold("cc");
    let kthinlto = held.start(2);
    kthinlto.signal(Signal::TERM);
    assert_eq!(kthinlto.end().status.code(), Some(143));
    held.assert_ended();
    held.assert_nothing_half_done();
}

#[test]
fn who_outlives_its_parent_is_killed() {
    let held = Held::new("(trap '' TERM; exec sleep 600) & echo $$ $! >> $pids; wait");
    for (name, children) in [("ld", 1), ("cc", 2)] {
        held.hold(name);
        let kthinlto = held.start(children);
        kthinlto.signal(Signal::INT);
        assert_eq!(kthinlto.end().status.code(), Some(130));
        held.assert_ended();
        held.go_on();
    }
}

#[test]
fn a_second_signal_kills_at_once() {
    let grace = Duration::from_secs(3);
    let held = Held::new(
        "trap 'echo $$ >> ${pids%pids}asked' TERM; sleep 600 & echo $$ $! >> $pids\n\
         while :; do sleep 0.05; done",
    );
    held.hold("cc");
    // Quicker than the grace, once: a loaded machine may need longer for anything.
    let quick = (0..5).any(|_| {
        let kthinlto = held.start(2);
        let start = Instant::now();
        kthinlto.signal(Signal::INT);
        let asked = || fs::read_to_string(held.path("asked")).unwrap_or_default();
        until("a SIGTERM for the children", || asked().lines().count() == 2);
        fs::remove_file(held.path("asked")).unwrap();
        kthinlto.signal(Signal::INT);
        assert_eq!(kthinlto.end().status.code(), Some(130));
        let quick = start.elapsed() < grace;
        held.assert_ended();
        quick
    });
    assert!(quick);
    held.assert_nothing_half_done();
}

#[test]
fn a_kill_costs_no_more_than_what_was_in_flight() {
    // Each backend that begins is written down; from the `stop`th on they hold.
    let held = Held::new(HOLD_ALONE);
    let dir = held.tree.dir().display();
    let cc = held.tree.compiler(
        "cc",
        &format!(
            "echo $$ >> {dir}/begun
             if [ -e {dir}/stop ] && [ $(wc -l < {dir}/begun) -ge $(cat {dir}/stop) ]; then
             {HALF}exec sleep 600
             fi
             exec {} \"$@\"",
            tool("clang")
        ),
    );
    let begun = || fs::read_to_string(held.path("begun")).unwrap_or_default().lines().count();
    let command = || {
        let mut command = held.command();
        command.env("CC", &cc);
        command
    };
    let points = [1, 2, 4, 1, 3];
    for more in points {
        let stop = begun() + more;
        fs::write(held.path("stop"), stop.to_string()).unwrap();
        let kthinlto = Beside::start(command());
        until("a backend", || begun() >= stop);
        kthinlto.signal(Signal::KILL);
        kthinlto.end();
        for pid in fs::read_to_string(held.path("begun")).unwrap().lines() {
            until("the end of a backend", || is_gone(pid.parse().unwrap()));
        }
    }
    fs::remove_file(held.path("stop")).unwrap();
    good(command());
    assert!(begun() <= BACKENDS + 2 * points.len(), "{} backends for {BACKENDS}", begun());
    assert_same(&held.tree.outputs(), &held.tree.want());
    assert_eq!(held.temporaries(), "");
}

#[test]
fn a_kill_in_the_thin_link_does_not_stop_the_next() {
    let held = Held::new(HOLD_ALONE);
    held.hold("ld");
    let kthinlto = held.start(1);
    kthinlto.signal(Signal::KILL);
    kthinlto.end();
    until("the end of the linker", || is_gone(held.started()[0].0));
    held.assert_next_build_is_good();
}

#[test]
fn a_second_kthinlto_in_the_tree_is_told_who_runs() {
    let held = Held::new(HOLD_ALONE);
    held.hold("ld");
    let first = held.start(1);
    let pid = first.pid().as_raw_nonzero().to_string();
    let pieces = ["another kthinlto", pid.as_str(), "is running", "use another O="];
    fails(held.command(), 6, &pieces);
    fails(held.tree.bare(&["clean"]), 6, &pieces);
    first.signal(Signal::KILL);
    first.end();
    held.assert_next_build_is_good();
}
