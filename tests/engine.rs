//! Backends on this machine and on others together: what is made is what mainline makes, whatever becomes
//! of the other machines; who runs what, how many at a time, who wins a race, and what is left behind.

mod common;

#[path = "common/apart.rs"]
mod apart;
#[path = "common/farm.rs"]
mod farm;
#[path = "common/settings.rs"]
mod settings;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Tree, assert_holds, assert_same, tool};
use farm::{Farm, Fate, Road};
use kthinlto::environment::Environment;
use kthinlto::error::{Error, Result};
use kthinlto::exec::action::Action;
use kthinlto::exec::executor::{Executor, Job, Machine, Processes};
use kthinlto::exec::interrupt::Interrupts;
use kthinlto::exec::slots::Slots;
use kthinlto::kbuild::makeflags::MakeFlags;
use kthinlto::report::record::{Outcome, RanJob, Recorder, Run};
use kthinlto::report::{Event, JobKind, Listener, Summary};
use kthinlto::stage::{self, Settings};
use kthinlto::store::Store;
use kthinlto::store::cache::Place;
use kthinlto::unit::Unit;

/// Backends of the tree.
const BACKENDS: usize = 12;

fn settings(tree: &Tree, farm: Option<&Arc<Farm>>) -> Settings {
    let engine = farm.map(|farm| Arc::new(Road(farm.clone())) as _);
    Settings { engine, ..settings::of(tree) }
}

/// What a run said, and how many backends ran at a time on this machine.
struct Hears {
    recorder: Recorder,
    here: BTreeMap<usize, JobKind>,
    most: usize,
}

impl Hears {
    fn new() -> Self {
        let recorder = Recorder::new("build", Path::new("."), false);
        Hears { recorder, here: BTreeMap::new(), most: 0 }
    }
}

impl Listener for Hears {
    fn on(&mut self, event: &Event<'_>) {
        self.recorder.on(event);
        match event {
            Event::Started(job) if job.row.machine == Machine::This => {
                assert_eq!(self.here.insert(job.row.number, job.kind), None, "a free row");
            }
            Event::Ended { row, .. } if row.machine == Machine::This => {
                self.here.remove(&row.number);
            }
            _ => {}
        }
        let backends = self.here.values().filter(|kind| **kind == JobKind::Backend);
        self.most = self.most.max(backends.count());
    }

    fn wants_modules(&self) -> bool {
        true
    }
}

fn build_with(settings: &Settings, slots: &Slots) -> (Result<Summary>, Run, usize) {
    let mut hears = Hears::new();
    let interrupts = Interrupts::catch().unwrap();
    let result = stage::build(settings, slots, &interrupts, &mut hears);
    let error = result.as_ref().err().map(ToString::to_string);
    (result, hears.recorder.finish(0, error), hears.most)
}

fn build(tree: &Tree, farm: &Arc<Farm>, slots: usize) -> (Summary, Run) {
    let (summary, run, most) = build_with(&settings(tree, Some(farm)), &Slots::local(slots));
    assert!(most <= slots, "{most} jobs on {slots} slots");
    assert_is_mainlines(tree);
    (summary.unwrap(), run)
}

fn assert_is_mainlines(tree: &Tree) {
    assert_same(&tree.outputs(), &tree.want());
    assert_nothing_aside(tree);
}

fn assert_nothing_aside(tree: &Tree) {
    assert_eq!(tree.shell("find . -name '.tmp_*' -o -name '*.tmp'"), "");
}

fn farm(places: usize, fates: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Arc<Farm> {
    Arc::new(Farm::new(places, fates))
}

#[test]
fn both_kinds_of_machines_work_on_one_queue() {
    let (tree, farm) = (Tree::new(), farm(3, |_| Fate::After("sleep 0.1")));
    let (summary, run) = build(&tree, &farm, 1);
    let counts = farm.counts();
    assert_eq!((summary.rebuilt, summary.from_cache, counts.made), (BACKENDS, 0, 1));
    assert!((3..BACKENDS).contains(&summary.rebuilt_remotely), "{summary:?} {counts:?}");
    assert_eq!((counts.most, counts.running), (3, 0));
    assert_eq!(counts.asked, BACKENDS, "each once");
    assert_eq!(run.totals.rebuilt_remotely, summary.rebuilt_remotely);
    assert_eq!((run.totals.slots, run.totals.remote_slots), (1, 3));
    assert_eq!(run.totals.sent_bytes, 10 * counts.started as u64);
    let far = run.jobs.iter().filter(|job| job.remote);
    assert!(far.clone().count() == counts.started);
    assert!(far.filter_map(|job| job.transfer).any(|known| known.upload_us == 3000));
    assert_eq!((run.warnings.len(), run.failures.len()), (0, 0), "{:?}", run.warnings);
    // What was made there is on record as if it had been made here.
    let (again, _, _) = build_with(&settings(&tree, Some(&farm)), &Slots::local(1));
    assert_eq!(again.unwrap().up_to_date, BACKENDS);
    assert_eq!(farm.counts().made, 1, "nothing to do: nobody is connected to");
}

#[test]
fn all_that_they_can_run_may_be_left_to_other_machines() {
    let (tree, farm) = (Tree::new(), Arc::new(Farm::new(3, |_| Fate::After("sleep 0.1")).alone()));
    let (summary, run) = build(&tree, &farm, 4);
    assert_eq!((summary.rebuilt, summary.rebuilt_remotely), (BACKENDS, BACKENDS));
    let counts = farm.counts();
    assert_eq!((counts.started, counts.most, counts.cancelled), (BACKENDS, 3, 0), "no race");
    let here = run.jobs.iter().filter(|job| !job.remote && job.kind == JobKind::Backend);
    assert_eq!(here.count(), 0);
}

/// What is left to other machines alone is made here where they fail, or are gone.
#[test]
fn what_is_left_to_other_machines_alone_is_made_whatever_becomes_of_them() {
    let lost = |number| if number % 3 == 1 { Fate::Lost } else { Fate::Runs };
    let farm = Arc::new(Farm::new(2, lost).alone());
    let (summary, _) = build(&Tree::new(), &farm, 2);
    let counts = farm.counts();
    assert_eq!((summary.rebuilt, counts.started), (BACKENDS, BACKENDS), "each was sent");
    assert_eq!(summary.rebuilt_remotely, BACKENDS - BACKENDS / 3, "{counts:?}");
    // The first is lost, and nobody is there any more.
    let gone = Farm::new(1, |_| Fate::Lost).alone().with_outages(Duration::from_secs(600));
    let (summary, _) = build(&Tree::new(), &Arc::new(gone), 2);
    assert_eq!((summary.rebuilt, summary.rebuilt_remotely), (BACKENDS, 0));
    // Nobody ever was.
    let (summary, _) = build(&Tree::new(), &Arc::new(Farm::new(0, |_| Fate::Runs).alone()), 2);
    assert_eq!((summary.rebuilt, summary.rebuilt_remotely), (BACKENDS, 0));
    // A backend that only fits here does not wait for them.
    let tree = Tree::new();
    tree.compile("lib/w3", "-fno-integrated-as");
    let all = Arc::new(Farm::new(2, |_| Fate::Runs).alone());
    let (summary, _, _) = build_with(&settings(&tree, Some(&all)), &Slots::local(1));
    assert_eq!(summary.unwrap().rebuilt_remotely, BACKENDS - 1);
}

#[test]
fn another_tree_takes_all_from_the_store_of_results() {
    let (first, second) = (Tree::new(), Tree::new());
    let all = farm(4, |_| Fate::Runs);
    build(&first, &all, 2);
    // What was made here was given to it too.
    let made = all.counts();
    assert!(made.given > 0 && made.given + made.ended >= BACKENDS, "{made:?}");
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), 1 << 30);
    let cached = Settings { cache: Some(place.clone()), ..settings(&second, Some(&all)) };
    let (summary, run, _) = build_with(&cached, &Slots::local(2));
    let summary = summary.unwrap();
    assert_eq!((summary.from_cache, summary.from_remote_cache, summary.rebuilt), (12, 12, 0));
    assert_eq!(run.totals.from_remote_cache, BACKENDS);
    assert!(run.jobs.iter().all(|job| job.kind != JobKind::Backend));
    assert_is_mainlines(&second);
    assert_eq!(all.counts().started, made.started, "nothing ran anywhere");
    // They are in the folder now, which comes first.
    let third = Tree::new();
    let cached = Settings { cache: Some(place), ..settings(&third, Some(&all)) };
    let (summary, _, _) = build_with(&cached, &Slots::local(2));
    let summary = summary.unwrap();
    assert_eq!((summary.from_cache, summary.from_remote_cache), (BACKENDS, 0));
    assert_eq!(all.counts().asked, 2 * BACKENDS);
    assert_is_mainlines(&third);
}

#[test]
fn a_store_without_machines_is_filled_from_here() {
    let (tree, farm) = (Tree::new(), farm(0, |_| Fate::Runs));
    let (summary, _) = build(&tree, &farm, 2);
    assert_eq!((summary.rebuilt, summary.rebuilt_remotely), (BACKENDS, 0));
    assert_eq!((farm.counts().given, farm.counts().started), (BACKENDS, 0));
    let (summary, _) = build(&Tree::new(), &farm, 2);
    assert_eq!(summary.from_remote_cache, BACKENDS);
}

/// A store that lies is found out as far as that can be: what is no object is not taken.
#[test]
fn what_the_store_has_is_looked_at() {
    let first = farm(0, |_| Fate::Runs);
    build(&Tree::new(), &first, 2);
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    for wrong in [b"".as_slice(), b"not an object", &own] {
        let tree = Tree::new();
        let second = Arc::new(Farm::new(2, |_| Fate::Runs).with_results_of(&first));
        second.spoil(wrong);
        let (summary, _) = build(&tree, &second, 2);
        assert_eq!((summary.from_cache, summary.rebuilt), (0, BACKENDS));
    }
}

#[test]
fn a_look_up_is_not_waited_for_longer_than_making_takes() {
    let tree = Tree::new();
    let slow = Arc::new(Farm::new(2, |_| Fate::Runs).with_slow_answers(Duration::from_secs(600)));
    let began = Instant::now();
    let (summary, _) = build(&tree, &slow, 2);
    assert_eq!(summary.rebuilt, BACKENDS);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

/// Files beside an object, and assembly whose files nobody can name: such backends stay here.
#[test]
fn what_is_made_from_more_than_is_known_stays_here() {
    let (tree, farm) = (Tree::new(), farm(20, |_| Fate::Runs));
    tree.compile("lib/w2", "-fstack-usage");
    tree.compile("lib/w3", "-fno-integrated-as");
    let (summary, _, _) = build_with(&settings(&tree, Some(&farm)), &Slots::local(1));
    summary.unwrap();
    let objects = farm.counts().objects.join(" ");
    assert!(!objects.contains("lib/.tmp_w2") && !objects.contains("lib/.tmp_w3"), "{objects}");
    assert!(objects.contains("lib/.tmp_w4"), "{objects}");
    assert!(tree.objects.join("lib/w2.thinlto-native.su").exists());
    assert_nothing_aside(&tree);
}

/// i915 has it so: a folder of headers that is not there is an error, and workers have none of them.
#[test]
fn folders_of_headers_need_not_be_on_other_machines() {
    let (tree, farm) = (Tree::new(), Arc::new(Farm::new(2, |_| Fate::Runs).alone()));
    tree.shell(&format!("mkdir only-here {}/src/include", tree.dir().display()));
    let flags = "-Wmissing-include-dirs -Werror -Ionly-here";
    tree.compile("lib/w2", flags);
    let (summary, run, _) = build_with(&settings(&tree, Some(&farm)), &Slots::local(1));
    assert_eq!(summary.unwrap().rebuilt_remotely, BACKENDS, "{:?}", run.notes);
    assert_same(&tree.outputs(), &tree.mainline());
}

/// All that can become of a job: it costs time, and a warning, and no build.
#[test]
fn machines_that_fail_cost_no_build() {
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    for (fate, why) in [
        (Fate::Refused, "connection refused"),
        (Fate::Lost, "the stream was cut"),
        (Fate::Leaves(Vec::new()), "left an empty object"),
        (Fate::Leaves(b"text".to_vec()), "left a file that is not an ELF object"),
        (Fate::Leaves(own), "not a relocatable object"),
        (Fate::LeavesNothing, "left no object"),
    ] {
        let (tree, of_all) = (Tree::new(), fate.clone());
        let farm = farm(3, move |_| of_all.clone());
        let (summary, run) = build(&tree, &farm, 2);
        assert_eq!((summary.rebuilt, summary.rebuilt_remotely), (BACKENDS, 0), "{fate:?}");
        assert!(farm.counts().started > 0, "{fate:?}");
        assert_eq!(run.failures.len(), 0, "{fate:?}: {:?}", run.failures);
        assert_eq!(run.warnings.len(), 1, "{fate:?}: {:?}", run.warnings);
        assert_holds(&run.warnings[0], &[why, "they run here until it works again"]);
    }
}

#[test]
fn full_machines_are_no_failure_worth_many_words() {
    let (tree, farm) = (Tree::new(), farm(3, |n| if n < 2 { Fate::Full } else { Fate::Runs }));
    let (summary, run) = build(&tree, &farm, 1);
    assert_eq!(summary.rebuilt, BACKENDS);
    assert!(run.warnings.len() <= 1, "{:?}", run.warnings);
}

/// A compiler that fails elsewhere is tried here before that counts, and the user is told, once.
#[test]
fn a_compiler_that_only_fails_elsewhere_is_no_failure() {
    let (tree, farm) = (Tree::new(), farm(3, |_| Fate::After("echo no such library; exit 127")));
    let (summary, run) = build(&tree, &farm, 1);
    assert_eq!((summary.rebuilt, summary.rebuilt_remotely), (BACKENDS, 0));
    assert_eq!(run.warnings.len(), 1, "{:?}", run.warnings);
    assert_holds(&run.warnings[0], &["failed on another machine", "127", "no such library"]);
}

/// A flag that the front end takes and the backend does not.
const BREAKS: &str = "-mllvm -no-such-option-of-llvm";

/// A tree with one backend that fails everywhere.
fn broken() -> Tree {
    let tree = Tree::new();
    let record = tree.objects.join("lib/.w2.o.cmd");
    let text = fs::read_to_string(&record).unwrap();
    let from = "saved_c_flags_lib/w2.o := ";
    fs::write(&record, text.replace(from, &format!("{from}{BREAKS} "))).unwrap();
    tree
}

#[test]
fn a_backend_that_fails_everywhere_fails_once() {
    for keep_going in [false, true] {
        let (tree, farm) = (broken(), farm(3, |_| Fate::Runs));
        let all = Settings { keep_going, ..settings(&tree, Some(&farm)) };
        let (result, run, _) = build_with(&all, &Slots::local(2));
        assert!(matches!(result, Err(Error::Backends { failed: 1, .. })), "{result:?}");
        assert_eq!(run.failures.len(), 1, "{:?}", run.failures);
        assert_holds(&run.failures[0], &["the backend of lib/w2.o failed"]);
        assert_eq!((run.warnings.len(), run.totals.failed), (0, 1), "{:?}", run.warnings);
        assert_nothing_aside(&tree);
        if keep_going {
            assert_eq!(run.totals.rebuilt, BACKENDS - 1);
        }
        assert_eq!(farm.counts().running, 0);
    }
}

#[test]
fn jobs_that_never_end_are_made_here() {
    let (tree, farm) = (Tree::new(), farm(5, |_| Fate::Hangs));
    let began = Instant::now();
    let (summary, run) = build(&tree, &farm, 2);
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!((summary.rebuilt, summary.rebuilt_remotely), (BACKENDS, 0));
    assert_eq!((farm.counts().started, farm.counts().cancelled), (5, 5));
    assert_eq!(run.totals.failed, 0);
    // What won here is in the store.
    assert_eq!(farm.counts().given, BACKENDS);
}

#[test]
fn a_failed_build_does_not_wait_for_jobs_that_never_end() {
    let (tree, farm) = (broken(), farm(3, |_| Fate::Hangs));
    let (result, _, _) = build_with(&settings(&tree, Some(&farm)), &Slots::local(2));
    assert!(matches!(result, Err(Error::Backends { .. })), "{result:?}");
    assert_eq!((farm.counts().running, farm.counts().cancelled), (0, 3));
    assert_nothing_aside(&tree);
}

/// Processes of this machine, of which those in a race write half of an object and take for ever.
struct SlowInRaces;

impl Executor for SlowInRaces {
    fn start(&mut self, action: &Action) -> io::Result<Box<dyn Job>> {
        let mut what = action.command.clone();
        if action.outputs[0].contains(".tmp_race.") {
            let script = "echo half > $0; echo half > ${0%.o}-1234.o.tmp; exec sleep 600";
            what.argv = ["sh", "-c", script, &action.outputs[0]].into_iter().collect();
        }
        Processes.start(&what.into())
    }
}

/// Jobs that did not count.
fn dropped(run: &Run, remote: bool) -> usize {
    let lost = |job: &&RanJob| job.remote == remote && job.outcome == Outcome::Dropped;
    run.jobs.iter().filter(lost).count()
}

/// The last backends run in both places, and the first good object is taken.
#[test]
fn who_is_elsewhere_can_win_a_race() {
    let (tree, farm) = (Tree::new(), farm(BACKENDS, |_| Fate::After("sleep 1")));
    let all = settings(&tree, Some(&farm));
    let (slots, interrupts) = (Slots::local(2), Interrupts::catch().unwrap());
    let mut hears = Hears::new();
    let began = Instant::now();
    let summary =
        stage::build_by(Box::new(SlowInRaces), &all, &slots, &interrupts, &mut hears).unwrap();
    assert!(began.elapsed() < Duration::from_secs(60));
    let run = hears.recorder.finish(0, None);
    assert_eq!(summary.rebuilt, BACKENDS);
    assert!((BACKENDS - 2..BACKENDS).contains(&summary.rebuilt_remotely), "{summary:?}");
    assert!(dropped(&run, false) >= 1 && dropped(&run, true) == 0, "{:?}", run.jobs);
    assert_eq!((farm.counts().cancelled, run.totals.failed), (0, 0));
    assert_is_mainlines(&tree);
}

#[test]
fn who_is_here_can_win_a_race() {
    let (tree, farm) = (Tree::new(), farm(BACKENDS, |_| Fate::After("sleep 600")));
    let (summary, run) = build(&tree, &farm, 2);
    assert_eq!((summary.rebuilt, summary.rebuilt_remotely), (BACKENDS, 0));
    // Short of memory, fewer than two begin here.
    let sent = farm.counts().started;
    assert!((BACKENDS - 2..BACKENDS).contains(&sent), "{sent}");
    assert_eq!((dropped(&run, true), dropped(&run, false)), (sent, 0));
    assert_eq!(farm.counts().cancelled, sent);
}

/// Processes of a machine that is slower than an outage of others is long.
struct Slow;

impl Executor for Slow {
    fn start(&mut self, action: &Action) -> io::Result<Box<dyn Job>> {
        let mut what = action.command.clone();
        let words = ["sh", "-c", "sleep 0.2; exec \"$@\"", "sh"];
        what.argv = words.into_iter().chain(action.command.argv.iter()).collect();
        Processes.start(&what.into())
    }
}

#[test]
fn machines_that_go_away_come_back() {
    let tree = Tree::new();
    let fates = |number| if number == 2 { Fate::Lost } else { Fate::After("sleep 0.05") };
    let farm = Arc::new(Farm::new(2, fates).with_outages(Duration::from_millis(300)));
    let (slots, interrupts) = (Slots::local(1), Interrupts::catch().unwrap());
    let mut hears = Hears::new();
    let all = settings(&tree, Some(&farm));
    let summary = stage::build_by(Box::new(Slow), &all, &slots, &interrupts, &mut hears).unwrap();
    let run = hears.recorder.finish(0, None);
    assert_eq!(summary.rebuilt, BACKENDS);
    assert_is_mainlines(&tree);
    assert_eq!(run.warnings.len(), 1, "{:?}", run.warnings);
    assert!(farm.counts().started > 3, "{:?}", farm.counts());
}

/// As make counts: its tokens are for this machine, and all come back.
#[test]
fn jobs_elsewhere_take_no_token() {
    let (tree, farm) = (Tree::new(), farm(6, |_| Fate::After("sleep 0.2")));
    let server = jobserver::Client::new(1).unwrap();
    let mut command = Command::new("true");
    server.configure_make(&mut command);
    let flags = command.get_envs().find(|(name, _)| *name == "MAKEFLAGS").unwrap().1.unwrap();
    let flags = MakeFlags::parse(flags.to_str().unwrap());
    let slots = Slots::granted(Some(&flags), None, 8).slots;
    let (summary, _, most) = build_with(&settings(&tree, Some(&farm)), &slots);
    assert_eq!(summary.unwrap().rebuilt, BACKENDS);
    assert!(most <= 2 && farm.counts().most == 6, "{most}, {:?}", farm.counts());
    drop(slots);
    assert_eq!(server.available().unwrap(), 1);
    assert_is_mainlines(&tree);
}

#[test]
fn modules_have_backends_elsewhere_too() {
    let unit = |name: &str, members: &[&str]| {
        Unit::new(name, members.iter().map(|name| (*name).to_owned()).collect())
    };
    let units = vec![
        unit("lib/one", &["kernel/a.o", "lib/w0.o", "lib/w1.o"]),
        unit("lib/two", &["lib/w2.o", "kernel/a.o", "kernel/b.o"]),
    ];
    let natives = |farm: Option<&Arc<Farm>>| {
        let tree = Tree::new();
        let all = Settings { units: units.clone(), ..settings(&tree, farm) };
        let (summary, _, _) = build_with(&all, &Slots::local(2));
        assert_nothing_aside(&tree);
        (summary.unwrap(), tree.outputs())
    };
    let farm = farm(3, |_| Fate::Runs);
    let ((_, alone), (helped, both)) = (natives(None), natives(Some(&farm)));
    assert_same(&both, &alone);
    assert_eq!((helped.rebuilt, farm.counts().asked), (BACKENDS + 6, BACKENDS + 6));
    let (taken, third) = natives(Some(&farm));
    assert_same(&third, &alone);
    assert_eq!((taken.from_remote_cache, taken.rebuilt), (BACKENDS + 6, 0));
}

/// A signal ends all, here and elsewhere, and leaves nothing half-written. The build is another
/// process: signals are for all threads of one.
#[test]
fn a_signal_ends_jobs_everywhere() {
    const STARTED: &str = "KTHINLTO_TEST_STARTED";
    if let Some(place) = std::env::var_os(STARTED) {
        let farm = farm(4, |_| Fate::After("sleep 600"));
        let tree = Tree::new();
        let all = Settings { compiler: Some(tool("clang")), ..settings(&tree, Some(&farm)) };
        let (slots, is_over) = (Slots::local(1), AtomicBool::new(false));
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                while farm.counts().running < 4 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // Without it, nothing is made here, and the build cannot end before the signal.
                let slot = std::iter::repeat_with(|| slots.try_acquire()).flatten().next();
                fs::write(place, "four run").unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                drop(slot);
            });
            let (result, _, _) = build_with(&all, &slots);
            is_over.store(true, Ordering::Relaxed);
            result
        });
        assert!(matches!(result, Err(Error::Interrupted(_))), "{result:?}");
        let counts = farm.counts();
        assert!(counts.running == 0 && counts.cancelled == counts.started, "{counts:?}");
        assert!(counts.started > 0);
        assert_nothing_aside(&tree);
        println!("all ended");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("started");
    common::heed_signals();
    let name = "a_signal_ends_jobs_everywhere";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(STARTED, &place)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !place.exists() {
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = common::text(&out.stdout);
    assert!(out.status.success() && said.contains("all ended"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn explain_says_what_the_server_calls_an_action() {
    let (tree, farm) = (Tree::new(), farm(1, |_| Fate::Runs));
    build(&tree, &farm, 2);
    let explain = |engine| {
        let store = Store::peek(&tree.objects).unwrap();
        let last = stage::explain::last_settings(&store, Environment::of_process()).unwrap();
        let last = Settings { engine, ..last };
        stage::explain::explain(&last, store, "lib/w2.o").unwrap().action
    };
    assert_eq!(explain(None), None);
    let action = explain(settings(&tree, Some(&farm)).engine).unwrap();
    assert!(action.ends_with("/1") && action.len() == 66, "{action}");
}
