//! `kthinlto symvers`: writes the symbol versions as modpost does, compares them with a file
//! of the tree, or prints them for scripts.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::args::Symvers as Arguments;
use super::mode::Mode;
use super::named::write_named_if_changed;
use super::print;
use crate::error::Error;
use crate::modpost::check::{self, Problem};
use crate::modpost::dump::{self, Line};
use crate::modpost::{self, Settings, Symbol, Symvers, objects};
use crate::regular;
use crate::report::console::{Console, Verbosity};
use crate::report::plain::plain;
use crate::report::{Event, Listener};

/// Runs the command.
pub fn run(
    settings: &Settings,
    arguments: &Arguments,
    verbosity: Verbosity,
    mode: Mode,
) -> anyhow::Result<ExitCode> {
    let found = modpost::read(settings)?;
    let mut console = Console::new(verbosity);
    warn(&found, &mut console);
    if arguments.check {
        return check(settings, arguments, found).map(|()| ExitCode::SUCCESS);
    }
    warn_of_unversioned(&found, &mut console);
    if arguments.json {
        let symbols = found.symbols.iter().map(JsonSymbol::of).collect();
        print_json(&Json { file: None, symbols: Some(symbols), ..Json::of(&found) })?;
        return Ok(ExitCode::SUCCESS);
    }
    let output = arguments.output.clone().unwrap_or_else(|| default_file(settings).into());
    if mode.is_dry() {
        let place = settings.tree.join(&output);
        let there = regular::read(&place).is_ok_and(|old| old == found.render().as_bytes());
        let work = output != Path::new("-") && !there;
        return Ok(mode.settle(work, &place, verbosity.silent)?);
    }
    if !settings.archives.is_empty() {
        let mut text = objects::list_archives(&settings.tree, &settings.archives)?.into_bytes();
        if arguments.any_modpost {
            text = objects::for_any_modpost(&objects::parse_list(&text));
        }
        write_named_if_changed(&settings.tree.join(objects::VMLINUX_OBJS), &text)?;
    }
    match output == Path::new("-") {
        true => print(found.render().as_bytes())?,
        false => write_named_if_changed(&settings.tree.join(&output), found.render().as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What modpost warns of, and what it skips.
fn warn(found: &Symvers, console: &mut Console) {
    found.warnings.iter().for_each(|warning| console.on(&Event::Warning(warning)));
    for (path, count) in &found.skipped {
        let text = format!("{}: {count} broken #SYMVER lines are skipped", path.display());
        console.on(&Event::Warning(&text));
    }
}

/// modpost warns of them too; for `--check` they are differences.
fn warn_of_unversioned(found: &Symvers, console: &mut Console) {
    for Symbol { line: Line { name, module, .. }, .. } in found.unversioned() {
        let text = format!(
            "{module}: no version is on record for '{name}', which will not be versioned; \
             is it prototyped in <asm/asm-prototypes.h>?"
        );
        console.on(&Event::Warning(&text));
    }
}

/// The file that kbuild would have modpost write.
fn default_file(settings: &Settings) -> &'static str {
    if settings.modules { "Module.symvers" } else { "vmlinux.symvers" }
}

fn check(settings: &Settings, arguments: &Arguments, found: Symvers) -> anyhow::Result<()> {
    let name = file_to_check(settings, arguments);
    let path = settings.tree.join(&name);
    let remedy = "build it with make, or name another with --output";
    let text = regular::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::bad_input(&name, "there is no such file", remedy),
        io::ErrorKind::InvalidData => Error::bad_input(&name, "it is not UTF-8", remedy),
        _ => Error::io("read", &name, error),
    })?;
    let mut lines = dump::parse(&text).map_err(|why| Error::bad_input(&name, why, remedy))?;
    if !settings.modules {
        lines.retain(|line| line.module == "vmlinux");
    }
    let problems = check::compare(&found, &lines);
    let count = problems.len();
    if arguments.json {
        let file = Some(name.to_string_lossy().into_owned());
        print_json(&Json { file, problems: Some(problems), ..Json::of(&found) })?;
    } else {
        let mut text = String::new();
        for Problem { symbol, module, wrong } in &problems {
            writeln!(text, "{symbol} ({module}): {}", wrong.describe())?;
        }
        print(plain(&text).as_bytes())?;
    }
    if count > 0 {
        return Err(Error::Symvers { file: name, problems: count }.into());
    }
    Ok(())
}

/// The one that was named, or the one that is there.
fn file_to_check(settings: &Settings, arguments: &Arguments) -> PathBuf {
    let usual = default_file(settings);
    let there = [usual, "Module.symvers"].into_iter().find(|n| settings.tree.join(n).is_file());
    arguments.output.clone().unwrap_or_else(|| there.unwrap_or(usual).into())
}

/// What `--json` prints; docs/json.md describes it.
#[derive(Serialize)]
struct Json {
    schema: &'static str,
    version: u32,
    /// The file that was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// `CONFIG_MODVERSIONS`.
    modversions: bool,
    /// Broken `#SYMVER` lines.
    skipped_lines: usize,
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    symbols: Option<Vec<JsonSymbol>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Vec<Problem>>,
}

#[derive(Serialize)]
struct JsonSymbol {
    symbol: String,
    /// `null` for a symbol with no version.
    version: Option<String>,
    module: String,
    gpl_only: bool,
    namespace: String,
}

impl Json {
    fn of(found: &Symvers) -> Self {
        Json {
            schema: "kthinlto-symvers",
            version: 1,
            file: None,
            modversions: found.with_versions,
            skipped_lines: found.skipped.iter().map(|(_, count)| count).sum(),
            warnings: found.warnings.clone(),
            symbols: None,
            problems: None,
        }
    }
}

impl JsonSymbol {
    fn of(symbol: &Symbol) -> Self {
        let Line { crc, name, module, gpl_only, namespace } = symbol.line.clone();
        let version = symbol.versioned.then(|| format!("0x{crc:08x}"));
        JsonSymbol { symbol: name, version, module, gpl_only, namespace }
    }
}

fn print_json(json: &Json) -> anyhow::Result<()> {
    Ok(print((serde_json::to_string_pretty(json)? + "\n").as_bytes())?)
}
