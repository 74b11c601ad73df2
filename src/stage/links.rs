//! Thin links of units: whether the last one still holds, the command of one that has to run, and the
//! taking of what it made. What a link is made from and what it leaves is the thin-link phase's; when
//! it runs is the queue's.

use std::collections::HashSet;
use std::io;

use super::members::Member;
use super::session::Session;
use super::{Settings, cores, objects};
use crate::backend::inputs::variables;
use crate::error::{Error, Result, advice, describe_status};
use crate::exec::action::Action;
use crate::exec::process::Outcome;
use crate::exec::refused::Refused;
use crate::format::Format;
use crate::inputs::File;
use crate::kbuild::ld_flags;
use crate::report::Event;
use crate::store::{Digest, FOLDER, Indexed, LinkRecord, write_if_changed};
use crate::thinlink::{self, Scratch, ThinLink};
use crate::toolchain::{self, Role, Tool};
use crate::unit::Unit;

/// Why a thin link runs, in the verbose log.
const WHY: &str = "changed members or flags";

/// What a unit's thin link has come to.
pub(super) enum Last {
    /// The last one holds: its modules.
    Holds(Vec<Indexed>),
    /// It has to run, and has this key.
    Due(Digest),
}

/// The linker of all thin links.
pub(super) fn linker(session: &mut Session<'_>) -> Result<Tool> {
    let Some(command) = &session.settings.linker else {
        let text = "LD is not set; kbuild exports it, or name the linker with --ld";
        return Err(Error::Usage(text.to_owned()));
    };
    let linker = match session.tool(Role::Linker, command)? {
        Some(known) => known,
        // For the command that a dry run shows; no thin link has this identity.
        None => toolchain::unknown(command, &session.settings.tree, &session.settings.environment),
    };
    session.note_tool(Role::Linker, &linker);
    Ok(linker)
}

/// Looks whether a unit's thin link has to run.
pub(super) fn look(
    session: &Session<'_>,
    linker: &Tool,
    unit: &Unit,
    members: &[Member],
) -> Result<Last> {
    let flags = flags(session.settings, unit, members)?;
    let link = ThinLink { linker, flags: &flags, members };
    let key = link.key(&session.store)?;
    let held = session.slots.try_acquire_up_to(cores());
    let current = thinlink::is_current(&session.store, &unit.name, key, held.len().max(1))?;
    drop(held);
    // A record is a file of the tree: what it names and is no part of this unit is compiled nowhere.
    let (known, qualifier) = (names(members), unit.qualifier());
    let is_ours = |record: &&LinkRecord| {
        let mut parts = record.modules.iter().map(|module| &module.part);
        parts.all(|part| known.contains(part.object.as_str()) && part.unit == qualifier)
    };
    let usable = current.filter(|record| linker.unidentified.is_none() && is_ours(record));
    Ok(usable.map_or(Last::Due(key), |record| Last::Holds(record.modules.clone())))
}

fn names(members: &[Member]) -> HashSet<&str> {
    members.iter().map(|(name, _)| name.as_str()).collect()
}

/// Says what a dry run knows of a thin link that has to run.
pub(super) fn announce(
    session: &mut Session<'_>,
    linker: &Tool,
    unit: &Unit,
    members: &[Member],
) -> Result<()> {
    let flags = flags(session.settings, unit, members)?;
    let link = ThinLink { linker, flags: &flags, members };
    let what = link.invocation(&session.settings.tree, FOLDER, &unit.outputs.order, 1);
    session.step("LD", &unit.outputs.indexed, &what.shell_text(), WHY);
    session.warn("a dry run cannot tell which backends the thin link would ask for");
    Ok(())
}

/// The command of a thin link, which writes into a new folder of the scratch.
pub(super) fn begin(
    session: &mut Session<'_>,
    linker: &Tool,
    (unit, members): (&Unit, &[Member]),
    (scratch, folder): (&Scratch, &str),
    threads: usize,
) -> Result<Action> {
    let flags = flags(session.settings, unit, members)?;
    let link = ThinLink { linker, flags: &flags, members };
    let response = response(session, unit, members)?;
    let place = scratch.folder(folder)?;
    let command = link.invocation(&session.settings.tree, &place, &response, threads);
    session.step("LD", &unit.outputs.indexed, &command.shell_text(), WHY);
    let (store, environment) = (&session.store, &session.settings.environment);
    let mut reads = link.inputs(store)?.files;
    let facts = store.files.find_again(&response)?;
    reads.extend(facts.map(|facts| File::new(&response, &facts)));
    Ok(Action {
        command,
        environment: variables(environment).into(),
        inputs: reads.into(),
        tools: linker.contents(store)?,
        outputs: vec![place],
    })
}

/// Takes what a thin link that ended well has made, and puts it on record.
pub(super) fn take(
    session: &mut Session<'_>,
    linker: &Tool,
    (unit, members): (&Unit, &[Member]),
    (scratch, folder): (&Scratch, &str),
    key: Digest,
) -> Result<Vec<Indexed>> {
    let store = &session.store;
    if let Some((name, _)) = members.iter().find(|(name, _)| !store.files.is_unchanged(name)) {
        let found = "it changed while the linker read it";
        return Err(Error::bad_input(name, found, "run again"));
    }
    if let Some(file) = linker.changed(store) {
        let found = "it changed while it ran, so that it is unknown which one made the indexes";
        return Err(Error::bad_input(file, found, "run again"));
    }
    let modules = scratch.take(folder, unit.qualifier().as_ref(), store, members)?;
    write_list(session.settings, unit, &modules)?;
    let record = LinkRecord { unit: unit.name.clone(), key, modules: modules.clone() };
    session.store.set_link(record)?;
    Ok(modules)
}

/// Passes the linker's messages on, and says how it failed if it did.
pub(super) fn judge(
    session: &mut Session<'_>,
    command: &str,
    outcome: io::Result<Outcome>,
) -> Result<()> {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(e) if Refused::is(&e) => return Err(Error::io("run", command, e)),
        Err(e) => {
            return Err(Error::ToolMissing {
                role: "LD",
                command: command.to_owned(),
                found: e.to_string(),
            });
        }
    };
    if !outcome.output.is_empty() {
        session.listener.on(&Event::Output(&outcome.output));
    }
    match outcome.status.success() {
        true => Ok(()),
        false => Err(Error::ThinLink {
            command: command.to_owned(),
            status: describe_status(outcome.status),
            advice: advice(outcome.status, &outcome.output),
        }),
    }
}

/// The file that lists the members: the unit's order itself unless a name needs quoting.
fn response(session: &Session<'_>, unit: &Unit, members: &[Member]) -> Result<String> {
    let text = thinlink::response_file(members);
    let plain: String = members.iter().map(|(name, _)| format!("{name}\n")).collect();
    if text == plain {
        return Ok(unit.outputs.order.clone());
    }
    let base = match unit.qualifier() {
        None => "members.rsp".to_owned(),
        Some(unit) => format!("members.{unit}.rsp"),
    };
    let name = format!("{FOLDER}/{base}");
    let written = session.store.room().map(|room| room.write(&base, text.as_bytes()));
    written.transpose().map_err(|e| Error::io("write", session.settings.tree.join(&name), e))?;
    Ok(name)
}

/// Writes the list of a unit's indexed objects, if it is not this one already.
pub(super) fn write_list(settings: &Settings, unit: &Unit, modules: &[Indexed]) -> Result<()> {
    let path = settings.tree.join(&unit.outputs.indexed);
    write_if_changed(&path, thinlink::list_text(modules).as_bytes())?;
    Ok(())
}

/// The flags of a unit's linker as words, less what in-process LTO alone understands: those on record, or
/// else `KBUILD_LDFLAGS`.
pub(super) fn flags(settings: &Settings, unit: &Unit, members: &[Member]) -> Result<Vec<String>> {
    let words = match &unit.link {
        Some(link) => objects::flags(link, settings.linker.as_deref().unwrap_or_default())?,
        None => shell_words::split(&settings.linker_flags).map_err(|e| {
            Error::Usage(format!("KBUILD_LDFLAGS cannot be split into words: {e}; close the quote"))
        })?,
    };
    // All bitcode is compiled with the same of these.
    let first = members.iter().find(|(_, facts)| facts.format == Format::Bitcode);
    let record = first.map(|(name, _)| super::record(settings, name)).unwrap_or_default();
    let compiler = settings.compiler.as_deref().unwrap_or_default();
    let kept_names =
        settings.stable_names || [compiler, &record].iter().any(|text| super::keeps_names(text));
    Ok(ld_flags::for_thin_link(words, kept_names))
}
