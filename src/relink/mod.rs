//! From objects to vmlinux: what kbuild does after `vmlinux.a`. Must not know how an object's
//! code was generated.

pub mod initcalls;
