//! Symvers files: what is read is rendered again as the same lines.
#![no_main]

use kthinlto::modpost::dump;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(lines) = dump::parse(&text) {
        assert_eq!(dump::parse(&dump::render(&lines)).unwrap(), lines);
    }
});
