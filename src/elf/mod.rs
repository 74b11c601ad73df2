//! What several phases ask of ELF files: the class, by which the same code reads files of either,
//! the loader that a program names, and symbols as nm lists them. Must not know who asks.
//!
//! ```
//! use kthinlto::elf::{Class, nm};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let program = std::fs::read(std::env::current_exe()?)?;
//! assert!(Class::of(&program[..]).is_some());
//! let symbols = nm::defined(&program[..])?; // as `llvm-nm -n` lists them
//! assert!(symbols.is_sorted_by_key(|symbol| (symbol.address, symbol.name)));
//! assert!(symbols.iter().any(|symbol| (symbol.letter, symbol.name) == (b'T', b"_start")));
//! # Ok(()) }
//! ```

pub mod nm;

use object::read::elf::{ElfFile, FileHeader, ProgramHeader};
use object::{Endianness, FileKind, ReadRef};

/// How wide a file's addresses are. Its byte order is read with its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// ELFCLASS32.
    Bits32,
    /// ELFCLASS64.
    Bits64,
}

impl Class {
    /// The class of a file; `None` if it is not ELF, or of a class that is not known.
    pub fn of<'data>(file: impl ReadRef<'data>) -> Option<Self> {
        match FileKind::parse(file) {
            Ok(FileKind::Elf32) => Some(Class::Bits32),
            Ok(FileKind::Elf64) => Some(Class::Bits64),
            _ => None,
        }
    }
}

/// Calls a function whose type parameter is the type of an ELF header with that of this file's
/// class: `by_class!(file, read(file, more))`. `None` where [`Class::of`] knows none.
macro_rules! by_class {
    ($file:expr, $($function:ident)::+($($argument:expr),*)) => {{
        use object::Endianness;
        use object::elf::{FileHeader32, FileHeader64};
        match $crate::elf::Class::of($file) {
            Some($crate::elf::Class::Bits32) => {
                Some($($function)::+::<FileHeader32<Endianness>>($($argument),*))
            }
            Some($crate::elf::Class::Bits64) => {
                Some($($function)::+::<FileHeader64<Endianness>>($($argument),*))
            }
            None => None,
        }
    }};
}
pub(crate) use by_class;

/// The dynamic loader that a program names; `None` for one that is linked statically.
pub(crate) fn interpreter<'data, E, R>(program: &ElfFile<'data, E, R>) -> Option<&'data [u8]>
where
    E: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let (endian, data) = (program.endian(), program.data());
    let mut headers = program.elf_program_headers().iter();
    headers.find_map(|header| header.interpreter(endian, data).ok().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_is_that_of_the_fifth_byte() {
        let file = |class| [b"\x7fELF".as_slice(), &[class], &[0; 60]].concat();
        let classes = [1, 2, 3].map(|class| Class::of(file(class).as_slice()));
        assert_eq!(classes, [Some(Class::Bits32), Some(Class::Bits64), None]);
        assert_eq!(Class::of(b"\x7fELF\x02".as_slice()), None, "cut short");
        assert_eq!(Class::of(b"BC\xc0\xde".as_slice()), None);
    }
}
