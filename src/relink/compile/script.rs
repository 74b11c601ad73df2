//! The commands that make one target again, as make would run them, with all that is written aside: the
//! recorded command, fixdep, the flags that our rule keeps, versions of exported symbols. Must not know
//! when, or whether, they are run.
//!
//! Rules: `cmd_and_fixdep` of `scripts/Kbuild.include`; `rule_cc_o_c`, `rule_as_o_S` and `gen_symversions`
//! of `scripts/Makefile.build` and `Makefile.lib`, Linux 6.1 to 7.3.

use std::path::Path;

use crate::error::{Error, Result};
use crate::kbuild::cmd_file::{self, CmdFile};
use crate::regular;
use crate::relink::command::{raw_words, replace_words, retarget};
use crate::relink::tree::Tree;

/// Makes the list of what a target was made from.
const FIXDEP: &str = "scripts/basic/fixdep";
/// Makes versions of what preprocessed sources export.
const GENKSYMS: &str = "scripts/genksyms/genksyms";
/// A line with the version of a symbol, in a record.
const VERSION: &str = "#SYMVER ";

/// How one target is made again.
#[derive(Debug, Clone)]
pub struct Script {
    /// Kbuild's verb.
    pub verb: &'static str,
    /// The recorded command.
    pub shown: String,
    /// What a shell is given.
    pub text: String,
    /// Where each file that it writes belongs, and its name aside; the record comes last.
    pub outputs: Vec<(String, String)>,
}

/// Why a target cannot be made here; a clause.
type Unfit = &'static str;

/// The commands for a target, which write into the folder `aside`.
///
/// # Errors
/// Where its record cannot be read, or is one that only make can follow.
pub fn script(tree: &Tree, target: &str, aside: &str) -> Result<Script> {
    let record = cmd_file::path_for(Path::new(target));
    let path = tree.folder.join(&record);
    let text = regular::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    of(tree, target, &text, aside).map_err(|found| {
        let remedy = "run `make vmlinux`: the target cannot be made again from this record alone";
        Error::bad_input(&record, found, remedy)
    })
}

fn of(tree: &Tree, target: &str, record: &str, aside: &str) -> Result<Script, Unfit> {
    let shown = CmdFile::parse(record).command.ok_or("no command")?;
    let source = cmd_file::dependencies(record).into_iter().next().ok_or("no list of files")?;
    let parts = Parts::of(&shown, target, &source)?;
    let base = target.rsplit('/').next().unwrap_or(target);
    let (made, listed) = (format!("{aside}/{base}"), format!("{aside}/.{base}.cmd"));
    let elsewhere = |text: &str| with_bitcode(&retarget(text, target, &made), target, aside);
    let mut outputs = vec![(target.to_owned(), made.clone())];
    if let Some(bitcode) = bitcode(target).filter(|name| raw_words(&shown).contains(&name.as_str()))
    {
        let name = bitcode.rsplit('/').next().unwrap_or(&bitcode);
        outputs.push((bitcode.clone(), format!("{aside}/{name}")));
    }
    outputs.push((
        cmd_file::path_for(Path::new(target)).to_string_lossy().into_owned(),
        listed.clone(),
    ));
    let quote = |text: &str| shell_words::quote(text).into_owned();
    let dependencies = elsewhere(parts.dependencies);
    let dependencies = &dependencies["-Wp,-MMD,".len()..];
    let command = first_line(record).ok_or("no command")?;
    let mut text = format!(
        "{}; ./{FIXDEP} {dependencies} {} {} > {listed}; rm -f {dependencies}",
        elsewhere(&shown),
        quote(target),
        quote(command)
    );
    let (before, after) = tail(record, target);
    if !before.is_empty() {
        text += &format!("; printf %s {} >> {listed}", quote(&before));
    }
    if tree.conf.is_on("CONFIG_MODVERSIONS") && parts.is_object {
        text += &versions(tree, &parts, target, &made, &listed, &elsewhere)?;
    }
    if !after.is_empty() {
        text += &format!("; printf %s {} >> {listed}", quote(&after));
    }
    Ok(Script { verb: parts.verb(), shown, text, outputs })
}

/// `gen_symversions`.
fn versions(
    tree: &Tree,
    parts: &Parts<'_>,
    target: &str,
    made: &str,
    listed: &str,
    elsewhere: &impl Fn(&str) -> String,
) -> Result<String, Unfit> {
    let nm = &tree.nm;
    let exports = format!("if {nm} {made} 2>/dev/null | grep -q ' __export_symbol_'; then");
    if !parts.source.ends_with(".c") || tree.conf.is_on("CONFIG_GENDWARFKSYMS") {
        // Of flags that the record does not have, or of debug information.
        let say = format!(
            "echo 'kthinlto: only make knows how {target} gets versions of what it exports' >&2"
        );
        return Ok(format!("; {exports} {say}; exit 1; fi"));
    }
    let reference = target.strip_suffix(".o").map(|stem| format!("{stem}.symref"));
    let reference = reference.filter(|name| tree.folder.join(name).is_file());
    let reference = reference.map(|name| format!(" -r {name}")).unwrap_or_default();
    let preprocess =
        format!("{} -E -D__GENKSYMS__ {} {}", parts.compiler, elsewhere(parts.flags), parts.source);
    Ok(format!(
        "; {exports} {preprocess} | ./{GENKSYMS}{reference} >> {listed}; fi; rm -f {}",
        &elsewhere(parts.dependencies)["-Wp,-MMD,".len()..]
    ))
}

/// The pieces of a recorded compile: `CC FLAGS -c -o TARGET SOURCE …`.
struct Parts<'a> {
    compiler: &'a str,
    flags: &'a str,
    /// The flag with the name of the list of dependencies.
    dependencies: &'a str,
    source: &'a str,
    is_object: bool,
}

impl<'a> Parts<'a> {
    fn of(command: &'a str, target: &str, source: &str) -> Result<Self, Unfit> {
        let words = raw_words(command);
        let place = |word: &str| word.as_ptr() as usize - command.as_ptr() as usize;
        let plain = |word: &&str| word.strip_prefix("./").unwrap_or(word) == target;
        let out = words.windows(2).position(|pair| pair[0] == "-o" && plain(&pair[1]));
        let out = out.ok_or("a command that does not name its output with -o")?;
        let first = cmd_file::compiler_words(&words);
        let dependencies = words.iter().find(|word| word.starts_with("-Wp,-MMD,"));
        let dependencies = dependencies.ok_or("a command that makes no list of dependencies")?;
        if words[..out].iter().any(|word| matches!(*word, "-ftest-coverage" | "--coverage")) {
            return Err("a command whose object holds the name of its output (coverage)");
        }
        if first == 0 || first >= out {
            return Err("a command without a compiler");
        }
        let ends = if words[out - 1] == "-c" { out - 1 } else { out };
        let source = words.iter().find(|word| **word == source);
        Ok(Parts {
            compiler: command[..place(words[first])].trim(),
            flags: command[place(words[first])..place(words[ends])].trim(),
            dependencies,
            source: source.ok_or("a command that does not name its source")?,
            is_object: words[out - 1] == "-c" && target.ends_with(".o"),
        })
    }

    fn verb(&self) -> &'static str {
        match self.is_object {
            true if self.source.ends_with(".S") => "AS",
            true => "CC",
            false => "GEN",
        }
    }
}

/// The other name that our rule for modules gives to what the front end made.
fn bitcode(target: &str) -> Option<String> {
    target.strip_suffix(".o").map(|stem| format!("{stem}{}", cmd_file::BITCODE))
}

fn with_bitcode(text: &str, target: &str, aside: &str) -> String {
    let Some(bitcode) = bitcode(target) else {
        return text.to_owned();
    };
    let name = bitcode.rsplit('/').next().unwrap_or(&bitcode);
    replace_words(text, |word| (word == bitcode).then(|| format!("{aside}/{name}")))
}

/// The command as it stands in the record, with make's escapes: what fixdep is given.
fn first_line(record: &str) -> Option<&str> {
    record.lines().next()?.split_once(" := ").map(|(_, command)| command)
}

/// What follows fixdep's lines: all of it but versions, before and after where those stand.
fn tail(record: &str, target: &str) -> (String, String) {
    let last = format!("\n$(deps_{target}):\n");
    let rest = record.find(&last).map_or("", |at| &record[at + last.len()..]);
    let at = rest.lines().take_while(|line| !line.starts_with(VERSION)).map(|line| line.len() + 1);
    let (before, after) = rest.split_at(at.sum::<usize>().min(rest.len()));
    let kept = after.split_inclusive('\n').filter(|line| !line.starts_with(VERSION));
    (before.to_owned(), kept.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_left_out_of_what_is_kept() {
        let record = "savedcmd_a.o := cc\n\nsource_a.o := a.c\n\n$(deps_a.o):\n\nsaved_c_flags_a.o := -O2\n\
                      #SYMVER a 0x1\n#SYMVER b 0x2\n";
        assert_eq!(tail(record, "a.o"), ("\nsaved_c_flags_a.o := -O2\n".into(), String::new()));
        let record = record.to_owned() + "\na.o: $(wildcard x)\n";
        assert_eq!(tail(&record, "a.o").1, "\na.o: $(wildcard x)\n");
    }

    #[test]
    fn a_compile_is_cut_into_its_pieces() {
        let text = "ccache clang -Wp,-MMD,k/.a.o.d -O2 -D'X=\" -c -o k/a.o \"' -c -o k/a.o /s/k/a.c ; objtool k/a.o";
        let parts = Parts::of(text, "k/a.o", "/s/k/a.c").unwrap();
        assert_eq!(parts.compiler, "ccache clang");
        assert_eq!(parts.flags, "-Wp,-MMD,k/.a.o.d -O2 -D'X=\" -c -o k/a.o \"'");
        assert_eq!((parts.dependencies, parts.source), ("-Wp,-MMD,k/.a.o.d", "/s/k/a.c"));
        let unfit = |text: &str| Parts::of(text, "k/a.o", "/s/k/a.c").err().unwrap();
        assert!(unfit("cc -Wp,-MMD,x -c /s/k/a.c").contains("-o"));
        assert!(unfit("cc -O2 -c -o k/a.o /s/k/a.c").contains("list of dependencies"));
        assert!(unfit("cc -Wp,-MMD,x --coverage -c -o k/a.o /s/k/a.c").contains("coverage"));
    }
}
