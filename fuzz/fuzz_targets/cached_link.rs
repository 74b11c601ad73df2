//! Thin links in entries of the cache: what is taken is what was put there.
#![no_main]

use kthinlto::store::cache::links;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some((record, indexes)) = links::unpack(bytes) {
        let indexes: Vec<Vec<u8>> = indexes.into_iter().map(<[u8]>::to_vec).collect();
        let again = links::pack(record.clone(), &indexes);
        assert_eq!(links::unpack(&again).map(|(found, _)| found), Some(record));
    }
});
