//! Distributed ThinLTO for Linux kernels, as a library: each phase of the stage is a function
//! on plain data, and the program `kthinlto` is a thin edge around them.
//!
//! One object's way, and the modules in the order in which it meets them:
//!
//! ```text
//! kbuild's tree ─► archive ─► thinlink ─► plan ─► exec ─► archive
//!                  bitcode                backend
//! ```
//!
//! | to do this | call |
//! |---|---|
//! | all of it, for the kernel or any [`unit::Unit`] | [`stage::build`] |
//! | members of nested thin archives, in link order | [`archive::read::flatten`], [`archive::order::head_objects_first`] |
//! | indexes and imports | [`thinlink::ThinLink`], [`thinlink::Scratch::take`] |
//! | which backends have to run, and why | [`plan::plan`] |
//! | one backend's flags and command | [`backend::flags::recorded`], [`backend::command::invocation`] |
//! | processes under make's jobserver | [`exec::run::Runner`] |
//! | jobs on other machines, with the feature `remote` | `exec::remote::Remote` |
//! | a thin archive as llvm-ar writes it | [`archive::write::thin_archive`] |
//! | what an object is made from | [`stage::explain::explain`] |
//! | exported symbols and their versions | [`modpost::read`] |
//! | the order of initcalls | [`initcalls`] |
//! | the final link and kallsyms | [`vmlinux::link`] |
//!
//! [`store`] remembers what was built from what; [`report`] is what a listener hears. Each
//! module has an example, and `examples/phases.rs` is a whole program that calls the phases
//! one by one. Errors are [`error::Error`]: a sentence, a variant to match, an exit code.
//!
//! # What stays the same
//!
//! Versions follow semver. While they begin with 0, a change of the middle number may change
//! any function here, and a change of the last does not. What is stable already, and changes
//! with a word in CHANGELOG.md only: the program's commands and options, its exit codes, the names and
//! bytes of its outputs. No promise covers `cli` as a library, the texts of messages, or what
//! is below `.kthinlto/`: of another version, it is made anew.
//!
//! The feature `program`, on by default, has `cli` and `kbuild::patches`, and all crates that only
//! they need; `remote`, on by default too, has `exec::remote`, jobs on other machines. A program that calls
//! the phases sets `default-features = false`.
//!
//! Linux only: jobs are ended and reaped through process descriptors, or SIGCHLD where there are none.

pub mod elf;
pub mod environment;
pub mod error;
pub mod format;
pub mod regular;
pub mod room;

pub mod kbuild;

pub mod archive;
pub mod bitcode;

pub(crate) mod flag_files;
pub mod inputs;
pub mod store;
pub mod toolchain;
pub mod unit;

pub mod thinlink;

pub mod backend;
pub mod plan;

pub mod exec;
mod parallel;

pub mod initcalls;
pub mod modpost;
pub mod vmlinux;

pub mod relink;

pub mod report;
pub mod stage;

#[cfg(feature = "program")]
pub mod cli;
