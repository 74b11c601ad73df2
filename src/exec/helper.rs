//! A program that is run for what it prints: a compiler that is asked for its release, `date`, a
//! program of the kernel's own. As with any other child it cannot outlive us, and a signal that
//! stops us stops it; beside that it has a bound on time and output. It takes no slot: whoever
//! asks waits for the answer, and so lends it the slot that it runs on itself. Must not know what
//! is asked.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};

use super::end::End;
use super::interrupt::Interrupts;
use super::pause::Pauses;
use super::poll::poll;
use super::refused::is_refused;
use super::spawn::die_with;
use crate::error::Error;

/// How long an answer may take, on a machine that has much else to do.
const TIME: Duration = Duration::from_secs(60);
/// Bytes of an answer with which it is taken to have no end.
const MOST_PRINTED: usize = 16 << 20;
/// How long a program may take to end after SIGTERM before it gets SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// A program with its arguments, folder and environment, not started yet.
#[derive(Debug, Clone)]
pub struct Helper {
    argv: Vec<OsString>,
    folder: PathBuf,
    /// Variables that are set, or taken out.
    environment: Vec<(&'static str, Option<String>)>,
    is_work: bool,
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Answer {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub output: Vec<u8>,
    /// What it wrote to its standard error; empty where that is ours.
    pub errors: Vec<u8>,
}

/// Why there is no answer. As text it is a clause.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It could not be started, or not be waited for.
    #[error(transparent)]
    System(#[from] io::Error),
    /// It was ended because it printed more than can be meant.
    #[error("its output does not end")]
    Endless,
    /// It was ended because it took longer than this.
    #[error("it did not end within {} seconds", .0.as_secs())]
    TooLong(Duration),
    /// It was ended because a signal asked us to stop.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
}

impl Failure {
    /// The caller's sentence for it. A signal that asked us to stop has its own.
    pub fn into_error(self, sentence: impl FnOnce(io::Error) -> Error) -> Error {
        match self {
            Failure::Interrupted(signal) => Error::Interrupted(signal),
            Failure::System(error) => sentence(error),
            other => sentence(io::Error::other(other)),
        }
    }
}

impl Helper {
    /// A program to be run in `folder`, with the environment of this process. No words are no
    /// program, which is an error when it is run.
    pub fn new(argv: impl IntoIterator<Item: AsRef<OsStr>>, folder: &Path) -> Self {
        let argv = argv.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let environment = Vec::new();
        Helper { argv, folder: folder.to_path_buf(), environment, is_work: false }
    }

    /// Sets a variable for it.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, Some(value.to_owned())));
        self
    }

    /// Has it run without a variable.
    #[must_use]
    pub fn env_remove(mut self, name: &'static str) -> Self {
        self.environment.push((name, None));
        self
    }

    /// It does a part of our own work, and may take as long as that takes: its errors go where ours
    /// go, and it stays in our process group, whose signals then reach it as they reach us. For
    /// programs of a command that is itself a job of a relink.
    #[must_use]
    pub fn at_work(mut self) -> Self {
        self.is_work = true;
        self
    }

    /// Runs it to its end, with no standard input.
    pub fn run(&self) -> Result<Answer, Failure> {
        let interrupts = Interrupts::catch()?;
        // Somebody who stops on Ctrl-Z already does so after the answer: once is enough.
        let pauses = match Pauses::are_caught() {
            true => None,
            false => Some(Pauses::start()?),
        };
        let mut running = self.start()?;
        let limit = (!self.is_work).then_some(TIME);
        let status = running.wait(limit, &interrupts, pauses.as_ref())?;
        let [output, errors] = running.streams.each_mut().map(|one| std::mem::take(&mut one.bytes));
        Ok(Answer { status, output, errors })
    }

    fn start(&self) -> io::Result<Running> {
        let (output, for_output) = Stream::new()?;
        let (errors, for_errors) = Stream::new()?;
        let mut child = self.spawn([for_output, for_errors])?;
        match End::of(Pid::from_child(&child)) {
            Ok(end) => {
                Ok(Running { child, end, leads_group: !self.is_work, streams: [output, errors] })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn spawn(&self, [output, errors]: [OwnedFd; 2]) -> io::Result<Child> {
        let mut command = self.command([output.try_clone()?, errors.try_clone()?])?;
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec the closure makes system calls and allocates nothing; it
        // touches no lock and no state of the parent's threads.
        unsafe {
            command.pre_exec(move || die_with(parent));
        }
        match command.spawn() {
            // Where fork(2) is refused posix_spawn(3) may not be; a child of it outlives a kill.
            Err(error) if Errno::from_io_error(&error).is_some_and(is_refused) => {
                self.command([output, errors])?.spawn()
            }
            started => started,
        }
    }

    fn command(&self, [output, errors]: [OwnedFd; 2]) -> io::Result<Command> {
        let (program, arguments) = self.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null()).stdout(output);
        if self.is_work {
            command.stderr(Stdio::inherit());
        } else {
            command.stderr(errors).process_group(0);
        }
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Ok(command)
    }
}

/// Our end of what a program prints.
#[derive(Debug)]
struct Stream {
    /// `None` after its end.
    end: Option<File>,
    bytes: Vec<u8>,
}

impl Stream {
    /// A stream, and the program's end of it.
    fn new() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        // Of a pipe each end has flags of its own: theirs still blocks.
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
        Ok((Stream { end: Some(ours.into()), bytes: Vec::new() }, theirs))
    }

    /// Takes what is there now.
    fn drain(&mut self) -> Result<(), Failure> {
        let mut piece = [0; 1 << 16];
        while let Some(end) = &mut self.end {
            match end.read(&mut piece) {
                Ok(0) => self.end = None,
                Ok(count) => self.bytes.extend(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            if self.bytes.len() > MOST_PRINTED {
                return Err(Failure::Endless);
            }
        }
        Ok(())
    }
}

/// A program that runs. Dropping it kills and reaps it.
#[derive(Debug)]
struct Running {
    child: Child,
    end: End,
    leads_group: bool,
    streams: [Stream; 2],
}

impl Running {
    /// Reads what it prints until it has ended. What it left running may hold its streams: they are
    /// not waited for.
    fn wait(
        &mut self,
        limit: Option<Duration>,
        interrupts: &Interrupts,
        pauses: Option<&Pauses>,
    ) -> Result<ExitStatus, Failure> {
        let mut deadline = limit.map(|limit| (limit, Instant::now() + limit));
        loop {
            if let Some(signal) = interrupts.signal() {
                self.stop(interrupts);
                return Err(Failure::Interrupted(signal));
            }
            if let Some(time) = pauses.and_then(|pauses| pauses.take_with(|to| self.signal(to)))
                && let Some((_, end)) = &mut deadline
            {
                *end += time;
            }
            // In this order: what it printed last is there when it has ended.
            self.end.begin_look();
            let ended = self.child.try_wait()?;
            for stream in &mut self.streams {
                stream.drain()?;
            }
            if let Some(status) = ended {
                return Ok(status);
            }
            let left = deadline.map(|(_, end)| end.saturating_duration_since(Instant::now()));
            match deadline {
                Some((limit, _)) if left == Some(Duration::ZERO) => {
                    return Err(Failure::TooLong(limit));
                }
                _ => {}
            }
            let streams = self.streams.iter().filter_map(|stream| stream.end.as_ref());
            let others = [interrupts.as_fd(), self.end.as_fd()].into_iter();
            let others = others.chain(pauses.map(AsFd::as_fd));
            poll(others.chain(streams.map(AsFd::as_fd)), left);
        }
    }

    /// Ends it as the end of its work; whoever drops it then kills what is left.
    fn stop(&self, interrupts: &Interrupts) {
        interrupts.take_over();
        interrupts.drain();
        self.signal(Signal::TERM);
        let deadline = Instant::now() + GRACE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            poll([interrupts.as_fd(), self.end.as_fd()].into_iter(), Some(left));
            if left.is_zero() || interrupts.drain() || self.end.is_there() {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        // It may have ended already: then there is nobody to tell.
        let _ = match self.leads_group {
            true => rustix::process::kill_process_group(pid, signal),
            false => rustix::process::kill_process(pid, signal),
        };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Helper {
        Helper::new(["sh", "-c", script], Path::new("/"))
    }

    #[test]
    fn an_answer_has_its_streams_apart_and_its_status() {
        let script = "cat; echo out; echo err >&2; echo $A-$B; pwd; exit 3";
        let asked = shell(script).env("A", "a").env("B", "b").env_remove("B").run().unwrap();
        assert_eq!(asked.status.code(), Some(3));
        assert_eq!(String::from_utf8_lossy(&asked.output), "out\na-\n/\n");
        assert_eq!(String::from_utf8_lossy(&asked.errors), "err\n");
    }

    #[test]
    fn a_long_answer_comes_whole() {
        let asked = shell("head -c 3000000 /dev/zero").run().unwrap();
        assert_eq!(asked.output.len(), 3_000_000);
    }

    #[test]
    fn a_program_that_prints_without_end_is_ended_soon() {
        let begun = Instant::now();
        for script in ["yes", "yes >&2", "yes & wait"] {
            let failure = shell(script).run().unwrap_err();
            assert_eq!(failure.to_string(), "its output does not end", "{script}");
        }
        assert!(begun.elapsed() < TIME / 2, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let helper =
            Helper::new(["sh", "-c", "sleep 1000 & echo $!; echo $! >child; wait"], dir.path());
        let interrupts = Interrupts::catch().unwrap();
        let mut running = helper.start().unwrap();
        let limit = Some(Duration::from_millis(500));
        let failure = running.wait(limit, &interrupts, None).unwrap_err();
        assert!(matches!(failure, Failure::TooLong(_)), "{failure}");
        drop(running);
        let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{}/stat", child.trim())) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let waited = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            gone()
        });
        assert!(waited, "process {child} outlived its group");
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let begun = Instant::now();
        let asked = shell("echo a; sleep 5 &").run().unwrap();
        assert_eq!(asked.output, b"a\n");
        assert!(begun.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn it_leads_a_group_unless_it_does_our_own_work() {
        let script = "ps -o pgid= -p $$; echo $$";
        let groups = |helper: Helper| {
            let asked = helper.run().unwrap();
            let text = String::from_utf8(asked.output).unwrap();
            let mut lines = text.lines().map(|line| line.trim().to_owned());
            (lines.next().unwrap(), lines.next().unwrap())
        };
        let (group, own) = groups(shell(script));
        assert_eq!(group, own);
        let ours = rustix::process::getpgrp().as_raw_pid().to_string();
        assert_eq!(groups(shell(script).at_work()).0, ours);
    }

    #[test]
    fn a_missing_program_is_the_systems_error() {
        let failure = Helper::new(["no-such-program-here"], Path::new("/")).run().unwrap_err();
        let Failure::System(error) = failure else { panic!("{failure}") };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(Helper::new([""; 0], Path::new("/")).run().is_err());
    }
}
