//! The backends of the stage: give them to the runner, longest first, and take each
//! result only when it is right. What a backend is made from is the backend phase's.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::{Settings, Stage};
use crate::backend::command::{aside_name, check_native, invocation, native_name, recorded_text};
use crate::backend::flags::{self, Flags};
use crate::error::{Error, Result, describe_status};
use crate::exec::process::{Invocation, Outcome};
use crate::exec::run::Work;
use crate::kbuild::cmd_file;
use crate::plan::{Planned, recorded_inputs};
use crate::report::{Event, Listener};
use crate::store::{BackendRecord, Store, write_if_changed};
use crate::toolchain::Tool;

impl Stage<'_> {
    /// Runs those that have to run; returns how many.
    pub(super) fn run_backends(&mut self, compiler: &Tool, planned: Vec<Planned>) -> Result<usize> {
        let tree = &self.settings.tree;
        let jobs = planned
            .into_iter()
            .filter(|planned| planned.why.is_some())
            .map(|planned| Ok(Job { flags: flags::recorded(tree, &planned.object)?, planned }));
        let mut jobs: Vec<Job> = jobs.collect::<Result<_>>()?;
        jobs.sort_by_key(|job| std::cmp::Reverse(job.planned.size));
        let total = jobs.len();
        if self.settings.dry_run {
            jobs.iter().for_each(|job| announce(self.listener, compiler, job));
            return Ok(total);
        }
        let runner = crate::exec::run::Runner {
            slots: self.slots,
            interrupts: self.interrupts,
            keep_going: self.settings.keep_going,
        };
        let mut backends = Backends {
            settings: self.settings,
            store: &mut self.store,
            listener: self.listener,
            compiler,
            jobs,
            next: 0,
            in_flight: BTreeSet::new(),
        };
        match runner.run(&mut backends)? {
            0 => Ok(total),
            failed => Err(Error::Backends { failed, total }),
        }
    }
}

/// A backend that has to run, and its flags.
struct Job {
    planned: Planned,
    flags: Flags,
}

fn announce(listener: &mut dyn Listener, compiler: &Tool, job: &Job) {
    let object = &job.planned.object;
    listener.on(&Event::Step {
        verb: "CC",
        target: &native_name(object),
        command: &recorded_text(&compiler.text, &job.flags, object),
        why: job.planned.why.as_deref().unwrap_or_default(),
    });
}

struct Backends<'a> {
    settings: &'a Settings,
    store: &'a mut Store,
    listener: &'a mut dyn Listener,
    compiler: &'a Tool,
    jobs: Vec<Job>,
    next: usize,
    in_flight: BTreeSet<usize>,
}

impl Work for Backends<'_> {
    fn next(&mut self) -> Option<(usize, Invocation)> {
        let number = self.next;
        let job = self.jobs.get(number)?;
        self.next += 1;
        self.in_flight.insert(number);
        announce(self.listener, self.compiler, job);
        let object = &job.planned.object;
        let aside = aside_name(&native_name(object));
        // One that a killed run left must not be taken for this one's.
        remove_file(&self.settings.tree, &aside);
        let (argv, flags) = (&self.compiler.argv, &job.flags);
        Some((number, invocation(argv, flags, object, &aside, &self.settings.tree)))
    }

    fn done(&mut self, number: usize, outcome: io::Result<Outcome>) -> Result<bool> {
        self.in_flight.remove(&number);
        if let Ok(outcome) = &outcome
            && !outcome.output.is_empty()
        {
            self.listener.on(&Event::Output(&outcome.output));
        }
        let job = &self.jobs[number];
        match self.judge(job, outcome) {
            Ok(()) => self.accept(number).map(|()| true),
            Err(sentence) => {
                let object = &job.planned.object;
                remove_aside(&self.settings.tree, &aside_name(&native_name(object)));
                self.listener.on(&Event::Failure(&sentence));
                Ok(false)
            }
        }
    }
}

impl Backends<'_> {
    /// Whether a backend's result may be used. An `Err` is the sentence that says why not.
    fn judge(&self, job: &Job, outcome: io::Result<Outcome>) -> Result<(), String> {
        let object = &job.planned.object;
        let compiler = &self.compiler.text;
        let outcome = outcome
            .map_err(|e| format!("cannot run the compiler `{compiler}` for {object}: {e}"))?;
        if !outcome.status.success() {
            let how = describe_status(outcome.status);
            let full = match is_full(&outcome.output) {
                true => "the disk is full: free some space and run again",
                false => "its messages are above; V=1 shows the command",
            };
            return Err(format!("the backend of {object} failed: `{compiler}` {how}; {full}"));
        }
        let aside = aside_name(&native_name(object));
        check_native(&self.settings.tree.join(aside)).map_err(|found| {
            format!(
                "the backend of {object} failed: `{compiler}` exited with 0 but left {found}; \
                 its messages are above, and the old native object was kept"
            )
        })?;
        match job.planned.inputs.files.iter().find(|name| !self.store.files.is_unchanged(name)) {
            Some(name) => {
                Err(format!("{name} changed while the backend of {object} read it; run again"))
            }
            None => Ok(()),
        }
    }

    /// Puts a good result in its place and on record.
    fn accept(&mut self, number: usize) -> Result<()> {
        let job = &self.jobs[number];
        let (tree, object) = (&self.settings.tree, &job.planned.object);
        let native = native_name(object);
        let (aside, place) = (tree.join(aside_name(&native)), tree.join(&native));
        fs::rename(&aside, &place).map_err(|e| Error::io("rename into", &native, e))?;
        let text = recorded_text(&self.compiler.text, &job.flags, object);
        let record = tree.join(cmd_file::path_for(Path::new(&native)));
        write_if_changed(&record, cmd_file::render(&native, &text).as_bytes())?;
        self.store.files.find_again(&native)?;
        let record = BackendRecord {
            key: job.planned.key,
            output: self.store.files.facts(&native)?.digest,
            inputs: recorded_inputs(&job.planned.inputs),
        };
        self.store.set_backend(object, record)
    }
}

impl Drop for Backends<'_> {
    /// What was cut short leaves nothing behind.
    fn drop(&mut self) {
        for number in &self.in_flight {
            let object = &self.jobs[*number].planned.object;
            remove_aside(&self.settings.tree, &aside_name(&native_name(object)));
        }
    }
}

fn is_full(output: &[u8]) -> bool {
    String::from_utf8_lossy(output).contains("No space left on device")
}

fn remove_file(tree: &Path, name: &str) {
    match fs::remove_file(tree.join(name)) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            tracing::warn!("{name} cannot be removed: {e}")
        }
        _ => {}
    }
}

/// Removes a backend's unfinished output, and the temporary files that clang names after it
/// (`STEM-RANDOM.o.tmp`) and leaves when it is killed.
fn remove_aside(tree: &Path, aside: &str) {
    remove_file(tree, aside);
    let place = tree.join(aside);
    let stem = place.file_stem().unwrap_or_default().to_string_lossy().into_owned() + "-";
    let Some(entries) = place.parent().and_then(|folder| fs::read_dir(folder).ok()) else {
        return;
    };
    for entry in entries.filter_map(io::Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&stem) && name.ends_with(".tmp") {
            let _ = fs::remove_file(entry.path());
        }
    }
}
