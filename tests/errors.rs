//! Every sentence that the program says when something is wrong, in one snapshot: who changes
//! one sees it here, and docs/troubleshooting.md may name only what stands here. What is left
//! on disk after each is tested in `bad_input`, `symvers` and `interrupt`.
//!
//! To accept a change: `INSTA_UPDATE=always cargo test --test errors`, and read the diff.

#![cfg(feature = "program")]

#[path = "common/built.rs"]
mod built;
mod common;

use std::fmt::Write;
use std::io;
use std::path::Path;
use std::process::Command;

use built::Built;
use common::{Tree, good, heed_signals, text, tool};
use kthinlto::error::Error;
use rustix::io::Errno;

/// Runs before each case, in the object tree of a kernel that was built once. `cc BODY` and
/// `ld BODY` put a script in the compiler's or the linker's place; `again` forgets one object.
const PRELUDE: &str = r#"
build="$K build built-in.a lib/lib.a -j1"
kernel() { mkdir ../kernel; printf 'VERSION = %s\nPATCHLEVEL = %s\n' $1 $2 > ../kernel/Makefile; }
again() { rm kernel/a.thinlto-native.o; }
script() { printf '#!/bin/sh\n%s\n' "$2" > ../$1; chmod +x ../$1; }
cc() {
  script cc "[ \"\$*\" != --version ] || { echo clang version 22.0.0; exit; }
  case \"\$*\" in *-###*) exec $CC \"\$@\";; esac
  for word; do [ \"\$was\" != -o ] || out=\$word; was=\$word; done
  $1"
  export CC=$PWD/../cc
}
ld() {
  script ld "[ \"\$*\" != --version ] || { echo LLD 22.0.0; exit; }
  # $LD
  $1"
  export LD=$PWD/../ld
}
module() {
  mkdir fs; cp kernel/a.o fs/a.o; sed 's|kernel/a|fs/a|g' kernel/.a.o.cmd >fs/.a.o.cmd
  echo fs/a.o >fs/m.mod; echo fs/m.o >modules.order
  echo "savedcmd_fs/m.o := : $LD -m elf_x86_64 -r -o fs/m.o @fs/m.mod" >fs/.m.o.cmd
}
symvers() {
  mkdir -p include/config
  echo CONFIG_MODULES=y > include/config/auto.conf
  echo CONFIG_MODVERSIONS=y >> include/config/auto.conf
  cp kernel/head.o vmlinux.o
  : > .vmlinux.objs
}
"#;

/// Real programs, where a script stands in for one of them after it.
const LINK_THEN: &str = r#"ld "$LD \"\$@\"; cd .kthinlto/link/0; $THEN""#;

/// What goes wrong, and how to make it go wrong.
const CASES: &[(&str, &str)] = &[
    // The command line.
    ("an unknown command", "$K bild"),
    ("an unknown option", "$K build --jbs 3 built-in.a"),
    ("an unknown action", "$K cache stat"),
    ("a word that is none of those known", "$K build --scratch mem built-in.a"),
    ("no jobs", "$K build -j0 built-in.a"),
    ("no object", "$K explain"),
    ("no size", "$K cache stats --cache-dir . --cache-size many"),
    ("no archive", "$K build"),
    ("no LD", "unset LD; $build"),
    ("flags that are not words", "KBUILD_LDFLAGS=\"-m 'x\" $build"),
    ("no cache", "$K cache stats"),
    ("a variable that is none of the words known", "KTHINLTO_EXECUTOR=fork $build"),
    ("a cache that is not there", "$K cache stats --cache-dir ../none"),
    ("a tree that is not there", "$K clean -C ../none"),
    ("a folder in the place of a report", "$build --timings ."),
    ("a full standard output", "symvers; $K symvers --json >/dev/full"),
    // Archives and members.
    ("an archive that is not there", "rm built-in.a; $build"),
    ("a folder", "$K build kernel"),
    ("an empty archive", ": > built-in.a; $build"),
    ("no archive at all", "cp kernel/head.o built-in.a; $build"),
    ("an archive cut short", "truncate -s -20 built-in.a; $build"),
    ("a damaged archive", "truncate -s -60 built-in.a; printf %060d 0 >> built-in.a; $build"),
    ("a regular archive", "rm built-in.a; $AR cr built-in.a init/main.o; $build"),
    ("a member that is gone", "rm kernel/b.o; $build"),
    (
        "a member outside the tree",
        "cp kernel/b.o ../b.o; rm built-in.a; $AR rcST built-in.a ../b.o; $build",
    ),
    ("an archive of another name", "cp lib/lib.a lib/w.o; rm built-in.a lib/lib.a
      $AR cDPrST built-in.a init/main.o; $AR cDPrST lib/lib.a kernel/a.o; mv lib/w.o kernel/a.o; $build"),
    ("no source tree", "srctree=../elsewhere $build"),
    ("bitcode cut short", "truncate -s 2000 kernel/a.o; $build"),
    ("no bitcode", "$AR cDPrST native.a kernel/head.o; $K build native.a"),
    (
        "an architecture without ThinLTO",
        "mkdir -p ../src/arch/s390; echo config S390 > ../src/arch/s390/Kconfig; \
         $AR cDPrST native.a kernel/head.o; srctree=../src ARCH=s390 $K build native.a",
    ),
    // What the front end recorded.
    ("no record", "again; rm kernel/.a.o.cmd; $build"),
    ("an empty record", "again; : > kernel/.a.o.cmd; $build"),
    (
        "a record of another object",
        "again; echo 'savedcmd_kernel/a.o := clang -c -o b.o b.c' > kernel/.a.o.cmd; $build",
    ),
    (
        "a record with an open quote",
        "again; echo \"savedcmd_kernel/a.o := clang 'x -c -o kernel/a.o a.c\" > kernel/.a.o.cmd; $build",
    ),
    (
        "a record with a shell's expansion",
        "again; echo 'savedcmd_kernel/a.o := clang $$(x) -c -o kernel/a.o a.c' > kernel/.a.o.cmd; $build",
    ),
    (
        "a record of a link",
        "again; echo 'savedcmd_kernel/a.o := ld -r -o kernel/a.o x.o' > kernel/.a.o.cmd; $build",
    ),
    // Compilers and linkers.
    ("a compiler that is not there", "CC=clang-none $build"),
    ("another compiler", "script gcc 'echo gcc 12.2.0'; CC=$PWD/../gcc $build"),
    ("an old compiler", "script cc 'echo clang version 14.0.6'; CC=$PWD/../cc $build"),
    ("a compiler that is no program", "CC=/etc/passwd $build"),
    ("a compiler with an open quote", "CC=\"clang 'x\" $build"),
    (
        "a compiler behind a wrapper that does not tell",
        r#"script cc "case \"\$*\" in *-###*) exit;; esac; exec $CC \"\$@\""; CC=$PWD/../cc $build"#,
    ),
    (
        "a compiler that is replaced while it runs",
        "cc 'mv ../cc ../cc.old; cp ../cc.old ../cc; echo >> ../cc; cp kernel/head.o $out'; $build",
    ),
    (
        "a compiler in another root",
        r#"script chroot "exec $CC \"\$@\""; CC=$PWD/../chroot $build; rm ../chroot"#,
    ),
    ("a linker that is not there", "LD=ld-none $build"),
    (
        "a linker behind a name that is put together",
        r#"script ld "a=${LD%?}; exec \"\${a}${LD#"${LD%?}"}\" \"\$@\""; LD=$PWD/../ld $build"#,
    ),
    ("another linker", "script ld 'echo GNU ld 2.40'; LD=$PWD/../ld $build"),
    ("a linker that fails", "ld 'exit 3'; $build"),
    ("a linker with a message", "ld 'echo ld.lld: error: oh >&2; exit 1'; $build"),
    ("a linker that is killed", "ld 'kill -KILL $$'; $build"),
    ("a linker that does nothing", "ld ''; $build"),
    ("an index of another object", "THEN='echo .kthinlto/link/0/objects/x.o >> vmlinux.thinlto-index'; $LINK_THEN; $build"),
    ("an empty index", "THEN=': > objects/lib/w5.o.thinlto.bc'; $LINK_THEN; $build"),
    ("no index", "THEN='rm objects/lib/w5.o.thinlto.bc'; $LINK_THEN; $build"),
    ("an object that changes during the link", "THEN='echo >> ../../../kernel/a.o'; $LINK_THEN; $build"),
    (
        "an object of another architecture",
        "printf '\\267' | dd of=kernel/head.o bs=1 seek=18 conv=notrunc status=none; $build",
    ),
    ("a backend that fails", "cc 'exit 7'; $build"),
    ("a backend with a message", "cc 'echo error: oh >&2; exit 1'; $build"),
    ("a backend on a full disk", "cc 'echo x: No space left on device >&2; exit 1'; $build"),
    ("a backend that is killed", "cc 'kill -KILL $$'; $build"),
    ("a backend that crashes", "cc 'ulimit -c 0; kill -SEGV $$'; $build"),
    ("a backend that leaves nothing", "cc ''; $build"),
    ("a backend that leaves an empty file", "cc ': > $out'; $build"),
    ("a backend that leaves some text", "cc 'echo hello > $out'; $build"),
    ("a backend that leaves half an object", "cc 'head -c 100 kernel/head.o > $out'; $build"),
    ("an object that changes during a backend", "cc 'cp kernel/head.o $out; echo >> kernel/config_data.gz'; $build"),
    // The run itself.
    ("another run", "flock .kthinlto/lock $build"),
    ("an interrupt", "cc 'kill -INT $PPID; sleep 60'; $build"),
    ("a state that is damaged", "truncate -s -3 .kthinlto/state; $build"),
    ("a state of another version", "echo kthinlto 999 > .kthinlto/state; $build"),
    ("a file in the place of a folder", "rm -r .kthinlto; : > .kthinlto; $build"),
    ("a link in the place of a folder", "rm -r .kthinlto; ln -s .. .kthinlto; $build"),
    ("a pipe in the place of an object", "rm kernel/b.o; mkfifo kernel/b.o; $build"),
    ("a pipe in the place of the state", "rm .kthinlto/state; mkfifo .kthinlto/state; $K explain kernel/a.o"),
    ("a member named as an option", ": > -o.o; rm built-in.a; $AR cDPrST built-in.a ./-o.o; $build"),
    ("flags and a command", "again; sed -i '/^saved_c_flags/s/$/; touch x/' kernel/.a.o.cmd; $build"),
    ("a dry run with another compiler", "$build -n --cc 'clang -O1' >/dev/null"),
    ("a jobserver that is closed", "MAKEFLAGS='-j2 --jobserver-auth=77,78' $build"),
    ("a dry run before a thin link", "echo >> kernel/head.o; $build -n >/dev/null"),
    ("a cache that is no folder", "again; : > ../cache; KTHINLTO_CACHE_DIR=../cache $build"),
    ("a cache that others may write", "again; mkdir -m 777 ../cache; KTHINLTO_CACHE_DIR=../cache $build"),
    ("an entry that others may write", "export KTHINLTO_CACHE_DIR=../cache; again; $build; chmod 666 ../cache/v2/*/*; again; $build 2>&1 >/dev/null | sed 's,v2/.* can,v2/ENTRY can,' >&2"),
    ("a folder that is no cache", "mkdir -p ../cache/v1; : > ../cache/v1/x; $K cache clear --cache-dir ../cache"),
    ("a cache that is only to be read", "mkdir ../cache; KTHINLTO_CACHE_READONLY=yes $K cache clear --cache-dir ../cache"),
    // verify.
    (
        "a compiler that makes other bytes each time",
        "cc 'cp kernel/head.o $out; date +%N >> $out'; $build; $K verify lib/w1.o",
    ),
    // explain.
    ("a tree that kthinlto did not build", "rm -r .kthinlto; $K explain kernel/a.o"),
    ("an object with a typing error", "$K explain kernel/sub/deap.o"),
    ("an object in another folder", "$K explain mm/alone.c"),
    ("an object like several", "$K explain lib/w9"),
    ("an object like no other", "$K explain drivers/net/ethernet/realtek/r8169_main.o"),
    // patch.
    ("no kernel", "$K patch ."),
    ("another Makefile", "mkdir ../kernel; echo all: > ../kernel/Makefile; $K patch ../kernel"),
    ("a kernel with no series", "kernel 5 4; $K patch ../kernel"),
    ("a kernel that lacks a file", "kernel 7 3; $K patch ../kernel"),
    ("a version that is no number", "kernel 7 x; $K patch ../kernel"),
    // symvers.
    ("a tree with no configuration", "$K symvers"),
    ("no vmlinux.o", "symvers; rm vmlinux.o; $K symvers"),
    ("a vmlinux.o that is no object", "symvers; echo x > vmlinux.o; $K symvers"),
    ("no list of objects", "symvers; rm .vmlinux.objs; $K symvers"),
    ("a list of something else", "symvers; echo a.c > .vmlinux.objs; $K symvers"),
    ("an object with no record", "symvers; echo kernel/x.o > .vmlinux.objs; $K symvers"),
    ("no modules", "symvers; $K symvers --modules"),
    ("nothing to check", "symvers; $K symvers --check"),
    ("a symvers file that is damaged", "symvers; echo x > vmlinux.symvers; $K symvers --check"),
    (
        "a symbol that no object exports",
        "symvers; printf '0x00000001\\tx\\tvmlinux\\tEXPORT_SYMBOL\\t\\n' > vmlinux.symvers; $K symvers --check",
    ),
    // initcalls. An initcall that cannot be ordered is tested in `initcalls`.
    ("nothing to take initcalls from", "rm vmlinux.a; $K initcalls"),
    ("no initcall", "$K initcalls built-in.a lib/lib.a"),
    ("a member that is no object", "echo hello > kernel/b.o; $K initcalls built-in.a"),
    ("a member cut short", "truncate -s -70 kernel/head.o; $K initcalls built-in.a"),
    ("bitcode with initcalls cut short", "truncate -s 2000 kernel/a.o; $K initcalls built-in.a"),
    // Loadable modules.
    ("no list of modules", "$K modules"),
    ("a part that is missing", "module; rm fs/a.o; $K modules"),
    ("a module without a part", "module; : >fs/m.mod; $K modules"),
    ("a module without a record", "module; rm fs/.m.o.cmd; $K modules"),
    ("a module that another linker links", "module; LD=other $K modules"),
    ("a module that is named twice", "module; echo fs/m.o >>modules.order; $K modules"),
    ("a module whose link is not understood", "module; sed -i 's/$/ ; strip x/' fs/.m.o.cmd; $K modules"),
    ("a module that objtool refuses", "module; sed -i 's|$| ; : false fs/m.o|' fs/.m.o.cmd; $K modules -j1"),
    ("a name that is no module's", "module; echo fs/m >>modules.order; $K modules"),
];

/// The same for the cases of relink: `conf EXPRESSION` edits the configuration, and `btf` adds BTF to it.
const RELINK_PRELUDE: &str = r#"
unset CC LD KBUILD_LDFLAGS
export KBUILD_BUILD_VERSION=1 KBUILD_BUILD_TIMESTAMP=today PIDS=$PWD/../pids PAHOLE=./pahole
relink="$K relink -j1"
conf() { sed -i "$1" include/config/auto.conf; }
btf() { printf '%s\n' CONFIG_DEBUG_INFO_BTF=y CONFIG_PAHOLE_VERSION=124 >> include/config/auto.conf; }
in_sources() { (cd ../src && cp -a "$1" ../kept && eval "$2"); $relink; code=$?; rm -rf "../src/$1"; mv ../kept "../src/$1"; exit $code; }
"#;

/// What goes wrong in a relink.
const RELINK_CASES: &[(&str, &str)] = &[
    ("no configuration", "rm include/config/auto.conf; $relink"),
    ("another compiler", "conf s/CC_IS_CLANG/CC_IS_GCC/; $relink"),
    ("no LTO", "conf /LTO/d; $relink"),
    ("full LTO", "conf s/THIN_DIST/FULL/; $relink"),
    ("an object before the link", "conf '$aCONFIG_ARCH_WANTS_PRE_LINK_VMLINUX=y'; $relink"),
    ("user-mode Linux", "conf '$aCONFIG_UML=y'; $relink"),
    ("a tree that was never built", "rm built-in.a .vmlinux.unstripped.cmd; $relink"),
    ("a tree that is half built", "rm .vmlinux.unstripped.cmd; $relink"),
    (
        "a record of something else",
        "echo 'savedcmd_vmlinux.unstripped := true' > .vmlinux.unstripped.cmd; $relink",
    ),
    (
        "a layout that is not known",
        "echo 'savedcmd_vmlinux := cp vmlinux.o $@' > .vmlinux.cmd; $relink",
    ),
    ("another init/Makefile", "in_sources init/Makefile 'echo obj-y := main.o > init/Makefile'"),
    ("a record with no command", ": > init/.version-timestamp.o.cmd; $relink"),
    ("sources that were moved", "in_sources scripts/link-vmlinux.sh 'rm scripts/link-vmlinux.sh'"),
    ("no objtool", "rm tools/objtool/objtool; $relink"),
    ("an object newer than its record", "touch -d '+1 hour' lib/w1.o; $relink"),
    ("a step that is none", "$relink --until vmlinux.x"),
    ("a step that fails", ": > fail-objtool; $relink"),
    ("a step that makes nothing", "echo '#!/bin/sh' > scripts/mod/modpost; $relink"),
    ("no pahole", "btf; PAHOLE=pahole-none $relink"),
    ("a pahole without a version", "btf; echo '#!/bin/sh' > pahole; $relink"),
    ("another pahole", "btf; sed -i s/v1.24/v1.30/ pahole; $relink"),
    ("no resolve_btfids", "btf; rm tools/bpf/resolve_btfids/resolve_btfids; $relink"),
    (
        "a makefile with an error",
        "btf; in_sources scripts/Makefile.btf \"echo '\\$(error oh)' >> scripts/Makefile.btf\"",
    ),
];

#[test]
fn each_sentence_of_relink_is_as_it_was() {
    let built = Built::new();
    let conf = std::fs::read(built.path("include/config/auto.conf")).unwrap();
    built.add_btf();
    std::fs::write(built.path("include/config/auto.conf"), conf).unwrap();
    built.tree.shell("mv ../obj ../built");
    let mut all = String::new();
    for (name, script) in RELINK_CASES {
        let out = run(&built.tree, "", &format!("{RELINK_PRELUDE}\n{script}"));
        let code = out.status.code().unwrap();
        let said = plain(&built.tree, &text(&out.stderr));
        assert!(!said.is_empty(), "{name}: it says nothing (exit code {code})");
        write!(all, "# {name}: {code}\n{said}\n").unwrap();
    }
    insta::assert_snapshot!("relink", all);
}

#[test]
fn each_sentence_is_as_it_was() {
    let tree = Tree::new();
    let cc = tree.compiler("copy", "cp kernel/head.o $out");
    let mut first = tree.kthinlto();
    first.env("CC", &cc);
    good(first);
    tree.shell("mv ../obj ../built");
    let mut all = String::new();
    for (name, script) in CASES {
        let out = run(&tree, &cc, script);
        let code = out.status.code().unwrap();
        let said = plain(&tree, &text(&out.stderr));
        assert!(!said.is_empty(), "{name}: it says nothing (exit code {code})");
        write!(all, "# {name}: {code}\n{said}\n").unwrap();
    }
    insta::assert_snapshot!("errors", all);
}

fn run(tree: &Tree, cc: &str, script: &str) -> std::process::Output {
    // The folder of each case is new, and what it made beside it is gone.
    let place = tree.objects.display();
    let fresh = Command::new("sh")
        .args([
            "-ec",
            &format!("cd {place}/..; rm -rf obj kernel cache cc ld gcc b.o; cp -a built obj"),
        ])
        .status();
    assert!(fresh.is_ok_and(|status| status.success()) || tree.objects.is_dir());
    let mut command = tree.command(Path::new("sh"));
    let whole = format!("{PRELUDE}\n{}", script.replace("$LINK_THEN", LINK_THEN));
    command
        .args(["-c", &whole])
        .env("K", env!("CARGO_BIN_EXE_kthinlto"))
        .env("AR", tool("llvm-ar"))
        .env("CC", cc)
        .env_remove("KTHINLTO_CACHE_DIR")
        .env_remove("KTHINLTO_LOG");
    heed_signals();
    command.output().unwrap()
}

/// What is the same on all machines.
fn plain(tree: &Tree, said: &str) -> String {
    let place = tree.dir().to_string_lossy().into_owned();
    let said = said.replace(&place, "TREE").replace("/obj/../", "/");
    let said = said.replace(&tool("ld.lld"), "ld.lld");
    said.lines().map(|line| without_numbers(line) + "\n").collect()
}

/// Numbers that another process, another run or another LLVM has differ, and so does the backend
/// that comes first: the one that took longest the last time.
fn without_numbers(line: &str) -> String {
    if let Some((before, after)) = line.split_once("the backend of ") {
        let after = after.split_once(' ').map_or("", |(_object, after)| after);
        return format!("{before}the backend of OBJECT {after}");
    }
    for start in ["(process ", "(its last ", "can't skip to bit "] {
        if let Some((before, after)) = line.split_once(start) {
            let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
            let after = if start.starts_with("can't") { "" } else { after };
            return format!("{before}{start}N{after}");
        }
    }
    line.to_owned()
}

/// What the system can answer, which no test can bring about everywhere.
#[test]
fn each_answer_of_the_system_has_a_remedy() {
    let answers = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::ACCESS, Errno::MFILE, Errno::IO];
    let said = answers.map(|errno| {
        let source = io::Error::from_raw_os_error(errno.raw_os_error());
        Error::io("write", "kernel/.a.thinlto-native.o.cmd", source).to_string() + "\n"
    });
    assert!(said.iter().all(|line| line.matches("; ").count() == 1), "{said:?}");
    insta::assert_snapshot!("system", said.concat());
}
