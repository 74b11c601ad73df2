//! `kthinlto explain`: one object's explanation as lines for a person.

use std::path::Path;

use super::args::Explain;
use super::{given, say};
use crate::error::Error;
use crate::report::words;
use crate::stage::explain::{Answer, Compared, Explanation, explain, last_settings};
use crate::store::Store;

/// Explains one object of the tree.
pub fn run(tree: &Path, arguments: &Explain) -> anyhow::Result<()> {
    let store = Store::peek(tree)?;
    let Some(mut settings) = last_settings(&store) else {
        let found = "no record of a build by kthinlto";
        let remedy = "name an object tree with -C, and build it first";
        return Err(Error::bad_input(tree, found, remedy).into());
    };
    settings.compiler = given(&arguments.cc).or(settings.compiler);
    let found = explain(&settings, store, &arguments.object)?;
    say(render(&found).trim_end());
    Ok(())
}

fn render(found: &Explanation) -> String {
    let mut out = format!("{}\n  native object  {}\n", found.object, found.native);
    out += &format!("  key            {}\n", found.key.as_deref().unwrap_or("unknown"));
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
    for (title, names) in [("imports from", &found.imports), ("imported by", &found.importers)] {
        out += &format!("  {title:<14} {}\n", names.len());
        names.iter().for_each(|name| out += &format!("    {name}\n"));
    }
    out
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
