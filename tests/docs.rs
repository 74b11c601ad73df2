//! The documents hold: each command of the README's code blocks is run, here on a small tree
//! or by the test on real kernels that is named for it; each heading of
//! docs/troubleshooting.md is something that the program says; each link leads somewhere; and only
//! the command line reads the environment, as DESIGN.md has it.

#![cfg(feature = "program")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Tree, good};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A file of a clone that the crate does not have.
fn of_clone(name: &str) -> Option<String> {
    fs::read_to_string(root().join(name)).ok()
}

/// All documents for users, and for the next developer.
fn documents() -> Vec<String> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|e| format!("docs/{}", e.unwrap().file_name().to_string_lossy()));
    let top = ["README.md", "DESIGN.md", "CHANGELOG.md"].map(str::to_owned);
    top.into_iter().chain(docs).filter(|name| name.ends_with(".md")).collect()
}

/// The lines of a document's `sh` blocks.
fn commands(text: &str) -> Vec<&str> {
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside = if fence { *line == "```sh" } else { inside };
        inside && !fence && !line.is_empty()
    });
    lines.collect()
}

/// What each command of the README is run by: a script of this repository, and words of it.
/// `None`: it is run here, in `readme_commands_on_a_small_tree`.
const RUN_BY: &[(&str, Option<(&str, &str)>)] = &[
    ("make demo", Some(("tests/kernel/demo", "make -C \"$ROOT\" demo"))),
    ("make check", Some((".ci/run", "make check"))),
    ("make && sudo make install", Some(("tests/package/run", "make -s \"$1\" DESTDIR="))),
    ("kthinlto patch ~/linux", Some(("tests/kernel/readme", "patch \"$tree\""))),
    ("cd ~/linux", Some(("tests/kernel/readme", "cd \"$tree\""))),
    (
        "scripts/config -d LTO_NONE -e LTO_CLANG_THIN_DIST",
        Some(("tests/kernel/readme", "scripts/config -d LTO_NONE -e LTO_CLANG_THIN_DIST")),
    ),
    ("make LLVM=1 KTHINLTO=kthinlto -j8", Some(("tests/kernel/in-tree", "KTHINLTO=\"$kthinlto\""))),
    ("kthinlto clean -C ~/linux", None),
    (
        "kthinlto patch --reverse ~/linux",
        Some(("tests/kernel/readme", "patch --reverse \"$tree\"")),
    ),
];

#[test]
fn each_command_of_the_readme_is_run_by_a_test() {
    let readme = read("README.md");
    let found: BTreeSet<&str> = commands(&readme).into_iter().collect();
    let known: BTreeSet<&str> = RUN_BY.iter().map(|(command, _)| *command).collect();
    assert_eq!(found, known, "the README's commands, and those that tests run");
    for (command, by) in RUN_BY {
        let Some((script, words)) = by else {
            continue;
        };
        // In the crate there are no kernel tests.
        if let Some(text) = of_clone(script) {
            assert!(text.contains(words), "{script} does not run `{command}`: no `{words}`");
        } else {
            assert!(!root().join(".git").exists(), "there is no {script}, which runs `{command}`");
        }
    }
}

/// The commands that need no kernel, with `~/linux` a small tree. The others' options are at
/// least known to the program.
#[test]
fn readme_commands_on_a_small_tree() {
    let tree = Tree::new();
    tree.build();
    let readme = read("README.md");
    let ours: Vec<&str> =
        commands(&readme).into_iter().filter(|line| line.starts_with("kthinlto ")).collect();
    assert!(ours.len() >= 3, "{ours:?}");
    let place = tree.objects.to_str().unwrap();
    for line in &ours {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let words: Vec<String> = words.iter().map(|w| w.replace("~/linux", place)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let out = tree.bare(&words).output().unwrap();
        // The small tree is no kernel: a patch for it is refused, which is not a wrong option.
        let want = if words[0] == "patch" { 7 } else { 0 };
        assert_eq!(out.status.code(), Some(want), "{line}: {}", common::text(&out.stderr));
    }
    assert!(!tree.objects.join(".kthinlto").exists() && !tree.objects.join("vmlinux.a").exists());
}

/// In 7.3, `%.a` is a file that kbuild makes alone in its folder: there is no rule for this one.
#[test]
fn no_call_of_make_names_a_target_that_the_newest_kernel_has_not() {
    let pages = documents().into_iter().map(|name| read(&name));
    let help = Command::new(env!("CARGO_BIN_EXE_kthinlto")).args(["build", "--help"]).output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    assert!(help.contains(" vmlinux_a"), "{help}");
    for text in pages.chain([help]) {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let calls = lines.filter(|line| line.starts_with("make "));
        let wrong: Vec<&str> = calls.filter(|line| line.ends_with(" vmlinux.a")).collect();
        assert_eq!(wrong, Vec::<&str>::new());
    }
}

/// In all documents, whatever they call by name is a command with these options.
#[test]
fn each_call_in_a_document_is_one_that_the_program_knows() {
    use clap::CommandFactory;
    let program = kthinlto::cli::args::Cli::command();
    let known: BTreeSet<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
    let mut seen = 0;
    for name in documents() {
        let text = read(&name);
        let in_blocks =
            commands(&text).into_iter().filter_map(|line| line.strip_prefix("kthinlto "));
        for rest in text.split("`kthinlto ").skip(1).chain(in_blocks) {
            let word: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
            if word.is_empty() {
                continue; // an option first
            }
            assert!(known.contains(word.as_str()), "{name}: `kthinlto {word}`");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn each_heading_of_troubleshooting_is_something_that_the_program_says() {
    let said = ["errors", "relink", "system"]
        .map(|name| read(&format!("tests/snapshots/errors__{name}.snap")));
    let said = said.concat();
    let lines: Vec<&str> =
        said.lines().map(|line| line.strip_prefix("kthinlto: ").unwrap_or(line)).collect();
    let text = read("docs/troubleshooting.md");
    let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(headings.len() > 30, "{}", headings.len());
    for heading in headings {
        assert!(lines.iter().any(|line| matches(heading, line)), "nothing says `{heading}`");
    }
}

/// Whether a line is a heading with something in the place of each `…`.
fn matches(heading: &str, line: &str) -> bool {
    let mut pieces = heading.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    for piece in pieces {
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    rest.is_empty() || heading.ends_with('…')
}

#[test]
fn a_heading_matches_its_own_text_only() {
    assert!(matches("cannot use …: a folder; …", "cannot use x: a folder; name it"));
    assert!(!matches("cannot use …: a folder; …", "cannot use x: an empty file"));
    assert!(!matches("another", "another kthinlto"));
    assert!(matches("… backends failed", "1 of 2 backends failed"));
}

#[test]
fn each_link_of_a_document_leads_somewhere() {
    let mut links = 0;
    for name in documents() {
        let text = read(&name);
        let folder = Path::new(&name).parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let place = root().join(folder).join(file);
            let in_clone = ["tests/kernel", "CONTRIBUTING"].iter().any(|part| file.contains(part));
            assert!(
                place.exists() || (in_clone && !root().join(".git").exists()),
                "{name}: {link}"
            );
            if !anchor.is_empty() {
                let text = fs::read_to_string(place).unwrap();
                let slug = |line: &str| {
                    line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-")
                };
                assert!(
                    text.lines().any(|l| l.starts_with('#') && slug(l) == anchor),
                    "{name}: {link}"
                );
            }
            links += 1;
        }
    }
    assert!(links > 10, "{links}");
}

/// The README's exit codes are those of `--help`.
#[test]
fn the_exit_codes_of_the_readme_are_those_of_the_help() {
    let mut help = Command::new(env!("CARGO_BIN_EXE_kthinlto"));
    help.arg("--help");
    let help = good(help);
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    let ours: Vec<&str> = codes.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let readme = read("README.md");
    let (_, table) = readme.split_once("| code | meaning |\n|---|---|\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let theirs: Vec<String> =
        rows.map(|row| row.split('|').nth(1).unwrap().trim().to_owned()).collect();
    let theirs: Vec<&str> = theirs.iter().map(|code| code.split(',').next().unwrap()).collect();
    assert_eq!(ours, theirs);
}

/// What reads the environment of the process, or leads to its current folder.
const READS: [&str; 6] =
    ["temp_dir", "getenv", "current_dir()", "::of_process(", "tempdir()", "tempfile()"];

/// Whether a line of code has one of these or names the module `env`, under whatever path. `env!` and
/// a command's `env(…)` read nothing, and `"env"` is a program.
fn reads(line: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let names_module = |at: usize| {
        !line[..at].ends_with(|c| is_name(c) || c == '.' || c == '"')
            && !line[at + 3..].starts_with(|c| is_name(c) || c == '!' || c == '(')
    };
    READS.iter().any(|text| line.contains(text))
        || line.match_indices("env").any(|(at, _)| names_module(at))
}

/// Where that is right: the snapshot itself, and a file where the kernel refuses those in memory.
const MAY_READ: [(&str, &str); 3] = [
    ("src/environment.rs", "std::env::vars_os()"),
    ("src/environment.rs", "std::env::split_paths("),
    ("src/exec/refused.rs", "tempfile::tempfile()"),
];

#[test]
fn only_the_command_line_reads_the_environment() {
    let files = sources("src");
    assert!(files.len() > 100, "{}", files.len());
    let at_the_edge = |name: &str| name.starts_with("src/cli/") || name == "src/main.rs";
    let mut excused: BTreeSet<&(&str, &str)> = BTreeSet::new();
    for name in files.iter().filter(|name| !at_the_edge(name)) {
        for line in code(&read(name)) {
            let is_right = |(file, text): &&(_, &str)| file == name && line.contains(text);
            let excuse = MAY_READ.iter().find(is_right);
            excused.extend(excuse);
            assert!(
                !reads(line) || excuse.is_some(),
                "{name} is to be handed an Environment: {line}"
            );
        }
    }
    assert_eq!(excused.len(), MAY_READ.len(), "{excused:?}");
}

/// The source files below a folder, but for those that are modules of tests.
fn sources(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(sources(&name)),
            false if name.ends_with(".rs") && !name.ends_with("/tests.rs") => found.push(name),
            false => {}
        }
    }
    found
}

/// The lines of a source file, without its comments and its modules of tests, as rustfmt sets them.
fn code(text: &str) -> Vec<&str> {
    let (mut found, mut in_tests) = (Vec::new(), false);
    for line in text.lines() {
        in_tests |= line == "#[cfg(test)]";
        if !in_tests && !line.trim_start().starts_with("//") {
            found.push(line);
        }
        in_tests &= line != "}" && !line.starts_with("mod tests;");
    }
    found
}

#[test]
fn a_line_that_reads_the_environment_is_told_from_one_that_does_not() {
    for line in ["use std::env;", "use std::{env, fs};", "    env,", "env::var(name)"] {
        assert!(reads(line), "{line}");
    }
    assert!(reads("std::env::current_dir()") && reads("Environment::of_process()"));
    for line in
        ["env!(\"OUT_DIR\")", "make.env(\"A\", \"b\")", "[\"env\", x]", "environment.get(x)"]
    {
        assert!(!reads(line), "{line}");
    }
    assert!(!reads("command.current_dir(&folder)"));
}

#[test]
fn code_is_what_is_neither_a_comment_nor_a_test() {
    let text = "//! a\nfn b() {\n    // c\n}\n#[cfg(test)]\nmod tests;\nd();\n\
                #[cfg(test)]\nmod tests {\n    fn e() {}\n}\nf();\n";
    assert_eq!(code(text), ["fn b() {", "}", "d();", "f();"]);
}
