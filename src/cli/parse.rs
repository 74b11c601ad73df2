//! Reads the command line with clap. An empty variable is an unset one, as in make; and where a
//! variable's value cannot be used, the variable is named: under make nobody gave the option.

use std::env;

use clap::builder::{OsStr, Resettable};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command, CommandFactory, Error, FromArgMatches};

use super::args::Cli;

/// The command line of this process.
pub fn parse() -> Result<Cli, Error> {
    let mut command = without_empty(Cli::command());
    let matches = command.try_get_matches_from_mut(env::args_os());
    let matches = matches.map_err(|error| with_variable(error, &command))?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn without_empty(command: Command) -> Command {
    let is_empty = |name: &std::ffi::OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    let reset = |arg: Arg| match arg.get_env().is_some_and(is_empty) {
        true => arg.env(Resettable::<OsStr>::Reset),
        false => arg,
    };
    command.mut_args(reset).mut_subcommands(without_empty)
}

/// Names the variable that a value came from, if it did.
fn with_variable(mut error: Error, command: &Command) -> Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let option = shown.split(' ').next().unwrap_or_default().to_owned();
    let is_it = |word: &str| {
        word.strip_prefix(&option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    if env::args_os().any(|word| is_it(&word.to_string_lossy())) {
        return error;
    }
    if let Some(name) = variable_of(command, option.trim_start_matches('-')) {
        let tip = format!("this is the value of {name} in the environment").into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

fn variable_of(command: &Command, long: &str) -> Option<String> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(long));
    let name = own.and_then(|arg| Some(arg.get_env()?.to_string_lossy().into_owned()));
    name.or_else(|| command.get_subcommands().find_map(|below| variable_of(below, long)))
}
