//! Symbol tables: truncated, foreign or hostile ones are refused, or read as far as they go.
#![no_main]

use kthinlto::elf::nm;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(symbols) = nm::defined(bytes) {
        let lines = nm::with_sizes(symbols.clone());
        let newlines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
        let inside: usize = symbols.iter().map(|symbol| newlines(symbol.name)).sum();
        assert_eq!(newlines(&lines), symbols.len() + inside);
    }
});
