//! `.mod` files and `.vmlinux.objs`: each object has a `.cmd` file beside it, or none.
#![no_main]

use kthinlto::modpost::objects;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let listed = objects::parse_list(bytes);
    for object in &listed {
        if let Some(record) = objects::record_of(object) {
            let record = record.to_string_lossy().into_owned();
            assert!(record.ends_with(".o.cmd"), "{record}");
            let front = objects::front_end_object(object);
            let name = front.file_name().unwrap_or_default().to_string_lossy();
            assert!(record.ends_with(&format!(".{name}.cmd")), "{record}");
        }
    }
    // A list for any modpost leads to the same records.
    let again = objects::parse_list(&objects::for_any_modpost(&listed));
    assert_eq!(again.len(), listed.len());
});
