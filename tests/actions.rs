//! What an action says is all that its job needs: each is run in a folder that holds its inputs and
//! nothing else, with the variables that it names and no others. What comes of it is what is made in
//! the tree.

mod common;

#[path = "common/apart.rs"]
mod apart;
#[path = "common/settings.rs"]
mod settings;

use std::fs;
use std::io;

use apart::Away;
use common::Tree;
use kthinlto::error::{Error, Result};
use kthinlto::exec::action::Action;
use kthinlto::exec::executor::{Capacity, Executor, Job};
use kthinlto::exec::interrupt::Interrupts;
use kthinlto::exec::slots::Slots;
use kthinlto::report::Summary;
use kthinlto::report::console::{Console, Verbosity};
use kthinlto::stage::{self, Settings};

/// Runs each job in a folder of its own, as another machine would.
struct Elsewhere {
    /// An input that is kept from all jobs.
    withheld: Option<&'static str>,
}

impl Executor for Elsewhere {
    fn capacity(&self) -> Capacity {
        Capacity::Jobs(3)
    }

    fn start(&mut self, action: &Action) -> io::Result<Box<dyn Job>> {
        Ok(Box::new(Away::start(action, self.withheld, "")?))
    }
}

fn build(tree: &Tree, scratch_in_memory: bool, executor: Elsewhere) -> Result<Summary> {
    let settings = Settings { scratch_in_memory, ..settings::of(tree) };
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
