//! Every phase of the stage called on its own, in pipeline order, by a program that does its
//! own scheduling (none: one process after another) and its own reporting (one line a phase).
//! It makes the same bytes as `kthinlto build` in an object tree that kbuild has compiled:
//!
//! ```text
//! CC=clang LD=ld.lld KBUILD_LDFLAGS='-m elf_x86_64' srctree=../linux \
//!     cargo run --example phases -- OBJTREE built-in.a lib/lib.a
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use kthinlto::archive::{order, read, write};
use kthinlto::backend::command::{aside_name, check_native, invocation};
use kthinlto::backend::{flags, inputs};
use kthinlto::environment::Environment;
use kthinlto::exec::process::Invocation;
use kthinlto::format::Format;
use kthinlto::plan::{self, Planned};
use kthinlto::report::words;
use kthinlto::store::{Facts, Indexed, Store};
use kthinlto::thinlink::{Scratch, ThinLink, list_text, response_file};
use kthinlto::toolchain::{self, Role, Tool};
use kthinlto::unit::{INDEXED, ORDER, Part};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let tree = arguments.next().ok_or("usage: phases OBJTREE ARCHIVE...")?;
    // While the store is open, no other kthinlto works in this tree.
    let mut store = Store::open(&tree)?;
    let members = members(&store, &arguments.collect::<Vec<_>>())?;
    let environment = Environment::of_process();
    let linker = toolchain::resolve(Role::Linker, &setting("LD")?, &mut store, &environment)?;
    let indexed = thin_link(&store, &linker, &members)?;
    let compiler = toolchain::resolve(Role::Compiler, &setting("CC")?, &mut store, &environment)?;
    let common = inputs::Common::new(&compiler, &environment);
    let planned = plan::plan(&store, &common, &indexed, 1)?;
    println!("plan: {} of {} backends have to run", planned.len(), indexed.len());
    for one in &planned {
        compile(&tree, &compiler, one)?;
    }
    archive(&store, &members, &indexed)
}

fn setting(name: &str) -> Result<String> {
    env::var(name).map_err(|_| format!("{name} is not set").into())
}

fn run(what: &Invocation) -> Result<()> {
    let mut arguments = what.argv.iter();
    let program = arguments.next().ok_or("an empty command")?;
    let status = Command::new(program).args(arguments).current_dir(&what.folder).status()?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", what.shell_text()).into()) }
}

/// Archive: nested thin archives to members in link order, head objects first.
fn members(store: &Store, archives: &[PathBuf]) -> Result<Vec<(String, Facts)>> {
    let list = store.tree().join(setting("srctree")?).join("scripts/head-object-list.txt");
    let names = read::flatten(store.tree(), archives)?;
    let names = order::head_objects_first(names, &fs::read_to_string(list)?);
    println!("archive: {} members", names.len());
    let with_facts = names.into_iter().map(|name| {
        let facts = store.files.facts(&name)?;
        Ok((name, facts))
    });
    with_facts.collect()
}

/// Thin link: an index for each bitcode member, beside it.
fn thin_link(store: &Store, linker: &Tool, members: &[(String, Facts)]) -> Result<Vec<Indexed>> {
    let tree = store.tree();
    fs::write(tree.join(ORDER), response_file(members))?;
    let words: Vec<String> =
        setting("KBUILD_LDFLAGS")?.split_whitespace().map(str::to_owned).collect();
    let scratch = Scratch::new(store, false)?;
    let link = ThinLink { linker, flags: &words, members };
    run(&link.invocation(tree, &scratch.folder("0")?, ORDER, 1))?;
    let indexed = scratch.take("0", None, store, members)?;
    fs::write(tree.join(INDEXED), list_text(&indexed))?;
    let bitcode = members.iter().filter(|(_, facts)| facts.format == Format::Bitcode).count();
    println!("thin link: {} of {bitcode} bitcode members are indexed", indexed.len());
    Ok(indexed)
}

/// Backend: one native object, written aside, looked at, and renamed.
fn compile(tree: &Path, compiler: &Tool, planned: &Planned) -> Result<()> {
    let Part { object, .. } = &planned.part;
    let native = planned.part.native();
    let aside = aside_name(&native);
    let flags = flags::recorded(tree, object)?;
    // A whole program would move the .dwo too that -gsplit-dwarf leaves.
    run(&invocation(&compiler.argv, &flags, &planned.part, &aside, tree, false))?;
    check_native(&tree.join(&aside), &mut Vec::new())
        .map_err(|found| format!("{native}: {found}"))?;
    fs::rename(tree.join(&aside), tree.join(&native))?;
    println!("backend: {native}, due to {}", words::due(&planned.due));
    Ok(())
}

/// Archive: `vmlinux.a`, native objects in the places of their bitcode.
fn archive(store: &Store, members: &[(String, Facts)], indexed: &[Indexed]) -> Result<()> {
    let compiled: HashMap<&str, String> =
        indexed.iter().map(|module| (module.part.object.as_str(), module.part.native())).collect();
    let entry = |(name, _): &(String, Facts)| -> Result<write::Entry> {
        let name = compiled.get(name.as_str()).unwrap_or(name).clone();
        let size = store.files.facts(&name)?.size;
        Ok(write::Entry::new(name, size))
    };
    let entries: Vec<write::Entry> = members.iter().map(entry).collect::<Result<_>>()?;
    fs::write(store.tree().join("vmlinux.a"), write::thin_archive(&entries))?;
    println!("archive: vmlinux.a");
    Ok(())
}
