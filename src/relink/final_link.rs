//! The final link: kbuild's own `scripts/link-vmlinux.sh`, run in a folder of its own where the
//! tree's folders and objects are linked to. So the passes for kallsyms, and their checks,
//! are those of the kernel's version, and vmlinux in its place is the old one until they are done.
//! The first time our own, quicker passes (`crate::vmlinux`) follow, and if they make the same bytes,
//! they do it from then on, as long as script, programs, flags and configuration are the same.
//!
//! Environment: what `scripts/link-vmlinux.sh` reads, Linux 6.1 to 7.3.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::btf;
use super::command::{program, raw_words, retarget};
use super::planner::Planner;
use super::reads::{for_another_folder, named_by_flags, named_by_options, post_link};
use super::recipe::{Output, Prepare, Procedure, Proof, Step};
use super::tree::Tree;
use super::version::{self, HEADER, OBJECT};
use crate::error::{Error, Result};
use crate::inputs::{Kind, Label};
use crate::kbuild::auto_conf;
use crate::kbuild::cmd_file::{self, CmdFile};
use crate::regular;
use crate::store::{Digest, KeyBuilder};
use crate::unit::{INDEXED, ORDER};

/// The script.
const SCRIPT: &str = "scripts/link-vmlinux.sh";
/// Its folder below the scratch folder.
const FOLDER: &str = "link";
/// Folders of the object tree that the script looks into.
const FOLDERS: [&str; 4] = ["arch", "include", "scripts", "tools"];
/// Device trees that are part of the kernel.
const DEVICE_TREES: &str = ".builtin-dtbs.o";
/// Objects of the object tree that it may link.
const OBJECTS: [&str; 3] = ["vmlinux.o", ".vmlinux.export.o", DEVICE_TREES];
/// The file that says that our own passes made what the script made.
const PROVEN: &str = "proven";
/// The name under which that goes on record.
const RECORD: &str = "relink link-vmlinux";
/// The tables of kallsyms of the last link, below the store's folder.
const TABLES: &str = "kallsyms.o";

/// Whether the script links `.vmlinux.export.o`.
pub fn takes_exports(tree: &Tree) -> Result<bool> {
    // In Linux 7.3 it is linked without a condition, in 6.12 with modules only.
    let always = !tree.read_source(SCRIPT)?.contains("is_enabled CONFIG_MODULES");
    Ok(always || tree.conf.is_on("CONFIG_MODULES"))
}

/// Fails where the link cannot be known, or a program that the script runs is not there.
pub fn check(tree: &Tree) -> Result<()> {
    if tree.conf.is_on("CONFIG_UML") {
        let found =
            "CONFIG_UML: user-mode Linux, which the compiler links, by flags that are on no record";
        return Err(Error::bad_input(auto_conf::PATH, found, "link this kernel with `make linux`"));
    }
    let script = tree.read_source(SCRIPT)?;
    host_tools(tree, &script).iter().try_for_each(|tool| tree.check_host_tool(tool))?;
    btf::check(tree)
}

/// The step.
pub fn step(planner: &mut Planner<'_>) -> Result<Step> {
    let tree = planner.tree;
    let script = tree.read_source(SCRIPT)?;
    let mut host_tools = host_tools(tree, &script);
    let compile = tree.command(OBJECT)?;
    let mut inputs = vec![lds(tree), auto_conf::PATH.to_owned()];
    // One of them is made by this step, with what it is made of below.
    inputs.extend(objects(tree)?.into_iter().filter(|name| *name != OBJECT).map(str::to_owned));
    for flags in [&tree.link.flags, &tree.link.vmlinux_flags] {
        inputs.extend(named_by_flags(&planner.store.files, flags)?);
    }
    inputs.extend(tree.link.post_link.iter().flat_map(|pass| post_link(tree, pass)));
    inputs
        .extend([SCRIPT, "scripts/mksysmap", "scripts/file-size.sh"].map(|name| tree.source(name)));
    if btf::is_on(tree) {
        inputs.extend(btf::inputs(tree));
        host_tools.push(btf::RESOLVE.to_owned());
    }
    inputs.extend(planner.host_tools(host_tools)?);
    let named = named_by_options(&planner.store.files, &compile)?;
    let dependencies = tree.dependencies(OBJECT).into_iter().chain(named);
    inputs.extend(dependencies.filter(|name| name != HEADER));
    let mut seen = HashSet::new();
    inputs.retain(|name| seen.insert(name.clone()));
    let flags = version::flags(&tree.read_source("init/Makefile")?, &tree.conf)?;
    let fixed = planner.identity.fixed(&flags).unwrap_or_default();
    let environment = environment(tree)?;
    let (link, nm, objcopy) = (&tree.link, &tree.nm, &tree.objcopy);
    let mut made_by = planner.compiler()?;
    made_by.extend(planner.tools(&[&link.linker, nm, objcopy])?);
    if btf::is_on(tree) {
        made_by.extend(planner.tools(&[&tree.pahole])?);
    }
    let proof_key = proof_key(planner, &made_by, &environment)?;
    let linked_by = LinkedBy::choose(planner, proof_key);
    tracing::debug!("the final link is made by {}", linked_by.text());
    let texts = [("identity", &fixed), ("environment", &environment), ("compile", &compile)];
    made_by.extend(
        texts.map(|(name, text)| (Label::new(Kind::Flags, name), Digest::of(text.as_bytes()))),
    );
    Ok(Step {
        name: tree.linked.to_owned(),
        verb: "LD",
        inputs,
        made_by,
        outputs: outputs(planner),
        procedure: Procedure::Shell {
            text: text(planner, &compile, &environment, linked_by)?,
            linker: Some(link.linker.clone()),
        },
        shown: tree.command(tree.linked)?,
        prepare: Prepare::FinalLink,
        proof: proof_key.filter(|_| linked_by == LinkedBy::Compare).map(|proof_key| Proof {
            marker: format!("{}/{FOLDER}/{PROVEN}", planner.scratch),
            record: RECORD,
            key: proof_key,
        }),
    })
}

/// What the script leaves that is kept.
fn outputs(planner: &Planner<'_>) -> Vec<Output> {
    let tree = planner.tree;
    let folder = format!("{}/{FOLDER}", planner.scratch);
    let mut places = vec![OBJECT, "System.map", tree.linked];
    if tree.conf.is_on("CONFIG_VMLINUX_MAP") {
        places.push("vmlinux.map");
    }
    let output = |place: &str| Output {
        place: place.to_owned(),
        aside: format!("{folder}/{place}"),
        may_be_empty: false,
    };
    places.into_iter().map(output).collect()
}

/// `KBUILD_LDS`.
pub fn lds(tree: &Tree) -> String {
    format!("arch/{}/kernel/vmlinux.lds", tree.arch)
}

/// The programs that the script runs of those that the kernel builds for itself.
fn host_tools(tree: &Tree, script: &str) -> Vec<String> {
    let used = [
        ("CONFIG_KALLSYMS", "scripts/kallsyms"),
        ("CONFIG_BUILDTIME_TABLE_SORT", "scripts/sorttable"),
    ];
    let wanted = |(option, tool): &(&str, &str)| {
        tree.conf.is_on(option)
            && script.contains(&format!("is_enabled {option}"))
            && script.contains(tool)
    };
    used.into_iter().filter(wanted).map(|(_, tool)| tool.to_owned()).collect()
}

/// Variables that the script reads, as assignments for a shell.
fn environment(tree: &Tree) -> Result<String> {
    let sources = std::path::absolute(tree.folder.join(&tree.sources))
        .map_err(|e| Error::io("resolve", &tree.sources, e))?;
    let flags = assembler_flags(tree);
    let variables = [
        ("SRCARCH", tree.arch.clone()),
        ("srctree", sources.to_string_lossy().into_owned()),
        ("objtree", ".".to_owned()),
        ("KBUILD_LDS", lds(tree)),
        ("KBUILD_VMLINUX_LIBS", String::new()),
        ("CC", compiler(tree, &flags)?),
        ("NM", tree.nm.clone()),
        ("OBJCOPY", tree.objcopy.clone()),
        ("CONFIG_SHELL", "sh".to_owned()),
        // It is asked for version-timestamp.o, which is there.
        ("MAKE", ":".to_owned()),
        ("KBUILD_AFLAGS", flags),
    ];
    let mut all: Vec<(&str, String)> = variables
        .into_iter()
        .map(|(name, value)| (name, shell_words::quote(&value).into_owned()))
        .collect();
    if btf::is_on(tree) {
        all.extend(btf::variables(tree)?);
    }
    if tree.link.post_link.is_some() {
        all.push(("OBJDUMP", shell_words::quote(&tree.objdump()).into_owned()));
    }
    let unset = ["NOSTDINC_FLAGS", "LINUXINCLUDE", "KBUILD_CPPFLAGS", "KBUILD_AFLAGS_KERNEL"];
    all.extend(unset.map(|name| (name, String::new())));
    let assignments = all.into_iter().map(|(name, value)| format!("{name}={value}"));
    Ok(assignments.collect::<Vec<_>>().join(" "))
}

/// The compiler for the tables of kallsyms. With debug information it has to run in the tree's
/// own folder, whose name is part of the object; so it does where flags name folders above that.
fn compiler(tree: &Tree, flags: &str) -> Result<String> {
    if !in_tree(flags) {
        return Ok(tree.compiler.clone());
    }
    let folder = absolute(&tree.folder)?;
    Ok(format!("env --chdir={folder} {}", tree.compiler))
}

/// Whether the compiler runs in the tree's own folder, and its files are there too.
fn in_tree(flags: &str) -> bool {
    let debug = |word: &str| word.starts_with("-g") || word.starts_with("-Wa,-g");
    raw_words(flags).into_iter().any(|word| debug(word) || word.contains("../"))
}

fn absolute(folder: &Path) -> Result<String> {
    let path = std::path::absolute(folder).map_err(|e| Error::io("resolve", folder, e))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Who links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkedBy {
    Script,
    /// The script, and then ours, to see whether it makes the same.
    Compare,
    /// Ours, and the script if it fails.
    Ours,
}

impl LinkedBy {
    fn text(self) -> &'static str {
        match self {
            LinkedBy::Script => "the kernel's script",
            LinkedBy::Compare => "the kernel's script, and compared with our own passes",
            LinkedBy::Ours => "our own passes",
        }
    }

    fn choose(planner: &Planner<'_>, proof_key: Option<Digest>) -> Self {
        match proof_key {
            None => LinkedBy::Script,
            Some(_) if planner.store.output(RECORD) == proof_key => LinkedBy::Ours,
            Some(_) => LinkedBy::Compare,
        }
    }
}

/// All that decides whether our own passes make what the script makes, but for the objects.
/// `None` if there is no program for them.
fn proof_key(
    planner: &mut Planner<'_>,
    tools: &[(Label, Digest)],
    environment: &str,
) -> Result<Option<Digest>> {
    let Some(program) = planner.program else {
        return Ok(None);
    };
    let tree = planner.tree;
    let program = planner.tools(&[&shell_words::quote(&program.to_string_lossy())])?;
    let mut key = KeyBuilder::new("kthinlto final link 1");
    tools.iter().chain(&program).for_each(|(_, digest)| {
        key.digest(digest);
    });
    for text in [environment, &tree.link.flags, &tree.link.vmlinux_flags] {
        key.field(text.as_bytes());
    }
    let sources = [SCRIPT, "scripts/mksysmap"].map(|name| tree.source(name));
    let made = ["scripts/kallsyms", "scripts/sorttable", auto_conf::PATH].map(str::to_owned);
    for name in sources.iter().chain(&made) {
        match planner.store.files.find(name)? {
            Some(facts) => key.digest(&facts.digest),
            None => key.field(b"absent"),
        };
    }
    Ok(Some(key.finish()))
}

/// The objects of vmlinux, in the script's order.
fn objects(tree: &Tree) -> Result<Vec<&'static str>> {
    let mut objects = vec!["vmlinux.o"];
    if tree.conf.is_on("CONFIG_GENERIC_BUILTIN_DTB") && tree.folder.join(DEVICE_TREES).exists() {
        objects.push(DEVICE_TREES);
    }
    if takes_exports(tree)? {
        objects.push(".vmlinux.export.o");
    }
    objects.push(OBJECT);
    Ok(objects)
}

/// What the shell is given.
fn text(
    planner: &Planner<'_>,
    compile: &str,
    environment: &str,
    linked_by: LinkedBy,
) -> Result<String> {
    let (tree, scratch) = (planner.tree, planner.scratch);
    let folder = format!("{scratch}/{FOLDER}");
    let object = retarget(compile, OBJECT, &format!("{folder}/{OBJECT}"));
    let link = &tree.link;
    // One word in any case: the linker's threads are added to it.
    let linker = format!("'{}'", link.linker.replace('\'', r"'\''"));
    let quoted = |flags: &str| {
        let flags = for_another_folder(tree, &planner.store.files, flags)?;
        Ok::<_, Error>(shell_words::quote(&flags).into_owned())
    };
    let flags = format!("{linker} {} {}", quoted(&link.flags)?, quoted(&link.vmlinux_flags)?);
    let target = tree.linked;
    // The script prints a line for each pass; here the step has one.
    let script = format!("\"$srctree\"/{SCRIPT} {flags} {target} >/dev/null");
    let program = planner.program.unwrap_or(Path::new("")).to_string_lossy();
    let (program, objects) = (shell_words::quote(&program), objects(tree)?.join(" "));
    // The tables stay in the store's folder, two above.
    let ours = |output: &str, map: &str| {
        format!(
            "{program} link-vmlinux --tables ../../{TABLES} --system-map {map} {flags} {output} {objects}"
        )
    };
    let linking = match linked_by {
        LinkedBy::Script => script,
        LinkedBy::Ours => format!("{} || {script}", ours(target, "System.map")),
        LinkedBy::Compare => format!(
            "{script}; if {} >/dev/null 2>&1 && cmp -s ours {target} && cmp -s ours.map System.map; \
             then : >{PROVEN}; fi; rm -f ours",
            ours("ours", "ours.map")
        ),
    };
    let mut text = format!("{object}; cd {folder}; export {environment}; {linking}");
    if let Some(pass) = &link.post_link {
        text += &format!("; {pass}");
    }
    Ok(text)
}

/// `NOSTDINC_FLAGS LINUXINCLUDE KBUILD_CPPFLAGS KBUILD_AFLAGS KBUILD_AFLAGS_KERNEL`: what all
/// assembly files of vmlinux are given, as most of their records have it.
fn assembler_flags(tree: &Tree) -> String {
    let read = |name: &str| regular::read_to_string(&tree.folder.join(name)).unwrap_or_default();
    let (order, bitcode) = (read(ORDER), read(INDEXED));
    let bitcode: HashSet<&str> = bitcode.lines().collect();
    let mut counts: HashMap<String, usize> = HashMap::new();
    for object in order.lines().filter(|object| !bitcode.contains(object)) {
        if let Some(flags) = flags_of_assembly(tree, object) {
            *counts.entry(flags).or_default() += 1;
        }
    }
    let most = counts.into_iter().max_by(|a, b| (a.1, &b.0).cmp(&(b.1, &a.0)));
    most.map(|(flags, _)| flags).unwrap_or_default()
}

/// The flags of an object that was made of an assembly file, less what is its own: names, and
/// the folders of its source and object.
fn flags_of_assembly(tree: &Tree, object: &str) -> Option<String> {
    let path = tree.folder.join(cmd_file::path_for(Path::new(object)));
    let text = regular::read_to_string(&path).ok()?;
    let source = cmd_file::dependencies(&text).into_iter().next().filter(|n| n.ends_with(".S"))?;
    let command = CmdFile::parse(&text).command?;
    let command = command.split(" -c -o ").next()?;
    let folder = |name: &str| Path::new(name).parent().unwrap_or(Path::new("")).to_owned();
    let own = [folder(&source), folder(object)];
    let words = raw_words(&command[program(command).len()..]);
    let mut kept: Vec<&str> = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let place = match word {
            "-I" => words.peek().copied(),
            _ => word.strip_prefix("-I"),
        };
        let is_own = place.is_some_and(|place| {
            own.iter().any(|own| Path::new(place).components().eq(own.components()))
        });
        match is_own {
            true if word == "-I" => drop(words.next()),
            true => {}
            false if is_name(word) => {}
            false => kept.push(word),
        }
    }
    Some(kept.join(" "))
}

fn is_name(word: &str) -> bool {
    ["-Wp,-MMD,", "-DKBUILD_MOD", "-DKBUILD_BASENAME", "-D__KBUILD_MODNAME"]
        .iter()
        .any(|beginning| word.starts_with(beginning))
}

/// Makes the script's folder, and gives this link its number and date.
pub fn prepare(tree: &Tree, scratch: &str, identity: &version::Identity) -> Result<()> {
    let folder = tree.folder.join(scratch).join(FOLDER);
    let fail = |e| Error::io("make the folder", &folder, e);
    let up = absolute(&tree.folder)?;
    fs::create_dir_all(folder.join("init")).map_err(fail)?;
    for name in FOLDERS.iter().chain(&OBJECTS).filter(|name| tree.folder.join(name).exists()) {
        symlink(Path::new(&up).join(name), folder.join(name)).map_err(fail)?;
    }
    if in_tree(&assembler_flags(tree)) {
        link_outputs(&up, &folder).map_err(fail)?;
    }
    let flags = version::flags(&tree.read_source("init/Makefile")?, &tree.conf)?;
    identity.write(&tree.folder, &flags)
}

/// Where the compiler runs in the tree's folder, the tables of kallsyms are there too, and what
/// becomes the object with BTF.
fn link_outputs(tree: &str, folder: &Path) -> std::io::Result<()> {
    let link = |name: &str| symlink(Path::new(tree).join(name), folder.join(name));
    for number in 0..=3 {
        for stem in
            [format!(".tmp_vmlinux{number}.kallsyms"), format!(".tmp_vmlinux.kallsyms{number}")]
        {
            ["S", "o"].iter().try_for_each(|ending| link(&format!("{stem}.{ending}")))?;
        }
    }
    link(".tmp_vmlinux1.btf.o")
}
