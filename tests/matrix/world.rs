//! A tree with each kind of input for each reader, and what a run of relink did in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::built::{self, Built, RESULTS, steps};
use crate::common::{LDFLAGS, assert_same, good, tool};
use crate::rows::*;

/// A built tree where each kind of input is.
pub struct World {
    pub built: Built,
    /// Flags of the thin link beyond those of all trees.
    pub flags: String,
    pub environment: Vec<(String, String)>,
}

/// What ran: backends, the thin link, steps in any order.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub backends: usize,
    pub thin_link: bool,
    pub steps: Vec<String>,
}

impl World {
    pub fn new() -> Self {
        let mut world =
            World { built: Built::new(), flags: String::new(), environment: Vec::new() };
        world.add_tools();
        world.add_files();
        world.add_flags();
        world.built.write_records();
        let record = "..vmlinux.export.o.cmd";
        let text = fs::read_to_string(world.built.path(record)).unwrap();
        world.write(record, &format!("{text}\ndeps_.vmlinux.export.o := \\\n  export.h \\\n"));
        world
    }

    pub fn write(&self, name: &str, text: &str) {
        self.built.tree.write_object(name, text);
    }

    pub fn source(&self, name: &str, text: &str) {
        fs::write(self.built.tree.sources.join(name), text).unwrap();
        self.built.tree.shell(&format!("chmod +x {}/{name}", self.built.tree.srctree()));
    }

    /// Puts a script in the place of a program, which it runs with these options.
    pub fn program(&self, name: &str, options: &str) -> String {
        let real = match name {
            "cc" => tool("clang"),
            "ld" => tool("ld.lld"),
            name if name.starts_with("llvm") => tool(name),
            name => name.to_owned(),
        };
        self.built.tree.script(&format!("bin/{name}"), &format!("exec {real} {options} \"$@\""))
    }

    fn add_tools(&mut self) {
        let [cc, ld, objcopy, nm] =
            ["cc", "ld", "llvm-objcopy", "llvm-nm"].map(|name| self.program(name, ""));
        self.built.words = built::Words { cc, ld, objcopy, nm };
        let awk = self.program("awk", "");
        let ranges = format!(
            "{awk} -f {}/scripts/ranges.awk {BUILTIN} > {RANGES}",
            self.built.tree.srctree()
        );
        self.built.more.push((RANGES, ranges));
        for name in ["tr", "sed"] {
            let to = format!("{} ", self.program(name, ""));
            let from = if name == "tr" { "tr " } else { "sed " };
            self.edit(BUILTIN, from, &to);
        }
    }

    fn add_files(&mut self) {
        self.source("scripts/check-function-names.sh", "#!/bin/sh\n$NM $1 >/dev/null\n");
        self.source("scripts/ranges.awk", "{ print \"0-1\", $0 }\n");
        let conf = fs::read_to_string(self.built.path("include/config/auto.conf")).unwrap();
        self.write("include/config/auto.conf", &format!("{conf}CONFIG_BUILTIN_MODULE_RANGES=y\n"));
        for (name, text) in [
            ("list.txt", "!f\n"),
            ("lto.txt", "head\n"),
            ("order.txt", "head\nworker1\n"),
            ("final.txt", "head\nworker1\n"),
            ("used.txt", "shared\n"),
            ("export.cfg", "-fno-ident\n"),
            ("stamp.cfg", "-fno-ident\n"),
            ("export.h", "\n"),
            ("strip.txt", "worker1\n"),
            ("keep.txt", "worker1\n"),
        ] {
            self.write(name, text);
        }
        for module in ["lib/w1", "lib/w2"] {
            self.built.tree.compile(module, "-fbasic-block-sections=list=list.txt");
        }
        self.built.tree.archive();
        self.stub("1");
        self.built.tree.shell(&format!("{} cDPrST stub/lib.a stub/x.o", tool("llvm-ar")));
    }

    fn add_flags(&mut self) {
        self.edit(INITCALLS, ".pl vmlinux.a", ".pl vmlinux.a stub/lib.a");
        self.edit(OBJECT, "--start-group", "-u stub --start-group stub/lib.a");
        self.edit(
            OBJECT,
            " -r ",
            " -r --symbol-ordering-file=order.txt --no-warn-symbol-ordering ",
        );
        self.edit(MODPOST, "-M -m", "-M -m -i used.txt");
        self.edit(EXPORT, " -O2 ", " -O2 --config=./export.cfg -include export.h ");
        self.edit("init/version-timestamp.o", " -O2 ", " -O2 --config=./stamp.cfg ");
        self.thin_link_flags("--symbol-ordering-file=lto.txt --no-warn-symbol-ordering");
        self.edit(LINK, "--build-id=sha1", "--build-id=sha1 --retain-symbols-file=final.txt");
        self.edit(VMLINUX, "section=.modinfo", "section=.modinfo --strip-symbols=strip.txt");
        self.edit(MODINFO, "-j .modinfo", "-j .modinfo --keep-symbols=keep.txt");
    }

    /// Changes a command, and its record.
    fn edit(&mut self, target: &'static str, from: &str, to: &str) {
        self.built.edits.push((target, from.to_owned(), to.to_owned()));
    }

    /// The same in a tree that was built.
    pub fn edit_record(&mut self, target: &'static str, from: &str, to: &str) {
        self.edit(target, from, to);
        let place = match target.rsplit_once('/') {
            Some((folder, base)) => format!("{folder}/.{base}.cmd"),
            None => format!(".{target}.cmd"),
        };
        let text = fs::read_to_string(self.built.path(&place)).unwrap();
        assert!(text.contains(from), "no `{from}` in {text}");
        self.write(&place, &text.replace(from, to));
    }

    /// `KBUILD_LDFLAGS`, which the record of the last link has.
    fn thin_link_flags(&mut self, more: &str) {
        self.edit(LINK, LDFLAGS, &format!("{LDFLAGS} {more}"));
        self.flags += &format!(" {more}");
    }

    /// Adds to the words of CC in all records.
    pub fn words_of_cc(&mut self, more: &str) {
        let was = self.built.words.cc.clone();
        self.built.words.cc += &format!(" {more}");
        for place in ["..vmlinux.export.o.cmd", "init/.version-timestamp.o.cmd"] {
            let text = fs::read_to_string(self.built.path(place)).unwrap();
            self.write(place, &text.replace(&was, &self.built.words.cc));
        }
    }

    /// Sets a variable for all that is run from here on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub fn stub(&self, value: &str) {
        self.write("stub/x.S", &format!(".globl stub\nstub: .long {value}\n"));
        let cc = tool("clang");
        self.built.tree.shell(&format!("{cc} --target=x86_64-linux-gnu -c -o stub/x.o stub/x.S"));
    }

    pub fn head(&self, from: &str, to: &str) {
        let text = built::HEAD.replace(from, to);
        fs::write(self.built.tree.sources.join("kernel/head.S"), text).unwrap();
        self.built.tree.shell(&format!(
            "{} --target=x86_64-linux-gnu -c -o kernel/head.o {}/kernel/head.S",
            tool("clang"),
            self.built.tree.srctree()
        ));
    }

    pub fn run(&self) -> Ran {
        let mut command = self.built.relink(&[]);
        command.envs(self.environment.iter().cloned());
        let out = good(command);
        let line = out.lines().find(|line| line.contains(" modules: ")).unwrap_or_default();
        let before = line[..line.find(" rebuilt").unwrap_or(0)].trim();
        let mut steps: Vec<String> = steps(&out)
            .iter()
            .map(|line| line.split_once(' ').map_or("", |(_, name)| name).to_owned())
            .collect();
        steps.sort();
        Ran {
            backends: before
                .rsplit(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap_or_else(|_| panic!("{out}")),
            thin_link: out.contains(" vmlinux.thinlto-index"),
            steps,
        }
    }

    /// All is what mainline's and the recorded commands make.
    pub fn is_as_from_clean(&self, ran: &Ran) {
        if ran.thin_link || ran.backends > 0 {
            let set = |(name, value): &(String, String)| format!("{name}='{value}' ");
            let environment: String = self.environment.iter().map(set).collect();
            let words = &self.built.words;
            let cc = format!("env {environment}{}", words.cc);
            let want = self.built.tree.mainline_with(&cc, &format!("{}{}", words.ld, self.flags));
            assert_same(&self.built.tree.outputs(), &want);
        }
        let by_hand = self.built.copy_by_hand(&self.environment);
        let read = |folder: &Path| -> BTreeMap<String, Vec<u8>> {
            let names = RESULTS.iter().chain(&[MODINFO, RANGES, "init/version-timestamp.o"]);
            names.map(|name| ((*name).to_owned(), fs::read(folder.join(name)).unwrap())).collect()
        };
        assert_same(&read(&self.built.tree.objects), &read(by_hand.path()));
    }
}
