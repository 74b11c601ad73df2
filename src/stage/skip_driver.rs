//! Lets backends skip the compiler's driver: asks it twice for each set of flags that many of them
//! share. Every answer that is not plain leaves them as they are.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

use super::Settings;
use super::backends::{Backends, Job};
use super::choose_executor::Current;
use crate::backend::cc1::{ASK, REPORTS, Template};
use crate::exec::executor::{Executor, finish};
use crate::store::Digest;

/// Backends that the same answer has to serve before asking pays: it is as long as the driver's
/// part of some ten of them.
const ENOUGH: usize = 16;

/// What the driver said for each set of flags that it was asked about; nothing, where it was of no use.
pub(super) type Answers = HashMap<Digest, Option<Rc<Template>>>;

/// Gives those of the jobs that share their flags with many the command that the driver would run, and
/// returns how many have one now. Takes a slot that the caller holds.
pub(super) fn skip(
    backends: &Backends,
    executor: &Current,
    settings: &Settings,
    jobs: &mut [&mut Job],
    answers: &mut Answers,
) -> usize {
    let reports = |name: &str| REPORTS.iter().any(|start| name.starts_with(start));
    let mut variables = settings.environment.iter();
    let reported = variables.any(|(name, _)| name.to_str().is_none_or(reports));
    if !executor.takes_inner() || reported {
        return 0;
    }
    let mut sets: HashMap<Digest, Vec<usize>> = HashMap::new();
    for (number, job) in jobs.iter().enumerate() {
        sets.entry(job.flag_set.digest).or_default().push(number);
    }
    let mut skipped = 0;
    for (set, numbers) in sets {
        if !answers.contains_key(&set) && numbers.len() >= ENOUGH {
            // The first and the last: they may well be in different folders.
            let (first, last) = (&jobs[numbers[0]], &jobs[numbers[numbers.len() - 1]]);
            let template = learn(backends, executor, &settings.tree, first, last);
            answers.insert(set, template.map(Rc::new));
        }
        if let Some(Some(template)) = answers.get(&set) {
            skipped += numbers.len();
            numbers.iter().for_each(|number| jobs[*number].inner = Some(template.clone()));
        }
    }
    skipped
}

fn learn(
    backends: &Backends,
    executor: &Current,
    tree: &Path,
    first: &Job,
    last: &Job,
) -> Option<Template> {
    let ask = |job: &Job| {
        let mut what = backends.invocation(tree, job);
        what.argv.push(ASK);
        let outcome = executor.clone().start(&what.into()).and_then(finish);
        outcome.ok().filter(|outcome| outcome.status.success()).map(|outcome| outcome.output)
    };
    let (one, other) = (ask(first)?, ask(last)?);
    Template::learn((first.part(), &one), (last.part(), &other))
}
