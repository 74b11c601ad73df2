//! Entries of the cache: none is taken that was not written for its key.
#![no_main]

use kthinlto::store::{Digest, cache};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (key, other) = (Digest::of(b"key"), Digest::of(b"other"));
    assert!(cache::open_entry(other, &cache::make_entry(key, bytes)).is_none());
    assert_eq!(cache::open_entry(key, &cache::make_entry(key, bytes)), Some(bytes));
    assert!(cache::open_entry(key, bytes).is_none());
});
