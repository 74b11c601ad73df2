//! What can go wrong, as sentences: what was being done, on which file, what was
//! found, what to do. One exhaustive match turns an error into its documented exit
//! code. Must not know how errors are shown.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Result of everything in this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way in which the stage can stop. `Display` is one sentence with a remedy;
/// `source()` keeps the operating system's or the parser's own words.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line or a setting cannot be used.
    #[error("{0}")]
    Usage(String),

    /// A file of the object tree is not what the stage needs.
    #[error("cannot use {}: {found}; {remedy}", path.display())]
    BadInput {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        found: String,
        /// What to do about it.
        remedy: String,
    },

    /// An archive lists a member that is not there.
    #[error(
        "{} does not exist, but is a member of {}; build it again with make",
        member.display(),
        archive.display()
    )]
    MissingMember {
        /// The archive.
        archive: PathBuf,
        /// The member's file.
        member: PathBuf,
    },

    /// A bitcode object whose front-end flags are not on record.
    #[error(
        "no recorded compiler flags for the bitcode object {object} ({}: {found}); \
         rebuild the object with make (kthinlto never compiles with guessed flags)",
        record.display()
    )]
    NoFlags {
        /// The bitcode object, as the archive names it.
        object: String,
        /// The `.cmd` file that should have them.
        record: PathBuf,
        /// What was found there.
        found: String,
    },

    /// A compiler or linker that cannot be run.
    #[error("cannot run {role} `{command}`: {found}; install it, or name another with {role}=")]
    ToolMissing {
        /// `CC` or `LD`.
        role: &'static str,
        /// The command as it was given.
        command: String,
        /// Why it cannot be run.
        found: String,
    },

    /// A compiler or linker that cannot do distributed ThinLTO.
    #[error(
        "{role} `{command}` is {found}, but distributed ThinLTO of a kernel needs {needed}; \
         name another with {role}="
    )]
    ToolUnfit {
        /// `CC` or `LD`.
        role: &'static str,
        /// The command as it was given.
        command: String,
        /// What it says it is.
        found: String,
        /// What would do.
        needed: String,
    },

    /// The thin link failed.
    #[error("the thin link failed: `{command}` {status}; {advice}")]
    ThinLink {
        /// First words of the linker's command.
        command: String,
        /// How it ended, as words.
        status: String,
        /// What to do about it.
        advice: &'static str,
    },

    /// Backends failed; each was reported when it ended.
    #[error(
        "{failed} of {total} backends failed; vmlinux.a was not written; fix the errors above and \
         run again: finished objects are kept"
    )]
    Backends {
        /// How many failed.
        failed: usize,
        /// How many had to run.
        total: usize,
    },

    /// Jobs for modules failed; each was reported when it ended.
    #[error(
        "of the jobs for modules, {failed} failed; the objects of these modules were not written; fix \
         the errors above and run again: finished objects are kept"
    )]
    Modules {
        /// How many.
        failed: usize,
    },

    /// A step of a relink failed.
    #[error("relinking stopped at {step}: {found}; {advice}")]
    Step {
        /// The step.
        step: String,
        /// What its command did, as words.
        found: String,
        /// What to do about it.
        advice: &'static str,
    },

    /// A file could not be read or written.
    #[error("cannot {doing} {}: {source}{}", path.display(), io_remedy(doing, source))]
    Io {
        /// What was being done, as a verb: `write`, `read`, `rename`.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },

    /// Another kthinlto works in this tree.
    #[error(
        "another kthinlto{holder} is running in {}; wait for it, or use another O= directory",
        tree.display()
    )]
    Locked {
        /// The object tree.
        tree: PathBuf,
        /// ` (process N)`, or empty where it is not known.
        holder: String,
    },

    /// A symvers file is not what the objects say; each symbol was named.
    #[error(
        "{} disagrees with the objects (differences: {problems}); rebuild the objects of symbols \
         that have no version, and then build it again with make",
        file.display()
    )]
    Symvers {
        /// The file.
        file: PathBuf,
        /// How many symbols.
        problems: usize,
    },

    /// Objects are not what their backends make; each was named.
    #[error(
        "{differing} of {compared} objects that were made again differ from what they should be; \
         follow the advice above, and report a bug if nobody changed them"
    )]
    Verify {
        /// How many.
        differing: usize,
        /// Of how many.
        compared: usize,
    },

    /// A signal asked us to stop.
    #[error("interrupted by signal {0}; run again to continue: finished objects are kept")]
    Interrupted(i32),

    /// A kernel tree that no patch series is for.
    #[error("{0}")]
    Patch(String),
}

impl Error {
    /// Wraps an I/O error with what was being done and on which file. Where the file itself is
    /// what is wrong ([`Unfit`]), it says that.
    pub fn io(doing: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let unfit = source.get_ref().and_then(|inner| inner.downcast_ref::<Unfit>());
        match unfit {
            Some(unfit) => Self::bad_input(path, unfit.found.clone(), unfit.remedy),
            None => Error::Io { doing, path: path.as_ref().to_path_buf(), source },
        }
    }

    /// A file that cannot be used: what was found, what to do.
    pub fn bad_input(
        path: impl AsRef<Path>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Error::BadInput {
            path: path.as_ref().to_path_buf(),
            found: found.into(),
            remedy: remedy.into(),
        }
    }

    /// The exit code of the program for this error; the README lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Backends { .. }
            | Error::Modules { .. }
            | Error::ThinLink { .. }
            | Error::Step { .. } => 1,
            Error::Usage(_) => 2,
            Error::BadInput { .. } | Error::MissingMember { .. } | Error::NoFlags { .. } => 3,
            Error::ToolMissing { .. } | Error::ToolUnfit { .. } => 4,
            Error::Io { .. } => 5,
            Error::Locked { .. } => 6,
            Error::Patch(_) => 7,
            Error::Symvers { .. } => 8,
            Error::Verify { .. } => 9,
            Error::Interrupted(signal) => 128u8.saturating_add(*signal as u8),
        }
    }
}

/// A file that the system would give, and that we do not take: it travels in an `io::Error` to
/// whoever knows the file's name.
#[derive(Debug, thiserror::Error)]
#[error("{found}")]
pub struct Unfit {
    /// What was found, as a noun.
    pub found: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl Unfit {
    /// Something to wrap into an `io::Error`.
    pub(crate) fn error(found: impl Into<String>, remedy: &'static str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, Unfit { found: found.into(), remedy })
    }

    /// `kind` is `a pipe`, `a device`, …
    pub(crate) fn not_regular(kind: &str) -> io::Error {
        let found = format!("{kind} where a regular file should be");
        Self::error(found, "remove it and have it made again")
    }

    /// A file with more bytes than can be meant.
    pub(crate) fn too_large(limit: u64) -> io::Error {
        let limit = match limit {
            _ if limit.is_multiple_of(1 << 30) => format!("{} GiB", limit >> 30),
            _ if limit.is_multiple_of(1 << 20) => format!("{} MiB", limit >> 20),
            _ => format!("{limit} bytes"),
        };
        Self::error(format!("a file of more than {limit}"), "find out what made it so large")
    }
}

/// What to do about an I/O error, where more can be said than the system says.
fn io_remedy(doing: &str, source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space and run again (nothing finished is lost)"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied if doing == "patch" => {
            "; nothing was changed: patch a copy of the tree that you can write to"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; use a writable object tree (O=)",
        io::ErrorKind::PermissionDenied
            if ["read", "look at"].iter().any(|verb| doing.starts_with(verb)) =>
        {
            "; check the owner and the mode"
        }
        io::ErrorKind::PermissionDenied => {
            "; check the owner and the mode, or use another object tree (O=)"
        }
        io::ErrorKind::IsADirectory => "; there is a folder where a file should be: name another",
        io::ErrorKind::NotFound => "; check that the path is right and that nothing removes it",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "; there is a file where a folder should be: remove it"
        }
        _ if source.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            "; allow more open files (ulimit -n), or run fewer jobs with -j"
        }
        _ if source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            "; the disk may be failing: see dmesg"
        }
        _ => "",
    }
}

/// How a process ended, in words: `exited with 1`, `was killed by signal 9 (SIGKILL)`.
pub(crate) fn describe_status(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("was killed by signal {signal} ({name})"),
            None => format!("was killed by signal {signal}"),
        },
        (None, None) => format!("ended with {status}"),
    }
}

/// What to do about a compiler or linker that failed, as a clause.
pub(crate) fn advice(status: ExitStatus, output: &[u8]) -> &'static str {
    use std::os::unix::process::ExitStatusExt;
    let said = String::from_utf8_lossy(output);
    if said.contains("No space left on device") {
        "the disk is full: free some space and run again"
    } else if said.contains("-always-rename-promoted-locals") {
        "to keep the names of promoted functions, LLVM 23.1 or later is needed: unset KTHINLTO_STABLE_NAMES"
    } else if said.contains(" is incompatible with ") {
        "an object is of another architecture, from another build in this tree: build it again, or \
         run `make clean` and make for one architecture alone"
    } else if status.signal() == Some(signal_hook::consts::SIGKILL) {
        "if the machine ran out of memory, run fewer jobs with -j"
    } else if said.is_empty() {
        "it printed nothing; V=1 shows the command"
    } else {
        "its messages are above; V=1 shows the command"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_of_signals_are_the_shells() {
        assert_eq!(Error::Interrupted(2).exit_code(), 130);
        assert_eq!(Error::Interrupted(15).exit_code(), 143);
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let text = Error::io("write", "vmlinux.a", full).to_string();
        assert!(text.starts_with("cannot write vmlinux.a: "), "{text}");
        assert!(text.contains("free some space"), "{text}");
    }
}
