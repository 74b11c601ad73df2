//! Memory for a child that runs on ours until it is another program, with a page below it that
//! ends the child, should it need more. Must not know what the child does.

use std::ffi::c_void;
use std::io;
use std::ptr;

/// A stack; it grows down to the guard page.
pub(super) struct Stack {
    start: *mut c_void,
    length: usize,
}

impl Stack {
    /// At least `least` bytes above the guard page.
    pub(super) fn new(least: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let length = least.next_multiple_of(page) + page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping that is in nobody's way; its pages come with their first use.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack { start, length };
        // SAFETY: the mapping's first page, which nobody uses.
        match unsafe { libc::mprotect(start, page, libc::PROT_NONE) } {
            0 => Ok(stack),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its end, where it begins to be used; aligned to a page.
    pub(super) fn top(&mut self) -> *mut c_void {
        self.start.wrapping_byte_add(self.length)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever used it has ended or is another program.
        unsafe { libc::munmap(self.start, self.length) };
    }
}
