//! The object file of kallsyms: the kernel's own program and the compiler make one for a map of
//! one symbol, and this puts other tables into the same shape. So what depends on the
//! architecture and on the kernel's age is theirs: labels, their order, relocations, flags.

use object::read::elf::{ElfFile, FileHeader};
use object::write::{self, StandardSection, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, FileFlags, Object, ObjectSection, ObjectSymbol,
    RelocationFlags, RelocationTarget, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

use super::kallsyms::{Table, Tables};
use crate::elf::by_class;

/// The one symbol of the map that a template is made from.
pub const TEXT: &str = "_text";
/// The section of the tables.
const SECTION: &str = ".rodata";

/// An object of kallsyms, of which only the shape counts.
#[derive(Debug)]
pub struct Template {
    architecture: Architecture,
    endianness: Endianness,
    flags: FileFlags,
    align: u64,
    pointer: u8,
    /// In the order of the symbol table; `_text` among them, where something refers to it.
    labels: Vec<Label>,
    /// Symbols at the beginning of the tables that say what they are (`$d`, ELF for the Arm 64-bit Architecture).
    mappings: Vec<(String, Flags)>,
}

#[derive(Debug)]
struct Label {
    name: String,
    /// `st_info` and `st_other`.
    flags: Flags,
    /// Where it stands in the section; `None` for `_text`.
    place: Option<u64>,
    has_size: bool,
    /// How `_text` is filled in at its beginning.
    relocation: Option<RelocationFlags>,
}

type Flags = SymbolFlags<write::SectionId, write::SymbolId>;

impl Template {
    /// Takes the shape of an object. `None` where it holds what this does not know.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        by_class!(bytes, Self::read_class(bytes)).flatten()
    }

    fn read_class<E: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Option<Self> {
        Self::of(&ElfFile::<E>::parse(bytes).ok()?, size_of::<E::Word>() as u8)
    }

    fn of<'data>(file: &impl Object<'data>, pointer: u8) -> Option<Self> {
        let mut tables = None;
        for section in file.sections() {
            match (section.kind(), section.name().ok()?) {
                (SectionKind::ReadOnlyData, SECTION) => tables = Some(section),
                (SectionKind::Metadata, _) => {}
                (_, ".symtab" | ".strtab" | ".shstrtab") => {}
                _ if section.size() == 0 => {}
                _ => return None,
            }
        }
        let tables = tables?;
        let (mut labels, mut mappings) = (Vec::new(), Vec::new());
        for symbol in file.symbols() {
            let SymbolFlags::Elf { st_info, st_other } = symbol.flags() else {
                return None;
            };
            let inside = symbol.section_index() == Some(tables.index());
            let name = symbol.name().ok()?;
            let is_text = symbol.is_undefined() && name == TEXT;
            if symbol.is_local() && inside && name.starts_with('$') && symbol.address() == 0 {
                mappings.push((name.to_owned(), Flags::Elf { st_info, st_other }));
                continue;
            }
            if symbol.is_local() || !(inside || is_text) {
                return None;
            }
            labels.push(Label {
                name: name.to_owned(),
                flags: Flags::Elf { st_info, st_other },
                place: inside.then(|| symbol.address()),
                has_size: symbol.size() > 0,
                relocation: None,
            });
        }
        for (offset, relocation) in tables.relocations() {
            let RelocationTarget::Symbol(target) = relocation.target() else {
                return None;
            };
            let is_text = file.symbol_by_index(target).ok()?.name() == Ok(TEXT);
            let label = labels.iter_mut().find(|label| label.place == Some(offset))?;
            if !is_text || relocation.has_implicit_addend() || label.relocation.is_some() {
                return None;
            }
            label.relocation = Some(relocation.flags());
        }
        Some(Template {
            architecture: file.architecture(),
            endianness: file.endianness(),
            flags: file.flags(),
            align: tables.align(),
            pointer,
            labels,
            mappings,
        })
    }

    /// Whether the tables are of big-endian words.
    pub fn is_big_endian(&self) -> bool {
        self.endianness == Endianness::Big
    }

    /// Whether its words are of 64 bits.
    pub fn is_64(&self) -> bool {
        self.pointer == 8
    }

    /// Whether another has the same labels, in the same order.
    pub fn is_like(&self, other: &Template) -> bool {
        let names = |of: &Template| of.labels.iter().map(|label| label.name.clone()).collect();
        let names: [Vec<String>; 2] = [names(self), names(other)];
        self.architecture == other.architecture && names[0] == names[1]
    }

    /// Whether it has a table of this name.
    pub fn has(&self, label: &str) -> bool {
        self.labels.iter().any(|known| known.name == label)
    }

    /// The object with other tables. `None` if one of them cannot be written.
    pub fn fill(&self, tables: &Tables<'_>) -> Option<Vec<u8>> {
        let mut object = write::Object::new(BinaryFormat::Elf, self.architecture, self.endianness);
        object.flags = self.flags;
        let section = object.section_id(StandardSection::ReadOnlyData);
        for (name, flags) in &self.mappings {
            object.add_symbol(symbol(name, Some(section), *flags));
        }
        let symbols: Vec<write::SymbolId> =
            self.labels.iter().map(|label| object.add_symbol(label.symbol(section))).collect();
        let text = self.labels.iter().position(|label| label.place.is_none());
        let text = text.map(|at| symbols[at]);
        let mut in_section: Vec<usize> =
            (0..self.labels.len()).filter(|at| self.labels[*at].place.is_some()).collect();
        // Of two at one place the first stands first: an empty table.
        in_section.sort_by_key(|at| self.labels[*at].place);
        for at in in_section {
            let label = &self.labels[at];
            let table = tables.table(&label.name)?;
            let (bytes, addends, step) = match table {
                Table::Bytes(bytes) => (bytes, Vec::new(), 0),
                Table::FromText(addends) => (vec![0; addends.len() * 4], addends, 4),
                Table::Address(addend) => (vec![0; self.pointer.into()], vec![addend], 8),
            };
            if label.relocation.is_some() == addends.is_empty() {
                return None;
            }
            let place = object.append_section_data(section, &bytes, self.align);
            let symbol = object.symbol_mut(symbols[at]);
            symbol.value = place;
            symbol.size = if label.has_size { bytes.len() as u64 } else { 0 };
            for (offset, addend) in (place..).step_by(step.max(1)).zip(addends) {
                let flags = label.relocation?;
                let relocation = write::Relocation { offset, symbol: text?, addend, flags };
                object.add_relocation(section, relocation).ok()?;
            }
        }
        object.write().ok()
    }
}

impl Label {
    fn symbol(&self, section: write::SectionId) -> write::Symbol {
        symbol(&self.name, self.place.map(|_| section), self.flags)
    }
}

/// A symbol of the section, or one that is defined elsewhere.
fn symbol(name: &str, section: Option<write::SectionId>, flags: Flags) -> write::Symbol {
    let is_local = name.starts_with('$');
    write::Symbol {
        name: name.as_bytes().to_vec(),
        value: 0,
        size: 0,
        kind: if is_local { SymbolKind::Label } else { SymbolKind::Data },
        scope: if is_local { SymbolScope::Compilation } else { SymbolScope::Linkage },
        weak: false,
        section: section.map_or(SymbolSection::Undefined, SymbolSection::Section),
        flags,
    }
}

/// Names, values and sizes of an object's symbols, and the size of its tables: what moves other
/// things when it is linked. `None` if it cannot be read.
pub fn shape(bytes: &[u8]) -> Option<Vec<(String, u64, u64)>> {
    by_class!(bytes, shape_of(bytes)).flatten()
}

fn shape_of<E: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Option<Vec<(String, u64, u64)>> {
    let file = ElfFile::<E>::parse(bytes).ok()?;
    let tables = file.section_by_name(SECTION)?;
    let mut shape = vec![(SECTION.to_owned(), tables.align(), tables.size())];
    for symbol in file.symbols() {
        shape.push((symbol.name().ok()?.to_owned(), symbol.address(), symbol.size()));
    }
    Some(shape)
}
