//! Text of ours for a terminal or a log. Names of files, values of variables and lines of a tree
//! are in it, and may hold what moves a cursor, sets a title or turns the order of letters: such
//! characters are written as `\x1b` and `\u{202e}`. What compilers print is theirs, and stays.

use std::borrow::Cow;
use std::fmt::Write;

/// The text, in which every character is only itself. Ends of lines and tabs stay.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        let code = u32::from(c);
        // Writing into a string cannot fail.
        let _ = match acts(c) {
            false => write!(out, "{c}"),
            true if code < 0x100 => write!(out, "\\x{code:02x}"),
            true => write!(out, "\\u{{{code:04x}}}"),
        };
    }
    out.into()
}

/// Whether a terminal does more with a character than to show it.
fn acts(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t') || turns(c)
}

/// Marks that turn the order in which the characters beside them are shown (Unicode's Bidi_Control),
/// and ends of lines that are no `\n`.
pub(super) fn turns(c: char) -> bool {
    matches!(
        c,
        '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::plain;
    use proptest::prelude::*;

    #[test]
    fn what_acts_on_a_terminal_is_written_out() {
        assert_eq!(plain("a/b c.o\n\tü漢"), "a/b c.o\n\tü漢");
        assert_eq!(plain("\x1b]0;t\x07red.o\r"), "\\x1b]0;t\\x07red.o\\x0d");
        assert_eq!(plain("\u{9b}2J\u{7f}"), "\\x9b2J\\x7f");
        assert_eq!(plain("a\u{202e}o.b\u{2066}\u{2028}"), "a\\u{202e}o.b\\u{2066}\\u{2028}");
    }

    proptest! {
        #[test]
        fn no_control_is_left_and_nothing_else_is_changed(text in any::<String>()) {
            let shown = plain(&text);
            prop_assert!(shown.chars().all(|c| !super::acts(c)));
            let kept: String = text.chars().filter(|c| !super::acts(*c)).collect();
            prop_assert!(shown.len() >= kept.len());
            prop_assert_eq!(plain(&kept), kept.as_str());
        }
    }
}
