//! Spares backends the compiler's driver: asks it twice for each set of flags that many of them
//! share. Every answer that is not plain leaves them as they are.

use std::collections::HashMap;
use std::rc::Rc;

use super::backends::Backends;
use crate::backend::cc1::{ASK, REPORTS, Template};
use crate::exec::executor::{Executor, finish};
use crate::exec::slots::Slots;
use crate::report::Event;

/// Backends that the same answer has to serve before asking pays: it is as long as the driver's
/// part of some ten of them.
const ENOUGH: usize = 16;

impl Backends<'_> {
    /// Gives the jobs that share their flags with many the command that the driver would run.
    pub(super) fn spare_driver(&mut self, executor: &mut dyn Executor, slots: &Slots) {
        let reports = |name: &str| REPORTS.iter().any(|start| name.starts_with(start));
        let reported = std::env::vars_os().any(|(name, _)| name.to_str().is_none_or(reports));
        if !executor.takes_inner() || reported {
            return;
        }
        let mut sets: HashMap<_, Vec<usize>> = HashMap::new();
        for (number, job) in self.jobs.iter().enumerate() {
            sets.entry(job.flag_set.digest).or_default().push(number);
        }
        let mut spared = 0;
        for numbers in sets.into_values().filter(|numbers| numbers.len() >= ENOUGH) {
            let Some(template) = self.learn(&numbers, executor, slots) else {
                continue;
            };
            let template = Rc::new(template);
            spared += numbers.len();
            numbers.iter().for_each(|number| self.jobs[*number].inner = Some(template.clone()));
        }
        if spared > 0 {
            let text = format!("{spared} backends begin at cc1, past the compiler's driver");
            self.listener.on(&Event::Note(&text));
        }
    }

    /// Asks for the first and the last: they may well be in different folders.
    fn learn(
        &self,
        numbers: &[usize],
        executor: &mut dyn Executor,
        slots: &Slots,
    ) -> Option<Template> {
        let (first, last) = (*numbers.first()?, *numbers.last()?);
        let mut ask = |number: usize| {
            // No child runs yet: the implicit slot is free.
            let _slot = slots.try_acquire();
            let mut what = self.invocation(number);
            what.argv.push(ASK);
            let outcome = executor.start(&what).and_then(finish);
            outcome.ok().filter(|outcome| outcome.status.success()).map(|outcome| outcome.output)
        };
        let (one, other) = (ask(first)?, ask(last)?);
        Template::learn((self.object(first), &one), (self.object(last), &other))
    }
}
