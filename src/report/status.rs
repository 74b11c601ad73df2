//! What the progress lines say: counts from the event stream in, lines of text out. Pure: the
//! time and the size of the terminal are given.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::estimate::Estimate;
use super::screen::{Line, Size, width};
use super::{Ending, Event, JobKind, Row};
use crate::exec::executor::Machine;

/// The rate is that of the last seconds.
const WINDOW: Duration = Duration::from_secs(10);
/// Failed objects that are named at a time.
const NAMED: usize = 3;
/// Nothing is shown for what is over at once.
const PATIENCE: Duration = Duration::from_millis(300);

#[derive(Debug)]
struct Running {
    object: String,
    kind: JobKind,
    since: Instant,
}

/// What is known of a run.
#[derive(Debug)]
pub struct Status {
    begun: Instant,
    phase: (&'static str, Instant),
    up_to_date: usize,
    total: usize,
    done: usize,
    from_cache: usize,
    failed: Vec<String>,
    running: BTreeMap<Row, Running>,
    first_backend: Option<Instant>,
    finished: VecDeque<Instant>,
    estimate: Estimate,
}

impl Status {
    /// Nothing has happened yet.
    pub fn new(now: Instant) -> Self {
        Status {
            begun: now,
            phase: ("", now),
            up_to_date: 0,
            total: 0,
            done: 0,
            from_cache: 0,
            failed: Vec::new(),
            running: BTreeMap::new(),
            first_backend: None,
            finished: VecDeque::new(),
            estimate: Estimate::default(),
        }
    }

    /// Objects that could not be made.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// Something happened.
    pub fn on(&mut self, event: &Event<'_>, now: Instant) {
        match event {
            Event::Phase(name) => self.phase = (name, now),
            Event::Planned { modules, backends } => {
                self.total += backends.len();
                self.up_to_date += modules.len().saturating_sub(backends.len());
                self.estimate.add(backends);
            }
            Event::FromCache { object, .. } => {
                self.done += 1;
                self.from_cache += 1;
                self.estimate.spared(object);
            }
            Event::Started(job) => {
                let kind = job.kind;
                if kind == JobKind::Backend {
                    self.first_backend.get_or_insert(now);
                }
                let running = Running { object: job.object.to_owned(), kind, since: now };
                self.running.insert(job.row, running);
            }
            Event::Ended { row, ending, .. } => self.ended(*row, *ending, now),
            _ => {}
        }
    }

    fn ended(&mut self, row: Row, ending: Ending, now: Instant) {
        let Some(Running { object, kind, .. }) = self.running.remove(&row) else {
            return;
        };
        if ending == Ending::Dropped {
            return;
        }
        if kind == JobKind::Backend {
            self.done += 1;
            self.estimate.made(&object);
            self.finished.push_back(now);
        }
        if ending == Ending::Failed {
            self.failed.push(object);
        }
    }

    /// The lines for a terminal of this size.
    pub fn lines(&mut self, now: Instant, size: Size) -> Vec<Line> {
        if now.saturating_duration_since(self.begun) < PATIENCE {
            return Vec::new();
        }
        // What the last column would do differs from terminal to terminal.
        let columns = size.columns.saturating_sub(1);
        let mut lines = vec![Line::plain(self.counts(now, columns))];
        if size.rows > NAMED + 2 {
            let steps = self.running.values().any(|one| one.kind == JobKind::Step);
            let shown = steps || self.first_backend.is_some();
            let jobs = shown.then(|| self.jobs(now, columns)).flatten();
            lines.extend(jobs.map(Line::plain));
            lines.extend(failures(&self.failed, NAMED));
        }
        lines
    }

    /// `  THINLTO [812/2907] 27%, 2:27 left, 14.2/s, 3 from cache`: as much as fits, what
    /// matters most first.
    fn counts(&mut self, now: Instant, columns: usize) -> String {
        let over = self.done >= self.total && self.phase.0 != "backends";
        if over || self.first_backend.is_none() && self.from_cache == 0 {
            let age = now.saturating_duration_since(self.phase.1);
            return format!("  {:<7} {} {}", "THINLTO", self.phase.0, short(age));
        }
        let mut text = format!("  {:<7} [{}/{}]", "THINLTO", self.done, self.total);
        let percent = format!(" {}%", 100 * self.done / self.total.max(1));
        let count = |number: usize, what: &str| (number > 0).then(|| format!(", {number} {what}"));
        let parts = [
            Some(percent),
            self.left(now).map(|left| format!(", {} left", clock(left))),
            count(self.failed.len(), "failed"),
            self.rate(now).map(|rate| format!(", {rate:.1}/s")),
            count(self.remote(), "remote"),
            count(self.from_cache, "from cache"),
            count(self.up_to_date, "up to date"),
        ];
        for part in parts.into_iter().flatten() {
            if width(&text) + width(&part) > columns {
                break;
            }
            text += &part;
        }
        text
    }

    fn left(&mut self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.first_backend?);
        let age = |one: &Running| now.saturating_duration_since(one.since);
        let backends = self.running.values().filter(|one| one.kind == JobKind::Backend);
        let running: Vec<(&str, Duration)> =
            backends.map(|one| (one.object.as_str(), age(one))).collect();
        self.estimate.left(elapsed, &running)
    }

    /// Jobs that run on other machines now.
    fn remote(&self) -> usize {
        self.running.keys().filter(|row| row.machine == Machine::Other).count()
    }

    /// Backends in a second, lately.
    fn rate(&mut self, now: Instant) -> Option<f64> {
        let age = |then: &Instant| now.saturating_duration_since(*then);
        while self.finished.front().is_some_and(|then| age(then) > WINDOW) {
            self.finished.pop_front();
        }
        let over = age(&self.first_backend?).min(WINDOW).as_secs_f64();
        (over >= 1.0 && !self.finished.is_empty()).then(|| self.finished.len() as f64 / over)
    }

    /// The running jobs, the oldest first, as many as fit.
    fn jobs(&self, now: Instant, columns: usize) -> Option<String> {
        let mut running: Vec<&Running> = self.running.values().collect();
        running.sort_by_key(|one| one.since);
        let mut text = "  running".to_owned();
        for (number, one) in running.iter().enumerate() {
            let age = short(now.saturating_duration_since(one.since));
            let more = running.len() - number - 1;
            // Room for `, +99` behind it, unless it is the last.
            let room = columns.saturating_sub(width(&text) + if more > 0 { 6 } else { 0 });
            let start = if number == 0 { " " } else { ", " };
            let name_room = room.saturating_sub(start.len() + 1 + age.len());
            let name = shortened(&one.object, name_room.min(columns / 2));
            if name.is_empty() || number > 0 && name.starts_with("..") {
                text += if number == 0 { " " } else { ", +" };
                text += &(more + 1).to_string();
                break;
            }
            text += &format!("{start}{name} {age}");
        }
        (!running.is_empty()).then_some(text)
    }
}

/// A line for each of the last failed objects, and one for all before them.
pub fn failures(failed: &[String], most: usize) -> Vec<Line> {
    let hidden = failed.len().saturating_sub(most);
    let line = |object: &String| Line::failure(format!("  FAILED  {object}"));
    let mut lines: Vec<Line> = failed[hidden..].iter().map(line).collect();
    if hidden > 0 {
        lines.insert(0, Line::failure(format!("  FAILED  {hidden} before these")));
    }
    lines
}

/// The end of a path that fits; nothing if that would say nothing.
fn shortened(path: &str, columns: usize) -> String {
    const LEAST: usize = 8;
    if width(path) <= columns {
        return path.to_owned();
    }
    if columns < LEAST {
        return String::new();
    }
    let mut start = path.len();
    for (at, _) in path.char_indices().rev() {
        if width(&path[at..]) + 2 > columns {
            break;
        }
        start = at;
    }
    format!("..{}", &path[start..])
}

/// `3s`, `2m04s`.
fn short(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds => format!("{}m{:02}s", seconds / 60, seconds % 60),
    }
}

/// `0:03`, `2:27`, `1:02:03`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::part;
    use super::super::{Backend, Job};
    use super::*;

    const WIDE: Size = Size { columns: 80, rows: 24 };
    const NARROW: Size = Size { columns: 40, rows: 24 };
    const OBJECTS: [&str; 4] = [
        "kernel/sched/core.o",
        "drivers/gpu/drm/i915/display/intel_display.o",
        "fs/namei.o",
        "mm/slub.o",
    ];

    /// A run of four backends that took ten seconds each last time, two of them started.
    fn run() -> (Status, Instant) {
        let start = Instant::now();
        let mut status = Status::new(start);
        let ten = Some(Duration::from_secs(10));
        let backends = OBJECTS.map(|object| Backend {
            part: part(object),
            size: 1,
            due: &crate::plan::Due::NeverRun,
            expected: ten,
        });
        status.on(&Event::Phase("backends"), start);
        status.on(&Event::Planned { modules: &[], backends: &backends }, start);
        started(&mut status, 0, OBJECTS[0], start);
        started(&mut status, 1, OBJECTS[1], start);
        (status, start)
    }

    fn started(status: &mut Status, slot: usize, object: &str, now: Instant) {
        started_in(status, Row::here(slot), object, now);
    }

    fn started_in(status: &mut Status, row: Row, object: &str, now: Instant) {
        let job = Job { row, kind: JobKind::Backend, verb: "CC", object };
        status.on(&Event::Started(job), now);
    }

    fn ended(status: &mut Status, slot: usize, ending: Ending, now: Instant) {
        ended_in(status, Row::here(slot), ending, now);
    }

    fn ended_in(status: &mut Status, row: Row, ending: Ending, now: Instant) {
        status.on(&Event::Ended { row, ending, usage: None, remote: None }, now);
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn counts_time_rate_and_running_jobs() {
        let (mut status, start) = run();
        let now = start + Duration::from_secs(10);
        ended(&mut status, 0, Ending::Good, now);
        started(&mut status, 0, OBJECTS[2], now);
        assert_eq!(
            texts(&status.lines(now, WIDE)),
            [
                "  THINLTO [1/4] 25%, 0:10 left, 0.1/s",
                "  running ../gpu/drm/i915/display/intel_display.o 10s, fs/namei.o 0s"
            ]
        );
    }

    #[test]
    fn jobs_elsewhere_are_counted_and_the_loser_of_a_race_is_not() {
        let (mut status, start) = run();
        let now = start + Duration::from_secs(10);
        let rows = [Row::elsewhere(0), Row::elsewhere(1)];
        started_in(&mut status, rows[0], OBJECTS[2], start);
        started_in(&mut status, rows[1], OBJECTS[3], start);
        let first = "  THINLTO [0/4] 0%, 0:00 left, 2 remote";
        assert_eq!(texts(&status.lines(start + Duration::from_secs(10), WIDE))[0], first);
        ended(&mut status, 0, Ending::Good, now);
        started(&mut status, 0, OBJECTS[2], now);
        ended(&mut status, 0, Ending::Good, now);
        ended_in(&mut status, rows[0], Ending::Dropped, now);
        let counts = texts(&status.lines(now, WIDE))[0].to_owned();
        assert!(
            counts.starts_with("  THINLTO [2/4] 50%") && counts.ends_with("1 remote"),
            "{counts}"
        );
    }

    #[test]
    fn a_narrow_terminal_gets_what_matters_most() {
        let (mut status, start) = run();
        let now = start + Duration::from_secs(75);
        ended(&mut status, 0, Ending::Failed, now);
        started(&mut status, 0, OBJECTS[2], now);
        let lines = status.lines(now, NARROW);
        assert_eq!(
            texts(&lines),
            [
                "  THINLTO [1/4] 25%, 1:15 left",
                "  running ..intel_display.o 1m15s, +1",
                "  FAILED  kernel/sched/core.o"
            ]
        );
        assert!(lines[2].failure && lines.iter().all(|line| width(&line.text) < 40));
        assert_eq!(status.lines(now, Size { columns: 20, rows: 24 })[1].text, "  running 2");
        for columns in 0..40 {
            status.lines(now, Size { columns, rows: 24 });
        }
        assert_eq!(status.lines(now, Size { columns: 40, rows: 4 }).len(), 1);
    }

    #[test]
    fn failures_stay() {
        let (mut status, start) = run();
        for _ in 0..5 {
            ended(&mut status, 0, Ending::Failed, start);
            started(&mut status, 0, "a.o", start);
        }
        let lines = status.lines(start + Duration::from_secs(1), WIDE);
        let failed: Vec<&str> = texts(&lines).split_off(2);
        assert_eq!(failed[0], "  FAILED  2 before these");
        assert_eq!(failed[1..], ["  FAILED  a.o"; 3]);
    }

    #[test]
    fn a_phase_without_backends_has_its_name_and_age() {
        let start = Instant::now();
        let mut status = Status::new(start);
        status.on(&Event::Phase("thin link"), start);
        assert_eq!(status.lines(start + Duration::from_millis(100), WIDE), []);
        let lines = status.lines(start + Duration::from_secs(2), WIDE);
        assert_eq!(texts(&lines), ["  THINLTO thin link 2s"]);
    }

    #[test]
    fn what_a_relink_compiles_after_the_backends_is_not_counted_with_them() {
        let start = Instant::now();
        let mut status = Status::new(start);
        let due = &crate::plan::Due::NeverRun;
        let backends = [Backend { part: part("mm/slub.o"), size: 1, due, expected: None }];
        status.on(&Event::Planned { modules: &[], backends: &backends }, start);
        status.on(&Event::Phase("backends"), start);
        started(&mut status, 0, "mm/slub.o", start);
        ended(&mut status, 0, Ending::Good, start + Duration::from_secs(1));
        let now = start + Duration::from_secs(2);
        status.on(&Event::Phase("link"), now);
        let object = ".vmlinux.export.o";
        let job = Job { row: Row::here(0), kind: JobKind::Step, verb: "CC", object };
        status.on(&Event::Started(job), now);
        let later = now + Duration::from_secs(3);
        let want = ["  THINLTO link 3s", "  running .vmlinux.export.o 3s"];
        assert_eq!(texts(&status.lines(later, WIDE)), want);
        ended(&mut status, 0, Ending::Good, later);
        assert_eq!(status.done, 1);
    }

    #[test]
    fn times_are_short() {
        assert_eq!(short(Duration::from_secs(124)), "2m04s");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
        assert_eq!(clock(Duration::from_millis(2600)), "0:03");
        assert_eq!(shortened("a/bc/defghij.o", 10), "..efghij.o");
        assert_eq!(shortened("a/bc/defghij.o", 7), "");
    }
}
