//! A server in use: whether it is there, what is done with an action from beginning to end, and when to stop
//! trusting it for a while. Runs on the engine's own thread. Must not know who waits.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use super::blobs::{Store, unique};
use super::capabilities;
use super::connection::Connection;
use super::digest::Digest;
use super::execution::{self, Told};
use super::job::{Doing, End};
use super::messages::{ActionResult, ExecutedActionMetadata, Timestamp};
use super::pack::{ANOTHER, EMPTY, Hashes, NO_COMPILER, NO_SUMS, Packed, READ_ONLY, pack};
use super::results::{Aside, Results};
use super::retry::{Failure, Kind, Result, jitter};
use super::settings::{Compiler, Settings};
use super::shared::Shared;
use crate::exec::action::Action;
use crate::exec::process::{Outcome, RemoteUsage, Usage};

/// So many failures, one after the other, and the server is left alone for a while.
const ENOUGH: u32 = 3;
/// For how long at first, and at most.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A server.
pub(super) struct Server {
    pub settings: Rc<Settings>,
    shared: Arc<Shared>,
    connection: Rc<Connection>,
    /// What is used of it, while it is there.
    results: RefCell<Option<Rc<Results>>>,
    hashes: Hashes,
    /// Actions that there was no result of in this run.
    without_result: RefCell<HashSet<Digest>>,
    failed: Cell<u32>,
    backoff: Cell<Duration>,
    /// It was said that it cannot be used, and nothing was good since.
    told: Cell<bool>,
    left: Notify,
    updates_refused: Cell<bool>,
}

impl Server {
    pub fn new(settings: Settings, tls: Option<TlsConnector>, shared: Arc<Shared>) -> Rc<Self> {
        let settings = Rc::new(settings);
        let connection = Rc::new(Connection::new(settings.clone(), tls, unique()));
        Rc::new(Server {
            settings,
            shared,
            connection,
            results: RefCell::default(),
            hashes: Hashes::default(),
            without_result: RefCell::default(),
            failed: Cell::default(),
            backoff: Cell::new(AWAY.0),
            told: Cell::default(),
            left: Notify::new(),
            updates_refused: Cell::default(),
        })
    }

    /// Asks the server what it can, now and whenever it was left alone for long enough.
    pub async fn watch(self: Rc<Self>) {
        loop {
            match capabilities::ask(&self.connection, &self.settings).await {
                Ok(agreed) => {
                    let store = Store::new(
                        self.connection.clone(),
                        &self.settings.instance,
                        agreed,
                        self.shared.clone(),
                    );
                    self.come_back(store);
                    self.left.notified().await;
                }
                Err(failure) => {
                    tracing::debug!("the remote engine does not answer: {failure}");
                    self.warn(&failure);
                }
            }
            self.shared.capacity.store(0, Ordering::SeqCst);
            self.shared.set_tried();
            let backoff = self.backoff.get();
            self.backoff.set((backoff * 2).min(AWAY.1));
            sleep(jitter(backoff)).await;
        }
    }

    fn come_back(&self, store: Store) {
        let executes = self.settings.execute && store.agreed.executes;
        if self.settings.execute && !executes {
            let text = "it runs no actions; only its store of results is used";
            self.shared.note(format!("{}: {text}", self.settings.endpoint));
        }
        let (instance, connection) = (self.settings.instance.clone(), self.connection.clone());
        let results = Results { connection, instance, store: Rc::new(store) };
        *self.results.borrow_mut() = Some(Rc::new(results));
        self.failed.set(0);
        let jobs = if executes { self.settings.jobs } else { 0 };
        self.shared.capacity.store(jobs, Ordering::SeqCst);
        self.shared.set_tried();
    }

    /// What is used of the server, while it is there.
    pub fn results(&self) -> Result<Rc<Results>> {
        let results = self.results.borrow().clone();
        results.ok_or_else(|| Failure::new(Kind::Lost, "it is not there"))
    }

    /// One sentence for each time that the server cannot be used.
    fn warn(&self, failure: &Failure) {
        if !self.told.replace(true) {
            let endpoint = &self.settings.endpoint;
            self.shared.warn(format!(
                "the remote engine {endpoint} cannot be used: {failure}; what it would do is done on this \
                 machine, and it is tried again later"
            ));
        }
    }

    /// Something was good.
    fn succeeded(&self) {
        self.failed.set(0);
        self.told.set(false);
        self.backoff.set(AWAY.0);
    }

    /// Something failed for which no compiler is to blame.
    fn failed(&self, failure: &Failure) {
        tracing::debug!("the remote engine failed: {failure}");
        self.failed.set(self.failed.get() + 1);
        let at_once = matches!(failure.kind, Kind::Lost | Kind::Denied);
        if at_once || self.failed.get() >= ENOUGH {
            self.warn(failure);
            let results = self.results.take();
            if results.is_some() {
                self.shared.capacity.store(0, Ordering::SeqCst);
                self.connection.give_up();
                self.left.notify_one();
            }
        }
    }

    /// Counts what failed, but for jobs that no server can do.
    fn count<T>(&self, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.succeeded(),
            Err(failure) if failure.kind == Kind::Unsupported => {
                self.shared.note(format!("a job is not for the remote engine: {failure}"));
            }
            Err(failure) => self.failed(failure),
        }
        result
    }

    async fn pack(&self, action: &Action) -> Result<(Rc<Results>, Packed)> {
        let results = self.results()?;
        let function = results.store.agreed.function;
        Ok((results, pack(action, &self.settings, function, &self.hashes).await?))
    }

    /// The digest of an action.
    pub async fn digest(&self, action: &Action) -> Option<String> {
        let (_, packed) = self.pack(action).await.ok()?;
        Some(packed.digest.to_string())
    }

    /// What the store of results has of an action, aside.
    pub async fn look_up(&self, action: &Action) -> Option<Aside> {
        // Others before it found that the server is gone.
        let (results, packed) = self.count_unless_away(self.pack(action).await)?;
        let found = async {
            match results.find(&packed).await? {
                Some(result) => results.fetch(&packed, &result).await.map(Some),
                None => Ok(None),
            }
        };
        let found = self.count_unless_away(found.await)?;
        if found.is_none() {
            self.without_result.borrow_mut().insert(packed.digest);
        }
        found
    }

    fn count_unless_away<T>(&self, result: Result<T>) -> Option<T> {
        // Not in the match: counting a failure may take the results away.
        let is_there = self.results.borrow().is_some();
        match is_there {
            true => self.count(result).ok(),
            false => result.ok(),
        }
    }

    /// Adds a result that was made here.
    pub async fn give(&self, action: &Action, made: Vec<(String, Bytes)>) {
        let Ok((results, packed)) = self.pack(action).await else {
            return;
        };
        if !results.store.agreed.updates || self.updates_refused.get() {
            return self.refuse_updates("it takes none");
        }
        match results.add(&packed, made).await {
            Ok(()) => self.succeeded(),
            Err(Failure { kind: Kind::Denied | Kind::Unsupported, text }) => {
                self.refuse_updates(&text);
            }
            Err(failure) => {
                let text = format!("a result could not be given to the remote engine: {failure}");
                self.shared.note(text);
                self.count_unless_away::<()>(Err(failure));
            }
        }
    }

    fn refuse_updates(&self, why: &str) {
        if !self.updates_refused.replace(true) {
            let text = format!("no results are given to the remote engine: {why}");
            self.shared.note(text);
        }
    }

    /// Does a job, unless it is cancelled before it has ended.
    pub async fn job(self: Rc<Self>, action: Action, doing: Doing) {
        let (told, slot) = (Told::default(), doing.slot.clone());
        let run = std::pin::pin!(self.run(&action, &told));
        let cancelled = std::pin::pin!(slot.cancelled.notified());
        let end = match first_of(run, cancelled).await {
            Some(end) => end,
            None => {
                let name = told.name.take();
                if let (false, Ok(results)) = (name.is_empty(), self.results()) {
                    execution::cancel(&results, &name, &Default::default()).await;
                }
                Err(io::Error::new(io::ErrorKind::Interrupted, "it was cancelled"))
            }
        };
        doing.finish(end);
    }

    async fn run(&self, action: &Action, told: &Told) -> End {
        let began = Instant::now();
        let done = match self.pack(action).await {
            Ok((results, packed)) => self.perform(&results, &packed, told, began).await,
            Err(failure) => Err(failure),
        };
        // Failures of others may have ended it.
        let away = self.results.borrow().is_none();
        let done = if away { done } else { self.count(done) };
        done.map_err(|failure| {
            let kind = match failure.kind {
                Kind::Unsupported => io::ErrorKind::Unsupported,
                Kind::TooLong => io::ErrorKind::TimedOut,
                _ => io::ErrorKind::Other,
            };
            let text = format!("the remote engine {}: {failure}", self.settings.endpoint);
            io::Error::new(kind, text)
        })
    }

    /// An action from beginning to end.
    async fn perform(
        &self,
        results: &Results,
        packed: &Packed,
        told: &Told,
        began: Instant,
    ) -> Result<(Outcome, Aside)> {
        let until = began + self.settings.timeout;
        let mut remote = RemoteUsage::default();
        // Nobody looked for a result before, as for single jobs.
        let has_none = self.without_result.borrow().contains(&packed.digest);
        if !has_none
            && let Ok(Some(result)) = results.find(packed).await
            && let Ok(aside) = results.fetch(packed, &result).await
        {
            remote.from_store = true;
            remote.download = began.elapsed();
            return Ok((self.outcome(results, packed, &result, remote).await?, aside));
        }
        let uploading = Instant::now();
        results.store.provide(&packed.blobs, &packed.purpose, false).await?;
        remote.upload = uploading.elapsed();
        let mut skip_cache = false;
        loop {
            let response = execution::execute(results, packed, told, (until, skip_cache)).await?;
            let result = response.result.unwrap_or_default();
            // A failure that was kept is none that can be relied on.
            if result.exit_code != 0 && response.cached_result && !skip_cache {
                skip_cache = true;
                continue;
            }
            match check_exit_code(&result, self.settings.compiler) {
                // Files of the compiler may have been lost while it was started.
                Err(failure) if failure.kind == Kind::Unknown && !skip_cache => {
                    results.store.provide_again(&packed.blobs, &packed.purpose).await?;
                    skip_cache = true;
                    continue;
                }
                end => end?,
            }
            if response.cached_result {
                remote.from_store = true;
            } else if let Some(metadata) = &result.execution_metadata {
                (remote.queue, remote.worker, remote.execution) = times(metadata);
            }
            let fetching = Instant::now();
            let aside = match result.exit_code {
                0 => match results.fetch(packed, &result).await {
                    // The result is kept longer than its output: make it again, once.
                    Err(failure) if is_gone(&failure) && response.cached_result && !skip_cache => {
                        skip_cache = true;
                        continue;
                    }
                    end => end?,
                },
                _ => Aside::default(),
            };
            remote.download = fetching.elapsed();
            return Ok((self.outcome(results, packed, &result, remote).await?, aside));
        }
    }

    async fn outcome(
        &self,
        results: &Results,
        packed: &Packed,
        result: &ActionResult,
        remote: RemoteUsage,
    ) -> Result<Outcome> {
        let output = results.printed(result, &packed.purpose).await?;
        let metadata = result.execution_metadata.as_ref();
        let cpu = metadata.and_then(|metadata| metadata.virtual_execution_duration.as_ref());
        let cpu = cpu.map(|span| duration(span.seconds, span.nanos));
        let wall = metadata.map(times).map_or(Duration::ZERO, |(_, _, execution)| execution);
        let usage = Usage { wall, cpu: cpu.unwrap_or(wall), peak: 0 };
        let status = ExitStatus::from_raw((result.exit_code & 0xff) << 8);
        Ok(Outcome { status, usage, output, remote: Some(remote) })
    }
}

/// Exit codes that say that the compiler did not run, or not as it should.
pub(super) fn check_exit_code(result: &ActionResult, compiler: Compiler) -> Result<()> {
    let printed = String::from_utf8_lossy(&result.stderr_raw);
    let printed = printed.trim().lines().last().unwrap_or_default();
    let printed: String = printed.chars().take(200).collect();
    let printed = if printed.is_empty() { printed } else { format!(" ({printed})") };
    let text = match (result.exit_code, compiler) {
        (NO_COMPILER, _) => {
            "a worker does not have the compiler at the path that it has here; set KTHINLTO_REMOTE_COMPILER=upload, or \
             choose workers with KTHINLTO_REMOTE_PLATFORM"
                .to_owned()
        }
        (NO_SUMS, _) => {
            "a worker has no sha256sum, with which files are compared; install coreutils or BusyBox there".to_owned()
        }
        (ANOTHER, Compiler::Worker) => {
            "a worker's compiler, or a library of it, is not the one that is used here; give all workers the same, or \
             set KTHINLTO_REMOTE_COMPILER=upload"
                .to_owned()
        }
        (ANOTHER, Compiler::Upload) => {
            "a worker does not see a file that is named with its whole path, or sees another".to_owned()
        }
        (EMPTY, _) => "a worker's compiler ended well and left nothing".to_owned(),
        (READ_ONLY, _) => {
            "a worker cannot write in the folder of an action; its root must not be read-only there".to_owned()
        }
        (126 | 127, _) => {
            let text = format!("a worker cannot start the compiler{printed}");
            return Err(Failure::new(Kind::Unknown, text));
        }
        (code, _) if !(0..128).contains(&code) => {
            format!("a worker's compiler was ended by force, exit code {code}{printed}")
        }
        _ => return Ok(()),
    };
    Err(Failure::other(text))
}

/// Whether a blob that a result names is not there.
fn is_gone(failure: &Failure) -> bool {
    matches!(failure.kind, Kind::NotFound | Kind::Missing(_))
}

/// The end of the first future, if that comes before the second's.
async fn first_of<T>(
    mut wanted: std::pin::Pin<&mut impl Future<Output = T>>,
    mut other: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> Option<T> {
    use std::task::Poll;
    std::future::poll_fn(|context| match wanted.as_mut().poll(context) {
        Poll::Ready(end) => Poll::Ready(Some(end)),
        Poll::Pending => other.as_mut().poll(context).map(|()| None),
    })
    .await
}

fn duration(seconds: i64, nanos: i32) -> Duration {
    Duration::new(seconds.try_into().unwrap_or(0), nanos.clamp(0, 999_999_999) as u32)
}

/// How long an action was in the queue, with a worker, and how long it ran there.
fn times(metadata: &ExecutedActionMetadata) -> (Duration, Duration, Duration) {
    let moment = |stamp: &Option<Timestamp>| {
        stamp.as_ref().map(|stamp| duration(stamp.seconds, stamp.nanos))
    };
    let between = |from: &Option<Timestamp>, to: &Option<Timestamp>| {
        let ends = moment(from).zip(moment(to));
        ends.map_or(Duration::ZERO, |(from, to)| to.saturating_sub(from))
    };
    (
        between(&metadata.queued_timestamp, &metadata.worker_start_timestamp),
        between(&metadata.worker_start_timestamp, &metadata.worker_completed_timestamp),
        between(&metadata.execution_start_timestamp, &metadata.execution_completed_timestamp),
    )
}
