//! One backend compile: flags from the front end's record, inputs and key, command, and
//! what makes its output good. Must not know about scheduling.

pub mod command;
pub mod flags;
pub mod flagset;
pub mod inputs;
