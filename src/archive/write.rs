//! Writes a thin archive as `llvm-ar` does, byte for byte: with a symbol table (what
//! `llvm-ar mPi` leaves behind) or without (`llvm-ar cDPrS --thin`).
//!
//! A thin archive holds names, sizes and symbols, so that is all this asks for: the
//! general writers on crates.io want every member's bytes in memory at once.
//!
//! Format: lib/Object/ArchiveWriter.cpp of LLVM 22 (`K_GNU`, deterministic).

use std::collections::HashMap;

use crate::format::THIN_ARCHIVE;

/// One member of a thin archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Name, relative to the archive's folder.
    pub name: String,
    /// Size of the member's file in bytes.
    pub size: u64,
    /// Its defined global symbols, in the order of its symbol table.
    pub symbols: Vec<String>,
    /// Whether it is a format that has symbols at all (an object, native or IR).
    pub is_object: bool,
}

impl Entry {
    /// A member for an archive without a symbol table.
    pub fn new(name: impl Into<String>, size: u64) -> Self {
        let name = name.into();
        Entry { name, size, ..Entry::default() }
    }
}

/// Size of a member's header.
const HEADER: usize = 60;

/// The bytes of a thin archive with no symbol table: `llvm-ar cDPrS --thin`.
pub fn thin_archive(entries: &[Entry]) -> Vec<u8> {
    let body = Body::new(entries);
    [THIN_ARCHIVE.as_slice(), &body.names, &body.headers].concat()
}

/// The bytes of a thin archive with a symbol table, as any later `llvm-ar m` leaves it.
pub(crate) fn thin_archive_with_symbols(entries: &[Entry]) -> Vec<u8> {
    let body = Body::new(entries);
    let table = symbol_table(entries, body.names.len());
    [THIN_ARCHIVE.as_slice(), &table, &body.names, &body.headers].concat()
}

/// The `//` member and the headers that point into it.
struct Body {
    names: Vec<u8>,
    headers: Vec<u8>,
}

impl Body {
    fn new(entries: &[Entry]) -> Self {
        let mut names = Vec::new();
        let mut offsets: HashMap<&str, usize> = HashMap::new();
        let mut headers = Vec::with_capacity(entries.len() * HEADER);
        for entry in entries {
            let offset = *offsets.entry(&entry.name).or_insert_with(|| {
                let offset = names.len();
                names.extend_from_slice(entry.name.as_bytes());
                names.extend_from_slice(b"/\n");
                offset
            });
            headers.extend(member_header(offset, entry.size));
        }
        let names = names_member(names);
        Body { names, headers }
    }
}

fn member_header(name_offset: usize, size: u64) -> Vec<u8> {
    let name = format!("/{name_offset}");
    format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644).into_bytes()
}

fn names_member(mut names: Vec<u8>) -> Vec<u8> {
    if names.is_empty() {
        return names;
    }
    if names.len() % 2 == 1 {
        names.push(b'\n');
    }
    let mut member = format!("{:<48}{:<10}`\n", "//", names.len()).into_bytes();
    member.append(&mut names);
    member
}

/// The `/` member: count, one header offset a symbol, names; big-endian, padded to two bytes.
fn symbol_table(entries: &[Entry], names_len: usize) -> Vec<u8> {
    let mut names = Vec::new();
    for symbol in entries.iter().flat_map(|entry| &entry.symbols) {
        names.extend_from_slice(symbol.as_bytes());
        names.push(0);
    }
    // LLVM marks an archive of objects that define nothing, so that linkers read it.
    if names.is_empty() && entries.iter().any(|entry| entry.is_object) {
        names.extend_from_slice(&[0; 3]);
    }
    if names.is_empty() {
        return names;
    }
    let count: usize = entries.iter().map(|entry| entry.symbols.len()).sum();
    let narrow = table_size(count, names.len(), 4);
    let end = THIN_ARCHIVE.len() + HEADER + narrow + names_len + entries.len() * HEADER;
    match u32::try_from(end) {
        Ok(_) => table_bytes(entries, &names, names_len, 4),
        Err(_) => table_bytes(entries, &names, names_len, 8),
    }
}

fn table_size(count: usize, names: usize, width: usize) -> usize {
    (width * (1 + count) + names).next_multiple_of(2)
}

fn table_bytes(entries: &[Entry], names: &[u8], names_len: usize, width: usize) -> Vec<u8> {
    let count: usize = entries.iter().map(|entry| entry.symbols.len()).sum();
    let size = table_size(count, names.len(), width);
    let title = if width == 8 { "/SYM64/" } else { "/" };
    let mut table =
        format!("{title:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 0).into_bytes();
    let number = |table: &mut Vec<u8>, value: usize| {
        table.extend_from_slice(&(value as u64).to_be_bytes()[8 - width..]);
    };
    number(&mut table, count);
    let first = THIN_ARCHIVE.len() + HEADER + size + names_len;
    for (index, entry) in entries.iter().enumerate() {
        for _ in &entry.symbols {
            number(&mut table, first + index * HEADER);
        }
    }
    table.extend_from_slice(names);
    table.resize(HEADER + size, 0);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::read::member_names;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn an_empty_archive_is_its_magic() {
        assert_eq!(thin_archive(&[]), THIN_ARCHIVE);
        assert_eq!(thin_archive_with_symbols(&[]), THIN_ARCHIVE);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            names in prop::collection::vec("[a-zA-Z0-9_./-]{1,40}", 0..40),
            symbols in prop::collection::vec("[a-z_]{1,20}", 0..5),
        ) {
            let names: Vec<String> =
                names.iter().map(|name| format!("{name}.o")).collect();
            let entries: Vec<Entry> = names
                .iter()
                .map(|name| Entry {
                    name: name.clone(),
                    size: 12345,
                    symbols: symbols.clone(),
                    is_object: true,
                })
                .collect();
            for bytes in [thin_archive(&entries), thin_archive_with_symbols(&entries)] {
                prop_assert_eq!(&member_names(&bytes, Path::new("x.a")).unwrap(), &names);
            }
        }
    }
}
