//! What the stage has to know of a bitcode file without LLVM: which
//! symbols it defines, which files its inline assembly includes, what its index
//! imports. Must not know of jobs, flags or the tree.
//!
//! ```
//! use kthinlto::bitcode::asm;
//! let mut found = asm::Includes::default();
//! asm::scan(b".incbin \"kernel/config_data.gz\"\n.include x", &mut found);
//! assert_eq!(found.files, ["kernel/config_data.gz"]);
//! assert!(found.unknown, "the second is no literal name: such a module is compiled each time");
//! ```

mod abbrevs;
pub mod asm;
pub mod bitstream;
pub mod index;
pub(crate) mod symtab;
