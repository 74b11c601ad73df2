//! What a step of a relink is made from: its words, its tools, and the files that it reads. One
//! walk, in the vocabulary of [`crate::inputs`]. Must not know what a step is for.

use std::path::PathBuf;

use super::recipe::Step;
use crate::archive::read::flatten;
use crate::error::Result;
use crate::format::Format;
use crate::inputs::{InputVisitor, Inputs, Kind};
use crate::store::{Digest, Facts, KeyBuilder, Store};
use crate::unit::ARCHIVE;

/// What the keys of steps are for. It changes with the walk.
const PURPOSE: &str = "kthinlto relink 2";

/// All inputs of a step.
pub fn of(store: &Store, step: &Step) -> Result<Inputs> {
    let mut inputs = Inputs::new(PURPOSE);
    walk(store, step, &mut inputs)?;
    Ok(inputs)
}

fn walk(store: &Store, step: &Step, visitor: &mut dyn InputVisitor) -> Result<()> {
    visitor.input(Kind::Flags, &step.name, &Digest::of(step.shown.as_bytes()));
    for (label, digest) in &step.made_by {
        visitor.input(label.kind, &label.name, digest);
    }
    for name in &step.inputs {
        let found = store.files.find(name)?;
        visitor.file(name, found.as_ref());
        match found {
            Some(facts) if facts.format == Format::Archive => archive(store, name, facts, visitor)?,
            Some(facts) => visitor.input(Kind::File, name, &facts.digest),
            None => visitor.input(Kind::File, name, &Digest::of(b"absent")),
        }
    }
    Ok(())
}

/// A thin archive holds names: what a step reads are its members.
fn archive(store: &Store, name: &str, facts: Facts, visitor: &mut dyn InputVisitor) -> Result<()> {
    let mut key = KeyBuilder::new("members");
    key.digest(&facts.digest);
    if name == ARCHIVE {
        // What it was made from covers its members, and their records.
        key.field(format!("{:?}", store.output(ARCHIVE)).as_bytes());
    } else if let Ok(members) = flatten(store.tree(), &[PathBuf::from(name)]) {
        for member in members {
            let found = store.files.find(&member)?;
            visitor.file(&member, found.as_ref());
            key.field(member.as_bytes());
            match found {
                Some(facts) => key.digest(&facts.digest),
                None => key.field(b"absent"),
            };
        }
    } // else its members are in it
    visitor.input(Kind::ThinArchive, name, &key.finish());
    Ok(())
}
