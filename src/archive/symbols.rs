//! The symbols that an archive's table lists for one member, native or IR. Knows object
//! formats; must not know archives.

use object::elf;
use object::read::elf::{ElfFile, FileHeader};
use object::{Endianness, Object, ObjectSymbol, SymbolFlags};

use crate::bitcode;
use crate::format::Format;

/// Defined global symbols of a member, in its symbol table's order, or `None` for a file
/// that is no object. A damaged object counts as one with no symbols, as for `llvm-ar`'s
/// reader a table is a convenience; who compiles or links it will complain.
pub fn defined_globals(bytes: &[u8]) -> Option<Vec<String>> {
    if Format::of(bytes) == Format::Bitcode {
        return Some(bitcode::symtab::defined(bytes).unwrap_or_default());
    }
    match object::FileKind::parse(bytes).ok()? {
        object::FileKind::Elf64 => Some(elf_globals::<elf::FileHeader64<Endianness>>(bytes)),
        object::FileKind::Elf32 => Some(elf_globals::<elf::FileHeader32<Endianness>>(bytes)),
        _ => None,
    }
}

fn elf_globals<E: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Vec<String> {
    let Ok(file) = ElfFile::<E>::parse(bytes) else {
        return Vec::new();
    };
    file.symbols()
        .filter(|symbol| !symbol.is_undefined() && is_listed(symbol.flags()))
        .filter_map(|symbol| Some(String::from_utf8_lossy(symbol.name_bytes().ok()?).into_owned()))
        .collect()
}

/// Global or weak, and no section or file symbol (LLVM's `SF_Global`, not `SF_FormatSpecific`).
fn is_listed<S, T>(flags: SymbolFlags<S, T>) -> bool {
    let SymbolFlags::Elf { st_info, .. } = flags else {
        return false;
    };
    let (bind, kind) = (st_info.st_bind(), st_info.st_type());
    bind != elf::STB_LOCAL && kind != elf::STT_SECTION && kind != elf::STT_FILE
}
