//! Indexes: truncated, foreign or hostile ones are refused, or read as far as they go.
#![no_main]

use kthinlto::bitcode::index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = index::weights(bytes);
});
