//! The symbols that an archive's table lists for one member, native or IR. Knows object
//! formats; must not know archives.

use object::elf;
use object::read::elf::{ElfFile, FileHeader};
use object::{Endianness, Object, ObjectSymbol, SymbolFlags};

use crate::bitcode;
use crate::elf::by_class;
use crate::format::Format;

/// Defined global symbols of a member, in its symbol table's order, or `None` for a file
/// that is no object. A damaged object counts as one with no symbols, as for `llvm-ar`'s
/// reader a table is a convenience; who compiles or links it will complain.
pub fn defined_globals(bytes: &[u8]) -> Option<Vec<String>> {
    if Format::of(bytes) == Format::Bitcode {
        return Some(bitcode::symtab::defined(bytes).unwrap_or_default());
    }
    by_class!(bytes, elf_globals(bytes))
}

fn elf_globals<E: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Vec<String> {
    let Ok(file) = ElfFile::<E>::parse(bytes) else {
        return Vec::new();
    };
    let mut left = bitcode::symtab::most_names(bytes);
    let listed = file.symbols().filter(|s| !s.is_undefined() && is_listed(s.flags()));
    let mut names = Vec::new();
    for name in listed.filter_map(|symbol| symbol.name_bytes().ok()) {
        // Many symbols may share one long name: such an object is damaged.
        let Some(less) = left.checked_sub(name.len()) else {
            return Vec::new();
        };
        left = less;
        names.push(String::from_utf8_lossy(name).into_owned());
    }
    names
}

/// Global or weak, and no section or file symbol (LLVM's `SF_Global`, not `SF_FormatSpecific`).
fn is_listed<S, T>(flags: SymbolFlags<S, T>) -> bool {
    let SymbolFlags::Elf { st_info, .. } = flags else {
        return false;
    };
    let (bind, kind) = (st_info.st_bind(), st_info.st_type());
    bind != elf::STB_LOCAL && kind != elf::STT_SECTION && kind != elf::STT_FILE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A relocatable ELF object with `count` global symbols, all of one name of `length` bytes.
    fn shared_name(count: usize, length: usize) -> Vec<u8> {
        let (strings, symbols) = (64 + 1 + length + 1, count * 24 + 24);
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
        [1u16, 62].iter().for_each(|n| put(&n.to_le_bytes()));
        put(&1u32.to_le_bytes());
        [0u64, 0, (strings + symbols) as u64].iter().for_each(|n| put(&n.to_le_bytes()));
        put(&0u32.to_le_bytes());
        [64u16, 0, 0, 64, 3, 1].iter().for_each(|n| put(&n.to_le_bytes()));
        put(b"\0");
        put(&vec![b'x'; length]);
        put(b"\0");
        put(&[0; 24]);
        for _ in 0..count {
            put(&1u32.to_le_bytes());
            put(&[0x10, 0]); // global, no type
            put(&0xfff1u16.to_le_bytes()); // absolute
            put(&[0; 16]);
        }
        let section = |kind: u32, offset: usize, size: usize, link: u32, entry: u64| {
            let mut header = [0u32.to_le_bytes(), kind.to_le_bytes()].concat();
            [0, 0, offset as u64, size as u64].iter().for_each(|n| header.extend(n.to_le_bytes()));
            header.extend([link.to_le_bytes(), 1u32.to_le_bytes()].concat());
            [8, entry].iter().for_each(|n| header.extend(n.to_le_bytes()));
            header
        };
        file.extend(section(0, 0, 0, 0, 0));
        file.extend(section(3, 64, strings - 64, 0, 0));
        file.extend(section(2, strings, symbols, 1, 24));
        file
    }

    #[test]
    fn symbols_that_share_one_long_name_are_those_of_a_damaged_object() {
        let few = defined_globals(&shared_name(3, 10)).unwrap();
        assert_eq!(few, ["xxxxxxxxxx"; 3]);
        let start = std::time::Instant::now();
        let many = defined_globals(&shared_name(2000, 3 << 20)).unwrap();
        assert!(many.is_empty());
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
