//! State files: torn, foreign or hostile ones are read as far as they go. The bytes are taken as a
//! whole file and, past its checks, as one record.
#![no_main]

use kthinlto::store;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // A record takes eight bytes before it holds any.
    assert!(store::records_in(bytes) <= bytes.len() / 8);
    let _ = store::is_record(bytes);
});
