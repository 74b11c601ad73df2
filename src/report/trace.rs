//! A run in the Chrome trace event format, which Perfetto (ui.perfetto.dev) and
//! chrome://tracing open: phases in the first row, then a row for each slot, rows for jobs on other
//! machines, and how many jobs ran at a time.
//!
//! Format: "Trace Event Format", JSON object form; times are in microseconds.

use rustc_hash::FxHashMap as HashMap;
use serde_json::{Value, json};

use super::record::{RanJob, Run};

/// The row of the phases. Not 0: Perfetto takes that for the process's own, and draws it into
/// the row whose number is the process's.
const PHASES: usize = 1;

/// The row of a job: those of other machines come after all slots.
fn row(run: &Run, remote: bool, slot: usize) -> usize {
    PHASES + 1 + slot + if remote { run.totals.slots } else { 0 }
}

/// The whole file. It names no unit of time: older viewers took the times in that for it.
pub fn render(run: &Run) -> String {
    let mut events = names(run);
    events.extend(run.phases.iter().map(|phase| {
        json!({
            "name": phase.name, "cat": "phase", "ph": "X", "pid": 1, "tid": PHASES,
            "ts": phase.start_us, "dur": phase.wall_us,
        })
    }));
    let known = run.modules.iter();
    let reasons: HashMap<&str, &str> =
        known.filter_map(|one| Some((one.object.as_str(), one.why.as_deref()?))).collect();
    let why = |job: &RanJob| reasons.get(job.object.as_str()).copied();
    events.extend(run.jobs.iter().map(|job| job_event(run, job, why(job))));
    events.extend(running(run));
    let all = json!({
        "traceEvents": events,
        "otherData": { "kthinlto": run.kthinlto, "command": run.command, "tree": run.tree },
    });
    all.to_string() + "\n"
}

fn names(run: &Run) -> Vec<Value> {
    let name = |kind: &str, tid: usize, name: String| json!({ "name": kind, "ph": "M", "pid": 1, "tid": tid, "args": { "name": name } });
    let mut names = vec![
        name("process_name", PHASES, format!("kthinlto {}", run.command)),
        name("thread_name", PHASES, "phases".to_owned()),
    ];
    let slots = 0..run.totals.slots;
    let row = |remote, slot| row(run, remote, slot);
    names.extend(slots.map(|slot| name("thread_name", row(false, slot), format!("slot {slot}"))));
    let remote = 0..run.totals.remote_slots;
    names.extend(remote.map(|slot| name("thread_name", row(true, slot), format!("remote {slot}"))));
    names
}

fn job_event(run: &Run, job: &RanJob, why: Option<&str>) -> Value {
    json!({
        "name": job.object, "cat": job.verb, "ph": "X", "pid": 1,
        "tid": row(run, job.remote, job.slot),
        "ts": job.start_us, "dur": job.wall_us,
        "args": {
            "outcome": job.outcome, "cpu_us": job.cpu_us, "peak_kib": job.peak_kib,
            "why": why, "remote": job.remote, "transfer": job.transfer,
        },
    })
}

/// How many jobs run, each time that changes.
fn running(run: &Run) -> Vec<Value> {
    let starts = run.jobs.iter().map(|job| (job.start_us, 1));
    let ends = run.jobs.iter().map(|job| (job.start_us + job.wall_us, -1));
    let mut changes: Vec<(u64, i64)> = starts.chain(ends).collect();
    changes.sort_unstable(); // an end before a start at the same time
    let mut count = 0;
    let mut event = |(ts, change): (u64, i64)| {
        count += change;
        json!({ "name": "running", "ph": "C", "pid": 1, "ts": ts, "args": { "jobs": count } })
    };
    changes.into_iter().map(&mut event).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::record::tests::run;
    use super::*;

    #[test]
    fn each_job_is_a_complete_event_in_the_row_of_its_slot() {
        let all: Value = serde_json::from_str(&render(&run())).unwrap();
        let events = all["traceEvents"].as_array().unwrap();
        let job = events.iter().find(|event| event["name"] == "b.o").unwrap();
        assert_eq!(
            (&job["ph"], &job["tid"], &job["dur"]),
            (&json!("X"), &json!(3), &json!(30_000))
        );
        assert_eq!(job["args"]["why"], "import a.o");
        let counts = events.iter().filter(|event| event["ph"] == "C");
        let counts: Vec<i64> = counts.map(|e| e["args"]["jobs"].as_i64().unwrap()).collect();
        assert_eq!((counts.len(), counts.iter().max(), counts.last()), (4, Some(&2), Some(&0)));
        for event in events.iter().filter(|event| event["ph"] != "M") {
            assert!(event["ts"].is_u64(), "{event}");
        }
    }

    #[test]
    fn jobs_elsewhere_have_rows_of_their_own() {
        let mut run = run();
        (run.jobs[1].remote, run.jobs[1].slot) = (true, 0);
        (run.totals.slots, run.totals.remote_slots) = (1, 1);
        let all: Value = serde_json::from_str(&render(&run)).unwrap();
        let events = all["traceEvents"].as_array().unwrap();
        let row = |name| {
            let jobs = events.iter().find(|event| event["name"] == name && event["ph"] == "X");
            jobs.unwrap()["tid"].clone()
        };
        assert_eq!((row("a.o"), row("b.o")), (json!(2), json!(3)));
        let named = |event: &&Value| event["ph"] == "M" && event["tid"] == 3;
        assert_eq!(events.iter().find(named).unwrap()["args"]["name"], "remote 0");
    }

    #[test]
    fn no_slot_shares_a_row_with_the_phases() {
        let all: Value = serde_json::from_str(&render(&run())).unwrap();
        let events = all["traceEvents"].as_array().unwrap();
        let rows = |phase: bool| {
            let whole = events.iter().filter(|event| event["ph"] == "X");
            let kind = whole.filter(|event| (event["cat"] == "phase") == phase);
            kind.map(|event| event["tid"].as_u64().unwrap()).collect::<BTreeSet<_>>()
        };
        assert_eq!(rows(true), BTreeSet::from([1]));
        assert!(rows(false).is_disjoint(&rows(true)) && !rows(false).contains(&0));
    }
}
