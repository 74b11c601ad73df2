//! Whether an architecture of a kernel can have ThinLTO. Must not know what for.

use std::path::Path;

use crate::regular;

/// What an architecture that can have it selects in its Kconfig (`arch/Kconfig`, Linux 5.12 and later).
const SUPPORTS: &str = "ARCH_SUPPORTS_LTO_CLANG_THIN";

/// The folder of an architecture, as `arch/powerpc`, where that has no ThinLTO in these sources;
/// nothing where it has, or is not known. `arch` is `ARCH` or `SRCARCH` of make.
pub(crate) fn without_thinlto(sources: &Path, arch: &str) -> Option<String> {
    // As the kernel's Makefile turns ARCH into SRCARCH.
    let folder = match arch {
        "i386" | "x86_64" => "x86",
        "sparc32" | "sparc64" => "sparc",
        "parisc64" => "parisc",
        other => other,
    };
    let options = sources.join("arch").join(folder).join("Kconfig");
    let text = regular::read_to_string(&options).ok()?;
    (!text.contains(SUPPORTS)).then(|| format!("arch/{folder}"))
}
