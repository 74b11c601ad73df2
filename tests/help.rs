//! The texts of `--help`, in snapshots, and what is generated from the same definitions: man
//! pages that man can read, completions that the shells take.
//!
//! To accept a change: `INSTA_UPDATE=always cargo test --test help`, and read the diff.

#![cfg(feature = "program")]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::CommandFactory;
use common::{bad, good, text};
use kthinlto::cli::args::Cli;

fn kthinlto(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kthinlto"));
    // Help shows the values of variables too.
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.args(arguments).env_clear().env("PATH", path).stdin(Stdio::null());
    command
}

/// All commands as words, `cache stats` after `cache`; `&[]` is the program.
fn commands() -> Vec<Vec<String>> {
    fn add(command: &clap::Command, words: Vec<String>, all: &mut Vec<Vec<String>>) {
        all.push(words.clone());
        for below in command.get_subcommands() {
            add(below, [&words[..], &[below.get_name().to_owned()]].concat(), all);
        }
    }
    let mut all = Vec::new();
    add(&Cli::command(), Vec::new(), &mut all);
    all
}

#[test]
fn each_help_text_is_as_it_was() {
    let all = commands();
    assert!(all.len() > 9, "{all:?}");
    for words in all {
        let arguments: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let help = good(kthinlto(&arguments));
        let name = [&["kthinlto".to_owned()], &words[..]].concat().join("-");
        assert!(help.contains("\nUsage: "), "{name}");
        insta::assert_snapshot!(name, help);
    }
}

/// `cache stats` needs none: `cache` has them.
#[test]
fn each_command_has_examples() {
    for command in Cli::command().get_subcommands() {
        let below = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(below.starts_with("Examples:\n  "), "{}: {below}", command.get_name());
    }
}

#[test]
fn no_command_is_a_mistake_that_shows_the_help() {
    let out = bad(kthinlto(&[]), 2, "Usage: kthinlto");
    assert!(text(&out.stderr).contains("Exit codes:"));
}

#[test]
fn a_man_page_for_each_command_that_man_can_read() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("not/yet/there");
    good(kthinlto(&["generate", "man", place.to_str().unwrap()]));
    let hidden = ["generate", "link-vmlinux"].map(str::to_owned);
    let shown = commands()
        .into_iter()
        .filter(|words| words.first().is_none_or(|word| !hidden.contains(word)));
    let mut want: Vec<String> = shown
        .map(|words| [&["kthinlto".to_owned()], &words[..]].concat().join("-") + ".1")
        .collect();
    let mut found: Vec<String> = fs::read_dir(&place)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    want.sort();
    found.sort();
    assert_eq!(found, want);
    for name in &found {
        let page = fs::read_to_string(place.join(name)).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains(".SH NAME"), "{name}");
        let Ok(man) = Command::new("man").args(["--warnings", "-l"]).arg(place.join(name)).output()
        else {
            continue; // no man here
        };
        assert!(man.status.success(), "{name}: {}", text(&man.stderr));
        assert_eq!(text(&man.stderr), "", "{name}");
    }
    let build = fs::read_to_string(place.join("kthinlto-build.1")).unwrap();
    assert!(build.contains(".SH EXAMPLES") && build.contains("kthinlto(1)"), "{build}");
    let main = fs::read_to_string(place.join("kthinlto.1")).unwrap();
    for heading in ["EXIT STATUS", "ENVIRONMENT", "EXAMPLES"] {
        assert!(
            main.contains(&format!(".SH {heading}"))
                || main.contains(&format!(".SH \"{heading}\"")),
            "{heading}: {main}"
        );
    }
    // The machine that builds a package has settings of its own.
    let mut with_settings = kthinlto(&["generate", "man", dir.path().to_str().unwrap()]);
    good({
        with_settings.env("CC", "my-own-clang").env("KTHINLTO_CACHE_DIR", "/my/own");
        with_settings
    });
    assert_eq!(fs::read_to_string(dir.path().join("kthinlto-build.1")).unwrap(), build);
}

/// Runs a script in a shell, the completions on its standard input; `None` without that shell.
fn in_shell(shell: &str, arguments: &[&str], completions: &str) -> Option<String> {
    let run =
        Command::new(shell).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut run) = run else {
        println!("skipped: there is no {shell}");
        return None;
    };
    run.stdin.take().unwrap().write_all(completions.as_bytes()).unwrap();
    let out = run.wait_with_output().unwrap();
    assert!(out.status.success(), "{shell}");
    Some(text(&out.stdout))
}

#[test]
fn completions_complete() {
    let bash = good(kthinlto(&["generate", "bash"]));
    let ask = r#"
        . /dev/stdin
        for line in 'kthinlto bu' 'kthinlto cache ' 'kthinlto build --keep' 'kthinlto build --scratch '; do
            COMP_LINE=$line; COMP_WORDS=($line); [[ $line != *' ' ]] || COMP_WORDS+=('')
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
            _kthinlto kthinlto "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            echo "${COMPREPLY[*]}"
        done"#;
    let said = in_shell("bash", &["-c", ask], &bash).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("build", "--keep-going", "memory tree"), "{said}");
    assert!(lines[1].contains("stats prune clear"), "{said}");

    let fish = good(kthinlto(&["generate", "fish"]));
    let ask = "source -; complete --do-complete 'kthinlto expl'";
    if let Some(said) = in_shell("fish", &["--no-config", "-c", ask], &fish) {
        assert!(said.starts_with("explain\tPrint what"), "{said}");
    }
    let zsh = good(kthinlto(&["generate", "zsh"]));
    assert!(zsh.starts_with("#compdef kthinlto\n"));
    in_shell("zsh", &["-n", "/dev/stdin"], &zsh);
}

#[test]
fn pages_that_cannot_be_written_are_an_error_of_ours() {
    bad(kthinlto(&["generate", "man", "/dev/null/x"]), 5, "cannot make the folder /dev/null/x: ");
    bad(kthinlto(&["generate", "man"]), 2, "<DIR>");
    assert!(!Path::new("kthinlto.1").exists());
}
