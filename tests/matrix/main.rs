//! Every kind of input × every reader of it (a backend, the thin link, each step of relink): changed
//! alone, exactly the right things run, and the result is what a clean build gives, byte for byte. A
//! kind or a step without a row, or a reason why there is none, fails. The steps are those that run in
//! the small tree here: a step that other trees have needs its configuration in `world.rs`.

#![cfg(feature = "program")]

#[path = "../common/built.rs"]
mod built;
#[path = "../common/mod.rs"]
mod common;
mod rows;
mod world;

use kthinlto::inputs::Kind;

use rows::{BACKEND, GROUPS, NEVER, THIN_LINK, all};
use world::{Ran, World};

/// Plays all rows of some readers, one after the other.
fn play(readers: &[&str]) {
    let mut world = World::new();
    world.run();
    let mut wrong = Vec::new();
    for row in all().iter().filter(|row| readers.contains(&row.reader)) {
        let name = format!("{} × {:?}: {}", row.reader, row.kind, row.what);
        println!("{name}");
        (row.change)(&mut world);
        let ran = world.run();
        if ran != row.ran {
            wrong.push(format!("{name}\n  ran    {ran:?}\n  wanted {:?}", row.ran));
        }
        world.is_as_from_clean(&ran);
        let again = Ran { backends: 0, thin_link: false, steps: Vec::new() };
        assert_eq!(world.run(), again, "{name}: nothing is due after it");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn backends() {
    play(GROUPS[0]);
}

#[test]
fn the_thin_link() {
    play(GROUPS[1]);
}

#[test]
fn steps_to_vmlinux_o() {
    play(GROUPS[2]);
}

#[test]
fn steps_of_exports() {
    play(GROUPS[3]);
}

#[test]
fn the_final_link() {
    play(GROUPS[4]);
}

#[test]
fn steps_after_the_link() {
    play(GROUPS[5]);
}

#[test]
fn every_kind_and_every_step_has_a_row_or_a_reason() {
    // All steps run in a tree without a record of an earlier run.
    let mut ran = World::new().run().steps;
    ran.extend([BACKEND.to_owned(), THIN_LINK.to_owned()]);
    let mut known = GROUPS.concat();
    ran.sort();
    known.sort();
    assert_eq!(ran, known, "the steps of the program, and those of the table");
    let rows = all();
    for reader in known {
        for kind in Kind::ALL {
            let has = rows.iter().any(|row| (row.reader, row.kind) == (reader, *kind));
            let never = NEVER
                .iter()
                .any(|(readers, kinds, _)| readers.contains(&reader) && kinds.contains(kind));
            assert!(has != never, "{reader} × {kind:?}: has a row: {has}, a reason: {never}");
        }
    }
}
