//! `kthinlto graph`: who imports from whom, in the form that was asked for.

use std::path::Path;

use super::args::{Form, GraphArgs};
use super::{print, say};
use crate::error::Error;
use crate::report::graph::{dot, json, text};
use crate::report::promoted;
use crate::stage;
use crate::stage::graph::graph;
use crate::store::Store;

/// Modules that the text lists.
const LISTED: usize = 20;

/// Prints the graph of a tree's last thin link.
pub fn run(tree: &Path, arguments: &GraphArgs, threads: usize) -> anyhow::Result<()> {
    let store = Store::peek(tree)?;
    if arguments.promoted {
        return list_promoted(&store, arguments, threads);
    }
    let found = graph(&store, &arguments.objects, threads)?;
    match arguments.format {
        Form::Text => say(text(&found, LISTED).trim_end()),
        Form::Dot => say(dot(&found).trim_end()),
        // For programs, and with escapes of its own.
        Form::Json => print(format!("{}\n", json(&found).trim_end()).as_bytes())?,
    }
    Ok(())
}

fn list_promoted(store: &Store, arguments: &GraphArgs, threads: usize) -> anyhow::Result<()> {
    if matches!(arguments.format, Form::Dot) {
        let text = "--promoted is a list: it has no form for Graphviz; use --format text or json";
        return Err(Error::Usage(text.to_owned()).into());
    }
    let found = stage::promoted::promoted(store, &arguments.objects, threads)?;
    match arguments.format {
        Form::Json => print(format!("{}\n", promoted::json(&found).trim_end()).as_bytes())?,
        _ => say(promoted::text(&found).trim_end()),
    }
    Ok(())
}
