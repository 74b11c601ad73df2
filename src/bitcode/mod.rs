//! What the stage has to know of a bitcode file without LLVM: whether it is one, which
//! symbols it defines, which files its inline assembly includes. Must not know of jobs,
//! flags or the tree.

pub mod asm;
pub mod bitstream;
pub mod symtab;

pub use bitstream::has_magic as is_bitcode;
