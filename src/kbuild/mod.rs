//! What kbuild writes and expects: `.cmd` files, `MAKEFLAGS`, the patch series for kernel
//! trees. Must not know about LTO.

pub mod cmd_file;
pub mod makeflags;
pub mod patches;
