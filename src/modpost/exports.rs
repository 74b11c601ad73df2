//! What an object exports, needs and keeps, as modpost reads it. Must not know about
//! versions, or which file the object is.
//!
//! Formats: `.export_symbol` (`include/linux/export.h`, Linux 6.5 and later) and
//! `check_export_symbol()`; sections `___ksymtab+X` with symbols `__ksymtab_X` and
//! `__kstrtabns_X` (Linux 6.4 and earlier) and `handle_symbol()`; `.no_trim_symbol`
//! (Linux 7.3), `keep_no_trim_symbols()`. All of it in `scripts/mod/modpost.c`.

use std::collections::HashMap;

use object::elf;
use object::read::elf::{FileHeader, Sym};
use object::{Endianness, ReadRef};

use super::elf::{Malformed, ObjectTables, string_at};
use crate::elf::by_class;
use crate::format::Format;

/// One exported symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// `EXPORT_SYMBOL_GPL`.
    pub gpl_only: bool,
    /// Its namespace; empty if it has none.
    pub namespace: String,
}

/// What modpost wants to know of an object.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it exports, in modpost's order.
    pub exports: Vec<Export>,
    /// Symbols that others must define, weak ones too.
    pub undefined: Vec<String>,
    /// Symbols that it looks up by name when it runs, so that they must not be trimmed.
    pub keep: Vec<String>,
    /// Whether its exports are in `.export_symbol`. Trees of the older kind trim exports
    /// when they compile.
    pub has_export_section: bool,
    /// What modpost gives as an error, as clauses with the symbol's name.
    pub errors: Vec<String>,
    /// What modpost warns of, as clauses with the symbol's name.
    pub warnings: Vec<String>,
}

/// Reads an object. `Ok(None)` is a file that is no ELF at all: modpost ignores it.
///
/// # Errors
/// Where it is an ELF file that is malformed.
pub fn read<'d, R: ReadRef<'d>>(data: R) -> Result<Option<Object>, Malformed> {
    let Ok(ident) = data.read_bytes_at(0, 16) else {
        return Ok(None);
    };
    if Format::of(ident) != Format::Elf {
        return Ok(None);
    }
    let unknown = || Err(format!("an ELF file of the unknown class {}", ident[4]));
    by_class!(data, read_class(data)).unwrap_or_else(unknown).map(Some)
}

fn read_class<'d, Elf: FileHeader<Endian = Endianness>>(
    data: impl ReadRef<'d>,
) -> Result<Object, Malformed> {
    Exports::<Elf, _>::of(data)
}

/// Prefix of the labels in `.export_symbol`.
const LABEL: &[u8] = b"__export_symbol_";
/// Prefix of the entries in `___ksymtab+X` and `___ksymtab_gpl+X`.
const ENTRY: &[u8] = b"__ksymtab_";
/// Prefix of the symbols at a namespace's name.
const NAMESPACE: &[u8] = b"__kstrtabns_";

struct Exports<'d, Elf: FileHeader, R: ReadRef<'d>> {
    tables: ObjectTables<'d, Elf, R>,
    found: Object,
}

impl<'d, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'d>> Exports<'d, Elf, R> {
    fn of(data: R) -> Result<Object, Malformed> {
        let mut exports =
            Exports { tables: ObjectTables::<Elf, R>::new(data)?, found: Object::default() };
        exports.walk_symbols()?;
        if let Some(section) = exports.tables.section_named(b".export_symbol") {
            exports.found.has_export_section = true;
            exports.read_section(section)?;
        } else {
            exports.read_entries()?;
        }
        if let Some(section) = exports.tables.section_named(b".no_trim_symbol") {
            let names = exports.tables.content(section)?.split(|byte| *byte == 0);
            exports.found.keep = names.filter(|name| !name.is_empty()).map(text).collect();
        }
        Ok(exports.found)
    }

    fn walk_symbols(&mut self) -> Result<(), Malformed> {
        for symbol in self.tables.symbols {
            if self.tables.is_common(symbol) {
                let name = self.tables.name(symbol)?;
                if !name.starts_with(b"__gnu_lto_") {
                    self.found.warnings.push(format!("'{}' is a COMMON symbol", text(name)));
                }
            } else if self.tables.is_undefined(symbol) && is_global(symbol) {
                let name = self.tables.name(symbol)?;
                let is_sparc = matches!(self.tables.machine, elf::EM_SPARC | elf::EM_SPARCV9);
                match name.strip_prefix(b".").filter(|_| is_sparc) {
                    Some(stem) => self.found.undefined.push(sparc_name(stem)),
                    None => self.found.undefined.push(text(name)),
                }
            }
        }
        Ok(())
    }

    /// The exports of Linux 6.5 and later: one relocation each, in their order.
    fn read_section(&mut self, section: usize) -> Result<(), Malformed> {
        let content = self.tables.content(section)?;
        let labels = self.labels(section)?;
        for (place, symbol) in self.tables.relocations(section)? {
            let Some(target) = self.tables.symbols.get(symbol) else {
                return Err(format!(
                    "a relocation of .export_symbol for symbol {symbol}, which does not exist"
                ));
            };
            // The label at or before the relocation.
            let after = labels.partition_point(|(address, _)| *address <= place);
            let label = after.checked_sub(1).map(|at| labels[at]);
            match self.export(content, label, target)? {
                Ok(export) => {
                    self.warn_of_section(&export.name, symbol);
                    self.found.exports.push(export);
                }
                Err(wrong) => self.found.errors.push(wrong),
            }
        }
        Ok(())
    }

    /// The named symbols of a section by address; the first of several at one address.
    fn labels(&self, section: usize) -> Result<Vec<(u64, &'d [u8])>, Malformed> {
        let mut labels = Vec::new();
        for (at, symbol) in self.tables.symbols.iter().enumerate() {
            if self.tables.section_of(at) == Some(section) {
                let name = self.tables.name(symbol)?;
                if !name.is_empty() && !is_mapping(name) {
                    labels.push((self.tables.value(symbol), name));
                }
            }
        }
        labels.sort_by_key(|(address, _)| *address);
        labels.dedup_by_key(|(address, _)| *address);
        Ok(labels)
    }

    /// One entry of `.export_symbol`: license and namespace follow the label.
    fn export(
        &self,
        content: &'d [u8],
        label: Option<(u64, &'d [u8])>,
        target: &Elf::Sym,
    ) -> Result<Result<Export, String>, Malformed> {
        let (address, label) = label.unwrap_or_default();
        let Some(name) = label.strip_prefix(LABEL) else {
            return Ok(Err(format!(".export_symbol has the strange symbol '{}'", text(label))));
        };
        if !is_global(target) {
            return Ok(Err(format!("the local symbol '{}' was exported", text(name))));
        }
        let target = self.tables.name(target)?;
        if target != name {
            let (target, name) = (text(target), text(name));
            return Ok(Err(format!(
                ".export_symbol refers to '{target}' where it exports '{name}'"
            )));
        }
        let name = utf8(name)?;
        let outside = || format!("the export of '{name}' reaches outside .export_symbol");
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        let license = string_at(content, start).ok_or_else(outside)?;
        let gpl_only = match license {
            b"GPL" => true,
            b"" => false,
            other => {
                let license = text(other);
                return Ok(Err(format!("the unknown license '{license}' was given for '{name}'")));
            }
        };
        let namespace = string_at(content, start + license.len() + 1).ok_or_else(outside)?;
        Ok(Ok(Export { name: name.to_owned(), gpl_only, namespace: utf8(namespace)?.to_owned() }))
    }

    fn warn_of_section(&mut self, name: &str, symbol: usize) {
        let section = self.tables.section_of(symbol).map(|index| self.tables.section_name(index));
        let kind = match section.unwrap_or_default() {
            section if section.starts_with(b".init.") => "init",
            section if section.starts_with(b".exit.") => "exit",
            _ => return,
        };
        let warning =
            format!("EXPORT_SYMBOL is used for the {kind} symbol '{name}'; remove it or __{kind}");
        self.found.warnings.push(warning);
    }

    /// The exports of Linux 6.4 and earlier: one symbol each, in the symbol table's order.
    fn read_entries(&mut self) -> Result<(), Malformed> {
        let mut namespaces = Vec::new();
        for (at, symbol) in self.tables.symbols.iter().enumerate() {
            let name = self.tables.name(symbol)?;
            let section = self.tables.section_of(at);
            if let Some(export) = name.strip_prefix(NAMESPACE) {
                namespaces.push((export, section, self.tables.value(symbol)));
            } else if let Some(export) = name.strip_prefix(ENTRY) {
                let section = section.map(|index| self.tables.section_name(index));
                let section = section.unwrap_or_default();
                let gpl_only = section.starts_with(b"___ksymtab_gpl+");
                if gpl_only || section.starts_with(b"___ksymtab+") {
                    let (name, namespace) = (utf8(export)?.to_owned(), String::new());
                    self.found.exports.push(Export { name, gpl_only, namespace });
                }
            }
        }
        self.set_namespaces(&namespaces)
    }

    fn set_namespaces(
        &mut self,
        namespaces: &[(&[u8], Option<usize>, u64)],
    ) -> Result<(), Malformed> {
        let exports = self.found.exports.iter().enumerate();
        // Two exports of one name are an error for those who join them.
        let places: HashMap<Vec<u8>, usize> =
            exports.map(|(at, export)| (export.name.clone().into_bytes(), at)).collect();
        for (name, section, place) in namespaces {
            let Some(at) = places.get(*name) else {
                let name = text(name);
                self.found
                    .errors
                    .push(format!("there is a namespace for '{name}', which is not exported"));
                continue;
            };
            let content = section.map_or(Ok(&[][..]), |index| self.tables.content(index))?;
            let place = usize::try_from(*place).unwrap_or(usize::MAX);
            let Some(namespace) = string_at(content, place) else {
                return Err(format!("the namespace of '{}' is outside its section", text(name)));
            };
            self.found.exports[*at].namespace = utf8(namespace)?.to_owned();
        }
        Ok(())
    }
}

fn is_global(symbol: &impl Sym) -> bool {
    matches!(symbol.st_bind(), elf::STB_GLOBAL | elf::STB_WEAK)
}

/// Symbols that tools make for themselves (`include/linux/module_symbol.h`).
fn is_mapping(name: &[u8]) -> bool {
    name.starts_with(b".L") || name.starts_with(b"L0") || name.starts_with(b"$")
}

/// SPARC's `.foo` is another object's `_Foo`.
fn sparc_name(stem: &[u8]) -> String {
    let mut name = [b"_", stem].concat();
    if let Some(first) = name.get_mut(1) {
        first.make_ascii_uppercase();
    }
    text(&name)
}

/// For messages, and for names that are only compared.
fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn utf8(name: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(name).map_err(|_| format!("the name '{}', which is not UTF-8", text(name)))
}
