//! What kbuild writes and expects: the configuration, `.cmd` files, `MAKEFLAGS`, the patch
//! series for kernel trees. Must not know about LTO.

pub mod auto_conf;
pub mod cmd_file;
pub mod makeflags;
pub mod patches;
