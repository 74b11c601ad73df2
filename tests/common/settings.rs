//! Settings of a stage over the archives of a small tree, for tests that use the library.

use kthinlto::environment::Environment;
use kthinlto::exec::executor::Choice;
use kthinlto::stage::Settings;

use crate::common::{LDFLAGS, Tree, tool};

/// A stage of the kernel alone, by plain processes, with no cache and no other machines.
pub fn of(tree: &Tree) -> Settings {
    Settings {
        tree: tree.objects.clone(),
        srctree: tree.srctree().into(),
        archives: vec!["built-in.a".into(), "lib/lib.a".into()],
        units: Vec::new(),
        modules: Vec::new(),
        module_digests: None,
        compiler: Some(tool("clang")),
        linker: Some(tool("ld.lld")),
        linker_flags: LDFLAGS.to_owned(),
        stable_names: false,
        environment: Environment::of_process(),
        dry_run: false,
        keep_going: false,
        executor: Choice::Process,
        scratch_in_memory: true,
        verify: 0.0,
        cache: None,
        tool_digests: None,
        engine: None,
    }
}
