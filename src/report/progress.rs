//! Progress on a terminal: kbuild's lines scroll as they always do, and below them some lines
//! say how far the run is. A thread draws them again while nothing happens but time.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::console::{Verbosity, render};
use super::plain::plain;
use super::screen::Screen;
use super::status::{Status, failures};
use super::{Event, Listener};
use crate::environment::Environment;

/// How often the lines are looked at: ages are shown in seconds.
const TICK: Duration = Duration::from_millis(200);
/// Failed objects that are named once more at the end.
const NAMED_AT_THE_END: usize = 20;

/// Console and progress in one: only who draws the lines can print above them.
#[derive(Debug)]
pub struct Progress {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    view: Mutex<View>,
    over: Condvar,
}

#[derive(Debug)]
struct View {
    verbosity: Verbosity,
    status: Status,
    screen: Screen,
    over: bool,
}

/// Whether lines can be drawn again on standard error: a terminal that can move its cursor.
pub fn is_possible(environment: &Environment) -> bool {
    let term = environment.get("TERM").and_then(OsStr::to_str);
    let able = term.is_some_and(|term| !term.is_empty() && term != "dumb");
    able && std::io::stderr().is_terminal()
}

/// Whether the user wants colour: <https://no-color.org>.
fn wants_colour(environment: &Environment) -> bool {
    environment.get("NO_COLOR").is_none_or(OsStr::is_empty)
}

impl Progress {
    /// Begins to draw on standard error, and prints as much as asked above.
    pub fn new(verbosity: Verbosity, environment: &Environment) -> Self {
        let view = View {
            verbosity,
            status: Status::new(Instant::now()),
            screen: Screen::new(wants_colour(environment)),
            over: false,
        };
        let shared = Arc::new(Shared { view: Mutex::new(view), over: Condvar::new() });
        let theirs = Arc::clone(&shared);
        // Without it the lines are drawn at events alone.
        let ticker = std::thread::Builder::new().name("progress".to_owned());
        Progress { shared, ticker: ticker.spawn(move || theirs.tick()).ok() }
    }
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        let mut view = self.view();
        while !view.over {
            let waited = self.over.wait_timeout(view, TICK).unwrap_or_else(PoisonError::into_inner);
            view = waited.0;
            if !view.over {
                view.draw();
            }
        }
    }
}

impl View {
    fn draw(&mut self) {
        let lines = self.status.lines(Instant::now(), self.screen.size());
        self.screen.show(lines);
    }

    fn print(&mut self, event: &Event<'_>) {
        let (out, err) = render(self.verbosity, event);
        if !out.is_empty() || !err.is_empty() {
            let lines = self.status.lines(Instant::now(), self.screen.size());
            self.screen.print(&out, &err, lines);
        }
    }

    /// Our lines go; what failed stays.
    fn end(&mut self) {
        self.over = true;
        let failed = failures(self.status.failed(), NAMED_AT_THE_END);
        let text: String = failed.iter().map(|line| format!("{}\n", plain(&line.text))).collect();
        self.screen.print(b"", text.as_bytes(), Vec::new());
    }
}

impl Listener for Progress {
    fn on(&mut self, event: &Event<'_>) {
        let mut view = self.shared.view();
        view.status.on(event, Instant::now());
        view.print(event);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shared.view().end();
        self.shared.over.notify_all();
        if let Some(ticker) = self.ticker.take() {
            // It has nothing to say that could be missed.
            let _ = ticker.join();
        }
    }
}
