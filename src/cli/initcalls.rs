//! `kthinlto initcalls`: writes the linker script that keeps initcalls in link order.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use super::args::Initcalls as Arguments;
use super::mode::Mode;
use super::named::write_named;
use super::print;
use crate::exec::slots::Slots;
use crate::initcalls::linker_script;
use crate::report::console::{Console, Verbosity};
use crate::report::{Event, Listener};
use crate::stage;

/// Runs the command. The file is written anew each time, as what make builds next goes by its
/// time; on an error it stays as it was.
pub fn run(
    tree: &Path,
    arguments: &Arguments,
    slots: &Slots,
    verbosity: Verbosity,
    mode: Mode,
) -> anyhow::Result<ExitCode> {
    let output = &arguments.output;
    if mode == Mode::Show {
        let archives = arguments.archives.iter().map(|name| name.to_string_lossy());
        let command = format!("kthinlto initcalls {}", shell_words::join(archives));
        let target = &output.to_string_lossy();
        let why = "its archives";
        let step = Event::Step { verb: "GEN", target, command: &command, why };
        Console::new(verbosity).on(&step);
        return Ok(ExitCode::SUCCESS);
    }
    // Threads run on slots, but this is too short to wait for one.
    let held = slots.try_acquire_up_to(stage::cores());
    let script = linker_script(tree, &arguments.archives, held.len().max(1))?;
    drop(held);
    let to_output = output == Path::new("-");
    let place = tree.join(output);
    match mode {
        Mode::Run if to_output => print(&script)?,
        Mode::Run => write_named(&place, &script)?,
        _ if to_output => {}
        held => {
            let work = fs::read(&place).map_or(true, |old| old != script);
            return Ok(held.settle(work, &place, verbosity.silent)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}
