//! Somebody's files beside a tree, other users, and what stands in the way: what tests of hostile
//! surroundings start from.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::common::{Beside, Tree};

/// What a stand-in for clang does to be quick: any ELF object is good enough here.
pub const COPY: &str = "cp kernel/head.o $out";

/// Runs a command that has to come to its end soon.
pub fn ended(command: Command) -> Output {
    let start = Instant::now();
    let out = Beside::start(command).end();
    assert!(start.elapsed() < Duration::from_secs(40), "it hung");
    out
}

/// Makes a pipe that anyone may write into.
pub fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
}

/// A folder of somebody's, with old files in it.
pub fn home(tree: &Tree) -> PathBuf {
    let home = tree.dir().join("home");
    fs::create_dir_all(home.join("docs")).unwrap();
    let old = SystemTime::now() - Duration::from_secs(300_000);
    for name in [".bashrc", "notes.txt", "docs/thesis.tex"] {
        fs::write(home.join(name), "mine").unwrap();
        fs::File::options()
            .write(true)
            .open(home.join(name))
            .and_then(|file| file.set_modified(old))
            .unwrap();
    }
    home
}

/// All of them are as they were.
pub fn assert_home_is_whole(home: &Path) {
    for name in [".bashrc", "notes.txt", "docs/thesis.tex"] {
        assert_eq!(fs::read(home.join(name)).unwrap(), b"mine", "{name}");
    }
}

/// Whether tests may work as other users; says so where they may not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("passed over: working as two users needs root");
    }
    root
}

/// Two users who are in no list, and a group that both are in.
pub const USERS: [u32; 2] = [64201, 64202];
pub const GROUP: u32 = 64203;

/// Runs a command as another user, with this umask.
pub fn as_user(command: &mut Command, user: u32, umask: u32) {
    command.uid(user).gid(GROUP);
    // SAFETY: umask(2) is one system call, and cannot fail.
    unsafe {
        command.pre_exec(move || {
            rustix::process::umask(Mode::from_raw_mode(umask));
            Ok(())
        });
    }
}
