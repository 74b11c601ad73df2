//! What a file is, by its first bytes. Must not know what anyone wants with it.
//!
//! ```
//! use kthinlto::format::Format;
//! assert_eq!(Format::of(b"BC\xC0\xDE and so on"), Format::Bitcode);
//! assert_eq!(Format::of(b"\x7fELF"), Format::Elf);
//! ```

use serde::{Deserialize, Serialize};

/// Bitcode's first bytes.
pub(crate) const BITCODE: [u8; 4] = *b"BC\xC0\xDE";
/// Bytes of the wrapper that some targets put around it.
pub(crate) const BITCODE_WRAPPER: [u8; 4] = [0xDE, 0xC0, 0x17, 0x0B];

/// A thin archive's first bytes: GNU's flavour, as llvm-ar writes it.
pub(crate) const THIN_ARCHIVE: &[u8; 8] = b"!<thin>\n";
/// A regular archive's.
pub(crate) const REGULAR_ARCHIVE: &[u8; 8] = b"!<arch>\n";

/// The formats that matter to the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Format {
    /// LLVM bitcode.
    Bitcode,
    /// ELF.
    Elf,
    /// An `ar` archive, thin or not.
    Archive,
    /// Anything else, an empty file too.
    Other,
}

impl Format {
    /// The format that the first bytes of a file show; four are enough.
    pub fn of(bytes: &[u8]) -> Self {
        match bytes {
            _ if bytes.starts_with(&BITCODE) || bytes.starts_with(&BITCODE_WRAPPER) => {
                Format::Bitcode
            }
            [0x7f, b'E', b'L', b'F', ..] => Format::Elf,
            [b'!', b'<', b't' | b'a', ..] => Format::Archive,
            _ => Format::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        assert_eq!(Format::of(b"BC\xC0\xDE"), Format::Bitcode);
        assert_eq!(Format::of(b"\xDE\xC0\x17\x0B"), Format::Bitcode);
        assert_eq!(Format::of(b"BC\xC0"), Format::Other);
        assert_eq!(Format::of(b"\x7fELF\x02"), Format::Elf);
        assert_eq!(Format::of(b"!<thin>\n"), Format::Archive);
        assert_eq!(Format::of(b"!<arch>\n"), Format::Archive);
        assert_eq!(Format::of(b""), Format::Other);
    }
}
