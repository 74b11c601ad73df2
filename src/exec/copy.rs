//! A copy that a fork server was asked for, as a job: from the moment when it is asked for, though its process
//! comes later, so that nobody waits for that. Ends as a plain process where there is no copy. Must not know how a
//! server makes copies, nor which server is asked.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::executor::{Job, is_shortage};
use super::process::{Invocation, Outcome, Running, end_child};
use super::server::{Asked, Failure, PATIENCE, Server};

/// How long a job waits that there was no room for, and how often.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSES: usize = 600;

/// What a server says to one who asked: the number of the copy, or why there is none.
type Answer = RefCell<Option<Result<Pid, Failure>>>;

/// A server, and those who wait for its answers.
#[derive(Debug)]
pub struct Line {
    server: Server,
    /// In the order in which they asked. Some may have gone.
    waiting: RefCell<VecDeque<Weak<Answer>>>,
    /// Why it is of no more use.
    lost: RefCell<Option<String>>,
    /// Always readable: for those whose answer was read by another.
    told: OwnedFd,
}

impl Line {
    /// Nobody waits yet.
    ///
    /// # Errors
    /// Where there can be no other descriptor.
    pub fn new(server: Server) -> io::Result<Self> {
        let (told, _) = pipe_with(PipeFlags::CLOEXEC)?; // nobody writes to it any more
        Ok(Line { server, waiting: RefCell::default(), lost: RefCell::default(), told })
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// How many copies were asked for and are not there yet.
    pub fn length(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Why it is of no more use: a clause.
    pub fn lost(&self) -> Option<String> {
        self.lost.borrow().clone()
    }

    /// Passes on the answers that are there.
    fn look(&self) {
        while self.length() > 0 {
            match self.server.next_copy() {
                Ok(None) => return,
                Ok(Some(pid)) => self.tell(Ok(pid)),
                Err(Failure::Lost(why)) => {
                    while self.length() > 0 {
                        self.tell(Err(Failure::Lost(why.clone())));
                    }
                    self.lose(why);
                }
                Err(failure) => self.tell(Err(failure)),
            }
        }
    }

    /// Answers the first who waits.
    fn tell(&self, answer: Result<Pid, Failure>) {
        let first = self.waiting.borrow_mut().pop_front();
        match (first.and_then(|first| first.upgrade()), answer) {
            (Some(first), answer) => *first.borrow_mut() = Some(answer),
            (None, Ok(pid)) => end_child(pid),
            (None, Err(_)) => {}
        }
    }

    fn lose(&self, why: String) {
        self.lost.borrow_mut().get_or_insert(why);
    }
}

/// A job that was asked of a server.
#[derive(Debug)]
pub struct CopyJob {
    what: Invocation,
    line: Rc<Line>,
    state: State,
    /// How often there was no room for it.
    pauses: usize,
}

#[derive(Debug)]
enum State {
    /// Its server has not answered, or nobody has looked.
    Asked(Option<Asked>, Rc<Answer>),
    /// There was no room; when to try again.
    Waits(OwnedFd),
    Runs(Running),
}

impl CopyJob {
    /// Asks for a copy.
    pub fn ask(what: &Invocation, line: &Rc<Line>) -> Result<Self, Failure> {
        let asked = line.server.ask(what.inner.as_ref().unwrap_or(&what.argv))?;
        let answer = Rc::new(RefCell::new(None));
        line.waiting.borrow_mut().push_back(Rc::downgrade(&answer));
        let state = State::Asked(Some(asked), answer);
        Ok(CopyJob { what: what.clone(), line: Rc::clone(line), state, pauses: 0 })
    }

    fn answered(&mut self, asked: Option<Asked>, answer: Result<Pid, Failure>) -> io::Result<()> {
        let asked = asked.ok_or(Failure::Unfit);
        match asked.and_then(|asked| asked.begin(answer?)) {
            Ok(running) => {
                self.state = State::Runs(running);
                return Ok(());
            }
            Err(Failure::Lost(why)) => self.line.lose(why),
            Err(Failure::Unfit | Failure::Shortage(_)) => {}
        }
        self.begin_as_process()
    }

    fn begin_as_process(&mut self) -> io::Result<()> {
        self.state = match Running::start(&self.what) {
            Ok(running) => State::Runs(running),
            Err(error) if is_shortage(&error) && self.pauses < PAUSES => {
                self.pauses += 1;
                State::Waits(timer(PAUSE)?)
            }
            Err(error) => return Err(error),
        };
        Ok(())
    }
}

impl Job for CopyJob {
    fn try_finish(&mut self) -> io::Result<Option<Outcome>> {
        match &mut self.state {
            State::Runs(running) => return running.try_finish(),
            State::Waits(_) => self.begin_as_process()?,
            State::Asked(asked, answer) => {
                self.line.look();
                let answer = answer.take();
                if let Some(answer) = answer {
                    let asked = asked.take();
                    self.answered(asked, answer)?;
                }
            }
        }
        Ok(None)
    }

    /// What has not begun never does, once this is dropped.
    fn has_ended(&self) -> bool {
        match &self.state {
            State::Runs(running) => running.has_ended(),
            State::Asked(..) | State::Waits(_) => true,
        }
    }

    fn cancel(&self) {
        if let State::Runs(running) = &self.state {
            running.cancel();
        }
    }

    fn process(&self) -> Option<Pid> {
        match &self.state {
            State::Runs(running) => running.process(),
            State::Asked(..) | State::Waits(_) => None,
        }
    }

    fn is_here(&self) -> bool {
        true
    }

    /// Of one that has not begun, a server that does not answer is killed: it begins as a process then.
    fn signal(&self, signal: Signal) {
        match &self.state {
            State::Runs(running) => running.signal(signal),
            State::Asked(..) if signal == Signal::KILL => self.line.server.kill(),
            State::Asked(..) | State::Waits(_) => {}
        }
    }

    fn was_stopped(&mut self, time: Duration) {
        match &mut self.state {
            State::Runs(running) => running.was_stopped(time),
            State::Asked(Some(asked), _) => asked.was_stopped(time),
            State::Asked(None, _) | State::Waits(_) => {}
        }
    }

    fn is_hopeless(&self) -> bool {
        match &self.state {
            State::Runs(running) => running.is_hopeless(),
            State::Asked(asked, _) => {
                asked.as_ref().is_some_and(|asked| asked.started().elapsed() > PATIENCE)
            }
            State::Waits(_) => false,
        }
    }

    fn is_in_doubt(&self) -> bool {
        matches!(&self.state, State::Runs(running) if running.is_in_doubt())
    }
}

impl AsFd for CopyJob {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.state {
            State::Runs(running) => running.as_fd(),
            State::Waits(timer) => timer.as_fd(),
            State::Asked(_, answer) if answer.borrow().is_some() => self.line.told.as_fd(),
            State::Asked(..) => self.line.server.as_fd(),
        }
    }
}

/// Readable after so long.
fn timer(time: Duration) -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let it_value = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    let once = Itimerspec { it_interval: zero, it_value };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(timer)
}
