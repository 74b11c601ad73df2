//! Kbuild's lines on a console or in a log: short ones, commands with `V=1`, reasons with
//! `V=2`, nothing with `-s`. Compiler messages are passed on whole.
//!
//! Format: `scripts/Kbuild.include` of Linux 6.3 and later (`log_print`, `why`).

use std::io::{self, Write};

use super::plain::plain;
use super::{Event, Listener, Summary};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verbosity {
    /// `-s`, `-q`: only what went wrong.
    pub silent: bool,
    /// `V=1`: full commands.
    pub commands: bool,
    /// `V=2`: why each file is made.
    pub reasons: bool,
}

impl Verbosity {
    /// From `KBUILD_VERBOSE`: any of the digits 1 and 2, as kbuild looks for them.
    pub fn from_kbuild(value: &str) -> Self {
        Verbosity { silent: false, commands: value.contains('1'), reasons: value.contains('2') }
    }
}

/// Writes to standard output and, what went wrong, to standard error.
#[derive(Debug)]
pub struct Console {
    verbosity: Verbosity,
}

impl Console {
    /// A console that says as much as asked.
    pub fn new(verbosity: Verbosity) -> Self {
        Console { verbosity }
    }
}

impl Listener for Console {
    fn on(&mut self, event: &Event<'_>) {
        let (out, err) = render(self.verbosity, event);
        // Nobody reads any more: that is no reason to stop a build.
        let _ = io::stdout().lock().write_all(&out).and_then(|()| io::stdout().flush());
        let _ = io::stderr().lock().write_all(&err);
    }
}

/// What an event looks like on standard output and on standard error.
pub(super) fn render(verbosity: Verbosity, event: &Event<'_>) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    match event {
        Event::Step { .. } | Event::Done(_) if verbosity.silent => {}
        Event::Step { verb, target, command, why } => {
            out = ours(&step(verbosity, verb, target, command, why));
        }
        Event::Output(bytes) => {
            err.extend_from_slice(bytes);
            if bytes.last().is_some_and(|last| *last != b'\n') {
                err.push(b'\n');
            }
        }
        Event::Note(text) if verbosity.commands && !verbosity.silent => {
            out = ours(&format!("# {text}\n"));
        }
        Event::Note(_) => {}
        Event::Warning(text) => err = ours(&format!("kthinlto: warning: {text}\n")),
        Event::Failure(text) => err = ours(&format!("kthinlto: {text}\n")),
        Event::Done(summary) => out = ours(&done(summary)),
        _ => {}
    }
    (out, err)
}

fn ours(text: &str) -> Vec<u8> {
    plain(text).into_owned().into_bytes()
}

fn step(verbosity: Verbosity, verb: &str, target: &str, command: &str, why: &str) -> String {
    let why = match verbosity.reasons && !why.is_empty() {
        true => format!(" - due to {why}"),
        false => String::new(),
    };
    let short = format!("{verb:<7} {target}{why}");
    match verbosity.commands {
        true => format!("# {short}\n  {command}\n"),
        false => format!("  {short}\n"),
    }
}

fn done(summary: &Summary) -> String {
    let Summary { modules, up_to_date, from_cache, rebuilt, .. } = summary;
    let seconds = summary.time.as_secs_f64();
    let of_them = |number| match number {
        0 => String::new(),
        number => format!(" ({number} remote)"),
    };
    let [taken, made] = [summary.from_remote_cache, summary.rebuilt_remotely].map(of_them);
    format!(
        "  {:<7} {modules} modules: {up_to_date} up to date, {from_cache} from cache{taken}, \
         {rebuilt} rebuilt{made}, {seconds:.2} s\n",
        "THINLTO"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Event<'_> = Event::Step {
        verb: "CC",
        target: "a.thinlto-native.o",
        command: "clang -c",
        why: "its flags",
    };

    fn shown(verbose: &str) -> String {
        let (out, _) = render(Verbosity::from_kbuild(verbose), &STEP);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_kbuilds() {
        assert_eq!(shown(""), "  CC      a.thinlto-native.o\n");
        assert_eq!(shown("0"), "  CC      a.thinlto-native.o\n");
        assert_eq!(shown("1"), "# CC      a.thinlto-native.o\n  clang -c\n");
        assert_eq!(shown("2"), "  CC      a.thinlto-native.o - due to its flags\n");
        assert_eq!(shown("12"), "# CC      a.thinlto-native.o - due to its flags\n  clang -c\n");
    }

    #[test]
    fn what_other_machines_did_is_said_where_there_were_some() {
        let mut summary = Summary { modules: 9, from_cache: 4, rebuilt: 5, ..Summary::default() };
        let alone = "  THINLTO 9 modules: 0 up to date, 4 from cache, 5 rebuilt, 0.00 s\n";
        assert_eq!(done(&summary), alone);
        (summary.from_remote_cache, summary.rebuilt_remotely) = (4, 3);
        let helped = "  THINLTO 9 modules: 0 up to date, 4 from cache (4 remote), 5 rebuilt (3 remote), 0.00 s\n";
        assert_eq!(done(&summary), helped);
    }

    #[test]
    fn names_do_not_act_on_a_terminal_and_compilers_output_is_theirs() {
        let step = Event::Step {
            verb: "CC",
            target: "\x1b]0;x\x07\x1b[31mred.o",
            command: "clang '\x1b[2J'",
            why: "\u{202e}",
        };
        let (out, _) = render(Verbosity::from_kbuild("12"), &step);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "# CC      \\x1b]0;x\\x07\\x1b[31mred.o - due to \\u{202e}\n  clang '\\x1b[2J'\n"
        );
        let failure = render(Verbosity::default(), &Event::Failure("\x1b[2J failed")).1;
        assert_eq!(failure, b"kthinlto: \\x1b[2J failed\n");
        let coloured = b"\x1b[1merror:\x1b[m\n";
        assert_eq!(render(Verbosity::default(), &Event::Output(coloured)).1, coloured);
    }

    #[test]
    fn silence_is_for_progress_not_for_failures() {
        let silent = Verbosity { silent: true, ..Verbosity::default() };
        assert_eq!(render(silent, &STEP), (vec![], vec![]));
        assert_eq!(render(Verbosity::default(), &Event::Note("x")), (vec![], vec![]));
        assert_eq!(render(Verbosity::from_kbuild("1"), &Event::Note("x")).0, b"# x\n");
        assert!(!render(silent, &Event::Failure("x")).1.is_empty());
        assert_eq!(render(silent, &Event::Output(b"w")).1, b"w\n");
    }
}
