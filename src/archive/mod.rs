//! The archive phase: kbuild's nested `built-in.a` in, an ordered list of members and
//! thin archives out. Must not know about compilers, flags or jobs.
//!
//! ```
//! use kthinlto::archive::{order::head_objects_first, read::flatten, write};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tree = tempfile::tempdir()?;
//! std::fs::create_dir(tree.path().join("kernel"))?;
//! let put = |name: &str, members: &[&str]| {
//!     let entries: Vec<_> = members.iter().map(|m| write::Entry::new(*m, 0)).collect();
//!     std::fs::write(tree.path().join(name), write::thin_archive(&entries))
//! };
//! put("kernel/built-in.a", &["panic.o", "head.o"])?;
//! put("built-in.a", &["init.o", "kernel/built-in.a"])?;
//!
//! let members = flatten(tree.path(), &["built-in.a".into()])?;
//! assert_eq!(members, ["init.o", "kernel/panic.o", "kernel/head.o"]);
//! let ordered = head_objects_first(members, "kernel/head.o\n");
//! assert_eq!(ordered, ["kernel/head.o", "init.o", "kernel/panic.o"]);
//! # Ok(()) }
//! ```

pub mod order;
pub mod read;
pub(crate) mod symbols;
pub mod write;
