//! Some lines at the end of a terminal that are drawn again in place. Must not know what they
//! say.
//!
//! After each draw the cursor stands at the start of the first of them. So whatever another
//! program prints scrolls nothing of its own away, and a terminal that wraps lines anew when it
//! is resized takes the cursor along: to erase from there on is right at any width. Everything
//! is written in one piece, lines over lines, so that nothing flickers.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::plain::turns;

/// Erases from the cursor to the end of the line, and of the screen.
const ERASE_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";
/// To the start of the first of our lines, and all of them away.
const ERASE: &str = "\r\x1b[J";

/// One line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The text; what does not fit is cut off.
    pub text: String,
    /// It is about a failure: red, where there is colour.
    pub failure: bool,
}

impl Line {
    /// A line of no colour.
    pub fn plain(text: impl Into<String>) -> Self {
        Line { text: text.into(), failure: false }
    }

    /// A line about a failure.
    pub fn failure(text: impl Into<String>) -> Self {
        Line { text: text.into(), failure: true }
    }
}

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

/// Standard error, which is a terminal.
#[derive(Debug)]
pub struct Screen {
    colour: bool,
    shown: Vec<Line>,
    /// Standard output goes to a terminal too: to the same one.
    output_too: bool,
}

impl Screen {
    /// Draws on standard error, in colour or not.
    pub fn new(colour: bool) -> Self {
        Screen { colour, shown: Vec::new(), output_too: io::stdout().is_terminal() }
    }

    /// The terminal's size now; 80 by 24 where it does not say.
    pub fn size(&self) -> Size {
        let or = |given: u16, usual| if given == 0 { usual } else { usize::from(given) };
        match rustix::termios::tcgetwinsize(io::stderr()) {
            Ok(size) => Size { columns: or(size.ws_col, 80), rows: or(size.ws_row, 24) },
            Err(_) => Size { columns: 80, rows: 24 },
        }
    }

    /// Draws the lines in the place of the last ones, if they are others.
    pub fn show(&mut self, lines: Vec<Line>) {
        if lines != self.shown && in_foreground(io::stderr()) {
            self.draw(lines, b"");
        }
    }

    /// Prints to standard output and standard error above the lines, and draws those again.
    pub fn print(&mut self, out: &[u8], err: &[u8], lines: Vec<Line>) {
        let shown = !self.shown.is_empty();
        if !out.is_empty() {
            let erase = if shown && self.output_too { ERASE } else { "" };
            let whole = [erase.as_bytes(), out].concat();
            // Nobody reads any more: that is no reason to stop a build.
            let _ = io::stdout().lock().write_all(&whole).and_then(|()| io::stdout().flush());
        }
        let lines = if in_foreground(io::stderr()) { lines } else { Vec::new() };
        self.draw(lines, err);
    }

    fn draw(&mut self, lines: Vec<Line>, above: &[u8]) {
        let mut whole = Vec::new();
        if !above.is_empty() && !self.shown.is_empty() {
            whole.extend_from_slice(ERASE.as_bytes());
        }
        whole.extend_from_slice(above);
        if !lines.is_empty() || !self.shown.is_empty() {
            whole.extend_from_slice(frame(&lines, self.size().columns, self.colour).as_bytes());
        }
        self.shown = lines;
        if !whole.is_empty() {
            let _ = io::stderr().lock().write_all(&whole);
        }
    }
}

/// What draws the lines from the cursor's place on, and takes the cursor back to it.
fn frame(lines: &[Line], columns: usize, colour: bool) -> String {
    let mut out = "\r".to_owned();
    for (number, line) in lines.iter().enumerate() {
        // The last column stays free: some terminals begin a line as soon as it is used.
        let text = fitting(&line.text, columns.saturating_sub(1));
        let start = if number > 0 { "\r\n" } else { "" };
        match line.failure && colour {
            true => _ = write!(out, "{start}\x1b[31m{text}\x1b[m{ERASE_LINE}"),
            false => _ = write!(out, "{start}{text}{ERASE_LINE}"),
        }
    }
    out += ERASE_BELOW;
    if lines.len() > 1 {
        let _ = write!(out, "\x1b[{}A", lines.len() - 1);
    }
    out + "\r"
}

/// As much of the text as fits, with no character in it that could move the cursor.
fn fitting(text: &str, columns: usize) -> String {
    let (mut out, mut used) = (String::new(), 0);
    for c in text.chars() {
        let c = if c.is_control() || turns(c) { '?' } else { c };
        used += c.width().unwrap_or_default();
        if used > columns {
            break;
        }
        out.push(c);
    }
    out
}

/// Columns that a text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Whether what we draw is the user's business now: not after `kthinlto build &`, where lines
/// that come again and again would destroy what is typed.
fn in_foreground(terminal: impl AsFd) -> bool {
    match rustix::termios::tcgetpgrp(terminal) {
        Ok(group) => group == rustix::process::getpgrp(),
        Err(_) => true, // not the terminal that controls us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_ends_where_it_began() {
        let lines = [Line::plain("one"), Line::failure("two")];
        assert_eq!(frame(&lines, 80, false), "\rone\x1b[K\r\ntwo\x1b[K\x1b[J\x1b[1A\r");
        let red = frame(&lines[1..], 80, true);
        assert_eq!(red, "\r\x1b[31mtwo\x1b[m\x1b[K\x1b[J\r");
        assert_eq!(frame(&[], 80, true), "\r\x1b[J\r");
    }

    #[test]
    fn lines_are_cut_and_cannot_move_the_cursor() {
        assert_eq!(fitting("abcdef", 4), "abcd");
        assert_eq!(fitting("a\x1b[2J\n\tb", 80), "a?[2J??b");
        assert_eq!(fitting("a\u{202e}b", 80), "a?b");
        assert_eq!(fitting("漢字漢字", 5), "漢字");
    }
}
