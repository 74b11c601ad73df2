//! Processes under make's job control: tokens, slots, children, signals. Must not know
//! what is compiled.
//!
//! ```
//! use std::{io, path::Path};
//! use kthinlto::error::Result;
//! use kthinlto::exec::{action::Action, executor::Processes, interrupt::Interrupts};
//! use kthinlto::exec::process::{Invocation, Outcome};
//! use kthinlto::exec::{run::{Runner, Work}, slots::Slots};
//!
//! /// Three jobs, of which the last fails.
//! struct Three { given: usize, good: usize }
//!
//! impl Work for Three {
//!     fn next(&mut self) -> Result<Option<(usize, Action)>> {
//!         let programs = ["true", "true", "false"];
//!         let program = programs.get(self.given);
//!         self.given += 1;
//!         let what = program.map(|program| Invocation::new([program], Path::new("/")));
//!         Ok(what.map(|what| (self.given, what.into())))
//!     }
//!
//!     fn done(&mut self, _job: usize, outcome: io::Result<Outcome>) -> Result<bool> {
//!         let good = outcome.is_ok_and(|outcome| outcome.status.success());
//!         self.good += usize::from(good);
//!         Ok(good)
//!     }
//! }
//!
//! # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//! let (slots, interrupts) = (Slots::local(2), Interrupts::catch()?);
//! let runner = Runner { slots: &slots, interrupts: &interrupts, keep_going: true };
//! let mut work = Three { given: 0, good: 0 };
//! assert_eq!(runner.run(&mut Processes, &mut work)?, 1, "one failed");
//! assert_eq!(work.good, 2);
//! # Ok(()) }
//! ```

pub mod action;
mod copy;
mod end;
pub mod executor;
pub mod fork_server;
pub(crate) mod helper;
mod huge_pages;
pub mod interrupt;
pub mod jobserver;
pub(crate) mod load;
pub(crate) mod memory;
mod pause;
mod poll;
pub mod process;
pub(crate) mod refused;
#[cfg(feature = "remote")]
pub mod remote;
pub mod run;
mod served;
mod server;
pub mod signals;
pub mod slots;
mod spawn;
mod stack;
pub mod words;
