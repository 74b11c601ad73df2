//! What all copies would do each for itself is done once, before the first: the program's code
//! and tables in huge pages, and a malloc that asks for large pieces. Must not know jobs.

use core::ffi::{c_char, c_int, c_void};
use core::hint::black_box;
use core::ptr::null_mut;

use super::libc::{close, open, read};
use super::machine::MOVES_CODE;

/// The start of `struct dl_phdr_info`, and `Elf64_Phdr`.
#[repr(C)]
struct Loaded {
    address: usize,
    name: *const c_char,
    headers: *const Header,
    count: u16,
}

#[repr(C)]
struct Header {
    kind: u32,
    flags: u32,
    offset: usize,
    address: usize,
    physical: usize,
    file: usize,
    memory: usize,
    align: usize,
}

type Visit = unsafe extern "C" fn(*const Loaded, usize, *mut c_void) -> c_int;

// SAFETY: as in `libc`.
#[link(name = "c")]
unsafe extern "C" {
    fn mallopt(parameter: c_int, value: c_int) -> c_int;
    fn malloc(size: usize) -> *mut c_void;
    fn free(piece: *mut c_void);
    fn dl_iterate_phdr(visit: Visit, data: *mut c_void) -> c_int;
    fn mmap(
        address: *mut c_void,
        length: usize,
        rights: c_int,
        flags: c_int,
        file: c_int,
        offset: i64,
    ) -> *mut c_void;
    fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    fn munmap(address: *mut c_void, length: usize) -> c_int;
    fn mprotect(address: *mut c_void, length: usize, rights: c_int) -> c_int;
    fn mremap(old: *mut c_void, length: usize, new: usize, flags: c_int, ...) -> *mut c_void;
}

const M_TRIM_THRESHOLD: c_int = -1;
const M_TOP_PAD: c_int = -2;
const M_MMAP_THRESHOLD: c_int = -3;
const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;
const PF_R: u32 = 4;
const PROT_READ: c_int = 1;
const PROT_WRITE: c_int = 2;
const PROT_EXEC: c_int = 4;
/// With MAP_PRIVATE.
const MAP_ANONYMOUS: c_int = 0x22;
const MAP_FIXED: c_int = 0x10;
const MADV_HUGEPAGE: c_int = 14;
/// With MREMAP_MAYMOVE.
const MREMAP_FIXED: c_int = 3;
/// Size of a huge page where an ordinary one has 4 KiB, and of a piece that is worth some.
const HUGE: usize = 2 << 20;
const LARGE: usize = 8 << 20;
/// A piece was moved, or left as it was; `dl_iterate_phdr` goes on.
const GO_ON: c_int = 0;
/// There are no huge pages for more.
const ENOUGH: c_int = 1;
/// The piece is gone.
const LOST: c_int = 2;
/// In `/proc/PID/smaps_rollup` (proc(5)).
const NAME: &[u8] = b"AnonHugePages:";
/// What glibc's malloc puts before a piece, and how much of that is its own.
const HEADER: usize = 16;
const WORD: usize = 8;

/// What all copies would do each for itself: find the program's code and tables in memory, page
/// by page, where there are huge pages for these, and ask for theirs in small pieces. Where any of
/// it cannot be, it is left as it was; false if that was not possible either, and the program is not
/// whole any more.
///
/// # Safety
///
/// Called by the only thread of the process.
pub unsafe fn warm(huge_pages: bool) -> bool {
    // SAFETY: this process has one thread.
    unsafe {
        mallopt(M_TOP_PAD, 32 << 20);
        mallopt(M_MMAP_THRESHOLD, 32 << 20);
        mallopt(M_TRIM_THRESHOLD, 1 << 30);
        if !huge_pages {
            return true;
        }
        let whole = !MOVES_CODE || dl_iterate_phdr(move_pieces, null_mut()) != LOST;
        if whole {
            align_heap();
        }
        whole
    }
}

/// Uses up the heap's first pieces, so that what copies allocate begins with a huge page.
unsafe fn align_heap() {
    // SAFETY: pieces are not touched; the last is kept for good.
    unsafe {
        let piece = black_box(malloc(2 * HUGE));
        if piece.is_null() {
            return;
        }
        free(piece);
        let top = piece as usize - HEADER;
        let next = (top + 3 * HUGE).next_multiple_of(HUGE);
        black_box(malloc(next - HEADER - top - WORD));
    }
}

/// KiB of huge pages that this process has; 0 where nobody says.
unsafe fn huge_memory() -> usize {
    let mut buffer = [0_u8; 4096];
    // SAFETY: reads a file into a buffer of that size.
    let count = unsafe {
        let file = open(c"/proc/self/smaps_rollup".as_ptr(), 0);
        let count = read(file, buffer.as_mut_ptr().cast(), buffer.len());
        close(file);
        count
    };
    let text = buffer.get(..usize::try_from(count).unwrap_or(0)).unwrap_or(&[]);
    let Some(at) = text.windows(NAME.len()).position(|window| window == NAME) else {
        return 0;
    };
    let digits = text.iter().skip(at + NAME.len()).skip_while(|byte| **byte == b' ');
    let digits = digits.map_while(|byte| byte.is_ascii_digit().then_some(usize::from(byte - b'0')));
    digits.fold(0, |value, digit| value * 10 + digit)
}

/// Puts copies, in huge pages, of a library's large pieces in their place: its code, and what
/// that reads. A library that is all data, such as tables of characters, stays as it is.
unsafe extern "C" fn move_pieces(object: *const Loaded, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the loader describes its own mappings; these are not written to by anyone.
    unsafe {
        let headers = core::slice::from_raw_parts((*object).headers, usize::from((*object).count));
        let large = |flags| {
            let is = move |header: &&Header| {
                header.kind == PT_LOAD && header.flags == flags && header.memory >= LARGE
            };
            headers.iter().filter(is)
        };
        let code = large(PF_R | PF_X).map(|header| (header, PROT_READ | PROT_EXEC));
        let data = large(PF_R).map(|header| (header, PROT_READ));
        if large(PF_R | PF_X).next().is_some() {
            for (header, rights) in code.chain(data) {
                let moved = move_piece((*object).address + header.address, header.memory, rights);
                if moved != GO_ON {
                    return moved;
                }
            }
        }
    }
    GO_ON
}

/// Moves a piece, or leaves it as it was: [`GO_ON`], [`ENOUGH`] or [`LOST`].
unsafe fn move_piece(start: usize, length: usize, rights: c_int) -> c_int {
    let first = start.next_multiple_of(HUGE);
    let length = ((start + length) & !(HUGE - 1)) - first;
    // SAFETY: the new mapping is ours alone until it has the bytes and the rights of the old
    // one; what is moved away here is not this library's own code.
    unsafe {
        let room = mmap(null_mut(), length + HUGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS, -1, 0);
        if room as isize == -1 {
            return GO_ON;
        }
        let copy = (room as usize).next_multiple_of(HUGE) as *mut c_void;
        madvise(copy, length, MADV_HUGEPAGE);
        let before = huge_memory();
        core::ptr::copy_nonoverlapping(first as *const u8, copy.cast(), length);
        // With small pages, each fork would cost milliseconds: there is an entry for each, and for those
        // of a file there is none.
        let is_huge = huge_memory().saturating_sub(before) >= (length >> 10) / 16 * 15;
        // Refused under SELinux, for one. All copies would hold the memory as well.
        if !is_huge || mprotect(copy, length, rights) != 0 {
            munmap(room, length + HUGE);
            return if is_huge { GO_ON } else { ENOUGH };
        }
        let place = first as *mut c_void;
        if mremap(copy, length, length, MREMAP_FIXED, place) == place {
            // What is still there of the room was never touched: it costs nothing.
            return GO_ON;
        }
        // The kernel may have cleared the place already.
        let whole = put_back(place, copy, length, rights);
        munmap(room, length + HUGE);
        if whole { GO_ON } else { LOST }
    }
}

/// Puts the bytes of a copy, which can be read, into a place that may be empty.
unsafe fn put_back(place: *mut c_void, copy: *mut c_void, length: usize, rights: c_int) -> bool {
    let flags = MAP_ANONYMOUS | MAP_FIXED;
    // SAFETY: as in `move_piece`; nothing runs there meanwhile.
    unsafe {
        if mmap(place, length, PROT_READ | PROT_WRITE, flags, -1, 0) != place {
            return false;
        }
        core::ptr::copy_nonoverlapping(copy.cast::<u8>().cast_const(), place.cast(), length);
        mprotect(place, length, rights) == 0
    }
}
