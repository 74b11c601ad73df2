//! Recognizes an object tree that was built once, and reads from its records what a relink
//! needs: sources, tools, commands, archives. What is missing is one sentence that says so.
//! Must not know the steps.
//!
//! Records: the `.cmd` files that `scripts/Makefile.vmlinux_o`, `Makefile.modpost` and
//! `Makefile.vmlinux` leave, Linux 6.1 to 7.3.

use std::path::{Path, PathBuf};

use super::command::{program, raw_words};
use super::version;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::kbuild::auto_conf::{self, AutoConf};
use crate::kbuild::cmd_file::{self, CmdFile};
use crate::regular;
use crate::store::Store;
use crate::toolchain;

/// Scripts whose place tells where the sources are.
const SCRIPTS: [&str; 2] = ["scripts/generate_initcall_order.pl", "scripts/link-vmlinux.sh"];
/// The header that takes the configuration in.
const TAKES_CONFIGURATION: &str = "include/linux/kconfig.h";
/// The configuration as a header.
const CONFIGURATION: &str = "include/generated/autoconf.h";
/// What vmlinux is made from, where it is not linked itself.
const UNSTRIPPED: &str = "vmlinux.unstripped";
/// What to do about a tree that was not built to the end.
const BUILD: &str = "build it once with `make vmlinux`";

/// How vmlinux was linked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkCommand {
    /// `LD`.
    pub linker: String,
    /// `KBUILD_LDFLAGS`.
    pub flags: String,
    /// `LDFLAGS_vmlinux`.
    pub vmlinux_flags: String,
    /// The architecture's pass after the link, as a command, if there is one.
    pub post_link: Option<String>,
}

/// An object tree that can be relinked.
#[derive(Debug)]
pub struct Tree {
    /// The folder.
    pub folder: PathBuf,
    /// The configuration.
    pub conf: AutoConf,
    /// The source tree as kbuild named it, seen from the folder.
    pub sources: PathBuf,
    /// `SRCARCH`.
    pub arch: String,
    /// The final link.
    pub link: LinkCommand,
    /// What the final link makes: `vmlinux` (Linux 6.12), or `vmlinux.unstripped` (7.3).
    pub linked: &'static str,
    /// `CC`.
    pub compiler: String,
    /// `OBJCOPY`.
    pub objcopy: String,
    /// `NM`.
    pub nm: String,
    /// `PAHOLE`.
    pub pahole: String,
    /// The archives of vmlinux.
    pub archives: Vec<PathBuf>,
    /// Nothing is run, not even to ask for something: the tree is only looked at.
    pub is_look: bool,
}

impl Tree {
    /// `OBJDUMP`, which a pass after the link may run, and no record names.
    pub fn objdump(&self) -> String {
        self.objcopy.replace("objcopy", "objdump")
    }

    /// Recognizes the tree in `folder`. `nm` is the program to use where its records do not tell,
    /// and `pahole` one that they never do.
    pub fn recognize(folder: &Path, nm: Option<&str>, pahole: &str) -> Result<Self> {
        let conf = AutoConf::read(folder)?;
        check_mode(&conf)?;
        let initcalls = recorded(folder, ".tmp_initcalls.lds")?;
        let linked = linked(folder)?;
        let link = recorded(folder, linked)?;
        let sources = sources(folder, &[&initcalls, &link])?;
        let timestamp = recorded(folder, version::OBJECT)?;
        let objcopy = program(&recorded(folder, "modules.builtin.modinfo")?);
        let objcopy = objcopy.split_whitespace().next().unwrap_or_default().to_owned();
        let nm = match nm {
            Some(nm) => nm.to_owned(),
            None => sibling(&objcopy)?,
        };
        Ok(Tree {
            arch: arch(&timestamp)
                .ok_or_else(|| unlike(version::OBJECT, "no -I…/arch/…/include"))?,
            link: link_command(&link)
                .ok_or_else(|| unlike(linked, "a command that does not call link-vmlinux.sh"))?,
            archives: archives(folder)?,
            compiler: compiler(&timestamp),
            folder: folder.to_path_buf(),
            conf,
            sources,
            linked,
            objcopy,
            nm,
            pahole: pahole.to_owned(),
            is_look: false,
        })
    }

    /// The command that make recorded for a target.
    pub fn command(&self, target: &str) -> Result<String> {
        recorded(&self.folder, target)
    }

    /// Whether make recorded a command for a target.
    pub fn has_command(&self, target: &str) -> bool {
        self.folder.join(cmd_file::path_for(Path::new(target))).is_file()
    }

    /// The files that a target was made from besides its source, as make recorded them, and the
    /// header with the configuration: kbuild's fixdep records the options that are named in its place.
    pub fn dependencies(&self, target: &str) -> Vec<String> {
        let path = self.folder.join(cmd_file::path_for(Path::new(target)));
        let text = regular::read_to_string(&path).unwrap_or_default();
        let mut files = cmd_file::dependencies(&text);
        if files.iter().any(|file| file.ends_with(TAKES_CONFIGURATION)) {
            files.push(CONFIGURATION.to_owned());
        }
        files
    }

    /// A file of the sources, as seen from the object tree.
    pub fn source(&self, name: &str) -> String {
        match self.sources == Path::new(".") {
            true => name.to_owned(),
            false => self.sources.join(name).to_string_lossy().into_owned(),
        }
    }

    /// The text of a file of the sources.
    pub fn read_source(&self, name: &str) -> Result<String> {
        read_source(&self.folder, &self.sources, name)
    }

    /// Fails where a program that the records name is not there any more.
    pub fn check_tools(&self, environment: &Environment) -> Result<()> {
        let tools = [
            ("CC", &self.compiler),
            ("LD", &self.link.linker),
            ("OBJCOPY", &self.objcopy),
            ("NM", &self.nm),
        ];
        let is_lost =
            |(_, command): &(_, &String)| !toolchain::is_there(command, &self.folder, environment);
        match tools.into_iter().find(is_lost) {
            None => Ok(()),
            Some((role, command)) => {
                let found = "there is no such program, by which the tree was built".to_owned();
                Err(Error::ToolMissing { role, command: command.clone(), found })
            }
        }
    }

    /// Fails where a program that the kernel builds for its own use is not there.
    pub fn check_host_tool(&self, name: &str) -> Result<()> {
        if self.folder.join(name).is_file() {
            return Ok(());
        }
        let found = "there is no such program, which the link of vmlinux runs";
        Err(Error::bad_input(name, found, "build it with `make prepare`"))
    }
}

fn check_mode(conf: &AutoConf) -> Result<()> {
    let unfit = |found: &str, remedy: &str| Err(Error::bad_input(auto_conf::PATH, found, remedy));
    let select = "select CONFIG_LTO_CLANG_THIN_DIST or CONFIG_LTO_CLANG_THIN, and build with \
                  `make LLVM=1`";
    if !conf.is_on("CONFIG_CC_IS_CLANG") {
        return unfit("the kernel is configured for a compiler other than clang", select);
    }
    if conf.is_on("CONFIG_LTO_CLANG_FULL") {
        return unfit("CONFIG_LTO_CLANG_FULL, which has no thin link", select);
    }
    if !conf.is_on("CONFIG_LTO_CLANG") {
        return unfit("a kernel without LTO, which only make links", select);
    }
    if conf.is_on("CONFIG_ARCH_WANTS_PRE_LINK_VMLINUX") {
        let found = "CONFIG_ARCH_WANTS_PRE_LINK_VMLINUX, whose object only make can build";
        return unfit(found, "link this kernel with `make vmlinux`");
    }
    Ok(())
}

/// The command on record for a target; its absence is a tree that was not built to the end.
fn recorded(folder: &Path, target: &str) -> Result<String> {
    let record = cmd_file::path_for(Path::new(target));
    let path = folder.join(&record);
    if !path.is_file() {
        let found = match folder.join("built-in.a").is_file() {
            true => format!("there is no record of how {target} was made: the tree is half built"),
            false => format!(
                "there is no record of how {target} was made: the tree was never built, or was cleaned"
            ),
        };
        return Err(Error::bad_input(&record, found, BUILD));
    }
    let file = CmdFile::read(&path).map_err(|e| Error::io("read", &record, e))?;
    file.command.ok_or_else(|| unlike(target, "no command"))
}

fn unlike(target: &str, found: &str) -> Error {
    let record = cmd_file::path_for(Path::new(target));
    let remedy = format!("remove it and run `make vmlinux`, to have {target} made again");
    Error::bad_input(record, found, remedy)
}

/// What the script links: `vmlinux` itself, or what that is made from. That differs by version and,
/// from 6.15 to 6.17, by configuration; the record of `vmlinux` tells.
fn linked(folder: &Path) -> Result<&'static str> {
    let command = recorded(folder, "vmlinux")?;
    let takes_unstripped = || raw_words(&command).iter().any(|word| word.ends_with(UNSTRIPPED));
    if link_command(&command).is_some() {
        return Ok("vmlinux");
    }
    if takes_unstripped() {
        return Ok(UNSTRIPPED);
    }
    let found = format!(
        "a vmlinux that is made neither by link-vmlinux.sh nor from {UNSTRIPPED}: kthinlto does not \
         know how this kernel is linked"
    );
    let record = cmd_file::path_for(Path::new("vmlinux"));
    Err(Error::bad_input(record, found, "link it with `make vmlinux`"))
}

/// Where the sources are, as these commands name them: that of `.tmp_initcalls.lds`, unless kthinlto
/// itself made it for make, and that of the link.
fn sources(folder: &Path, commands: &[&str]) -> Result<PathBuf> {
    let words = commands.iter().flat_map(|command| raw_words(command));
    let found = words.filter_map(|word| SCRIPTS.iter().find_map(|name| word.strip_suffix(name)));
    let missing = || unlike(".tmp_initcalls.lds", "a command that runs no kernel script");
    let place = match found.map(|place| place.trim_start_matches(['"', '\''])).next() {
        Some(place) => place,
        None => return Err(missing()),
    };
    let place = match place.trim_end_matches('/') {
        "" => Path::new("."),
        place => Path::new(place),
    };
    if !folder.join(place).join("scripts/link-vmlinux.sh").is_file() {
        let found = "no kernel sources are there, although the tree was built from them";
        let remedy =
            "if the sources or the tree were moved, run `make vmlinux` once where they are now";
        return Err(Error::bad_input(place, found, remedy));
    }
    Ok(place.to_path_buf())
}

fn read_source(folder: &Path, sources: &Path, name: &str) -> Result<String> {
    let path = folder.join(sources).join(name);
    regular::read_to_string(&path).map_err(|e| Error::io("read", &path, e))
}

/// `CC` with its own options, as text: what stands before kbuild's flags.
fn compiler(command: &str) -> String {
    let words = raw_words(command);
    words[..cmd_file::compiler_words(&words)].join(" ")
}

/// `SRCARCH`, from the first folder of headers.
fn arch(command: &str) -> Option<String> {
    raw_words(command).into_iter().find_map(|word| {
        let place = word.strip_prefix("-I")?.strip_suffix("/include")?;
        let (before, arch) = place.rsplit_once('/')?;
        (before == "arch" || before.ends_with("/arch")).then(|| arch.to_owned())
    })
}

/// `link-vmlinux.sh "LD" "KBUILD_LDFLAGS" "LDFLAGS_vmlinux" ["TARGET"]; POST-LINK`.
fn link_command(text: &str) -> Option<LinkCommand> {
    let (link, after) = text.split_once(';')?;
    let words = shell_words::split(link).ok()?;
    let [script, linker, flags, vmlinux_flags, ..] = words.as_slice() else {
        return None;
    };
    let post_link = Some(after.trim()).filter(|after| !matches!(*after, "" | "true"));
    script.ends_with("link-vmlinux.sh").then(|| LinkCommand {
        linker: linker.clone(),
        flags: flags.clone(),
        vmlinux_flags: vmlinux_flags.clone(),
        post_link: post_link.map(str::to_owned),
    })
}

/// `llvm-objcopy-22` → `llvm-nm-22`, as `make LLVM=-22` names them.
fn sibling(objcopy: &str) -> Result<String> {
    if !objcopy.contains("llvm-objcopy") {
        let text =
            format!("the tree was built with OBJCOPY={objcopy}; name the nm beside it: NM=nm");
        return Err(Error::Usage(text));
    }
    Ok(objcopy.replace("llvm-objcopy", "llvm-nm"))
}

/// The archives: from the record of `vmlinux.a`, which is ours after a stage of our own, or of
/// `built-in-fixup.a` (Linux 7.2 and later); else from the last stage that we ran.
fn archives(folder: &Path) -> Result<Vec<PathBuf>> {
    for target in ["vmlinux.a", "built-in-fixup.a"] {
        let command = recorded(folder, target).unwrap_or_default();
        if let Some(named) = named_archives(&command) {
            return Ok(named);
        }
    }
    // A stage of an older kthinlto left a record without them.
    match Store::peek(folder)?.settings() {
        Some(last) if !last.archives.is_empty() => {
            Ok(last.archives.iter().map(PathBuf::from).collect())
        }
        _ => Err(unlike("vmlinux.a", "no list of the archives that it is made from")),
    }
}

/// `rm -f OUT; ar cDPrST OUT ARCHIVE…; ar mPi …`, where backports have `cDPrS --thin`, or
/// `kthinlto build ARCHIVE… # …`.
fn named_archives(command: &str) -> Option<Vec<PathBuf>> {
    let words = raw_words(command);
    let (from, end) = match words.iter().position(|word| word.starts_with("cDPrS")) {
        // The next command begins with the same program.
        Some(at) => {
            let options = words[at + 1..].iter().take_while(|word| word.starts_with("--")).count();
            (at + 2 + options, *words.get(at.checked_sub(1)?)?)
        }
        None if words.starts_with(&["kthinlto", "build"]) => (2, "#"),
        None => return None,
    };
    let named = words.get(from..)?.iter().take_while(|word| **word != end);
    Some(named.map(PathBuf::from).collect()).filter(|named: &Vec<PathBuf>| !named.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_read_in_both_ages() {
        let new = "/s/scripts/link-vmlinux.sh \"ld.lld-22\" \"-m elf_x86_64 -z x\" \"-z y\" \"vmlinux.unstripped\";  true";
        let link = link_command(new).unwrap();
        assert_eq!((link.linker.as_str(), link.vmlinux_flags.as_str()), ("ld.lld-22", "-z y"));
        assert_eq!((link.flags.as_str(), link.post_link), ("-m elf_x86_64 -z x", None));
        let old = "scripts/link-vmlinux.sh \"ld.lld\" \"-m e\" \"-z y\";  make -f ./arch/x86/Makefile.postlink vmlinux";
        let link = link_command(old).unwrap();
        assert_eq!(link.post_link.unwrap(), "make -f ./arch/x86/Makefile.postlink vmlinux");
        assert_eq!(link_command("ld -o vmlinux; true"), None);
    }

    #[test]
    fn archives_are_read_from_all_records() {
        let named = |text: &str| {
            let named = named_archives(text).unwrap_or_default();
            named.iter().map(|path| path.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let new = "rm -f built-in-fixup.a; llvm-ar-22 cDPrST built-in-fixup.a built-in.a  lib/lib.a; llvm-ar-22 mPi $(llvm-ar-22 t x) x";
        assert_eq!(named(new), ["built-in.a", "lib/lib.a"]);
        assert_eq!(named("rm -f vmlinux.a;  ar cDPrST vmlinux.a  ./built-in.a"), ["./built-in.a"]);
        let backport =
            "rm -f vmlinux.a; llvm-ar cDPrS --thin vmlinux.a built-in.a lib/lib.a; llvm-ar mPi $x";
        assert_eq!(named(backport), ["built-in.a", "lib/lib.a"]);
        assert_eq!(named("cat list | xargs llvm-ar cDPrS --thin vmlinux.a"), Vec::<String>::new());
        assert_eq!(named("kthinlto build a.a b.a # vmlinux.a of native objects"), ["a.a", "b.a"]);
        assert_eq!(named("kthinlto build # vmlinux.a of native objects"), Vec::<String>::new());
        assert_eq!(named("cp built-in-fixup.a vmlinux.a"), Vec::<String>::new());
    }

    #[test]
    fn the_compiler_has_its_own_options() {
        let of_make = "ccache clang-22 -mllvm '-x=a b' -Wp,-MMD,init/.v.o.d -nostdinc -c";
        assert_eq!(compiler(of_make), "ccache clang-22 -mllvm '-x=a b'");
        assert_eq!(compiler("clang-22 -O2 -c"), "clang-22");
    }

    #[test]
    fn the_architecture_is_the_one_of_the_headers() {
        let arch = |text| arch(text);
        assert_eq!(
            arch("cc -nostdinc -I/s/arch/x86/include -I./arch/x86/include/generated").unwrap(),
            "x86"
        );
        assert_eq!(arch("cc -I./arch/arm64/include -c").unwrap(), "arm64");
        assert_eq!(arch("cc -I./include -c"), None);
    }
}
