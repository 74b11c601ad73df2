//! `kthinlto relink`: settings of a relink from the command line and the environment.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::args::{Common, FinalLink, Relink};
use super::{given, start};
use crate::environment::Environment;
use crate::exec::executor::Choice;
use crate::exec::interrupt::Interrupts;
use crate::relink::{self, Identity, Settings};

/// Relinks the tree.
pub fn run(common: &Common, arguments: &Relink) -> anyhow::Result<ExitCode> {
    let mut start = start::start("relink", common, &arguments.stage)?;
    let settings = Settings {
        tree: start.tree.clone(),
        modules: modules(arguments),
        compile: arguments.compile,
        until: arguments.until.clone(),
        nm: given(&arguments.nm),
        pahole: given(&arguments.pahole).unwrap_or_else(|| "pahole".to_owned()),
        identity: identity(arguments),
        program: match arguments.final_link {
            FinalLink::Auto => std::env::current_exe().ok(),
            FinalLink::Script => None,
        },
        dry_run: start.mode.is_dry(),
        keep_going: start.keep_going,
        executor: arguments.stage.executor,
        scratch_in_memory: start.scratch_in_memory,
        stable_names: start.stable_names,
        verify: start.verify,
        cache: start.cache.take(),
        tool_digests: start.tool_digests.take(),
        engine: start.engine.clone(),
        environment: Environment::of_process(),
    };
    let interrupts = Interrupts::catch().context("cannot catch signals")?;
    let result = relink::relink(&settings, &start.slots, &interrupts, &mut start.shown);
    let made = settings.modules.first().map(|name| name.to_string_lossy().into_owned());
    let target = settings.until.clone().or(made).unwrap_or_else(|| "vmlinux".to_owned());
    Ok(start.finish(result, &target)?)
}

/// The modules that are asked for; none, where that is vmlinux.
fn modules(arguments: &Relink) -> Vec<PathBuf> {
    match arguments.all_modules {
        true => vec!["modules.order".into()],
        false => arguments.modules.clone(),
    }
}

/// Settings to look at what a relink of this tree would be made from.
pub fn look(tree: &Path) -> Settings {
    let variable = |name| given(&std::env::var(name).ok());
    Settings {
        tree: tree.to_owned(),
        modules: Vec::new(),
        compile: false,
        until: None,
        nm: None,
        pahole: variable("PAHOLE").unwrap_or_else(|| "pahole".to_owned()),
        identity: Identity {
            number: variable("KBUILD_BUILD_VERSION"),
            date: variable("KBUILD_BUILD_TIMESTAMP"),
            version_date: variable("KBUILD_BUILD_VERSION_TIMESTAMP"),
        },
        program: std::env::current_exe().ok(),
        dry_run: true,
        keep_going: false,
        executor: Choice::Process,
        scratch_in_memory: false,
        stable_names: false,
        verify: 0.0,
        cache: None,
        tool_digests: None,
        engine: None,
        environment: Environment::of_process(),
    }
}

/// The build's number and date, as far as they were chosen. The option comes before the variables.
fn identity(arguments: &Relink) -> Identity {
    dated(arguments, |name| std::env::var(name).ok())
}

fn dated(arguments: &Relink, variable: impl Fn(&str) -> Option<String>) -> Identity {
    let option = given(&arguments.build_timestamp);
    let other = |name| given(&variable(name)).filter(|_| option.is_none());
    let (date, version_date) =
        (other("KBUILD_BUILD_TIMESTAMP"), other("KBUILD_BUILD_VERSION_TIMESTAMP"));
    Identity { number: given(&arguments.build_version), date: option.or(date), version_date }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    #[test]
    fn the_option_comes_before_the_variables_and_an_empty_one_is_none() {
        let dates = |option: &str, variable: fn(&str) -> Option<String>| {
            let words = ["kthinlto", "relink", "--build-timestamp", option];
            let Command::Relink(arguments) = Cli::parse_from(words).command else {
                panic!("another command");
            };
            let Identity { date, version_date, .. } = dated(&arguments, variable);
            [date, version_date].map(Option::unwrap_or_default)
        };
        let names = |name: &str| Some(name.to_owned());
        let plain =
            |name: &str| Some(if name.contains("VERSION") { "" } else { "plain" }.to_owned());
        assert_eq!(dates("option", names), ["option", ""]);
        let both = ["KBUILD_BUILD_TIMESTAMP", "KBUILD_BUILD_VERSION_TIMESTAMP"];
        assert_eq!(dates("", names), both);
        assert_eq!(dates("", plain), ["plain", ""]);
        assert_eq!(dates("", |_| None), ["", ""]);
    }
}
