//! How much memory is left for another process: the system's, or the control group's where
//! that is less. Must not know what needs it.
//!
//! Sources: proc(5), `MemTotal` and `MemAvailable`; cgroups(7), `memory.max` and `memory.current`
//! of version 2, `memory.limit_in_bytes` and `memory.usage_in_bytes` of version 1.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// How old an answer may be: reading takes longer than starting a process.
const FRESH: Duration = Duration::from_millis(100);
/// The same while there is this many times more than is needed.
const CALM: Duration = Duration::from_secs(1);
const PLENTY: u64 = 8;

/// Asks the kernel, not more often than it changes much.
#[derive(Debug, Default)]
pub struct Memory {
    groups: Option<Vec<Group>>,
    last: Option<(Instant, u64)>,
}

/// A control group, which may have a limit.
#[derive(Debug)]
struct Group {
    limit: PathBuf,
    usage: PathBuf,
    details: PathBuf,
    /// Pages of files that can be dropped, as `memory.stat` names them.
    cached: &'static str,
}

impl Memory {
    /// KiB that processes can still get without anything being swapped or killed; `None`
    /// where the kernel does not say.
    ///
    /// Looked at less often where it is plenty for `need`.
    pub(super) fn available_for(&mut self, need: u64) -> Option<u64> {
        if let Some((when, available)) = self.last
            && when.elapsed() < if available / PLENTY >= need { CALM } else { FRESH }
        {
            return Some(available);
        }
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let (all, system) = (field(&text, "MemTotal:")?, field(&text, "MemAvailable:")?);
        let groups = self.groups.get_or_insert_with(groups);
        let limited = groups.iter().filter_map(|group| group.available(all)).min();
        let available = limited.map_or(system, |limited| limited.min(system));
        self.last = Some((Instant::now(), available));
        Some(available)
    }

    /// Whether a process that may need `need` KiB has room beside those that run, of which
    /// each may still grow to what it is listed with; one without a number has not begun.
    pub fn has_room(
        &mut self,
        need: u64,
        running: impl Iterator<Item = (Option<Pid>, u64)>,
    ) -> bool {
        let running: Vec<_> = running.collect();
        let all: u64 = running.iter().map(|(_, most)| most).sum();
        let Some(available) = self.available_for(need.saturating_add(all)) else {
            return true;
        };
        if available >= need + all {
            return true; // the usual case, without a look at each
        }
        let growth = running.iter().map(|(pid, most)| most.saturating_sub(pid.map_or(0, resident)));
        available >= need + growth.sum::<u64>()
    }
}

/// One number of `/proc/meminfo`, in KiB.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What a process holds now, in KiB.
fn resident(pid: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/statm", pid.as_raw_pid()));
    let pages = text.ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * (rustix::param::page_size() as u64 / 1024)
}

impl Group {
    /// KiB that are left. `None` where the limit is not below the `all` KiB that the machine has and
    /// so never binds: then nothing more is asked, of which the kernel would have to add up some.
    fn available(&self, all: u64) -> Option<u64> {
        let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        // No limit is `max`, which is no number, or in version 1 a very large one.
        let limit = number(&self.limit).filter(|limit| limit / 1024 < all)?;
        let usage = number(&self.usage)?;
        let details = fs::read_to_string(&self.details).unwrap_or_default();
        let cached = details.lines().find_map(|line| {
            line.strip_prefix(self.cached)?.strip_prefix(' ')?.parse::<u64>().ok()
        });
        Some((limit + cached.unwrap_or(0)).saturating_sub(usage) / 1024)
    }
}

/// The groups of this process, from its own up to the root.
fn groups() -> Vec<Group> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    text.lines().flat_map(groups_in).collect()
}

/// The groups in one line of `/proc/self/cgroup`: `0::/PATH`, or `N:memory:/PATH`.
fn groups_in(line: &str) -> Vec<Group> {
    let mut parts = line.splitn(3, ':');
    let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
    else {
        return Vec::new();
    };
    let first = controllers.split(',').any(|name| name == "memory");
    if !first && number != "0" {
        return Vec::new();
    }
    let root = if first { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
    let (limit, usage, cached) = match first {
        true => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        false => ("memory.max", "memory.current", "inactive_file"),
    };
    let group = |folder: &Path| {
        let place = Path::new(root).join(folder.strip_prefix("/").unwrap_or(folder));
        let file = |name: &str| place.join(name);
        Group { limit: file(limit), usage: file(usage), details: file("memory.stat"), cached }
    };
    Path::new(path).ancestors().map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_own_word_is_read() {
        let text = "MemTotal:       24103 kB\nMemAvailable:   23407 kB\nBuffers: 1 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(23407));
        assert_eq!(field(text, "MemTotal:"), Some(24103));
        assert_eq!(field("MemTotal: 1 kB\n", "MemAvailable:"), None);
        assert!(Memory::default().available_for(u64::MAX / PLENTY).unwrap() > 0);
    }

    #[test]
    fn a_group_is_limited_by_all_above_it() {
        let limits = |line| {
            let found = groups_in(line).into_iter();
            found.map(|group| group.limit.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let root = "/sys/fs/cgroup";
        assert_eq!(
            limits("0::/user/build"),
            ["user/build/", "user/", ""].map(|path| format!("{root}/{path}memory.max"))
        );
        assert_eq!(
            limits("9:memory:/a"),
            ["a/", ""].map(|path| format!("{root}/memory/{path}memory.limit_in_bytes"))
        );
        assert!(limits("4:cpu,cpuacct:/a").is_empty() && limits("").is_empty());
    }

    #[test]
    fn dropped_file_pages_count_as_free() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let group = Group {
            limit: file("max", "1048576\n"),
            usage: file("current", "1000000\n"),
            details: file("stat", "anon 5\ninactive_file 514288\n"),
            cached: "inactive_file",
        };
        assert_eq!(group.available(1 << 40), Some(549));
    }

    #[test]
    fn a_limit_that_cannot_be_reached_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name| dir.path().join(name);
        let group = Group {
            limit: place("max"),
            usage: place("current"),
            details: place("stat"),
            cached: "",
        };
        fs::write(place("current"), "1024\n").unwrap();
        for (limit, all, left) in [
            ("1048576\n", 1025, Some(1023)),
            ("1048576\n", 1024, None),
            ("9223372036854771712\n", 1 << 40, None),
            ("max\n", 1 << 40, None),
        ] {
            fs::write(place("max"), limit).unwrap();
            assert_eq!(group.available(all), left, "{limit} of {all}");
        }
    }

    #[test]
    fn plenty_is_looked_at_less_often() {
        let old = Some((Instant::now() - FRESH * 2, 1000));
        let mut memory = Memory { groups: None, last: old };
        assert_eq!(memory.available_for(1000 / PLENTY), Some(1000));
        assert_ne!(memory.available_for(1000 / PLENTY + 1), Some(1000), "asked the kernel");
        memory.last = Some((Instant::now() - CALM * 2, 1000));
        assert_ne!(memory.available_for(1), Some(1000));
    }

    #[test]
    fn a_process_has_no_room_where_others_may_still_grow() {
        let us = rustix::process::getpid();
        let mut memory = Memory { groups: None, last: Some((Instant::now(), 1000)) };
        assert!(memory.has_room(1000, std::iter::empty()));
        assert!(!memory.has_room(1001, std::iter::empty()));
        memory.last = Some((Instant::now(), 1000));
        assert!(memory.has_room(900, [(Some(us), 1)].into_iter()), "it has grown to that already");
        assert!(!memory.has_room(900, [(Some(us), 1 << 40)].into_iter()));
        memory.last = Some((Instant::now(), 1000));
        assert!(memory.has_room(900, [(None, 100)].into_iter()));
        assert!(!memory.has_room(900, [(None, 101)].into_iter()), "it will need that");
    }
}
