//! `kthinlto graph`: who imports from whom, in the form that was asked for.

use std::path::Path;

use super::args::{Form, GraphArgs};
use super::{print, say};
use crate::report::graph::{dot, json, text};
use crate::stage::graph::graph;
use crate::store::Store;

/// Modules that the text lists.
const LISTED: usize = 20;

/// Prints the graph of a tree's last thin link.
pub fn run(tree: &Path, arguments: &GraphArgs, threads: usize) -> anyhow::Result<()> {
    let found = graph(&Store::peek(tree)?, &arguments.objects, threads)?;
    match arguments.format {
        Form::Text => say(text(&found, LISTED).trim_end()),
        Form::Dot => say(dot(&found).trim_end()),
        // For programs, and with escapes of its own.
        Form::Json => print(format!("{}\n", json(&found).trim_end()).as_bytes())?,
    }
    Ok(())
}
