//! System calls that a container's filter refuses: another way gives the same bytes, or the error
//! names the call. The filters are real ones (seccomp), set for kthinlto and all that it starts.

#![cfg(feature = "program")]
#![cfg(target_arch = "x86_64")]

mod common;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{Beside, Tree, assert_holds, assert_same, sentences, text, until};
use rustix::process::Signal;

/// How our own children are made, as clone(2) is told: in our memory, until they are programs.
const CHILD: u32 = (libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as u32;

/// A call to refuse; only where its first argument is this number, if one is given.
#[derive(Clone, Copy)]
struct Call(libc::c_long, Option<u32>);

const PIDFD_OPEN: Call = Call(libc::SYS_pidfd_open, None);
const MEMFD_CREATE: Call = Call(libc::SYS_memfd_create, None);

/// Has `errno` be the answer to these calls in the process of `command`, and in its children.
fn refuse(command: &mut Command, calls: &[Call], errno: i32) {
    let load = |offset| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: offset };
    let unless_equal = |k, jf| libc::sock_filter { code: 0x15, jt: 0, jf, k };
    let answer = |k| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k };
    let mut program = Vec::new();
    for Call(number, argument) in calls {
        let refused = answer(libc::SECCOMP_RET_ERRNO | errno as u32);
        // `struct seccomp_data`: the number at 0, the first argument at 16.
        program.push(load(0));
        match argument {
            Some(argument) => {
                program.push(unless_equal(*number as u32, 3));
                program.extend([load(16), unless_equal(*argument, 1)]);
            }
            None => program.push(unless_equal(*number as u32, 1)),
        }
        program.push(refused);
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    // SAFETY: system calls of the child alone, before it is the program; the filter is its own.
    unsafe {
        command.pre_exec(move || {
            let filter =
                libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
            let done = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) == 0;
            if done { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}

#[test]
fn refused_calls_have_another_way() {
    let clone = Call(libc::SYS_clone, Some(CHILD));
    for calls in [&[PIDFD_OPEN][..], &[MEMFD_CREATE], &[clone], &[PIDFD_OPEN, MEMFD_CREATE, clone]]
    {
        for (errno, executor) in [(libc::EPERM, "process"), (libc::ENOSYS, "fork-server")] {
            let tree = Tree::new();
            let mut command = tree.kthinlto();
            command.env("KTHINLTO_EXECUTOR", executor);
            refuse(&mut command, calls, errno);
            let out = Beside::start(command).end();
            assert!(out.status.success(), "{}", text(&out.stderr));
            assert_eq!(text(&out.stderr), "");
            assert_same(&tree.outputs(), &tree.want());
        }
    }
}

#[test]
fn without_process_descriptors_signals_end_a_run_too() {
    let tree = Tree::new();
    let begun = tree.dir().join("begun");
    let body = format!("echo >> {}; sleep 600 & wait", begun.display());
    let mut command = tree.kthinlto();
    command.env("CC", tree.compiler("cc", &body)).env("KTHINLTO_EXECUTOR", "process");
    refuse(&mut command, &[PIDFD_OPEN], libc::EPERM);
    let kthinlto = Beside::start(command);
    until("two backends", || std::fs::read(&begun).is_ok_and(|lines| lines.len() == 2));
    kthinlto.signal(Signal::INT);
    assert_eq!(kthinlto.end().status.code(), Some(130));
}

#[test]
fn a_call_that_has_no_other_way_is_named() {
    // fork(2) of the C library is this call; its posix_spawn(3) uses another one.
    let tree = Tree::new();
    let mut command = tree.kthinlto();
    command.env("KTHINLTO_EXECUTOR", "process");
    refuse(&mut command, &[Call(libc::SYS_clone, None)], libc::EPERM);
    let out = Beside::start(command).end();
    assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
    let said = sentences(&out);
    assert_eq!(said.len(), 1, "{said:?}");
    let pieces = ["cannot run ld.lld", "the system call clone is refused", "seccomp profile"];
    assert_holds(&said[0], &pieces);
    assert!(!said[0].contains("install it"), "{said:?}");
}
