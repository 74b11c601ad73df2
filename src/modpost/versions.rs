//! The versions (CRCs) that genksyms leaves in a `.cmd` file: `#SYMVER name 0xcrc`, taken
//! as modpost takes them, with what it skips. Must not know whose symbols they are.
//!
//! Format: `extract_crcs_for_object()` of `scripts/mod/modpost.c`, the same in Linux 6.1 to 7.3.

use memchr::memmem;

use super::objects::until_nul;

/// How a line with a version begins. The newline is part of it: modpost finds no version in a
/// file's first line.
const MARK: &[u8] = b"\n#SYMVER ";

/// What a `.cmd` file says of versions.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Versions {
    /// Names with their versions, in the file's order. Where a name is here twice, modpost
    /// takes the last.
    pub found: Vec<(String, u32)>,
    /// How many `#SYMVER` lines are broken, so that modpost skips them.
    pub skipped: usize,
}

/// Takes all versions from the text of a `.cmd` file.
///
/// The number may be hexadecimal (`0x`), octal (`0`) or decimal; its low 32 bits count, and
/// nothing but a newline may follow it. A line with no space swallows the next one.
pub fn parse(text: &[u8]) -> Versions {
    let text = until_nul(text);
    let finder = memmem::Finder::new(MARK);
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(mark) = finder.find(&text[at..]) {
        let start = at + mark + MARK.len();
        let Some(length) = memchr::memchr(b' ', &text[start..]) else {
            break;
        };
        let name = &text[start..start + length];
        at = start + length + 1;
        let Some((number, digits)) = number(&text[at..]) else {
            continue;
        };
        at += digits;
        if text.get(at) == Some(&b'\n') && !name.contains(&b'\n') {
            // No symbol of the kernel has a name that is not UTF-8.
            found.push((String::from_utf8_lossy(name).into_owned(), number as u32));
        }
    }
    let skipped = finder.find_iter(text).count() - found.len();
    Versions { found, skipped }
}

/// A number as `strtoul()` reads it with base 0, and its length; `None` without a digit.
fn number(text: &[u8]) -> Option<(u64, usize)> {
    let is_hex =
        |prefix: &[u8]| text.starts_with(prefix) && text.get(2).is_some_and(u8::is_ascii_hexdigit);
    let (radix, prefix) = match text.first()? {
        b'0' if is_hex(b"0x") || is_hex(b"0X") => (16, 2),
        b'0' => (8, 0),
        _ => (10, 0),
    };
    let digits = text[prefix..].iter().map_while(|byte| char::from(*byte).to_digit(radix));
    let (mut value, mut length) = (0u64, prefix);
    for digit in digits {
        let next = value.checked_mul(u64::from(radix)).and_then(|v| v.checked_add(digit.into()));
        // On overflow, ULONG_MAX, however many digits follow.
        value = next.unwrap_or(u64::MAX);
        length += 1;
    }
    (length > 0).then_some((value, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(text: &str) -> Vec<(String, u32)> {
        parse(text.as_bytes()).found
    }

    fn one(number: &str) -> Option<u32> {
        found(&format!("x\n#SYMVER a {number}\n")).first().map(|(_, crc)| *crc)
    }

    #[test]
    fn lines_come_in_order() {
        let text = "savedcmd_x.o := cc\n#SYMVER b 0x0000000a\ndeps\n#SYMVER a 0xffffffff\n";
        assert_eq!(found(text), [("b".into(), 10), ("a".into(), u32::MAX)]);
        assert_eq!(parse(text.as_bytes()).skipped, 0);
    }

    #[test]
    fn both_versions_of_a_name_are_kept() {
        assert_eq!(found("\n#SYMVER a 1\n#SYMVER a 2\n"), [("a".into(), 1), ("a".into(), 2)]);
    }

    #[test]
    fn numbers_are_strtouls() {
        for (text, want) in [
            ("0x1f", Some(0x1f)),
            ("0X1F", Some(0x1f)),
            ("017", Some(15)),
            ("17", Some(17)),
            ("0", Some(0)),
            ("0x123456789", Some(0x2345_6789)),
            ("0x10000000000000000000", Some(u32::MAX)),
            ("08", None),
            ("0x", None),
            ("0xg", None),
            ("0b1", None),
            ("-1", None),
            (" 1", None),
            ("+1", None),
            ("1 ", None),
            ("1\r", None),
            ("ff", None),
            ("", None),
        ] {
            assert_eq!(one(text), want, "{text:?}");
        }
    }

    #[test]
    fn broken_lines_are_skipped_and_counted() {
        for (text, names, skipped) in [
            // Neither the first line, nor one without its newline.
            ("#SYMVER a 0x1\n#SYMVER b 0x2\n", 1, 0),
            ("x\n#SYMVER a 0x1", 0, 1),
            // No space: the next line's number is none, and the line is lost.
            ("x\n#SYMVER a\n#SYMVER b 0x2\n#SYMVER c 0x3\n", 1, 2),
            ("x\n#SYMVER a\nb 0x2\n", 0, 1),
            ("x\n#SYMVER a\n", 0, 1),
            ("x\n #SYMVER a 0x1\n#symver a 0x1\n", 0, 0),
            // A NUL ends the file.
            ("x\n#SYMVER a 0x1\n\0\n#SYMVER b 0x2\n#SYMVER c\n", 1, 0),
        ] {
            let read = parse(text.as_bytes());
            assert_eq!((read.found.len(), read.skipped), (names, skipped), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_genksyms_writes_is_read(
            crcs in prop::collection::vec(("[A-Za-z_][A-Za-z0-9_]{0,20}", any::<u32>()), 0..20),
        ) {
            let mut text = String::from("savedcmd_x := y\n");
            crcs.iter().for_each(|(name, crc)| text += &format!("#SYMVER {name} 0x{crc:08x}\n"));
            prop_assert_eq!(parse(text.as_bytes()), Versions { found: crcs, skipped: 0 });
        }

        #[test]
        fn any_bytes_are_survived(text in "(\n|#SYMVER|[a0x1 \\x00]){0,60}") {
            let read = parse(text.as_bytes());
            prop_assert!(read.found.len() + read.skipped <= text.matches("#SYMVER ").count());
        }
    }
}
