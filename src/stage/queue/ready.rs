//! What becomes ready to run: thin links that do not hold, the backends that are planned, the objects of units
//! that have all their native objects. Must not know when it runs.

use std::cmp::Reverse;
use std::ops::Range;
use std::rc::Rc;

use super::{Link, Queue, Task, announce_plan};
use crate::backend::inputs::Common;
use crate::error::Result;
use crate::format::Format;
use crate::kbuild::architecture;
use crate::plan;
use crate::stage::backends::{self, Backends, Job};
use crate::stage::{Settings, cached, cached_links, compiler, cores, links, objects};
use crate::store::{Digest, Indexed};
use crate::thinlink::Scratch;
use crate::toolchain::{Role, Tool};
use crate::unit::VMLINUX;

/// A sentence on a kernel that has nothing to compile here.
fn why_no_bitcode(settings: &Settings) -> String {
    let arch = ["SRCARCH", "ARCH"].into_iter().find_map(|name| settings.environment.get(name));
    let arch = arch.map(|arch| arch.to_string_lossy().into_owned());
    match arch.and_then(|arch| architecture::without_thinlto(&settings.srctree, &arch)) {
        Some(folder) => format!(
            "no member of the archives is bitcode: {folder} of this kernel has no ThinLTO, so \
             CONFIG_LTO_CLANG_THIN_DIST cannot be selected for it"
        ),
        None => "no member of the archives is bitcode; was the kernel built with \
                 CONFIG_LTO_CLANG_THIN_DIST and clang?"
            .to_owned(),
    }
}

impl Queue<'_, '_> {
    /// Finds out which thin links have to run, and takes what the others left.
    pub(super) fn look_at_links(&mut self) -> Result<()> {
        self.session.phase("thin link");
        let mut scratch = None;
        for place in 0..self.units.len() {
            let one = &self.units[place];
            if !one.members.iter().any(|(_, facts)| facts.format == Format::Bitcode) {
                if one.unit.name == VMLINUX {
                    self.session.warn(&why_no_bitcode(self.session.settings));
                }
                self.set_modules(place, Vec::new());
                continue;
            }
            let linker = &self.linker()?;
            let one = &self.units[place];
            let Settings { dry_run, scratch_in_memory, .. } = *self.session.settings;
            match links::look(self.session, linker, &one.unit, &one.members)? {
                links::Last::Holds(modules) => {
                    if !dry_run {
                        links::write_list(self.session.settings, &one.unit, &modules)?;
                    }
                    self.set_modules(place, modules);
                }
                links::Last::Due(_) if dry_run => {
                    links::announce(self.session, linker, &one.unit, &one.members)?;
                }
                links::Last::Due(key) => {
                    if let Some(modules) = self.take_cached(place, key)? {
                        self.set_modules(place, modules);
                        continue;
                    }
                    let scratch = match &scratch {
                        Some(made) => made,
                        None => {
                            let made = Scratch::new(&self.session.store, scratch_in_memory)?;
                            scratch.insert(Rc::new(made))
                        }
                    };
                    let (linker, scratch) = (linker.clone(), scratch.clone());
                    self.links.push_back(Link { place, key, linker, scratch });
                }
            }
        }
        Ok(())
    }

    /// A thin link out of the shared cache, if that has it.
    fn take_cached(&mut self, place: usize, key: Digest) -> Result<Option<Vec<Indexed>>> {
        let linker = self.linker()?;
        self.open_cache();
        let Some(cache) = self.cache.as_ref().filter(|_| linker.unidentified.is_none()) else {
            return Ok(None);
        };
        let one = &self.units[place];
        cached_links::take(self.session, cache, (&one.unit, &one.members), key)
    }

    fn open_cache(&mut self) {
        if !std::mem::replace(&mut self.looked_for_cache, true) {
            self.cache = cached::open(self.session);
        }
    }

    fn linker(&mut self) -> Result<Rc<Tool>> {
        if let Some(known) = &self.linker {
            return Ok(known.clone());
        }
        let found = Rc::new(links::linker(self.session)?);
        Ok(self.linker.insert(found).clone())
    }

    /// What is to be done once a unit has all of its native objects: its own object is linked.
    pub(super) fn complete(&mut self, place: usize) -> Result<()> {
        let one = &self.units[place];
        if one.unit.link.is_none() || one.indexed.is_none() || one.lacks > 0 {
            return Ok(());
        }
        let linker = self.linker()?;
        let one = &self.units[place];
        let indexed = one.finished(&self.modules).unwrap_or_default();
        let rebuilt = &self.ran.rebuilt;
        let due = objects::look(self.session, &linker, one, indexed, rebuilt)?;
        self.objects.extend(due);
        Ok(())
    }

    pub(super) fn set_modules(&mut self, place: usize, modules: Vec<Indexed>) {
        let start = self.modules.len();
        self.modules.extend(modules);
        self.units[place].indexed = Some(start..self.modules.len());
    }

    /// Plans the backends of all units whose thin link need not run.
    pub(super) fn plan_known(&mut self) -> Result<()> {
        let jobs = self.plan(0..self.modules.len())?;
        self.add(jobs)
    }

    /// Plans the backends of these modules: what has to run, with its flags.
    pub(super) fn plan(&mut self, range: Range<usize>) -> Result<Vec<Job>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if !self.is_busy() {
            self.session.phase("plan");
        }
        let backends = match self.backends.take() {
            Some(known) => known,
            None => match self.prepare(&range)? {
                Some(prepared) => prepared,
                None => return Ok(Vec::new()),
            },
        };
        let modules = &self.modules[range];
        let held = self.session.slots.try_acquire_up_to(cores());
        let store = &self.session.store;
        let planned = plan::plan(store, &backends.common, modules, held.len().max(1))?;
        drop(held);
        self.session.check_interrupt()?;
        announce_plan(self.session, modules, &planned);
        self.ran.backends += planned.len();
        let store = &self.session.store;
        let jobs = planned.into_iter().map(|one| Job::new(store, &backends.common, one));
        let jobs = jobs.collect();
        self.backends = Some(backends);
        jobs
    }

    /// The compiler, before the first backend. `None` in a dry run that cannot know it.
    fn prepare(&mut self, range: &Range<usize>) -> Result<Option<Backends>> {
        let (settings, modules) = (self.session.settings, &self.modules[range.clone()]);
        let first = modules.first().map_or("", |module| &module.part.object);
        let command = compiler(settings, first)?;
        let Some(compiler) = self.session.tool(Role::Compiler, &command)? else {
            self.session.warn(&format!(
                "a dry run starts no compiler, and no build in this tree has used `{command}`: it \
                 cannot tell which backends would run"
            ));
            self.ran.rebuilt.extend(modules.iter().map(|module| module.part.clone()));
            return Ok(None);
        };
        self.session.note_tool(Role::Compiler, &compiler);
        let common = Common::new(&compiler, &settings.environment);
        Ok(Some(Backends::new(compiler, common, backends::only_warn(settings))))
    }

    /// Takes planned jobs in: those that the cache has are done, the others may run.
    pub(super) fn add(&mut self, mut jobs: Vec<Job>) -> Result<()> {
        let Some(backends) = self.backends.take() else {
            return Ok(());
        };
        jobs.sort_by_key(|job| Reverse(job.weight()));
        if self.session.settings.dry_run {
            jobs.iter().for_each(|job| backends.announce(self.session, job));
            self.ran.rebuilt.extend(jobs.iter().map(|job| job.part().clone()));
            self.backends = Some(backends);
            return Ok(());
        }
        let is_busy = self.is_busy();
        backends::sweep(&self.session.settings.tree, jobs.iter());
        if !is_busy {
            self.session.phase("cache");
        }
        if !jobs.is_empty() {
            self.open_cache();
        }
        if let Some(cache) = self.cache.take() {
            let taken = cached::take(self.session, &backends, &cache, &jobs)?;
            self.cache = Some(cache);
            self.ran.from_cache += taken.len();
            self.ran.backends -= taken.len();
            let mut numbers = 0..;
            jobs.retain(|_| numbers.next().is_none_or(|number| !taken.contains(&number)));
        }
        self.backends = Some(backends);
        if !is_busy {
            self.session.phase("backends");
        }
        self.fresh |= !jobs.is_empty();
        for job in jobs {
            let unit = self.places.get(&job.part().unit).copied().unwrap_or_default();
            self.units[unit].lacks += 1;
            let number = self.tasks.len();
            let queue = match self.may_go_elsewhere(&job)? {
                true => &mut self.ready,
                false => &mut self.ready_here,
            };
            queue.push((job.weight(), Reverse(number)));
            self.tasks.push(Task::Backend { unit, job: Box::new(job) });
        }
        Ok(())
    }
}
