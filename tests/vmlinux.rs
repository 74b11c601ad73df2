//! The symbols of a linked kernel as `llvm-nm` lists them, on an executable with symbols of all
//! kinds. The whole final link is compared with the kernel's script in `tests/kernel/relink`.

#![cfg(feature = "program")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{good, text, tool};
use kthinlto::elf::nm;
use tempfile::TempDir;

/// A symbol for each letter that a linked kernel can have, and several at one address.
const SYMBOLS: &str = "\
.text
.globl _start, global, same_b, same_a
_start:
same_b: same_a: same_local:
.type sized, @function
sized: ret
.size sized, . - sized
.weak weak_text
weak_text: ret
.globl indirect
.type indirect, @gnu_indirect_function
indirect: ret
local: ret
global: ret
.data
.globl data
data: .long 1
.weak weak_data
.type weak_data, @object
weak_data: .long 2
.bss
.globl zero
zero: .zero 4
local_zero: .zero 4
.section .rodata, \"a\"
.globl constant
constant: .long 3
.section .comment.mine, \"\"
noted: .long 4
.section .debug_mine, \"\"
.globl debugged
debugged: .long 5
.globl number
number = 0x1234
hidden_number = 7
";

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(tool(program));
    command.args(arguments).current_dir(folder);
    good(command)
}

/// The file `all`, linked of these symbols.
fn linked() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all.s"), SYMBOLS).unwrap();
    let target = ["--target=x86_64-linux-gnu", "-c", "-o", "all.o", "all.s"];
    run(folder.path(), "clang", &target);
    run(folder.path(), "ld.lld", &["-m", "elf_x86_64", "--static", "-o", "all", "all.o"]);
    folder
}

#[test]
fn symbols_are_listed_as_nm_lists_them() {
    let folder = linked();
    let bytes = fs::read(folder.path().join("all")).unwrap();
    let symbols = nm::defined(bytes.as_slice()).unwrap();
    let mut lines = Vec::new();
    for symbol in &symbols {
        lines.extend(format!("{:016x}", symbol.address).into_bytes());
        symbol.write_tail(&mut lines);
        lines.push(b'\n');
    }
    assert_eq!(text(&lines), run(folder.path(), "llvm-nm", &["-n", "all"]));
    assert_eq!(text(&nm::with_sizes(symbols)), run(folder.path(), "llvm-nm", &["-S", "all"]));
    assert!(lines.len() > 400, "{}", text(&lines));
}

#[test]
fn damaged_files_are_one_sentence() {
    let sentence = |bytes: &[u8]| nm::defined(bytes).unwrap_err();
    assert_eq!(sentence(b"no kernel"), "not an ELF file");
    let mut header = vec![0_u8; 64];
    header[..6].copy_from_slice(b"\x7fELF\x02\x01");
    header[6] = 1;
    header[40] = 0xff; // section headers beyond the end
    header[60] = 3;
    assert!(sentence(&header).starts_with("a truncated or corrupt ELF file: "));
}

/// Whatever byte is another, and wherever the file ends: symbols or a sentence.
#[test]
fn no_damage_is_a_crash() {
    let bytes = fs::read(linked().path().join("all")).unwrap();
    let mut sentences = 0;
    for at in 0..bytes.len() {
        for with in [0, 1, 0x7f, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] = with;
            sentences += usize::from(nm::defined(damaged.as_slice()).is_err());
        }
        sentences += usize::from(nm::defined(&bytes[..at]).is_err());
    }
    assert!(sentences > bytes.len() / 2, "{sentences}");
}

/// Tables of two labels, one of which the linker fills in, and what is linked with them.
fn linked_with(folder: &Path, name: &str, table: &str, id: &str) -> (Vec<u8>, Vec<u8>) {
    let tables = format!(
        ".section .rodata, \"a\"\n.globl kallsyms_names, kallsyms_relative_base\n.balign 8\n\
         kallsyms_names: .ascii \"{table}\"\n.balign 8\nkallsyms_relative_base: .quad _text\n"
    );
    linked_from(folder, name, &tables, "x86_64-linux-gnu", &[id])
}

/// What is linked with this assembly text, and the object of it.
fn linked_from(
    folder: &Path,
    name: &str,
    tables: &str,
    target: &str,
    flags: &[&str],
) -> (Vec<u8>, Vec<u8>) {
    // More than one piece of what the linker hashes.
    let main = ".text\n.globl _start, _text\n_text: _start: .long 0\n.data\n.zero 1500000, 7\n\
                .section .rodata.first, \"a\"\n.ascii \"before\"\n";
    assembled(folder, "main", main, target);
    let object = assembled(folder, name, tables, target);
    let output = format!("{name}.elf");
    run(folder, "ld.lld", &[flags, &["-o", &output, "main.o", &format!("{name}.o")]].concat());
    (fs::read(folder.join(output)).unwrap(), object)
}

fn assembled(folder: &Path, name: &str, text: &str, target: &str) -> Vec<u8> {
    let [file, object] = ["S", "o"].map(|ending| format!("{name}.{ending}"));
    fs::write(folder.join(&file), text).unwrap();
    run(folder, "clang", &[&format!("--target={target}"), "-c", "-o", &object, &file]);
    fs::read(folder.join(object)).unwrap()
}

/// The kernel with the patches that make it into one with other tables.
fn patched(kernel: &[u8], before: &[u8], now: &[u8], threads: usize) -> Option<(Vec<u8>, usize)> {
    let all = kthinlto::vmlinux::patch::patches(kernel, before, now, threads)?;
    let mut made = kernel.to_vec();
    for patch in &all {
        let at = patch.offset as usize;
        made[at..at + patch.bytes.len()].copy_from_slice(&patch.bytes);
    }
    Some((made, all.len()))
}

/// Tables as those of Linux 7.0 and later, whose distances the linker fills in.
fn distances(name: &str, places: &[i64]) -> String {
    let places: String =
        places.iter().map(|place| format!(".long _text - . + ({place})\n")).collect();
    format!(
        ".section .rodata, \"a\"\n.globl kallsyms_names, kallsyms_offsets\n.balign 8\n\
         kallsyms_names: .ascii \"{name}\"\n.balign 8\nkallsyms_offsets: {places}"
    )
}

#[test]
fn distances_in_other_tables_and_the_relocations_that_are_kept_are_those_of_a_link() {
    let dir = tempfile::tempdir().unwrap();
    for target in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
        for (flags, patches) in
            [(["--build-id=sha1", "--static"], 2), (["--build-id=sha1", "--emit-relocs"], 3)]
        {
            let with = |name: &str, places: &[i64]| {
                let text = distances(name, places);
                linked_from(dir.path(), name, &text, target, &flags)
            };
            let (kernel, before) = with("one", &[0, 5, 70_000, -3]);
            let (want, now) = with("two", &[0, 9, 60_000, -300]);
            assert_ne!(kernel, want);
            assert!(
                patched(&kernel, &before, &now, 2) == Some((want, patches)),
                "{target} {flags:?}"
            );
            let text = distances("far", &[0, 9, i64::from(i32::MAX), -300]);
            let far = assembled(dir.path(), "far", &text, target);
            assert_eq!(patched(&kernel, &before, &far, 1), None, "too far");
            assert_eq!(patched(&kernel, &now, &before, 1), None, "not what it was linked with");
            let (_, more) = with("six", &[0, 9, 60_000, -300, 1]);
            assert_eq!(patched(&kernel, &before, &more, 1), None, "another shape");
        }
    }
}

#[test]
fn a_kernel_with_other_tables_is_the_one_that_is_linked_with_them() {
    use kthinlto::vmlinux::patch::patches;
    let dir = tempfile::tempdir().unwrap();
    let with = |name: &str, table: &str, id: &str| linked_with(dir.path(), name, table, id);
    let (kernel, before) = with("before", "one two", "--build-id=sha1");
    let (want, now) = with("now", "two one", "--build-id=sha1");
    assert_ne!(kernel, want);
    for threads in [1, 4] {
        let (made, count) = patched(&kernel, &before, &now, threads).unwrap();
        assert_eq!(count, 2, "the tables and the build ID");
        assert!(made == want);
    }
    // What is not made here in the same way is left to the linker.
    let (_, longer) = with("longer", "one two three four", "--build-id=sha1");
    assert_eq!(patches(&kernel, &before, &longer, 1), None, "another shape");
    let (short, _) = with("short", "one two", "--build-id=md5");
    assert_eq!(patches(&short, &before, &now, 1).unwrap()[1].bytes.len(), 16);
    let (other, _) = with("other", "one two", "--build-id=fast");
    assert_eq!(patches(&other, &before, &now, 1), None, "another kind of ID");
    let (without, _) = with("without", "one two", "--build-id=none");
    assert_eq!(patches(&without, &before, &now, 1).unwrap().len(), 1);
    let mut damaged = kernel.clone();
    let data = kernel.windows(64).position(|bytes| bytes.iter().all(|byte| *byte == 7)).unwrap();
    damaged[data + 700_000] ^= 1;
    assert_eq!(patches(&damaged, &before, &now, 1), None, "an ID that is not of these bytes");
    assert_eq!(patches(&kernel, &now, &before, 1), None, "not what it was linked with");
    assert_eq!(patches(b"no kernel", &before, &now, 1), None);
}
