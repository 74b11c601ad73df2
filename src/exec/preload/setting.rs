//! Our setting in the process's environment: read once, and taken out with all that came with it,
//! so that a copy has the environment of a plain process. Must not know jobs; must not allocate,
//! so that strings are changed where they are.

use core::ffi::{CStr, c_char, c_int};
use core::ptr::null_mut;

/// Our setting: `SOCKET.LIBRARY.PARENT.HUGE[.NAME…]`, two descriptors, the number of kthinlto's
/// process, whether there are huge pages for this one, and variables that only its loader and its
/// libc were to see.
const SETTING: &[u8] = b"KTHINLTO_FORK_SERVER=";
const PRELOAD: &[u8] = b"LD_PRELOAD=";

pub struct Setting {
    pub socket: c_int,
    pub library: c_int,
    pub parent: c_int,
    pub huge_pages: bool,
}

/// Reads our setting, and takes it and what belongs to it out of the environment.
///
/// # Safety
///
/// `envp` is the process's environment, which nobody else uses.
pub unsafe fn take_setting(envp: *mut *mut c_char) -> Option<Setting> {
    // SAFETY: `envp` is a list of strings ended by a null pointer, in writable memory.
    unsafe {
        let text = CStr::from_ptr(find(envp, SETTING)?).to_bytes().get(SETTING.len()..)?;
        let mut parts = text.split(|byte| *byte == b'.');
        let socket = number(parts.next()?)?;
        let library = number(parts.next()?)?;
        let parent = number(parts.next()?)?;
        let huge_pages = number(parts.next()?)? != 0;
        for name in parts {
            remove(envp, name);
        }
        drop_first_preload(envp);
        remove(envp, b"KTHINLTO_FORK_SERVER");
        Some(Setting { socket, library, parent, huge_pages })
    }
}

fn number(digits: &[u8]) -> Option<c_int> {
    let mut value: c_int = 0;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(c_int::from(digit))?;
    }
    Some(value)
}

/// The variable that begins with `start` (`NAME=`).
unsafe fn find(envp: *mut *mut c_char, start: &[u8]) -> Option<*mut c_char> {
    // SAFETY: as in `take_setting`.
    unsafe {
        let mut at = envp;
        while !(*at).is_null() {
            if CStr::from_ptr(*at).to_bytes().starts_with(start) {
                return Some(*at);
            }
            at = at.add(1);
        }
        None
    }
}

/// Removes the variable `name`.
unsafe fn remove(envp: *mut *mut c_char, name: &[u8]) {
    // SAFETY: as in `take_setting`; `to` never overtakes `from`.
    unsafe {
        let (mut from, mut to) = (envp, envp);
        while !(*from).is_null() {
            let text = CStr::from_ptr(*from).to_bytes();
            let is_it = text.starts_with(name) && text.get(name.len()) == Some(&b'=');
            if !is_it {
                *to = *from;
                to = to.add(1);
            }
            from = from.add(1);
        }
        *to = null_mut();
    }
}

/// Takes the first library, which is this one, out of `LD_PRELOAD`.
unsafe fn drop_first_preload(envp: *mut *mut c_char) {
    // SAFETY: as in `take_setting`; the string only gets shorter.
    unsafe {
        let Some(variable) = find(envp, PRELOAD) else {
            return;
        };
        let text = CStr::from_ptr(variable).to_bytes_with_nul();
        match text.iter().position(|byte| *byte == b':') {
            Some(at) => {
                let rest = variable.add(at + 1);
                core::ptr::copy(rest, variable.add(PRELOAD.len()), text.len() - at - 1);
            }
            None => remove(envp, b"LD_PRELOAD"),
        }
    }
}
