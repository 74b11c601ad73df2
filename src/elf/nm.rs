//! The symbols of a program, with the letters and in the order of `llvm-nm -n`. Must not know
//! which of them anyone wants.
//!
//! Rule: `llvm-nm` of LLVM 15 to 22, for ELF files.

use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym};
use object::{Endianness, ReadRef, SectionIndex, StringTable, elf};

use super::by_class;

/// One line of nm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'data> {
    /// Its address.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its type: capital where it is global.
    pub letter: u8,
    /// Its name.
    pub name: &'data [u8],
}

impl Symbol<'_> {
    /// Adds ` LETTER NAME` to a line: what filters of nm's lines look at.
    pub fn write_tail(&self, line: &mut Vec<u8>) {
        line.extend([b' ', self.letter, b' ']);
        line.extend(self.name);
    }
}

/// The lines of `nm -S`, by name.
pub fn with_sizes(mut symbols: Vec<Symbol<'_>>) -> Vec<u8> {
    symbols.sort_by(|a, b| (a.name, a.size, a.address).cmp(&(b.name, b.size, b.address)));
    let mut text = Vec::with_capacity(symbols.len() * 64);
    for symbol in &symbols {
        text.extend(format!("{:016x} {:016x}", symbol.address, symbol.size).into_bytes());
        symbol.write_tail(&mut text);
        text.push(b'\n');
    }
    text
}

/// The defined symbols, by address and then by name; only they are read of the file.
///
/// # Errors
/// A clause that says what is wrong with the file.
pub fn defined<'data>(file: impl ReadRef<'data>) -> Result<Vec<Symbol<'data>>, String> {
    let symbols = by_class!(file, of_elf(file)).ok_or("not an ELF file")?;
    symbols.map_err(|error| format!("a truncated or corrupt ELF file: {error}"))
}

fn of_elf<'data, E: FileHeader<Endian = Endianness>>(
    file: impl ReadRef<'data>,
) -> object::Result<Vec<Symbol<'data>>> {
    let header = E::parse(file)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, file)?;
    let letters = sections.iter().map(|section| section_letter(endian, &sections, section));
    let letters = letters.collect::<object::Result<Vec<u8>>>()?;
    // Both tables at once: a read for each name takes longer than all the rest.
    let table = sections.iter().find(|section| section.sh_type(endian) == elf::SHT_SYMTAB);
    let Some(table) = table else {
        return Ok(Vec::new());
    };
    let symbols: &[E::Sym] = table.data_as_array(endian, file)?;
    let strings = sections.section(SectionIndex(table.sh_link(endian) as usize))?;
    let strings = strings.data(endian, file)?;
    let strings = StringTable::new(strings, 0, strings.len() as u64);
    let mut found = Vec::with_capacity(symbols.len());
    for symbol in symbols.iter().skip(1) {
        if symbol.is_undefined(endian)
            || matches!(symbol.st_type(), elf::STT_FILE | elf::STT_SECTION)
        {
            continue;
        }
        let section = usize::from(symbol.st_shndx(endian).0);
        let letter = letter(endian, symbol, letters.get(section).copied().unwrap_or(b'?'));
        let name = symbol.name(endian, strings)?;
        let (address, size) = (symbol.st_value(endian).into(), symbol.st_size(endian).into());
        found.push(Symbol { address, size, letter, name });
    }
    found
        .sort_by(|a: &Symbol<'_>, b| (a.address, a.name, a.size).cmp(&(b.address, b.name, b.size)));
    Ok(found)
}

/// The letter of a local symbol in this section; `?` where nm has none.
pub(crate) fn section_letter<'data, E, R>(
    endian: Endianness,
    sections: &SectionTable<'data, E, R>,
    section: &E::SectionHeader,
) -> object::Result<u8>
where
    E: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let has = |flag| section.sh_flags(endian).contains(flag);
    Ok(if has(elf::SHF_EXECINSTR) {
        b't'
    } else if section.sh_type(endian) == elf::SHT_NOBITS {
        b'b'
    } else if has(elf::SHF_ALLOC) {
        if has(elf::SHF_WRITE) { b'd' } else { b'r' }
    } else if sections.section_name(endian, section)?.starts_with(b".debug") {
        b'N'
    } else if has(elf::SHF_WRITE) {
        b'?'
    } else {
        b'n'
    })
}

fn letter<S: Sym<Endian = Endianness>>(endian: Endianness, symbol: &S, in_section: u8) -> u8 {
    let kind = symbol.st_type();
    match symbol.st_bind() {
        elf::STB_GNU_UNIQUE => b'u',
        elf::STB_WEAK if kind == elf::STT_OBJECT => b'V',
        elf::STB_WEAK => b'W',
        bind => {
            let letter = match (symbol.is_absolute(endian), kind) {
                _ if symbol.is_common(endian) => return b'C',
                (true, _) => b'a',
                (false, elf::STT_GNU_IFUNC) => return b'i',
                (false, _) => in_section,
            };
            if bind == elf::STB_LOCAL { letter } else { letter.to_ascii_uppercase() }
        }
    }
}
