//! Type information (BTF) of vmlinux and of modules: what the scripts that make it from debug information are
//! given by kbuild's makefiles, and which no record holds. make is asked for it, with the kernel's
//! own rule and the configuration as all that it reads. Must not know how either is linked.
//!
//! Rules: `scripts/Makefile.btf`, Linux 6.12 to 7.3, and `scripts/pahole-flags.sh` in 6.1; `cmd_btf_ko`
//! of `scripts/Makefile.modfinal`.

use std::path::Path;

use super::command::{program, raw_words};
use super::tree::Tree;
use super::version;
use crate::error::{Error, Result, describe_status};
use crate::exec::helper::Helper;
use crate::kbuild::auto_conf;

/// Whether vmlinux gets it.
const OPTION: &str = "CONFIG_DEBUG_INFO_BTF";
/// Whether modules get it, which is based on that of vmlinux.
const OF_MODULES: &str = "CONFIG_DEBUG_INFO_BTF_MODULES";
/// Whose types those of modules refer to.
const BASE: &str = "vmlinux";
/// The variable of the shell that holds the module's file.
pub const MODULE: &str = "module";
/// The version of pahole that the kernel was configured for, as 124 for 1.24.
const VERSION: &str = "CONFIG_PAHOLE_VERSION";
/// The program that resolves what `.BTF_ids` names.
pub const RESOLVE: &str = "tools/bpf/resolve_btfids/resolve_btfids";
/// Runs pahole, in later kernels; in earlier ones the script of the final link does.
const SCRIPT: &str = "scripts/gen-btf.sh";
/// The rule for the flags, a makefile.
const RULE: &str = "scripts/Makefile.btf";
/// The same in older kernels, a script.
const OLD_RULE: &str = "scripts/pahole-flags.sh";
/// The variable of the shell that holds how many threads a step may run.
pub const THREADS: &str = "threads";

/// Whether vmlinux of this tree gets BTF.
pub fn is_on(tree: &Tree) -> bool {
    tree.conf.is_on(OPTION)
}

/// Fails where a program for it is not there, or pahole is another than the kernel is configured for.
pub fn check(tree: &Tree) -> Result<()> {
    if !is_on(tree) {
        return Ok(());
    }
    tree.check_host_tool(RESOLVE)?;
    if tree.is_look {
        return Ok(()); // pahole would have to be run
    }
    let found = pahole_version(tree)?;
    match tree.conf.text(VERSION) {
        Some(configured) if configured != found => Err(Error::bad_input(
            auto_conf::PATH,
            format!("configured for pahole {configured}, but `{}` is {found}", tree.pahole),
            "name the other one with PAHOLE=, or run `make olddefconfig` and `make vmlinux`",
        )),
        _ => Ok(()),
    }
}

/// Whether modules of this tree get BTF.
pub fn is_on_for_modules(tree: &Tree) -> bool {
    tree.conf.is_on(OF_MODULES)
}

/// The same as [`check`], for modules.
pub fn check_for_modules(tree: &Tree) -> Result<()> {
    if !is_on_for_modules(tree) {
        return Ok(());
    }
    if !tree.folder.join(BASE).is_file() {
        let found = "there is no such file, to which the type information (BTF) of modules refers";
        return Err(Error::bad_input(BASE, found, "link it with `kthinlto relink` or make"));
    }
    check(tree)
}

/// Files that it reads for a module.
pub fn inputs_of_modules(tree: &Tree) -> Vec<String> {
    inputs(tree).into_iter().chain([BASE.to_owned()]).collect()
}

/// The command that adds it to a linked module, as a shell runs it in the tree; the variable [`MODULE`]
/// is the module's file.
pub fn module_command(tree: &Tree) -> Result<String> {
    let flags = match tree.is_look {
        true => Default::default(), // see `variables`
        false => flags(tree)?,
    };
    let [pahole_flags, resolve_flags] = flags;
    let quote = |text: &str| shell_words::quote(text).into_owned();
    let (pahole, objcopy) = (from_anywhere(tree)?, quote(&tree.objcopy));
    let script = tree.source(SCRIPT);
    if !tree.folder.join(&script).is_file() {
        // Linux 6.12 and earlier.
        let flags = without_threads(&pahole_flags);
        return Ok(format!(
            "LLVM_OBJCOPY={objcopy} {pahole} -J {flags} --btf_base {BASE} \"${MODULE}\"; \
             ./{RESOLVE} -b {BASE} \"${MODULE}\""
        ));
    }
    let (pahole, resolve_flags) = (quote(&pahole), quote(&resolve_flags));
    let pahole_flags = quote(&without_threads(&pahole_flags));
    Ok(format!(
        "objtree=. KBUILD_VERBOSE= OBJCOPY={objcopy} PAHOLE={pahole} PAHOLE_FLAGS={pahole_flags} \
         RESOLVE_BTFIDS=./{RESOLVE} RESOLVE_BTFIDS_FLAGS={resolve_flags} \
         sh {} --btf_base ./{BASE} \"${MODULE}\"",
        quote(&script)
    ))
}

/// Files of the sources that the final link reads for it.
pub fn inputs(tree: &Tree) -> Vec<String> {
    let rules = [SCRIPT, RULE, OLD_RULE].into_iter().map(|name| tree.source(name));
    rules.filter(|name| tree.folder.join(name).is_file()).collect()
}

/// Variables that the scripts read, with their values as a shell reads them. How many threads
/// pahole runs is left to the variable [`THREADS`].
pub fn variables(tree: &Tree) -> Result<Vec<(&'static str, String)>> {
    if tree.is_look {
        return Ok(Vec::new()); // make, and the kernel's makefile in it, would have to be run
    }
    let [pahole_flags, resolve_flags] = flags(tree)?;
    let quote = |text: &str| shell_words::quote(text).into_owned();
    Ok(vec![
        ("PAHOLE", quote(&from_anywhere(tree)?)),
        ("PAHOLE_FLAGS", with_threads(&pahole_flags)),
        ("RESOLVE_BTFIDS", quote(&format!("./{RESOLVE}"))),
        ("RESOLVE_BTFIDS_FLAGS", quote(&resolve_flags)),
        ("CLANG_FLAGS", String::new()),
        ("KBUILD_CFLAGS", quote(&machine_flags(&tree.command(version::OBJECT)?))),
    ])
}

/// `PAHOLE_FLAGS` and `RESOLVE_BTFIDS_FLAGS`.
fn flags(tree: &Tree) -> Result<[String; 2]> {
    match tree.folder.join(tree.source(RULE)).is_file() {
        true => ask_make(tree),
        false => Ok([ask_script(tree)?, String::new()]),
    }
}

/// pahole as the script can call it, which runs in another folder than make does.
fn from_anywhere(tree: &Tree) -> Result<String> {
    let words = tree.pahole.split_once(char::is_whitespace);
    let (program, options) = words.unwrap_or((&tree.pahole, ""));
    if !program.contains('/') {
        return Ok(tree.pahole.clone());
    }
    let program = tree.folder.join(program);
    let program = std::path::absolute(&program).map_err(|e| Error::io("resolve", &program, e))?;
    Ok(format!("{} {options}", program.display()).trim_end().to_owned())
}

/// `-j`, with or without a number, is as many as there are slots.
fn with_threads(flags: &str) -> String {
    let (threads, others): (Vec<&str>, Vec<&str>) =
        flags.split_whitespace().partition(|word| word.starts_with("-j"));
    let others = shell_words::quote(&others.join(" ")).into_owned();
    match threads.is_empty() {
        true => others,
        false => format!("{others}\" -j${THREADS}\""),
    }
}

/// Modules are made side by side, each on one thread.
fn without_threads(flags: &str) -> String {
    let one = |word| if str::starts_with(word, "-j") { "-j1" } else { word };
    flags.split_whitespace().map(one).collect::<Vec<_>>().join(" ")
}

/// What decides which machine an empty object is for: the options of a C compiler that take
/// their value with them, less those that name files and macros, or check the source.
fn machine_flags(compile: &str) -> String {
    let words = raw_words(&compile[program(compile).len()..]);
    let kept = words.into_iter().filter(|word| {
        ["-m", "-f", "--target=", "-G"].iter().any(|start| word.starts_with(start))
            && !word.contains("-map=")
    });
    kept.collect::<Vec<_>>().join(" ")
}

fn ask_make(tree: &Tree) -> Result<[String; 2]> {
    let sources = tree.source("");
    let sources = sources.trim_end_matches('/');
    let makefile = format!(
        "include {} $(srctree)/scripts/Kbuild.include $(srctree)/{RULE}\n\
         $(info $(strip $(PAHOLE_FLAGS)))\n$(info $(strip $(RESOLVE_BTFIDS_FLAGS)))\nall: ;\n",
        auto_conf::PATH
    );
    let sources = format!("srctree={sources}");
    let argv = ["make", "-s", "-r", "-R", "--no-print-directory", &sources];
    let argv = argv.into_iter().chain(["--eval", &makefile, "-f", "/dev/null"]);
    // Of make's own environment only this would be read.
    let names =
        ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEFILES", "KBUILD_EXTMOD", "KBUILD_VERBOSE"];
    let make = Helper::new(argv, &tree.folder);
    let make = names.into_iter().fold(make, Helper::env_remove);
    let text = output(tree, "make", &make, RULE)?;
    let mut lines = text.lines().map(|line| line.trim().to_owned());
    Ok([lines.next().unwrap_or_default(), lines.next().unwrap_or_default()])
}

fn ask_script(tree: &Tree) -> Result<String> {
    let script = Helper::new(["sh", &tree.source(OLD_RULE)], &tree.folder);
    let script = script.env("PAHOLE", &tree.pahole);
    Ok(output(tree, "sh", &script, OLD_RULE)?.trim().to_owned())
}

/// As `scripts/pahole-version.sh` prints it: 124 for `v1.24`.
fn pahole_version(tree: &Tree) -> Result<String> {
    let missing =
        |found: String| Error::ToolMissing { role: "PAHOLE", command: tree.pahole.clone(), found };
    let argv = tree.pahole.split_whitespace().chain(["--version"]);
    let asked = Helper::new(argv, &tree.folder).run();
    let asked = asked.map_err(|failure| failure.into_error(|e| missing(e.to_string())))?;
    let text = String::from_utf8_lossy(&asked.output);
    let first = text.lines().next().unwrap_or_default();
    let parsed = first.strip_prefix('v').map(|number| number.replacen('.', "", 1));
    parsed.ok_or_else(|| missing(format!("`--version` says `{first}`")))
}

/// Runs what tells the flags, in the tree; what it prints.
fn output(tree: &Tree, name: &str, program: &Helper, rule: &str) -> Result<String> {
    let fail = |why: String| {
        let found = format!("flags that `{name}` could not work out: {why}");
        let remedy = "link this kernel with `make vmlinux`";
        Error::bad_input(Path::new(&tree.source(rule)), found, remedy)
    };
    let asked = program.run();
    let asked = asked.map_err(|failure| failure.into_error(|error| fail(error.to_string())))?;
    if asked.status.success() {
        return Ok(String::from_utf8_lossy(&asked.output).into_owned());
    }
    let said = String::from_utf8_lossy(&asked.errors).trim().replace('\n', "; ");
    Err(fail(format!("it {}: {said}", describe_status(asked.status))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_the_steps_own() {
        assert_eq!(with_threads(""), "''");
        assert_eq!(with_threads("--lang_exclude=rust"), "'--lang_exclude=rust'");
        assert_eq!(with_threads("-j --btf_features=a,b"), "'--btf_features=a,b'\" -j$threads\"");
        assert_eq!(with_threads("-j8"), "''\" -j$threads\"");
    }

    #[test]
    fn only_the_machines_flags_are_kept() {
        let compile = "clang -Wp,-MMD,a.d -I./include -include x.h -D'a=\" -mno\"' --target=riscv64-linux-gnu \
                       -fmacro-prefix-map=../= -mabi=lp64 -O2 -Wall -fshort-wchar -c -o a.o a.c";
        assert_eq!(machine_flags(compile), "--target=riscv64-linux-gnu -mabi=lp64 -fshort-wchar");
    }
}
