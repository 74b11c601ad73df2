//! A run in the Chrome trace event format, which Perfetto (ui.perfetto.dev) and
//! chrome://tracing open: phases in the first row, then a row for each slot, and how many jobs
//! ran at a time.
//!
//! Format: "Trace Event Format", JSON object form; times are in microseconds.

use rustc_hash::FxHashMap as HashMap;
use serde_json::{Value, json};

use super::record::{RanJob, Run};

/// The whole file.
pub fn render(run: &Run) -> String {
    let mut events = names(run);
    events.extend(run.phases.iter().map(|phase| {
        json!({
            "name": phase.name, "cat": "phase", "ph": "X", "pid": 1, "tid": 0,
            "ts": phase.start_us, "dur": phase.wall_us,
        })
    }));
    let known = run.modules.iter();
    let reasons: HashMap<&str, &str> =
        known.filter_map(|one| Some((one.object.as_str(), one.why.as_deref()?))).collect();
    let why = |job: &RanJob| reasons.get(job.object.as_str()).copied();
    events.extend(run.jobs.iter().map(|job| job_event(job, why(job))));
    events.extend(running(run));
    let all = json!({
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": { "kthinlto": run.kthinlto, "command": run.command, "tree": run.tree },
    });
    all.to_string() + "\n"
}

fn names(run: &Run) -> Vec<Value> {
    let name = |kind: &str, tid: usize, name: String| json!({ "name": kind, "ph": "M", "pid": 1, "tid": tid, "args": { "name": name } });
    let mut names = vec![
        name("process_name", 0, format!("kthinlto {}", run.command)),
        name("thread_name", 0, "phases".to_owned()),
    ];
    let slots = 0..run.totals.slots;
    names.extend(slots.map(|slot| name("thread_name", slot + 1, format!("slot {slot}"))));
    names
}

fn job_event(job: &RanJob, why: Option<&str>) -> Value {
    json!({
        "name": job.object, "cat": job.verb, "ph": "X", "pid": 1, "tid": job.slot + 1,
        "ts": job.start_us, "dur": job.wall_us,
        "args": {
            "outcome": job.outcome, "cpu_us": job.cpu_us, "peak_kib": job.peak_kib,
            "why": why,
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
    use super::super::record::tests::run;
    use super::*;

    #[test]
    fn each_job_is_a_complete_event_in_the_row_of_its_slot() {
        let all: Value = serde_json::from_str(&render(&run())).unwrap();
        let events = all["traceEvents"].as_array().unwrap();
        let job = events.iter().find(|event| event["name"] == "b.o").unwrap();
        assert_eq!(
            (&job["ph"], &job["tid"], &job["dur"]),
            (&json!("X"), &json!(2), &json!(30_000))
        );
        assert_eq!(job["args"]["why"], "import a.o");
        let counts = events.iter().filter(|event| event["ph"] == "C");
        let counts: Vec<i64> = counts.map(|e| e["args"]["jobs"].as_i64().unwrap()).collect();
        assert_eq!((counts.len(), counts.iter().max(), counts.last()), (4, Some(&2), Some(&0)));
        for event in events.iter().filter(|event| event["ph"] != "M") {
            assert!(event["ts"].is_u64(), "{event}");
        }
    }
}
