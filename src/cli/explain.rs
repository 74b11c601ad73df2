//! `kthinlto explain`: the explanation of an object, or of the steps to a file of relink's, as lines
//! for a person.

use std::path::Path;

use super::args::Explain;
use super::relink::look;
use super::start::engine_at;
use super::{given, say};
use crate::environment::Environment;
use crate::error::Error;
use crate::inputs::Compared;
use crate::relink::{self, explain::Explained};
use crate::report::words;
use crate::stage::explain::{
    Answer, Explanation, ThinLinkExplanation, explain, explain_thin_link, last_settings,
};
use crate::store::Store;
use crate::unit::INDEXED;

/// Explains one object of the tree.
pub fn run(tree: &Path, arguments: &Explain) -> anyhow::Result<()> {
    let store = Store::peek(tree)?;
    let Some(mut settings) = last_settings(&store, Environment::of_process()) else {
        let found = "no record of a build by kthinlto";
        let remedy = "name an object tree with -C, and build it first";
        return Err(Error::bad_input(tree, found, remedy).into());
    };
    settings.compiler = given(&arguments.cc).or(settings.compiler);
    settings.engine = engine_at(None)?;
    if arguments.object == INDEXED {
        say(render_thin_link(&explain_thin_link(&settings, store)?).trim_end());
        return Ok(());
    }
    match explain(&settings, store, &arguments.object) {
        Ok(found) => say(render(&found).trim_end()),
        Err(error) => match relink::explain::explain(&look(tree), &arguments.object) {
            Ok(steps) => say(steps.iter().map(render_step).collect::<String>().trim_end()),
            // The name was no step's either.
            Err(_) => return Err(error.into()),
        },
    }
    Ok(())
}

fn render_step(step: &Explained) -> String {
    let mut out = format!("{}\n", step.name);
    out += &match &step.due {
        Some(due) => format!("  would run      yes, due to {}\n", words::due(due)),
        None => "  would run      no\n".to_owned(),
    };
    out += &format!("  inputs         {}\n", step.inputs.len());
    step.inputs.iter().for_each(|input| out += &line(input));
    out += &list("files", &step.files);
    out + &list("tools' files", &step.tools)
}

fn render_thin_link(found: &ThinLinkExplanation) -> String {
    let mut out = format!("{INDEXED}\n");
    out += &match &found.due {
        Answer::Yes(why) => format!("  would run      yes: {why}\n"),
        Answer::No => "  would run      no\n".to_owned(),
        Answer::Unknown(why) => format!("  would run      unknown: {why}\n"),
    };
    out += &format!("  inputs         {}\n", found.inputs.len());
    for (label, digest) in &found.inputs {
        out += &format!("    {digest}  {}\n", words::label(label));
    }
    out + &list("linker's files", &found.tool)
}

/// A title with the number of names, and the names.
fn list(title: &str, names: &[String]) -> String {
    let lines = names.iter().map(|name| format!("    {name}\n"));
    format!("  {title:<14} {}\n", names.len()) + &lines.collect::<String>()
}

fn render(found: &Explanation) -> String {
    let mut out = format!("{}\n  native object  {}\n", found.object, found.native);
    out += &format!("  key            {}\n", found.key.as_deref().unwrap_or("unknown"));
    if let Some(action) = &found.action {
        out += &format!("  remote action  {action}\n");
    }
    out += &match &found.due {
        Answer::Yes(due) => format!("  would run      yes, due to {}\n", words::due(due)),
        Answer::No => "  would run      no\n".to_owned(),
        Answer::Unknown(why) => format!("  would run      unknown: {why}\n"),
    };
    out += &match &found.relink {
        Answer::Yes(why) => format!("  thin link      would run first: {why}\n"),
        Answer::No => String::new(),
        Answer::Unknown(why) => format!("  thin link      unknown: {why}\n"),
    };
    out += &format!("  inputs         {}\n", found.inputs.len());
    found.inputs.iter().for_each(|input| out += &line(input));
    out += &list("compiler files", &found.tool);
    out += &list("imports from", &found.imports);
    out + &list("imported by", &found.importers)
}

/// One input: its digest, and what it was if that is another.
fn line(input: &Compared) -> String {
    let none = "none            ";
    let (was, is) = (input.was.as_deref().unwrap_or(none), input.is.as_deref().unwrap_or(none));
    match was == is {
        true => format!("    {is}  {}\n", words::label(&input.label)),
        false => format!("  ! {is}  {}  (was: {was})\n", words::label(&input.label)),
    }
}
