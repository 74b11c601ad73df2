//! The right to run one process. The first slot is make's implicit one; others are
//! jobserver tokens, or counted here where there is no jobserver. A slot is a value that
//! cannot be copied and gives itself back when it is dropped, on every way out.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::jobserver::{Jobserver, Unusable};
use super::load::{self, Limit};
use crate::kbuild::makeflags::{Jobs, MakeFlags};

/// Hands out slots. Clones share the same pool.
#[derive(Debug, Clone)]
pub struct Slots {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    server: Option<Jobserver>,
    state: Mutex<State>,
    limit: usize,
    load: Option<Limit>,
}

#[derive(Debug, Default)]
struct State {
    in_use: usize,
    implicit_taken: bool,
    server_gone: bool,
    /// The load was too high when a slot was asked for last.
    held_back: bool,
    /// What the user has not been told yet.
    warnings: Vec<String>,
}

/// The right to run one process until it is dropped. Reap the process first.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<Pool>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The one that make gave by starting us. Never written anywhere.
    Implicit,
    /// A jobserver's token; the same byte goes back.
    Token(u8),
    /// Counted here.
    Local,
}

/// Slots as the environment grants them, with a warning where it is damaged.
#[derive(Debug)]
pub struct Granted {
    /// The pool.
    pub slots: Slots,
    /// One sentence for the user, if the jobserver could not be used.
    pub warning: Option<String>,
}

impl Slots {
    /// At most `limit` slots (at least one), with no jobserver.
    pub fn local(limit: usize) -> Self {
        Self::with(None, limit.max(1), None)
    }

    /// The implicit slot and a jobserver's tokens, at most `limit` together.
    pub fn client(server: Jobserver, limit: usize) -> Self {
        Self::with(Some(server), limit.max(1), None)
    }

    fn with(server: Option<Jobserver>, limit: usize, load: Option<Limit>) -> Self {
        let pool = Pool { server, state: Mutex::default(), limit, load };
        Slots { pool: Arc::new(pool) }
    }

    /// What `MAKEFLAGS` grants. `make` is `None` where no make started us; `asked` is our
    /// own `-j`, which can only lower what a jobserver grants; `cores` serves where nobody
    /// gives a number.
    pub fn granted(make: Option<&MakeFlags>, asked: Option<usize>, cores: usize) -> Granted {
        let quiet = |slots| Granted { slots, warning: None };
        let Some(make) = make else {
            return quiet(Self::local(asked.unwrap_or(cores)));
        };
        let load = make.load.map(Limit::new);
        let Some(auth) = &make.auth else {
            let jobs = match make.jobs {
                Some(Jobs::Limit(limit)) => limit,
                Some(Jobs::Unlimited) => cores,
                None => 1,
            };
            return quiet(Self::with(None, asked.unwrap_or(jobs).max(1), load));
        };
        match Jobserver::open(auth) {
            Ok(server) => quiet(Self::with(Some(server), asked.unwrap_or(usize::MAX).max(1), load)),
            Err(Unusable { found, remedy }) => Granted {
                slots: Self::local(1),
                warning: Some(format!(
                    "make's jobserver cannot be used ({found}); running one job at a time: {remedy}"
                )),
            },
        }
    }

    /// A slot, if one is free now.
    pub fn try_acquire(&self) -> Option<Slot> {
        let mut state = self.pool.state();
        state.held_back = false;
        if state.in_use >= self.pool.limit {
            return None;
        }
        let kind = if !state.implicit_taken {
            state.implicit_taken = true;
            Kind::Implicit
        } else {
            self.pool.extra(&mut state)?
        };
        state.in_use += 1;
        Some(Slot { pool: Arc::clone(&self.pool), kind })
    }

    /// Slots that are free now, at most `most`: for threads of a program that can use several.
    pub fn try_acquire_up_to(&self, most: usize) -> Vec<Slot> {
        std::iter::from_fn(|| self.try_acquire()).take(most).collect()
    }

    /// What to poll for a token when [`try_acquire`](Self::try_acquire) gave none; `None`
    /// where only the end of one of our own jobs, or a lower load, can free a slot.
    pub(crate) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        let state = self.pool.state();
        let may_read = state.in_use < self.pool.limit && !state.server_gone && !state.held_back;
        let server = self.pool.server.as_ref().filter(|_| may_read)?;
        Some(server.as_fd())
    }
}

impl Slots {
    /// When to ask again, if the load of the machine was the reason that there was no slot:
    /// nothing that could be polled tells of that.
    pub(crate) fn wait_time(&self) -> Option<Duration> {
        self.pool.state().held_back.then_some(load::PAUSE)
    }

    /// What went wrong with the jobserver since this was asked, as sentences for the user.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.pool.state().warnings)
    }
}

impl Pool {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot beyond the implicit one.
    fn extra(&self, state: &mut State) -> Option<Kind> {
        if self.load.is_some_and(Limit::is_reached) {
            state.held_back = true;
            return None;
        }
        let Some(server) = &self.server else {
            return Some(Kind::Local);
        };
        if state.server_gone {
            return None;
        }
        match server.try_read() {
            Ok(token) => token.map(Kind::Token),
            Err(error) => {
                let text = format!("make's jobserver went away ({error}); going on with one job");
                state.warnings.push(text);
                state.server_gone = true;
                None
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.in_use -= 1;
        match self.kind {
            Kind::Implicit => state.implicit_taken = false,
            Kind::Token(token) => {
                let written = self.pool.server.as_ref().map(|server| server.write_back(token));
                if let Some(Err(error)) = written {
                    let text = format!(
                        "a token could not be given back to make's jobserver ({error}); \
                         make will report that one is missing"
                    );
                    state.warnings.push(text);
                }
            }
            Kind::Local => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kbuild::makeflags::Auth;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_local_pool_never_gives_more_than_its_limit() {
        let slots = Slots::local(3);
        let held = slots.try_acquire_up_to(10);
        assert_eq!(held.len(), 3);
        assert!(slots.try_acquire().is_none());
        drop(held);
        assert!(slots.try_acquire().is_some());
    }

    #[test]
    fn the_implicit_slot_comes_first_and_is_not_written_back() {
        // The crate that cargo uses serves the tokens, as an independent peer.
        let server = jobserver::Client::new(2).unwrap();
        let mut command = std::process::Command::new("true");
        server.configure_make(&mut command);
        let makeflags = command
            .get_envs()
            .find_map(|(name, value)| (name == "MAKEFLAGS").then_some(value?))
            .unwrap();
        let flags = MakeFlags::parse(makeflags.to_str().unwrap());
        let granted = Slots::granted(Some(&flags), None, 8);
        assert_eq!(granted.warning, None);
        let first = granted.slots.try_acquire().unwrap();
        assert_eq!(server.available().unwrap(), 2, "the implicit slot reads no token");
        let more = granted.slots.try_acquire_up_to(8);
        assert_eq!((more.len(), server.available().unwrap()), (2, 0));
        drop(first);
        assert_eq!(server.available().unwrap(), 0);
        drop(more);
        assert_eq!(server.available().unwrap(), 2);
    }

    #[test]
    fn our_own_j_only_lowers_what_make_grants() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, b"++++").unwrap();
        let auth = Auth::Pipe { read: read.as_raw_fd(), write: write.as_raw_fd() };
        let flags = MakeFlags { auth: Some(auth), ..MakeFlags::default() };
        let slots = Slots::granted(Some(&flags), Some(2), 8).slots;
        assert_eq!(slots.try_acquire_up_to(9).len(), 2);
    }

    #[test]
    fn without_a_jobserver_make_and_the_user_decide() {
        let count = |make: Option<&str>, asked| {
            let flags = make.map(MakeFlags::parse);
            let slots = Slots::granted(flags.as_ref(), asked, 5).slots;
            slots.try_acquire_up_to(100).len()
        };
        assert_eq!(count(None, None), 5);
        assert_eq!(count(None, Some(3)), 3);
        assert_eq!(count(Some(""), None), 1, "make without -j runs one job");
        assert_eq!(count(Some(" -j1"), None), 1);
        assert_eq!(count(Some(" -j"), None), 5);
        assert_eq!(count(Some(""), Some(4)), 4);
    }

    #[test]
    fn a_load_that_is_too_high_leaves_the_implicit_slot() {
        let slots = |text: &str| Slots::granted(Some(&MakeFlags::parse(text)), None, 8).slots;
        let busy = slots(" -j4 -l0");
        assert_eq!(busy.try_acquire_up_to(9).len(), 1);
        let held = busy.try_acquire();
        assert!(held.is_some() && busy.wait_time().is_none());
        assert!(busy.try_acquire().is_none());
        assert_eq!(busy.wait_time(), Some(load::PAUSE));
        let calm = slots(" -j4 -l100000");
        assert_eq!((calm.try_acquire_up_to(9).len(), calm.wait_time()), (4, None));
    }

    #[test]
    fn a_server_that_goes_away_is_told_once() {
        use std::io::Write;
        let (ours, mut make) = std::os::unix::net::UnixStream::pair().unwrap();
        make.write_all(b"x").unwrap();
        let auth = Auth::Pipe { read: ours.as_raw_fd(), write: ours.as_raw_fd() };
        let flags = MakeFlags { auth: Some(auth), ..MakeFlags::default() };
        let slots = Slots::granted(Some(&flags), None, 8).slots;
        let held = slots.try_acquire_up_to(2);
        drop(make);
        assert!(held.len() == 2 && slots.try_acquire_up_to(9).is_empty());
        assert!(slots.wait_fd().is_none(), "its end would be readable for ever");
        drop(held);
        let warnings = slots.take_warnings();
        assert!(warnings.len() == 2 && warnings[0].contains("went away"), "{warnings:?}");
        assert!(warnings[1].contains("could not be given back"), "{warnings:?}");
        assert!(slots.take_warnings().is_empty());
    }

    #[test]
    fn a_lost_jobserver_names_the_missing_plus() {
        let flags = MakeFlags::parse(" -j4 --jobserver-auth=9998,9999");
        let granted = Slots::granted(Some(&flags), None, 8);
        assert!(granted.warning.unwrap().ends_with("with `+`"));
        assert_eq!(granted.slots.try_acquire_up_to(9).len(), 1);
    }
}
