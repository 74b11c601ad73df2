//! One compiler process that waits, ready, to be copied: started with the library of
//! `preload/` before libc, and asked for copies over a socket. Copies are our own children;
//! the server never sees how they end. Must not know when a server pays.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};

use super::executor::Job as _;
use super::huge_pages;
use super::interrupt::Interrupts;
use super::process::{Running, output_file};
use super::refused::nameless_file;
use super::words::Words;
use crate::environment::Environment;

/// The library, as `build.rs` made it; empty where there is none for this machine.
const PRELOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/preload.so"));

/// First word of the first packet (`preload/protocol.rs`).
const HELLO: i32 = 0x6b74_6c32;

/// A packet that asks for another server instead of a job: one empty word.
const ANOTHER: &str = "\0";

/// How long a server may take to answer, on a machine that has much else to do.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A server that waits for jobs. Dropping it ends it; its copies live on.
#[derive(Debug)]
pub struct Server {
    socket: OwnedFd,
    /// Readable when a signal asks us to stop: then nothing is waited for.
    interrupted: OwnedFd,
    process: Running,
    begun: Instant,
}

/// Why there is no copy.
#[derive(Debug)]
pub enum Failure {
    /// This job cannot be passed on.
    Unfit,
    /// The system has no room for another process now.
    Shortage(io::Error),
    /// The server is of no more use: a clause that says why.
    Lost(String),
}

impl Server {
    /// Starts `program` in `folder`; [`Server::finish`] waits until it is ready. An `Err` is a clause that
    /// says why it cannot serve.
    pub fn begin(
        program: &str,
        folder: &Path,
        environment: &Environment,
        interrupts: &Interrupts,
    ) -> Result<Self, String> {
        if PRELOAD.is_empty() {
            return Err("this build of kthinlto has no fork server".to_owned());
        }
        let failed = |error: io::Error| format!("it cannot be started: {error}");
        let interrupted = interrupts.as_fd().try_clone_to_owned().map_err(failed)?;
        let (socket, process) = spawn(program, folder, environment).map_err(failed)?;
        Ok(Server { socket, interrupted, process, begun: Instant::now() })
    }

    /// Readable when it is ready, or never will be.
    pub fn answer(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Whether [`Server::finish`] need not wait.
    pub fn has_answered(&self) -> bool {
        let mut set = [PollFd::new(&self.socket, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // What went wrong here goes wrong there too, and is told there.
        rustix::event::poll(&mut set, Some(&now)).map_or(true, |count| count > 0)
            || self.begun.elapsed() > PATIENCE
    }

    /// Waits until it is ready. `path` is the program's real file. An `Err` is a clause that says why it
    /// cannot serve.
    pub fn finish(mut self, path: &Path) -> Result<Self, String> {
        self.wait_until_ready()?;
        self.check_program(path)?;
        Ok(self)
    }

    /// Number of its process.
    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw_pid()
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        match self.receive(self.begun) {
            Ok([HELLO, 0]) => Ok(()),
            Ok([HELLO, refusal]) => Err(refused(refusal).to_owned()),
            Ok(_) => Err("it does not answer as a fork server of this version does".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err("it took too long to start".to_owned())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Err("a signal came before it was ready".to_owned())
            }
            Err(_) => {
                let output = self.process.output().unwrap_or_default();
                let text = String::from_utf8_lossy(&output);
                let said = text.lines().next().unwrap_or("nothing");
                Err(format!("it ran past the point where it should have waited, and said: {said}"))
            }
        }
    }

    /// A wrapper may have led to another program.
    fn check_program(&self, path: &Path) -> Result<(), String> {
        let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        let runs = identity(Path::new(&format!("/proc/{}/exe", self.pid())));
        if runs.is_some() && runs == identity(path) {
            return Ok(());
        }
        Err(format!("{} starts another program", path.display()))
    }

    /// Asks for a copy that runs its `main` with these arguments. Numbers of copies come in the order in which
    /// these were asked for ([`Server::next_copy`]). It is a shortage if too many were that it has not read.
    pub fn ask(&self, argv: &Words) -> Result<Asked, Failure> {
        let started = Instant::now();
        let text = argv.text().filter(|text| *text != ANOTHER).ok_or(Failure::Unfit)?;
        let output = output_file().map_err(Failure::Shortage)?;
        let (go, start) = pipe()?;
        self.send(text, [output.as_fd(), go.as_fd()])?;
        Ok(Asked { started, output, start })
    }

    /// The number of the copy that was asked for first of those whose number has not come; `None` if it is
    /// not there yet.
    pub fn next_copy(&self) -> Result<Option<Pid>, Failure> {
        match self.answer_now(RecvFlags::DONTWAIT) {
            Ok([number, _]) => copied(number).map(Some),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(lost(&error)),
        }
    }

    /// A copy of this server that waits for jobs of its own. No answer may be outstanding. Waits for it.
    pub fn another(&self) -> Result<Self, Failure> {
        let begun = Instant::now();
        let output = output_file().map_err(Failure::Shortage)?;
        let (go, start) = pipe()?;
        let (socket, theirs) = sockets().map_err(Failure::Shortage)?;
        let interrupted = self.interrupted.try_clone().map_err(Failure::Shortage)?;
        self.send(ANOTHER, [theirs.as_fd(), go.as_fd()])?;
        drop((go, theirs));
        let [number, _] = self.receive(begun).map_err(|error| lost(&error))?;
        let process = Asked { started: begun, output, start }.begin(copied(number)?)?;
        Ok(Server { socket, interrupted, process, begun })
    }

    /// Ends it at once, and with it what it was asked for.
    pub fn kill(&self) {
        self.process.signal(Signal::KILL);
    }

    fn send(&self, text: &str, descriptors: [BorrowedFd<'_>; 2]) -> Result<(), Failure> {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let packet = [IoSlice::new(text.as_bytes())];
        // A server that is far behind, or stopped, has no room for another job: that is not waited for.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(&self.socket, &packet, &mut control, flags) {
            Ok(_) => Ok(()),
            Err(Errno::MSGSIZE) => Err(Failure::Unfit),
            Err(error) if is_shortage(error) => Err(Failure::Shortage(error.into())),
            Err(error) => Err(Failure::Lost(format!("is gone ({error})"))),
        }
    }

    fn receive(&self, since: Instant) -> io::Result<[i32; 2]> {
        let deadline = since + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut set = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(&self.interrupted, PollFlags::IN),
            ];
            let timeout = Timespec::try_from(left).ok();
            match rustix::event::poll(&mut set, timeout.as_ref()) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) if set[0].revents().is_empty() => {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.answer_now(RecvFlags::empty())
    }

    fn answer_now(&self, flags: RecvFlags) -> io::Result<[i32; 2]> {
        let mut packet = [0; 8];
        let (count, _) = recv(&self.socket, &mut packet[..], flags)?;
        if count != packet.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let [a, b, c, d, e, f, g, h] = packet;
        Ok([i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h])])
    }
}

impl AsFd for Server {
    /// Readable when an answer is there, or there will be none any more.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A copy that was asked for. Dropping this ends it before it does anything.
#[derive(Debug)]
pub struct Asked {
    started: Instant,
    output: File,
    /// The copy does nothing before it reads a byte: nobody else knows of it until then.
    start: File,
}

impl Asked {
    /// When it was asked for.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// We were stopped for so long meanwhile.
    pub fn was_stopped(&mut self, time: Duration) {
        self.started += time;
    }

    /// The copy is there, under this number, and begins.
    pub fn begin(mut self, pid: Pid) -> Result<Running, Failure> {
        let _ = rustix::process::setpgid(Some(pid), Some(pid));
        let running = Running::adopt(pid, self.started, self.output, true);
        let running = running.map_err(Failure::Shortage)?;
        match self.start.write_all(&[1]) {
            Ok(()) => Ok(running),
            Err(error) => Err(Failure::Lost(format!("made a copy that ended at once ({error})"))),
        }
    }
}

/// The end to read from, and the end to write to.
fn pipe() -> Result<(OwnedFd, File), Failure> {
    let (read, write) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| Failure::Shortage(error.into()))?;
    Ok((read, File::from(write)))
}

fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// The number of a copy, as a server answers: a number of a process, or of an error.
fn copied(number: i32) -> Result<Pid, Failure> {
    match number {
        1.. => Pid::from_raw(number).ok_or(Failure::Unfit),
        _ => Err(refused_fork(number.saturating_neg())),
    }
}

fn lost(error: &io::Error) -> Failure {
    Failure::Lost(format!("does not answer ({error})"))
}

/// What `preload/protocol.rs` means by its reasons.
fn refused(reason: i32) -> &'static str {
    match reason {
        1 => "it starts threads before main",
        2 => "the kernel or libc does not say where a thread's number is kept",
        3 => "it is a sanitizer build",
        4 => "it was started by another process",
        5 => "its code could not be moved in memory",
        _ => "it refused",
    }
}

fn refused_fork(number: i32) -> Failure {
    match Errno::from_raw_os_error(number) {
        Errno::INVAL => Failure::Unfit,
        error if is_shortage(error) => Failure::Shortage(error.into()),
        error => Failure::Lost(format!("cannot fork ({error})")),
    }
}

fn is_shortage(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::NOMEM | Errno::NOBUFS)
}

/// Starts the program with the library before libc; the socket is our end.
fn spawn(
    program: &str,
    folder: &Path,
    environment: &Environment,
) -> io::Result<(OwnedFd, Running)> {
    let (ours, theirs) = sockets()?;
    let mut library = nameless_file("kthinlto-preload")?;
    library.write_all(PRELOAD)?;
    let mut command = Command::new(program);
    // If the library is not heeded the program is harmless, and soon ends.
    command.arg("--version").current_dir(folder);
    set_environment(&mut command, environment, theirs.as_raw_fd(), library.as_raw_fd());
    let inherited = [theirs.as_raw_fd(), library.as_raw_fd()];
    let process = Running::spawn(command, output_file()?, move |_| keep_open(&inherited))?;
    Ok((ours, process))
}

/// Of glibc's malloc (manual, "Memory Allocation Tunables"): 127 small freed pieces of a size at
/// hand: the most that versions before 2.30 count (`char`). The default of 2.36 is 7, where LLVM
/// frees thousands.
const TUNABLES: &str = "glibc.malloc.tcache_count=127";
/// The same, and huge pages.
const TUNABLES_HUGE: &str = "glibc.malloc.hugetlb=1:glibc.malloc.tcache_count=127";

fn set_environment(
    command: &mut Command,
    environment: &Environment,
    socket: RawFd,
    library: RawFd,
) {
    let mut preload = OsString::from(format!("/proc/self/fd/{library}"));
    if let Some(others) = environment.get("LD_PRELOAD").filter(|value| !value.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    let huge = huge_pages::are_given();
    let mut setting = format!("{socket}.{library}.{}.{}", std::process::id(), u8::from(huge));
    // What copies would look up each for itself is looked up once.
    let tunables = if huge { TUNABLES_HUGE } else { TUNABLES };
    let ours = [("LD_BIND_NOW", "1"), ("GLIBC_TUNABLES", tunables)];
    for (name, value) in ours.into_iter().filter(|(name, _)| environment.get(name).is_none()) {
        command.env(name, value);
        setting.push('.');
        setting.push_str(name);
    }
    command.env("LD_PRELOAD", preload).env("KTHINLTO_FORK_SERVER", setting);
}

/// In the child: descriptors that the program is to have.
fn keep_open(descriptors: &[RawFd]) -> io::Result<()> {
    for descriptor in descriptors {
        // SAFETY: the parent holds these open until after the child's exec.
        let descriptor = unsafe { BorrowedFd::borrow_raw(*descriptor) };
        fcntl_setfd(descriptor, FdFlags::empty())?;
    }
    Ok(())
}
