//! Starts a program without a copy of our memory. fork(2) copies the page tables, which on a
//! large kernel take longer than a small backend; posix_spawn(3) does not, but cannot ask that
//! the child dies with us. This is what it does inside, and that one call more. Must not know
//! what becomes of the child.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::refused::is_refused;
use super::stack::Stack;
use super::words::Words;

/// Bytes of stack for a child until it is another program; execvp(3) builds paths there. Where the
/// program is a script with no `#!`, it also copies the pointers to all words.
const STACK: usize = 128 * 1024;
/// The last signal of Linux.
const LAST_SIGNAL: c_int = 64;

/// All that a child needs, made before it is: it must not allocate.
struct Child<'a> {
    argv: &'a [*const c_char],
    folder: &'a CString,
    input: c_int,
    output: c_int,
    parent: Pid,
    signals: &'a libc::sigset_t,
    error: Cell<c_int>,
}

/// Why a program was not started.
#[derive(Debug)]
pub(super) enum Failure {
    /// The system call that makes a child is refused in this form.
    Refused,
    Other(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Other(error)
    }
}

/// Starts a program in `folder`, in a process group of its own, with no input, its output and
/// errors going to `output`. It is killed when the thread that calls this ends.
pub(super) fn spawn(argv: &Words, folder: &Path, output: &File) -> Result<Pid, Failure> {
    let unfit = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
    let text = argv.text().ok_or_else(|| unfit("a command with a zero byte"))?;
    if text.is_empty() {
        return Err(unfit("an empty command").into());
    }
    // Pointers into the whole text: each word's zero byte is read, too.
    let mut at = 0;
    let mut pointers: Vec<*const c_char> = argv
        .iter()
        .map(|word| {
            let start = text[at..].as_ptr().cast();
            at += word.len() + 1;
            start
        })
        .collect();
    pointers.push(ptr::null());
    let folder = CString::new(folder.as_os_str().as_bytes()).map_err(io::Error::from)?;
    let input = File::open("/dev/null")?;
    let parent = rustix::process::getpid();
    with_signals_blocked(|signals| {
        start(&Child {
            argv: &pointers,
            folder: &folder,
            input: input.as_raw_fd(),
            output: output.as_raw_fd(),
            parent,
            signals,
            error: Cell::new(0),
        })
    })
}

/// No handler of ours may run in a child that still has our memory.
fn with_signals_blocked<T>(work: impl FnOnce(&libc::sigset_t) -> T) -> T {
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both sets are locals; sigfillset makes `all` a set, and the call fills `before`,
    // for which zero is a value (the empty set).
    let before = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    };
    let result = work(&before);
    // SAFETY: `before` is the set that was taken above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    result
}

fn start(child: &Child<'_>) -> Result<Pid, Failure> {
    let mut stack = Stack::new(STACK + 2 * size_of_val(child.argv))?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child runs `enter` on a stack of its own, from its aligned end down, and this
    // thread is suspended (CLONE_VFORK) until it is another program or gone: the stack and
    // `child` outlive its use of them. What it calls allocates nothing and takes no lock.
    let pid =
        unsafe { libc::clone(enter, stack.top(), flags, ptr::from_ref(child).cast_mut().cast()) };
    let Some(pid) = Pid::from_raw(pid.max(0)) else {
        let error = io::Error::last_os_error();
        return Err(match Errno::from_io_error(&error) {
            Some(errno) if is_refused(errno) => Failure::Refused,
            _ => Failure::Other(error),
        });
    };
    match child.error.get() {
        0 => Ok(pid),
        error => {
            // It has ended already, without having been the program.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            Err(io::Error::from_raw_os_error(error).into())
        }
    }
}

/// The child's first function: returns only if it could not become the program.
extern "C" fn enter(child: *mut c_void) -> c_int {
    // SAFETY: `start` passes a `Child`, which lives as long as this thread's parent sleeps.
    let child = unsafe { &*child.cast::<Child<'_>>() };
    let Err(error) = child.become_program();
    child.error.set(error.raw_os_error().unwrap_or(libc::EINVAL));
    127
}

impl Child<'_> {
    fn become_program(&self) -> io::Result<std::convert::Infallible> {
        let done = |result: c_int| match result {
            ..0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        };
        default_signals();
        // SAFETY: system calls on numbers, and on texts and a set that outlive the child's use.
        unsafe {
            done(libc::setpgid(0, 0))?;
            die_with(self.parent)?;
            done(libc::dup2(self.input, 0))?;
            done(libc::dup2(self.output, 1))?;
            done(libc::dup2(self.output, 2))?;
            done(libc::chdir(self.folder.as_ptr()))?;
            done(libc::sigprocmask(libc::SIG_SETMASK, self.signals, ptr::null_mut()))?;
            libc::execvp(self.argv[0], self.argv.as_ptr());
        }
        Err(io::Error::last_os_error())
    }
}

/// In the child: no handler of ours, which exec would take away too, but too late; and SIGPIPE,
/// which Rust programs ignore, as other programs expect it.
fn default_signals() {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: a sigaction is plain data, for which zero is a value: SIG_DFL, no flags. The
        // child's table of handlers is its own (no CLONE_SIGHAND).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &mut action) != 0 {
                continue; // one that the C library keeps for itself
            }
            let ignored = action.sa_sigaction == libc::SIG_IGN && signal != libc::SIGPIPE;
            if !ignored && action.sa_sigaction != libc::SIG_DFL {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &default, ptr::null_mut());
            }
        }
    }
}

/// In the child: ask to be killed when `parent` dies, unless that has happened already.
pub(super) fn die_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    match rustix::process::getppid() {
        Some(now) if now == parent => Ok(()),
        _ => Err(io::Error::from_raw_os_error(Errno::SRCH.raw_os_error())),
    }
}
