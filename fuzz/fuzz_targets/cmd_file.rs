//! `.cmd` files: whatever is in one, it is read to its end, and what modpost would take from
//! it is within it.
#![no_main]

use kthinlto::kbuild::cmd_file::{self, CmdFile};
use kthinlto::modpost::versions;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let read = versions::parse(bytes);
    let marks = bytes.windows(9).filter(|window| window == b"\n#SYMVER ").count();
    assert!(read.found.len() + read.skipped <= marks);
    assert!(read.found.iter().all(|(name, _)| !name.contains(['\n', ' ', '\0'])));
    let text = String::from_utf8_lossy(bytes);
    if let Some(command) = CmdFile::parse(&text).command {
        let _ = cmd_file::first_command(&command);
    }
});
