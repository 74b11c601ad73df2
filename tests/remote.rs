//! Jobs on a real server of the Remote Execution API: the objects that come back are those that are made here, and a
//! server that is gone, full, slow or wrong costs time and no object.
#![cfg(feature = "remote")]

#[path = "common/casd.rs"]
mod casd;
mod common;
#[path = "common/copies.rs"]
mod copies;
#[path = "common/front.rs"]
mod front;
#[path = "common/settings.rs"]
mod settings;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use casd::Casd;
use common::Tree;
use copies::{Copies, client};
use kthinlto::error::Result;
use kthinlto::exec::action::Action;
use kthinlto::exec::executor::{Capacity, Engine, Executor, Job, Processes, finish};
use kthinlto::exec::interrupt::Interrupts;
use kthinlto::exec::process::{Outcome, RemoteUsage};
use kthinlto::exec::remote::Remote;
use kthinlto::exec::run::{Runner, Work};
use kthinlto::exec::slots::Slots;
use kthinlto::report::Summary;
use kthinlto::report::console::{Console, Verbosity};
use kthinlto::stage::{self};

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
    let settings = settings::of(tree);
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

/// Starts a job once the server is there, and waits for its end.
fn run(remote: &mut Remote, job: &Action) -> io::Result<Outcome> {
    wait_for(remote);
    finish(remote.start(job)?)
}

fn wait_for(remote: &Remote) {
    let until = Instant::now() + Duration::from_secs(100);
    while !remote.is_there() {
        assert!(Instant::now() < until, "the server does not come back");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_job_says_where_its_time_went_and_a_failed_one_what_the_compiler_said() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::start();
    let (copies, mut remote) = (Copies::new(), client(&server.url(), &[]));
    let job = copies.job("a", b"one", &["-sleep", "300"]);
    let outcome = run(&mut remote, &job).unwrap();
    let usage = outcome.remote.unwrap();
    assert_eq!(copies.is_right(&job), Some(true));
    assert!(usage.execution >= Duration::from_millis(300) && !usage.from_store, "{usage:?}");
    assert!(usage.upload > Duration::ZERO && outcome.usage.wall == usage.execution, "{usage:?}");

    let outcome = run(&mut remote, &copies.job("b", b"one", &["-fail", "3"])).unwrap();
    assert_eq!(outcome.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&outcome.output), "copier: as asked\n");
    let empty = copies.job("c", b"one", &["-empty"]);
    let failed = run(&mut remote, &empty).unwrap_err().to_string();
    assert!(failed.ends_with("a worker's compiler ended well and left nothing"), "{failed}");
    assert_eq!(copies.is_right(&empty), None);
    assert_eq!(remote.look_up(&[empty], &|| false), [false], "and nobody gets that from the store");
    let killed = run(&mut remote, &copies.job("d", b"one", &["-fail", "137"])).unwrap_err();
    assert!(killed.to_string().contains("ended by force"), "{killed}");
    assert_eq!(copies.rests(), [""; 0]);
}

#[test]
fn nothing_is_sent_twice_and_results_are_found_from_another_tree() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::start();
    let (copies, mut remote) = (Copies::new(), client(&server.url(), &[]));
    let jobs = ["a", "b", "c"].map(|name| copies.job(name, name.as_bytes(), &[]));
    assert_eq!(remote.look_up(&jobs, &|| false), [false; 3]);
    for job in &jobs {
        run(&mut remote, job).unwrap();
        assert_eq!(copies.is_right(job), Some(true));
    }
    let tools: u64 = jobs[0].tools.iter().map(|file| file.size).sum();
    let sent = remote.traffic().sent;
    assert!((tools..tools + 20_000).contains(&sent), "{sent} bytes; the compiler has {tools}");

    // The same files elsewhere.
    let others = Copies::new();
    let jobs = ["a", "b", "c", "d"].map(|name| others.job(name, name.as_bytes(), &[]));
    let mut remote = client(&server.url(), &[]);
    assert_eq!(remote.look_up(&jobs, &|| false), [true, true, true, false]);
    assert!(jobs[..3].iter().all(|job| others.is_right(job) == Some(true)));
    assert_eq!((remote.traffic().sent, others.is_right(&jobs[3])), (0, None));
    let digest = remote.digest(&jobs[0]).unwrap();
    assert_ne!(Some(&digest), remote.digest(&jobs[3]).as_ref());
    assert_eq!(digest.split_once('/').map(|(hash, _)| hash.len()), Some(64), "{digest}");
    assert_eq!(remote.look_up(&jobs, &|| true), [false; 4], "nobody waits for it");
}

#[test]
fn results_of_this_machine_are_given_unless_that_is_forbidden() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::start();
    let copies = Copies::new();
    let job = copies.job("a", b"text", &[]);
    let made = copies.job("b", b"text", &[]);
    for (job, upload) in [(&job, "no"), (&made, "yes")] {
        let only_store = [("KTHINLTO_REMOTE_EXECUTE", "no"), ("KTHINLTO_REMOTE_UPLOAD", upload)];
        let mut remote = client(&server.url(), &only_store);
        assert_eq!(remote.look_up(std::slice::from_ref(job), &|| false), [false]);
        assert_eq!(remote.capacity(), Capacity::Jobs(0));
        assert!(!remote.is_there() && remote.start(job).is_err());
        finish(Processes.start(job).unwrap()).unwrap();
        remote.give(job);
    }
    let mut remote = client(&server.url(), &[]);
    let others = Copies::new();
    let jobs = ["a", "b"].map(|name| others.job(name, b"text", &[]));
    assert_eq!(remote.look_up(&jobs, &|| false), [false, true]);
    assert_eq!(others.is_right(&jobs[1]), Some(true));
}

/// Found by a build whose server was killed: to count the failure panicked, and the server was still trusted.
#[test]
fn a_server_that_is_gone_when_a_result_is_given_is_left_alone() {
    if !casd::is_there() {
        return;
    }
    for looks in [false, true] {
        let mut server = Casd::start();
        let (copies, mut remote) = (Copies::new(), client(&server.url(), &[]));
        run(&mut remote, &copies.job("first", b"", &[])).unwrap();
        let job = copies.job("a", b"a", &[]);
        finish(Processes.start(&job).unwrap()).unwrap();
        server.kill();
        match looks {
            true => assert_eq!(remote.look_up(std::slice::from_ref(&job), &|| false), [false]),
            false => remote.give(&job),
        }
        common::until("the server to be left alone", || !remote.is_there());
        assert_eq!(remote.warnings().len(), 1);
    }
}

#[test]
fn a_cancelled_job_leaves_nothing_and_its_worker_is_free_again() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::start();
    let (copies, mut remote) = (Copies::new(), client(&server.url(), &[]));
    run(&mut remote, &copies.job("first", b"", &[])).unwrap();
    // As many as the server has workers, for longer than the test may take.
    let jobs = ["a", "b"].map(|name| copies.job(name, name.as_bytes(), &["-sleep", "60000"]));
    let running = jobs.each_ref().map(|job| remote.start(job).unwrap());
    std::thread::sleep(Duration::from_millis(700));
    let began = Instant::now();
    drop(running);
    assert!(began.elapsed() < Duration::from_millis(100));
    let job = copies.job("c", b"c", &[]);
    run(&mut remote, &job).unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(copies.is_right(&job), Some(true));
    assert!(jobs.iter().all(|job| copies.is_right(job).is_none()));
    assert_eq!(copies.rests(), [""; 0]);
}

#[test]
fn a_token_is_sent_and_never_shown() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::start();
    let rules = front::Rules { token: Some("Bearer s3cret-token"), ..front::Rules::default() };
    let url = format!("grpc://127.0.0.1:{}", front::open(server.port, rules));
    let copies = Copies::new();
    let job = copies.job("a", b"a", &[]);
    let with = |token| [("KTHINLTO_REMOTE_HEADERS", "authorization=Bearer $T"), ("T", token)];
    run(&mut client(&url, &with("s3cret-token")), &job).unwrap();
    let mut remote = client(&url, &with("wrong-token"));
    assert_eq!(remote.look_up(&[job], &|| false), [false]);
    let warnings = remote.warnings();
    let place = url.as_str();
    assert_eq!(
        warnings,
        [format!(
            "the remote engine {place} cannot be used: UNAUTHENTICATED: not a good token: [...]; what it would \
             do is done on this machine, and it is tried again later"
        )]
    );
    assert!(remote.warnings().is_empty(), "once");
}

#[test]
fn tls_needs_a_certificate_that_is_trusted() {
    if !casd::is_there() {
        return;
    }
    let (server, folder) = (Casd::start(), tempfile::tempdir().unwrap());
    front::certify(folder.path());
    let rules = front::Rules { tls: Some(folder.path().into()), ..front::Rules::default() };
    let port = front::open(server.port, rules);
    let url = format!("grpcs://127.0.0.1:{port}");
    let (copies, authority) = (Copies::new(), folder.path().join("own.pem").display().to_string());
    let job = copies.job("a", b"a", &[]);
    run(&mut client(&url, &[("KTHINLTO_REMOTE_CA", &authority)]), &job).unwrap();
    let another = tempfile::tempdir().unwrap();
    front::certify(another.path());
    let another = another.path().join("own.pem").display().to_string();
    let plain = format!("grpc://127.0.0.1:{port}");
    for (url, authority, says) in [
        (&url, &another, "its certificate is not accepted"),
        (&plain, &another, "the connection broke"),
        (&format!("grpcs://127.0.0.1:{}", server.port), &authority, "TLS"),
    ] {
        let mut remote = client(url, &[("KTHINLTO_REMOTE_CA", authority)]);
        assert_eq!(remote.look_up(std::slice::from_ref(&job), &|| false), [false]);
        let warnings = remote.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains(says), "{warnings:?}");
    }
}

#[test]
fn a_smaller_limit_of_batches_is_kept() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::start();
    let rules = front::Rules { batch: Some(1000), ..front::Rules::default() };
    let url = format!("grpc://127.0.0.1:{}", front::open(server.port, rules));
    let (copies, mut remote) = (Copies::new(), client(&url, &[]));
    let job = copies.job("a", &b"text".repeat(1000), &[]);
    run(&mut remote, &job).unwrap();
    assert_eq!(copies.is_right(&job), Some(true));
}

/// A sentence of what failed, without the address before it.
fn failure(remote: &mut Remote, job: &Action) -> String {
    let text = run(remote, job).unwrap_err().to_string();
    text.split_once(": ").unwrap().1.to_owned()
}

#[test]
fn an_uploaded_compiler_runs_on_workers_that_have_a_shell_and_nothing_else() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::with_shell_only();
    let (copies, mut remote) = (Copies::new(), client(&server.url(), &[]));
    let job = copies.job("a", b"a", &[]);
    run(&mut remote, &job).unwrap();
    assert_eq!(copies.is_right(&job), Some(true));
    let mut remote = client(&server.url(), &[("KTHINLTO_REMOTE_COMPILER", "worker")]);
    let says = failure(&mut remote, &job);
    assert!(says.starts_with("a worker does not have the compiler at the path"), "{says}");
}

#[test]
fn a_compiler_of_the_workers_is_compared() {
    if !casd::is_there() {
        return;
    }
    let copies = Copies::new();
    let job = copies.job("a", b"a", &[]);
    let own = job.tools[0].name.clone();
    let usual = ["/usr:/usr", "/usr/lib:/lib", "/usr/lib64:/lib64", "/usr/bin:/bin"];
    let with = |program: &str| [&usual[..], &[&format!("{program}:{own}")]].concat().join(" ");
    let worker = [("KTHINLTO_REMOTE_COMPILER", "worker")];
    for (binds, good) in [(with(&own), true), (with("/usr/bin/true"), false)] {
        let server = Casd::with(&binds.split(' ').collect::<Vec<_>>(), &[]);
        let mut remote = client(&server.url(), &worker);
        match good {
            true => {
                run(&mut remote, &job).unwrap();
                assert_eq!(copies.is_right(&job), Some(true));
                assert!(remote.traffic().sent < 5000, "no compiler was sent");
            }
            false => {
                let says = failure(&mut remote, &job);
                assert!(
                    says.starts_with("a worker's compiler, or a library of it, is not the one"),
                    "{says}"
                );
            }
        }
    }
}

#[test]
fn a_root_that_cannot_be_written_is_a_sentence() {
    if !casd::is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("lib")).unwrap();
    let bind = format!("{}:/tree", folder.path().display());
    let binds = ["/usr:/usr", "/usr/lib:/lib", "/usr/lib64:/lib64", "/usr/bin:/bin", &bind];
    let server = Casd::with(&binds, &[]);
    let (copies, mut remote) = (Copies::new(), client(&server.url(), &[]));
    let says = failure(&mut remote, &copies.job("a", b"a", &[]));
    assert!(says.starts_with("a worker cannot write in the folder of an action"), "{says}");
}

#[test]
fn a_server_without_our_digests_is_not_used() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::with(&["/usr:/usr"], &["--digest-function=SHA1"]);
    let mut remote = client(&server.url(), &[]);
    assert!(remote.look_up(&[], &|| false).is_empty());
    let warnings = remote.warnings();
    let says = "it has no digest function that kthinlto has (SHA-256 or BLAKE3) in common";
    assert!(warnings.len() == 1 && warnings[0].contains(says), "{warnings:?}");
}

#[test]
fn a_full_store_is_an_error_and_no_object() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::full();
    let (copies, mut remote) = (Copies::new(), client(&server.url(), &[]));
    let small = copies.job("small", b"a", &[]);
    run(&mut remote, &small).unwrap();
    let text: Vec<u8> =
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let job = copies.job("a", &text, &[]);
    let began = Instant::now();
    let says = failure(&mut remote, &job);
    assert!(says.contains("File too large"), "{says}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!((copies.is_right(&job), copies.rests()), (None, Vec::new()));
}

/// As on a bad disk, or by somebody's hand: what a digest names is another file.
#[test]
fn a_stored_object_with_other_bytes_is_not_taken() {
    if !casd::is_there() {
        return;
    }
    let server = Casd::start();
    let (copies, mut remote) = (Copies::new(), client(&server.url(), &[]));
    run(&mut remote, &copies.job("a", b"text", &[])).unwrap();
    assert_eq!(server.change(b"copied\ntext", b"copied\nTEXT"), 1);
    let others = Copies::new();
    let job = others.job("a", b"text", &[]);
    assert_eq!(remote.look_up(std::slice::from_ref(&job), &|| false), [false]);
    let says = failure(&mut remote, &job);
    assert!(says.contains("it sent a blob that is not what its digest says"), "{says}");
    assert_eq!((others.is_right(&job), others.rests()), (None, Vec::new()));
}

/// Jobs for a server alone, and what each took there.
struct Fed {
    jobs: Vec<Action>,
    given: usize,
    took: Vec<RemoteUsage>,
    failed: Vec<String>,
}

impl Work for Fed {
    fn next(&mut self) -> Result<Option<(usize, Action)>> {
        Ok(None)
    }

    fn done(&mut self, _job: usize, _outcome: io::Result<Outcome>) -> Result<bool> {
        Ok(true)
    }

    fn left_elsewhere(&self) -> usize {
        self.jobs.len() - self.given
    }

    fn next_elsewhere(&mut self) -> Result<Option<(usize, Action)>> {
        let next = self.jobs.get(self.given).map(|job| (self.given, job.clone()));
        self.given += usize::from(next.is_some());
        Ok(next)
    }

    fn done_elsewhere(&mut self, _job: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        match outcome {
            Ok(outcome) => self.took.extend(outcome.remote),
            Err(error) => self.failed.push(error.to_string()),
        }
        Ok(true)
    }
}

/// A figure, not a test: how much of 64 workers' time has a job of ours in it, when each job takes 80 ms
/// (SLEEP_THERE) and what the worker needs to begin and end it; and what our side of it costs. A job in a sandbox
/// (SANDBOX=1) takes 60 ms of CPU time of casd, one that only waits 14 ms (with few descriptors: ulimit -n 1000).
#[test]
#[ignore = "prints a figure: cargo test --release --test remote -- --ignored --nocapture busy"]
fn busy_share_of_64_slots_of_a_server() {
    const SLOTS: usize = 64;
    let variable =
        |name: &str, usual: usize| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (jobs, sleep) = (variable("JOBS_THERE", 600), variable("SLEEP_THERE", 80).to_string());
    let mut server = Casd::with_jobs(SLOTS);
    let copies = Copies::new();
    let same = b"the same";
    if variable("SANDBOX", 0) == 0 {
        let mut remote = client(&server.url(), &[]);
        run(&mut remote, &copies.job("made", same, &[])).unwrap();
        server.only_wait(copies.folder(), &[&b"copied\n"[..], same].concat());
    }
    // While some are sent and fetched, others run.
    let with_server = variable("WITH_SERVER", 2 * SLOTS).to_string();
    let mut remote = client(&server.url(), &[("KTHINLTO_REMOTE_JOBS", &with_server)]);
    run(&mut remote, &copies.job("first", same, &[])).unwrap();
    let job = |number: usize| copies.job(&format!("n{number}"), same, &["-sleep", &sleep]);
    let jobs: Vec<Action> = (0..jobs).map(job).collect();
    let mut fed = Fed { jobs, given: 0, took: Vec::new(), failed: Vec::new() };
    let (slots, interrupts) = (Slots::local(1), Interrupts::catch().unwrap());
    let runner = Runner { slots: &slots, interrupts: &interrupts, keep_going: true };
    let cpu = || {
        let own = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(own.tv_sec as u64, own.tv_nsec as u32)
    };
    let (began, before) = (Instant::now(), cpu());
    runner.run_with(&mut Processes, Some(&mut remote), &mut fed).unwrap();
    let (wall, own) = (began.elapsed(), cpu() - before);
    assert_eq!((fed.failed.len(), fed.took.len()), (0, fed.jobs.len()), "{:?}", fed.failed);
    assert!(fed.jobs.iter().all(|job| copies.is_right(job) == Some(true)));
    let sum = |part: fn(&RemoteUsage) -> Duration| fed.took.iter().map(part).sum::<Duration>();
    let all = wall.as_secs_f64() * SLOTS as f64;
    let share = |time: Duration| 100.0 * time.as_secs_f64() / all;
    println!(
        "{} jobs in {wall:.2?}: workers busy {:.1} % (with the compiler {:.1} %), waiting for a worker {:.1} %, sent \
         and received {:.1} %; own CPU {:.3} ms for a job",
        fed.jobs.len(),
        share(sum(|one| one.worker)),
        share(sum(|one| one.execution)),
        share(sum(|one| one.queue)),
        share(sum(|one| one.upload + one.download)),
        1000.0 * own.as_secs_f64() / fed.jobs.len() as f64,
    );
}
