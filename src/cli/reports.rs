//! What a run shows of itself, as the options ask: kbuild's lines or progress while it goes
//! on, files when it has ended.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::args::{Reports, When};
use super::mode::Mode;
use super::named::create_named;
use crate::environment::Environment;
use crate::error::Error;
use crate::kbuild::makeflags::MakeFlags;
use crate::report::console::{Console, Verbosity};
use crate::report::progress::{self, Progress};
use crate::report::record::{Recorder, Run};
use crate::report::{Event, Listener, json, timings, trace};

/// The listeners of one run, and the files that wait for its end.
pub struct Listeners {
    console: Box<dyn Listener>,
    /// None where no file is wanted.
    recorder: Option<Recorder>,
    files: Vec<ReportFile>,
    /// Something is made, or would be.
    steps: bool,
}

/// Makes a report of a run.
type Render = fn(&Run) -> String;

/// A file to write, and in which way.
struct ReportFile {
    path: PathBuf,
    file: File,
    render: Render,
}

/// What is run, for the head of a report.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The command.
    pub command: &'static str,
    /// The object tree.
    pub tree: &'a Path,
    /// How much of it is done.
    pub mode: Mode,
}

impl Listeners {
    /// Opens the files, so that one that cannot be written is known before any work is done.
    pub fn new(
        verbosity: Verbosity,
        asked: &Reports,
        make: &MakeFlags,
        about: About<'_>,
    ) -> Result<Self, Error> {
        let wanted: [(_, Render); 3] = [
            (&asked.timings, timings::render),
            (&asked.trace, trace::render),
            (&asked.json, json::render),
        ];
        let named = wanted.into_iter().filter_map(|(path, render)| {
            let path = path.clone().filter(|path| !path.as_os_str().is_empty())?;
            Some((path, render))
        });
        let files: Result<Vec<ReportFile>, Error> = named
            .map(|(path, render)| {
                let file = create_named(&path)?;
                Ok(ReportFile { path, file, render })
            })
            .collect();
        let files = files?;
        let recorder = (!files.is_empty())
            .then(|| Recorder::new(about.command, about.tree, about.mode.is_dry()));
        let console = console(verbosity, asked, make, about.mode);
        Ok(Listeners { console, recorder, files, steps: false })
    }

    /// Whether something was made, or would have been.
    pub fn has_steps(&self) -> bool {
        self.steps
    }

    /// Writes the files. Returns the run's own error, or that of a file.
    pub fn finish<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        drop(self.console); // the progress ends before the files, which may take a moment
        if let Some(recorder) = self.recorder {
            let error = result.as_ref().err();
            let code = error.map_or(0, Error::exit_code);
            let run = recorder.finish(code, error.map(Error::to_string));
            for ReportFile { path, mut file, render } in self.files {
                let written = file.write_all(render(&run).as_bytes());
                if let Err(error) = written.map_err(|error| Error::io("write", path, error)) {
                    return Err(result.err().unwrap_or(error));
                }
            }
        }
        result
    }
}

impl Listener for Listeners {
    fn on(&mut self, event: &Event<'_>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.on(event);
        }
        self.steps |= matches!(event, Event::Step { .. });
        self.console.on(event);
    }

    fn wants_modules(&self) -> bool {
        self.recorder.is_some()
    }
}

/// Hears what would be done, and says nothing: what goes wrong is the run's own error.
struct Nobody;

impl Listener for Nobody {
    fn on(&mut self, _: &Event<'_>) {}
}

/// Who tells the user: kbuild's lines, with progress below them where that can be shown.
fn console(
    verbosity: Verbosity,
    asked: &Reports,
    make: &MakeFlags,
    mode: Mode,
) -> Box<dyn Listener> {
    if mode.is_silent() {
        return Box::new(Nobody);
    }
    let wanted = asked.progress == When::Auto && !verbosity.silent && !mode.is_dry();
    let environment = Environment::of_process();
    match wanted && !make.output_sync && progress::is_possible(&environment) {
        true => Box::new(Progress::new(verbosity, &environment)),
        false => Box::new(Console::new(verbosity)),
    }
}
