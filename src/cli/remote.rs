//! `kthinlto remote`: a server of the Remote Execution API, tried before a build relies on it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use super::args::{RemoteAction, RemoteArgs, RemoteCheck};
use super::say;
use crate::backend::inputs::variables;
use crate::environment::Environment;
use crate::error::{Error, describe_status};
use crate::exec::action::Action;
use crate::exec::process::{Invocation, Running};
use crate::exec::remote::check::check;
use crate::exec::remote::settings::Settings;
use crate::inputs::File;
use crate::store::Store;
use crate::toolchain::{Role, Tool, resolve};

const INPUT: &str = "trial.c";
const OUTPUT: &str = "trial.o";

/// Runs the command; with `dry_run` no server is asked.
pub fn run(arguments: &RemoteArgs, dry_run: bool) -> anyhow::Result<ExitCode> {
    let RemoteAction::Check(arguments) = &arguments.action;
    let environment = Environment::of_process();
    let settings = Settings::read(arguments.remote.as_deref(), &environment)?;
    let settings = settings.ok_or_else(|| {
        Error::Usage("no server is named; set KTHINLTO_REMOTE, or give --remote".to_owned())
    })?;
    if dry_run {
        say(&format!("would try the server {}", settings.endpoint));
        return Ok(ExitCode::SUCCESS);
    }
    let folder = tempfile::tempdir().map_err(|e| Error::io("make", "a temporary folder", e))?;
    let trial = match settings.execute {
        true => Some(trial(folder.path(), arguments, &environment)?),
        false => None,
    };
    let trial = trial.as_ref().map(|(action, made)| (action, made.as_slice()));
    let good = check(settings, trial, &mut |text| say(text))?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A small job of the compiler, and what it makes here.
fn trial(
    folder: &Path,
    arguments: &RemoteCheck,
    environment: &Environment,
) -> Result<(Action, Vec<u8>), Error> {
    let source = folder.join(INPUT);
    let text = "int trial(int x) { return x * 3 + 1; }\n";
    fs::write(&source, text).map_err(|e| Error::io("write", &source, e))?;
    let mut store = Store::open(folder)?;
    let compiler = resolve(Role::Compiler, &arguments.cc, &mut store, environment)?;
    let input = store.files.find(INPUT)?.map(|facts| File::new(INPUT, &facts));
    let Tool { argv, .. } = &compiler;
    let options = ["-O2", "-c", "-o", OUTPUT, INPUT];
    let words = argv.iter().map(String::as_str).chain(options);
    let command = Invocation::new(words, folder);
    let failed = |found: String| Error::ToolMissing {
        role: Role::Compiler.variable(),
        command: arguments.cc.clone(),
        found,
    };
    let ended = Running::start(&command).and_then(Running::finish);
    let ended = ended.map_err(|e| failed(e.to_string()))?;
    if !ended.status.success() {
        let how = describe_status(ended.status);
        return Err(failed(format!("it {how} when it compiled one line of C")));
    }
    let place = folder.join(OUTPUT);
    let made = fs::read(&place).map_err(|e| Error::io("read", &place, e))?;
    let action = Action {
        command,
        environment: variables(environment).into(),
        inputs: input.into_iter().collect(),
        tools: compiler.contents(&store)?,
        outputs: vec![OUTPUT.to_owned()],
    };
    Ok((action, made))
}
