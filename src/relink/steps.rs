//! The steps from `vmlinux.a` to `vmlinux`, in kbuild's order, each with the command that make
//! recorded for it. Knows what kernels of each age do; must not run anything.
//!
//! Rules: `scripts/Makefile.vmlinux_o`, `Makefile.modpost` and `Makefile.vmlinux`, Linux 6.1 to
//! 7.3. The kernel's age shows in what its makefiles name and in what make recorded.

use std::path::Path;

use super::command::{programs, raw_words, replace_words, retarget};
use super::final_link;
use super::planner::Planner;
use super::reads::{modules, named_by_options};
use super::recipe::{Output, Prepare, Procedure, Recipe, Step};
use super::tree::Tree;
use crate::error::Result;
use crate::inputs::{Kind, Label};
use crate::modpost::objects::VMLINUX_OBJS;
use crate::store::Digest;
use crate::unit::ARCHIVE;

/// The initcalls' linker script.
pub const INITCALLS: &str = ".tmp_initcalls.lds";
/// The script that makes it for make.
const INITCALLS_SCRIPT: &str = "scripts/generate_initcall_order.pl";
/// The check of function names (in Linux 7.3, not in 6.12).
const NAMES_SCRIPT: &str = "scripts/check-function-names.sh";
/// The list of what vmlinux exports.
const SYMVERS: &str = "vmlinux.symvers";
/// The same with modules, which `make all` has modpost write instead.
pub const MODULE_SYMVERS: &str = "Module.symvers";
/// modpost's table of exported symbols.
const EXPORT_C: &str = ".vmlinux.export.c";
/// The same, compiled.
const EXPORT_O: &str = ".vmlinux.export.o";

impl Planner<'_> {
    /// All steps of the tree's kernel.
    pub fn recipe(mut self) -> Result<Recipe> {
        let mut steps = vec![self.initcalls()?, self.vmlinux_o()?];
        steps.extend(self.check_names()?);
        steps.extend(self.list_objects());
        steps.push(self.modpost()?);
        steps.extend(self.export_object()?);
        steps.push(final_link::step(&mut self)?);
        if self.tree.linked != "vmlinux" {
            steps.push(self.recorded("OBJCOPY", "vmlinux", &[self.tree.linked])?);
        }
        self.add_builtin_lists(&mut steps)?;
        Ok(Recipe { steps })
    }

    /// A step with the command that make recorded for its only output.
    pub(super) fn recorded(
        &mut self,
        verb: &'static str,
        place: &str,
        inputs: &[&str],
    ) -> Result<Step> {
        let shown = self.tree.command(place)?;
        let mut inputs: Vec<String> = inputs.iter().map(|name| (*name).to_owned()).collect();
        let named = named_by_options(&self.store.files, &shown)?;
        inputs.extend(named.into_iter().filter(|name| name != place));
        Ok(Step {
            name: place.to_owned(),
            verb,
            inputs,
            made_by: self.tools(&programs(&shown))?,
            outputs: vec![self.output(place, false)],
            procedure: Procedure::Shell {
                text: retarget(&shown, place, &self.aside(place)),
                linker: None,
            },
            shown,
            prepare: Prepare::Nothing,
            proof: None,
        })
    }

    fn initcalls(&self) -> Result<Step> {
        let shown = self.tree.command(INITCALLS)?;
        let files: Vec<String> = initcall_files(&shown);
        Ok(Step {
            name: INITCALLS.to_owned(),
            verb: "GEN",
            inputs: files.clone(),
            made_by: Vec::new(),
            outputs: vec![self.output(INITCALLS, false)],
            procedure: Procedure::Initcalls { files },
            shown,
            prepare: Prepare::Nothing,
            proof: None,
        })
    }

    fn vmlinux_o(&mut self) -> Result<Step> {
        let shown = self.tree.command("vmlinux.o")?;
        let mut inputs = vec![ARCHIVE.to_owned(), INITCALLS.to_owned()];
        inputs.extend(libraries(&shown));
        inputs.extend(self.host_tools(host_tools(self.tree, &shown)?)?);
        let named = named_by_options(&self.store.files, &shown)?;
        inputs.extend(named.into_iter().filter(|name| !name.starts_with("vmlinux.o")));
        let mut outputs = vec![self.output("vmlinux.o", false)];
        if shown.contains("-Map=vmlinux.o.map") {
            outputs.push(self.output("vmlinux.o.map", false));
        }
        let linker = self.tree.link.linker.clone();
        Ok(Step {
            name: "vmlinux.o".to_owned(),
            verb: "LD",
            inputs,
            made_by: self.tools(&[&linker])?,
            outputs,
            procedure: Procedure::Shell {
                text: retarget(&shown, "vmlinux.o", &self.aside("vmlinux.o")),
                linker: Some(linker),
            },
            shown,
            prepare: Prepare::Nothing,
            proof: None,
        })
    }

    fn check_names(&mut self) -> Result<Option<Step>> {
        let script = self.tree.source(NAMES_SCRIPT);
        if !self.tree.folder.join(&script).is_file() {
            return Ok(None);
        }
        let nm = shell_words::quote(&self.tree.nm).into_owned();
        let path = if script.contains('/') { script.clone() } else { format!("./{script}") };
        let text = format!("NM={nm} {} vmlinux.o", shell_words::quote(&path));
        Ok(Some(Step {
            name: "check-function-names".to_owned(),
            verb: "CHECK",
            inputs: vec!["vmlinux.o".to_owned(), script],
            made_by: self.tools(&[&self.tree.nm])?,
            outputs: Vec::new(),
            shown: text.clone(),
            procedure: Procedure::Shell { text, linker: None },
            prepare: Prepare::Nothing,
            proof: None,
        }))
    }

    fn list_objects(&self) -> Option<Step> {
        if !self.tree.conf.is_on("CONFIG_MODVERSIONS") {
            return None;
        }
        // A tree of in-process ThinLTO may have a modpost that looks for no native objects.
        let front_end_names = !self.tree.conf.is_on("CONFIG_LTO_CLANG_THIN_DIST");
        Some(Step {
            name: VMLINUX_OBJS.to_owned(),
            verb: "GEN",
            inputs: vec![ARCHIVE.to_owned()],
            made_by: vec![(
                Label::new(Kind::Flags, "names"),
                Digest::of(&[u8::from(front_end_names)]),
            )],
            outputs: vec![self.output(VMLINUX_OBJS, false)],
            shown: format!("llvm-ar t {ARCHIVE} > {VMLINUX_OBJS}"),
            procedure: Procedure::ListObjects { front_end_names },
            prepare: Prepare::Nothing,
            proof: None,
        })
    }

    /// modpost, by the kernel's own program: it also checks references between sections.
    fn modpost(&mut self) -> Result<Step> {
        self.modpost_by(modpost_command(self.tree)?)
    }

    /// modpost by this command, which writes this list.
    pub(super) fn modpost_by(&mut self, (shown, symvers): (String, &str)) -> Result<Step> {
        let mut inputs = vec!["vmlinux.o".to_owned()];
        if self.tree.conf.is_on("CONFIG_MODVERSIONS") {
            inputs.push(VMLINUX_OBJS.to_owned());
            // Versions stand in the objects' records, which its own record covers.
            inputs.push(ARCHIVE.to_owned());
        }
        inputs.extend(self.host_tools(host_tools(self.tree, &shown)?)?);
        inputs.extend(modpost_files(&shown));
        let of_modules = symvers == MODULE_SYMVERS;
        if of_modules {
            inputs.push("modules.order".to_owned());
            inputs.extend(modules(self.tree));
        }
        let written =
            Output { place: EXPORT_C.to_owned(), aside: EXPORT_C.to_owned(), may_be_empty: false };
        Ok(Step {
            name: symvers.to_owned(),
            verb: "MODPOST",
            inputs,
            made_by: Vec::new(),
            outputs: vec![written, self.output(symvers, true)],
            procedure: Procedure::Shell {
                text: retarget(&shown, symvers, &self.aside(symvers)),
                linker: None,
            },
            shown,
            prepare: if of_modules { Prepare::Modpost } else { Prepare::Nothing },
            proof: None,
        })
    }

    fn export_object(&mut self) -> Result<Option<Step>> {
        match final_link::takes_exports(self.tree)? {
            true => self.compiled("CC", EXPORT_O, EXPORT_C).map(Some),
            false => Ok(None),
        }
    }

    /// A step that compiles what modpost wrote.
    pub(super) fn compiled(
        &mut self,
        verb: &'static str,
        object: &str,
        source: &str,
    ) -> Result<Step> {
        let compiler = self.compiler()?;
        let shown = self.tree.command(object)?;
        let mut inputs = vec![source.to_owned()];
        inputs.extend(self.tree.dependencies(object).into_iter().filter(|name| name != source));
        inputs.extend(self.host_tools(host_tools(self.tree, &shown)?)?);
        inputs.extend(named_by_options(&self.store.files, &shown)?);
        let linker = self.tree.link.linker.clone();
        Ok(Step {
            name: object.to_owned(),
            verb,
            inputs,
            made_by: [compiler, self.tools(&[&linker])?].concat(),
            outputs: vec![self.output(object, false)],
            procedure: Procedure::Shell {
                text: retarget(&shown, object, &self.aside(object)),
                linker: None,
            },
            shown,
            prepare: Prepare::Nothing,
            proof: None,
        })
    }

    /// `modules.builtin.modinfo` and what is made of it: of `vmlinux.o`, or in Linux 7.3
    /// of the linked kernel.
    fn add_builtin_lists(&mut self, steps: &mut Vec<Step>) -> Result<()> {
        let (modinfo, list, ranges) =
            ("modules.builtin.modinfo", "modules.builtin", "modules.builtin.ranges");
        let command = self.tree.command(modinfo)?;
        let source = ["vmlinux.o", "vmlinux.unstripped", "vmlinux"];
        let source = source.into_iter().find(|name| raw_words(&command).contains(name));
        steps.push(self.recorded("OBJCOPY", modinfo, &[source.unwrap_or("vmlinux.o")])?);
        let mut step = self.recorded("GEN", list, &[modinfo])?;
        step.outputs[0].may_be_empty = true;
        steps.push(step);
        if self.tree.conf.is_on("CONFIG_BUILTIN_MODULE_RANGES") {
            let command = self.tree.command(ranges)?;
            let names = raw_words(&command);
            let files = names.iter().filter(|name| **name != ranges);
            let files: Vec<&str> =
                files.copied().filter(|name| self.is_file_or_output(name, steps)).collect();
            let mut step = self.recorded("GEN", ranges, &files)?;
            step.outputs[0].may_be_empty = true;
            steps.push(step);
        }
        Ok(())
    }

    fn is_file_or_output(&self, name: &str, steps: &[Step]) -> bool {
        let made = steps.iter().flat_map(|step| &step.outputs).any(|output| output.place == name);
        made || self.tree.folder.join(name).is_file()
    }
}

/// Fails where the steps could not be planned: before the stage, which takes longest, is run.
pub fn check(tree: &Tree) -> Result<()> {
    let targets = ["vmlinux.o", "modules.builtin", "vmlinux"];
    let mut commands: Vec<String> =
        targets.iter().map(|target| tree.command(target)).collect::<Result<_>>()?;
    commands.push(modpost_command(tree)?.0);
    if final_link::takes_exports(tree)? {
        commands.push(tree.command(EXPORT_O)?);
    }
    for command in &commands {
        host_tools(tree, command)?;
    }
    final_link::check(tree)
}

/// The programs of the object tree that a command runs, which have to be there.
fn host_tools(tree: &Tree, command: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for word in raw_words(command) {
        let plain = word.strip_prefix("./").unwrap_or(word);
        if plain == "tools/objtool/objtool" || plain == "scripts/mod/modpost" {
            tree.check_host_tool(plain)?;
            found.push(plain.to_owned());
        }
    }
    Ok(found)
}

/// The command for vmlinux alone. Where make recorded only the one that reads modules too, it
/// is that less the modules; where unused symbols are trimmed there is only that one.
fn modpost_command(tree: &Tree) -> Result<(String, &'static str)> {
    if tree.conf.is_on("CONFIG_TRIM_UNUSED_KSYMS") {
        return Ok((tree.command(MODULE_SYMVERS)?, MODULE_SYMVERS));
    }
    if tree.has_command(SYMVERS) || !tree.has_command(MODULE_SYMVERS) {
        return Ok((tree.command(SYMVERS)?, SYMVERS));
    }
    Ok((without_modules(&tree.command(MODULE_SYMVERS)?), SYMVERS))
}

/// The archives that the script for initcalls is given, or our own command in its place:
/// `kthinlto initcalls -o OUT ARCHIVE…`.
fn initcall_files(command: &str) -> Vec<String> {
    let words = raw_words(command);
    let ours = words.windows(3).position(|three| three[..2] == ["initcalls", "-o"]);
    let script = words.iter().position(|word| word.ends_with(INITCALLS_SCRIPT));
    let from = script.map(|at| at + 1).or(ours.map(|at| at + 3)).unwrap_or(words.len());
    let given = words[from..].iter();
    given.take_while(|word| **word != INITCALLS).map(|word| (*word).to_owned()).collect()
}

/// The archives between `--start-group` and `--end-group`.
fn libraries(command: &str) -> Vec<String> {
    let words = raw_words(command);
    let group = words.iter().skip_while(|word| **word != "--start-group").skip(1);
    group.take_while(|word| **word != "--end-group").map(|word| (*word).to_owned()).collect()
}

/// Files besides objects that modpost is told to read: lists of modules and of symbols.
fn modpost_files(command: &str) -> Vec<String> {
    let words = raw_words(command);
    let pairs = words.windows(2).filter(|pair| matches!(pair[0], "-T" | "-u" | "-i"));
    pairs.map(|pair| pair[1].to_owned()).filter(|name| Path::new(name) != Path::new("-")).collect()
}

/// modpost's command less the modules: no `-T modules.order`, or in Linux 6.1 an empty list.
fn without_modules(command: &str) -> String {
    let piped = command.contains('|');
    replace_words(command, |word| match word {
        MODULE_SYMVERS => Some(SYMVERS.to_owned()),
        "modules.order" if piped => Some("/dev/null".to_owned()),
        "modules.order" => Some(String::new()),
        "-T" if !piped => Some(String::new()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_left_out_as_the_makefile_does() {
        let new =
            " ./scripts/mod/modpost -M -m  -E     -o Module.symvers -T modules.order vmlinux.o";
        assert_eq!(
            without_modules(new).split_whitespace().collect::<Vec<_>>().join(" "),
            "./scripts/mod/modpost -M -m -E -o vmlinux.symvers vmlinux.o"
        );
        let old = "sed 's/ko$/o/'  modules.order | scripts/mod/modpost -m  -o Module.symvers -T - vmlinux.o";
        assert_eq!(
            without_modules(old),
            "sed 's/ko$/o/'  /dev/null | scripts/mod/modpost -m  -o vmlinux.symvers -T - vmlinux.o"
        );
    }

    #[test]
    fn libraries_stand_in_the_group() {
        let text =
            "ld -r --whole-archive vmlinux.a --start-group lib/a.a b.a --end-group ; objtool";
        assert_eq!(libraries(text), ["lib/a.a", "b.a"]);
        assert_eq!(libraries("ld --start-group  --end-group"), Vec::<String>::new());
        let text = "python3 s/jobserver-exec perl s/scripts/generate_initcall_order.pl vmlinux.a l.a > .tmp_initcalls.lds";
        assert_eq!(initcall_files(text), ["vmlinux.a", "l.a"]);
        let text = "/opt/kthinlto -v initcalls -o .tmp_initcalls.lds vmlinux.a l.a";
        assert_eq!(initcall_files(text), ["vmlinux.a", "l.a"]);
        assert_eq!(modpost_files("modpost -u a -T - -i b x.o"), ["a", "b"]);
    }
}
