//! Words for people: inputs and reasons, as they stand after `due to`. The only place that has
//! them; nothing is parsed back out of them.

use crate::inputs::{Change, Kind, Label};
use crate::plan::Due;

/// An input: `import kernel/cpu.o`.
pub fn label(label: &Label) -> String {
    let kind = match label.kind {
        Kind::Bitcode => "bitcode",
        Kind::Index => "index",
        Kind::Import => "import",
        Kind::Member => "member",
        Kind::FlagFile => "file named by a flag",
        Kind::AsmFile => "file included by assembly",
        Kind::File => "file",
        Kind::ThinArchive => "members of",
        Kind::Tool if label.name.is_empty() => "compiler",
        Kind::Tool => "tool",
        Kind::Environment => "environment",
        Kind::Flags => "flags",
    };
    format!("{kind} {}", label.name).trim_end().to_owned()
}

/// What changed.
pub(crate) fn change(change: &Change) -> String {
    match change {
        Change::Changed(input) => label(input),
        Change::Gone(input) => format!("{}, which is no longer an input", label(input)),
        Change::Order => "the order of its inputs".to_owned(),
    }
}

/// Why a backend has to run.
pub fn due(due: &Due) -> String {
    match due {
        Due::NeverRun => "no record of an earlier run".to_owned(),
        Due::Unnamed => "a file that its assembly includes but does not name".to_owned(),
        Due::OtherAssembler => "an assembler outside clang".to_owned(),
        Due::UnidentifiedCompiler => {
            "a compiler that does not tell which program it runs".to_owned()
        }
        Due::Input(input) => change(input),
        Due::OutputGone(name) => format!("{name}, which is missing"),
        Due::OutputForeign(name) => format!("{name}, which something other than kthinlto changed"),
    }
}
