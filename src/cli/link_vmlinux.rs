//! `kthinlto link-vmlinux`: the final link, with the arguments and the environment that kbuild
//! gives `scripts/link-vmlinux.sh`.

use std::path::PathBuf;

use super::args::LinkVmlinux;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::vmlinux::{self, Link};

/// Variables with flags for assembly files, in the script's order.
const FLAGS: [&str; 5] =
    ["NOSTDINC_FLAGS", "LINUXINCLUDE", "KBUILD_CPPFLAGS", "KBUILD_AFLAGS", "KBUILD_AFLAGS_KERNEL"];

/// Links the kernel in the current folder.
pub fn run(arguments: &LinkVmlinux) -> Result<()> {
    let flags = FLAGS.map(|name| std::env::var(name).unwrap_or_default());
    let LinkVmlinux { linker, flags: link, vmlinux_flags, .. } = arguments;
    vmlinux::link(&Link {
        linker: linker.clone(),
        flags: [link.clone(), vmlinux_flags.clone()],
        linker_script: format!("./{}", required("KBUILD_LDS")?),
        objects: arguments.objects.clone(),
        sources: PathBuf::from(required("srctree")?),
        assembler: format!("{} {}", required("CC")?, flags.join(" ")),
        output: arguments.output.clone(),
        system_map: arguments.system_map.clone(),
        tables: arguments.tables.clone(),
        environment: Environment::of_process(),
    })
}

fn required(name: &str) -> Result<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    let text = || format!("{name} is not set; kbuild sets it for scripts/link-vmlinux.sh");
    value.ok_or_else(|| Error::Usage(text()))
}
