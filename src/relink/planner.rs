//! What every step is planned with: the tree, its state, the names of files aside, and the
//! identity of the programs that a step runs. Must not know any step.

use std::path::Path;

use super::recipe::Output;
use super::tree::Tree;
use super::version::Identity;
use crate::backend::inputs;
use crate::environment::Environment;
use crate::error::Result;
use crate::inputs::{Kind, Label};
use crate::store::{Digest, Store};
use crate::toolchain::{self, Role};

/// What the steps of a tree are planned with.
pub struct Planner<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// The state of the tree.
    pub store: &'a mut Store,
    /// The folder that outputs are written to first, relative to the tree.
    pub scratch: &'a str,
    /// The build's number and date.
    pub identity: &'a Identity,
    /// The program that has `link-vmlinux`, if there is one.
    pub program: Option<&'a Path>,
    /// Where variables are looked up.
    pub environment: &'a Environment,
}

impl Planner<'_> {
    /// A step that writes `place` only.
    pub fn output(&self, place: &str, may_be_empty: bool) -> Output {
        Output { place: place.to_owned(), aside: self.aside(place), may_be_empty }
    }

    /// The name in the scratch folder of a file at any place.
    pub fn aside(&self, place: &str) -> String {
        let name = place.rsplit('/').next().unwrap_or(place);
        format!("{}/{name}", self.scratch)
    }

    /// Words and content of the programs that a command runs.
    pub fn tools(&mut self, commands: &[&str]) -> Result<Vec<(Label, Digest)>> {
        let tool = |command: &&str| {
            let identity = toolchain::identify(command, self.store, self.environment)?;
            Ok((Label::new(Kind::Tool, command), identity))
        };
        commands.iter().map(tool).collect()
    }

    /// Programs that the kernel built for itself, and the files that they are made of besides:
    /// the libraries that they load are this machine's.
    pub fn host_tools(&mut self, programs: Vec<String>) -> Result<Vec<String>> {
        let mut files = programs.clone();
        for program in &programs {
            let command = format!("./{program}");
            toolchain::identify(&command, self.store, self.environment)?;
            let itself = self.tree.folder.join(program);
            let of_it = toolchain::files_on_record(&command, self.store, self.environment);
            files.extend(of_it.into_iter().filter(|file| !same_file(Path::new(file), &itself)));
        }
        Ok(files)
    }

    /// The compiler with the program that compiles in the end, and the variables that it reads. Where
    /// nobody can tell which program that is, a step that it does is on no record.
    pub fn compiler(&mut self) -> Result<Vec<(Label, Digest)>> {
        let (command, environment) = (&self.tree.compiler, self.environment);
        let tool = match self.store.is_look() {
            // A look starts nothing that the tree names.
            true => toolchain::known(Role::Compiler, command, self.store, environment)?
                .unwrap_or_else(|| toolchain::unknown(command, &self.tree.folder, environment)),
            false => toolchain::resolve(Role::Compiler, command, self.store, environment)?,
        };
        let identity = match tool.unidentified {
            None => tool.identity,
            Some(_) => Digest::of(format!("{:?}", std::time::SystemTime::now()).as_bytes()),
        };
        Ok(vec![
            (Label::new(Kind::Tool, &self.tree.compiler), identity),
            (Label::new(Kind::Environment, ""), inputs::environment(environment)),
        ])
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    real(one).is_some_and(|one| real(other) == Some(one))
}
