//! The symbols that a bitcode file defines, from the symbol table that clang puts into
//! it, so that an archive lists them as `llvm-ar` would. Knows one blob's layout only.
//!
//! Format: `llvm::irsymtab::storage` (llvm/Object/IRSymtab.h, LLVM 11 to 22, version 1
//! to 3: the fields read here have not moved).

use super::bitstream::{self, Malformed, Record, Visitor};

const STRTAB_BLOCK: u64 = 23;
const SYMTAB_BLOCK: u64 = 25;
/// `STRTAB_BLOB` and `SYMTAB_BLOB` have the same code.
const BLOB: u64 = 1;

/// Byte offset of `Header::Symbols` (a range) in the blob: version, producer, modules, comdats.
const SYMBOLS: usize = 4 + 8 + 8 + 8;
/// Size of `storage::Symbol`: two strings, comdat index, flags.
const SYMBOL_SIZE: usize = 24;
/// Offset of `Symbol::Flags`.
const FLAGS: usize = 20;
/// `FB_undefined`.
const UNDEFINED: u32 = 1 << 3;
/// `FB_global`.
const GLOBAL: u32 = 1 << 10;
/// `FB_format_specific`: names that only the object format knows, such as `llvm.*`.
const FORMAT_SPECIFIC: u32 = 1 << 11;

/// Names of the defined global symbols, in the table's order: those that an archive's
/// symbol table lists. Empty where the file has no table.
pub fn defined(bitcode: &[u8]) -> Result<Vec<String>, Malformed> {
    let names = names(bitcode, |flags| flags & (GLOBAL | UNDEFINED | FORMAT_SPECIFIC) == GLOBAL)?;
    let text = |name: &&[u8]| String::from_utf8_lossy(name).into_owned();
    Ok(names.unwrap_or_default().iter().map(text).collect())
}

/// Names of the defined symbols that no other file sees, those of inline assembly among them,
/// in the table's order. `None` where the file has no table.
pub fn defined_locals(bitcode: &[u8]) -> Result<Option<Vec<&[u8]>>, Malformed> {
    names(bitcode, |flags| flags & (GLOBAL | UNDEFINED | FORMAT_SPECIFIC) == 0)
}

/// Bytes that the names of a file's symbols may have in all: each stands in it, and some are
/// ends of others.
pub fn most_names(file: &[u8]) -> usize {
    file.len().saturating_mul(4).saturating_add(1 << 20)
}

/// Names of the symbols whose flags are wanted; `None` where there is no table.
fn names(bitcode: &[u8], wanted: impl Fn(u32) -> bool) -> Result<Option<Vec<&[u8]>>, Malformed> {
    let mut blobs = Blobs::default();
    bitstream::walk(bitcode, &mut blobs)?;
    let (Some(table), Some(strings)) = (blobs.symtab, blobs.strtab) else {
        return Ok(None);
    };
    let offset = word(table, SYMBOLS)? as usize;
    let count = word(table, SYMBOLS + 4)? as usize;
    let (mut names, mut left) = (Vec::new(), most_names(bitcode));
    for index in 0..count {
        let at = index
            .checked_mul(SYMBOL_SIZE)
            .and_then(|start| start.checked_add(offset))
            .ok_or(Malformed("a symbol outside its table"))?;
        if wanted(word(table, at.saturating_add(FLAGS))?) {
            let name = string(strings, word(table, at)?, word(table, at + 4)?)?;
            left = left.checked_sub(name.len()).ok_or(Malformed("names without end"))?;
            names.push(name);
        }
    }
    Ok(Some(names))
}

#[derive(Default)]
struct Blobs<'a> {
    symtab: Option<&'a [u8]>,
    strtab: Option<&'a [u8]>,
}

impl<'a> Visitor<'a> for Blobs<'a> {
    fn wants(&mut self, block: u64) -> bool {
        matches!(block, STRTAB_BLOCK | SYMTAB_BLOCK)
    }

    fn record(&mut self, block: u64, record: &Record<'a>) {
        match (block, record.code) {
            (STRTAB_BLOCK, BLOB) => self.strtab = record.blob,
            (SYMTAB_BLOCK, BLOB) => self.symtab = record.blob,
            _ => {}
        }
    }
}

fn word(blob: &[u8], at: usize) -> Result<u32, Malformed> {
    let bytes = blob.get(at..).and_then(|rest| rest.first_chunk::<4>());
    let bytes = bytes.ok_or(Malformed("a symbol table that is cut off"))?;
    Ok(u32::from_le_bytes(*bytes))
}

fn string(strings: &[u8], offset: u32, size: u32) -> Result<&[u8], Malformed> {
    let (start, size) = (offset as usize, size as usize);
    let bytes = start.checked_add(size).and_then(|end| strings.get(start..end));
    bytes.ok_or(Malformed("a symbol's name outside the string table"))
}
