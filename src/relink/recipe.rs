//! The steps of a relink as plain data: what each reads, writes and runs. A step comes after
//! those that write what it reads. Must not know processes, nor any kernel.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::inputs::Label;
use crate::store::Digest;

/// A file that a step makes: written aside first, under another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its place in the object tree.
    pub place: String,
    /// Where the step writes it, relative to the tree; the place itself where the step's
    /// program writes it whole or not at all.
    pub aside: String,
    /// Whether it may be an empty file.
    pub may_be_empty: bool,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Procedure {
    /// A command for a shell. `linker` is the program in it that can use several threads.
    Shell {
        /// The text.
        text: String,
        /// The linker's words as they stand in the text.
        linker: Option<String>,
    },
    /// Writes the list of vmlinux' objects; by the front end's names, if that is set.
    ListObjects {
        /// For a modpost that does not know of native objects.
        front_end_names: bool,
    },
    /// Writes the linker script of initcalls.
    Initcalls {
        /// The archives to look for them in.
        files: Vec<String>,
    },
}

/// What has to be there before a step's command is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepare {
    /// Nothing.
    Nothing,
    /// The folder of the final link, and the header with the build's number and date.
    FinalLink,
    /// No file by which make knows what modpost saw of the modules: it is about to see something else.
    Modpost,
}

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    /// The file, or the check, that it is known by.
    pub name: String,
    /// Kbuild's verb.
    pub verb: &'static str,
    /// Files that it reads.
    pub inputs: Vec<String>,
    /// Tools and texts that its outputs depend on.
    pub made_by: Vec<(Label, Digest)>,
    /// Files that it makes.
    pub outputs: Vec<Output>,
    /// Its command as make recorded it, or as it would be written by hand.
    pub shown: String,
    /// What it does.
    pub procedure: Procedure,
    /// What has to be done right before.
    pub prepare: Prepare,
    /// What the command may show by a file that it leaves.
    pub proof: Option<Proof>,
}

/// Something that a step's command found out, and that is worth to be remembered.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The file that it leaves where it found it so, relative to the tree.
    pub marker: String,
    /// Under which name it goes on record.
    pub record: &'static str,
    /// What goes on record: all that it depends on.
    pub key: Digest,
}

/// All steps, in an order in which they could be run one after the other.
#[derive(Debug, Default)]
pub struct Recipe {
    /// The steps.
    pub steps: Vec<Step>,
}

impl Recipe {
    /// The steps that a step comes after: those that write what it reads.
    pub fn before(&self, step: usize) -> Vec<usize> {
        let reads = |other: &Step| {
            other.outputs.iter().any(|output| self.steps[step].inputs.contains(&output.place))
        };
        let earlier = self.steps[..step].iter().enumerate();
        earlier.filter(|(_, other)| reads(other)).map(|(at, _)| at).collect()
    }

    /// The checks without which what a step made is not put into its place. They may run beside it.
    pub fn checks(&self, step: usize) -> Vec<usize> {
        let is_final = self.steps[step].prepare == Prepare::FinalLink;
        let earlier = self.steps[..step].iter().enumerate();
        earlier
            .filter(|(_, other)| is_final && other.outputs.is_empty())
            .map(|(at, _)| at)
            .collect()
    }

    /// Keeps only what leads to the step, or file, of this name.
    pub fn until(mut self, name: &str) -> Result<Self> {
        let makes = |step: &Step| step.outputs.iter().any(|output| output.place == name);
        let Some(last) = self.steps.iter().position(|step| step.name == name || makes(step)) else {
            let mut names: Vec<&str> = self.steps.iter().map(|step| step.name.as_str()).collect();
            names.insert(0, crate::unit::ARCHIVE);
            let text = format!("there is no step `{name}`; the steps are {}", names.join(", "));
            return Err(Error::Usage(text));
        };
        let (mut wanted, mut look) = (BTreeSet::from([last]), vec![last]);
        while let Some(step) = look.pop() {
            let before = self.before(step).into_iter().chain(self.checks(step));
            look.extend(before.filter(|before| wanted.insert(*before)));
        }
        let mut number = 0;
        self.steps.retain(|_| {
            number += 1;
            wanted.contains(&(number - 1))
        });
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, inputs: &[&str]) -> Step {
        let output = Output { place: name.into(), aside: name.into(), may_be_empty: false };
        Step {
            name: name.to_owned(),
            verb: "GEN",
            inputs: inputs.iter().map(|name| (*name).to_owned()).collect(),
            made_by: Vec::new(),
            outputs: vec![output],
            shown: String::new(),
            procedure: Procedure::Shell { text: String::new(), linker: None },
            prepare: Prepare::Nothing,
            proof: None,
        }
    }

    fn recipe() -> Recipe {
        let check = Step { outputs: Vec::new(), ..step("check", &["b"]) };
        let link = Step { prepare: Prepare::FinalLink, ..step("d", &["b", "c"]) };
        Recipe { steps: vec![step("b", &["a"]), check, step("c", &["b"]), step("x", &["a"]), link] }
    }

    #[test]
    fn steps_wait_for_what_they_read_and_what_is_linked_for_all_checks() {
        let recipe = recipe();
        let before: Vec<_> = (0..5).map(|step| recipe.before(step)).collect();
        assert_eq!(before, [vec![], vec![0], vec![0], vec![], vec![0, 2]]);
        let checks: Vec<_> = (0..5).map(|step| recipe.checks(step)).collect();
        assert_eq!(checks, [vec![], vec![], vec![], vec![], vec![1]]);
    }

    #[test]
    fn until_keeps_what_leads_there() {
        let names = |recipe: Recipe| recipe.steps.into_iter().map(|s| s.name).collect::<Vec<_>>();
        assert_eq!(names(recipe().until("c").unwrap()), ["b", "c"]);
        assert_eq!(names(recipe().until("d").unwrap()), ["b", "check", "c", "d"]);
        let error = recipe().until("z").unwrap_err().to_string();
        assert!(error.contains("`z`; the steps are vmlinux.a, b, check, c, x, d"), "{error}");
    }
}
