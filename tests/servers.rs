//! A fork server of several processes, as a machine with many processors has one.

#![cfg(feature = "program")]

mod common;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use common::{Tree, assert_holds, tool, until};
use kthinlto::environment::Environment;
use kthinlto::error::Result;
use kthinlto::exec::action::Action;
use kthinlto::exec::executor::{self, Executor};
use kthinlto::exec::fork_server::{ForkServer, Starting};
use kthinlto::exec::interrupt::Interrupts;
use kthinlto::exec::process::{Invocation, Outcome};
use kthinlto::exec::run::{Runner, Work};
use kthinlto::exec::slots::Slots;
use rustix::process::{Pid, Signal};

/// Runs one command again and again.
struct Same {
    what: Invocation,
    left: usize,
    outputs: Vec<Vec<u8>>,
    /// Called when each has ended, with the number of those that are left.
    each: Box<dyn FnMut(usize)>,
}

impl Work for Same {
    fn next(&mut self) -> Result<Option<(usize, Action)>> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        Ok(Some((left, Action::from(self.what.clone()))))
    }

    fn done(&mut self, _: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        let outcome = outcome.unwrap();
        self.outputs.push(outcome.output);
        (self.each)(self.left);
        Ok(outcome.status.success())
    }
}

/// Processes of this program.
fn running(program: &Path) -> Vec<i32> {
    let numbers = fs::read_dir("/proc").unwrap().filter_map(|one| {
        let number: i32 = one.unwrap().file_name().to_str()?.parse().ok()?;
        (fs::read_link(format!("/proc/{number}/exe")).ok()? == program).then_some(number)
    });
    numbers.collect()
}

struct Setup {
    tree: Tree,
    program: PathBuf,
    interrupts: Interrupts,
}

impl Setup {
    /// With a stand-in for clang whose processes can be told from those of others.
    fn new() -> Self {
        let tree = Tree::new();
        let program = tree.program("clang-many", &tool("clang"), "", "", "");
        Setup { tree, program: program.into(), interrupts: Interrupts::catch().unwrap() }
    }

    fn server(&self, processes: usize) -> ForkServer {
        let (program, folder) = (self.program.to_str().unwrap(), self.tree.objects.clone());
        let environment = Environment::of_process();
        let begun = Starting::begin(program, folder, &environment, &self.interrupts);
        begun.and_then(|begun| begun.finish_as(processes)).unwrap()
    }

    /// What so many jobs print, eight at a time.
    fn run(
        &self,
        server: &mut ForkServer,
        jobs: usize,
        each: Box<dyn FnMut(usize)>,
    ) -> Vec<Vec<u8>> {
        let argv = [self.program.to_str().unwrap(), "-dumpversion"];
        let what = Invocation::new(argv, &self.tree.objects);
        let mut work = Same { what, left: jobs, outputs: Vec::new(), each };
        let slots = Slots::local(8);
        let runner = Runner { slots: &slots, interrupts: &self.interrupts, keep_going: false };
        assert_eq!(runner.run(server, &mut work).unwrap(), 0);
        work.outputs
    }
}

#[test]
fn several_processes_serve_as_one_does() {
    let setup = Setup::new();
    let mut server = setup.server(3);
    assert_eq!(running(&setup.program).len(), 3);
    assert_holds(&server.notes()[0], &["a fork server of", ", and 2 more) runs the backends"]);
    let outputs = setup.run(&mut server, 100, Box::new(|_| {}));
    let version = outputs[0].clone();
    assert!(version.starts_with(b"22."), "{version:?}");
    assert_eq!(outputs, vec![version; 100]);
    assert!(server.notes().is_empty(), "none was lost");
    drop(server);
    until("the end of all", || running(&setup.program).is_empty());
}

#[test]
fn the_death_of_one_of_several_costs_no_job() {
    let setup = Setup::new();
    let mut server = setup.server(3);
    // The one that is asked first.
    let note = server.notes().remove(0);
    let number = note.split_once("(process ").unwrap().1.split_once(',').unwrap().0;
    let first = number.parse().unwrap();
    let kill = move |left| {
        if left == 60 {
            rustix::process::kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
        }
    };
    assert_eq!(setup.run(&mut server, 100, Box::new(kill)).len(), 100);
    let notes = server.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_holds(&notes[0], &["the fork server of", "the other backends ran as plain processes"]);
    until("the end of all", || running(&setup.program).is_empty());
}

#[test]
fn a_copy_that_never_comes_is_a_process_in_the_end() {
    let setup = Setup::new();
    let mut server = setup.server(1);
    let number = Pid::from_raw(running(&setup.program)[0]).unwrap();
    rustix::process::kill_process(number, Signal::STOP).unwrap();
    let argv = [setup.program.to_str().unwrap(), "-dumpversion"];
    let action = Action::from(Invocation::new(argv, &setup.tree.objects));
    let mut jobs: Vec<_> = (0..3).map(|_| server.start(&action).unwrap()).collect();
    for job in &mut jobs {
        assert!(job.try_finish().unwrap().is_none());
        assert!(job.is_here() && job.process().is_none() && !job.is_hopeless());
    }
    // As the runner does once a job is hopeless.
    jobs[1].signal(Signal::KILL);
    for job in jobs {
        let outcome = executor::finish(job).unwrap();
        assert!(outcome.status.success() && outcome.output.starts_with(b"22."), "{outcome:?}");
    }
    assert_eq!(executor::finish(server.start(&action).unwrap()).unwrap().status.code(), Some(0));
    assert_holds(&server.notes()[1], &["the fork server of", "does not answer"]);
}

/// In a thread of its own: who waits for such a server waits for ever.
#[test]
fn a_server_that_reads_nothing_is_not_waited_for() {
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let setup = Setup::new();
        let mut server = setup.server(1);
        let number = Pid::from_raw(running(&setup.program)[0]).unwrap();
        rustix::process::kill_process(number, Signal::STOP).unwrap();
        let long = "x".repeat(20_000);
        let argv = [setup.program.to_str().unwrap(), "-dumpversion", &long];
        let action = Action::from(Invocation::new(argv, &setup.tree.objects));
        let started: io::Result<Vec<_>> = (0..100).map(|_| server.start(&action)).collect();
        told.send(started.err().map(|error| error.kind())).unwrap();
    });
    let kind = heard.recv_timeout(std::time::Duration::from_secs(60)).expect("it was waited for");
    assert_eq!(kind, Some(io::ErrorKind::WouldBlock), "there may be room once it has read");
}
