//! Make's `-l`: how many processes of the whole machine may want a processor. Must not know
//! what waits for that.
//!
//! Rule: GNU make 4.4, `load_too_high()` in `src/job.c`: it goes by the processes that run now, as
//! an average of a minute says too late that it is enough. Source: proc(5), `loadavg`.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Where the kernel says it.
const PLACE: &str = "/proc/loadavg";

/// How long a load that was too high is left alone, as make does.
pub const PAUSE: Duration = Duration::from_secs(1);

/// A limit for the load of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit(f64);

impl Limit {
    /// The number of make's `-l`. It bounds what others run as well.
    pub fn new(most: f64) -> Self {
        Limit(most)
    }

    /// Whether another job would be too much now. Never, where the kernel does not tell.
    pub fn is_reached(self) -> bool {
        self.is_reached_in(Path::new(PLACE))
    }

    fn is_reached_in(self, place: &Path) -> bool {
        let text = fs::read_to_string(place).unwrap_or_default();
        running(&text).is_some_and(|running| running > self.0)
    }
}

/// What runs now: `0.20 0.18 0.12 RUNNING/ALL NUMBER`.
fn running(text: &str) -> Option<f64> {
    text.split(' ').nth(3)?.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_processes_count_and_not_the_average() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("loadavg");
        let reached = |most, text: &str| {
            fs::write(&place, text).unwrap();
            Limit::new(most).is_reached_in(&place)
        };
        assert!(reached(2.0, "0.10 0.10 0.10 3/123 4567\n"));
        assert!(!reached(3.0, "9.99 9.99 9.99 3/123 4567\n"));
        assert!(reached(2.5, "0.00 0.00 0.00 3/1 1\n") && !reached(0.0, "odd\n"));
        assert!(!Limit::new(0.0).is_reached_in(&dir.path().join("gone")));
        assert!(Limit::new(0.0).is_reached(), "this test runs itself");
    }
}
