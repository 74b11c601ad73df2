//! What make's `-n`, `-q` and `-t` want of a command: lines with `+` are run under each of them,
//! and it is for the program that they start to hold back. Must not know any command.

use std::fs::{File, FileTimes};
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use super::args::Common;
use super::say;
use crate::error::{Error, Result};
use crate::kbuild::makeflags::MakeFlags;

/// How much of a command is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All of it.
    Run,
    /// `-n`: say what would be done.
    Show,
    /// `-q`: say by the exit code whether there is work.
    Ask,
    /// `-t`: what is not up to date is touched.
    Touch,
}

impl Mode {
    /// From our own `-n` and make's flags, in make's order where there are several.
    pub fn of(common: &Common, make: &MakeFlags) -> Self {
        match make {
            _ if common.dry_run => Mode::Show,
            MakeFlags { question: true, .. } => Mode::Ask,
            MakeFlags { dry_run: true, .. } => Mode::Show,
            MakeFlags { touch: true, .. } => Mode::Touch,
            _ => Mode::Run,
        }
    }

    /// Nothing is run or written.
    pub fn is_dry(self) -> bool {
        self != Mode::Run
    }

    /// Nobody is told what would be run.
    pub fn is_silent(self) -> bool {
        matches!(self, Mode::Ask | Mode::Touch)
    }

    /// What is left to do at the end of a command whose `target` would be made anew, if
    /// `work` says so.
    pub fn settle(self, work: bool, target: &Path, silent: bool) -> Result<ExitCode> {
        match self {
            Mode::Ask if work => Ok(ExitCode::from(1)),
            Mode::Touch if work => touch(target, silent).map(|()| ExitCode::SUCCESS),
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}

/// As make does, which makes an empty file where there is none.
fn touch(target: &Path, silent: bool) -> Result<()> {
    let open = File::options().append(true).create(true).open(target);
    let touched = open.and_then(|file| {
        let now = SystemTime::now();
        file.set_times(FileTimes::new().set_accessed(now).set_modified(now))
    });
    touched.map_err(|e| Error::io("touch", target, e))?;
    if !silent {
        let shown = target.strip_prefix(".").unwrap_or(target);
        say(&format!("touch {}", shown.display()));
    }
    Ok(())
}
