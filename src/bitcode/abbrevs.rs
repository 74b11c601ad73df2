//! The abbreviations of a bitstream: which of them a block has, and what each is made of. Must not know
//! how bits are read, nor what a block means.

use rustc_hash::FxHashMap as HashMap;

use super::bitstream::Malformed;

/// Abbreviations that a block may have; LLVM's own have some dozens.
pub(super) const MOST: usize = 1000;

/// One operand of an abbreviation.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    Literal(u64),
    Fixed(u32),
    Vbr(u32),
    Array,
    Char6,
    Blob,
}

/// Where the operands of an abbreviation are among those of all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Abbrev {
    start: usize,
    end: usize,
}

/// The abbreviations of a walk: a kernel's files define hundreds of thousands, for a few records
/// each, so that none has memory of its own.
#[derive(Debug, Default)]
pub(super) struct Abbrevs {
    /// Operands of all, one after the other.
    ops: Vec<Op>,
    /// Those of the blocks that are open, the innermost last.
    local: Vec<Abbrev>,
    /// Lists that BLOCKINFO gave. A block that is open keeps the one that it began with, as long
    /// as it was then.
    lists: Vec<Vec<Abbrev>>,
    /// Which of the lists blocks of an id begin with.
    of: HashMap<u64, usize>,
    /// How many BLOCKINFO gave.
    given: usize,
}

/// The abbreviations of one block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    /// A list, and how much of it.
    list: Option<(usize, usize)>,
    /// Where its own begin, and its own operands.
    local: usize,
    ops: usize,
    /// How many BLOCKINFO had given.
    given: usize,
}

impl Abbrevs {
    /// What a block of this id begins with.
    pub fn enter(&self, block: u64) -> Scope {
        let list = self.of.get(&block).map(|list| (*list, self.lists[*list].len()));
        Scope { list, local: self.local.len(), ops: self.ops.len(), given: self.given }
    }

    /// Forgets the block's own; operands that a list uses by now stay.
    pub fn leave(&mut self, scope: Scope) {
        self.local.truncate(scope.local);
        if self.given == scope.given {
            self.ops.truncate(scope.ops);
        }
    }

    /// What BLOCKINFO gave so far is for no block that begins from here on.
    pub fn begin_anew(&mut self) {
        self.of.clear();
    }

    /// Where the operands of the next one begin.
    pub fn begin(&self) -> usize {
        self.ops.len()
    }

    /// The next operand.
    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// The one whose operands began there.
    pub fn end(&self, start: usize) -> Abbrev {
        Abbrev { start, end: self.ops.len() }
    }

    /// The abbreviation of this number, from 0, in a block.
    pub fn get(&self, scope: Scope, number: usize) -> Option<&[Op]> {
        let listed = scope.list.map_or(0, |(_, count)| count);
        let abbrev = match scope.list.filter(|_| number < listed) {
            Some((list, _)) => self.lists[list].get(number)?,
            None => self.local.get(scope.local + number - listed)?,
        };
        Some(&self.ops[abbrev.start..abbrev.end])
    }

    /// Adds one to the block's own.
    pub fn add(&mut self, scope: Scope, abbrev: Abbrev) -> Result<(), Malformed> {
        let listed = scope.list.map_or(0, |(_, count)| count);
        check_count(listed + self.local.len() - scope.local)?;
        self.local.push(abbrev);
        Ok(())
    }

    /// Adds one for all blocks of an id that begin from here on.
    pub fn give(&mut self, block: u64, abbrev: Abbrev) -> Result<(), Malformed> {
        let list = *self.of.entry(block).or_insert_with(|| {
            self.lists.push(Vec::new());
            self.lists.len() - 1
        });
        check_count(self.lists[list].len())?;
        self.lists[list].push(abbrev);
        self.given += 1;
        Ok(())
    }
}

fn check_count(count: usize) -> Result<(), Malformed> {
    if count >= MOST {
        return Err(Malformed("abbreviations without end"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(abbrevs: &mut Abbrevs, value: u64) -> Abbrev {
        let start = abbrevs.begin();
        abbrevs.push(Op::Literal(value));
        abbrevs.end(start)
    }

    fn value(abbrevs: &Abbrevs, scope: Scope, number: usize) -> Option<u64> {
        match abbrevs.get(scope, number)? {
            [Op::Literal(value)] => Some(*value),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_block_has_what_was_given_before_it_began_and_then_its_own() {
        let mut all = Abbrevs::default();
        let one = literal(&mut all, 1);
        all.give(8, one).unwrap();
        let outer = all.enter(8);
        let own = literal(&mut all, 2);
        all.add(outer, own).unwrap();
        let inner = all.enter(8);
        assert_eq!((value(&all, inner, 0), value(&all, inner, 1)), (Some(1), None));
        let (own, late) = (literal(&mut all, 3), literal(&mut all, 4));
        all.add(inner, own).unwrap();
        all.give(8, late).unwrap();
        assert_eq!((value(&all, inner, 1), value(&all, inner, 2)), (Some(3), None));
        all.leave(inner);
        assert_eq!((value(&all, outer, 0), value(&all, outer, 1)), (Some(1), Some(2)));
        assert_eq!(value(&all, outer, 2), None, "it was given too late");
        all.leave(outer);
        let next = all.enter(8);
        assert_eq!((value(&all, next, 1), value(&all, next, 2)), (Some(4), None));
        all.begin_anew();
        assert_eq!(value(&all, all.enter(8), 0), None);
        assert_eq!(value(&all, next, 1), Some(4), "a block keeps what it began with");
    }

    #[test]
    fn what_a_block_defined_takes_no_room_after_it() {
        let mut all = Abbrevs::default();
        for _ in 0..10 {
            let block = all.enter(12);
            let own = literal(&mut all, 5);
            all.add(block, own).unwrap();
            all.leave(block);
        }
        assert_eq!((all.ops.len(), all.local.len()), (0, 0));
    }
}
