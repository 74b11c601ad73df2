//! What is said to kthinlto and heard from it, over a socket of type SOCK_SEQPACKET; the other end
//! is `exec/server.rs`. Must not know what a job is for, nor how a copy is made.
//!
//! From here, once: `[HELLO, refusal]`, where refusal 0 means that jobs may come. To here, for
//! each job: its arguments, each ended by a zero byte, with two descriptors: its output, and a
//! pipe. From here: `[process number, 0]`, or `[-errno, 0]`. A copy reads one byte from the pipe
//! before it goes on, and ends if there is none. If the only argument is empty, there is no job: the copy
//! is another server, and instead of an output it is given the socket to hear of jobs from.

use core::ffi::{c_char, c_int, c_uint, c_void};
use core::ptr::null_mut;

use super::libc::{__errno_location, EINTR, read};

/// `struct iovec`, `struct msghdr` and `struct cmsghdr` of 64-bit Linux with glibc.
#[repr(C)]
struct IoVec {
    base: *mut u8,
    length: usize,
}

#[repr(C)]
struct MsgHdr {
    name: *mut c_void,
    name_length: c_uint,
    iov: *mut IoVec,
    iov_length: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

/// A control message with room for two descriptors and a few that are not expected.
#[repr(C)]
struct Control {
    length: usize,
    level: c_int,
    kind: c_int,
    descriptors: [c_int; 8],
}

// SAFETY: as in `libc`.
#[link(name = "c")]
unsafe extern "C" {
    fn send(fd: c_int, buffer: *const c_void, count: usize, flags: c_int) -> isize;
    fn recvmsg(fd: c_int, message: *mut MsgHdr, flags: c_int) -> isize;
}

const SOL_SOCKET: c_int = 1;
const SCM_RIGHTS: c_int = 1;
const MSG_NOSIGNAL: c_int = 0x4000;

/// First word of the first packet; it changes with the protocol.
pub const HELLO: c_int = 0x6b74_6c32;
/// Reasons not to serve.
pub const THREADS: c_int = 1;
pub const NO_TID_ADDRESS: c_int = 2;
pub const SANITIZER: c_int = 3;
pub const OTHER_PARENT: c_int = 4;
pub const MEMORY: c_int = 5;

/// Room for a job's arguments and for pointers to them: more than a packet holds.
const ROOM: usize = 256 << 10;
const MOST_ARGUMENTS: usize = 16 << 10;

/// A job, as it was received.
pub struct Buffers {
    text: [u8; ROOM],
    pub arguments: [*mut c_char; MOST_ARGUMENTS + 1],
}

impl Buffers {
    pub const EMPTY: Self = Self { text: [0; ROOM], arguments: [null_mut(); MOST_ARGUMENTS + 1] };
}

/// Sends two numbers; 0 if they were sent.
///
/// # Safety
///
/// None but that of `send`: any descriptor will do.
pub unsafe fn tell(socket: c_int, first: c_int, second: c_int) -> c_int {
    let packet = [first, second];
    // SAFETY: sends these eight bytes.
    unsafe {
        let sent = send(socket, (&raw const packet).cast(), size_of_val(&packet), MSG_NOSIGNAL);
        if sent == size_of_val(&packet) as isize { 0 } else { -1 }
    }
}

/// Of the arguments that ask for another server: one empty word.
pub const ANOTHER: usize = 1;

/// Receives a job: the length of its arguments, and its two descriptors.
///
/// # Safety
///
/// Nobody else uses the buffers.
pub unsafe fn receive(socket: c_int, buffers: *mut Buffers) -> Option<(usize, [c_int; 2])> {
    // SAFETY: all pointers are to locals and to buffers of the lengths given.
    unsafe {
        loop {
            let text = (&raw mut (*buffers).text).cast();
            let mut iov = IoVec { base: text, length: ROOM };
            let mut control = Control { length: 0, level: 0, kind: 0, descriptors: [-1; 8] };
            let mut message = MsgHdr {
                name: null_mut(),
                name_length: 0,
                iov: &mut iov,
                iov_length: 1,
                control: (&raw mut control).cast(),
                control_length: size_of::<Control>(),
                flags: 0,
            };
            let length = recvmsg(socket, &mut message, 0);
            if length < 0 && *__errno_location() == EINTR {
                continue;
            }
            let rights = control.level == SOL_SOCKET && control.kind == SCM_RIGHTS;
            let two = control.length == 16 + 2 * size_of::<c_int>();
            if length <= 0 || message.flags != 0 || !rights || !two {
                return None;
            }
            let [output, go, ..] = control.descriptors;
            return Some((length as usize, [output, go]));
        }
    }
}

/// Waits until kthinlto knows of this copy; false if it does not.
///
/// # Safety
///
/// None but that of `read`: any descriptor will do.
pub unsafe fn may_go(go: c_int) -> bool {
    let mut byte = 0_u8;
    // SAFETY: reads one byte into a local.
    unsafe {
        loop {
            match read(go, (&raw mut byte).cast(), 1) {
                1 => return true,
                -1 if *__errno_location() == EINTR => {}
                _ => return false,
            }
        }
    }
}

/// Points at each argument in the text; returns their number, 0 if they cannot be used.
///
/// # Safety
///
/// The buffers hold `length` bytes that were received, and nobody else uses them.
pub unsafe fn split_arguments(buffers: *mut Buffers, length: usize) -> c_int {
    // SAFETY: `length` bytes of the text were received, and pointers are kept within bounds.
    unsafe {
        let text: *mut u8 = (&raw mut (*buffers).text).cast();
        let arguments: *mut *mut c_char = (&raw mut (*buffers).arguments).cast();
        if length == 0 || *text.add(length - 1) != 0 {
            return 0;
        }
        let (mut count, mut at) = (0, 0);
        while at < length {
            if count == MOST_ARGUMENTS {
                return 0;
            }
            *arguments.add(count) = text.add(at).cast();
            count += 1;
            while *text.add(at) != 0 {
                at += 1;
            }
            at += 1;
        }
        *arguments.add(count) = null_mut();
        count as c_int
    }
}
