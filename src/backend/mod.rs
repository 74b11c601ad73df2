//! One backend compile: flags from the front end's record, inputs and key, command, and
//! what makes its output good. Must not know about scheduling.
//!
//! ```
//! use kthinlto::backend::command::invocation;
//! use kthinlto::backend::flags;
//! use kthinlto::unit::Part;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tree = tempfile::tempdir()?;
//! let record = "savedcmd_panic.o := clang -Iinclude -DMODULE -O2 -Wall -c -o panic.o panic.c\n";
//! std::fs::write(tree.path().join(".panic.o.cmd"), record)?;
//! let flags = flags::recorded(tree.path(), "panic.o")?;
//! assert!(flags.words.iter().eq(["-O2", "-Wall"]));
//! assert!(flags::recorded(tree.path(), "other.o").is_err(), "never with guessed flags");
//!
//! let part = Part::of_vmlinux("panic.o");
//! let what = invocation(&["clang".into()], &flags, &part, "out.o", tree.path(), false);
//! let end = ["-fthinlto-index=panic.o.thinlto.bc", "-c", "-o", "out.o", "panic.o"];
//! assert!(what.argv.iter().collect::<Vec<_>>().ends_with(&end));
//! assert_eq!(part.native(), "panic.thinlto-native.o");
//! # Ok(()) }
//! ```

pub(crate) mod cc1;
pub mod command;
pub mod flags;
pub(crate) mod flagset;
pub mod inputs;
mod maker;
