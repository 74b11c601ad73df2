//! Snapshots: whatever is in one, it names no more than it has bytes for.
#![no_main]

use kthinlto::store::snapshot;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(names) = snapshot::names_in(bytes) {
        assert!(names <= bytes.len());
    }
});
