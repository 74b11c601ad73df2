//! Which files a module's inline assembly pulls in. They are inputs of its backend that
//! neither the linker nor any dependency file names: `kernel/configs.c` takes the
//! kernel's configuration in by `.incbin`, and its bitcode stays the same when that
//! file changes. Must not know where the files are or what is done about them.
//!
//! In bitcode assembly is text in number arrays: MODULE_CODE_ASM of the module, and
//! inline-asm constants, which LLVM puts into module or function constant blocks
//! (lib/Bitcode/Writer/BitcodeWriter.cpp, LLVM 22). Every record of those blocks is
//! searched whatever its code, so that a new encoding of the same text is seen too. What
//! follows in a function is passed over where the writer is one whose order is known.

use super::bitstream::{self, Malformed, Record, Visitor};

/// Version of the rules below: what was found by other ones is looked for again.
pub(crate) const RULE: u32 = 1;

const MODULE_BLOCK: u64 = 8;
const CONSTANTS_BLOCK: u64 = 11;
const FUNCTION_BLOCK: u64 = 12;
const IDENTIFICATION_BLOCK: u64 = 13;
/// IDENTIFICATION_CODE_STRING: who wrote it.
const WRITER: u64 = 1;
/// Releases of LLVM that write a function as one record, the number of its basic blocks; its
/// constants; and then its instructions (`ModuleBitcodeWriter::writeFunction`).
const CONSTANTS_FIRST: std::ops::RangeInclusive<u32> = 19..=22;

/// Files that assembly text includes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Includes {
    /// Names as written, in order, each once.
    pub files: Vec<String>,
    /// There is a directive whose file name could not be read (a macro's argument, an
    /// operand): what the module includes is then not known.
    pub unknown: bool,
}

/// Finds the files that the inline assembly of a bitcode file includes.
///
/// # Errors
/// Where it is no bitcode that can be read.
pub fn includes(bitcode: &[u8]) -> Result<Includes, Malformed> {
    let mut search = Search::default();
    bitstream::walk(bitcode, &mut search)?;
    Ok(search.found)
}

#[derive(Default)]
struct Search {
    found: Includes,
    /// The functions of the module that follows begin with all their constants.
    constants_first: bool,
}

impl<'a> Visitor<'a> for Search {
    fn wants(&mut self, block: u64) -> bool {
        matches!(block, MODULE_BLOCK | CONSTANTS_BLOCK | FUNCTION_BLOCK | IDENTIFICATION_BLOCK)
    }

    fn reads(&mut self, block: u64) -> bool {
        block != FUNCTION_BLOCK
    }

    fn has_enough_after_one(&mut self, block: u64) -> bool {
        block == FUNCTION_BLOCK && self.constants_first
    }

    fn record(&mut self, block: u64, record: &Record<'a>) {
        if block == IDENTIFICATION_BLOCK {
            if record.code == WRITER {
                self.constants_first =
                    release(&record.ops).is_some_and(|release| CONSTANTS_FIRST.contains(&release));
            }
            return;
        }
        if may_include(&record.ops) {
            let text: Vec<u8> = record.ops.iter().map(|op| *op as u8).collect();
            scan(&text, &mut self.found);
        }
    }
}

/// The major release in a writer's name, such as `LLVM22.1.8`.
fn release(name: &[u64]) -> Option<u32> {
    let name: Option<String> =
        name.iter().map(|op| u8::try_from(*op).ok().map(char::from)).collect();
    let name = name?;
    let digits = name.strip_prefix("LLVM")?.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// A quick look: is there a `.inc` in these numbers?
fn may_include(ops: &[u64]) -> bool {
    let is = |op: u64, letter: u8| {
        [letter, letter.to_ascii_uppercase()].iter().any(|l| op == u64::from(*l))
    };
    ops.windows(4)
        .any(|w| w[0] == u64::from(b'.') && is(w[1], b'i') && is(w[2], b'n') && is(w[3], b'c'))
}

/// Names that are kept; what more there are is not known.
const MOST_FILES: usize = 1000;

/// Finds `.incbin "F"` and `.include "F"` in assembly text. Directive names have no case.
pub fn scan(text: &[u8], found: &mut Includes) {
    let lower = text.to_ascii_lowercase();
    for directive in [b".incbin".as_slice(), b".include"] {
        let mut from = 0;
        while let Some(at) = find(&lower[from..], directive) {
            from += at + directive.len();
            match quoted(&text[from..]) {
                Argument::File(name) if found.files.contains(&name) => {}
                Argument::File(name) if found.files.len() < MOST_FILES => found.files.push(name),
                Argument::File(_) => found.unknown = true,
                Argument::NotADirective => {}
                Argument::Unreadable => found.unknown = true,
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

enum Argument {
    File(String),
    /// `.include_something`: another word.
    NotADirective,
    Unreadable,
}

/// The quoted name after a directive. A name with `%`, `$`, `\` may not be literal: inline
/// assembly has operands and macros there.
fn quoted(rest: &[u8]) -> Argument {
    let word_goes_on = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'$');
    if rest.first().is_some_and(word_goes_on) {
        return Argument::NotADirective;
    }
    let blank = rest.iter().take_while(|c| matches!(c, b' ' | b'\t')).count();
    let Some(name) = rest[blank..].strip_prefix(b"\"") else {
        return Argument::Unreadable;
    };
    let Some(end) = name.iter().position(|c| *c == b'"') else {
        return Argument::Unreadable;
    };
    match std::str::from_utf8(&name[..end]) {
        Ok(name) if !name.contains(['%', '$', '\\', '\n']) => Argument::File(name.to_owned()),
        _ => Argument::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scanned(text: &str) -> Includes {
        let mut found = Includes::default();
        scan(text.as_bytes(), &mut found);
        found
    }

    #[test]
    fn names_are_read_in_any_case_and_once() {
        let found = scanned("x:\n\t.incbin \"a/b.gz\"\n .INCBIN\t\"a/b.gz\"; .include \"m.inc\"\n");
        assert_eq!(found.files, ["a/b.gz", "m.inc"]);
        assert!(!found.unknown);
    }

    #[test]
    fn what_is_not_literal_is_unknown() {
        for text in
            [".incbin \\file", ".incbin \"$0\"", ".incbin \"%s\"", ".include \"x", ".incbin"]
        {
            assert!(scanned(text).unknown, "{text}");
        }
    }

    #[test]
    fn other_words_are_not_directives() {
        assert_eq!(scanned(".include_guard \"x\" .incbinary"), Includes::default());
    }

    #[test]
    fn the_writers_release_is_in_its_name() {
        let of = |name: &str| release(&name.bytes().map(u64::from).collect::<Vec<_>>());
        assert_eq!(of("LLVM22.1.8"), Some(22));
        assert_eq!(of("LLVM19.1.7-rust-1.86.0-stable"), Some(19));
        assert_eq!(of("APPLE_1_1600.0.26.6_0"), None);
        assert_eq!(of("LLVM"), None);
    }

    #[test]
    fn functions_are_read_to_their_end_where_their_writer_is_not_known() {
        let mut search = Search::default();
        assert!(!search.has_enough_after_one(FUNCTION_BLOCK), "before any name");
        let names = [("LLVM22.1.8", true), ("LLVM23.0.0git", false), ("LLVM19.1.7", true)];
        for (name, known) in names.into_iter().chain([("another", false)]) {
            let ops = name.bytes().map(u64::from).collect();
            search.record(IDENTIFICATION_BLOCK, &Record { code: WRITER, ops, blob: None });
            assert_eq!(search.has_enough_after_one(FUNCTION_BLOCK), known, "{name}");
            assert!(!search.has_enough_after_one(CONSTANTS_BLOCK));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(tail in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = includes(&[b"BC\xC0\xDE".as_slice(), &tail].concat());
        }
    }
}
