//! The table: who reads which kind of input, how it is changed here, and what has to run then.

use std::fs;

use kthinlto::inputs::Kind::{self, *};

use crate::built;
use crate::common::{LDFLAGS, tool};
use crate::world::{Ran, World};

pub const BACKEND: &str = "backend";
pub const THIN_LINK: &str = "thin link";
pub const INITCALLS: &str = ".tmp_initcalls.lds";
pub const OBJECT: &str = "vmlinux.o";
pub const NAMES: &str = "check-function-names";
pub const LIST: &str = ".vmlinux.objs";
pub const MODPOST: &str = "vmlinux.symvers";
pub const EXPORT: &str = ".vmlinux.export.o";
pub const LINK: &str = "vmlinux.unstripped";
pub const VMLINUX: &str = "vmlinux";
pub const MODINFO: &str = "modules.builtin.modinfo";
pub const BUILTIN: &str = "modules.builtin";
pub const RANGES: &str = "modules.builtin.ranges";

/// All readers, as the tests below share them.
pub const GROUPS: [&[&str]; 6] = [
    &[BACKEND],
    &[THIN_LINK],
    &[INITCALLS, OBJECT, NAMES, LIST],
    &[MODPOST, EXPORT],
    &[LINK],
    &[VMLINUX, MODINFO, BUILTIN, RANGES],
];

/// What follows from another object in `vmlinux.a`.
pub const OF_MEMBERS: &[&str] = &[INITCALLS, OBJECT, NAMES, LIST, MODPOST, LINK, VMLINUX, MODINFO];
/// What follows from another `vmlinux.o`.
pub const OF_OBJECT: &[&str] = &[NAMES, MODPOST, LINK, VMLINUX, MODINFO];
/// What follows from another link.
pub const OF_LINK: &[&str] = &[VMLINUX, MODINFO];

/// Which readers have no input of a kind, and why.
pub const NEVER: &[(&[&str], &[Kind], &str)] = &[
    (&[BACKEND], &[Member, ThinArchive], "it is given one object, and the ones that it imports"),
    (&[BACKEND], &[File], "each of its files is named by a flag or by assembly"),
    (&[THIN_LINK], &[Bitcode, Import, File], "all that it reads are members"),
    (&[THIN_LINK], &[Index], "it writes them; one that was changed is a row of the backend"),
    (&[THIN_LINK], &[AsmFile], "LLD parses assembly for symbols and includes nothing"),
    (&[THIN_LINK], &[Environment], "LLD reads no variable that moves an index"),
    (STEPS, &[Bitcode, Index, Import, Member, AsmFile], "it comes after the backends"),
    (&[INITCALLS, LIST], &[File, FlagFile, Tool, Environment], "our own code reads archives"),
    (&[OBJECT, NAMES, MODPOST], &[Environment], "nothing that it runs reads a variable"),
    (&[VMLINUX, MODINFO, BUILTIN, RANGES], &[Environment], "nothing that it runs reads a variable"),
    (&[NAMES, EXPORT, LINK], &[ThinArchive], "what it reads was linked before"),
    (&[VMLINUX, MODINFO, BUILTIN, RANGES], &[ThinArchive], "what it reads was linked before"),
    (&[NAMES, BUILTIN, RANGES], &[FlagFile], "its command has no flag that names a file"),
    (&[MODPOST], &[Tool], "its program is a file of the tree"),
];
pub const STEPS: &[&str] =
    &[INITCALLS, OBJECT, NAMES, LIST, MODPOST, EXPORT, LINK, VMLINUX, MODINFO, BUILTIN, RANGES];

/// An input that is changed, and what has to run then.
pub struct Row {
    pub reader: &'static str,
    pub kind: Kind,
    pub what: &'static str,
    pub change: fn(&mut World),
    pub ran: Ran,
}

/// `READER KIND WHAT => CHANGE, backends, whether the thin link runs, lists of steps;`
macro_rules! rows {
    ($($reader:ident $kind:ident $what:literal =>
        $change:expr, $backends:literal, $thin_link:literal, $steps:expr;)*) => {
        vec![$(Row {
            reader: $reader,
            kind: $kind,
            what: $what,
            change: $change,
            ran: ran($backends, $thin_link, &$steps),
        }),*]
    };
}

fn ran(backends: usize, thin_link: bool, steps: &[&[&str]]) -> Ran {
    let mut steps: Vec<String> = steps.concat().iter().map(|name| (*name).to_owned()).collect();
    steps.sort();
    steps.dedup();
    Ran { backends, thin_link, steps }
}

/// All rows.
pub fn all() -> Vec<Row> {
    [of_backends(), of_thin_link(), of_objects(), of_exports(), of_link(), of_results()]
        .into_iter()
        .flatten()
        .collect()
}

fn of_backends() -> Vec<Row> {
    rows! {
        BACKEND Bitcode "a module that nobody imports" => |world| {
            world.built.tree.edit("lib/alone", "int alone(int x) { return x + 9; }\n");
        }, 1, true, [OF_MEMBERS];
        BACKEND Index "an index that is damaged" => |world| {
            let other = fs::read(world.built.path("lib/w4.o.thinlto.bc")).unwrap();
            fs::write(world.built.path("lib/w3.o.thinlto.bc"), other).unwrap();
        }, 0, true, [];
        BACKEND Import "a module that nine import" => |world| {
            world.built.tree.edit("kernel/a", "int shared(int x) { return x * 5 + 2; }\n");
        }, 10, true, [OF_MEMBERS];
        BACKEND FlagFile "a list that flags of two modules name" => |world| {
            world.write("list.txt", "!worker1\n!!0\n!worker2\n!!0\n");
        }, 2, false, [OF_MEMBERS];
        BACKEND AsmFile "a file that assembly includes" => |world| {
            world.write("kernel/config_data.gz", "CONFIG_A=m\n");
        }, 1, false, [OF_MEMBERS];
        BACKEND Tool "the script that CC is" => |world| {
            world.program("cc", "-ffunction-sections");
        }, 12, false, [OF_MEMBERS, &[EXPORT]];
        BACKEND Tool "the words of CC" => |world| {
            world.words_of_cc("-mllvm -inline-threshold=-1000");
        }, 12, false, [OF_MEMBERS, &[EXPORT]];
        BACKEND Environment "a variable that clang reads" => |world| {
            world.set("CCC_OVERRIDE_OPTIONS", "# +-O0");
        }, 12, false, [OF_MEMBERS, &[EXPORT]];
        BACKEND Flags "the recorded flags of a module" => |world| {
            world.environment.clear();
            world.run();
            world.built.tree.shell("sed -i 's/ -O2 / -O2 -fno-function-sections /' lib/.w3.o.cmd");
        }, 1, false, [OF_MEMBERS];
    }
}

fn of_thin_link() -> Vec<Row> {
    rows! {
        THIN_LINK Member "an object of no bitcode" => |world| {
            world.head("ret", "nop; ret");
        }, 0, true, [OF_MEMBERS];
        THIN_LINK Member "the order of the members of an archive" => |world| {
            world.built.tree.shell(&format!(
                "rm lib/lib.a; find lib -name '*.o' ! -name '*.thinlto-native.o' | sort -r | \
                 xargs {} cDPrST lib/lib.a",
                tool("llvm-ar")
            ));
        }, 0, true, [OF_MEMBERS];
        THIN_LINK ThinArchive "an archive with one member more" => |world| {
            world.source("lib/new.c", "int fresh(int x) { return x; }\n");
            world.built.tree.compile("lib/new", "");
            world.built.tree.archive();
        }, 1, true, [OF_MEMBERS];
        THIN_LINK FlagFile "a file that KBUILD_LDFLAGS name" => |world| {
            world.write("lto.txt", "worker1\nhead\n");
        }, 0, true, [&[LINK]];
        THIN_LINK Tool "the script that LD is" => |world| {
            world.program("ld", "-mllvm -import-instr-limit=0");
        }, 9, true, [OF_MEMBERS, &[EXPORT]];
        THIN_LINK Flags "KBUILD_LDFLAGS" => |world| {
            let more = "-mllvm -import-instr-limit=7";
            world.edit_record(LINK, LDFLAGS, &format!("{LDFLAGS} {more}"));
            world.flags += &format!(" {more}");
        }, 9, true, [OF_MEMBERS];
    }
}

fn of_objects() -> Vec<Row> {
    rows! {
        INITCALLS ThinArchive "a member of a library beside vmlinux.a" => |world| {
            world.stub("2");
        }, 0, false, [&[INITCALLS, OBJECT], OF_OBJECT];
        INITCALLS Flags "its command" => |world| {
            world.edit_record(INITCALLS, "python3", "python3 -B");
        }, 0, false, [&[INITCALLS]];
        OBJECT ThinArchive "a library with one member more" => |world| {
            world.write("stub/y.S", ".globl y\ny: nop\n");
            world.built.tree.shell(&format!(
                "{} --target=x86_64-linux-gnu -c -o stub/y.o stub/y.S; \
                 {} cDPrST stub/lib.a stub/y.o",
                tool("clang"),
                tool("llvm-ar")
            ));
        }, 0, false, [&[INITCALLS, OBJECT]];
        OBJECT Flags "its command" => |world| {
            world.edit_record(OBJECT, "-u stub", "-u stub -u y");
        }, 0, false, [&[OBJECT], OF_OBJECT];
        OBJECT Tool "the script that LD is" => |world| {
            world.program("ld", "--no-warnings");
        }, 0, true, [&[OBJECT, EXPORT, LINK]];
        OBJECT File "objtool" => |world| {
            world.write("tools/objtool/objtool", &format!("{}# another\n", built::OBJTOOL));
        }, 0, false, [&[OBJECT, EXPORT]];
        OBJECT FlagFile "a file that its command names" => |world| {
            world.write("order.txt", "worker1\nhead\n");
        }, 0, false, [&[OBJECT]];
        NAMES File "its script" => |world| {
            world.source("scripts/check-function-names.sh", "#!/bin/sh\n$NM $1  >/dev/null\n");
        }, 0, false, [&[NAMES]];
        NAMES Tool "the script that NM is" => |world| {
            world.program("llvm-nm", "--no-demangle");
        }, 0, false, [&[NAMES, LINK]];
        NAMES Flags "the words of NM" => |world| {
            world.built.words.nm += " --no-sort";
            let nm = world.built.words.nm.clone();
            world.set("NM", &nm);
        }, 0, false, [&[NAMES, LINK]];
        LIST ThinArchive "another object in vmlinux.a" => |world| {
            world.built.tree.edit("lib/alone", "int alone(int x) { return x + 9; }\n");
        }, 1, true, [OF_MEMBERS];
        LIST Flags "whether modpost knows of native objects" => |world| {
            let place = "include/config/auto.conf";
            let conf = fs::read_to_string(world.built.path(place)).unwrap();
            let dist = "CONFIG_LTO_CLANG_THIN_DIST";
            world.write(place, &conf.replace(dist, "CONFIG_LTO_CLANG_THIN"));
        }, 0, false, [&[LIST, MODPOST, LINK]];
    }
}

fn of_exports() -> Vec<Row> {
    rows! {
        MODPOST ThinArchive "symbol versions alone" => |world| {
            world.built.tree.shell("echo '#SYMVER shared 0x12345678' >> kernel/.a.o.cmd");
        }, 0, false, [&[INITCALLS, OBJECT, LIST, MODPOST]];
        MODPOST File "its program" => |world| {
            world.write("scripts/mod/modpost", &built::MODPOST.replace("0x1", "0x2"));
        }, 0, false, [&[MODPOST]];
        MODPOST FlagFile "a file that its command names" => |world| {
            world.write("used.txt", "worker1\n");
        }, 0, false, [&[MODPOST]];
        MODPOST Flags "its command" => |world| {
            world.edit_record(MODPOST, "-M -m", "-M -m -E");
        }, 0, false, [&[MODPOST]];
        EXPORT File "the table that modpost writes" => |world| {
            let text = built::MODPOST.replace("\"shared\"", "\"worker1\"");
            world.write("scripts/mod/modpost", &text);
        }, 0, false, [&[MODPOST, EXPORT, LINK], OF_LINK];
        EXPORT File "a header" => |world| {
            world.write("export.h", "char more[] = \"more\";\n");
        }, 0, false, [&[EXPORT, LINK], OF_LINK];
        EXPORT FlagFile "a configuration file that its command names" => |world| {
            world.write("export.cfg", "-fno-ident -fdata-sections\n");
        }, 0, false, [&[EXPORT, LINK]];
        EXPORT Tool "the script that CC is" => |world| {
            world.program("cc", "-DNOTHING");
        }, 12, false, [&[EXPORT, LINK]];
        EXPORT Environment "a variable that clang reads" => |world| {
            world.set("CCC_OVERRIDE_OPTIONS", "# +-DNOTHING");
        }, 12, false, [&[EXPORT, LINK]];
        EXPORT Flags "its command" => |world| {
            world.edit_record(EXPORT, "-O2", "-O2 -DNOTHING");
        }, 0, false, [&[EXPORT]];
    }
}

fn of_link() -> Vec<Row> {
    rows! {
        LINK File "the linker script" => |world| {
            world.write("arch/x86/kernel/vmlinux.lds", "SECTIONS { /* another */ }\n");
        }, 0, false, [&[LINK]];
        LINK File "a program that it runs" => |world| {
            let text = "#!/bin/sh\necho '.globl kallsyms; kallsyms: .long 2'\n";
            world.write("scripts/kallsyms", text);
        }, 0, false, [&[LINK], OF_LINK];
        LINK File "its script" => |world| {
            world.source("scripts/link-vmlinux.sh", &format!("{}# another\n", built::LINK));
        }, 0, false, [&[LINK]];
        LINK FlagFile "a file that the flags for vmlinux name" => |world| {
            world.write("final.txt", "head\nkallsyms\n");
        }, 0, false, [&[LINK], OF_LINK];
        LINK FlagFile "a configuration file that a record names" => |world| {
            world.write("stamp.cfg", "-fno-ident -fdata-sections\n");
        }, 0, false, [&[LINK]];
        LINK Tool "the script that NM is" => |world| {
            world.program("llvm-nm", "--print-size");
        }, 0, false, [&[NAMES, LINK]];
        LINK Tool "the script that OBJCOPY is" => |world| {
            world.program("llvm-objcopy", "--preserve-dates");
        }, 0, false, [&[LINK, VMLINUX, MODINFO]];
        LINK Environment "a variable that clang reads" => |world| {
            world.set("CCC_OVERRIDE_OPTIONS", "# +-DNOTHING");
        }, 12, false, [&[EXPORT, LINK]];
        LINK Flags "the flags for vmlinux" => |world| {
            world.edit_record(LINK, "max-page-size=0x200000", "max-page-size=0x1000");
        }, 0, false, [&[LINK], OF_LINK];
        LINK Flags "the command of an object that it makes" => |world| {
            world.edit_record("init/version-timestamp.o", "-O2", "-O2 -DNOTHING");
        }, 0, false, [&[LINK]];
    }
}

fn of_results() -> Vec<Row> {
    rows! {
        VMLINUX File "what it is made of" => |world| {
            world.edit_record(LINK, "max-page-size=0x200000", "max-page-size=0x1000");
        }, 0, false, [&[LINK], OF_LINK];
        VMLINUX FlagFile "a file that its command names" => |world| {
            world.write("strip.txt", "head\n");
        }, 0, false, [&[VMLINUX]];
        VMLINUX Tool "the script that OBJCOPY is" => |world| {
            world.program("llvm-objcopy", "--preserve-dates");
        }, 0, false, [&[LINK, VMLINUX, MODINFO]];
        VMLINUX Flags "its command" => |world| {
            world.edit_record(VMLINUX, "--strip-symbols", "--strip-debug --strip-symbols");
        }, 0, false, [&[VMLINUX]];
        MODINFO File "what it is made of" => |world| {
            world.head("file=kernel/head", "file=kernel/other");
        }, 0, true, [OF_MEMBERS, &[BUILTIN, RANGES]];
        MODINFO FlagFile "a file that its command names" => |world| {
            world.write("keep.txt", "head\n");
        }, 0, false, [&[MODINFO]];
        MODINFO Tool "the script that OBJCOPY is" => |world| {
            world.program("llvm-objcopy", "");
        }, 0, false, [&[LINK, VMLINUX, MODINFO]];
        MODINFO Flags "its command" => |world| {
            world.edit_record(MODINFO, "-j .modinfo", "-j .modinfo --strip-debug");
        }, 0, false, [&[MODINFO]];
        BUILTIN File "what it is made of" => |world| {
            world.head("file=kernel/head", "file=kernel/third");
        }, 0, true, [OF_MEMBERS, &[BUILTIN, RANGES]];
        BUILTIN Tool "its first program" => |world| {
            world.program("tr", "--");
        }, 0, false, [&[BUILTIN]];
        BUILTIN Tool "a program behind a pipe" => |world| {
            world.program("sed", "-u");
        }, 0, false, [&[BUILTIN]];
        BUILTIN Flags "its command" => |world| {
            world.edit_record(BUILTIN, "s:^:kernel/:", "s:^:kernels/:");
        }, 0, false, [&[BUILTIN, RANGES]];
        RANGES File "its script" => |world| {
            world.source("scripts/ranges.awk", "{ print \"0-2\", $0 }\n");
        }, 0, false, [&[RANGES]];
        RANGES Tool "its program" => |world| {
            world.program("awk", "-v x=1");
        }, 0, false, [&[RANGES]];
        RANGES Flags "its command" => |world| {
            world.edit_record(RANGES, "-f ", "-v y=1 -f ");
        }, 0, false, [&[RANGES]];
    }
}
