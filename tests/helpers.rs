//! Programs that are only asked for something: whatever they do, the answer is one sentence, soon,
//! and nothing of theirs runs on.

#![cfg(feature = "program")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Beside, Tree, assert_holds, fails, sentences, until};
use rustix::process::Signal;

/// A build with this compiler.
fn build_with(tree: &Tree, cc: &str) -> Command {
    let mut command = tree.kthinlto();
    command.env("CC", cc);
    command
}

/// Whether a process of this number runs still.
fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// What a script wrote of itself and of what it started.
fn pids(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_compiler_that_prints_without_end_is_one_sentence_soon() {
    let tree = Tree::new();
    let begun = Instant::now();
    for body in ["exec yes", "exec yes >&2"] {
        let cc = tree.script("cc", body);
        fails(build_with(&tree, &cc), 4, &["cannot run CC", "its output does not end", "CC="]);
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn a_linker_that_prints_without_end_is_one_sentence_too() {
    let tree = Tree::new();
    let mut command = tree.kthinlto();
    command.env("LD", tree.script("ld", "exec yes"));
    fails(command, 4, &["cannot run LD", "its output does not end", "LD="]);
}

#[test]
fn a_signal_ends_a_compiler_that_never_answers_and_what_it_started() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let tree = Tree::new();
        let file = tree.dir().join("pids");
        let body =
            format!("sleep 600 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let cc = tree.script("cc", &body);
        let running = Beside::start(build_with(&tree, &cc));
        until("the compiler is asked", || file.exists());
        running.signal(signal);
        let out = running.end();
        assert_eq!(out.status.code(), Some(code));
        let said = sentences(&out);
        assert_eq!(said.len(), 1, "{said:?}");
        assert_holds(&said[0], &["interrupted by signal"]);
        let all = pids(&file);
        assert_eq!(all.len(), 2);
        until("all have ended", || !all.iter().any(|pid| runs(pid)));
    }
}

#[test]
fn a_killed_build_takes_the_program_that_it_asks_with_it() {
    let tree = Tree::new();
    let file = tree.dir().join("pids");
    let body = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", file.display());
    let cc = tree.script("cc", &body);
    let running = Beside::start(build_with(&tree, &cc));
    until("the compiler is asked", || file.exists());
    running.signal(Signal::KILL);
    running.end();
    until("it has ended", || !pids(&file).iter().any(|pid| runs(pid)));
}

#[test]
fn a_missing_program_is_named() {
    let tree = Tree::new();
    let cc = "no-such-compiler-here";
    fails(build_with(&tree, cc), 4, &[cc, "there is no program"]);
}
