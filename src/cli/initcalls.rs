//! `kthinlto initcalls`: writes the linker script that keeps initcalls in link order.

use std::path::Path;

use super::args::Initcalls as Arguments;
use super::{print, write_named};
use crate::exec::slots::Slots;
use crate::relink::initcalls::linker_script;
use crate::report::console::Console;
use crate::report::{Event, Listener};
use crate::stage;

/// Runs the command. The file is written anew each time, as what make builds next goes by its
/// time; on an error it stays as it was.
pub fn run(
    tree: &Path,
    arguments: &Arguments,
    slots: &Slots,
    console: &mut Console,
    dry_run: bool,
) -> anyhow::Result<()> {
    let output = &arguments.output;
    if dry_run {
        let archives = arguments.archives.iter().map(|name| name.to_string_lossy());
        let command = format!("kthinlto initcalls {}", shell_words::join(archives));
        let target = &output.to_string_lossy();
        console.on(&Event::Step { verb: "GEN", target, command: &command, why: "its archives" });
        return Ok(());
    }
    // Threads run on slots, but this is too short to wait for one.
    let held = slots.try_acquire_up_to(stage::cores());
    let script = linker_script(tree, &arguments.archives, held.len().max(1))?;
    drop(held);
    if output == Path::new("-") {
        return Ok(print(&script)?);
    }
    Ok(write_named(&tree.join(output), &script)?)
}
