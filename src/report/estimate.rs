//! How long the backends that are left will take: from what each took last time, or from the
//! size of its bitcode, measured against what was done in this run. Knows no clock of its own.

use std::collections::HashSet;
use std::time::Duration;

use rustc_hash::FxHashMap as HashMap;

use super::Backend;

/// Share of the work that has to be done before this run's own speed counts.
const ENOUGH: f64 = 0.02;

/// The work of one run: all of it, and what is done.
#[derive(Debug, Default)]
pub struct Estimate {
    /// Wall time of the last run, where that is on record, and size, by object.
    backends: HashMap<String, (Option<Duration>, u64)>,
    made: HashSet<String>,
    /// Backends came or went since the weights were computed.
    is_stale: bool,
    /// Work by object: seconds where any time is on record, else bytes.
    weights: HashMap<String, f64>,
    in_seconds: bool,
    total: f64,
    done: f64,
}

impl Estimate {
    /// There is more work: these backends.
    pub fn add(&mut self, backends: &[Backend<'_>]) {
        let known = |one: &Backend<'_>| (one.part.label().into_owned(), (one.expected, one.size));
        self.backends.extend(backends.iter().map(known));
        self.is_stale = true;
    }

    fn weigh(&mut self) {
        self.is_stale = false;
        let known = self.backends.values().filter_map(|(time, size)| Some(((*time)?, *size)));
        let (seconds, bytes) =
            known.fold((0.0, 0), |sum, (time, size)| (sum.0 + time.as_secs_f64(), sum.1 + size));
        self.in_seconds = seconds > 0.0;
        let a_byte = if self.in_seconds { seconds / bytes.max(1) as f64 } else { 1.0 };
        let weight = |(time, size): (Option<Duration>, u64)| match time {
            Some(time) if self.in_seconds => time.as_secs_f64(),
            _ => size as f64 * a_byte,
        };
        self.weights =
            self.backends.iter().map(|(name, known)| (name.clone(), weight(*known))).collect();
        self.total = self.weights.values().sum();
        self.done = self.made.iter().filter_map(|name| self.weights.get(name)).sum();
    }

    /// An object is made, by whatever means; it is work no more.
    pub fn made(&mut self, object: &str) {
        self.done += self.weights.get(object).copied().unwrap_or_default();
        self.made.insert(object.to_owned());
    }

    /// An object came from the cache: it was never work.
    pub fn spared(&mut self, object: &str) {
        self.backends.remove(object);
        self.is_stale = true;
    }

    /// The time left, `elapsed` after the first backend started, while these objects have been
    /// compiled for so long; `None` where nothing can be said yet.
    pub fn left(&mut self, elapsed: Duration, running: &[(&str, Duration)]) -> Option<Duration> {
        if self.is_stale {
            self.weigh();
        }
        let weight = |object: &str| self.weights.get(object).copied().unwrap_or_default();
        let part = |(object, age): &(&str, Duration)| age.as_secs_f64().min(weight(object));
        let under_way: f64 =
            if self.in_seconds { running.iter().map(part).sum() } else { Default::default() };
        let done = self.done + under_way;
        let left = (self.total - done).max(0.0);
        let seconds = if elapsed.as_secs_f64() >= 1.0 && done > ENOUGH * self.total {
            left * elapsed.as_secs_f64() / done
        } else if self.in_seconds && !running.is_empty() {
            left / running.len() as f64
        } else {
            return None;
        };
        // However many slots there are: what runs alone at the end takes its own time.
        let rest = |(object, age): &(&str, Duration)| weight(object) - age.as_secs_f64();
        let longest = running.iter().map(rest).filter(|_| self.in_seconds).fold(0.0, f64::max);
        Duration::try_from_secs_f64(seconds.max(longest)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::part;
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn backend(object: &str, size: u64, expected: Option<u64>) -> Backend<'_> {
        Backend {
            part: part(object),
            size,
            due: &crate::plan::Due::NeverRun,
            expected: expected.map(seconds),
        }
    }

    fn estimate(all: &[Backend<'_>]) -> Estimate {
        let mut estimate = Estimate::default();
        estimate.add(all);
        estimate
    }

    #[test]
    fn recorded_times_are_shared_by_the_slots_at_first() {
        let all = ["a", "b", "c", "d"].map(|name| backend(name, 1, Some(10)));
        let mut estimate = estimate(&all);
        let running = [("a", Duration::ZERO), ("b", Duration::ZERO)];
        assert_eq!(estimate.left(Duration::ZERO, &running), Some(seconds(20)));
        assert_eq!(estimate.left(Duration::ZERO, &[]), None);
    }

    #[test]
    fn this_runs_own_speed_counts_as_soon_as_there_is_one() {
        let all = ["a", "b", "c", "d"].map(|name| backend(name, 1, Some(10)));
        let mut estimate = estimate(&all);
        estimate.made("a");
        // Twice as long as last time, one after the other.
        assert_eq!(estimate.left(seconds(20), &[]), Some(seconds(60)));
    }

    #[test]
    fn sizes_serve_where_no_time_is_known() {
        let all = [backend("a", 100, None), backend("b", 300, None)];
        let mut estimate = estimate(&all);
        assert_eq!(estimate.left(seconds(5), &[("a", seconds(5))]), None);
        estimate.made("a");
        assert_eq!(estimate.left(seconds(5), &[("b", Duration::ZERO)]), Some(seconds(15)));
    }

    #[test]
    fn an_unknown_time_is_taken_from_its_size() {
        let all = [backend("a", 100, Some(10)), backend("b", 300, None)];
        let mut estimate = estimate(&all);
        estimate.made("a");
        assert_eq!(estimate.left(seconds(10), &[]), Some(seconds(30)));
    }

    #[test]
    fn what_the_cache_had_is_no_work_done() {
        let all = ["a", "b", "c"].map(|name| backend(name, 1, Some(10)));
        let mut estimate = estimate(&all);
        estimate.spared("a");
        estimate.made("b");
        assert_eq!(estimate.left(seconds(10), &[]), Some(seconds(10)));
    }

    #[test]
    fn the_longest_alone_at_the_end_is_not_forgotten() {
        let all = [backend("long", 1, Some(100)), backend("a", 1, Some(50))];
        let mut estimate = estimate(&all);
        estimate.made("a");
        assert_eq!(estimate.left(seconds(50), &[("long", seconds(50))]), Some(seconds(50)));
        // Longer than last time: not a negative time.
        assert_eq!(estimate.left(seconds(500), &[("long", seconds(500))]), Some(seconds(0)));
    }
}
