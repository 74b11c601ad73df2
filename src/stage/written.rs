//! Times of files as make compares them, for the object of a module with one part: make compiles bitcode to
//! that name, and decides by the object's time whether it compiles again. Must not know how the object is made.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::kbuild::cmd_file;
use crate::regular;
use crate::store::Store;

/// When files were written, each looked at once in a run.
pub(super) struct Written {
    tree: PathBuf,
    /// No file was looked at before: one that is written after its look is newer than this.
    began: SystemTime,
    times: HashMap<String, Option<SystemTime>>,
}

impl Written {
    /// Of the files of a tree, from the moment on at which its state was opened.
    ///
    /// # Errors
    /// Where that moment cannot be found out.
    pub fn new(store: &Store) -> Result<Self> {
        // The smallest step back: what is written in the same tick of the clock has to be newer.
        let began = store.opened()?;
        let began = began.checked_sub(Duration::from_nanos(1)).unwrap_or(began);
        Ok(Written { tree: store.tree().to_owned(), began, times: HashMap::new() })
    }

    /// The time that an object gets which takes the place of `bitcode`: as if the compiler had written it
    /// at the beginning of this run, or, if a file that it was compiled from has changed since, at its own
    /// time, as a new one would hide the change from make for good.
    ///
    /// # Errors
    /// Where the bitcode is not there.
    pub fn time_for(&mut self, bitcode: &str) -> Result<SystemTime> {
        let fail = |e| Error::io("look at", bitcode, e);
        let path = self.tree.join(bitcode);
        let time = fs::metadata(&path).and_then(|found| found.modified()).map_err(fail)?;
        let record = self.tree.join(cmd_file::path_for(Path::new(bitcode)));
        let Ok(record) = regular::read(&record) else {
            return Ok(self.began.max(time));
        };
        let record = String::from_utf8_lossy(&record);
        let changed = cmd_file::listed_files(&record).any(|(name, is_option)| {
            // An option that is not set has no file.
            self.look(name).map_or(!is_option, |then| then > time)
        });
        Ok(if changed { time } else { self.began.max(time) })
    }

    fn look(&mut self, name: &str) -> Option<SystemTime> {
        if let Some(known) = self.times.get(name) {
            return *known;
        }
        let found = fs::metadata(self.tree.join(name)).and_then(|found| found.modified()).ok();
        self.times.insert(name.to_owned(), found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with bitcode that was compiled ten seconds ago, and a store that was opened just now.
    fn tree() -> (tempfile::TempDir, Store, SystemTime) {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, age: u64| {
            fs::write(dir.path().join(name), "").unwrap();
            let time = SystemTime::now() - Duration::from_secs(age);
            let file = fs::File::options().write(true).open(dir.path().join(name)).unwrap();
            file.set_modified(time).unwrap();
            time
        };
        write("a.c", 20);
        write("a.h", 20);
        let time = write("a.thinlto-bitcode.o", 10);
        let record = "savedcmd_a.o := cc\n\nsource_a.o := a.c\n\ndeps_a.o := \\\n    \
                      $(wildcard include/config/X) \\\n  a.h \\\n";
        fs::write(dir.path().join(".a.o.cmd"), record).unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store, time)
    }

    #[test]
    fn what_is_written_after_the_look_is_newer_than_the_object() {
        let (dir, store, time) = tree();
        let mut written = Written::new(&store).unwrap();
        let set = written.time_for("a.thinlto-bitcode.o").unwrap();
        assert!(set > time, "an object of this run");
        // In the same tick of the clock, perhaps.
        fs::write(dir.path().join("a.h"), "x").unwrap();
        assert!(fs::metadata(dir.path().join("a.h")).unwrap().modified().unwrap() > set);
        assert_eq!(written.time_for("a.thinlto-bitcode.o").unwrap(), set, "it was looked at");
    }

    #[test]
    fn what_has_changed_or_is_gone_keeps_the_time_of_the_bitcode() {
        let (dir, store, time) = tree();
        let set = || Written::new(&store).unwrap().time_for("a.thinlto-bitcode.o").unwrap();
        fs::create_dir_all(dir.path().join("include/config")).unwrap();
        fs::write(dir.path().join("include/config/X"), "").unwrap();
        assert_eq!(set(), time, "an option");
        fs::remove_file(dir.path().join("include/config/X")).unwrap();
        assert!(set() > time);
        fs::remove_file(dir.path().join("a.h")).unwrap();
        assert_eq!(set(), time, "a header that is gone");
    }

    #[test]
    fn bitcode_of_after_the_beginning_keeps_its_time() {
        let (dir, store, _) = tree();
        let mut written = Written::new(&store).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        fs::write(dir.path().join("a.thinlto-bitcode.o"), "").unwrap();
        let time = fs::metadata(dir.path().join("a.thinlto-bitcode.o")).unwrap();
        assert_eq!(written.time_for("a.thinlto-bitcode.o").unwrap(), time.modified().unwrap());
    }
}
