//! The tables of kallsyms: which symbols, in which order, and the bytes of each table. Must not
//! know object files, but for where an address has to be filled in.
//!
//! Format: `scripts/kallsyms.c` and `kernel/kallsyms_internal.h`, Linux 6.12 and 7.3.

use super::tokens::compress;
use crate::elf::nm::Symbol;

/// Absolute symbols that are kept all the same.
const ABSOLUTES: [&[u8]; 4] =
    [b"__kernel_syscall_via_break", b"__kernel_syscall_via_epc", b"__kernel_sigtramp", b"__gp"];
/// Names of this length are left out (`KSYM_NAME_LEN`).
const LONGEST: usize = 512;
/// Symbols between a marker.
const MARKED: usize = 256;

/// How addresses are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// As distances that the linker fills in (7.3, 64 bit).
    PcRelative,
    /// As they are (7.3, 32 bit).
    Absolute,
    /// As distances from the first (6.12).
    BaseRelative,
}

/// What `scripts/kallsyms` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// `--all-symbols`.
    pub all_symbols: bool,
    /// `--absolute-percpu`.
    pub absolute_percpu: bool,
    /// Of what age the tables are.
    pub addresses: Addresses,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Table {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// Distances from `_text` for the linker, of four bytes each.
    FromText(Vec<i64>),
    /// An address, as its distance from `_text`, of the size of a pointer.
    Address(i64),
}

/// The tables of all kinds, by the names of their labels.
#[derive(Debug)]
pub struct Tables<'data> {
    symbols: Vec<Entry<'data>>,
    names: Vec<Vec<u8>>,
    tokens: Vec<Vec<u8>>,
    options: Options,
    text: u64,
    base: u64,
    big_endian: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry<'data> {
    address: u64,
    letter: u8,
    name: &'data [u8],
    absolute: bool,
}

/// Part of the kernel, from one symbol to another.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: u64,
    end: u64,
}

impl Range {
    fn find(symbols: &[Symbol<'_>], start: &str, end: &str) -> Self {
        let place = |name: &str| {
            let found = symbols.iter().rev().find(|symbol| symbol.name == name.as_bytes());
            found.map(|symbol| symbol.address)
        };
        Range { start: place(start).unwrap_or(0), end: place(end).unwrap_or(0) }
    }

    fn holds(&self, address: u64) -> bool {
        (self.start..=self.end).contains(&address)
    }
}

impl<'data> Tables<'data> {
    /// Chooses and sorts among the symbols of `System.map`, and compresses their names.
    pub fn new(symbols: &[Symbol<'data>], options: Options, big_endian: bool) -> Self {
        let mut entries = chosen(symbols, options);
        // By order of the map in the end: the sort is stable.
        entries.sort_by_key(rank);
        let text = symbols.iter().rev().find(|symbol| symbol.name == b"_text");
        let base = entries.iter().find(|entry| !entry.absolute);
        let full = |entry: &Entry<'_>| [&[entry.letter], entry.name].concat();
        let compressed = compress(entries.iter().map(full).collect());
        Tables {
            text: text.map_or(0, |text| text.address),
            base: base.map_or(0, |base| base.address),
            tokens: compressed.table(),
            names: compressed.names,
            symbols: entries,
            options,
            big_endian,
        }
    }

    /// The table of a label; `None` if no such table is known, or it cannot be written.
    pub fn table(&self, label: &str) -> Option<Table> {
        let bytes = match label {
            "kallsyms_num_syms" => self.four(u32::try_from(self.symbols.len()).ok()?).to_vec(),
            "kallsyms_names" => self.named()?.0,
            "kallsyms_markers" => self.named()?.1,
            "kallsyms_token_table" => {
                self.tokens.iter().flat_map(|token| [token, &b"\0"[..]].concat()).collect()
            }
            "kallsyms_token_index" => self.token_index()?,
            "kallsyms_offsets" => return self.offsets(),
            "kallsyms_relative_base" => {
                return Some(Table::Address(self.base.wrapping_sub(self.text).cast_signed()));
            }
            "kallsyms_seqs_of_names" => self.by_name()?,
            _ => return None,
        };
        Some(Table::Bytes(bytes))
    }

    /// The names, each after its length, and the place of each 256th.
    fn named(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let (mut names, mut markers) = (Vec::new(), Vec::new());
        for (at, name) in self.names.iter().enumerate() {
            if at % MARKED == 0 {
                markers.extend(self.four(u32::try_from(names.len()).ok()?));
            }
            let length = name.len();
            let low = u8::try_from(length & 0x7f).ok()?;
            match u8::try_from(length >> 7).ok().filter(|high| *high < 0x80)? {
                0 => names.push(low),
                high => names.extend([low | 0x80, high]),
            }
            names.extend(name);
        }
        Some((names, markers))
    }

    fn token_index(&self) -> Option<Vec<u8>> {
        let (mut place, mut index) = (0_usize, Vec::new());
        for token in &self.tokens {
            let short = u16::try_from(place).ok()?;
            index.extend(if self.big_endian { short.to_be_bytes() } else { short.to_le_bytes() });
            place += token.len() + 1;
        }
        Some(index)
    }

    fn offsets(&self) -> Option<Table> {
        let all = self.symbols.iter();
        if self.options.addresses == Addresses::PcRelative {
            let distance = |entry: &Entry<'_>| {
                let distance = entry.address.wrapping_sub(self.text).cast_signed();
                i32::try_from(distance).ok().map(i64::from)
            };
            return Some(Table::FromText(all.map(distance).collect::<Option<_>>()?));
        }
        let words: Option<Vec<u32>> = all.map(|entry| self.offset(entry)).collect();
        Some(Table::Bytes(words?.into_iter().flat_map(|word| self.four(word)).collect()))
    }

    /// The four bytes that tell an address.
    fn offset(&self, entry: &Entry<'_>) -> Option<u32> {
        let from_base = entry.address.wrapping_sub(self.base);
        match (self.options.addresses, self.options.absolute_percpu, entry.absolute) {
            (Addresses::BaseRelative, false, _) => u32::try_from(from_base).ok(),
            (Addresses::BaseRelative, true, true) => {
                u32::try_from(entry.address).ok().filter(|word| word.cast_signed() >= 0)
            }
            // -1 for the base itself, and down from there.
            (Addresses::BaseRelative, true, false) => {
                let below = i32::try_from(from_base).ok()?;
                Some((-1 - below).cast_unsigned())
            }
            _ => u32::try_from(entry.address & u64::from(u32::MAX)).ok(),
        }
    }

    /// The numbers of the symbols in the order of their names, three bytes each.
    fn by_name(&self) -> Option<Vec<u8>> {
        let mut order: Vec<u32> = (0..u32::try_from(self.symbols.len()).ok()?).collect();
        order.sort_by_key(|at| {
            let entry = &self.symbols[*at as usize];
            (entry.name, entry.address, *at)
        });
        Some(order.iter().flat_map(|at| at.to_be_bytes().into_iter().skip(1)).collect())
    }

    fn four(&self, word: u32) -> [u8; 4] {
        if self.big_endian { word.to_be_bytes() } else { word.to_le_bytes() }
    }
}

/// The symbols that kallsyms is to know.
fn chosen<'data>(symbols: &[Symbol<'data>], options: Options) -> Vec<Entry<'data>> {
    let known = |symbol: &&Symbol<'_>| match symbol.letter {
        b'u' | b'n' => false,
        b'a' | b'A' if !ABSOLUTES.contains(&symbol.name) => false,
        _ => symbol.name.len() < LONGEST,
    };
    let symbols: Vec<Symbol<'data>> = symbols.iter().filter(known).copied().collect();
    let text = Range::find(&symbols, "_stext", "_etext");
    let init = Range::find(&symbols, "_sinittext", "_einittext");
    let percpu = Range::find(&symbols, "__per_cpu_start", "__per_cpu_end");
    let has_percpu = symbols.iter().any(|symbol| symbol.name == b"__per_cpu_start");
    let wanted = |symbol: &&Symbol<'_>| {
        let (name, address) = (symbol.name, symbol.address);
        options.all_symbols
            || name.starts_with(b"__start_")
            || name.starts_with(b"__stop_")
            || (text.holds(address) || init.holds(address))
                && (address != text.end || name == b"_etext")
                && (address != init.end || name == b"_einittext")
    };
    let entry = |symbol: &Symbol<'data>| {
        let absolute = options.absolute_percpu && has_percpu && percpu.holds(symbol.address);
        let letter = if absolute { b'A' } else { symbol.letter };
        Entry { address: symbol.address, letter, name: symbol.name, absolute }
    };
    symbols.iter().filter(wanted).map(entry).collect()
}

/// What symbols are sorted by: of one address, the name that says most comes first.
fn rank(entry: &Entry<'_>) -> (u64, bool, bool, usize) {
    let weak = matches!(entry.letter, b'w' | b'W');
    let underscores = entry.name.iter().take_while(|byte| **byte == b'_').count();
    (entry.address, weak, may_be_of_linker_script(entry.name), underscores)
}

/// Names such as `__start_x`, `__end_x`, `__x_start`, `__x_end`.
fn may_be_of_linker_script(name: &[u8]) -> bool {
    let begins = |part: &[u8]| name[2..].starts_with(part);
    name.len() >= 8
        && name.starts_with(b"__")
        && (begins(b"start_")
            || begins(b"stop_")
            || begins(b"end_")
            || name.ends_with(b"_start")
            || name.ends_with(b"_end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options =
        Options { all_symbols: true, absolute_percpu: false, addresses: Addresses::PcRelative };

    fn symbol(address: u64, letter: u8, name: &str) -> Symbol<'_> {
        Symbol { address, size: 0, letter, name: name.as_bytes() }
    }

    fn names(tables: &Tables<'_>) -> Vec<String> {
        let text = |entry: &Entry<'_>| String::from_utf8_lossy(entry.name).into_owned();
        tables.symbols.iter().map(text).collect()
    }

    #[test]
    fn of_one_address_the_strong_plain_name_comes_first() {
        let all = [
            symbol(16, b'W', "weak"),
            symbol(16, b'T', "__x_start"),
            symbol(16, b'T', "__under"),
            symbol(16, b't', "plain"),
            symbol(8, b'T', "_text"),
        ];
        let tables = Tables::new(&all, OPTIONS, false);
        assert_eq!(names(&tables), ["_text", "plain", "__under", "__x_start", "weak"]);
        assert_eq!(tables.table("kallsyms_offsets"), Some(Table::FromText(vec![0, 8, 8, 8, 8])));
        // By name: __under 2, __x_start 3, _text 0, plain 1, weak 4.
        let order = vec![0, 0, 2, 0, 0, 3, 0, 0, 0, 0, 0, 1, 0, 0, 4];
        assert_eq!(tables.table("kallsyms_seqs_of_names"), Some(Table::Bytes(order)));
    }

    #[test]
    fn without_data_only_the_text_is_known() {
        let all = [
            symbol(4, b'T', "_stext"),
            symbol(6, b't', "f"),
            symbol(8, b'T', "_etext"),
            symbol(8, b't', "g"),
            symbol(9, b'D', "data"),
            symbol(12, b'D', "__start_x"),
        ];
        let options = Options { all_symbols: false, ..OPTIONS };
        assert_eq!(
            names(&Tables::new(&all, options, false)),
            ["_stext", "f", "_etext", "__start_x"]
        );
    }

    #[test]
    fn older_kernels_count_down_from_the_base() {
        let all = [
            symbol(0, b'D', "__per_cpu_start"),
            symbol(4, b'd', "v"),
            symbol(8, b'D', "__per_cpu_end"),
            symbol(0x1000, b'T', "_text"),
            symbol(0x1010, b't', "f"),
        ];
        let options = Options {
            absolute_percpu: true,
            addresses: Addresses::BaseRelative,
            all_symbols: true,
        };
        let tables = Tables::new(&all, options, true);
        let words: Vec<u8> =
            [0_i32, 4, 8, -1, -17].iter().flat_map(|word| word.to_be_bytes()).collect();
        assert_eq!(tables.table("kallsyms_offsets"), Some(Table::Bytes(words)));
        assert_eq!(tables.table("kallsyms_relative_base"), Some(Table::Address(0)));
        assert!(tables.symbols[1].letter == b'A');
    }

    #[test]
    fn long_names_have_two_bytes_of_length() {
        // It holds all bytes but 0, so that one pair at most is replaced.
        let name: Vec<u8> = (1..=255).collect();
        let all = [Symbol { address: 0, size: 0, letter: b'T', name: &name }];
        let Some(Table::Bytes(names)) = Tables::new(&all, OPTIONS, false).table("kallsyms_names")
        else {
            panic!("no names");
        };
        let length = names.len() - 2;
        assert_eq!(length, 255);
        assert_eq!(names[..2], [u8::try_from(length & 0x7f).unwrap() | 0x80, 1]);
    }
}
