//! `kthinlto generate`: man pages and completions, from the definitions that the program
//! itself reads its command line with, so that they cannot differ from it.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::args::{Cli, Generate, Generated};
use super::{help, print, say};
use crate::error::{Error, Result};

/// Name of the program, which is that of its completions too.
const NAME: &str = "kthinlto";

/// Prints or writes what was asked for; with `dry_run`, the pages' names are all that comes of it.
pub fn run(arguments: &Generate, dry_run: bool) -> Result<()> {
    let shell = match arguments.what {
        Generated::Man => {
            let folder = arguments.folder.as_deref().unwrap_or(Path::new("."));
            return man_pages(folder, dry_run);
        }
        Generated::Bash => Shell::Bash,
        Generated::Zsh => Shell::Zsh,
        Generated::Fish => Shell::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
    print(&text)
}

/// Writes `kthinlto.1`, `kthinlto-build.1`, … into a folder.
fn man_pages(folder: &Path, dry_run: bool) -> Result<()> {
    if !dry_run {
        fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    }
    // What is hidden has no page; a page for `help` would say nothing.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, folder, dry_run)
}

fn write_pages(command: &Command, folder: &Path, dry_run: bool) -> Result<()> {
    let source = format!("{NAME} {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).manual("Kernel build tools").source(source);
    let path = folder.join(man.get_filename());
    if dry_run {
        say(&format!("would write {}", path.display()));
    } else {
        let written = page(command, &man).and_then(|text| fs::write(&path, text));
        written.map_err(|e| Error::io("write", &path, e))?;
    }
    command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .try_for_each(|below| write_pages(below, folder, dry_run))
}

/// One page, in the order that man-pages(7) gives.
fn page(command: &Command, man: &Man) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        man.render_subcommands_section(&mut out)?;
    }
    let below = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for (heading, lines) in help::sections(&below) {
        // As man-pages(7) calls it.
        let heading = if heading == "Exit codes" { "Exit status" } else { heading };
        verbatim(heading, &lines).to_writer(&mut out)?;
    }
    if command.get_display_name() != Some(NAME) {
        verbatim("See also", &["kthinlto(1)"]).to_writer(&mut out)?;
    }
    Ok(out)
}

/// A section whose lines stay as they are.
fn verbatim(heading: &str, lines: &[&str]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [heading.to_uppercase().as_str()]);
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(*line)]);
    }
    roff.control("fi", []);
    roff
}
