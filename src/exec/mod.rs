//! Processes under make's job control: tokens, slots, children, signals. Must not know
//! what is compiled.

pub mod interrupt;
pub mod jobserver;
pub mod process;
pub mod run;
pub mod slots;
