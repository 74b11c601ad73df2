//! Jobs on other machines: a client of the Remote Execution API, version 2
//! (<https://github.com/bazelbuild/remote-apis>), which many build servers speak. All that it does on the network, it does
//! on one thread of its own; what others hold is a handle. Must not know what a job is for.
//!
//! A job's files go to the server's store of blobs, if they are not there; the server runs the action and says what came
//! of it; its outputs come back, are compared with their digests and put into place. A failure of this way is an
//! [`std::io::Error`], and the caller runs the job here; what the compiler itself has to say is an [`Outcome`]. There is no
//! way for a server to hold a run up: each request has a deadline, and a server that fails again and again is left
//! alone for a while.
//!
//! ```
//! use kthinlto::environment::Environment;
//! use kthinlto::exec::executor::{Capacity, Engine, Executor};
//! use kthinlto::exec::remote::{Remote, settings::Settings};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let environment = Environment::from_iter([("KTHINLTO_REMOTE", "grpc://127.0.0.1:1")]);
//! let settings = Settings::read(None, &environment)?.expect("a server is named");
//! let mut remote = Remote::start(settings)?;
//! // Nobody is there: nothing is found, and one sentence says why.
//! assert_eq!(remote.look_up(&[], &|| false), [false; 0]);
//! assert!(!remote.is_there() && remote.capacity() == Capacity::Jobs(0));
//! assert_eq!(remote.warnings().len(), 1);
//! # Ok(()) }
//! ```
//!
//! [`Outcome`]: super::process::Outcome

mod blobs;
mod capabilities;
pub mod check;
mod connection;
mod digest;
mod execution;
mod grpc;
mod job;
mod messages;
mod pack;
mod protobuf;
mod results;
mod retry;
mod server;
pub mod settings;
mod shared;
mod tls;
mod tree;

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::sync::mpsc as to_thread;
use tokio::task::{JoinSet, LocalSet, spawn_local};

use self::job::{Doing, RemoteJob, Slot};
use self::results::Aside;
use self::server::Server;
use self::settings::Settings;
use self::shared::Shared;
use super::action::Action;
use super::executor::{Capacity, Engine, Executor, Job, MakeEngine, Traffic};
use crate::error::{Error, Result};
use crate::regular;

/// How long the first answer of a server is waited for where it is needed.
const FIRST_ANSWER: Duration = Duration::from_secs(12);
/// Results that are looked for at a time.
const LOOKS: usize = 64;
/// How long the end of a run waits for results that are still being given, and for operations to be cancelled;
/// and after a signal, for those operations.
const AT_THE_END: Duration = Duration::from_secs(5);
const IN_A_HURRY: Duration = Duration::from_millis(500);
/// Bytes of results that wait to be given; what comes then is not given.
const WAITING: usize = 256 << 20;

/// What the thread is asked to do.
enum Order {
    Job(Box<Action>, Doing),
    LookUp(Vec<Action>, mpsc::Sender<(usize, Option<Aside>)>),
    Give(Box<Action>, Vec<(String, Bytes)>),
    Digest(Box<Action>, mpsc::Sender<Option<String>>),
    End(Duration),
}

/// A server that runs jobs, or whose store of results is used. Dropping it cancels what it still does.
pub struct Remote {
    shared: Arc<Shared>,
    orders: to_thread::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
    executes: bool,
    upload: bool,
    local: bool,
    at_the_end: Duration,
}

impl Remote {
    /// Begins to speak with a server, in the background.
    ///
    /// # Errors
    /// Where a certificate or a key cannot be used, or there can be no thread.
    pub fn start(settings: Settings) -> Result<Self> {
        let tls = tls::connector(&settings)?;
        let (executes, upload, local) = (settings.execute, settings.upload, settings.local);
        let runtime = runtime()?;
        let shared = Arc::new(Shared::default());
        let (orders, received) = to_thread::unbounded_channel();
        let told = shared.clone();
        let work = move || {
            let local = LocalSet::new();
            let server = Server::new(settings, tls, told);
            local.block_on(&runtime, obey(server, received));
            drop(local);
            // A name may still be looked up: nobody waits for that.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("remote engine".to_owned()).spawn(work);
        let thread =
            Some(thread.map_err(|e| Error::io("start a thread for", "the remote engine", e))?);
        Ok(Remote { shared, orders, thread, executes, upload, local, at_the_end: AT_THE_END })
    }
}

impl MakeEngine for Settings {
    fn make(&self) -> Result<Box<dyn Engine>> {
        Ok(Box::new(Remote::start(self.clone())?))
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map_err(|e| Error::io("start", "the remote engine", e))
}

/// Does what the thread is asked to do, until its end.
async fn obey(server: Rc<Server>, mut orders: to_thread::UnboundedReceiver<Order>) {
    let watch = spawn_local(server.clone().watch());
    let mut jobs = JoinSet::new();
    let mut gifts = JoinSet::new();
    let mut most = AT_THE_END;
    let (gifts_at_once, waiting) = (Rc::new(Semaphore::new(LOOKS / 4)), Rc::new(Cell::new(0)));
    while let Some(order) = orders.recv().await {
        while jobs.try_join_next().is_some() || gifts.try_join_next().is_some() {}
        match order {
            Order::Job(action, doing) => drop(jobs.spawn_local(server.clone().job(*action, doing))),
            Order::LookUp(actions, found) => {
                drop(spawn_local(look_up(server.clone(), actions, found)))
            }
            Order::Give(action, made) => {
                let size: usize = made.iter().map(|(_, bytes)| bytes.len()).sum();
                if waiting.get() + size > WAITING {
                    continue;
                }
                waiting.set(waiting.get() + size);
                let (server, at_once, waiting) =
                    (server.clone(), gifts_at_once.clone(), waiting.clone());
                gifts.spawn_local(async move {
                    let _permit = at_once.acquire().await;
                    server.give(&action, made).await;
                    waiting.set(waiting.get() - size);
                });
            }
            Order::Digest(action, found) => {
                let server = server.clone();
                drop(spawn_local(async move { drop(found.send(server.digest(&action).await)) }));
            }
            Order::End(patience) => {
                most = patience;
                break;
            }
        }
    }
    watch.abort();
    let rest = async {
        while jobs.join_next().await.is_some() {}
        while gifts.join_next().await.is_some() {}
    };
    let _ = tokio::time::timeout(most, rest).await;
}

/// Looks for the results of all these actions, some at a time.
async fn look_up(
    server: Rc<Server>,
    actions: Vec<Action>,
    found: mpsc::Sender<(usize, Option<Aside>)>,
) {
    let at_once = Arc::new(Semaphore::new(LOOKS));
    let mut all = JoinSet::new();
    for (number, action) in actions.into_iter().enumerate() {
        let Ok(permit) = at_once.clone().acquire_owned().await else {
            break;
        };
        let (server, found) = (server.clone(), found.clone());
        all.spawn_local(async move {
            let one = server.look_up(&action).await;
            drop(permit);
            // Fails where nobody waits any more.
            found.send((number, one)).is_ok()
        });
        while let Some(end) = all.try_join_next() {
            if !end.unwrap_or(true) {
                return;
            }
        }
    }
    while all.join_next().await.is_some() {}
}

impl Executor for Remote {
    fn capacity(&self) -> Capacity {
        Capacity::Jobs(self.shared.capacity.load(Ordering::SeqCst))
    }

    fn start(&mut self, what: &Action) -> io::Result<Box<dyn Job>> {
        if self.shared.capacity.load(Ordering::SeqCst) == 0 {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the remote engine is not there",
            ));
        }
        let slot = Slot::new()?;
        let order = Order::Job(Box::new(what.clone()), Doing::new(slot.clone()));
        match self.orders.send(order) {
            Ok(()) => Ok(Box::new(RemoteJob(slot))),
            Err(_) => Err(io::Error::other("the thread of the remote engine has ended")),
        }
    }

    fn notes(&mut self) -> Vec<String> {
        self.shared.take_notes()
    }
}

impl Engine for Remote {
    fn look_up(&mut self, actions: &[Action], stop: &dyn Fn() -> bool) -> Vec<bool> {
        const LOOK: Duration = Duration::from_millis(50);
        let mut there = vec![false; actions.len()];
        let until = Instant::now() + FIRST_ANSWER;
        while !self.shared.wait_tried(LOOK) {
            if stop() || Instant::now() > until {
                return there;
            }
        }
        let (found, receive) = mpsc::channel();
        if self.orders.send(Order::LookUp(actions.to_vec(), found)).is_err() {
            return there;
        }
        loop {
            match receive.recv_timeout(LOOK) {
                Ok((number, Some(aside))) => there[number] = aside.put().is_ok(),
                Ok((_, None)) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return there,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if stop() {
                return there;
            }
        }
    }

    /// The outputs are read at once, where the action wrote them: call it before they are moved.
    fn give(&mut self, action: &Action) {
        if !self.upload {
            return;
        }
        let mut made = Vec::new();
        for (number, name) in action.outputs.iter().enumerate() {
            match regular::read(&action.command.folder.join(name)) {
                Ok(bytes) if number > 0 || !bytes.is_empty() => {
                    made.push((name.clone(), bytes.into()))
                }
                // The first is the object; without the others the result is good too.
                _ if number > 0 => {}
                _ => return,
            }
        }
        if !made.is_empty() {
            let _ = self.orders.send(Order::Give(Box::new(action.clone()), made));
        }
    }

    fn is_there(&self) -> bool {
        self.executes && self.shared.capacity.load(Ordering::SeqCst) > 0
    }

    fn shares(&self) -> bool {
        self.local
    }

    fn digest(&self, action: &Action) -> Option<String> {
        if !self.shared.wait_tried(FIRST_ANSWER) {
            return None;
        }
        let (found, receive) = mpsc::channel();
        self.orders.send(Order::Digest(Box::new(action.clone()), found)).ok()?;
        receive.recv_timeout(FIRST_ANSWER).ok()?
    }

    fn traffic(&self) -> Traffic {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Traffic { sent: read(&self.shared.sent), received: read(&self.shared.received) }
    }

    fn warnings(&mut self) -> Vec<String> {
        self.shared.take_warnings()
    }

    fn hurry(&mut self) {
        self.at_the_end = IN_A_HURRY;
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::End(self.at_the_end));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
