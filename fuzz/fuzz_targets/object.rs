//! Object files: truncated, foreign or hostile ones are refused, or read as far as they go.
#![no_main]

use kthinlto::modpost::exports;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(object)) = exports::read(bytes) {
        assert!(object.exports.iter().all(|export| !export.name.contains('\0')));
    }
});
