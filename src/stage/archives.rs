//! The archives of the stage: members in, `built-in-fixup.a`, `builtin.order` and
//! `vmlinux.a` out. Decides when they are written; how is the archive phase's.

use std::collections::HashSet;
use std::path::Path;

use super::members::{self, Member, Symbols};
use super::{Settings, Stage};
use crate::archive::order::head_objects_first;
use crate::archive::read::flatten_seen;
use crate::archive::symbols::defined_globals;
use crate::archive::write::{Entry, thin_archive, thin_archive_with_symbols};
use crate::backend::command::native_name;
use crate::error::{Error, Result};
use crate::kbuild::cmd_file;
use crate::parallel;
use crate::regular;
use crate::report::Event;
use crate::store::snapshot::Watch;
use crate::store::{Digest, Indexed, KeyBuilder, write_aside, write_if_changed};
use crate::thinlink::ORDER;

/// All members before LTO, under mainline's name.
const FIXUP: &str = "built-in-fixup.a";
/// All members after LTO: what the kernel is linked from.
pub const VMLINUX: &str = "vmlinux.a";
/// Kbuild's list of objects that go first.
const HEAD_LIST: &str = "scripts/head-object-list.txt";

/// Names of all members, head objects first.
pub fn member_names(settings: &Settings, watch: &mut Watch) -> Result<Vec<String>> {
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

impl Stage<'_> {
    /// Writes `built-in-fixup.a` and `builtin.order` where they are not right already. `known`
    /// are the symbols of members that were read before.
    pub(super) fn write_order(&mut self, members: &[Member], known: Symbols) -> Result<()> {
        let sources: Vec<String> = self
            .settings
            .archives
            .iter()
            .map(|archive| archive.to_string_lossy().into_owned())
            .collect();
        let sources = shell_words::join(&sources);
        let made_from = made_from(FIXUP, members);
        if !self.is_output_current(FIXUP, made_from)? {
            self.step("AR", FIXUP, &format!("llvm-ar cDPrST {FIXUP} {sources}"), "its members");
            if !self.settings.dry_run {
                let bytes = thin_archive_with_symbols(&self.entries_with_symbols(members, &known)?);
                self.write_output(FIXUP, made_from, &bytes)?;
            }
        }
        let order: String = members.iter().map(|(name, _)| format!("{name}\n")).collect();
        let path = self.settings.tree.join(ORDER);
        if regular::read(&path).is_ok_and(|old| old == order.as_bytes()) {
            return Ok(());
        }
        self.step("GEN", ORDER, &format!("llvm-ar t {FIXUP} > {ORDER}"), FIXUP);
        match self.settings.dry_run {
            true => Ok(()),
            false => write_aside(&path, order.as_bytes()),
        }
    }

    fn entries_with_symbols(&self, members: &[Member], known: &Symbols) -> Result<Vec<Entry>> {
        let tree = &self.settings.tree;
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
        parallel::map(self.threads, members, entry).into_iter().collect()
    }

    /// Writes `vmlinux.a`, native objects in the places of their bitcode. It is written anew
    /// whenever a member's bytes changed, though its own may not: what make builds next goes
    /// by its time. `changed` says that in a dry run native objects would be made before.
    pub(super) fn write_vmlinux(
        &mut self,
        members: &[Member],
        indexed: &[Indexed],
        changed: bool,
    ) -> Result<()> {
        let compiled: HashSet<&str> = indexed.iter().map(|m| m.object.as_str()).collect();
        let names = members.iter().map(|(name, _)| match compiled.contains(name.as_str()) {
            true => native_name(name),
            false => name.clone(),
        });
        let names: Vec<String> = names.collect();
        let command = format!("llvm-ar cDPrS --thin {VMLINUX} …");
        if self.settings.dry_run && changed {
            self.step("AR", VMLINUX, &command, "its members");
            return Ok(());
        }
        let records = self.records_digest(members)?;
        let (members, _) = members::look(&self.store, self.settings, names, self.threads)?;
        let made_from = KeyBuilder::new(VMLINUX)
            .digest(&made_from(VMLINUX, &members))
            .digest(&records)
            .finish();
        if !self.settings.dry_run {
            self.write_record()?;
        }
        if self.is_output_current(VMLINUX, made_from)? {
            return Ok(());
        }
        self.step("AR", VMLINUX, &command, "its members");
        if self.settings.dry_run {
            return Ok(());
        }
        let entry = |(name, facts): &Member| Entry::new(name.clone(), facts.size);
        let entries: Vec<Entry> = members.iter().map(entry).collect();
        self.write_output(VMLINUX, made_from, &thin_archive(&entries))
    }

    /// Digest of all members' `.cmd` files. Symbol versions stand there (`#SYMVER`), and may
    /// change where no object does: modpost has to run then, and it runs when `vmlinux.a` is new.
    fn records_digest(&self, members: &[Member]) -> Result<Digest> {
        let mut key = KeyBuilder::new("records");
        for (name, _) in members {
            let record = cmd_file::path_for(Path::new(name));
            match self.store.files.find(&record.to_string_lossy())? {
                Some(facts) => key.digest(&facts.digest),
                None => key.field(b""),
            };
        }
        Ok(key.finish())
    }

    /// Kbuild compares commands to see that a target was made in another way: with this
    /// record a later build without THIN_DIST makes its own `vmlinux.a`.
    fn write_record(&self) -> Result<()> {
        let path = self.settings.tree.join(cmd_file::path_for(Path::new(VMLINUX)));
        let archives = self.settings.archives.iter().map(|archive| archive.to_string_lossy());
        let archives = shell_words::join(archives);
        let command = format!("kthinlto build {archives} # {VMLINUX} of native objects");
        write_if_changed(&path, cmd_file::render(VMLINUX, &command).as_bytes())?;
        Ok(())
    }

    /// Whether an output is the one that was last made, and from the same.
    fn is_output_current(&self, name: &str, made_from: Digest) -> Result<bool> {
        let Some(found) = self.store.files.find(name)? else {
            return Ok(false);
        };
        Ok(self.store.output(name) == Some(made_into(made_from, found.digest)))
    }

    fn write_output(&mut self, name: &str, made_from: Digest, bytes: &[u8]) -> Result<()> {
        write_aside(&self.settings.tree.join(name), bytes)?;
        self.store.set_output(name, made_into(made_from, Digest::of(bytes)))
    }

    /// Tells the listener that a file is made.
    pub(super) fn step(&mut self, verb: &'static str, target: &str, command: &str, why: &str) {
        self.listener.on(&Event::Step { verb, target, command, why });
    }
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
fn made_into(made_from: Digest, bytes: Digest) -> Digest {
    KeyBuilder::new("output").digest(&made_from).digest(&bytes).finish()
}
