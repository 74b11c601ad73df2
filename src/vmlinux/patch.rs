//! Other tables in a kernel that is linked already, in the place of a second link: only their bytes, the
//! relocations of them that the linker keeps (`--emit-relocs`), and the build ID differ. Whether the linker would have made the same is seen from the build ID that it made
//! itself: what cannot be made here in the same way is left to the linker. Must not know what is in the
//! tables.
//!
//! Rules: `--build-id=sha1` and `md5` of lld (`computeHash` in `lld/ELF/Writer.cpp`, LLVM 15 to 23): the hash
//! of the hashes of each MiB of the file, with zeros in the place of the ID. Each is the beginning of a BLAKE3.

use std::borrow::Cow;
use std::ops::Range;

use object::elf::{FileHeader64, SHF_ALLOC, SHT_RELA};
use object::read::elf::{ElfFile64, FileHeader, Rela, SectionHeader};
use object::{
    Endianness, File, Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget,
};

use super::object::shape;
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
    let (address, place) = place(kernel, before)?;
    let (was, new) = (Tables::read(before)?, Tables::read(now)?);
    if was.bytes.len() != new.bytes.len() || shape(before)? != shape(now)? || !was.is_like(&new) {
        return None;
    }
    let mut tables = kernel[place.clone()].to_vec();
    let mut from = 0;
    for (was_filled, filled) in was.filled.iter().zip(&new.filled) {
        let Range { start, end } = filled.range.clone();
        if tables[from..start] != was.bytes[from..start] {
            return None; // not what was linked
        }
        tables[from..start].copy_from_slice(&new.bytes[from..start]);
        fill(&mut tables[start..end], filled.addend.checked_sub(was_filled.addend)?)?;
        from = end;
    }
    if tables[from..] != was.bytes[from..] {
        return None;
    }
    tables[from..].copy_from_slice(&new.bytes[from..]);
    let tables = Patch { offset: place.start as u64, bytes: tables };
    let kept = kept(kernel, address, &was, &new)?;
    let mut patches: Vec<Patch> = std::iter::once(tables).chain(kept).collect();
    if let Some(id) = File::parse(kernel).ok()?.build_id().ok()? {
        patches.push(build_id(kernel, id, &patches, threads)?);
    }
    Some(patches)
}

/// What an object of tables holds.
struct Tables<'a> {
    bytes: &'a [u8],
    /// What the linker fills in, in their order.
    filled: Vec<Filled>,
}

/// A place that the linker fills in.
struct Filled {
    range: Range<usize>,
    how: (RelocationFlags, RelocationTarget),
    addend: i64,
}

impl<'a> Tables<'a> {
    fn read(object: &'a [u8]) -> Option<Self> {
        let file = File::parse(object).ok()?;
        let section = file.section_by_name(SECTION)?;
        let bytes = section.data().ok()?;
        let filled = section.relocations().map(|(offset, relocation)| {
            let (start, bits) = (usize::try_from(offset).ok()?, relocation.size());
            // How wide it is has to be known.
            let range = start..start.checked_add(usize::from(bits / 8)).filter(|_| bits > 0)?;
            let how = (relocation.flags(), relocation.target());
            Some(Filled { range, how, addend: relocation.addend() })
        });
        let mut filled = filled.collect::<Option<Vec<Filled>>>()?;
        filled.sort_unstable_by_key(|one| one.range.start);
        let apart = filled.windows(2).all(|two| two[0].range.end <= two[1].range.start);
        let within = filled.iter().all(|one| one.range.end <= bytes.len());
        (apart && within && file.is_little_endian()).then_some(Tables { bytes, filled })
    }

    /// Whether the same places are filled in by the same symbols.
    fn is_like(&self, other: &Tables<'_>) -> bool {
        let places = |of: &Tables<'_>| of.filled.len();
        let mut both = self.filled.iter().zip(&other.filled);
        places(self) == places(other)
            && both.all(|(one, other)| one.range == other.range && one.how == other.how)
    }
}

/// Changes a distance that the linker filled in. `None` for what may stand elsewhere too, as an address
/// does that has to be relocated when the kernel starts, and where there is no room for it.
fn fill(place: &mut [u8], difference: i64) -> Option<()> {
    if difference == 0 {
        return Some(());
    }
    let distance = i64::from(i32::from_le_bytes((&*place).try_into().ok()?));
    let distance = i32::try_from(distance.checked_add(difference)?).ok()?;
    place.copy_from_slice(&distance.to_le_bytes());
    Some(())
}

/// The relocations of the tables, at `address`, that the linker kept in a kernel, with other addends.
fn kept(kernel: &[u8], address: u64, was: &Tables<'_>, new: &Tables<'_>) -> Option<Vec<Patch>> {
    let same = was.filled.iter().zip(&new.filled).all(|(was, new)| was.addend == new.addend);
    if same {
        return Some(Vec::new());
    }
    let file = ElfFile64::<Endianness>::parse(kernel).ok()?;
    let endian = file.endian();
    let mut patches = Vec::new();
    for section in file.elf_section_table().iter() {
        if section.sh_type(endian) == SHT_RELA && section.sh_flags(endian).0 & SHF_ALLOC.0 == 0 {
            patches.extend(kept_in(kernel, (section, endian), address, (was, new))?);
        }
    }
    Some(patches)
}

type Section = <FileHeader64<Endianness> as FileHeader>::SectionHeader;

/// The same in one section, in which they are all or none, and one after the other.
fn kept_in(
    kernel: &[u8],
    (section, endian): (&Section, Endianness),
    address: u64,
    (was, new): (&Tables<'_>, &Tables<'_>),
) -> Option<Option<Patch>> {
    /// Bytes of an `Elf64_Rela`, and where its addend is.
    const ENTRY: usize = 24;
    const ADDEND: usize = 16;
    let (entries, _) = section.rela(endian, kernel).ok()??;
    let place = |entry: &<FileHeader64<Endianness> as FileHeader>::Rela| {
        let offset = entry.r_offset(endian).checked_sub(address)?;
        usize::try_from(offset).ok().filter(|offset| *offset < was.bytes.len())
    };
    let Some(first) = entries.iter().position(|entry| place(entry).is_some()) else {
        return Some(None);
    };
    let last = entries.iter().rposition(|entry| place(entry).is_some())?;
    let ours = &entries[first..=last];
    if ours.len() != was.filled.len() {
        return None;
    }
    let offset = usize::try_from(section.sh_offset(endian)).ok()? + first * ENTRY;
    let mut bytes = kernel.get(offset..offset + ours.len() * ENTRY)?.to_vec();
    for (at, entry) in ours.iter().enumerate() {
        let offset = place(entry)?;
        let one = was.filled.binary_search_by_key(&offset, |one| one.range.start).ok()?;
        if entry.r_addend(endian) != was.filled[one].addend {
            return None;
        }
        let addend = new.filled[one].addend.to_le_bytes();
        bytes[at * ENTRY + ADDEND..(at + 1) * ENTRY].copy_from_slice(&addend);
    }
    Some(Some(Patch { offset: offset as u64, bytes }))
}

/// Where the tables of an object are in a kernel, by all of their labels: the address, and in the file.
fn place(kernel: &[u8], tables: &[u8]) -> Option<(u64, Range<usize>)> {
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
    (range.end <= kernel.len()).then_some((base, range))
}

/// The build ID of the kernel with patches; `None` if the one that it has is not made in this way.
fn build_id(kernel: &[u8], id: &[u8], patches: &[Patch], threads: usize) -> Option<Patch> {
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
    let all: Vec<&Patch> = std::iter::once(&without).chain(patches).collect();
    let changed = |piece: &usize| {
        let touches = |patch: &Patch| {
            let first = patch.offset as usize / PIECE;
            let last = (patch.offset as usize + patch.bytes.len()) / PIECE;
            (first..=last).contains(piece)
        };
        patches.iter().any(touches)
    };
    let changed: Vec<usize> = pieces.into_iter().filter(changed).collect();
    let anew = parallel::map(threads, &changed, |piece| hash(*piece, &all));
    changed.into_iter().zip(anew).for_each(|(piece, hash)| hashes[piece] = hash);
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
