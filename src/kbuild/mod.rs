//! What kbuild writes and expects: the configuration, `.cmd` files, lists and records of loadable
//! modules, `MAKEFLAGS`, the patch series for kernel trees. Must not know how anything is made.
//!
//! ```
//! use kthinlto::kbuild::{cmd_file, makeflags};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let record = cmd_file::CmdFile::parse("savedcmd_a.o := clang -DX=$$y -c -o a.o a.c\n");
//! let command = record.command.ok_or("no command")?;
//! assert_eq!(command, "clang -DX=$y -c -o a.o a.c");
//! assert!(cmd_file::first_command(&command).is_err(), "no flags are taken from an expansion");
//!
//! let make = makeflags::MakeFlags::parse("kn -j8 --jobserver-auth=3,4");
//! assert!(make.keep_going && make.dry_run);
//! assert_eq!(make.auth, Some(makeflags::Auth::Pipe { read: 3, write: 4 }));
//! # Ok(()) }
//! ```

pub(crate) mod architecture;
pub(crate) mod auto_conf;
pub mod cmd_file;
pub(crate) mod ld_flags;
pub mod makeflags;
pub mod module;
#[cfg(feature = "program")]
pub mod patches;
mod shell;
