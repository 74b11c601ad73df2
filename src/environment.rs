//! The environment as plain data: a snapshot of names and values, handed to whatever looks a
//! variable up, so that two trees in one process can have two of them. Must not know what any
//! variable means to its reader.
//!
//! Only what this library looks up itself comes from a snapshot. Programs that it starts inherit
//! the environment of the process, and a name without a slash is found by its `PATH` when it is
//! run. The current folder is no part of a snapshot either: relative names mean what they mean
//! to the process.
//!
//! ```
//! use kthinlto::environment::Environment;
//! let one = Environment::from_iter([("PATH", "/opt/llvm/bin:/usr/bin"), ("NO_COLOR", "")]);
//! assert_eq!(one.get("NO_COLOR"), Some("".as_ref()));
//! assert_eq!(one.get("CPATH"), None);
//! assert!(one.path().eq(["/opt/llvm/bin", "/usr/bin"].map(std::path::PathBuf::from)));
//! ```

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

/// Names and values of variables.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// In the order of the process: of a name that is there twice the first value counts.
    variables: Vec<(OsString, OsString)>,
}

impl Environment {
    /// A snapshot of this process's environment. For a program's edge: everything below is handed
    /// one.
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// The value of a variable; an empty one is a value.
    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        let name = name.as_ref();
        self.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// The folders of `PATH`. An empty name among them is the folder that a program is run in;
    /// where `PATH` is not set that is the only one.
    pub fn path(&self) -> impl Iterator<Item = PathBuf> {
        std::env::split_paths(self.get("PATH").unwrap_or_default())
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Environment { variables: variables.collect() }
    }
}

/// Shows no variable: values may be secrets, and settings are printed whole.
impl fmt::Debug for Environment {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Environment").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_name_that_is_there_twice_the_first_value_counts() {
        let twice = Environment::from_iter([("A", "first"), ("B", ""), ("A", "second")]);
        assert_eq!(twice.get("A"), Some(OsStr::new("first")));
        assert_eq!(twice.iter().count(), 3);
    }

    #[test]
    fn without_a_path_there_is_one_empty_folder() {
        assert!(Environment::default().path().eq([PathBuf::new()]));
    }

    #[test]
    fn no_value_is_printed() {
        let secret = Environment::from_iter([("TOKEN", "secret")]);
        assert_eq!(format!("{secret:?}"), "Environment { .. }");
    }

    #[test]
    fn the_process_has_a_path() {
        assert_eq!(
            Environment::of_process().get("PATH").map(OsStr::to_owned),
            std::env::var_os("PATH")
        );
    }
}
