//! What an action says is all that its job needs: each is run in a folder that holds its inputs and
//! nothing else, with the variables that it names and no others. What comes of it is what is made in
//! the tree.

mod common;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{LDFLAGS, Tree, tool};
use kthinlto::environment::Environment;
use kthinlto::error::{Error, Result};
use kthinlto::exec::action::Action;
use kthinlto::exec::executor::{Capacity, Choice, Executor, Job};
use kthinlto::exec::interrupt::Interrupts;
use kthinlto::exec::process::{Invocation, Outcome, Running};
use kthinlto::exec::slots::Slots;
use kthinlto::report::Summary;
use kthinlto::report::console::{Console, Verbosity};
use kthinlto::stage::{self, Settings};
use kthinlto::store::Digest;
use tempfile::TempDir;

/// Runs each job in a folder of its own, as another machine would.
struct Elsewhere {
    /// An input that is kept from all jobs.
    withheld: Option<&'static str>,
}

/// A job in such a folder.
struct Away {
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

impl Executor for Elsewhere {
    fn capacity(&self) -> Capacity {
        Capacity::Jobs(3)
    }

    fn start(&mut self, action: &Action) -> io::Result<Box<dyn Job>> {
        let (folder, tree) = (tempfile::tempdir()?, action.command.folder.clone());
        assert!(
            !action.inputs.is_empty() && !action.tools.is_empty() && !action.outputs.is_empty()
        );
        for file in action.inputs.iter().chain(action.tools.iter()) {
            let bytes = fs::read(tree.join(&file.name))?;
            assert_eq!((Digest::of(&bytes), bytes.len() as u64), (file.digest, file.size));
        }
        for file in action.inputs.iter().filter(|file| Some(file.name.as_str()) != self.withheld) {
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
        let what = Invocation::new(start.chain(action.command.argv.iter()), folder.path());
        let (running, outputs) = (Running::start(&what)?, action.outputs.clone());
        Ok(Box::new(Away { running, folder, tree, outputs }))
    }
}

impl Away {
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

fn build(tree: &Tree, scratch_in_memory: bool, executor: Elsewhere) -> Result<Summary> {
    let settings = Settings {
        tree: tree.objects.clone(),
        srctree: tree.srctree().into(),
        archives: vec!["built-in.a".into(), "lib/lib.a".into()],
        units: Vec::new(),
        modules: Vec::new(),
        module_digests: None,
        compiler: Some(tool("clang")),
        linker: Some(tool("ld.lld")),
        linker_flags: LDFLAGS.to_owned(),
        environment: Environment::of_process(),
        dry_run: false,
        keep_going: false,
        executor: Choice::Auto,
        scratch_in_memory,
        verify: 0.0,
        cache: None,
        tool_digests: None,
    };
    let (slots, interrupts) = (Slots::local(1), Interrupts::catch().unwrap());
    let mut console = Console::new(Verbosity::default());
    stage::build_by(Box::new(executor), &settings, &slots, &interrupts, &mut console)
}

#[test]
fn each_job_can_run_with_what_its_action_lists_and_nothing_else() {
    for scratch_in_memory in [false, true] {
        let tree = Tree::new();
        let summary = build(&tree, scratch_in_memory, Elsewhere { withheld: None }).unwrap();
        assert!(summary.linked && summary.rebuilt == summary.modules && summary.modules > 9);
        common::assert_same(&tree.outputs(), &tree.mainline());
    }
}

/// A flag may have clang leave more beside an object.
#[test]
fn files_beside_an_object_are_outputs_too() {
    let tree = Tree::new();
    tree.compile("lib/w2", "-fstack-usage");
    build(&tree, true, Elsewhere { withheld: None }).unwrap();
    let usage = fs::read_to_string(tree.objects.join("lib/w2.thinlto-native.su")).unwrap();
    assert!(usage.contains("worker2"), "{usage}");
}

#[test]
fn a_job_that_lacks_one_of_its_inputs_fails() {
    let tree = Tree::new();
    build(&tree, true, Elsewhere { withheld: None }).unwrap();
    tree.edit("lib/w2", "int shared(int);\nint worker2(int x) { return shared(x * 7); }\n");
    tree.compile("lib/w2", "");
    let failed = build(&tree, true, Elsewhere { withheld: Some("lib/w2.o") });
    assert!(matches!(failed, Err(Error::ThinLink { .. } | Error::Backends { .. })), "{failed:?}");
}
