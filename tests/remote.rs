//! Jobs on a real server of the Remote Execution API: the objects that come back are those that are made here, and a
//! server that is gone, full, slow or wrong costs time and no object.
#![cfg(feature = "remote")]

mod common;
#[path = "common/casd.rs"]
mod casd;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use casd::Casd;
use common::{LDFLAGS, Tree, tool};
use kthinlto::environment::Environment;
use kthinlto::error::Result;
use kthinlto::exec::action::Action;
use kthinlto::exec::executor::{Capacity, Choice, Engine, Executor, Job, Processes};
use kthinlto::exec::interrupt::Interrupts;
use kthinlto::exec::process::{Outcome, RemoteUsage};
use kthinlto::exec::remote::Remote;
use kthinlto::exec::remote::settings::Settings as RemoteSettings;
use kthinlto::exec::slots::Slots;
use kthinlto::report::Summary;
use kthinlto::report::console::{Console, Verbosity};
use kthinlto::stage::{self, Settings};

/// A client of a server, with more settings.
fn client(url: &str, more: &[(&str, &str)]) -> Remote {
    let variables = more.iter().copied().chain([("KTHINLTO_REMOTE", url)]);
    let settings = RemoteSettings::read(None, &Environment::from_iter(variables));
    Remote::start(settings.unwrap().unwrap()).unwrap()
}

/// What the jobs of a build were.
#[derive(Debug, Default)]
struct Log {
    remote: Vec<RemoteUsage>,
    local: usize,
    failed: Vec<String>,
}

/// Backends on a server, thin links here.
struct Mixed {
    remote: Remote,
    log: Rc<RefCell<Log>>,
}

/// A job of a server, whose outcome is noted; where the server failed, it is run here.
struct Noted {
    job: Box<dyn Job>,
    action: Option<Action>,
    log: Rc<RefCell<Log>>,
}

impl Executor for Mixed {
    fn capacity(&self) -> Capacity {
        Capacity::Jobs(8)
    }

    fn start(&mut self, action: &Action) -> io::Result<Box<dyn Job>> {
        let is_backend = action.outputs.iter().all(|name| name.ends_with("thinlto-native.o"));
        if !is_backend {
            return Processes.start(action);
        }
        self.remote.look_up(&[], &|| false);
        let log = self.log.clone();
        match self.remote.start(action) {
            Ok(job) => Ok(Box::new(Noted { job, action: Some(action.clone()), log })),
            Err(error) => {
                log.borrow_mut().failed.push(error.to_string());
                log.borrow_mut().local += 1;
                Processes.start(action)
            }
        }
    }
}

impl std::os::fd::AsFd for Noted {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.job.as_fd()
    }
}

impl Job for Noted {
    fn try_finish(&mut self) -> io::Result<Option<Outcome>> {
        let mut log = self.log.borrow_mut();
        match self.job.try_finish() {
            Ok(Some(outcome)) => {
                log.remote.extend(outcome.remote);
                Ok(Some(outcome))
            }
            Err(error) if self.action.is_some() => {
                log.failed.push(error.to_string());
                log.local += 1;
                self.job = Processes.start(&self.action.take().unwrap())?;
                Ok(None)
            }
            end => end,
        }
    }

    fn has_ended(&self) -> bool {
        self.job.has_ended()
    }

    fn cancel(&self) {
        self.job.cancel();
    }
}

fn build(tree: &Tree, executor: Mixed) -> Result<Summary> {
    let settings = Settings {
        tree: tree.objects.clone(),
        srctree: tree.srctree().into(),
        archives: vec!["built-in.a".into(), "lib/lib.a".into()],
        units: Vec::new(),
        modules: Vec::new(),
        module_digests: None,
        compiler: Some(tool("clang")),
        linker: Some(tool("ld.lld")),
        linker_flags: LDFLAGS.to_owned(),
        environment: Environment::of_process(),
        dry_run: false,
        keep_going: false,
        executor: Choice::Auto,
        scratch_in_memory: true,
        verify: 0.0,
        cache: None,
    };
    let (slots, interrupts) = (Slots::local(1), Interrupts::catch().unwrap());
    let mut console = Console::new(Verbosity::default());
    stage::build_by(Box::new(executor), &settings, &slots, &interrupts, &mut console)
}

/// Builds a new tree with a server, and compares it with mainline's.
fn compare(remote: Remote) -> Log {
    let tree = Tree::new();
    let log = Rc::new(RefCell::new(Log::default()));
    let summary = build(&tree, Mixed { remote, log: log.clone() }).unwrap();
    assert!(summary.linked && summary.rebuilt == summary.modules && summary.modules > 9);
    common::assert_same(&tree.outputs(), &tree.mainline());
    let log = log.take();
    assert_eq!(log.remote.len() + log.local, summary.modules, "{log:?}");
    log
}

#[test]
fn backends_of_a_server_make_mainlines_objects() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::start();
    let log = compare(client(&server.url(), &[]));
    assert_eq!((log.local, &log.failed[..]), (0, &[][..]), "{}", server.log());
    assert!(log.remote.iter().all(|usage| !usage.from_store && !usage.execution.is_zero()));
    // From another tree.
    let log = compare(client(&server.url(), &[]));
    assert_eq!(log.local, 0, "{log:?}");
    assert!(log.remote.iter().all(|usage| usage.from_store), "{log:?}");
}
