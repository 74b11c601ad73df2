//! `kthinlto patch`: looks whether all series that were asked for fit a kernel tree, and only
//! then changes it.

use std::path::PathBuf;

use anyhow::Context;

use super::args::{Common, Patch};
use super::say;
use crate::error::Error;
use crate::exec::interrupt::Interrupts;
use crate::kbuild::patches::{self, Fit, Kernel, State};

/// What is to be done with each series, and what is said of it.
struct Task<'a> {
    kernel: &'a Kernel,
    reverse: bool,
    only_look: bool,
    quiet: bool,
}

/// Runs the command.
pub fn run(common: &Common, patch: &Patch, dry_run: bool) -> anyhow::Result<()> {
    if patch.list {
        list();
    }
    let Some(tree) = tree(common, patch) else {
        return Ok(());
    };
    let kernel = Kernel::read(&tree)?;
    let mut fits = vec![kernel.choose(patches::all())?];
    for name in each_once(&patch.with) {
        fits.push(kernel.choose(patches::optional(name)?)?);
    }
    // All of them fit: only now is anything changed.
    let only_look = patch.check || dry_run;
    let task = Task { kernel: &kernel, reverse: patch.reverse, only_look, quiet: common.quiet };
    let interrupts = Interrupts::catch().context("cannot catch signals")?;
    fits.iter().try_for_each(|fit| task.run(fit, &interrupts))?;
    let arch = std::env::var("ARCH").ok().filter(|arch| !arch.is_empty());
    if let Some(note) = arch.and_then(|arch| kernel.without_thinlto(&arch)) {
        task.say(&note);
    }
    Ok(())
}

fn list() {
    for series in patches::all() {
        let made_on = series.made_on.iter().map(|release| format!(", made on {release}"));
        let tested = match series.tested.as_slice() {
            [] => String::new(),
            tested => format!(", built and booted by us on {}", tested.join(", ")),
        };
        let (count, made_on) = (series.patches.len(), made_on.collect::<String>());
        say(&format!("{series}: {count} patches{made_on}{tested}"));
    }
    patches::options().iter().for_each(|name| say(&format!("optional: --with {name}")));
}

/// A series that is named twice would be applied twice.
fn each_once(names: &[String]) -> Vec<&String> {
    let mut names: Vec<&String> = names.iter().collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The tree that is named, as seen from the folder of `-C`; or that folder.
fn tree(common: &Common, patch: &Patch) -> Option<PathBuf> {
    match (&common.directory, &patch.tree) {
        (Some(folder), Some(tree)) => Some(folder.join(tree)),
        (Some(folder), None) if !patch.list => Some(folder.clone()),
        (_, tree) => tree.clone(),
    }
}

impl Task<'_> {
    fn run(&self, fit: &Fit, interrupts: &Interrupts) -> anyhow::Result<()> {
        let (shown, series) = (self.kernel.tree.display(), &fit.series);
        let count = series.patches.len();
        match (fit.state(), self.reverse) {
            (Some(State::Applied), false) => {
                self.say(&format!("{shown} already has the series for {series}"));
            }
            (Some(State::Applies), true) => {
                self.say(&format!("{shown} has none of our patches for {series}"));
            }
            (Some(State::Applies), false) => {
                if self.only_look {
                    self.say(&format!("all {count} patches for {series} apply to {shown}"));
                } else {
                    self.write(fit, "applied", interrupts)?;
                }
                for name in fit.left_out() {
                    self.say(&format!("{} is not there, and was left out", name.display()));
                }
                self.say(&format!("{series}: {}", series.reach(&self.kernel.release)));
            }
            (Some(State::Applied), true) if self.only_look => {
                self.say(&format!("all {count} patches for {series} can be removed from {shown}"));
            }
            (Some(State::Applied), true) => self.write(fit, "removed", interrupts)?,
            (None, _) => {}
        }
        Ok(())
    }

    fn write(&self, fit: &Fit, done: &str, interrupts: &Interrupts) -> Result<(), Error> {
        let changed = fit.write(&|| interrupts.signal())?;
        for (name, _) in &fit.series.patches {
            self.say(&format!("{done} {name}"));
        }
        for file in changed {
            self.say(&format!("changed {}", file.display()));
        }
        Ok(())
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            say(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::each_once;

    #[test]
    fn an_optional_series_named_twice_is_applied_once() {
        let names = ["b", "a", "b", "b"].map(str::to_owned);
        assert_eq!(each_once(&names), ["a", "b"]);
    }
}
