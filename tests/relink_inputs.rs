//! What the steps of `kthinlto relink` read besides what stands in their commands: each changed
//! alone, with its size as it was, runs what reads it, and nothing else makes it run again.

#![cfg(feature = "program")]

#[path = "common/built.rs"]
mod built;
mod common;

use std::fs;

use built::{Built, steps};
use common::{assert_holds, good, tool};

/// Changes the record of a target.
fn change_record(built: &Built, target: &str, from: &str, to: &str) {
    let path = built.path(&format!(".{target}.cmd"));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn relinked(built: &Built) -> String {
    steps(&good(built.relink(&[]))).join("\n")
}

/// These steps are due now, and none is after that.
fn due(built: &Built, wanted: &[&str]) {
    assert_holds(&relinked(built), wanted);
    assert_eq!(relinked(built), "");
}

#[test]
fn a_member_of_an_archive_on_the_link_line() {
    let built = Built::new();
    let assemble = |value: &str| {
        built.tree.write_object("stub/x.S", &format!(".globl stub\nstub: .long {value}\n"));
        let cc = tool("clang");
        built.tree.shell(&format!("{cc} --target=x86_64-linux-gnu -c -o stub/x.o stub/x.S"));
    };
    assemble("1");
    built.tree.shell(&format!("{} cDPrST stub/lib.a stub/x.o", tool("llvm-ar")));
    change_record(&built, "vmlinux.o", "--start-group", "-u stub --start-group stub/lib.a");
    change_record(&built, ".tmp_initcalls.lds", ".pl vmlinux.a", ".pl vmlinux.a stub/lib.a");
    due(&built, &["LD vmlinux.o"]);
    assemble("2");
    due(&built, &["GEN .tmp_initcalls.lds", "LD vmlinux.o", "LD vmlinux.unstripped"]);
    let vmlinux = fs::read(built.path("vmlinux.o")).unwrap();
    assert!(vmlinux.windows(4).any(|bytes| bytes == [2, 0, 0, 0]));
}

#[test]
fn device_trees_that_are_part_of_the_kernel() {
    let built = Built::configured("CONFIG_LTO_CLANG_THIN_DIST=y\nCONFIG_GENERIC_BUILTIN_DTB=y\n");
    built.tree.write_object(".builtin-dtbs.o", "one");
    due(&built, &["LD vmlinux.unstripped"]);
    built.tree.write_object(".builtin-dtbs.o", "two");
    due(&built, &["LD vmlinux.unstripped"]);
}

#[test]
fn files_that_the_linkers_flags_name() {
    let built = Built::new();
    built.tree.write_object("order.txt", "head\nworker1\n");
    let whole = built.tree.dir().join("whole.txt");
    fs::write(&whole, "head\nworker1\n").unwrap();
    let flags = format!(
        "--build-id=sha1 --symbol-ordering-file=order.txt --dependency-file=/dev/null \
         --no-warn-symbol-ordering --retain-symbols-file={}",
        whole.display()
    );
    change_record(&built, "vmlinux.unstripped", "--build-id=sha1", &flags);
    change_record(&built, "vmlinux.o", " -r ", " -r --symbol-ordering-file=order.txt ");
    due(&built, &["LD vmlinux.unstripped"]);
    built.tree.write_object("order.txt", "worker1\nhead\n");
    due(&built, &["LD vmlinux.o", "LD vmlinux.unstripped"]);
    fs::write(&whole, "worker1\nhead\n").unwrap();
    due(&built, &["LD vmlinux.unstripped"]);
}

#[test]
fn programs_of_the_pass_after_the_link() {
    let built = Built::new();
    let makefile = "CMD_RELOCS = arch/x86/tools/relocs\n\
                    vmlinux: FORCE\n\t@$(CMD_RELOCS) && sh $(srctree)/arch/x86/tools/check.sh\nFORCE:\n";
    let sources = &built.tree.sources;
    fs::create_dir_all(sources.join("arch/x86/tools")).unwrap();
    fs::write(sources.join("arch/x86/Makefile.postlink"), makefile).unwrap();
    fs::write(sources.join("arch/x86/tools/check.sh"), "exit 0\n").unwrap();
    built.tree.write_object("arch/x86/tools/relocs", "#!/bin/sh\nexit 0\n");
    built.tree.shell("chmod +x arch/x86/tools/relocs");
    let pass = format!(";  make -s -f {}/arch/x86/Makefile.postlink vmlinux", sources.display());
    change_record(&built, "vmlinux.unstripped", ";  true", &pass);
    due(&built, &["LD vmlinux.unstripped"]);
    built.tree.write_object("arch/x86/tools/relocs", "#!/bin/sh\nexit  0\n");
    due(&built, &["LD vmlinux.unstripped"]);
    fs::write(sources.join("arch/x86/tools/check.sh"), "exit  0\n").unwrap();
    due(&built, &["LD vmlinux.unstripped"]);
    fs::write(sources.join("arch/x86/Makefile.postlink"), makefile.replace("&&", "; ")).unwrap();
    due(&built, &["LD vmlinux.unstripped"]);
    // As arch/riscv/Makefile.postlink, which looks for bad relocations with it.
    let check = "case $1 in *objdump*) exit 0 ;; esac; exit 1\n";
    fs::write(sources.join("arch/x86/tools/check.sh"), check).unwrap();
    let with = makefile.replace("check.sh", "check.sh \"$(OBJDUMP)\"");
    fs::write(sources.join("arch/x86/Makefile.postlink"), with).unwrap();
    due(&built, &["LD vmlinux.unstripped"]);
}

#[test]
fn modules_where_unused_exports_are_trimmed() {
    let built = Built::configured("CONFIG_LTO_CLANG_THIN_DIST=y\nCONFIG_TRIM_UNUSED_KSYMS=y\n");
    let record = fs::read_to_string(built.path(".vmlinux.symvers.cmd")).unwrap();
    let all = record
        .replace("-o vmlinux.symvers", "-o Module.symvers -T modules.order")
        .replace("savedcmd_vmlinux", "savedcmd_Module");
    built.tree.write_object(".Module.symvers.cmd", &all);
    built.tree.write_object("modules.order", "fs/m.o\n");
    built.tree.write_object("fs/m.o", "one");
    built.tree.write_object("fs/m.mod", "fs/part.o\n");
    built.tree.write_object("fs/.part.o.cmd", "#SYMVER x 0x1\n");
    due(&built, &["MODPOST Module.symvers"]);
    for (name, text) in
        [("fs/m.o", "two"), ("fs/.part.o.cmd", "#SYMVER x 0x2\n"), ("modules.order", "fs/m.o\n\n")]
    {
        built.tree.write_object(name, text);
        due(&built, &["MODPOST Module.symvers"]);
    }
}

#[test]
fn the_configuration_that_a_record_of_dependencies_leaves_out() {
    // kbuild's fixdep records the options that are named instead of the header that holds them all.
    let built = Built::new();
    let header = "include/generated/autoconf.h";
    built.tree.write_object(header, "#define CONFIG_A 1\n");
    let record = built.path("..vmlinux.export.o.cmd");
    let text = fs::read_to_string(&record).unwrap();
    let taken_in = built.tree.sources.join("include/linux/kconfig.h");
    fs::create_dir_all(taken_in.parent().unwrap()).unwrap();
    fs::write(&taken_in, "").unwrap();
    let deps = format!("{text}\ndeps_.vmlinux.export.o := \\\n  {} \\\n", taken_in.display());
    fs::write(record, deps).unwrap();
    due(&built, &[]);
    built.tree.write_object(header, "#define CONFIG_A 2\n");
    due(&built, &["CC .vmlinux.export.o"]);
}

#[test]
fn libraries_of_the_programs_that_the_kernel_builds_for_itself() {
    let built = Built::new();
    built.tree.shell(
        "mkdir lib2; echo 'int answer(void) { return 0; }' > lib2/a.c; cc -shared -fPIC -o lib2/liba.so lib2/a.c; \
         echo 'int answer(void); int main(void) { return answer(); }' > lib2/main.c; \
         cc -o tools/objtool/objtool lib2/main.c -Llib2 -la -Wl,-rpath,\"$PWD/lib2\"",
    );
    due(&built, &["LD vmlinux.o"]);
    built.tree.shell(
        "echo 'int answer(void) { return 0 * 1; } int more;' > lib2/a.c; cc -shared -fPIC -o lib2/liba.so lib2/a.c",
    );
    due(&built, &["LD vmlinux.o", "CC .vmlinux.export.o"]);
}
