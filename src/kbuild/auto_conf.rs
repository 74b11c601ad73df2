//! `include/config/auto.conf`, the configuration as makefiles read it. Must not know what
//! any option means.
//!
//! Format: `conf --syncconfig` (`scripts/kconfig/confdata.c`): `CONFIG_X=y`, `CONFIG_X="text"`;
//! options that are off are not in it.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::regular;

/// Where it is in an object tree.
pub const PATH: &str = "include/config/auto.conf";

/// The options that are on, by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct AutoConf(HashMap<String, String>);

impl AutoConf {
    /// Reads an object tree's configuration.
    pub fn read(tree: &Path) -> Result<Self> {
        let path = tree.join(PATH);
        if !path.is_file() {
            let remedy = "name the object tree of a kernel with -C, and configure it with make";
            return Err(Error::bad_input(&path, "there is no such file", remedy));
        }
        let bytes = regular::read(&path).map_err(|e| Error::io("read", &path, e))?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Takes all options from the file's text.
    pub fn parse(text: &str) -> Self {
        let options = text.lines().filter_map(|line| line.split_once('='));
        let ours = options.filter(|(name, _)| name.starts_with("CONFIG_"));
        AutoConf(ours.map(|(name, value)| (name.to_owned(), unquoted(value))).collect())
    }

    /// Whether an option is built in (`y`).
    pub fn is_on(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value == "y")
    }

    /// An option's text; `None` if it is off or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// A value without its quotes and their escapes.
fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.map_or_else(|| value.to_owned(), |text| text.replace("\\\"", "\"").replace("\\\\", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let text = "#\n# Automatically generated\n#\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_C=\"a \\\"b\\\"\"\nCONFIG_D=\"\"\nX=y\n";
        let conf = AutoConf::parse(text);
        assert!(conf.is_on("CONFIG_A") && !conf.is_on("CONFIG_B") && !conf.is_on("CONFIG_E"));
        assert_eq!(conf.text("CONFIG_C"), Some("a \"b\""));
        assert_eq!((conf.text("CONFIG_D"), conf.text("X")), (None, None));
    }
}
