//! What differs between the machines that the fork server is built for, and nothing else: x86-64 and
//! aarch64, Linux with glibc. Numbers are those of the kernel's `unistd` tables of each.

use core::ffi::{c_int, c_long, c_void};

#[cfg(target_arch = "x86_64")]
mod numbers {
    use core::ffi::c_long;
    pub const SYS_CLONE: c_long = 56;
    pub const SYS_SET_TID_ADDRESS: c_long = 218;
    /// The new thread's area comes last.
    pub const AREA_BEFORE_NUMBER: bool = false;
    pub const MOVES_CODE: bool = true;
}

#[cfg(target_arch = "aarch64")]
mod numbers {
    use core::ffi::c_long;
    pub const SYS_CLONE: c_long = 220;
    pub const SYS_SET_TID_ADDRESS: c_long = 96;
    /// CONFIG_CLONE_BACKWARDS (arch/arm64/Kconfig).
    pub const AREA_BEFORE_NUMBER: bool = true;
    /// A copy of code would lose PROT_BTI, and what it gains was never measured on such a machine.
    pub const MOVES_CODE: bool = false;
}

use numbers::{AREA_BEFORE_NUMBER, SYS_CLONE, SYS_SET_TID_ADDRESS};

/// Whether large pieces of code are put into huge pages.
pub const MOVES_CODE: bool = numbers::MOVES_CODE;

// SAFETY: as in `libc`.
#[link(name = "c")]
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// clone(2) without a stack, without a thread area, and with the word that the copy's number goes to.
///
/// # Safety
///
/// `flags` share no memory with the copy, and `number` is null or a word that may be written.
pub unsafe fn clone(flags: c_long, number: *mut c_int) -> c_long {
    let none = core::ptr::null::<c_void>();
    // SAFETY: as the caller says.
    unsafe {
        match AREA_BEFORE_NUMBER {
            true => syscall(SYS_CLONE, flags, none, none, none, number),
            false => syscall(SYS_CLONE, flags, none, none, number, none),
        }
    }
}

/// Tells the kernel which word it shall clear at this thread's end.
///
/// # Safety
///
/// The word lives as long as the thread.
pub unsafe fn set_tid_address(word: *mut c_int) {
    // SAFETY: as the caller says.
    unsafe {
        syscall(SYS_SET_TID_ADDRESS, word);
    }
}
