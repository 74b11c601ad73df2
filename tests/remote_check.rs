//! What `kthinlto remote check` says of real servers, good and bad ones, in one snapshot.
//!
//! To accept a change: `INSTA_UPDATE=always cargo test --test remote_check`, and read the diff.
#![cfg(all(feature = "program", feature = "remote"))]

#[path = "common/casd.rs"]
mod casd;
mod common;
#[path = "common/front.rs"]
mod front;

use std::fmt::Write;
use std::process::Command;

use casd::Casd;
use common::{text, tool};

/// What it says of a server, without what differs from run to run; and its exit code.
fn check(url: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kthinlto"));
    command.args(["remote", "check", "--remote", url, "--cc", &tool("clang")]);
    for name in ["MAKEFLAGS", "MAKELEVEL", "KTHINLTO_REMOTE"] {
        command.env_remove(name);
    }
    let out = command.envs(variables.iter().copied()).output().unwrap();
    let code = out.status.code();
    let said = format!("{}{}exit code {code:?}\n", text(&out.stdout), text(&out.stderr));
    let said = regex::Regex::new(r"127\.0\.0\.1:\d+").unwrap().replace_all(&said, "HOST:PORT");
    let said = regex::Regex::new(r"\d+ (ms|of them)").unwrap().replace_all(&said, "T $1");
    said.into_owned()
}

const PROGRAMS: [&str; 4] = ["/usr:/usr", "/usr/lib:/lib", "/usr/lib64:/lib64", "/usr/bin:/bin"];

/// A server whose workers see the programs, and something of this machine in another place.
fn with(bind: &str) -> Casd {
    Casd::with(&[&PROGRAMS[..], &[bind]].concat(), &[])
}

const WORKER: (&str, &str) = ("KTHINLTO_REMOTE_COMPILER", "worker");

/// What is said of one server after the other.
#[derive(Default)]
struct All(String);

impl All {
    fn add(&mut self, name: &str, said: String) {
        writeln!(self.0, "{name}:\n{said}").unwrap();
    }
}

#[test]
fn what_a_server_can_is_said_and_what_it_cannot_is_a_sentence() {
    if !casd::is_there() {
        return;
    }
    let (server, folder) = (Casd::start(), tempfile::tempdir().unwrap());
    front::certify(folder.path());
    let open = |rules| format!("127.0.0.1:{}", front::open(server.port, rules));
    let plain = |rules| format!("grpc://{}", open(rules));
    let none = front::Rules::default;
    let only_store = ("KTHINLTO_REMOTE_EXECUTE", "no");
    let wrong =
        [("KTHINLTO_REMOTE_HEADERS", "authorization=Bearer $TOKEN"), ("TOKEN", "s3cret-one")];
    let mut all = All::default();

    all.add("a good one", check(&server.url(), &[]));
    all.add("a good one whose workers have the compiler", check(&server.url(), &[WORKER]));
    all.add("only its store of results", check(&server.url(), &[only_store]));
    let batch = front::Rules { batch: Some(1000), ..none() };
    all.add("a smaller batch limit", check(&plain(batch), &[only_store]));
    let token = front::Rules { token: Some("Bearer another-one"), ..none() };
    let token = plain(token);
    let said = check(&token, &[&wrong[..], &[("KTHINLTO_LOG", "trace")]].concat());
    assert!(!said.contains("s3cret") && !said.contains("h2"), "{said}");
    let said = check(&token, &wrong);
    assert!(!said.contains("s3cret"), "{said}");
    all.add("a wrong token", said);
    let tls = front::Rules { tls: Some(folder.path().into()), ..none() };
    let tls = open(tls);
    let another = tempfile::tempdir().unwrap();
    front::certify(another.path());
    let authority = another.path().join("own.pem").display().to_string();
    let authority = [("KTHINLTO_REMOTE_CA", authority.as_str())];
    all.add("a bad certificate", check(&format!("grpcs://{tls}"), &authority));
    all.add("TLS where none is expected", check(&format!("grpc://{tls}"), &[]));
    let url = server.url().replace("grpc:", "grpcs:");
    all.add("no TLS where it is expected", check(&url, &authority));
    let url = format!("grpc://127.0.0.1:{}", casd::free_port());
    all.add("nobody there", check(&url, &[]));
    drop(server);

    let server = Casd::with(&PROGRAMS, &["--digest-function=SHA1"]);
    all.add("no digest function in common", check(&server.url(), &[]));
    insta::assert_snapshot!(all.0);
}

#[test]
fn what_workers_lack_is_a_sentence() {
    if !casd::is_there() {
        return;
    }
    let mut all = All::default();
    let server = Casd::with_shell_only();
    all.add("a worker without the compiler", check(&server.url(), &[WORKER]));
    let compiler = std::fs::canonicalize("/usr/bin/clang-22").unwrap();
    let server = with(&format!("/usr/bin/true:{}", compiler.display()));
    all.add("a worker with another compiler", check(&server.url(), &[WORKER]));
    let empty = tempfile::tempdir().unwrap();
    std::fs::write(empty.path().join("input"), "input\n").unwrap();
    let server = with(&format!("{}:/tree", empty.path().display()));
    all.add("a root that cannot be written", check(&server.url(), &[]));
    insta::assert_snapshot!(all.0);
}
