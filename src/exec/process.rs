//! One child process: its own process group, no standard input, its output kept apart
//! until it ends. A child dies with us, even by SIGKILL. Must not know what it runs.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

/// What to run: the words of a command and the folder to run it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Working directory.
    pub folder: PathBuf,
}

impl Invocation {
    /// The command as a shell would read it.
    pub fn shell_text(&self) -> String {
        shell_words::join(&self.argv)
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Everything it wrote to its standard output and error, in order.
    pub output: Vec<u8>,
}

/// A running child. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
    output: File,
    reaped: bool,
}

impl Running {
    /// Starts a process. Its output goes to a file in memory: there is no pipe to drain,
    /// nothing is interleaved, and a full disk does not matter.
    pub fn start(what: &Invocation) -> io::Result<Self> {
        let output = File::from(rustix::fs::memfd_create("kthinlto-output", MemfdFlags::CLOEXEC)?);
        let (program, arguments) = split_first(&what.argv)?;
        let parent = rustix::process::getpid();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&what.folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0);
        // SAFETY: between fork and exec the closure makes two system calls and allocates
        // nothing; it touches no lock and no state of the parent's threads.
        unsafe {
            command.pre_exec(move || die_with(parent));
        }
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Running { child, pidfd, output, reaped: false })
    }

    /// The outcome, if it has ended.
    pub fn try_finish(&mut self) -> io::Result<Option<Outcome>> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(None);
        };
        self.reaped = true;
        let mut output = Vec::new();
        self.output.rewind()?;
        self.output.read_to_end(&mut output)?;
        Ok(Some(Outcome { status, output }))
    }

    /// Whether the child has ended. It is not reaped here: its number stays its group's.
    pub fn has_ended(&self) -> bool {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(rustix::event::poll(&mut ended, Some(&Timespec::default())), Ok(1..))
    }

    /// Waits for the end.
    pub fn finish(mut self) -> io::Result<Outcome> {
        loop {
            if let Some(outcome) = self.try_finish()? {
                return Ok(outcome);
            }
            self.child.wait()?;
        }
    }

    /// Sends a signal to the child and all that it started.
    pub fn signal(&self, signal: Signal) {
        if !self.reaped {
            let group = Pid::from_child(&self.child);
            // It may have ended already: then there is nobody to tell.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

impl AsFd for Running {
    /// Readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn split_first(argv: &[String]) -> io::Result<(&String, &[String])> {
    argv.split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an empty command"))
}

/// In the child: ask to be killed when `parent` dies, unless that has happened already.
fn die_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    match rustix::process::getppid() {
        Some(now) if now == parent => Ok(()),
        _ => Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error())),
    }
}

/// Finds a program as `execvp` would: by `PATH`, unless its name has a slash.
pub fn find_program(name: &str, folder: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(folder.join(name)).filter(runs);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| folder.join(dir).join(name)).find(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Invocation { argv: ["sh", "-c", script].map(String::from).to_vec(), folder: ".".into() }
    }

    #[test]
    fn output_comes_whole_and_in_order() {
        let running = Running::start(&shell("echo a; echo b >&2; echo c; exit 3")).unwrap();
        let outcome = running.finish().unwrap();
        assert_eq!(outcome.status.code(), Some(3));
        assert_eq!(outcome.output, b"a\nb\nc\n");
    }

    #[test]
    fn more_output_than_a_pipe_holds_does_not_block() {
        let running = Running::start(&shell("head -c 1000000 /dev/zero")).unwrap();
        assert_eq!(running.finish().unwrap().output.len(), 1_000_000);
    }

    #[test]
    fn a_dropped_child_and_its_children_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script =
            format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let running = Running::start(&shell(&script)).unwrap();
        while !file.exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        drop(running);
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let waited = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            gone()
        });
        assert!(waited, "process {pid} outlived its group");
    }

    #[test]
    fn programs_are_found_as_execvp_does() {
        assert!(find_program("sh", Path::new(".")).is_some());
        assert!(find_program("/bin/sh", Path::new(".")).is_some());
        assert!(find_program("no-such-program-here", Path::new(".")).is_none());
        assert!(find_program("/etc/passwd", Path::new(".")).is_none());
    }
}
