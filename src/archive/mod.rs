//! The archive phase: kbuild's nested `built-in.a` in, an ordered list of members and
//! thin archives out. Must not know about compilers, flags or jobs.

pub mod order;
pub mod read;
pub mod symbols;
pub mod write;
