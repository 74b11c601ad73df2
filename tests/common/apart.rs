//! Jobs as another machine would run them: each in a folder that holds what its action lists and nothing
//! else, with the variables that it names and no others.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use kthinlto::exec::action::Action;
use kthinlto::exec::executor::Job;
use kthinlto::exec::process::{Invocation, Outcome, Running};
use kthinlto::inputs::File;
use kthinlto::store::Digest;
use tempfile::TempDir;

/// Files of compilers that were compared with what actions say of them: each is large, and is always the same.
static KNOWN: Mutex<BTreeSet<(String, Digest)>> = Mutex::new(BTreeSet::new());

/// A job in such a folder.
#[derive(Debug)]
pub struct Away {
    running: Running,
    folder: TempDir,
    tree: PathBuf,
    outputs: Vec<String>,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copied = Command::new("cp").arg("-rT").args([from, to]).status().unwrap();
    assert!(copied.success(), "{} to {}", from.display(), to.display());
}

impl Away {
    /// Starts it. An input may be kept from it, and a shell may do something before.
    pub fn start(action: &Action, withheld: Option<&str>, before: &str) -> io::Result<Self> {
        let (folder, tree) = (tempfile::tempdir()?, action.command.folder.clone());
        assert!(
            !action.inputs.is_empty() && !action.tools.is_empty() && !action.outputs.is_empty()
        );
        let known = |file: &File| !KNOWN.lock().unwrap().insert((file.name.clone(), file.digest));
        let tools = action.tools.iter().filter(|file| !known(file));
        for file in action.inputs.iter().chain(tools) {
            let bytes = fs::read(tree.join(&file.name))?;
            assert_eq!((Digest::of(&bytes), bytes.len() as u64), (file.digest, file.size));
        }
        for file in action.inputs.iter().filter(|file| Some(file.name.as_str()) != withheld) {
            copy(&tree.join(&file.name), &folder.path().join(&file.name));
        }
        for output in &action.outputs {
            // An empty folder, or the folder of a file.
            let place = folder.path().join(output);
            let is_folder = tree.join(output).is_dir();
            fs::create_dir_all(if is_folder { &place } else { place.parent().unwrap() })?;
        }
        let variables = action
            .environment
            .iter()
            .map(|(name, value)| format!("{}={}", name.to_str().unwrap(), value.to_str().unwrap()));
        let path = format!("PATH={}", std::env::var("PATH").unwrap());
        let variables: Vec<String> = variables.chain([path]).collect();
        let start = ["env", "-i"].into_iter().chain(variables.iter().map(String::as_str));
        let script = format!("{before}\nexec \"$@\"");
        let shell = ["sh", "-c", &script, "sh"].into_iter().filter(|_| !before.is_empty());
        let words = start.chain(shell).chain(action.command.argv.iter());
        let running = Running::start(&Invocation::new(words, folder.path()))?;
        Ok(Away { running, folder, tree, outputs: action.outputs.clone() })
    }

    /// Takes an output, or all whose names begin as this one does.
    fn take(&self, output: &str) {
        let names = match output.strip_suffix('*') {
            None => vec![output.to_owned()],
            Some(start) => {
                let folder = Path::new(start).parent().unwrap();
                let entries = fs::read_dir(self.folder.path().join(folder)).unwrap();
                let names = entries.map(|entry| folder.join(entry.unwrap().file_name()));
                let names = names.map(|name| name.to_str().unwrap().to_owned());
                names.filter(|name| name.starts_with(start)).collect()
            }
        };
        for name in names.iter().filter(|name| self.folder.path().join(name).exists()) {
            copy(&self.folder.path().join(name), &self.tree.join(name));
        }
    }
}

impl AsFd for Away {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.running.as_fd()
    }
}

impl Job for Away {
    fn try_finish(&mut self) -> io::Result<Option<Outcome>> {
        let outcome = self.running.try_finish()?;
        if outcome.is_some() {
            for output in self.outputs.iter().filter(|name| !name.starts_with('/')) {
                self.take(output);
            }
        }
        Ok(outcome)
    }

    fn has_ended(&self) -> bool {
        self.running.has_ended()
    }

    fn cancel(&self) {
        self.running.cancel();
    }
}
