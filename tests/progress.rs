//! Progress as a person sees it: the real program on a pseudo terminal, what it draws put on a
//! screen by an independent terminal parser.

#![cfg(feature = "program")]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use common::{Tree, tool, until};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// A terminal of some size, and what is on its screen.
struct Terminal {
    master: File,
    state: Arc<Mutex<State>>,
    reader: Option<JoinHandle<()>>,
    child: Option<Child>,
}

/// What the terminal shows, all that it was sent, and the screens on the way.
struct State {
    parser: vt100::Parser,
    sent: Vec<u8>,
}

fn some(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap()
}

impl Terminal {
    fn new(columns: u16, rows: u16) -> Self {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let parser = vt100::Parser::new(some(rows), some(columns), 1000);
        let state = Arc::new(Mutex::new(State { parser, sent: Vec::new() }));
        let terminal = Terminal { master: File::from(master), state, reader: None, child: None };
        terminal.tell_size(columns, rows);
        terminal
    }

    fn tell_size(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    fn resize(&self, columns: u16, rows: u16) {
        let mut state = self.state.lock().unwrap();
        state.parser.screen_mut().set_size(some(rows), some(columns));
        self.tell_size(columns, rows);
    }

    /// Starts a program with standard output and standard error on this terminal.
    fn start(&mut self, mut command: Command) {
        let name = rustix::pty::ptsname(&self.master, Vec::new()).unwrap();
        let slave: OwnedFd =
            File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap().into();
        command.stdout(Stdio::from(slave.try_clone().unwrap())).stderr(Stdio::from(slave));
        self.child = Some(command.spawn().unwrap());
        drop(command); // its copies of the terminal: the reader ends when the program's are closed
        let (mut master, state) = (self.master.try_clone().unwrap(), Arc::clone(&self.state));
        self.reader = Some(std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                let mut state = state.lock().unwrap();
                state.parser.process(&bytes[..count]);
                state.sent.extend_from_slice(&bytes[..count]);
            }
        }));
    }

    /// The rows of the screen, but for empty ones at the end.
    fn rows(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let columns = state.parser.screen().size().1;
        let rows =
            state.parser.screen().rows(0, columns.into()).map(|row| row.trim_end().to_owned());
        let mut rows: Vec<String> = rows.collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }

    fn sent(&self) -> String {
        String::from_utf8(self.state.lock().unwrap().sent.clone()).unwrap()
    }

    /// Waits until the screen's rows are as wanted; returns them.
    fn until(&self, what: &str, holds: impl Fn(&[String]) -> bool) -> Vec<String> {
        let start = std::time::Instant::now();
        while !holds(&self.rows()) {
            let screen = self.rows().join("\n");
            assert!(start.elapsed().as_secs() < 60, "never: {what}; the screen:\n{screen}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        self.rows()
    }

    /// Waits for the program's end; returns its exit code.
    fn end(&mut self) -> i32 {
        let mut child = self.child.take().unwrap();
        until("the end of the program", || child.try_wait().unwrap().is_some());
        self.reader.take().unwrap().join().unwrap();
        child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A tree whose compiler holds at each object that has a file of its name.
struct Held {
    tree: Tree,
    cc: String,
}

impl Held {
    fn new() -> Self {
        let tree = Tree::new();
        let body = format!(
            "base=$(basename $object .o)\nwhile [ -e {0}/hold-$base ]; do sleep 0.02; done\n\
             if [ -e {0}/fail-$base ]; then echo \"error: no $base today\"; exit 1; fi\n\
             exec {1} \"$@\"",
            tree.dir().display(),
            tool("clang")
        );
        let cc = tree.compiler("cc", &body);
        Held { tree, cc }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tree.dir().join(name)
    }

    fn hold(&self, names: &[&str]) {
        names.iter().for_each(|name| fs::write(self.path(&format!("hold-{name}")), "").unwrap());
    }

    fn release(&self, names: &[&str]) {
        names.iter().for_each(|name| fs::remove_file(self.path(&format!("hold-{name}"))).unwrap());
    }

    fn fail(&self, names: &[&str]) {
        names.iter().for_each(|name| fs::write(self.path(&format!("fail-{name}")), "").unwrap());
    }

    fn command(&self) -> Command {
        let mut command = self.tree.kthinlto();
        command.env("CC", &self.cc).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        command
    }
}

/// The backends' objects, in the order in which they start is not known: all of them.
const ALL: [&str; 12] =
    ["main", "a", "b", "deep", "configs", "alone", "w0", "w1", "w2", "w3", "w4", "w5"];

fn status(rows: &[String]) -> Vec<&str> {
    let rows = rows.iter().map(String::as_str);
    rows.filter(|row| row.contains(" [") || row.contains(" running ")).collect()
}

/// What a listener without a terminal is told.
fn plain_lines(held: &Held) -> Vec<String> {
    let text = common::good(held.command());
    text.lines().map(str::to_owned).collect()
}

/// Runs on a terminal of a width: held, half released, then to its end.
fn lines_at(columns: u16) {
    let held = Held::new();
    let mut terminal = Terminal::new(columns, 24);
    held.hold(&ALL);
    terminal.start(held.command());
    let aged = |rows: &[String]| status(rows).len() == 2 && !status(rows)[1].contains(" 0s");
    let rows = terminal.until("two backends that run for a second", aged);
    let [counts, running] = status(&rows)[..] else { panic!("{rows:#?}") };
    assert!(counts.starts_with("  THINLTO [0/12] 0%"), "{counts}");
    assert!(running.starts_with("  running init/main.o "), "{running}");
    let second = if columns < 60 { "s, +1" } else { "s, kernel/sub/deep.o " };
    assert!(running.contains(second), "{running}");
    held.release(&ALL[..11]);
    let last = |rows: &[String]| rows.iter().any(|row| row.starts_with("  THINLTO [11/12] 91%"));
    let rows = terminal.until("all but one", last);
    assert_eq!(status(&rows).len(), 2, "{rows:#?}");
    assert!(status(&rows)[1].starts_with("  running lib/w5.o "), "{rows:#?}");
    held.release(&ALL[11..]);
    assert_eq!(terminal.end(), 0);
    let end = terminal.rows();
    assert_eq!(status(&end), Vec::<&str>::new(), "they are gone: {end:#?}");
    // Kbuild's lines are all there, as if there were no progress.
    let lines = end.iter().filter(|row| row.starts_with("  CC  ")).count();
    assert_eq!(lines, 12, "{end:#?}");
    let widest = format!("  {:<7} kernel/sub/deep.thinlto-native.o", "CC");
    assert!(end.concat().contains(&widest), "{end:#?}");
}

#[test]
fn on_eighty_columns() {
    lines_at(80);
}

#[test]
fn on_forty_columns() {
    lines_at(40);
}

#[test]
fn a_resized_terminal_keeps_one_set_of_lines() {
    let held = Held::new();
    let mut terminal = Terminal::new(80, 24);
    held.hold(&ALL);
    held.fail(&["main"]);
    terminal.start(held.command());
    terminal.until("lines", |rows| status(rows).len() == 2);
    for columns in [40, 23, 100] {
        terminal.resize(columns, 20);
        let drawn = terminal.sent().len();
        until("another drawing", || terminal.sent().len() > drawn);
        let rows = terminal.until("the lines, once", |rows| {
            let lines = status(rows);
            lines.len() == 2 && lines.iter().all(|row| row.len() < columns.into())
        });
        assert!(rows[rows.len() - 2].contains("[0/12]"), "{rows:#?}");
    }
    held.release(&ALL);
    assert_eq!(terminal.end(), 1);
    let end = terminal.rows();
    assert_eq!(status(&end), Vec::<&str>::new(), "{end:#?}");
}

#[test]
fn a_run_leaves_the_same_lines_with_and_without_progress() {
    let held = Held::new();
    let without = plain_lines(&held);
    held.tree.shell("rm -rf .kthinlto; rm -f vmlinux.a built-in-fixup.a builtin.order");
    held.hold(&["alone"]);
    let mut terminal = Terminal::new(80, 40);
    terminal.start(held.command());
    terminal.until("lines", |rows| status(rows).len() == 2);
    held.release(&["alone"]);
    assert_eq!(terminal.end(), 0);
    let steps = |lines: &[String]| {
        let mut lines: Vec<String> =
            lines.iter().filter(|line| !line.contains("THINLTO")).cloned().collect();
        lines.sort();
        lines
    };
    assert_eq!(steps(&terminal.rows()), steps(&without));
    assert!(terminal.rows().last().unwrap().starts_with("  THINLTO 12 modules: "));
}

#[test]
fn failures_stay_on_the_screen() {
    let held = Held::new();
    held.hold(&["w5"]);
    held.fail(&["a", "w1"]);
    let mut terminal = Terminal::new(80, 12);
    let mut command = held.command();
    command.arg("-k");
    terminal.start(command);
    let rows = terminal.until("two failures, and the last backend", |rows| {
        rows.iter().any(|row| row.contains("[11/12] 91%"))
    });
    let failed: Vec<&String> = rows.iter().filter(|row| row.starts_with("  FAILED  ")).collect();
    assert_eq!(failed.len(), 2, "{rows:#?}");
    assert!(failed.iter().any(|row| *row == "  FAILED  kernel/a.o"), "{rows:#?}");
    assert!(terminal.sent().contains("\x1b[31m  FAILED  "), "in red");
    held.release(&["w5"]);
    assert_eq!(terminal.end(), 1);
    let end = terminal.rows();
    let at = end.iter().position(|row| row == "  FAILED  kernel/a.o").expect("named at the end");
    assert!(end[at..].iter().any(|row| row.contains("2 of 12 backends failed")), "{end:#?}");
    assert_eq!(status(&end), Vec::<&str>::new());
}

#[test]
fn no_color_takes_the_colour_and_leaves_the_progress() {
    let held = Held::new();
    held.hold(&["w5"]);
    held.fail(&["a"]);
    let mut terminal = Terminal::new(80, 24);
    let mut command = held.command();
    command.arg("-k").env("NO_COLOR", "1");
    terminal.start(command);
    terminal.until("a failure", |rows| rows.iter().any(|row| row.starts_with("  FAILED  ")));
    held.release(&["w5"]);
    terminal.end();
    assert!(!terminal.sent().contains("\x1b[31m"), "{}", terminal.sent());
}

/// No byte but text and ends of lines was sent.
fn assert_plain(set: impl FnOnce(&mut Command)) -> String {
    let held = Held::new();
    held.hold(&["w5"]);
    let mut terminal = Terminal::new(80, 24);
    let mut command = held.command();
    set(&mut command);
    terminal.start(command);
    // Longer than it takes for the first lines to be drawn.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    held.release(&["w5"]);
    assert_eq!(terminal.end(), 0);
    let sent = terminal.sent();
    assert!(!sent.contains('\x1b') && !sent.replace("\r\n", "").contains('\r'), "{sent:?}");
    sent
}

#[test]
fn a_dumb_terminal_has_no_progress() {
    assert_plain(|command| _ = command.env("TERM", "dumb"));
    assert_plain(|command| _ = command.env_remove("TERM"));
}

#[test]
fn silence_is_silence() {
    assert_eq!(assert_plain(|command| _ = command.arg("-q")), "");
    assert_eq!(assert_plain(|command| _ = command.env("MAKEFLAGS", "s -j2")), "");
}

#[test]
fn it_can_be_switched_off() {
    assert_plain(|command| _ = command.env("KTHINLTO_PROGRESS", "never"));
    assert_plain(|command| _ = command.arg("--progress=never"));
}

/// Make lets recipes that begin with `+` write to the terminal even then.
#[test]
fn makes_output_sync_has_no_progress() {
    let sent = assert_plain(|command| {
        let kthinlto = command.get_program().to_string_lossy().into_owned();
        let place = command.get_current_dir().unwrap().join("Makefile");
        fs::write(&place, format!("all:\n\t+@{kthinlto} build built-in.a lib/lib.a\n")).unwrap();
        let mut make = Command::new("make");
        make.args(["-j2", "-O"]).current_dir(place.parent().unwrap());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => make.env(name, value),
                None => make.env_remove(name),
            };
        }
        *command = make;
    });
    assert!(sent.contains("  CC      lib/alone.thinlto-native.o\r\n"), "{sent}");
}

#[test]
fn a_pipe_has_no_progress() {
    let held = Held::new();
    let out = held.command().output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", common::text(&out.stderr));
    assert!(!out.stdout.contains(&0x1b));
}
