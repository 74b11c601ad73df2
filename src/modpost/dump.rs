//! `vmlinux.symvers` and `Module.symvers`: lines from exported symbols, and back. Must not
//! know where versions come from.
//!
//! Format: `write_dump()` and `read_dump()` of `scripts/mod/modpost.c`, the same in Linux 5.8
//! to 7.3: version, symbol, module, license macro and namespace, with tabs between.

use std::fmt::Write;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The version; 0 for a symbol with none.
    pub crc: u32,
    /// The symbol.
    pub name: String,
    /// `vmlinux`, or the module's path without its ending.
    pub module: String,
    /// `EXPORT_SYMBOL_GPL`.
    pub gpl_only: bool,
    /// Empty if it has none.
    pub namespace: String,
}

/// The file's text.
pub fn render<'a>(lines: impl IntoIterator<Item = &'a Line>) -> String {
    let mut text = String::new();
    for Line { crc, name, module, gpl_only, namespace } in lines {
        let gpl = if *gpl_only { "_GPL" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "0x{crc:08x}\t{name}\t{module}\tEXPORT_SYMBOL{gpl}\t{namespace}");
    }
    text
}

/// The lines of a file.
///
/// # Errors
/// A clause that says which line is broken and how.
pub fn parse(text: &str) -> Result<Vec<Line>, String> {
    // Not `lines()`: a carriage return would be a difference.
    let numbered = text.split_terminator('\n').enumerate();
    numbered
        .map(|(at, line)| parse_line(line).map_err(|why| format!("line {} has {why}", at + 1)))
        .collect()
}

fn parse_line(line: &str) -> Result<Line, String> {
    let mut fields = line.splitn(5, '\t');
    let mut field = || fields.next().ok_or_else(|| "fewer than five fields".to_owned());
    let (crc, name, module, license, namespace) =
        (field()?, field()?, field()?, field()?, field()?);
    let digits = crc.strip_prefix("0x").unwrap_or(crc);
    let crc = u32::from_str_radix(digits, 16).map_err(|_| format!("`{crc}` for a version"))?;
    if name.is_empty() || module.is_empty() {
        return Err("no symbol or no module".to_owned());
    }
    let gpl_only = match license {
        "EXPORT_SYMBOL_GPL" => true,
        "EXPORT_SYMBOL" => false,
        other => return Err(format!("the unknown license `{other}`")),
    };
    let [name, module, namespace] = [name, module, namespace].map(str::to_owned);
    Ok(Line { crc, name, module, gpl_only, namespace })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn broken_lines_are_named() {
        let good = "0x00000001\ta\tvmlinux\tEXPORT_SYMBOL\t\n";
        assert_eq!(parse(good).unwrap().len(), 1);
        let returned = parse(&good.replace('\n', "\r\n")).unwrap();
        assert_eq!(returned[0].namespace, "\r");
        for (line, says) in [
            ("0x1\ta\tvmlinux\tEXPORT_SYMBOL", "line 2 has fewer than five"),
            ("0xg\ta\tvmlinux\tEXPORT_SYMBOL\t", "`0xg` for a version"),
            ("0x1\t\tvmlinux\tEXPORT_SYMBOL\t", "no symbol"),
            ("0x1\ta\tvmlinux\tEXPORT\t", "unknown license `EXPORT`"),
            ("", "fewer than five"),
        ] {
            let error = parse(&format!("{good}{line}\n")).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    prop_compose! {
        fn any_line()(
            crc: u32,
            name in "[A-Za-z_][A-Za-z0-9_]{0,8}",
            module in "[a-z/-]{1,12}",
            gpl_only: bool,
            namespace in "([A-Z_]{1,8}|module:[a-z,*]{1,8})?",
        ) -> Line {
            Line { crc, name, module, gpl_only, namespace }
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_back(lines in prop::collection::vec(any_line(), 0..10)) {
            prop_assert_eq!(parse(&render(&lines)).unwrap(), lines);
        }

        #[test]
        fn any_text_is_survived(text in "(\\PC|\t|\n){0,100}") {
            let _ = parse(&text);
        }
    }
}
