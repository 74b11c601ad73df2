//! `KBUILD_LDFLAGS`: what kbuild says to the linker that LTO inside of it alone understands, and a
//! thin link must not hear. Must not know how a link is run.
//!
//! Rule: the top Makefile, `ifdef CONFIG_LTO_CLANG_THIN` of Linux 7.0 to 7.3; `--thinlto-cache-dir=` up to 6.6.
//! Kernels with CONFIG_LTO_CLANG_THIN_DIST leave them out; vendors' trees, and those that were
//! configured for CONFIG_LTO_CLANG_THIN, do not.

/// Keeps promoted names as they are, from LLVM 23.1 on. Thin link and backends must both know of it, or neither.
pub const KEPT_NAMES: &str = "-always-rename-promoted-locals=false";
const TO_LLVM: &str = "-mllvm";
/// Says that nothing outside refers to what is linked. Without it the linker keeps no names.
const WHOLE_PROGRAM: &str = "--lto-whole-program-visibility";

/// A compiler's command with [`KEPT_NAMES`].
pub fn with_kept_names(compiler: &str) -> String {
    format!("{compiler} {TO_LLVM} {KEPT_NAMES}")
}

/// The flags as a kernel with CONFIG_LTO_CLANG_THIN_DIST has them. `kept_names` says that
/// the backends are told [`KEPT_NAMES`]: then the linker is, too.
pub fn for_thin_link(words: Vec<String>, kept_names: bool) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(words.len());
    for word in words {
        if word == KEPT_NAMES && kept.last().is_some_and(|last| last == TO_LLVM) {
            kept.pop();
        } else if word != WHOLE_PROGRAM && !word.starts_with("--thinlto-cache-dir=") {
            kept.push(word);
        }
    }
    if kept_names {
        kept.extend([WHOLE_PROGRAM, TO_LLVM, KEPT_NAMES].map(str::to_owned));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(text: &str, kept_names: bool) -> String {
        for_thin_link(text.split(' ').map(str::to_owned).collect(), kept_names).join(" ")
    }

    #[test]
    fn flags_of_in_process_lto_are_not_the_thin_links() {
        let flags = "-m elf_x86_64 --lto-whole-program-visibility -mllvm \
                     -always-rename-promoted-locals=false -mllvm -import-instr-limit=5 -z x";
        assert_eq!(filtered(flags, false), "-m elf_x86_64 -mllvm -import-instr-limit=5 -z x");
        let old = "-m elf_x86_64 --thinlto-cache-dir=.thinlto-cache -z noexecstack";
        assert_eq!(filtered(old, false), "-m elf_x86_64 -z noexecstack");
        assert_eq!(filtered("-m x", false), "-m x");
    }

    #[test]
    fn names_are_kept_by_both_or_by_neither() {
        let flags = "-mllvm -always-rename-promoted-locals=false -z x";
        let both =
            "-z x --lto-whole-program-visibility -mllvm -always-rename-promoted-locals=false";
        assert_eq!(filtered(flags, true), both);
        assert_eq!(filtered("-z x", true), both);
        assert_eq!(filtered(flags, false), "-z x");
        assert_eq!(with_kept_names("clang"), "clang -mllvm -always-rename-promoted-locals=false");
    }
}
