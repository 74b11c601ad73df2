//! One child process: its own process group, no standard input, its output kept apart
//! until it ends. A child dies with us, even by SIGKILL. Must not know what it runs.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::end::End;
use super::executor::Job;
use super::refused::{Refused, nameless_file};
use super::spawn::{self, Failure, die_with};
use super::words::Words;
use crate::environment::Environment;

/// What to run: the words of a command and the folder to run it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Program and arguments.
    pub argv: Words,
    /// Working directory.
    pub folder: PathBuf,
    /// What the program would call itself with in the end, where that is known: a copy of it may
    /// begin there, and saves the way to it.
    pub inner: Option<Words>,
}

impl Invocation {
    /// A command and the folder to run it in.
    pub fn new(argv: impl IntoIterator<Item: AsRef<str>>, folder: &Path) -> Self {
        let argv = argv.into_iter().collect();
        Invocation { argv, folder: folder.to_path_buf(), inner: None }
    }

    /// The command as a shell would read it.
    pub fn shell_text(&self) -> String {
        shell_words::join(self.argv.iter())
    }
}

/// What a process took, with all that it started and waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// From its start to its end.
    pub wall: Duration,
    /// Of processors, in user and kernel mode.
    pub cpu: Duration,
    /// The most memory that it, or one of those, held at a time, in KiB.
    pub peak: u64,
}

/// Where the time of a job on another machine went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoteUsage {
    /// Waiting for a worker, as the server says.
    pub queue: Duration,
    /// Sending what the server did not have.
    pub upload: Duration,
    /// Running, as the server says.
    pub execution: Duration,
    /// How long a worker had nothing else to do, as the server says: the run, and what it fetches and sends.
    pub worker: Duration,
    /// Fetching the outputs.
    pub download: Duration,
    /// Nothing was run: the server had the result.
    pub from_store: bool,
}

/// How a process ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// What it took. Of a job on another machine, what the server says: its memory is not known, and 0.
    pub usage: Usage,
    /// Everything it wrote to its standard output and error, in order.
    pub output: Vec<u8>,
    /// Where the time went, of a job that ran on another machine.
    pub remote: Option<RemoteUsage>,
}

/// Bytes of a child's output that are passed on, and with which it is taken to have no end.
const MOST_SHOWN: u64 = 4 << 20;
const MOST_WRITTEN: u64 = 256 << 20;

/// A running child. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    started: Instant,
    /// Of the time since then it was stopped for so long.
    stopped: Duration,
    end: End,
    output: File,
    reaped: bool,
    forked: bool,
}

impl Running {
    /// Starts a process. Its output goes to a file in memory: there is no pipe to drain,
    /// nothing is interleaved, and a full disk does not matter. It inherits our environment, and
    /// is found by our `PATH`.
    ///
    /// # Errors
    /// Where it cannot be started, or its output has no place to go.
    pub fn start(what: &Invocation) -> io::Result<Self> {
        let output = output_file()?;
        let started = Instant::now();
        match spawn::spawn(&what.argv, &what.folder, &output) {
            Ok(pid) => Self::adopt(pid, started, output, false),
            Err(Failure::Refused) => Self::fork(what, output),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// The slower way, where clone(2) is refused in the form that shares memory.
    fn fork(what: &Invocation, output: File) -> io::Result<Self> {
        let mut words = what.argv.iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).current_dir(&what.folder);
        Self::spawn(command, output, |_| Ok(())).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS) => Refused::error("clone", error),
            _ => error,
        })
    }

    /// Starts a command as a child of the kind that all are here. `prepare` runs in the
    /// child before the program does: it may make system calls and must not allocate.
    pub(super) fn spawn(
        mut command: Command,
        output: File,
        prepare: impl Fn(Pid) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let parent = rustix::process::getpid();
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0);
        // SAFETY: between fork and exec the closure makes system calls and allocates
        // nothing; it touches no lock and no state of the parent's threads.
        unsafe {
            command.pre_exec(move || die_with(parent).and_then(|()| prepare(parent)));
        }
        let started = Instant::now();
        let pid = Pid::from_child(&command.spawn()?);
        Self::adopt(pid, started, output, false)
    }

    /// Takes charge of a child of this process that leads a process group of its own.
    pub(super) fn adopt(
        pid: Pid,
        started: Instant,
        output: File,
        forked: bool,
    ) -> io::Result<Self> {
        match End::of(pid) {
            Ok(end) => {
                let stopped = Duration::ZERO;
                Ok(Running { pid, started, stopped, end, output, reaped: false, forked })
            }
            Err(error) => {
                end_child(pid);
                Err(error)
            }
        }
    }

    /// What it has written so far; of very much, the start and a word on the rest.
    pub(super) fn output(&mut self) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        if self.written() == 0 {
            return Ok(output);
        }
        self.output.rewind()?;
        (&self.output).take(MOST_SHOWN).read_to_end(&mut output)?;
        let rest = self.written().saturating_sub(MOST_SHOWN) >> 20;
        if rest > 0 {
            output.extend(
                format!("\nkthinlto: {rest} MiB more of this output are left out\n").bytes(),
            );
        }
        Ok(output)
    }

    /// Its number, which stays its own until it is reaped.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    fn written(&self) -> u64 {
        self.output.metadata().map_or(0, |found| found.len())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Where it cannot be waited for, or its output cannot be read.
    pub fn finish(mut self) -> io::Result<Outcome> {
        loop {
            if let Some(outcome) = self.reap(0)? {
                return Ok(outcome);
            }
        }
    }

    fn reap(&mut self, options: libc::c_int) -> io::Result<Option<Outcome>> {
        let Some((status, mut usage)) = wait(self.pid, options)? else {
            return Ok(None);
        };
        self.reaped = true;
        usage.wall = self.started.elapsed().saturating_sub(self.stopped);
        Ok(Some(Outcome { status, usage, output: self.output()?, remote: None }))
    }

    /// Sends a signal to the child and all that it started.
    fn send(&self, signal: Signal) {
        if !self.reaped {
            // It may have ended already: then there is nobody to tell.
            if rustix::process::kill_process_group(self.pid, signal).is_err() {
                let _ = rustix::process::kill_process(self.pid, signal);
            }
        }
    }
}

impl Job for Running {
    fn try_finish(&mut self) -> io::Result<Option<Outcome>> {
        self.end.begin_look();
        self.reap(libc::WNOHANG)
    }

    /// The child is not reaped here: its number stays its group's.
    fn has_ended(&self) -> bool {
        self.end.is_there()
    }

    fn cancel(&self) {
        self.send(Signal::TERM);
    }

    fn process(&self) -> Option<Pid> {
        Some(self.pid)
    }

    fn signal(&self, signal: Signal) {
        self.send(signal);
    }

    fn was_stopped(&mut self, time: Duration) {
        self.stopped += time;
    }

    fn is_hopeless(&self) -> bool {
        self.written() > MOST_WRITTEN
    }

    /// A copy that failed: as a process of its own it may not.
    fn is_in_doubt(&self) -> bool {
        self.forked
    }
}

impl AsFd for Running {
    /// Readable when the process has ended, or may have: look with `try_finish`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.send(Signal::KILL);
            // A fork server's group may hold a copy that it did not tell us of.
            while wait_for(-self.pid.as_raw_pid(), 0).is_ok() {}
            let _ = wait(self.pid, 0);
        }
    }
}

/// Ends a child that nobody wants any more, and reaps it.
pub(super) fn end_child(pid: Pid) {
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    let _ = wait(pid, 0);
}

/// A file in memory for what a child writes.
pub(super) fn output_file() -> io::Result<File> {
    nameless_file("kthinlto-output")
}

/// Reaps a child, as wait4(2) does; `None` if it has not ended, with `WNOHANG`.
fn wait(pid: Pid, options: libc::c_int) -> io::Result<Option<(ExitStatus, Usage)>> {
    wait_for(pid.as_raw_pid(), options)
}

/// The same for any child of a process group, if the number is a negative one.
fn wait_for(which: libc::pid_t, options: libc::c_int) -> io::Result<Option<(ExitStatus, Usage)>> {
    let mut status = 0;
    // SAFETY: a rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to locals of the right types, which outlive the call.
        match unsafe { libc::wait4(which, &mut status, options, &mut usage) } {
            0 => return Ok(None),
            1.. => return Ok(Some((ExitStatus::from_raw(status), used(&usage)))),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// What getrusage(2) says, but for the wall time.
fn used(usage: &libc::rusage) -> Usage {
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    let cpu = time(usage.ru_utime) + time(usage.ru_stime);
    Usage { wall: Duration::ZERO, cpu, peak: usage.ru_maxrss as u64 }
}

/// Finds a program as `execvp` would in this environment: by `PATH`, unless its name has a slash.
pub fn find_program(name: &str, folder: &Path, environment: &Environment) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(folder.join(name)).filter(runs);
    }
    environment.path().map(|dir| folder.join(dir).join(name)).find(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Invocation::new(["sh", "-c", script], Path::new("."))
    }

    #[test]
    fn output_comes_whole_and_in_order() {
        let running = Running::start(&shell("echo a; echo b >&2; echo c; exit 3")).unwrap();
        let outcome = running.finish().unwrap();
        assert_eq!(outcome.status.code(), Some(3));
        assert_eq!(outcome.output, b"a\nb\nc\n");
    }

    #[test]
    fn empty_arguments_arrive() {
        let argv = ["sh", "-c", "printf '[%s]' \"$@\"", "sh", "", "a b", ""];
        let running = Running::start(&Invocation::new(argv, Path::new("."))).unwrap();
        assert_eq!(running.finish().unwrap().output, b"[][a b][]");
    }

    #[test]
    fn a_child_starts_with_no_input_default_signals_and_its_own_group() {
        let script =
            "cat; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; ps -o pgid= -p $$; echo $$";
        let outcome = Running::start(&shell(script)).unwrap().finish().unwrap();
        let text = String::from_utf8(outcome.output).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let set = |line: &str| u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
        assert_eq!(set(lines[0]), 0, "nothing is blocked: {text}");
        let pipe = 1 << (libc::SIGPIPE - 1);
        assert_eq!(set(lines[1]) & pipe, 0, "SIGPIPE is not ignored: {text}");
        assert_eq!(lines[3], lines[4], "it leads a group: {text}");
    }

    #[test]
    fn what_cannot_be_started_is_an_error_and_leaves_no_child() {
        let start = |argv: &[&str], folder: &str| {
            Running::start(&Invocation::new(argv, Path::new(folder))).unwrap_err().kind()
        };
        assert_eq!(start(&["no-such-program-here"], "."), io::ErrorKind::NotFound);
        assert_eq!(start(&["true"], "/no/such/folder"), io::ErrorKind::NotFound);
        assert_eq!(start(&["/etc/passwd"], "."), io::ErrorKind::PermissionDenied);
        assert_eq!(start(&["a\0b"], "."), io::ErrorKind::InvalidInput);
        assert_eq!(start(&[], "."), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn more_words_than_a_small_stack_holds_reach_a_script_without_a_shebang() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, "echo $# $1 ${60000}\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        // libc copies pointers to all words there, to put a shell before them.
        let mut argv = vec![script.to_string_lossy().into_owned(), "first".to_owned()];
        argv.extend((2..=60_000).map(|n| format!("{n}")));
        let running = Running::start(&Invocation::new(argv, Path::new("."))).unwrap();
        assert_eq!(running.finish().unwrap().output, b"60000 first 60000\n");
    }

    #[test]
    fn the_end_is_noticed_by_signals_too() {
        let mut running = Running::start(&shell("sleep 0.1; exit 7")).unwrap();
        running.end = End::by_signals(running.pid()).unwrap();
        let status = loop {
            let mut set = [rustix::event::PollFd::new(&running, rustix::event::PollFlags::IN)];
            // A signal of another test's child may interrupt it.
            let _ = rustix::event::poll(&mut set, None);
            let ended = running.has_ended();
            if let Some(outcome) = running.try_finish().unwrap() {
                break outcome.status;
            }
            assert!(!ended);
        };
        assert_eq!(status.code(), Some(7));
    }

    #[test]
    fn more_output_than_a_pipe_holds_does_not_block() {
        let running = Running::start(&shell("head -c 1000000 /dev/zero")).unwrap();
        assert_eq!(running.finish().unwrap().output.len(), 1_000_000);
    }

    #[test]
    fn what_a_process_took_is_known() {
        let script = "exec 3</dev/zero; sleep 0.2; head -c 40000000 <&3 | tail -c 40000000 | wc -c";
        let usage = Running::start(&shell(script)).unwrap().finish().unwrap().usage;
        assert!(usage.wall >= Duration::from_millis(200), "{usage:?}");
        assert!(usage.cpu > Duration::ZERO && usage.cpu < usage.wall * 64, "{usage:?}");
        assert!((40_000..4_000_000).contains(&usage.peak), "tail held 40 MB: {usage:?}");
    }

    #[test]
    fn a_dropped_child_and_its_children_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script =
            format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let running = Running::start(&shell(&script)).unwrap();
        while !file.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(running);
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let waited = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            gone()
        });
        assert!(waited, "process {pid} outlived its group");
    }

    #[test]
    fn programs_are_found_as_execvp_does() {
        let here = Environment::of_process();
        let find = |name, environment| find_program(name, Path::new("."), environment);
        assert!(find("sh", &here).is_some());
        assert!(find("/bin/sh", &here).is_some());
        assert!(find("no-such-program-here", &here).is_none());
        assert!(find("/etc/passwd", &here).is_none());
        let elsewhere = Environment::from_iter([("PATH", "/nowhere")]);
        assert!(find("sh", &elsewhere).is_none() && find("/bin/sh", &elsewhere).is_some());
    }
}
