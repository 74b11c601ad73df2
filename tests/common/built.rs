//! A tree that was built once, with the records and programs that kbuild leaves: what tests
//! of relink start from.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::{LDFLAGS, Tree, good, tool};

/// What a relink leaves.
pub const RESULTS: [&str; 10] = [
    ".tmp_initcalls.lds",
    ".vmlinux.objs",
    "vmlinux.o",
    "vmlinux.symvers",
    ".vmlinux.export.c",
    ".vmlinux.export.o",
    "vmlinux.unstripped",
    "System.map",
    "vmlinux",
    "modules.builtin",
];

/// Objects that need no front end: an initcall, and what names built-in modules.
pub const HEAD: &str = ".globl head\nhead: ret\n\
    .section \".initcall6.init..kmod_head__1_2_head6\",\"a\"\n\
    __initcall__kmod_head__1_2_head6: .long 0\n\
    .section .modinfo,\"a\"\n.asciz \"head.file=kernel/head\"\n";

/// A link of vmlinux in kbuild's shape: a first pass, a final one, and the map.
pub const LINK: &str = r#"#!/bin/sh
set -e
is_enabled() { grep -q "^$1=y" include/config/auto.conf; }
${MAKE} -f "${srctree}/scripts/Makefile.build" obj=init init/version-timestamp.o
[ ! -e "$PIDS.hold-link" ] || { echo half > "$4"; echo $$ $$ >> "$PIDS"; exec sleep 600; }
objs="vmlinux.o .vmlinux.export.o init/version-timestamp.o"
is_enabled CONFIG_KALLSYMS && scripts/kallsyms > .tmp_vmlinux0.kallsyms.S
${CC} ${KBUILD_AFLAGS} -c -o .tmp_vmlinux0.kallsyms.o .tmp_vmlinux0.kallsyms.S
echo "  LD      $4"
$1 $2 $3 -o "$4" --whole-archive ${objs} .tmp_vmlinux0.kallsyms.o
${NM} -n "$4" > System.map
echo "$4: $0" > ".$4.d"
"#;

/// Objtool and modpost, as far as it matters here: both write, and can be held or made to fail.
pub const OBJTOOL: &str = r#"#!/bin/sh
for out; do :; done
[ ! -e "$PIDS.hold-objtool" ] || { echo half > "$out"; echo $$ $$ >> "$PIDS"; exec sleep 600; }
[ ! -e fail-objtool ] || { echo "objtool: no good" >&2; exit 1; }
"#;
pub const MODPOST: &str = r#"#!/bin/sh
[ ! -e "$PIDS.hold-modpost" ] || { echo $$ $$ >> "$PIDS"; exec sleep 600; }
for word; do [ "$was" = -o ] && out=$word; was=$word; done
echo 'char exported[] = "shared";' > .vmlinux.export.c.new
cmp -s .vmlinux.export.c.new .vmlinux.export.c || cp .vmlinux.export.c.new .vmlinux.export.c
rm .vmlinux.export.c.new
grep -v "^$" .vmlinux.objs | sed 's/^/0x1 /' > "$out"
"#;

/// A tree that was built once, as its records say.
pub struct Built {
    /// The tree.
    pub tree: Tree,
    /// The words of the tools that its records name.
    pub words: Words,
    /// What stands otherwise in its records: target, text, and the text in its place.
    pub edits: Vec<(&'static str, String, String)>,
    /// Targets of larger kernels, with their commands.
    pub more: Vec<(&'static str, String)>,
}

/// `CC`, `LD`, `OBJCOPY` and `NM`.
pub struct Words {
    pub cc: String,
    pub ld: String,
    pub objcopy: String,
    pub nm: String,
}

impl Words {
    fn new() -> Self {
        let [cc, ld, objcopy, nm] = ["clang", "ld.lld", "llvm-objcopy", "llvm-nm"].map(tool);
        Words { cc, ld, objcopy, nm }
    }
}

impl Built {
    pub fn new() -> Self {
        Self::configured("CONFIG_LTO_CLANG_THIN_DIST=y\n")
    }

    pub fn configured(mode: &str) -> Self {
        let built =
            Built { tree: Tree::new(), words: Words::new(), edits: Vec::new(), more: Vec::new() };
        let conf = format!(
            "CONFIG_CC_IS_CLANG=y\nCONFIG_LTO_CLANG=y\n{mode}CONFIG_MODULES=y\n\
             CONFIG_MODVERSIONS=y\nCONFIG_SMP=y\nCONFIG_KALLSYMS=y\n"
        );
        built.tree.write_object("include/config/auto.conf", &conf);
        built.tree.write_object("include/generated/utsversion.h", "#define UTS_VERSION \"\"\n");
        built.tree.write_object("arch/x86/kernel/vmlinux.lds", "SECTIONS { }\n");
        built.write_sources();
        built.tree.shell(&format!(
            "{} --target=x86_64-linux-gnu -c -o kernel/head.o {}/kernel/head.S",
            tool("clang"),
            built.tree.srctree()
        ));
        built.tree.archive();
        built.write_records();
        built
    }

    pub fn write_sources(&self) {
        let source = |name: &str, text: &str| {
            let path = self.tree.sources.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        source("kernel/head.S", HEAD);
        source("init/version-timestamp.c", "const char linux_banner[] = UTS_VERSION;\n");
        source("init/Makefile", "smp-flag-$(CONFIG_SMP)\t:= SMP\n");
        source(
            "scripts/Makefile.vmlinux",
            "vmlinux: vmlinux.unstripped FORCE\nvmlinux.unstripped: x\n",
        );
        source("scripts/generate_initcall_order.pl", "die;\n");
        source("scripts/link-vmlinux.sh", LINK);
        self.tree.shell(&format!("chmod +x {}/scripts/link-vmlinux.sh", self.tree.srctree()));
        for (name, text) in [
            ("tools/objtool/objtool", OBJTOOL),
            ("scripts/mod/modpost", MODPOST),
            ("scripts/kallsyms", "#!/bin/sh\necho '.globl kallsyms; kallsyms: .long 1'\n"),
        ] {
            self.tree.write_object(name, text);
            self.tree.shell(&format!("chmod +x {name}"));
        }
    }

    /// The commands that kbuild would have run, by target.
    pub fn commands(&self) -> Vec<(&'static str, String)> {
        let mut commands = self.first_commands();
        commands.extend(self.more.iter().cloned());
        for (target, from, to) in &self.edits {
            let (_, text) = commands.iter_mut().find(|(name, _)| name == target).unwrap();
            assert!(text.contains(from), "no `{from}` in the command of {target}: {text}");
            *text = text.replace(from, to);
        }
        commands
    }

    fn first_commands(&self) -> Vec<(&'static str, String)> {
        let Words { cc, ld, objcopy, .. } = &self.words;
        let src = self.tree.srctree();
        let cflags = "--target=x86_64-linux-gnu -O2 -D'A=\"vmlinux.o\"'";
        vec![
            ("built-in-fixup.a", format!("rm -f built-in-fixup.a; {0} cDPrST built-in-fixup.a built-in.a  lib/lib.a; {0} mPi x", tool("llvm-ar"))),
            (".tmp_initcalls.lds", format!("python3 {src}/scripts/jobserver-exec perl {src}/scripts/generate_initcall_order.pl vmlinux.a > .tmp_initcalls.lds")),
            ("vmlinux.o", format!("{ld} {LDFLAGS} -r -o vmlinux.o  -T .tmp_initcalls.lds --whole-archive vmlinux.a --no-whole-archive --start-group  --end-group  ; ./tools/objtool/objtool --link vmlinux.o")),
            ("vmlinux.symvers", " ./scripts/mod/modpost -M -m    -o vmlinux.symvers vmlinux.o".to_owned()),
            (".vmlinux.export.o", format!("{cc} -Wp,-MMD,./..vmlinux.export.o.d {cflags} -c -o .vmlinux.export.o .vmlinux.export.c  ; {ld} {LDFLAGS} -r -o ./.tmp_.vmlinux.export.o .vmlinux.export.o; mv ./.tmp_.vmlinux.export.o .vmlinux.export.o  ; ./tools/objtool/objtool --link  .vmlinux.export.o")),
            ("init/version-timestamp.o", format!("{cc} -Wp,-MMD,init/.version-timestamp.o.d -nostdinc -I{src}/arch/x86/include {cflags} -include include/generated/utsversion.h -c -o init/version-timestamp.o {src}/init/version-timestamp.c")),
            ("vmlinux.unstripped", format!("{src}/scripts/link-vmlinux.sh \"{ld}\" \"{LDFLAGS}\" \"-z max-page-size=0x200000 --build-id=sha1 -e head\" \"vmlinux.unstripped\";  true")),
            ("vmlinux", format!("{objcopy} --set-section-flags .modinfo=noload vmlinux.unstripped vmlinux; {objcopy} --remove-section=.modinfo vmlinux")),
            ("modules.builtin.modinfo", format!("{objcopy}  -j .modinfo -O binary vmlinux.unstripped modules.builtin.modinfo")),
            ("modules.builtin", "tr '\\0' '\\n' < modules.builtin.modinfo | sed -n 's/^[[:alnum:]:_]*\\.file=//p' | sed -e 's:^:kernel/:' -e 's/$/.ko/' > modules.builtin".to_owned()),
        ]
    }

    pub fn write_records(&self) {
        for (target, command) in self.commands() {
            let (folder, base) = target.rsplit_once('/').map_or((".", target), |both| both);
            let text = command.replace('$', "$$").replace('#', "$(pound)");
            self.tree.write_object(
                &format!("{folder}/.{base}.cmd"),
                &format!("savedcmd_{target} := {text}\n"),
            );
        }
    }

    /// The command under test; what holds writes its number into the file `pids`.
    pub fn relink(&self, more: &[&str]) -> Command {
        let mut command = self.tree.bare(&["relink"]);
        command.args(more).args(["-j2"]).env("PIDS", self.pids());
        command.env_remove("CC").env_remove("LD").env_remove("KBUILD_LDFLAGS");
        command.env("KBUILD_BUILD_VERSION", "1").env("KBUILD_BUILD_TIMESTAMP", "today");
        command
    }

    pub fn pids(&self) -> PathBuf {
        self.tree.dir().join("pids")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.tree.objects.join(name)
    }

    /// Adds BTF to the configuration, and the files of the kernel that are for it. The link notes
    /// what it would run in the file `pids.btf`.
    pub fn add_btf(&self) {
        let source =
            |name: &str, text: &str| fs::write(self.tree.sources.join(name), text).unwrap();
        source("scripts/Kbuild.include", "test-ge = $(if $(filter 124,$1),y)\n");
        source(
            "scripts/Makefile.btf",
            "JOBS := $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS)))\n\
             flags-$(call test-ge,$(CONFIG_PAHOLE_VERSION)) += --lang_exclude=rust\n\
             ifeq ($(KBUILD_BUILD_TIMESTAMP),)\nflags-y += -j$(JOBS)\nendif\n\
             export PAHOLE_FLAGS := $(flags-y)\n\
             export RESOLVE_BTFIDS_FLAGS := $(if $(KBUILD_VERBOSE),--verbose) --fatal_warnings\n",
        );
        let note = "echo \"$PAHOLE $PAHOLE_FLAGS\" > $PIDS.btf\n$RESOLVE_BTFIDS $RESOLVE_BTFIDS_FLAGS $KBUILD_CFLAGS >> $PIDS.btf\n";
        source("scripts/link-vmlinux.sh", &LINK.replace("objs=", &format!("{note}objs=")));
        let resolve = "tools/bpf/resolve_btfids/resolve_btfids";
        self.tree.write_object(resolve, "#!/bin/sh\necho resolve \"$@\"\n");
        self.tree.write_object("pahole", "#!/bin/sh\necho v1.24\n");
        self.tree.shell(&format!("chmod +x {resolve} pahole"));
        let conf = fs::read_to_string(self.path("include/config/auto.conf")).unwrap();
        self.tree.write_object(
            "include/config/auto.conf",
            &format!("{conf}CONFIG_DEBUG_INFO_BTF=y\nCONFIG_PAHOLE_VERSION=124\n"),
        );
    }

    /// What the recorded commands make in a copy of the tree, one after the other.
    pub fn by_hand(&self) -> BTreeMap<String, Vec<u8>> {
        read_all(self.copy_by_hand(&[]).path())
    }

    /// A copy of the tree where the recorded commands ran one after the other, in this
    /// environment.
    pub fn copy_by_hand(&self, environment: &[(String, String)]) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        let ar = tool("llvm-ar");
        let mut script = format!(
            "cp -a {}/. .; rm -rf {}\necho '#define UTS_VERSION \"#1 SMP today\"' > include/generated/utsversion.h\n",
            self.tree.objects.display(),
            RESULTS.join(" ")
        );
        for (target, command) in self.commands() {
            match target {
                "built-in-fixup.a" => {} // the stage has tests of its own
                ".tmp_initcalls.lds" => {
                    let own = env!("CARGO_BIN_EXE_kthinlto");
                    let archives = command.split(".pl ").nth(1).unwrap();
                    let conf = fs::read_to_string(self.path("include/config/auto.conf")).unwrap();
                    let names = match conf.contains("CONFIG_LTO_CLANG_THIN_DIST=y") {
                        true => "cat",
                        false => "sed s/.thinlto-native.o/.o/",
                    };
                    script += &format!(
                        "{ar} t vmlinux.a | {names} > .vmlinux.objs\n{own} initcalls {archives}\n"
                    );
                }
                _ => script += &format!("{command}\n"),
            }
        }
        let mut command = Command::new("sh");
        command.args(["-ec", &script]).current_dir(copy.path()).env("PIDS", self.pids());
        command.env("CC", &self.words.cc).env("NM", &self.words.nm).env("MAKE", ":");
        command
            .env("KBUILD_AFLAGS", "--target=x86_64-linux-gnu")
            .env("KBUILD_LDS", "arch/x86/kernel/vmlinux.lds")
            .env("srctree", self.tree.srctree())
            .envs(environment.iter().cloned());
        good(command);
        copy
    }

    pub fn results(&self) -> BTreeMap<String, Vec<u8>> {
        read_all(&self.tree.objects)
    }

    pub fn assert_nothing_aside(&self) {
        assert_eq!(
            self.tree.shell("find . -name 'relink.*' -o -name '.tmp_*' ! -name .tmp_initcalls.lds"),
            ""
        );
    }
}

pub fn read_all(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: &&str| Some(((*name).to_owned(), fs::read(folder.join(name)).ok()?));
    RESULTS.iter().filter_map(read).collect()
}

/// The steps that a run printed, less those of the stage.
pub fn steps(out: &str) -> Vec<String> {
    let all = out.lines().skip_while(|line| !line.contains("THINLTO")).skip(1);
    all.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
