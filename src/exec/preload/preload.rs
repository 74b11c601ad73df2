//! The fork server's part inside the compiler: a library that the dynamic loader puts before
//! libc, so that its `__libc_start_main` is found first. It lets dynamic linking and all
//! constructors run once, and then, in place of `main`, forks a ready copy of the process for
//! each job, which calls the compiler's own `main` with that job's arguments.
//!
//! The copies are children of kthinlto, not of this process (CLONE_PARENT of clone(2)):
//! kthinlto signals and reaps them as it does its other children.
//!
//! Built by `build.rs` for x86-64 with glibc, without `std`; kept inside the program. Must not
//! allocate, start threads or leave anything behind in a copy that a plain process would not
//! have: descriptors, environment, signals. `exec/server.rs` is the other end.
//!
//! Protocol, on a socket of type SOCK_SEQPACKET. From here, once: `[HELLO, refusal]`, where
//! refusal 0 means that jobs may come. To here, for each job: its arguments, each ended by
//! a zero byte, with two descriptors: its output, and a pipe. From here: `[process number, 0]`,
//! or `[-errno, 0]`. A copy reads one byte from the pipe before it goes on, and ends if there is none.

#![no_std]

use core::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicUsize, Ordering};

mod warm;

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

/// `struct iovec`, `struct msghdr` and `struct cmsghdr` of 64-bit Linux with glibc.
#[repr(C)]
struct IoVec {
    base: *mut u8,
    length: usize,
}

#[repr(C)]
struct MsgHdr {
    name: *mut c_void,
    name_length: c_uint,
    iov: *mut IoVec,
    iov_length: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

/// A control message with room for two descriptors and a few that are not expected.
#[repr(C)]
struct Control {
    length: usize,
    level: c_int,
    kind: c_int,
    descriptors: [c_int; 8],
}

#[link(name = "c")]
unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn syscall(number: c_long, ...) -> c_long;
    fn prctl(option: c_int, ...) -> c_int;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn read(fd: c_int, buffer: *mut c_void, count: usize) -> isize;
    fn send(fd: c_int, buffer: *const c_void, count: usize, flags: c_int) -> isize;
    fn recvmsg(fd: c_int, message: *mut MsgHdr, flags: c_int) -> isize;
    fn dup2(old: c_int, new: c_int) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn getpid() -> c_int;
    fn getppid() -> c_int;
    fn pthread_self() -> usize;
    fn _exit(status: c_int) -> !;
    fn __errno_location() -> *mut c_int;
}

const RTLD_DEFAULT: *mut c_void = null_mut();
const RTLD_NEXT: *mut c_void = -1_isize as *mut c_void;
const PR_SET_PDEATHSIG: c_int = 1;
const PR_GET_TID_ADDRESS: c_int = 40;
const SIGKILL: c_int = 9;
const SIGCHLD: c_int = 17;
const EINTR: c_int = 4;
const EINVAL: c_int = 22;
const SOL_SOCKET: c_int = 1;
const SCM_RIGHTS: c_int = 1;
const MSG_NOSIGNAL: c_int = 0x4000;
const SYS_CLONE: c_long = 56;
const SYS_SET_TID_ADDRESS: c_long = 218;
const CLONE_PARENT: c_long = 0x8000;
const CLONE_CHILD_SETTID: c_long = 0x0100_0000;

/// First word of the first packet; it changes with the protocol.
const HELLO: c_int = 0x6b74_6c31;
/// Reasons not to serve.
const THREADS: c_int = 1;
const NO_TID_ADDRESS: c_int = 2;
const SANITIZER: c_int = 3;
const OTHER_PARENT: c_int = 4;
const MEMORY: c_int = 5;

/// Our setting: `SOCKET.LIBRARY.PARENT[.NAME…]`, two descriptors, the number of kthinlto's
/// process, and variables that only the loader and libc of this process were to see.
const SETTING: &[u8] = b"KTHINLTO_FORK_SERVER=";
const PRELOAD: &[u8] = b"LD_PRELOAD=";

/// The compiler's own `main`.
static MAIN: AtomicUsize = AtomicUsize::new(0);

/// Room for a job's arguments and for pointers to them: more than a packet holds.
const ROOM: usize = 256 << 10;
const MOST_ARGUMENTS: usize = 16 << 10;

struct Buffers {
    text: [u8; ROOM],
    arguments: [*mut c_char; MOST_ARGUMENTS + 1],
}

static mut BUFFERS: Buffers =
    Buffers { text: [0; ROOM], arguments: [null_mut(); MOST_ARGUMENTS + 1] };

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
            0 if !warm::warm() => MEMORY,
            refusal => refusal,
        };
        if tell(setting.socket, HELLO, refusal) != 0 || refusal != 0 {
            _exit(0);
        }
        let buffers = &raw mut BUFFERS;
        let argc = become_job(&setting, &thread, buffers);
        let arguments = (&raw mut (*buffers).arguments).cast();
        main(argc, arguments, envp)
    }
}

struct Setting {
    socket: c_int,
    library: c_int,
    parent: c_int,
}

/// Reads our setting, and takes it and what belongs to it out of the environment.
unsafe fn take_setting(envp: *mut *mut c_char) -> Option<Setting> {
    // SAFETY: `envp` is a list of strings ended by a null pointer, in writable memory.
    unsafe {
        let text = CStr::from_ptr(find(envp, SETTING)?).to_bytes().get(SETTING.len()..)?;
        let mut parts = text.split(|byte| *byte == b'.');
        let socket = number(parts.next()?)?;
        let library = number(parts.next()?)?;
        let parent = number(parts.next()?)?;
        for name in parts {
            remove(envp, name);
        }
        drop_first_preload(envp);
        remove(envp, b"KTHINLTO_FORK_SERVER");
        Some(Setting { socket, library, parent })
    }
}

fn number(digits: &[u8]) -> Option<c_int> {
    let mut value: c_int = 0;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(c_int::from(digit))?;
    }
    Some(value)
}

/// The variable that begins with `start` (`NAME=`).
unsafe fn find(envp: *mut *mut c_char, start: &[u8]) -> Option<*mut c_char> {
    // SAFETY: as in `take_setting`.
    unsafe {
        let mut at = envp;
        while !(*at).is_null() {
            if CStr::from_ptr(*at).to_bytes().starts_with(start) {
                return Some(*at);
            }
            at = at.add(1);
        }
        None
    }
}

/// Removes the variable `name`.
unsafe fn remove(envp: *mut *mut c_char, name: &[u8]) {
    // SAFETY: as in `take_setting`; `to` never overtakes `from`.
    unsafe {
        let (mut from, mut to) = (envp, envp);
        while !(*from).is_null() {
            let text = CStr::from_ptr(*from).to_bytes();
            let is_it = text.starts_with(name) && text.get(name.len()) == Some(&b'=');
            if !is_it {
                *to = *from;
                to = to.add(1);
            }
            from = from.add(1);
        }
        *to = null_mut();
    }
}

/// Takes the first library, which is this one, out of `LD_PRELOAD`.
unsafe fn drop_first_preload(envp: *mut *mut c_char) {
    // SAFETY: as in `take_setting`; the string only gets shorter.
    unsafe {
        let Some(variable) = find(envp, PRELOAD) else {
            return;
        };
        let text = CStr::from_ptr(variable).to_bytes_with_nul();
        match text.iter().position(|byte| *byte == b':') {
            Some(at) => {
                let rest = variable.add(at + 1);
                core::ptr::copy(rest, variable.add(PRELOAD.len()), text.len() - at - 1);
            }
            None => remove(envp, b"LD_PRELOAD"),
        }
    }
}

/// Two words that libc keeps of its only thread.
struct Thread {
    /// Its number, which a copy has to set anew; null where nobody says where that is.
    number: *mut c_int,
    /// What the kernel clears at its end, for those who wait for it; null where it does not say.
    cleared: *mut c_int,
}

/// Up to glibc 2.41 the word that the kernel clears is the number itself. Since then it is
/// another, so libc is asked first.
unsafe fn thread() -> Thread {
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

/// Why this process must not serve; 0 if it may.
unsafe fn refusal(setting: &Setting, thread: &Thread) -> c_int {
    // SAFETY: looks at this process and changes nothing.
    unsafe {
        let sanitizers =
            [c"__asan_init", c"__tsan_init", c"__msan_init", c"__hwasan_init", c"__dfsan_init"];
        if thread.number.is_null() {
            NO_TID_ADDRESS
        } else if !has_one_thread() {
            THREADS
        } else if sanitizers.iter().any(|name| !dlsym(RTLD_DEFAULT, name.as_ptr()).is_null()) {
            SANITIZER
        } else if getppid() != setting.parent {
            OTHER_PARENT
        } else {
            0
        }
    }
}

/// A copy has only the thread that forked: others' locks would stay held for ever.
unsafe fn has_one_thread() -> bool {
    let mut buffer = [0_u8; 4096];
    // SAFETY: reads a file into a buffer of that size.
    unsafe {
        let file = open(c"/proc/self/status".as_ptr(), 0);
        let count = read(file, (&raw mut buffer).cast(), buffer.len());
        close(file);
        let text = buffer.get(..usize::try_from(count).unwrap_or(0)).unwrap_or(&[]);
        text.windows(11).any(|window| window == b"\nThreads:\t1") && !text_has_more(text)
    }
}

/// `Threads:` is followed by more digits than a 1.
fn text_has_more(text: &[u8]) -> bool {
    let found = text.windows(12).find(|window| window.starts_with(b"\nThreads:\t1"));
    found.is_none_or(|window| window.last() != Some(&b'\n'))
}

unsafe fn tell(socket: c_int, first: c_int, second: c_int) -> c_int {
    let packet = [first, second];
    // SAFETY: sends these eight bytes.
    unsafe {
        let sent = send(socket, (&raw const packet).cast(), size_of_val(&packet), MSG_NOSIGNAL);
        if sent == size_of_val(&packet) as isize { 0 } else { -1 }
    }
}

/// Serves until it is one of the copies; returns the number of that job's arguments.
unsafe fn become_job(setting: &Setting, thread: &Thread, buffers: *mut Buffers) -> c_int {
    // SAFETY: this process has one thread, and nobody else knows the buffers.
    unsafe {
        loop {
            let Some((length, [output, go])) = receive(setting.socket, buffers) else {
                _exit(0); // kthinlto is gone, or wants no more
            };
            let argc = split_arguments(buffers, length);
            let pid = if argc == 0 { -1 } else { fork_for_parent(thread) };
            if pid == 0 {
                take_over(setting, output, go);
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

/// fork(2), but for whose child it is. libc's own function does nothing else that a process
/// with one thread would need: it sets the thread's number, as this does.
unsafe fn fork_for_parent(thread: &Thread) -> c_long {
    let flags = CLONE_PARENT | CLONE_CHILD_SETTID | c_long::from(SIGCHLD);
    let none = null::<c_void>();
    // SAFETY: no memory is shared with the copy, which goes on with its copy of this stack;
    // both words are libc's own (`thread`).
    unsafe {
        let pid = syscall(SYS_CLONE, flags, none, none, thread.number, none);
        if pid == 0 && !thread.cleared.is_null() {
            syscall(SYS_SET_TID_ADDRESS, thread.cleared);
        }
        pid
    }
}

/// In a copy: the state of a plain child of kthinlto.
unsafe fn take_over(setting: &Setting, output: c_int, go: c_int) {
    // SAFETY: system calls on descriptors of our own.
    unsafe {
        close(setting.socket);
        if prctl(PR_SET_PDEATHSIG, SIGKILL as c_long) != 0 || getppid() != setting.parent {
            _exit(127);
        }
        let mut byte = 0_u8;
        loop {
            match read(go, (&raw mut byte).cast(), 1) {
                1 => break,
                -1 if *__errno_location() == EINTR => {}
                _ => _exit(127), // kthinlto does not know of this copy
            }
        }
        close(go);
        if dup2(output, 1) != 1 || dup2(output, 2) != 2 {
            _exit(127);
        }
        close(output);
    }
}

/// Receives a job: the length of its arguments, and its two descriptors.
unsafe fn receive(socket: c_int, buffers: *mut Buffers) -> Option<(usize, [c_int; 2])> {
    // SAFETY: all pointers are to locals and to buffers of the lengths given.
    unsafe {
        loop {
            let text = (&raw mut (*buffers).text).cast();
            let mut iov = IoVec { base: text, length: ROOM };
            let mut control = Control { length: 0, level: 0, kind: 0, descriptors: [-1; 8] };
            let mut message = MsgHdr {
                name: null_mut(),
                name_length: 0,
                iov: &mut iov,
                iov_length: 1,
                control: (&raw mut control).cast(),
                control_length: size_of::<Control>(),
                flags: 0,
            };
            let length = recvmsg(socket, &mut message, 0);
            if length < 0 && *__errno_location() == EINTR {
                continue;
            }
            let rights = control.level == SOL_SOCKET && control.kind == SCM_RIGHTS;
            let two = control.length == 16 + 2 * size_of::<c_int>();
            if length <= 0 || message.flags != 0 || !rights || !two {
                return None;
            }
            let [output, go, ..] = control.descriptors;
            return Some((length as usize, [output, go]));
        }
    }
}

/// Points at each argument in the text; returns their number, 0 if they cannot be used.
unsafe fn split_arguments(buffers: *mut Buffers, length: usize) -> c_int {
    // SAFETY: `length` bytes of the text were received, and pointers are kept within bounds.
    unsafe {
        let text: *mut u8 = (&raw mut (*buffers).text).cast();
        let arguments: *mut *mut c_char = (&raw mut (*buffers).arguments).cast();
        if length == 0 || *text.add(length - 1) != 0 {
            return 0;
        }
        let (mut count, mut at) = (0, 0);
        while at < length {
            if count == MOST_ARGUMENTS {
                return 0;
            }
            *arguments.add(count) = text.add(at).cast();
            count += 1;
            while *text.add(at) != 0 {
                at += 1;
            }
            at += 1;
        }
        *arguments.add(count) = null_mut();
        count as c_int
    }
}
