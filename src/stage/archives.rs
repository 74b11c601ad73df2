//! The archives of the stage: the kernel's members in, and for each unit an archive of its members
//! before LTO, their order, and an archive of them after it out. Decides when they are written; how is
//! the archive phase's.

use std::collections::HashMap;
use std::path::Path;

use super::Settings;
use super::members::{self, Member, Symbols};
use super::session::Session;
use crate::archive::order::head_objects_first;
use crate::archive::read::flatten_seen;
use crate::archive::symbols::defined_globals;
use crate::archive::write::{Entry, thin_archive, thin_archive_with_symbols};
use crate::error::{Error, Result};
use crate::kbuild::cmd_file;
use crate::parallel;
use crate::regular;
use crate::store::snapshot::Watch;
use crate::store::{Digest, Indexed, KeyBuilder, Store, write_aside, write_if_changed};
use crate::unit::{ARCHIVE, Unit, VMLINUX};

/// Kbuild's list of objects that go first.
const HEAD_LIST: &str = "scripts/head-object-list.txt";

/// Names of all members of the kernel, head objects first.
pub(super) fn member_names(settings: &Settings, watch: &mut Watch) -> Result<Vec<String>> {
    if settings.archives.is_empty() {
        let text = "no archive was given; kbuild calls `kthinlto build $(KBUILD_VMLINUX_OBJS)`";
        return Err(Error::Usage(text.to_owned()));
    }
    let mut before = |archive: &Path| watch.look(archive);
    let members = flatten_seen(&settings.tree, &settings.archives, &mut before)?;
    let list = settings.srctree.join(HEAD_LIST);
    let place = settings.tree.join(&list);
    watch.look(&place);
    let text = regular::read_to_string(&place).map_err(|e| {
        let remedy = "set srctree (or --srctree) to the kernel's source tree";
        Error::bad_input(&list, format!("it cannot be read ({e})"), remedy)
    })?;
    Ok(head_objects_first(members, &text))
}

/// Writes a unit's archive of members before LTO, and their order, where they are not right already.
/// `known` are the symbols of members that were read before.
pub(super) fn write_order(
    session: &mut Session<'_>,
    unit: &Unit,
    members: &[Member],
    known: &Symbols,
    threads: usize,
) -> Result<()> {
    if let Some(fixup) = &unit.outputs.fixup {
        write_fixup(session, fixup, members, known, threads)?;
    }
    let order: String = members.iter().map(|(name, _)| format!("{name}\n")).collect();
    let (target, tree) = (&unit.outputs.order, &session.settings.tree);
    let path = tree.join(target);
    if regular::read(&path).is_ok_and(|old| old == order.as_bytes()) {
        return Ok(());
    }
    let from = unit.outputs.fixup.as_deref().unwrap_or(&unit.name);
    session.step("GEN", target, &format!("llvm-ar t {from} > {target}"), from);
    match session.settings.dry_run {
        true => Ok(()),
        false => write_aside(&path, order.as_bytes()),
    }
}

fn write_fixup(
    session: &mut Session<'_>,
    fixup: &str,
    members: &[Member],
    known: &Symbols,
    threads: usize,
) -> Result<()> {
    let made_from = made_from(fixup, members);
    if is_output_current(&session.store, fixup, made_from)? {
        return Ok(());
    }
    let sources = session.settings.archives.iter();
    let sources = shell_words::join(sources.map(|archive| archive.to_string_lossy()));
    session.step("AR", fixup, &format!("llvm-ar cDPrST {fixup} {sources}"), "its members");
    if session.settings.dry_run {
        return Ok(());
    }
    let entries = entries_with_symbols(&session.settings.tree, members, known, threads)?;
    write_output(&mut session.store, fixup, made_from, &thin_archive_with_symbols(&entries))
}

fn entries_with_symbols(
    tree: &Path,
    members: &[Member],
    known: &Symbols,
    threads: usize,
) -> Result<Vec<Entry>> {
    let read = |name: &str| {
        let bytes = regular::read(&tree.join(name)).map_err(|e| Error::io("read", name, e))?;
        Ok(defined_globals(&bytes))
    };
    let entry = |(name, facts): &Member| {
        let symbols = known.get(name).map_or_else(|| read(name), |known| Ok(known.clone()))?;
        Ok(Entry {
            name: name.clone(),
            size: facts.size,
            is_object: symbols.is_some(),
            symbols: symbols.unwrap_or_default(),
        })
    };
    parallel::map(threads, members, entry).into_iter().collect()
}

/// Writes a unit's archive of members after LTO, native objects in the places of their bitcode. It is
/// written anew whenever a member's bytes changed, though its own may not: make decides by its time
/// what to build next. `changed` says that in a dry run native objects would be made before.
pub(super) fn write_archive(
    session: &mut Session<'_>,
    unit: &Unit,
    members: &[Member],
    indexed: &[Indexed],
    (changed, threads): (bool, usize),
) -> Result<()> {
    let names = after_lto(members, indexed);
    let archive = &unit.outputs.natives;
    let command = format!("llvm-ar cDPrS --thin {archive} …");
    if session.settings.dry_run && changed {
        session.step("AR", archive, &command, "its members");
        return Ok(());
    }
    let records = records_digest(&session.store, members.iter().map(|(name, _)| name.as_str()))?;
    let (members, _) = members::look(&session.store, session.settings, names, threads)?;
    let made_from =
        KeyBuilder::new(archive).digest(&made_from(archive, &members)).digest(&records).finish();
    if !session.settings.dry_run && unit.name == VMLINUX {
        write_record(session.settings)?;
    }
    if is_output_current(&session.store, archive, made_from)? {
        return Ok(());
    }
    session.step("AR", archive, &command, "its members");
    if session.settings.dry_run {
        return Ok(());
    }
    let entry = |(name, facts): &Member| Entry::new(name.clone(), facts.size);
    let entries: Vec<Entry> = members.iter().map(entry).collect();
    write_output(&mut session.store, archive, made_from, &thin_archive(&entries))
}

/// Names of a unit's members after LTO.
pub(super) fn after_lto(members: &[Member], indexed: &[Indexed]) -> Vec<String> {
    let compiled: HashMap<&str, String> =
        indexed.iter().map(|module| (module.part.object.as_str(), module.part.native())).collect();
    let names = members.iter().map(|(name, _)| compiled.get(name.as_str()).unwrap_or(name).clone());
    names.collect()
}

/// Digest of all members' `.cmd` files. Symbol versions stand there (`#SYMVER`), and may
/// change where no object does: modpost has to run then, and it runs when the archive is new.
pub(super) fn records_digest<'a>(
    store: &Store,
    members: impl IntoIterator<Item = &'a str>,
) -> Result<Digest> {
    let mut key = KeyBuilder::new("records");
    for name in members {
        let record = cmd_file::path_for(Path::new(name));
        match store.files.find(&record.to_string_lossy())? {
            Some(facts) => key.digest(&facts.digest),
            None => key.field(b""),
        };
    }
    Ok(key.finish())
}

/// Kbuild compares commands to see that a target was made in another way: with this
/// record a later build without THIN_DIST makes its own `vmlinux.a`.
fn write_record(settings: &Settings) -> Result<()> {
    let path = settings.tree.join(cmd_file::path_for(Path::new(ARCHIVE)));
    let archives = settings.archives.iter().map(|archive| archive.to_string_lossy());
    let archives = shell_words::join(archives);
    let command = format!("kthinlto build {archives} # {ARCHIVE} of native objects");
    write_if_changed(&path, cmd_file::render(ARCHIVE, &command).as_bytes())?;
    Ok(())
}

/// Whether an output is the one that was last made, and from the same.
pub(super) fn is_output_current(store: &Store, name: &str, made_from: Digest) -> Result<bool> {
    let Some(found) = store.files.find(name)? else {
        return Ok(false);
    };
    Ok(store.output(name) == Some(made_into(made_from, found.digest)))
}

fn write_output(store: &mut Store, name: &str, made_from: Digest, bytes: &[u8]) -> Result<()> {
    write_aside(&store.tree().join(name), bytes)?;
    store.set_output(name, made_into(made_from, Digest::of(bytes)))
}

/// Key of the content of all members.
fn made_from(purpose: &str, members: &[Member]) -> Digest {
    let mut key = KeyBuilder::new(purpose);
    for (name, facts) in members {
        key.field(name.as_bytes()).digest(&facts.digest);
    }
    key.finish()
}

/// Key of an output: what it was made from, and its own bytes.
pub(super) fn made_into(made_from: Digest, bytes: Digest) -> Digest {
    KeyBuilder::new("output").digest(&made_from).digest(&bytes).finish()
}
