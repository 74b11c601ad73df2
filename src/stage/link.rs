//! The thin link of the stage: run it if anything that it reads changed, and take its
//! results. What it is made from and what it leaves is the thin-link phase's.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::members::Member;
use super::{Settings, Stage, cores, tool};
use crate::error::{Error, Result, advice, describe_status};
use crate::exec::executor::Processes;
use crate::exec::process::{Invocation, Outcome};
use crate::exec::refused::Refused;
use crate::exec::run::Work;
use crate::format::Format;
use crate::kbuild::{cmd_file, ld_flags};
use crate::regular;
use crate::report::{Ending, Event, Job, JobKind};
use crate::store::{FOLDER, Indexed, LinkRecord, write_if_changed};
use crate::thinlink::{self, LIST, ORDER, Scratch, ThinLink};
use crate::toolchain::{self, Role};

/// The list of members below the store's folder, where `builtin.order` will not do.
const MEMBERS: &str = "members.rsp";

impl Stage<'_> {
    /// The indexed modules, and whether the linker ran. `None` in a dry run that cannot know.
    pub(super) fn thin_link(&mut self, members: &[Member]) -> Result<(Option<Vec<Indexed>>, bool)> {
        let Some(linker) = &self.settings.linker else {
            let text = "LD is not set; kbuild exports it, or name the linker with --ld";
            return Err(Error::Usage(text.to_owned()));
        };
        let linker = match tool(self.settings, Role::Linker, linker, &mut self.store)? {
            Some(known) => known,
            // For the command that a dry run shows; no thin link has this identity.
            None => toolchain::unknown(linker),
        };
        self.note_tool(Role::Linker, &linker);
        let flags = flags(self.settings, members)?;
        let link = ThinLink { linker: &linker, flags: &flags, members };
        let key = link.key(&self.store)?;
        let held = self.slots.try_acquire_up_to(cores());
        let current = thinlink::is_current(&self.store, key, held.len().max(1))?;
        drop(held);
        // A record is a file of the tree: what it names and is no member is compiled nowhere.
        let known: HashSet<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        let is_ours = |record: &&LinkRecord| {
            record.modules.iter().all(|module| known.contains(module.object.as_str()))
        };
        let usable = current.filter(|record| linker.opaque.is_none() && is_ours(record));
        if let Some(record) = usable {
            let modules = record.modules.clone();
            if !self.settings.dry_run {
                self.write_list(&modules)?;
            }
            return Ok((Some(modules), false));
        }
        if self.settings.dry_run {
            let what = link.invocation(&self.settings.tree, FOLDER, ORDER, 1);
            self.step("LD", LIST, &what.shell_text(), "changed members or flags");
            let text = "a dry run cannot tell which backends the thin link would ask for";
            self.listener.on(&Event::Warning(text));
            return Ok((None, false));
        }
        let modules = self.run_link(&link)?;
        self.write_list(&modules)?;
        let record = LinkRecord { key, modules: modules.clone() };
        self.store.set_link(record)?;
        Ok((Some(modules), true))
    }

    /// Runs the linker with as many threads as slots are free now.
    fn run_link(&mut self, link: &ThinLink<'_>) -> Result<Vec<Indexed>> {
        let scratch = Scratch::new(&self.store, self.settings.scratch_in_memory)?;
        let response = self.response(link.members)?;
        let mut held = self.slots.try_acquire_up_to(cores());
        let threads = held.len().max(1);
        // For the runner to take. The first is the implicit one: a token would go back to
        // make, and another job might be quicker.
        held.drain(..held.len().min(1));
        let what = link.invocation(&self.settings.tree, &scratch.name, &response, threads);
        self.step("LD", LIST, &what.shell_text(), "changed members or flags");
        let mut job = OneJob { what: Some(what), ended: None };
        let started = Job { slot: 0, kind: JobKind::ThinLink, verb: "LD", object: LIST };
        self.listener.on(&Event::Started(started));
        self.runner().run(&mut Processes, &mut job)?;
        drop(held);
        let usage = job.ended.as_ref().and_then(|ended| Some(ended.as_ref().ok()?.usage));
        let judged = self.judge(&link.linker.text, job.ended);
        let ending = if judged.is_ok() { Ending::Good } else { Ending::Failed };
        self.listener.on(&Event::Ended { slot: 0, ending, usage });
        judged?;
        if let Some((name, _)) =
            link.members.iter().find(|(name, _)| !self.store.files.is_unchanged(name))
        {
            let found = "it changed while the linker read it";
            return Err(Error::bad_input(name, found, "run again"));
        }
        if let Some(file) = link.linker.changed(&self.store) {
            let found = "it changed while it ran, so that it is unknown which one made the indexes";
            return Err(Error::bad_input(file, found, "run again"));
        }
        scratch.take(&self.store, link.members)
    }

    /// Passes the linker's messages on, and says how it failed if it did.
    fn judge(&mut self, command: &str, ended: Option<io::Result<Outcome>>) -> Result<()> {
        let outcome = match ended {
            Some(Ok(outcome)) => outcome,
            Some(Err(e)) if Refused::is(&e) => return Err(Error::io("run", command, e)),
            Some(Err(e)) => {
                return Err(Error::ToolMissing {
                    role: "LD",
                    command: command.to_owned(),
                    found: e.to_string(),
                });
            }
            None => return Err(Error::Usage("the thin link was not started".to_owned())),
        };
        if !outcome.output.is_empty() {
            self.listener.on(&Event::Output(&outcome.output));
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

    /// The file that lists the members: `builtin.order` itself unless a name needs quoting.
    fn response(&self, members: &[Member]) -> Result<String> {
        let text = thinlink::response_file(members);
        let plain: String = members.iter().map(|(name, _)| format!("{name}\n")).collect();
        if text == plain {
            return Ok(ORDER.to_owned());
        }
        let name = format!("{FOLDER}/{MEMBERS}");
        let written = self.store.room().map(|room| room.write(MEMBERS, text.as_bytes()));
        written.transpose().map_err(|e| Error::io("write", self.settings.tree.join(&name), e))?;
        Ok(name)
    }

    fn write_list(&self, modules: &[Indexed]) -> Result<()> {
        let path = self.settings.tree.join(LIST);
        write_if_changed(&path, thinlink::list_text(modules).as_bytes())?;
        Ok(())
    }
}

/// `KBUILD_LDFLAGS` as words, less what in-process LTO alone understands.
pub(super) fn flags(settings: &Settings, members: &[Member]) -> Result<Vec<String>> {
    let words = shell_words::split(&settings.linker_flags).map_err(|e| {
        Error::Usage(format!("KBUILD_LDFLAGS cannot be split into words: {e}; close the quote"))
    })?;
    // All bitcode is compiled with the same of these.
    let first = members.iter().find(|(_, facts)| facts.format == Format::Bitcode);
    let record = first.map(|(name, _)| settings.tree.join(cmd_file::path_for(Path::new(name))));
    let record = record.and_then(|path| regular::read_to_string(&path).ok()).unwrap_or_default();
    Ok(ld_flags::for_thin_link(words, record.contains(ld_flags::KEPT_NAMES)))
}

/// A run of one process.
struct OneJob {
    what: Option<Invocation>,
    ended: Option<io::Result<Outcome>>,
}

impl Work for OneJob {
    fn next(&mut self) -> Option<(usize, Invocation)> {
        self.what.take().map(|what| (0, what))
    }

    fn done(&mut self, _: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        self.ended = Some(outcome);
        Ok(true)
    }
}
