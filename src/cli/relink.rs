//! `kthinlto relink`: settings of a relink from the command line and the environment.

use std::process::ExitCode;

use anyhow::Context;

use super::args::{Common, FinalLink, Relink};
use super::{given, start};
use crate::exec::interrupt::Interrupts;
use crate::relink::{self, Identity, Settings};

/// Relinks the tree.
pub fn run(common: &Common, arguments: &Relink) -> anyhow::Result<ExitCode> {
    let mut start = start::start("relink", common, &arguments.stage)?;
    let settings = Settings {
        tree: start.tree.clone(),
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
        cache: start.cache.take(),
    };
    let interrupts = Interrupts::catch().context("cannot catch signals")?;
    let result = relink::relink(&settings, &start.slots, &interrupts, &mut start.shown);
    let target = settings.until.as_deref().unwrap_or("vmlinux");
    Ok(start.finish(result, target)?)
}

/// The build's number and date, as far as they were chosen.
fn identity(arguments: &Relink) -> Identity {
    let date = date(&arguments.build_timestamp, |name| std::env::var(name).ok());
    Identity { number: given(&arguments.build_version), date }
}

/// The option, then the variables in the order of the kernel's init/Makefile.
fn date(option: &Option<String>, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    given(option)
        .or_else(|| given(&variable("KBUILD_BUILD_VERSION_TIMESTAMP")))
        .or_else(|| given(&variable("KBUILD_BUILD_TIMESTAMP")))
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn the_option_comes_before_the_variables_and_an_empty_one_is_none() {
        let both = |name: &str| Some(name.to_owned());
        let plain =
            |name: &str| Some(if name.contains("VERSION") { "" } else { "plain" }.to_owned());
        assert_eq!(date(&Some("option".to_owned()), both).unwrap(), "option");
        assert_eq!(date(&None, both).unwrap(), "KBUILD_BUILD_VERSION_TIMESTAMP");
        assert_eq!(date(&Some(String::new()), plain).unwrap(), "plain");
        assert_eq!(date(&None, |_| None), None);
    }
}
