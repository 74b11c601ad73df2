//! `kthinlto relink --compile` on a small tree with the records that kbuild leaves: objects and records are
//! those that kbuild's rule makes by hand, only what changed is compiled, and what only make can follow is
//! said before anything is touched.

#![cfg(feature = "program")]

#[path = "common/built.rs"]
mod built;
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use built::{Built, steps};
use common::{assert_holds, assert_same, fails, good, tool};

/// As `scripts/basic/fixdep`, without the options of the configuration.
const FIXDEP: &str = r#"#!/bin/sh
printf 'savedcmd_%s := %s\n\n' "$2" "$3"
set -- "$2" $(sed 's/^[^:]*://; s/\\$//' "$1")
printf 'source_%s := %s\n\ndeps_%s := \\\n' "$1" "$2" "$1"
target=$1; shift 2
[ $# = 0 ] || printf '  %s \\\n' "$@"
printf '\n%s: $(deps_%s)\n\n$(deps_%s):\n' "$target" "$target" "$target"
"#;
/// Versions that depend on all of the preprocessed source.
const GENKSYMS: &str =
    "#!/bin/sh\nprintf '#SYMVER exported 0x%08x\\n' $(cksum | cut -d ' ' -f 1)\n";
const FLAGS: &str = "--target=x86_64-linux-gnu -O2 -fno-PIE -fno-lto -flto=thin -fsplit-lto-unit \
                     -fvisibility=hidden";
/// Objects of C sources that tests edit.
const OBJECTS: [&str; 4] = ["lib/w1", "lib/w2", "lib/w3", "kernel/a"];

struct Edited {
    built: Built,
}

impl Edited {
    /// A tree of which all records are those of kbuild's rule, and which was relinked.
    fn new() -> Self {
        let built = Built::new();
        for (name, text) in
            [("scripts/basic/fixdep", FIXDEP), ("scripts/genksyms/genksyms", GENKSYMS)]
        {
            built.tree.write_object(name, text);
            built.tree.shell(&format!("chmod +x {name}"));
        }
        built.tree.write_object(".config", "CONFIG_A=y\n");
        let edited = Edited { built };
        edited.source("include/shared.h", "#define SHARED 1\n");
        edited.source("include/bounds.h", "#define BOUND 5\n");
        edited.source("kernel/Makefile", "obj-y += a.o\n");
        edited.source("kernel/bounds.c", "#include <bounds.h>\nint bound = BOUND;\n");
        for (number, name) in OBJECTS.iter().enumerate().take(2) {
            let export = if number == 1 { "int __export_symbol_w;\n" } else { "" };
            let text = format!(
                "#include <shared.h>\n{export}int shared(int);\nint worker{}(int x) {{ return shared(x + SHARED); }}\n",
                number + 1
            );
            edited.source(&format!("{name}.c"), &text);
        }
        for name in common::sources().keys() {
            edited.by_hand(&edited.built.tree.objects, name);
        }
        edited.record_of_head();
        edited.built.tree.shell(&edited.bounds());
        edited.built.tree.archive();
        edited.made();
        good(edited.built.relink(&[]));
        edited
    }

    fn source(&self, name: &str, text: &str) {
        let path = self.built.tree.sources.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What make leaves at the end of a run over the whole tree.
    fn made(&self) {
        self.built.tree.shell("mkdir -p include/generated; touch include/generated");
        let mut build = self.built.tree.bare(&["build", "built-in.a", "lib/lib.a"]);
        build.env("MAKELEVEL", "2");
        good(build);
    }

    fn record_of_head(&self) {
        let src = self.built.tree.srctree();
        let command = format!(
            "{} -Wp,-MMD,kernel/.head.o.d --target=x86_64-linux-gnu -c -o kernel/head.o {src}/kernel/head.S",
            tool("clang")
        );
        self.built.tree.shell(&rule("kernel/head", &command, ""));
    }

    fn bounds(&self) -> String {
        let src = self.built.tree.srctree();
        let command = format!(
            "{} -Wp,-MMD,kernel/.bounds.s.d {FLAGS} -fno-lto -I{src}/include -S -o kernel/bounds.s {src}/kernel/bounds.c",
            tool("clang")
        );
        rule("kernel/bounds.s", &command, "")
    }

    /// kbuild's rule for an object, as commands of a shell in the object tree or a copy of it.
    fn by_hand(&self, folder: &Path, name: &str) {
        let src = self.built.tree.srctree();
        let (dir, base) = name.rsplit_once('/').unwrap();
        let (cc, source) = (tool("clang"), format!("{src}/{name}.c"));
        let flags = format!("{FLAGS} -DKBUILD_MODFILE='\"{name}\"'");
        let all = format!("-Wp,-MMD,{dir}/.{base}.o.d -nostdinc -I{src}/include {flags}");
        let saved = format!(
            "printf '\\n%s\\n' {} >> {dir}/.{base}.o.cmd",
            shell_words::quote(&format!("saved_c_flags_{name}.o := {flags}"))
        );
        let versions = format!(
            "if {} {name}.o | grep -q ' __export_symbol_'; then {cc} -E -D__GENKSYMS__ {all} {source} | \
             scripts/genksyms/genksyms >> {dir}/.{base}.o.cmd; fi",
            tool("llvm-nm")
        );
        let command = format!("{cc} {all} -c -o {name}.o {source}  ");
        let script = rule(name, &command, &format!("{saved}; {versions}"));
        let done = Command::new("sh").args(["-ec", &script]).current_dir(folder).status().unwrap();
        assert!(done.success(), "{script}");
    }

    fn compile(&self, more: &[&str]) -> Command {
        self.built.relink(&[&["--compile"], more].concat())
    }

    /// The objects that a run compiled.
    fn compiled(&self) -> Vec<String> {
        let out = good(self.compile(&[]));
        let front = out.lines().take_while(|line| !line.contains("THINLTO"));
        let verbs = ["CC", "AS"];
        let words = front.map(|line| line.split_whitespace().collect::<Vec<_>>());
        words
            .filter(|words| verbs.contains(&words[0]) && !words[1].contains("thinlto-native"))
            .map(|words| words[1].to_owned())
            .collect()
    }

    /// All objects with their records, and what was linked.
    fn all(&self, folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut all = built::read_all(folder);
        for name in common::sources().keys() {
            let (dir, base) = name.rsplit_once('/').unwrap();
            for file in [format!("{name}.o"), format!("{dir}/.{base}.o.cmd")] {
                all.insert(file.clone(), fs::read(folder.join(&file)).unwrap());
            }
        }
        all
    }

    /// All is as it is in a copy where these were compiled by hand, and which was then relinked.
    fn assert_as_by_hand(&self, names: &[&str]) {
        let copy = tempfile::tempdir().unwrap();
        self.built.tree.shell(&format!("cp -a . {}/", copy.path().display()));
        names.iter().for_each(|name| self.by_hand(copy.path(), name));
        let mut relink = self.built.relink(&[]);
        relink.current_dir(copy.path());
        good(relink);
        assert_same(&self.all(&self.built.tree.objects), &self.all(copy.path()));
        let left = "find . -name 'relink.*' -o -name '.*.d'";
        assert_eq!(self.built.tree.shell(left).replace("./kernel/sub/", ""), "");
    }
}

/// `cmd_and_fixdep`, and what follows it.
fn rule(target: &str, command: &str, after: &str) -> String {
    let object = if target.ends_with(".s") { target.to_owned() } else { format!("{target}.o") };
    let (dir, base) = object.rsplit_once('/').unwrap();
    let escaped = command.replace('$', "$$").replace('#', "$(pound)");
    let (listed, depfile) = (format!("{dir}/.{base}.cmd"), format!("{dir}/.{base}.d"));
    format!(
        "{command}; scripts/basic/fixdep {depfile} {object} {} > {listed}; rm -f {depfile}; {after}\nrm -f {depfile}",
        shell_words::quote(&escaped)
    )
}

#[test]
fn what_has_other_contents_is_compiled_as_by_hand_and_nothing_else() {
    let edited = Edited::new();
    assert_eq!(edited.compiled(), Vec::<String>::new());
    edited.source("lib/w3.c", "int shared(int);\nint worker3(int x) { return shared(x + 70); }\n");
    assert_eq!(edited.compiled(), ["lib/w3.o"]);
    edited.assert_as_by_hand(&["lib/w3"]);
    assert_eq!(edited.compiled(), Vec::<String>::new());
    edited.source("include/shared.h", "#define SHARED 2\n");
    assert_eq!(edited.compiled(), ["lib/w1.o", "lib/w2.o"]);
    edited.assert_as_by_hand(&["lib/w1", "lib/w2"]);
    let record = fs::read_to_string(edited.built.path("lib/.w2.o.cmd")).unwrap();
    assert_eq!(record.matches("#SYMVER exported").count(), 1, "{record}");
    assert_holds(&record, &["saved_c_flags_lib/w2.o := ", "/include/shared.h"]);
}

#[test]
fn a_touch_is_no_change_and_an_older_file_with_other_contents_is_one() {
    let edited = Edited::new();
    edited.compiled();
    let shared = edited.built.tree.sources.join("include/shared.h");
    edited.built.tree.shell(&format!("touch {}", shared.display()));
    assert_eq!(edited.compiled(), Vec::<String>::new());
    edited.source("include/shared.h", "#define SHARED 3\n");
    edited.built.tree.shell(&format!("touch -d '1 day ago' {}", shared.display()));
    assert_eq!(edited.compiled(), ["lib/w1.o", "lib/w2.o"], "make would not have seen it");
    edited.assert_as_by_hand(&["lib/w1", "lib/w2"]);
}

#[test]
fn what_make_compiled_since_is_judged_by_its_times() {
    let edited = Edited::new();
    edited.compiled();
    edited.source("include/shared.h", "#define SHARED 4\n");
    edited.by_hand(&edited.built.tree.objects, "lib/w1");
    assert_eq!(edited.compiled(), ["lib/w2.o"]);
    edited.assert_as_by_hand(&["lib/w1", "lib/w2"]);
    // Without what was known, times decide.
    fs::remove_file(edited.built.path(".kthinlto/compiled")).unwrap();
    assert_eq!(edited.compiled(), Vec::<String>::new());
    fs::remove_file(edited.built.path(".kthinlto/compiled")).unwrap();
    let source = edited.built.tree.sources.join("lib/w3.c");
    edited.built.tree.shell(&format!("touch {}", source.display()));
    assert_eq!(edited.compiled(), ["lib/w3.o"]);
}

#[test]
fn ten_random_edits_end_as_by_hand() {
    let edited = Edited::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for number in 0..10 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let which = (state % 4) as usize;
        match which {
            3 => edited.source("include/shared.h", &format!("#define SHARED {number}\n")),
            _ => {
                let name = OBJECTS[which + usize::from(which == 1)];
                let function =
                    if name == "kernel/a" { "shared" } else { &format!("worker{}", &name[5..]) };
                edited.source(
                    &format!("{name}.c"),
                    &format!("#include <shared.h>\nint {function}(int x) {{ return x * {number} + SHARED; }}\n"),
                );
            }
        }
        assert!(!edited.compiled().is_empty(), "edit {number} of {which}");
        edited.assert_as_by_hand(&["lib/w1", "lib/w2", "lib/w3", "kernel/a"]);
    }
}

#[test]
fn a_failure_keeps_all_as_it_was_and_is_tried_again() {
    let edited = Edited::new();
    edited.compiled();
    let before = edited.all(&edited.built.tree.objects);
    edited.source("lib/w3.c", "an error;\n");
    fails(edited.compile(&[]), 1, &["relinking stopped at lib/w3.o: its command exited with 1"]);
    assert_same(&edited.all(&edited.built.tree.objects), &before);
    fails(edited.compile(&[]), 1, &["relinking stopped at lib/w3.o"]);
    // The text that it was made from, and yet it is not known to be right: one compile too many.
    edited.source("lib/w3.c", "int shared(int);\nint worker3(int x) { return shared(x + 9); }\n");
    assert_eq!(edited.compiled(), ["lib/w3.o"]);
    edited.assert_as_by_hand(&["lib/w3"]);
    // make removes an object that it could not compile.
    fs::remove_file(edited.built.path("lib/w3.o")).unwrap();
    assert_eq!(edited.compiled(), ["lib/w3.o"]);
    edited.assert_as_by_hand(&["lib/w3"]);
}

#[test]
fn what_is_made_aside_has_to_come_out_as_it_is() {
    let edited = Edited::new();
    edited.compiled();
    let before = fs::metadata(edited.built.path("kernel/bounds.s")).unwrap().modified().unwrap();
    edited.source("include/bounds.h", "#define BOUND (4 + 1)\n");
    assert_eq!(edited.compiled(), Vec::<String>::new());
    let after = fs::metadata(edited.built.path("kernel/bounds.s")).unwrap().modified().unwrap();
    assert_eq!(before, after);
    edited.source("include/bounds.h", "#define BOUND 6\n");
    edited.source("lib/w3.c", "int worker3(int x) { return x; }\n");
    let object = fs::read(edited.built.path("lib/w3.o")).unwrap();
    let pieces =
        ["kernel/bounds.s: it would be another one", "include/bounds.h changed", "make vmlinux"];
    fails(edited.compile(&[]), 3, &pieces);
    assert_eq!(fs::read(edited.built.path("lib/w3.o")).unwrap(), object, "nothing is touched");
    edited.built.tree.shell(&edited.bounds()); // as make does
    assert_eq!(edited.compiled(), ["lib/w3.o"]);
}

#[test]
fn what_only_make_can_follow_is_said_and_nothing_is_touched() {
    let edited = Edited::new();
    edited.compiled();
    let tree = &edited.built.tree;
    let makefile = tree.sources.join("kernel/Makefile");
    let configuration = edited.built.path(".config");
    let fixdep = edited.built.path("scripts/basic/fixdep");
    let added = tree.sources.join("kernel/Kconfig");
    for path in [&makefile, &configuration, &fixdep, &added] {
        let before = fs::read(path).ok();
        let text = [before.clone().unwrap_or_default(), b"# other\n".to_vec()].concat();
        fs::write(path, text).unwrap();
        edited.source("lib/w3.c", "int worker3(int x) { return x + 1; }\n");
        tree.shell("touch ../now");
        let name = path.file_name().unwrap().to_str().unwrap();
        fails(
            edited.compile(&[]),
            3,
            &[name, "it changed after make had made", "run `make vmlinux`"],
        );
        assert_eq!(tree.shell("find . -newer ../now -type f ! -path './.kthinlto/*'"), "");
        match before {
            Some(before) => fs::write(path, before).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let compiled = edited.compiled();
        assert!(
            compiled.is_empty() || compiled == ["lib/w3.o"],
            "{name} is as it was: {compiled:?}"
        );
    }
    // What make has seen is no reason any more.
    fs::write(&makefile, "obj-y += a.o # other\n").unwrap();
    fails(edited.compile(&[]), 3, &["kernel/Makefile"]);
    edited.made();
    assert_eq!(edited.compiled(), Vec::<String>::new());
    fs::remove_file(&makefile).unwrap();
    fails(edited.compile(&[]), 3, &["kernel/Makefile"]);
    edited.made();
    assert_eq!(edited.compiled(), Vec::<String>::new());
}

#[test]
fn removed_files_and_objects_of_other_rules_are_left_to_make() {
    let edited = Edited::new();
    edited.compiled();
    let tree = &edited.built.tree;
    let source = tree.sources.join("lib/w3.c");
    let text = fs::read_to_string(&source).unwrap();
    fs::remove_file(&source).unwrap();
    fails(edited.compile(&[]), 3, &["lib/w3.c: it is not there any more", "make vmlinux"]);
    fs::write(&source, &text).unwrap();
    let record = fs::read(edited.built.path("lib/.w2.o.cmd")).unwrap();
    fs::remove_file(edited.built.path("lib/.w2.o.cmd")).unwrap();
    fails(edited.compile(&[]), 3, &["lib/w2.o: there is no record of how it was made"]);
    fs::write(edited.built.path("lib/.w2.o.cmd"), record).unwrap();
    tree.write_object("lib/.w3.pi.o.cmd", "savedcmd_lib/w3.pi.o := objcopy lib/w3.o lib/w3.pi.o\n");
    edited.made();
    fs::write(&source, "int worker3(int x) { return x + 5; }\n").unwrap();
    fails(edited.compile(&[]), 3, &["lib/w3.o: make makes lib/w3.pi.o of it"]);
}

#[test]
fn a_dry_run_says_what_would_be_compiled_and_why() {
    let edited = Edited::new();
    edited.compiled();
    edited.source("include/shared.h", "#define SHARED 5\n");
    let out = good(edited.compile(&["-n", "-vv"]));
    assert_holds(
        &out,
        &["# CC      lib/w1.o - due to file", "include/shared.h", "# CC      lib/w2.o"],
    );
    assert!(!out.contains("vmlinux.o"), "{out}");
    let ran = steps(&good(edited.compile(&[])));
    assert_holds(&ran.join("\n"), &["LD vmlinux.o", "LD vmlinux.unstripped"]);
}
