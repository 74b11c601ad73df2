//! Whether this kernel has huge pages that are worth asking for. Must not know what for.

use std::fs;

/// Where the kernel says how it gives huge pages (Documentation/admin-guide/mm/transhuge.rst).
const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";
/// Their bytes where an ordinary page has 4 KiB. With ordinary pages of 64 KiB, as some kernels for aarch64
/// have them, it is 512 MiB: too much for what a copy of a compiler allocates.
const SIZE: &str = "2097152";

/// Whether programs get huge pages of 2 MiB if they ask for them, as far as there are any.
pub fn are_given() -> bool {
    let read = |name: &str| fs::read_to_string(format!("{SETTINGS}/{name}")).unwrap_or_default();
    let enabled = read("enabled");
    enabled.contains('[') && !enabled.contains("[never]") && read("hpage_pmd_size").trim() == SIZE
}
