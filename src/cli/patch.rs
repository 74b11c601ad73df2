//! `kthinlto patch`: looks whether all series that were asked for fit a kernel tree, and only
//! then changes it.

use std::path::{Path, PathBuf};

use super::args::{Common, Patch};
use super::say;
use crate::error::Error;
use crate::kbuild::patches::{self, Series, State};

/// What is to be done with each series, and what is said of it.
struct Task<'a> {
    tree: &'a Path,
    reverse: bool,
    only_look: bool,
    quiet: bool,
}

/// Runs the command.
pub fn run(common: &Common, patch: &Patch, dry_run: bool) -> anyhow::Result<()> {
    if patch.list {
        for series in patches::all() {
            say(&format!("Linux {}: {} patches", series.version, series.patches.len()));
        }
        patches::options().iter().for_each(|name| say(&format!("optional: --with {name}")));
    }
    let Some(tree) = tree(common, patch) else {
        return Ok(());
    };
    let own = patches::for_tree(&tree)?;
    let named = each_once(&patch.with);
    let named = named.into_iter().map(|name| patches::optional(name, &own.version));
    let named = named.collect::<Result<Vec<_>, Error>>()?;
    let mut states = Vec::new();
    for series in std::iter::once(own).chain(named) {
        states.push((patches::check(&tree, &series)?, series));
    }
    // All of them fit: only now is anything changed.
    let only_look = patch.check || dry_run;
    let task = Task { tree: &tree, reverse: patch.reverse, only_look, quiet: common.quiet };
    states.into_iter().try_for_each(|(state, series)| task.run(&series, state))
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
    fn run(&self, series: &Series, state: State) -> anyhow::Result<()> {
        let (shown, count) = (self.tree.display(), series.patches.len());
        match (state, self.reverse) {
            (State::Applied, false) => {
                self.say(&format!("{shown} already has the series for {series}"));
            }
            (State::Applies, true) => {
                self.say(&format!("{shown} has none of our patches for {series}"));
            }
            (State::Applies, false) if self.only_look => {
                self.say(&format!("all {count} patches for {series} apply to {shown}"));
            }
            (State::Applied, true) if self.only_look => {
                self.say(&format!("all {count} patches for {series} can be removed from {shown}"));
            }
            (State::Applies, false) => {
                self.report("applied", series, patches::apply(self.tree, series)?);
            }
            (State::Applied, true) => {
                self.report("removed", series, patches::revert(self.tree, series)?);
            }
        }
        Ok(())
    }

    fn report(&self, done: &str, series: &Series, changed: Vec<PathBuf>) {
        for (name, _) in &series.patches {
            self.say(&format!("{done} {name}"));
        }
        for file in changed {
            self.say(&format!("changed {}", file.display()));
        }
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
