//! Other tables in a kernel that is linked already, in the place of a second link: only their bytes and
//! the build ID differ. Whether the linker would have made the same is seen from the build ID that it made
//! itself: what cannot be made here in the same way is left to the linker. Must not know what is in the
//! tables.
//!
//! Rules: `--build-id=sha1` and `md5` of lld (`computeHash` in `lld/ELF/Writer.cpp`, LLVM 15 to 23): the hash
//! of the hashes of each MiB of the file, with zeros in the place of the ID. Each is the beginning of a BLAKE3.

use std::borrow::Cow;
use std::ops::Range;

use object::{File, Object, ObjectSection, ObjectSymbol};

use crate::parallel;

/// Bytes that the linker hashes in one go.
const PIECE: usize = 1 << 20;
/// Bytes of build IDs of these kinds.
const IDS: [usize; 2] = [20, 16];
/// The section of the tables.
const SECTION: &str = ".rodata";

/// Bytes for a place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// The place.
    pub offset: u64,
    /// What goes there.
    pub bytes: Vec<u8>,
}

/// What makes a kernel that was linked with the object `before` into one that was linked with `now`, an
/// object of the same shape. `None` where the linker has to do it. Hashes on up to so many threads.
pub fn patches(kernel: &[u8], before: &[u8], now: &[u8], threads: usize) -> Option<Vec<Patch>> {
    let place = place(kernel, before)?;
    let (was, new) = (Tables::read(before)?, Tables::read(now)?);
    if was.bytes.len() != new.bytes.len() || was.filled != new.filled {
        return None;
    }
    let mut tables = kernel[place.clone()].to_vec();
    let is_filled = |at: &usize| was.filled.iter().any(|range| range.contains(at));
    for at in (0..tables.len()).filter(|at| tables[*at] != was.bytes[*at]) {
        if !is_filled(&at) {
            return None; // not what was linked
        }
    }
    let mut from = 0;
    let ends = tables.len()..tables.len();
    for filled in was.filled.iter().chain([&ends]) {
        tables[from..filled.start].copy_from_slice(&new.bytes[from..filled.start]);
        from = filled.end;
    }
    let patch = Patch { offset: place.start as u64, bytes: tables };
    let id = match File::parse(kernel).ok()?.build_id().ok()? {
        None => None,
        Some(id) => Some(build_id(kernel, id, &patch, threads)?),
    };
    Some(std::iter::once(patch).chain(id).collect())
}

/// What an object of tables holds.
struct Tables<'a> {
    bytes: &'a [u8],
    /// What the linker fills in.
    filled: Vec<Range<usize>>,
}

impl<'a> Tables<'a> {
    fn read(object: &'a [u8]) -> Option<Self> {
        let file = File::parse(object).ok()?;
        let section = file.section_by_name(SECTION)?;
        let width = if file.is_64() { 8 } else { 4 };
        let places = section.relocations().map(|(offset, _)| usize::try_from(offset).ok());
        let mut places = places.collect::<Option<Vec<usize>>>()?;
        places.sort_unstable();
        let bytes = section.data().ok()?;
        let filled: Vec<Range<usize>> = places.into_iter().map(|at| at..at + width).collect();
        let apart = filled.windows(2).all(|two| two[0].end <= two[1].start);
        let within = filled.iter().all(|range| range.end <= bytes.len());
        (apart && within).then_some(Tables { bytes, filled })
    }
}

/// Where the tables of an object are in a kernel, by all of their labels.
fn place(kernel: &[u8], tables: &[u8]) -> Option<Range<usize>> {
    let (kernel_file, file) = (File::parse(kernel).ok()?, File::parse(tables).ok()?);
    let section = file.section_by_name(SECTION)?;
    let labels = file.symbols().filter(ObjectSymbol::is_global);
    let labels = labels.filter(|label| label.section_index() == Some(section.index()));
    let labels: Vec<(&str, u64)> =
        labels.filter_map(|label| Some((label.name().ok()?, label.address()))).collect();
    let mut base = None;
    let mut found = 0;
    for symbol in kernel_file.symbols() {
        let name = symbol.name().ok()?;
        if !name.starts_with("kallsyms_") {
            continue; // most of them
        }
        let Some((_, offset)) = labels.iter().find(|(label, _)| *label == name) else {
            continue;
        };
        let begin = symbol.address().checked_sub(*offset)?;
        found += 1;
        if *base.get_or_insert(begin) != begin {
            return None;
        }
    }
    let base = base.filter(|_| found == labels.len())?;
    let holds = |of: &object::Section<'_, '_>| {
        base >= of.address() && base + section.size() <= of.address() + of.size()
    };
    let within = kernel_file.sections().filter(|of| of.address() != 0).find(holds)?;
    let start = within.file_range()?.0 + (base - within.address());
    let start = usize::try_from(start).ok()?;
    let range = start..start.checked_add(usize::try_from(section.size()).ok()?)?;
    (range.end <= kernel.len()).then_some(range)
}

/// The build ID of the kernel with a patch; `None` if the one that it has is not made in this way.
fn build_id(kernel: &[u8], id: &[u8], patch: &Patch, threads: usize) -> Option<Patch> {
    let at = (id.as_ptr() as usize).checked_sub(kernel.as_ptr() as usize)?;
    let length = id.len();
    if !IDS.contains(&length) || kernel.get(at..at + length)? != id {
        return None;
    }
    let without = Patch { offset: at as u64, bytes: vec![0; length] };
    let pieces: Vec<usize> = (0..kernel.len().div_ceil(PIECE)).collect();
    let hash = |piece: usize, patches: &[&Patch]| hash(&piece_with(kernel, piece, patches), length);
    let mut hashes = parallel::map(threads, &pieces, |piece| hash(*piece, &[&without]));
    if self::hash(&hashes.concat(), length) != id {
        return None;
    }
    let changed =
        patch.offset as usize / PIECE..=(patch.offset as usize + patch.bytes.len()) / PIECE;
    for piece in changed.filter(|piece| *piece < pieces.len()) {
        hashes[piece] = hash(piece, &[&without, patch]);
    }
    Some(Patch { bytes: self::hash(&hashes.concat(), length), ..without })
}

fn hash(bytes: &[u8], length: usize) -> Vec<u8> {
    blake3::hash(bytes).as_bytes()[..length].to_vec()
}

/// One piece of a file with patches.
fn piece_with<'a>(file: &'a [u8], piece: usize, patches: &[&Patch]) -> Cow<'a, [u8]> {
    let (from, to) = (piece * PIECE, file.len().min((piece + 1) * PIECE));
    let mut bytes = Cow::from(&file[from..to]);
    for patch in patches {
        let begin = patch.offset as usize;
        let (first, last) = (begin.max(from), (begin + patch.bytes.len()).min(to));
        if first < last {
            bytes.to_mut()[first - from..last - from]
                .copy_from_slice(&patch.bytes[first - begin..last - begin]);
        }
    }
    bytes
}
