//! Walks an LLVM bitstream: blocks, abbreviations, records. A visitor says which blocks
//! it wants; all others are skipped by their length. Must not know what a block means.
//!
//! Format: llvm.org/docs/BitCodeFormat.html (the container has not changed since LLVM 3).
//! No maintained crate reads it without copying every record of every block.

use super::abbrevs::{Abbrev, Abbrevs, Op, Scope};
use crate::format::{BITCODE, BITCODE_WRAPPER};

/// Why a bitstream cannot be read, as a clause for a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed bitcode ({0})")]
pub struct Malformed(pub &'static str);

type Result<T> = std::result::Result<T, Malformed>;

/// A record: its code, its numbers, and the bytes of its blob if it has one.
#[derive(Debug, Default)]
pub struct Record<'a> {
    /// Meaning depends on the block.
    pub code: u64,
    /// Operands, arrays included.
    pub ops: Vec<u64>,
    /// Operand of the blob encoding.
    pub blob: Option<&'a [u8]>,
}

/// What a walk calls.
pub trait Visitor<'a> {
    /// Whether the walk should go into a block with this id.
    fn wants(&mut self, block: u64) -> bool;
    /// Whether it wants the records of such a block, and not only blocks in it.
    fn reads(&mut self, _block: u64) -> bool {
        true
    }
    /// Whether nothing is wanted of such a block from its second record on.
    fn has_enough_after_one(&mut self, _block: u64) -> bool {
        false
    }
    /// A record of a wanted block.
    fn record(&mut self, block: u64, record: &Record<'a>);
}

/// Blocks within blocks deeper than this are refused; LLVM's own nest four deep.
const MAX_DEPTH: usize = 32;
/// Bits that eight bytes hold at least, wherever in the first of them one begins.
const SURE: u32 = 57;
/// The standard block that carries abbreviations for others.
const BLOCKINFO: u64 = 0;

/// Walks all blocks of a bitcode file.
///
/// # Errors
/// Where it is malformed.
pub fn walk<'a>(bytes: &'a [u8], visitor: &mut dyn Visitor<'a>) -> Result<()> {
    let stream = unwrap(bytes)?;
    let (bits, abbrevs, spare) = (Bits::new(stream, 32), Abbrevs::default(), Record::default());
    let mut walker = Walker { bits, abbrevs, spare, visitor };
    // Streams are padded to four bytes; less than a block's head is no block.
    while walker.bits.left() >= 64 {
        match walker.bits.fixed(2)? {
            1 => walker.block(0)?,
            _ => return Err(Malformed("no block at the top")),
        }
    }
    Ok(())
}

/// The raw stream within a file, past a wrapper if there is one.
fn unwrap(bytes: &[u8]) -> Result<&[u8]> {
    if bytes.starts_with(&BITCODE) {
        return Ok(bytes);
    }
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).ok_or(Malformed("a cut wrapper"))?;
        Ok(u32::from_le_bytes([word[0], word[1], word[2], word[3]]) as usize)
    };
    if !bytes.starts_with(&BITCODE_WRAPPER) {
        return Err(Malformed("no bitcode magic"));
    }
    let (offset, size) = (word(8)?, word(12)?);
    let end = offset.checked_add(size).ok_or(Malformed("a wrong wrapper"))?;
    let inner = bytes.get(offset..end).ok_or(Malformed("a cut wrapper"))?;
    match inner.starts_with(&BITCODE) {
        true => Ok(inner),
        false => Err(Malformed("no bitcode in the wrapper")),
    }
}

struct Walker<'a, 'v> {
    bits: Bits<'a>,
    abbrevs: Abbrevs,
    /// Room for a record, taken by the block that is read.
    spare: Record<'a>,
    visitor: &'v mut dyn Visitor<'a>,
}

impl<'a> Walker<'a, '_> {
    /// Reads the block whose ENTER_SUBBLOCK id was just read.
    fn block(&mut self, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Malformed("blocks nested too deep"));
        }
        let block = self.bits.vbr(8)?;
        let width = self.bits.vbr(4)? as u32;
        if !(2..=32).contains(&width) {
            return Err(Malformed("a wrong abbreviation width"));
        }
        self.bits.align()?;
        let words = self.bits.fixed(32)? as usize;
        let end = self.bits.at.checked_add(words.saturating_mul(32));
        let end = end.filter(|end| *end <= self.bits.len());
        let end = end.ok_or(Malformed("a block that ends after the file"))?;
        if block == BLOCKINFO {
            // Each module of a file begins anew, and so do LLVM's readers.
            self.abbrevs.begin_anew();
        }
        if block == BLOCKINFO || self.visitor.wants(block) {
            let mut record = std::mem::take(&mut self.spare);
            let scope = self.abbrevs.enter(block);
            self.contents((block, width, scope), depth, &mut record)?;
            self.abbrevs.leave(scope);
            self.spare = record;
        }
        self.bits.at = end;
        Ok(())
    }

    fn contents(
        &mut self,
        (block, width, scope): (u64, u32, Scope),
        depth: usize,
        record: &mut Record<'a>,
    ) -> Result<()> {
        let mut described = None; // the block that a BLOCKINFO record speaks of
        record.code = u64::MAX;
        let reads = block == BLOCKINFO || self.visitor.reads(block);
        let short = block != BLOCKINFO && self.visitor.has_enough_after_one(block);
        let mut records = 0u64;
        loop {
            let id = self.bits.fixed(width)?;
            records += u64::from(id > 2);
            match id {
                0 => return Ok(()),
                // The caller knows where the block ends.
                3.. if short && records > 1 => return Ok(()),
                3 if !reads => self.bits.skip_plain()?,
                1 => self.block(depth + 1)?,
                2 if block == BLOCKINFO => {
                    let abbrev = self.define_abbrev()?;
                    let target = described.ok_or(Malformed("an abbreviation for no block"))?;
                    self.abbrevs.give(target, abbrev)?;
                }
                2 => {
                    let abbrev = self.define_abbrev()?;
                    self.abbrevs.add(scope, abbrev)?;
                }
                3 => self.plain_record(record)?,
                id => {
                    let abbrev = self.abbrevs.get(scope, id as usize - 4);
                    let abbrev = abbrev.ok_or(Malformed("an unknown abbreviation"))?;
                    self.bits.abbreviated(abbrev, record)?;
                    if !reads {
                        record.code = u64::MAX;
                    }
                }
            }
            if record.code != u64::MAX {
                if block == BLOCKINFO && record.code == 1 {
                    described = record.ops.first().copied();
                } else if block != BLOCKINFO {
                    self.visitor.record(block, record);
                }
            }
            record.code = u64::MAX;
        }
    }

    fn plain_record(&mut self, record: &mut Record<'a>) -> Result<()> {
        record.ops.clear();
        record.blob = None;
        record.code = self.bits.vbr(6)?;
        let count = self.bits.vbr(6)?;
        for _ in 0..count {
            record.ops.push(self.bits.vbr(6)?);
        }
        Ok(())
    }

    fn define_abbrev(&mut self) -> Result<Abbrev> {
        let count = self.bits.vbr(5)?;
        let start = self.abbrevs.begin();
        for _ in 0..count {
            let op = match self.bits.fixed(1)? {
                1 => Op::Literal(self.bits.vbr(8)?),
                _ => match self.bits.fixed(3)? {
                    1 => self.width()?.map_or(Op::Literal(0), Op::Fixed),
                    2 => self.width()?.map_or(Op::Literal(0), Op::Vbr),
                    3 => Op::Array,
                    4 => Op::Char6,
                    5 => Op::Blob,
                    _ => return Err(Malformed("an unknown encoding")),
                },
            };
            self.abbrevs.push(op);
        }
        Ok(self.abbrevs.end(start))
    }

    /// How many bits an operand takes. One of none is the number 0, as in LLVM.
    fn width(&mut self) -> Result<Option<u32>> {
        match self.bits.vbr(5)? {
            0 => Ok(None),
            width @ 1..=64 => Ok(Some(width as u32)),
            _ => Err(Malformed("an operand wider than 64 bits")),
        }
    }
}

/// A position in a stream of bits, little end first.
struct Bits<'a> {
    stream: &'a [u8],
    at: usize,
    /// Operands that may still be had for no bits: as many as the stream has bits, so that what is
    /// read of it is no more than a few times its size.
    free: usize,
}

impl<'a> Bits<'a> {
    fn new(stream: &'a [u8], at: usize) -> Self {
        Bits { stream, at, free: stream.len() * 8 }
    }

    fn len(&self) -> usize {
        self.stream.len() * 8
    }

    fn left(&self) -> usize {
        self.len().saturating_sub(self.at)
    }

    /// The next bits, at least [`SURE`] of them; `None` near the end of the stream.
    #[inline(always)]
    fn peek(&self) -> Option<u64> {
        let chunk = self.stream.get(self.at / 8..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*chunk) >> (self.at % 8))
    }

    #[inline(always)]
    fn fixed(&mut self, width: u32) -> Result<u64> {
        match self.peek().filter(|_| width <= SURE) {
            Some(bits) => {
                self.at += width as usize;
                Ok(bits & ((1 << width) - 1))
            }
            None => self.fixed_anywhere(width),
        }
    }

    #[cold]
    fn fixed_anywhere(&mut self, width: u32) -> Result<u64> {
        if width == 0 {
            return Ok(0);
        }
        if self.left() < width as usize {
            return Err(Malformed("it ends too early"));
        }
        let (byte, shift) = (self.at / 8, self.at % 8);
        self.at += width as usize;
        let low = load(&self.stream[byte..]) >> shift;
        let got = 64 - shift as u32;
        let value = match got < width {
            true => low | load(&self.stream[byte + 8..]) << got,
            false => low,
        };
        Ok(if width == 64 { value } else { value & ((1 << width) - 1) })
    }

    #[inline(always)]
    fn vbr(&mut self, width: u32) -> Result<u64> {
        if !(2..=32).contains(&width) {
            return Err(Malformed("a wrong VBR width"));
        }
        // Nearly all numbers fit into one piece or two.
        let (more, low) = (1 << (width - 1), (1 << (width - 1)) - 1);
        let Some(bits) = self.peek() else {
            return self.vbr_anywhere(width);
        };
        if bits & more == 0 {
            self.at += width as usize;
            return Ok(bits & low);
        }
        let second = bits >> width;
        if 2 * width <= SURE && second & more == 0 {
            self.at += 2 * width as usize;
            return Ok(bits & low | (second & low) << (width - 1));
        }
        self.vbr_anywhere(width)
    }

    #[cold]
    fn vbr_anywhere(&mut self, width: u32) -> Result<u64> {
        let more = 1 << (width - 1);
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let piece = self.fixed(width)?;
            if shift < 64 {
                value |= (piece & (more - 1)) << shift;
            }
            if piece & more == 0 {
                return Ok(value);
            }
            shift += width - 1;
            if shift > 70 {
                return Err(Malformed("a number wider than 64 bits"));
            }
        }
    }

    /// Passes over a record without an abbreviation: its code, and as many numbers as it says.
    fn skip_plain(&mut self) -> Result<()> {
        self.vbr(6)?;
        for _ in 0..self.vbr(6)? {
            self.vbr(6)?;
        }
        Ok(())
    }

    fn align(&mut self) -> Result<()> {
        self.at = self.at.next_multiple_of(32);
        match self.at <= self.len() {
            true => Ok(()),
            false => Err(Malformed("it ends too early")),
        }
    }

    fn scalar(&mut self, op: Op) -> Result<u64> {
        match op {
            Op::Literal(value) => {
                self.free = self
                    .free
                    .checked_sub(1)
                    .ok_or(Malformed("more numbers than its bits can hold"))?;
                Ok(value)
            }
            Op::Fixed(width) => self.fixed(width),
            Op::Vbr(width) => self.vbr(width),
            Op::Char6 => Ok(CHAR6[self.fixed(6)? as usize].into()),
            Op::Array | Op::Blob => Err(Malformed("an array where a number should be")),
        }
    }

    fn abbreviated(&mut self, abbrev: &[Op], record: &mut Record<'a>) -> Result<()> {
        let (&first, mut rest) = abbrev.split_first().ok_or(Malformed("an empty abbreviation"))?;
        record.ops.clear();
        record.blob = None;
        record.code = self.scalar(first)?;
        while let Some((&op, after)) = rest.split_first() {
            rest = after;
            match op {
                Op::Array => {
                    let element = *after.first().ok_or(Malformed("an array of nothing"))?;
                    let count = self.vbr(6)?;
                    return self.array(element, count, &mut record.ops);
                }
                Op::Blob => record.blob = Some(self.blob()?),
                scalar => record.ops.push(self.scalar(scalar)?),
            }
        }
        Ok(())
    }

    /// Elements of an array: which kind they are is asked once.
    fn array(&mut self, element: Op, count: u64, ops: &mut Vec<u64>) -> Result<()> {
        match element {
            Op::Fixed(width) => (0..count).try_for_each(|_| {
                ops.push(self.fixed(width)?);
                Ok(())
            }),
            Op::Char6 => (0..count).try_for_each(|_| {
                ops.push(CHAR6[self.fixed(6)? as usize].into());
                Ok(())
            }),
            Op::Vbr(width) => (0..count).try_for_each(|_| {
                ops.push(self.vbr(width)?);
                Ok(())
            }),
            // A literal takes no bits: a short file could ask for any length. LLVM refuses it too.
            _ => Err(Malformed("an array of elements that take no bits")),
        }
    }

    fn blob(&mut self) -> Result<&'a [u8]> {
        let size = self.vbr(6)? as usize;
        self.align()?;
        let start = self.at / 8;
        let end = start.checked_add(size).filter(|end| *end <= self.stream.len());
        let end = end.ok_or(Malformed("a blob that ends after the file"))?;
        self.at = end * 8;
        self.align()?;
        Ok(&self.stream[start..end])
    }
}

/// The next eight bytes, with zeros past the end.
fn load(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => {
            let mut chunk = [0; 8];
            chunk[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(chunk)
        }
    }
}

const CHAR6: [u8; 64] = *b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(stream: &[u8], at: usize) -> Bits<'_> {
        Bits::new(stream, at)
    }

    /// A stream of bits that is written.
    #[derive(Default)]
    struct Written(Vec<bool>);

    impl Written {
        fn fixed(&mut self, value: u64, width: u32) -> &mut Self {
            self.0.extend((0..width).map(|bit| value >> bit & 1 == 1));
            self
        }

        fn vbr(&mut self, mut value: u64, width: u32) -> &mut Self {
            let low = (1 << (width - 1)) - 1;
            while value > low {
                self.fixed(value & low | (low + 1), width);
                value >>= width - 1;
            }
            self.fixed(value, width)
        }

        /// Block 8, whose abbreviations are four bits wide, around what was written.
        fn block(self) -> Vec<u8> {
            let mut whole = Written::default();
            whole.fixed(1, 2).vbr(8, 8).vbr(4, 4).fixed(0, 18);
            let words = (self.0.len() as u64).div_ceil(32);
            whole.fixed(words, 32);
            whole.0.extend(self.0);
            let rest = whole.0.len().next_multiple_of(32) - whole.0.len();
            whole.fixed(0, rest as u32);
            let byte =
                |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
            BITCODE.iter().copied().chain(whole.0.chunks(8).map(byte)).collect()
        }
    }

    #[derive(Default)]
    struct Count(usize);

    impl Visitor<'_> for Count {
        fn wants(&mut self, _: u64) -> bool {
            true
        }

        fn record(&mut self, _: u64, record: &Record<'_>) {
            self.0 += 1 + record.ops.len();
        }
    }

    fn counted(stream: &[u8]) -> (Result<()>, usize) {
        let (start, mut count) = (std::time::Instant::now(), Count::default());
        let walked = walk(stream, &mut count);
        assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());
        (walked, count.0)
    }

    #[test]
    fn arrays_of_what_takes_no_bits_are_refused() {
        // A literal, a fixed one of no bits, a VBR one of no bits.
        for element in 0..3 {
            let mut bits = Written::default();
            bits.fixed(2, 4).vbr(3, 5).fixed(1, 1).vbr(7, 8).fixed(0, 1).fixed(3, 3);
            match element {
                0 => bits.fixed(1, 1).vbr(1, 8),
                kind => bits.fixed(0, 1).fixed(kind, 3).vbr(0, 5),
            };
            // Each of these has more numbers than the file has bytes.
            (0..10_000).for_each(|_| _ = bits.fixed(4, 4).vbr(100_000, 6));
            let (walked, count) = counted(&bits.block());
            assert_eq!(
                walked,
                Err(Malformed("an array of elements that take no bits")),
                "{element}"
            );
            assert_eq!(count, 0);
        }
    }

    #[test]
    fn literals_are_no_more_than_the_stream_has_bits() {
        let mut bits = Written::default();
        bits.fixed(2, 4).vbr(10_000, 5);
        (0..10_000).for_each(|_| _ = bits.fixed(1, 1).vbr(1, 8));
        (0..100_000).for_each(|_| _ = bits.fixed(4, 4));
        let stream = bits.block();
        let (walked, count) = counted(&stream);
        assert_eq!(walked, Err(Malformed("more numbers than its bits can hold")));
        assert!((10_000..stream.len() * 8).contains(&count), "{count}");
    }

    #[test]
    fn abbreviations_have_an_end() {
        let mut bits = Written::default();
        (0..=super::super::abbrevs::MOST)
            .for_each(|_| _ = bits.fixed(2, 4).vbr(1, 5).fixed(1, 1).vbr(1, 8));
        assert_eq!(counted(&bits.block()).0, Err(Malformed("abbreviations without end")));
    }

    proptest! {
        #[test]
        fn the_quick_ways_read_what_the_others_do(
            stream in prop::collection::vec(any::<u8>(), 0..24),
            start in 0_usize..200,
            width in 2_u32..=32,
            wide in 0_u32..=64,
        ) {
            let (mut quick, mut other) = (at(&stream, start), at(&stream, start));
            prop_assert_eq!(quick.vbr(width), other.vbr_anywhere(width));
            prop_assert_eq!(quick.at, other.at);
            let (mut quick, mut other) = (at(&stream, start), at(&stream, start));
            prop_assert_eq!(quick.fixed(wide), other.fixed_anywhere(wide));
            prop_assert_eq!(quick.at, other.at);
        }
    }
}
