//! What more than one part calls in libc. There is no crate for it here: `build.rs` compiles this
//! library alone. Must not know what for.

use core::ffi::{c_char, c_int, c_void};
use core::ptr::null_mut;

// SAFETY: names and types are those of glibc's headers, on 64-bit Linux.
#[link(name = "c")]
unsafe extern "C" {
    pub fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    pub fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    pub fn read(fd: c_int, buffer: *mut c_void, count: usize) -> isize;
    pub fn close(fd: c_int) -> c_int;
    pub fn getppid() -> c_int;
    pub fn _exit(status: c_int) -> !;
    pub fn __errno_location() -> *mut c_int;
}

pub const RTLD_DEFAULT: *mut c_void = null_mut();
pub const EINTR: c_int = 4;
