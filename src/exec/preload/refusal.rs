//! Whether this process may be copied: a copy has one thread, and no sanitizer that keeps books
//! of its own. Looks, and changes nothing; must not know how copies are made.

use core::ffi::c_int;

use super::copy::Thread;
use super::libc::{RTLD_DEFAULT, close, dlsym, getppid, open, read};
use super::protocol::{NO_TID_ADDRESS, OTHER_PARENT, SANITIZER, THREADS};
use super::setting::Setting;

/// Why this process must not serve; 0 if it may.
///
/// # Safety
///
/// `thread` is of this process.
pub unsafe fn refusal(setting: &Setting, thread: &Thread) -> c_int {
    // SAFETY: looks at this process and changes nothing.
    unsafe {
        let sanitizers =
            [c"__asan_init", c"__tsan_init", c"__msan_init", c"__hwasan_init", c"__dfsan_init"];
        if thread.number.is_null() {
            NO_TID_ADDRESS
        } else if !has_one_thread() {
            THREADS
        } else if sanitizers.iter().any(|name| !dlsym(RTLD_DEFAULT, name.as_ptr()).is_null()) {
            SANITIZER
        } else if getppid() != setting.parent {
            OTHER_PARENT
        } else {
            0
        }
    }
}

/// A copy has only the thread that forked: others' locks would stay held for ever.
unsafe fn has_one_thread() -> bool {
    let mut buffer = [0_u8; 4096];
    // SAFETY: reads a file into a buffer of that size.
    unsafe {
        let file = open(c"/proc/self/status".as_ptr(), 0);
        let count = read(file, (&raw mut buffer).cast(), buffer.len());
        close(file);
        let text = buffer.get(..usize::try_from(count).unwrap_or(0)).unwrap_or(&[]);
        text.windows(11).any(|window| window == b"\nThreads:\t1") && !text_has_more(text)
    }
}

/// `Threads:` is followed by more digits than a 1.
fn text_has_more(text: &[u8]) -> bool {
    let found = text.windows(12).find(|window| window.starts_with(b"\nThreads:\t1"));
    found.is_none_or(|window| window.last() != Some(&b'\n'))
}
