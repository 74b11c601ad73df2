//! What a step, a backend or a thin link is made from, in one vocabulary: what an input can be,
//! one walk's key, and the list for whoever explains it. Must not know who walks, or in which
//! order; nor any words for people.

use serde::{Deserialize, Serialize};

use crate::store::digest::Short;
use crate::store::{Digest, Facts, KeyBuilder};

/// Defines [`Kind`] with all that has to know each case, so that none can be forgotten.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $key:literal,)*) => {
        /// What an input is to what is made from it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// Each of them.
            pub const ALL: &[Kind] = &[$(Kind::$name,)*];

            /// What stands in keys for it: a new text makes all keys new.
            fn key(self) -> &'static str {
                match self {
                    $(Kind::$name => $key,)*
                }
            }
        }
    };
}

kinds! {
    /// The bitcode that a backend compiles.
    Bitcode = "bitcode",
    /// The index of that bitcode.
    Index = "index",
    /// A module that it imports from.
    Import = "import",
    /// A member of the archives, in link order.
    Member = "member",
    /// A file that a flag names, and what such a file takes in.
    FlagFile = "flag file",
    /// A file that assembly includes.
    AsmFile = "assembly file",
    /// Any other file.
    File = "file",
    /// A thin archive, by the content of its members.
    ThinArchive = "thin archive",
    /// A compiler, a linker or another program: its words, and the content that runs.
    Tool = "tool",
    /// Variables that a tool reads.
    Environment = "environment",
    /// Flags, or another text.
    Flags = "flags",
}

/// An input without its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Label {
    /// What it is.
    pub kind: Kind,
    /// Its name; none, where there is but one of its kind.
    pub name: String,
}

impl Label {
    /// An input of this kind and name.
    pub(crate) fn new(kind: Kind, name: &str) -> Self {
        Label { kind, name: name.to_owned() }
    }
}

/// Takes the inputs of a walk, in a fixed order.
pub(crate) trait InputVisitor {
    /// An input: what it is, its name (or none), its content.
    fn input(&mut self, kind: Kind, name: &str, digest: &Digest);
    /// A file that is read, or one that was only looked at, without facts: to see, later, that it did
    /// not change meanwhile.
    fn file(&mut self, name: &str, read: Option<&Facts>);
    /// Something is read that could not be named: what is made has to be made every time.
    fn unknown(&mut self);
}

/// The key of a walk, and nothing more: what most walks are for.
#[derive(Debug)]
pub struct Key {
    builder: KeyBuilder,
    /// There are inputs that no key covers: it has to be made every time.
    pub unknown: bool,
}

impl Key {
    /// A key for one purpose; another version of the walk is another purpose.
    pub(crate) fn new(purpose: &str) -> Self {
        Key { builder: KeyBuilder::new(purpose), unknown: false }
    }

    /// Equal keys mean equal output.
    pub(crate) fn digest(&self) -> Digest {
        self.builder.finish()
    }
}

impl InputVisitor for Key {
    fn input(&mut self, kind: Kind, name: &str, digest: &Digest) {
        self.builder.field(kind.key().as_bytes()).field(name.as_bytes()).digest(digest);
    }

    fn file(&mut self, _: &str, _: Option<&Facts>) {}

    fn unknown(&mut self) {
        self.unknown = true;
    }
}

/// A file that a job reads, by its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name, below the tree or absolute.
    pub name: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

impl File {
    /// A file of this name, of which this is known.
    pub(crate) fn new(name: &str, facts: &Facts) -> Self {
        File { name: name.to_owned(), digest: facts.digest, size: facts.size }
    }
}

/// All inputs of a walk, and their key.
#[derive(Debug)]
pub struct Inputs {
    /// What they are, and their contents, in the key's order.
    pub list: Vec<(Label, Digest)>,
    /// Files that are read.
    pub files: Vec<File>,
    /// Names of files that only this program looked at.
    pub looked_at: Vec<String>,
    /// The key.
    pub key: Key,
}

impl Inputs {
    /// None yet.
    pub(crate) fn new(purpose: &str) -> Self {
        Inputs {
            list: Vec::new(),
            files: Vec::new(),
            looked_at: Vec::new(),
            key: Key::new(purpose),
        }
    }

    /// Names of all files whose change would matter.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let read = self.files.iter().map(|file| &file.name);
        read.chain(&self.looked_at).map(String::as_str)
    }

    /// What a record keeps of them: the start of each digest is enough to tell two apart.
    pub(crate) fn recorded(&self) -> Vec<Recorded> {
        self.list.iter().map(|(label, digest)| (label.clone(), digest.short())).collect()
    }

    /// The same, only to be written.
    pub(crate) fn to_record(&self) -> Vec<(&Label, Short)> {
        self.list.iter().map(|(label, digest)| (label, Short(*digest))).collect()
    }
}

/// An input with the start of its digest.
pub(crate) type Recorded = (Label, String);

impl InputVisitor for Inputs {
    fn input(&mut self, kind: Kind, name: &str, digest: &Digest) {
        self.list.push((Label::new(kind, name), *digest));
        self.key.input(kind, name, digest);
    }

    fn file(&mut self, name: &str, read: Option<&Facts>) {
        match read {
            Some(facts) => self.files.push(File::new(name, facts)),
            None => self.looked_at.push(name.to_owned()),
        }
    }

    fn unknown(&mut self) {
        self.key.unknown();
    }
}

/// One input, now and when something was last made from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// What it is.
    pub label: Label,
    /// Start of its digest at the last run; `None` if it was no input then.
    pub was: Option<String>,
    /// Start of its digest now; `None` if it is an input no more.
    pub is: Option<String>,
}

/// Inputs of now and of before: those of now in their order, then those that are gone.
pub(crate) fn compare(now: &[Recorded], before: &[Recorded]) -> Vec<Compared> {
    let was = |label: &Label| before.iter().find(|input| input.0 == *label).map(|i| i.1.clone());
    let mut all: Vec<Compared> = now
        .iter()
        .map(|(label, is)| Compared { label: label.clone(), was: was(label), is: Some(is.clone()) })
        .collect();
    let gone = before.iter().filter(|input| !now.iter().any(|n| n.0 == input.0));
    all.extend(gone.map(|(label, was)| Compared {
        label: label.clone(),
        was: Some(was.clone()),
        is: None,
    }));
    all
}

/// What is not as it was when something was last made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// An input is new, or another.
    Changed(Label),
    /// An input is none any more.
    Gone(Label),
    /// The same inputs in another order, or by other rules.
    Order,
}

impl Change {
    /// The first input that is not as it was. An index comes last: it holds the hashes of all
    /// imported modules, and so changes with each of them.
    pub(crate) fn first(was: &[Recorded], now: &[Recorded]) -> Self {
        let changed = |index: bool| {
            let kind = |label: &Label| (label.kind == Kind::Index) == index;
            now.iter().find(|input| kind(&input.0) && !was.contains(input))
        };
        let gone = || was.iter().find(|was| !now.iter().any(|is| is.0 == was.0));
        match (changed(false).or_else(|| changed(true)), gone()) {
            (Some((label, _)), _) => Change::Changed(label.clone()),
            (None, Some((label, _))) => Change::Gone(label.clone()),
            (None, None) => Change::Order,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_named() {
        use Kind::{Flags, Import, Index};
        type List<'a> = &'a [(Kind, &'a str, &'a str)];
        let listed = |list: List<'_>| -> Vec<Recorded> {
            let one = |(kind, name, text): &(Kind, &str, &str)| {
                (Label::new(*kind, name), (*text).to_owned())
            };
            list.iter().map(one).collect()
        };
        let was = listed(&[(Flags, "", "-O2"), (Import, "a.o", "1"), (Import, "b.o", "2")]);
        let first = |list: List<'_>| Change::first(&was, &listed(list));
        let import = |name| Label::new(Import, name);
        let same = (Flags, "", "-O2");
        assert_eq!(
            first(&[same, (Import, "a.o", "9"), (Import, "b.o", "2")]),
            Change::Changed(import("a.o"))
        );
        assert_eq!(
            first(&[same, (Import, "a.o", "1"), (Import, "c.o", "2")]),
            Change::Changed(import("c.o"))
        );
        let cause = first(&[(Index, "a.o", "2"), (Import, "a.o", "9")]);
        assert_eq!(cause, Change::Changed(import("a.o")), "the cause, not what comes of it");
        assert_eq!(first(&[same, (Import, "a.o", "1")]), Change::Gone(import("b.o")));
        let moved = first(&[same, (Import, "b.o", "2"), (Import, "a.o", "1")]);
        assert_eq!(moved, Change::Order);
    }
}
