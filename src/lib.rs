//! Distributed ThinLTO for Linux kernels.
//!
//! One object's way, and the modules in the order in which it meets them:
//!
//! ```text
//! kbuild's tree ─► archive ─► thinlink ─► plan ─► exec ─► archive
//!                  bitcode                backend
//! ```
//!
//! [`stage::build`] runs all of it; each phase is a function on plain data of its own.
//! [`store`] remembers what was built from what, [`report`] tells the user.

pub mod error;
pub mod kbuild;

pub mod archive;
pub mod bitcode;

pub mod store;
pub mod toolchain;

pub mod thinlink;

pub mod backend;
pub mod plan;

pub mod exec;
pub mod parallel;

pub mod modpost;
pub mod relink;

pub mod report;
pub mod stage;

pub mod cli;
