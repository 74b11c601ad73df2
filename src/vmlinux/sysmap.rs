//! Which symbols a kernel's `scripts/mksysmap` keeps: its rules are read, each a pattern of lines
//! that are left out, and nothing else is known about them here.
//!
//! Format: a sed script of `/PATTERN/d` (6.12, 7.3), with basic regular expressions.

use regex::bytes::{RegexSet, RegexSetBuilder};

use crate::elf::nm::Symbol;

/// The rules of one kernel.
#[derive(Debug)]
pub struct Filter(RegexSet);

impl Filter {
    /// Reads the script. `None` if it does anything else than to leave out lines.
    pub fn read(script: &str) -> Option<Self> {
        if !script.starts_with("#!/bin/sed") {
            return None;
        }
        let lines = script.lines().map(str::trim);
        let rules = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let patterns = rules.map(|rule| basic(rule.strip_prefix('/')?.strip_suffix("/d")?));
        let patterns: Vec<String> = patterns.collect::<Option<_>>()?;
        let mut set = RegexSetBuilder::new(patterns);
        Some(Filter(set.unicode(false).build().ok()?))
    }

    /// The symbols that are kept.
    pub fn keep<'data>(&self, mut symbols: Vec<Symbol<'data>>) -> Vec<Symbol<'data>> {
        let mut line = Vec::new();
        symbols.retain(|symbol| {
            line.clear();
            symbol.write_tail(&mut line);
            !self.0.is_match(&line)
        });
        symbols
    }
}

/// A basic regular expression as this crate's: in the former `+?(){}|` are themselves.
fn basic(pattern: &str) -> Option<String> {
    let mut text = String::new();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next()? {
                c @ ('.' | '$' | '*' | '[' | ']' | '^' | '/' | '\\') => {
                    text += &regex::escape(&c.to_string());
                }
                _ => return None,
            },
            '$' if rest.peek().is_none() => text.push('$'),
            // What an address or the end of a rule would be: other rules than those here.
            '^' | '/' => return None,
            '[' => text += &bracket(&mut rest)?,
            '.' | '*' => text.push(c),
            c => text += &regex::escape(&c.to_string()),
        }
    }
    Some(text)
}

/// What follows a `[`, up to its end; only plain characters, ranges and classes.
fn bracket(rest: &mut impl Iterator<Item = char>) -> Option<String> {
    let mut text = String::from("[");
    while let Some(c) = rest.next() {
        match c {
            ']' => return Some(text + "]"),
            '[' => {
                let class: String = rest.by_ref().take_while(|c| *c != ']').collect();
                let name = class.strip_prefix(':')?.strip_suffix(':')?;
                text += &format!("[:{name}:]");
            }
            '^' | '&' | '~' | '\\' => return None,
            c => text.push(c),
        }
    }
    None
}

/// The text of `System.map`.
pub fn text(symbols: &[Symbol<'_>], is_64: bool) -> Vec<u8> {
    let mut text = Vec::with_capacity(symbols.len() * 48);
    for symbol in symbols {
        let width = if is_64 { 16 } else { 8 };
        text.extend(format!("{:0width$x}", symbol.address).into_bytes());
        symbol.write_tail(&mut text);
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_basic() {
        assert_eq!(basic(r" __pi_\$").unwrap(), r" __pi_\$");
        assert_eq!(basic(" L0$").unwrap(), " L0$");
        assert_eq!(basic(" a$b").unwrap(), r" a\$b");
        assert_eq!(basic(" __[[:alnum:]]*Thunk_").unwrap(), " __[[:alnum:]]*Thunk_");
        assert_eq!(basic("a+(b)").unwrap(), r"a\+\(b\)");
        assert_eq!(basic(r"\(a\)"), None);
        assert_eq!(basic("[^a]"), None);
        assert_eq!(basic("[a"), None);
    }

    #[test]
    fn a_script_that_does_more_is_not_read() {
        let script = "#!/bin/sed -f\n# why\n/ [aNUw] /d\n\n/ L0$/d\n";
        let filter = Filter::read(script).unwrap();
        let symbol = |letter, name: &'static str| Symbol {
            address: 1,
            size: 0,
            letter,
            name: name.as_bytes(),
        };
        let all = vec![symbol(b't', "L0"), symbol(b'N', "d"), symbol(b't', "L01")];
        assert_eq!(filter.keep(all), [symbol(b't', "L01")]);
        for other in ["s/a/b/", "/a/p", "/a/d;/b/d"] {
            assert!(Filter::read(&format!("{script}{other}\n")).is_none(), "{other}");
        }
        assert!(Filter::read("#!/bin/sh\n/a/d\n").is_none());
    }
}
