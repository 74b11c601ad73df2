//! The record of a run: what is counted, what costs, and what the critical path is.

use super::*;
use crate::inputs::Label;
use crate::report::tests::part;
use crate::store::Digest;

/// The end of a job on this machine.
pub(crate) fn ended(row: Row, ending: Ending, usage: Option<Usage>) -> Event<'static> {
    Event::Ended { row, ending, usage, remote: None }
}

/// A run of two backends out of four modules; one imports from another.
pub(crate) fn run() -> Run {
    let indexed = |object: &str, imports: &[&str]| Indexed {
        part: part(object).clone(),
        index: Digest::of(b""),
        imports: imports.iter().map(|name| (*name).into()).collect(),
    };
    let modules = [
        indexed("a.o", &[]),
        indexed("b.o", &["a.o"]),
        indexed("c.o", &["a.o", "b.o"]),
        indexed("d.o", &[]),
    ];
    let due = |kind| Due::Input(Change::Changed(Label::new(kind, "a.o")));
    let (own, import) = (due(Kind::Bitcode), due(Kind::Import));
    let backend = |object, due| Backend { part: part(object), size: 7, due, expected: None };
    let backends = [backend("a.o", &own), backend("b.o", &import), backend("c.o", &import)];
    let mut recorder = Recorder::new("build", Path::new("/obj"), false);
    let usage = |ms| Usage {
        wall: Duration::from_millis(ms),
        cpu: Duration::from_millis(ms / 2),
        peak: 1000,
    };
    recorder.on(&Event::Phase("plan"));
    recorder.on(&Event::Planned { modules: &modules, backends: &backends });
    recorder.on(&Event::Phase("backends"));
    let (wall, machine) = (Duration::from_micros(5), Machine::This);
    recorder.on(&Event::FromCache { object: "c.o", wall, machine });
    for (number, object) in [(0, "a.o"), (1, "b.o")] {
        let row = Row::here(number);
        recorder.on(&Event::Started(Job { row, kind: JobKind::Backend, verb: "CC", object }));
    }
    recorder.on(&ended(Row::here(1), Ending::Good, Some(usage(30))));
    recorder.on(&ended(Row::here(0), Ending::Failed, Some(usage(10))));
    recorder.on(&Event::Failure("the backend of a.o failed"));
    recorder.finish(1, Some("1 of 2 backends failed".to_owned()))
}

#[test]
fn modules_are_counted_by_what_became_of_them() {
    let totals = run().totals;
    let counts = [totals.up_to_date, totals.from_cache, totals.rebuilt, totals.failed];
    assert_eq!((totals.modules, counts, totals.not_run), (4, [1, 1, 1, 1], 0));
    assert_eq!((totals.slots, totals.busy_us, totals.cpu_us), (2, 40_000, 20_000));
}

#[test]
fn costs_of_imports_are_those_of_backends_that_ran() {
    let found = run().costly_imports;
    assert_eq!(found.len(), 1);
    let object = "a.o".to_owned();
    let (wall_us, because_us) = (30_000, 30_000);
    let want = CostlyImport { object, importers: 2, ran: 1, wall_us, because: 1, because_us };
    assert_eq!(found[0], want);
}

#[test]
fn the_critical_path_has_the_longest_backend() {
    let run = run();
    let names: Vec<&str> = run.critical_path.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["plan", "backend of b.o"]);
    assert_eq!(run.critical_path[1].wall_us, 30_000);
}

#[test]
fn a_step_of_a_relink_is_no_backend_of_the_critical_path() {
    let mut recorder = Recorder::new("relink", Path::new("/obj"), false);
    recorder.on(&Event::Phase("link"));
    let object = ".vmlinux.export.o";
    let row = Row::here(0);
    recorder.on(&Event::Started(Job { row, kind: JobKind::Step, verb: "CC", object }));
    recorder.on(&ended(row, Ending::Good, Some(Usage::default())));
    let run = recorder.finish(0, None);
    let names: Vec<&str> = run.critical_path.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["link", "step .vmlinux.export.o"]);
}

#[test]
fn steps_of_a_relink_that_waited_for_each_other_are_the_critical_path() {
    let mut recorder = Recorder::new("relink", Path::new("/obj"), false);
    recorder.on(&Event::Phase("link"));
    let mut run = recorder.finish(0, None);
    run.phases[0] = Phase { name: "link", start_us: 100, wall_us: 1000 };
    let step = |object: &str, start_us, wall_us| RanJob {
        kind: JobKind::Step,
        verb: "LD",
        object: object.to_owned(),
        remote: false,
        slot: 0,
        start_us,
        wall_us,
        cpu_us: None,
        peak_kib: None,
        transfer: None,
        outcome: Outcome::Good,
    };
    run.jobs = vec![
        step("vmlinux.o", 110, 400),
        step("check", 520, 100),
        step("vmlinux.symvers", 520, 50),
        step("vmlinux", 630, 400),
        step("modinfo", 630, 20),
    ];
    let path = critical_path(&run);
    let path: Vec<_> = path.iter().map(|part| (part.name.as_str(), part.wall_us)).collect();
    let steps = [("step vmlinux.o", 400), ("step check", 100), ("step vmlinux", 400)];
    assert_eq!(path, [&[("link", 100)][..], &steps[..]].concat());
}

#[test]
fn what_ran_when_the_run_ended_was_stopped() {
    let mut recorder = Recorder::new("build", Path::new("/obj"), false);
    recorder.on(&Event::Started(Job {
        row: Row::here(0),
        kind: JobKind::Backend,
        verb: "CC",
        object: "a.o",
    }));
    let run = recorder.finish(130, None);
    assert_eq!(run.jobs[0].outcome, Outcome::Stopped);
}

/// Of a race only the winner says what became of the module.
#[test]
fn a_race_is_two_jobs_and_one_object() {
    let mut recorder = Recorder::new("build", Path::new("/obj"), false);
    let part = part("a.o").clone();
    let modules = [Indexed { part, index: Digest::of(b""), imports: Vec::new() }];
    let due = Due::NeverRun;
    let backends = [Backend { part: &modules[0].part, size: 7, due: &due, expected: None }];
    recorder.on(&Event::Planned { modules: &modules, backends: &backends });
    let rows = [Row::elsewhere(0), Row::here(0)];
    for row in rows {
        let kind = JobKind::Backend;
        recorder.on(&Event::Started(Job { row, kind, verb: "CC", object: "a.o" }));
    }
    let (second, milli) = (Duration::from_secs(1), Duration::from_millis(1));
    let remote = RemoteUsage { execution: second, upload: milli, ..RemoteUsage::default() };
    let usage = Some(Usage { wall: second, ..Usage::default() });
    let remote = Some(remote);
    recorder.on(&Event::Ended { row: rows[0], ending: Ending::Good, usage, remote });
    recorder.on(&ended(rows[1], Ending::Dropped, None));
    recorder.on(&Event::Traffic(Traffic { sent: 5, received: 6 }));
    let run = recorder.finish(0, None);
    let outcomes = [&run.jobs[0], &run.jobs[1]].map(|job| (job.remote, job.slot, job.outcome));
    assert_eq!(outcomes, [(true, 0, Outcome::Good), (false, 0, Outcome::Dropped)]);
    assert_eq!((run.jobs[0].cpu_us, run.jobs[0].peak_kib), (None, None), "nobody told");
    let transfer = run.jobs[0].transfer.unwrap();
    assert_eq!((transfer.execution_us, transfer.upload_us), (1_000_000, 1000));
    let totals = &run.totals;
    assert_eq!((totals.rebuilt, totals.rebuilt_remotely, totals.failed), (1, 1, 0));
    assert_eq!((totals.slots, totals.remote_slots), (1, 1));
    assert_eq!((totals.sent_bytes, totals.received_bytes), (5, 6));
}
