//! A copy of this process, as a child of kthinlto, and the state that a plain child would have.
//! Must not know what it was asked to do, nor by whom.

use core::ffi::{c_int, c_long};
use core::ptr::null_mut;

use super::libc::{_exit, RTLD_DEFAULT, close, dlsym, getppid};
use super::machine;
use super::protocol::may_go;
use super::setting::Setting;

// SAFETY: as in `libc`.
#[link(name = "c")]
unsafe extern "C" {
    fn prctl(option: c_int, ...) -> c_int;
    fn dup2(old: c_int, new: c_int) -> c_int;
    fn getpid() -> c_int;
    fn pthread_self() -> usize;
}

const PR_SET_PDEATHSIG: c_int = 1;
const PR_GET_TID_ADDRESS: c_int = 40;
const SIGKILL: c_int = 9;
const SIGCHLD: c_int = 17;
const CLONE_PARENT: c_long = 0x8000;
const CLONE_CHILD_SETTID: c_long = 0x0100_0000;

/// Two words that libc keeps of its only thread.
pub struct Thread {
    /// Its number, which a copy has to set anew; null where nobody says where that is.
    pub number: *mut c_int,
    /// What the kernel clears at its end, for those who wait for it; null where it does not say.
    cleared: *mut c_int,
}

/// Up to glibc 2.41 the word that the kernel clears is the number itself. Since then it is
/// another, so libc is asked first.
///
/// # Safety
///
/// Called by the only thread.
pub unsafe fn thread() -> Thread {
    let mut cleared: *mut c_int = null_mut();
    // SAFETY: the kernel writes one pointer, and each word is checked before it is read.
    unsafe {
        if prctl(PR_GET_TID_ADDRESS, &raw mut cleared) != 0 {
            cleared = null_mut();
        }
        let is_number = |word: *mut c_int| !word.is_null() && *word == getpid();
        let mut known = [number_for_debuggers(), cleared].into_iter();
        let number = known.find(|word| is_number(*word)).unwrap_or(null_mut());
        Thread { number, cleared }
    }
}

/// Where libc tells debuggers (libthread_db) that a thread's number is: so many bits, how
/// often, and at which offset from the thread's own address. Null if it does not.
unsafe fn number_for_debuggers() -> *mut c_int {
    // SAFETY: libc's table has these three words; the address is within its own descriptor
    // of this thread.
    unsafe {
        let place: *const [u32; 3] =
            dlsym(RTLD_DEFAULT, c"_thread_db_pthread_tid".as_ptr()).cast_const().cast();
        match place.as_ref() {
            Some([32, 1, offset]) => (pthread_self() + *offset as usize) as *mut c_int,
            _ => null_mut(),
        }
    }
}

/// fork(2), but for whose child it is. libc's own function does nothing else that a process
/// with one thread would need: it sets the thread's number, as this does.
///
/// # Safety
///
/// `thread` is the only one of this process.
pub unsafe fn fork_for_parent(thread: &Thread) -> c_long {
    let flags = CLONE_PARENT | CLONE_CHILD_SETTID | c_long::from(SIGCHLD);
    // SAFETY: no memory is shared with the copy, which goes on with its copy of this stack;
    // both words are libc's own (`thread`).
    unsafe {
        let pid = machine::clone(flags, thread.number);
        if pid == 0 && !thread.cleared.is_null() {
            machine::set_tid_address(thread.cleared);
        }
        pid
    }
}

/// In a copy: a child of kthinlto as any, which begins when it is told to.
///
/// # Safety
///
/// Nothing else uses the socket and this descriptor.
pub unsafe fn be_child(setting: &Setting, go: c_int) {
    // SAFETY: system calls on descriptors of our own.
    unsafe {
        close(setting.socket);
        if prctl(PR_SET_PDEATHSIG, SIGKILL as c_long) != 0 || getppid() != setting.parent {
            _exit(127);
        }
        if !may_go(go) {
            _exit(127);
        }
        close(go);
    }
}

/// In a copy: where a plain child of kthinlto writes to.
///
/// # Safety
///
/// Nothing else uses this descriptor.
pub unsafe fn write_to(output: c_int) {
    // SAFETY: system calls on descriptors of our own.
    unsafe {
        if dup2(output, 1) != 1 || dup2(output, 2) != 2 {
            _exit(127);
        }
        close(output);
    }
}
