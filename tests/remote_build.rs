//! Builds with a real server of the Remote Execution API through the program itself: what is made is what
//! mainline makes; another tree has nothing left to compile; a server that goes away, and a signal, cost
//! no more than they must.
#![cfg(all(feature = "program", feature = "remote"))]

#[path = "common/casd.rs"]
mod casd;
mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use casd::Casd;
use common::{Beside, Tree, assert_holds, assert_same, good, text, warnings};
use rustix::process::Signal;
use serde_json::Value;

/// Backends of the tree.
const BACKENDS: u64 = 12;

/// A build with a server, which leaves a report.
fn command(tree: &Tree, server: &Casd) -> Command {
    let mut command = tree.kthinlto();
    command.arg("-j1").env("KTHINLTO_REMOTE", server.url());
    command.env("KTHINLTO_JSON", report(tree)).env("KTHINLTO_EXECUTOR", "process");
    command
}

fn report(tree: &Tree) -> PathBuf {
    tree.dir().join("run.json")
}

fn run(tree: &Tree) -> Value {
    serde_json::from_str(&fs::read_to_string(report(tree)).unwrap()).unwrap()
}

fn totals(tree: &Tree) -> Value {
    run(tree)["totals"].clone()
}

fn assert_is_mainlines(tree: &Tree) {
    assert_same(&tree.outputs(), &tree.want());
    assert_nothing_aside(tree);
}

fn assert_nothing_aside(tree: &Tree) {
    assert_eq!(tree.shell("find . -name '.tmp_*' -o -name '*.tmp' -o -name '*.part'"), "");
}

#[test]
fn a_server_helps_and_the_next_tree_compiles_nothing() {
    if !casd::is_there() {
        return;
    }
    let (server, tree) = (Casd::start(), Tree::new());
    let mut first = command(&tree, &server);
    first.env("KTHINLTO_REMOTE_LOCAL", "no");
    let said = good(first);
    assert_is_mainlines(&tree);
    assert_holds(&said, &["12 rebuilt (12 remote)"]);
    let run = run(&tree);
    let jobs = run["jobs"].as_array().unwrap();
    let executed = jobs.iter().filter(|job| job["remote"] == true);
    assert_eq!(executed.clone().count() as u64, BACKENDS, "{} {run}", server.log());
    let took = |job: &Value, name: &str| job["transfer"][name].as_u64().unwrap() > 0;
    assert!(executed.clone().all(|job| took(job, "execution_us")));
    assert!(executed.clone().any(|job| took(job, "upload_us")));
    // The compiler goes there, once.
    let moved = |name: &str| run["totals"][name].as_u64().unwrap();
    assert!(moved("sent_bytes") > 10 << 20 && moved("received_bytes") > 0, "{}", run["totals"]);

    let second = Tree::new();
    let said = good(command(&second, &server));
    assert_is_mainlines(&second);
    assert_holds(&said, &["12 from cache (12 remote), 0 rebuilt"]);
    let second = totals(&second);
    assert_eq!(second["from_remote_cache"], BACKENDS);
    assert!(second["sent_bytes"].as_u64().unwrap() < 1 << 20, "{second}");

    // Its name for one of the actions.
    let mut explain = tree.bare(&["explain", "lib/w2.o"]);
    explain.env("KTHINLTO_REMOTE", server.url());
    let found = good(explain);
    let action = found.lines().find_map(|line| line.trim().strip_prefix("remote action")).unwrap();
    let (hash, size) = action.trim().split_once('/').unwrap();
    assert!(hash.len() == 64 && size.parse::<u64>().unwrap() > 0, "{found}");
    assert!(!good(tree.bare(&["explain", "lib/w2.o"])).contains("remote action"));
}

#[test]
fn without_execution_it_is_a_cache() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::start();
    let build = |tree: &Tree, upload: &str| {
        let mut command = command(tree, &server);
        command.env("KTHINLTO_REMOTE_EXECUTE", "no").env("KTHINLTO_REMOTE_UPLOAD", upload);
        let said = good(command);
        assert_is_mainlines(tree);
        (said, totals(tree))
    };
    for (upload, from_cache) in [("no", 0), ("yes", 0), ("no", BACKENDS)] {
        let tree = Tree::new();
        let (said, totals) = build(&tree, upload);
        assert_eq!(totals["from_remote_cache"], from_cache, "{upload}: {said}");
        assert_eq!(totals["rebuilt_remotely"], 0);
    }
}

#[test]
fn a_server_that_is_not_there_is_one_warning() {
    if !casd::is_there() {
        return;
    }
    let (mut server, tree) = (Casd::start(), Tree::new());
    server.kill();
    let out = command(&tree, &server).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = warnings(&out);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_holds(&said[0], &["the remote engine grpc://127.0.0.1", "cannot be used"]);
    assert_is_mainlines(&tree);
}

#[test]
fn a_server_that_is_killed_costs_no_build() {
    if !casd::is_there() {
        return;
    }
    let (mut server, tree) = (Casd::start(), Tree::new());
    let build = Beside::start(command(&tree, &server));
    std::thread::sleep(Duration::from_millis(1500));
    server.kill();
    let out = build.end();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(!text(&out.stderr).contains("panicked"), "{}", text(&out.stderr));
    assert!(warnings(&out).len() <= 1, "{:?}", warnings(&out));
    assert_is_mainlines(&tree);
}

#[test]
fn a_signal_leaves_nothing_behind() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::start();
    for wait in [300, 1500] {
        let tree = Tree::new();
        let build = Beside::start(command(&tree, &server));
        std::thread::sleep(Duration::from_millis(wait));
        build.signal(Signal::INT);
        let out = build.end();
        let done = out.status.success();
        assert!(done || out.status.code() == Some(130), "{:?}", text(&out.stderr));
        assert_nothing_aside(&tree);
        good(command(&tree, &server));
        assert_is_mainlines(&tree);
    }
}

/// A setting that cannot be used is known before anything runs, and no secret is in the sentence.
#[test]
fn a_setting_that_cannot_be_used_ends_the_run_at_once() {
    let tree = Tree::new();
    for (name, value) in [
        ("KTHINLTO_REMOTE", "http://me:hush@host"),
        ("KTHINLTO_REMOTE_HEADERS", "authorization=hush $NOT_THERE"),
    ] {
        let mut command = tree.kthinlto();
        command.env("KTHINLTO_REMOTE", "grpc://127.0.0.1:1").env(name, value);
        let out = command.output().unwrap();
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(!said.contains("hush") && said.contains("cannot use"), "{said}");
        assert!(!tree.objects.join("vmlinux.thinlto-index").exists());
    }
}
