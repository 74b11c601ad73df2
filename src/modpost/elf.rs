//! The tables of an ELF object that modpost looks into: sections, symbols, names and
//! relocations, of either class and byte order. Every number of the file is checked where it
//! is used. Must not know what the symbols mean.

use std::cell::Cell;

use object::elf;
use object::read::elf::{FileHeader, Rel, Rela, SectionHeader, SectionTable, Sym};
use object::{Endianness, ReadRef, U32};

/// A section outside its file, a name outside its table and the like, as a clause.
pub type Malformed = String;

/// An object's tables.
pub(super) struct ObjectTables<'d, Elf: FileHeader, R: ReadRef<'d>> {
    data: R,
    endian: Endianness,
    /// For which processor it is.
    pub machine: elf::Machine,
    is_mips64el: bool,
    sections: SectionTable<'d, Elf, R>,
    section_names: &'d [u8],
    /// The symbols.
    pub symbols: &'d [Elf::Sym],
    names: &'d [u8],
    /// Section numbers of the symbols that have no room for theirs.
    extended: &'d [U32<Endianness>],
    /// Bytes of names that may still be given out: many symbols may share one long name.
    left: Cell<usize>,
}

/// Bytes of names that any file may have; a kernel module has some 10 KB.
const LEAST_NAMES: usize = 16 << 20;

fn broken(error: object::Error) -> Malformed {
    format!("a truncated or corrupt ELF file: {error}")
}

impl<'d, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'d>> ObjectTables<'d, Elf, R> {
    /// Finds all tables.
    pub fn new(data: R) -> Result<Self, Malformed> {
        let header = Elf::parse(data).map_err(broken)?;
        let endian = header.endian().map_err(broken)?;
        if header.e_type(endian) != elf::ET_REL {
            return Err("an ELF file that is not a relocatable object".to_owned());
        }
        let mut tables = ObjectTables {
            data,
            endian,
            machine: header.e_machine(endian),
            is_mips64el: header.is_mips64el(endian),
            sections: header.sections(endian, data).map_err(broken)?,
            section_names: &[],
            symbols: &[],
            names: &[],
            extended: &[],
            left: Cell::new(LEAST_NAMES),
        };
        let names = header.section_strings_index(endian, data).map_err(broken)?;
        tables.section_names = tables.content(names.0)?;
        tables.check_bounds()?;
        tables.find_symbols()?;
        Ok(tables)
    }

    /// All sections must be within the file.
    fn check_bounds(&self) -> Result<(), Malformed> {
        let size = self.data.len().map_err(|()| "a file that cannot be read".to_owned())?;
        for (index, section) in self.sections.enumerate() {
            let range = section.file_range(self.endian);
            let Some((offset, length)) = range.filter(|_| index.0 > 0) else {
                continue;
            };
            if offset.checked_add(length).is_none_or(|end| end > size) {
                let name = String::from_utf8_lossy(self.section_name(index.0));
                return Err(format!("section {} `{name}` points outside the file", index.0));
            }
        }
        Ok(())
    }

    /// As modpost, takes the last table where there are several.
    fn find_symbols(&mut self) -> Result<(), Malformed> {
        let Some((index, table)) = self.last_of(elf::SHT_SYMTAB) else {
            return Err("an object with no symbol table".to_owned());
        };
        self.symbols = table.data_as_array(self.endian, self.data).map_err(broken)?;
        self.names = self.content(table.link(self.endian).0)?;
        self.left.set(self.names.len().saturating_mul(64).saturating_add(LEAST_NAMES));
        if let Some((_, numbers)) = self.last_of(elf::SHT_SYMTAB_SHNDX) {
            if numbers.link(self.endian).0 != index {
                return Err("section numbers (SYMTAB_SHNDX) of another symbol table".to_owned());
            }
            self.extended = numbers.data_as_array(self.endian, self.data).map_err(broken)?;
        }
        Ok(())
    }

    fn last_of(&self, kind: elf::SectionType) -> Option<(usize, &'d Elf::SectionHeader)> {
        let of_kind = self.sections.enumerate().filter(|(_, s)| s.sh_type(self.endian) == kind);
        of_kind.last().map(|(index, section)| (index.0, section))
    }

    /// The last section of this name.
    pub fn section_named(&self, name: &[u8]) -> Option<usize> {
        (0..self.sections.len()).rfind(|index| self.section_name(*index) == name)
    }

    /// The bytes of a section in the file.
    pub fn content(&self, index: usize) -> Result<&'d [u8], Malformed> {
        let section = self.sections.section(object::SectionIndex(index)).map_err(broken)?;
        section.data(self.endian, self.data).map_err(broken)
    }

    /// The name of a section; empty where there is no such section, as in modpost.
    pub fn section_name(&self, index: usize) -> &'d [u8] {
        let section = self.sections.section(object::SectionIndex(index)).ok();
        let offset = section.map(|section| section.sh_name(self.endian) as usize);
        offset.and_then(|offset| string_at(self.section_names, offset)).unwrap_or_default()
    }

    /// The section that a symbol is in; `None` for the reserved numbers.
    pub fn section_of(&self, at: usize) -> Option<usize> {
        let number = self.symbols.get(at)?.st_shndx(self.endian);
        if number == elf::SHN_XINDEX {
            return self.extended.get(at).map(|number| number.get(self.endian) as usize);
        }
        let number = usize::from(number.0);
        (number < usize::from(elf::SHN_LORESERVE)).then_some(number)
    }

    /// Whether a symbol must come from another object.
    pub fn is_undefined(&self, symbol: &Elf::Sym) -> bool {
        symbol.is_undefined(self.endian)
    }

    /// Whether a symbol is C's old kind of common definition.
    pub fn is_common(&self, symbol: &Elf::Sym) -> bool {
        symbol.is_common(self.endian)
    }

    /// The place of a symbol in its section.
    pub fn value(&self, symbol: &Elf::Sym) -> u64 {
        symbol.st_value(self.endian).into()
    }

    /// A symbol's name, without the `.123` that compilers append (modpost's `remove_dot()`).
    pub fn name(&self, symbol: &Elf::Sym) -> Result<&'d [u8], Malformed> {
        let offset = symbol.st_name(self.endian) as usize;
        let name = string_at(self.names, offset)
            .ok_or_else(|| format!("a symbol name at {offset}, outside its table"))?;
        let left = self.left.get().checked_sub(name.len());
        self.left.set(left.ok_or_else(|| "symbols whose names are not terminated".to_owned())?);
        Ok(without_number(name))
    }

    /// The relocations of a section, in the file's order: each one's place and its symbol.
    pub fn relocations(&self, of: usize) -> Result<Vec<(u64, usize)>, Malformed> {
        let mut found = Vec::new();
        let endian = self.endian;
        for section in self.sections.iter().filter(|s| s.sh_info(endian) as usize == of) {
            if let Some((entries, _)) = section.rela(endian, self.data).map_err(broken)? {
                let wanted = entries.iter().filter(|entry| {
                    let kind = entry.r_type(endian, self.is_mips64el);
                    // These have no symbol.
                    self.machine != elf::EM_LOONGARCH
                        || (kind != elf::R_LARCH_RELAX && kind != elf::R_LARCH_ALIGN)
                });
                found.extend(wanted.map(|entry| {
                    let symbol = entry.r_sym(endian, self.is_mips64el) as usize;
                    (entry.r_offset(endian).into(), symbol)
                }));
            } else if let Some((entries, _)) = section.rel(endian, self.data).map_err(broken)? {
                found.extend(
                    entries.iter().map(|e| (e.r_offset(endian).into(), e.r_sym(endian) as usize)),
                );
            }
        }
        Ok(found)
    }
}

/// The string that begins at an offset and ends with a NUL byte.
pub(super) fn string_at(table: &[u8], offset: usize) -> Option<&[u8]> {
    let tail = table.get(offset..)?;
    memchr::memchr(0, tail).map(|end| &tail[..end])
}

/// `remove_dot()`: cuts a name at its first dot, if only digits follow, up to the end or to
/// another dot.
fn without_number(name: &[u8]) -> &[u8] {
    let Some(dot) = memchr::memchr(b'.', name).filter(|dot| *dot > 0) else {
        return name;
    };
    let tail = &name[dot + 1..];
    let digits = tail.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let ends = matches!(tail.get(digits), None | Some(b'.'));
    if digits > 0 && ends { &name[..dot] } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_compilers_are_cut_off_names() {
        for (name, want) in [
            ("foo", "foo"),
            ("foo.1", "foo"),
            ("foo.123.llvm.7", "foo"),
            ("foo.llvm.123", "foo.llvm.123"),
            ("foo.1a", "foo.1a"),
            ("foo.", "foo."),
            ("foo..1", "foo..1"),
            (".foo", ".foo"),
            (".1", ".1"),
            ("", ""),
        ] {
            assert_eq!(without_number(name.as_bytes()), want.as_bytes(), "{name}");
        }
    }
}
