//! The fork server's part inside the compiler: a library that the dynamic loader puts before
//! libc, so that its `__libc_start_main` is found first. It lets dynamic linking and all
//! constructors run once, and then, in place of `main`, forks a ready copy of the process for
//! each job, which calls the compiler's own `main` with that job's arguments.
//!
//! The copies are children of kthinlto, not of this process (CLONE_PARENT of clone(2)):
//! kthinlto signals and reaps them as it does its other children.
//!
//! Built by `build.rs` for x86-64 and aarch64 with glibc, without `std`; kept inside the program.
//! Must not allocate, start threads or leave anything behind in a copy that a plain process would
//! not have: descriptors, environment, signals. Here is the order of events; each part of it is a
//! module: `protocol` what is said, `setting` the environment, `copy` the copies, `refusal` who
//! cannot serve, `warm` memory, `machine` what differs between processors.

#![no_std]

use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

mod copy;
mod libc;
mod machine;
mod protocol;
mod refusal;
mod setting;
mod warm;

use copy::{Thread, be_child, fork_for_parent, thread, write_to};
use libc::{__errno_location, _exit, close, dlsym};
use protocol::{ANOTHER, Buffers, HELLO, MEMORY, receive, split_arguments, tell};
use refusal::refusal;
use setting::{Setting, take_setting};

type Main = unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;
type Hook = unsafe extern "C" fn();
type StartMain = unsafe extern "C" fn(
    Main,
    c_int,
    *mut *mut c_char,
    Option<Hook>,
    Option<Hook>,
    Option<Hook>,
    *mut c_void,
) -> c_int;

const RTLD_NEXT: *mut c_void = -1_isize as *mut c_void;
const EINVAL: c_int = 22;

/// The compiler's own `main`.
static MAIN: AtomicUsize = AtomicUsize::new(0);

/// The job of a copy, for good: its `main` keeps pointers into it.
static mut BUFFERS: Buffers = Buffers::EMPTY;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends the process; nothing is assumed about its state.
    unsafe { _exit(127) }
}

/// What the program's own start code calls. It calls libc's with another `main`.
///
/// # Safety
///
/// As libc's own, whose arguments it passes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_start_main(
    main: Main,
    argc: c_int,
    argv: *mut *mut c_char,
    init: Option<Hook>,
    fini: Option<Hook>,
    rtld_fini: Option<Hook>,
    stack_end: *mut c_void,
) -> c_int {
    MAIN.store(main as usize, Ordering::Relaxed);
    // SAFETY: libc has a function of this name and type, or the program would not have run.
    unsafe {
        let real = dlsym(RTLD_NEXT, c"__libc_start_main".as_ptr());
        if real.is_null() {
            _exit(127);
        }
        let real: StartMain = core::mem::transmute(real);
        real(serve, argc, argv, init, fini, rtld_fini, stack_end)
    }
}

/// Takes the place of `main`: returns the result of the real one, in a copy of this process,
/// or where nobody asked for a server.
unsafe extern "C" fn serve(argc: c_int, argv: *mut *mut c_char, envp: *mut *mut c_char) -> c_int {
    // SAFETY: `MAIN` holds a function of this type; `envp` is the process's environment.
    unsafe {
        let main: Main = core::mem::transmute(MAIN.load(Ordering::Relaxed));
        let Some(setting) = take_setting(envp) else {
            return main(argc, argv, envp);
        };
        close(setting.library);
        let thread = thread();
        let refusal = match refusal(&setting, &thread) {
            0 if !warm::warm(setting.huge_pages) => MEMORY,
            refusal => refusal,
        };
        if tell(setting.socket, HELLO, refusal) != 0 || refusal != 0 {
            _exit(0);
        }
        let buffers = &raw mut BUFFERS;
        let argc = become_job(setting, &thread, buffers);
        let arguments = (&raw mut (*buffers).arguments).cast();
        main(argc, arguments, envp)
    }
}

/// Serves until it is one of the copies; returns the number of that job's arguments.
unsafe fn become_job(mut setting: Setting, thread: &Thread, buffers: *mut Buffers) -> c_int {
    // SAFETY: this process has one thread, and nobody else knows the buffers.
    unsafe {
        loop {
            let Some((length, [output, go])) = receive(setting.socket, buffers) else {
                _exit(0); // kthinlto is gone, or wants no more
            };
            let argc = split_arguments(buffers, length);
            let pid = if argc == 0 { -1 } else { fork_for_parent(thread) };
            if pid == 0 {
                be_child(&setting, go);
                if length == ANOTHER {
                    setting.socket = output;
                    continue;
                }
                write_to(output);
                return argc;
            }
            close(output);
            close(go);
            let answer = match pid {
                1.. => pid as c_int,
                _ if argc == 0 => -EINVAL,
                _ => -*__errno_location(),
            };
            if tell(setting.socket, answer, 0) != 0 {
                _exit(0);
            }
        }
    }
}
