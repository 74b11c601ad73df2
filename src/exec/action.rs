//! Everything that a job needs, wherever it runs: its words and its folder, the variables and files that
//! it reads, and the files that it writes. Must not know what the job is for.

use std::ffi::OsString;
use std::sync::Arc;

use super::process::Invocation;
use crate::inputs::File;

/// A job before it runs. A local process sees the whole tree and the environment of this process; another
/// executor gives it what is listed here, and no more.
#[derive(Debug, Clone)]
pub struct Action {
    /// What to run, and in which folder.
    pub command: Invocation,
    /// Variables of the environment that it reads.
    pub environment: Arc<[(OsString, OsString)]>,
    /// Files that it reads, by names below its folder or absolute ones.
    pub inputs: Arc<[File]>,
    /// Files of the program itself: what is executed, libraries, configuration.
    pub tools: Arc<[File]>,
    /// What it may write, by names below its folder or absolute ones: files, whose folders are there, or a
    /// folder that is there. A name with `*` at its end stands for all files whose names begin so.
    pub outputs: Vec<String>,
}

/// A job of which only the command is known: it can only run here.
impl From<Invocation> for Action {
    fn from(command: Invocation) -> Self {
        let none: Arc<[File]> = Arc::new([]);
        Action {
            command,
            environment: Arc::new([]),
            inputs: none.clone(),
            tools: none,
            outputs: Vec::new(),
        }
    }
}
