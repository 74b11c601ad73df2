//! Flags of one backend, from the front end's own record: `saved_c_flags_` where the tree
//! writes it, else the recorded compile command less what only a front end reads. Never a
//! guess: no record, no flags. Must not know when or how a backend runs.

use std::path::{Path, PathBuf};

use super::maker;
use crate::error::{Error, Result};
use crate::exec::words::Words;
use crate::kbuild::cmd_file::{self, CmdFile};
use crate::regular;

/// The flags of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// As words.
    pub words: Words,
    /// As they stand in a `.cmd` file: text for a shell.
    pub text: String,
}

/// Reads the flags for `object` (a name below `tree`).
///
/// # Errors
/// Where no flags are on record, or not in a form that can be replayed.
pub fn recorded(tree: &Path, object: &str) -> Result<Flags> {
    let record = cmd_file::path_for(Path::new(object));
    match regular::read(&tree.join(&record)) {
        Ok(bytes) => of_record(&bytes, object),
        Err(e) => Err(no_flags(object, e.to_string())),
    }
}

fn no_flags(object: &str, found: String) -> Error {
    let record = cmd_file::path_for(Path::new(object));
    Error::NoFlags { object: object.to_owned(), record, found }
}

/// The flags for `object`, whose record has these bytes.
pub(crate) fn of_record(record: &[u8], object: &str) -> Result<Flags> {
    let fail = |found: String| no_flags(object, found);
    let (words, text) = match cmd_file::saved_c_flags(record) {
        Some(text) => {
            let mut words = Words::with_room(text.len() + 1);
            cmd_file::flags(&text, |word| words.push(word)).map_err(fail)?;
            (words, text)
        }
        None => {
            let command = CmdFile::of(record).command.ok_or_else(|| fail("no command".into()))?;
            if let Some(error) = maker::refuse(&command, object) {
                return Err(error);
            }
            let words = cmd_file::first_command(&command).map_err(fail)?;
            let words = from_command(&words, object).map_err(fail)?;
            let text = shell_words::join(&words);
            (words.into_iter().collect(), text)
        }
    };
    match words.text() {
        Some(_) => Ok(Flags { words, text }),
        None => Err(fail("a command with a zero byte".into())),
    }
}

/// The compiler that the record of `object` names, as shell text, with the options that `CC` had.
pub(crate) fn recorded_compiler(tree: &Path, object: &str) -> Result<String> {
    let record = cmd_file::path_for(Path::new(object));
    let fail = |found: String| no_flags(object, found);
    let file = CmdFile::read(&tree.join(&record)).map_err(|e| fail(e.to_string()))?;
    let command = file.command.ok_or_else(|| fail("no command".into()))?;
    if let Some(error) = maker::refuse(&command, object) {
        return Err(error);
    }
    let words = cmd_file::first_command(&command).map_err(fail)?;
    let compiler = &words[..cmd_file::compiler_words(&words)];
    // As it was written, where that can be cut off: quotes are part of what goes on record.
    let text = cmd_file::START_OF_FLAGS.iter().find_map(|start| {
        let (text, _) = command.split_once(&format!(" {start}"))?;
        (shell_words::split(text).ok()? == compiler).then(|| text.to_owned())
    });
    Ok(text.unwrap_or_else(|| shell_words::join(compiler)))
}

/// Version of the rules below: sets of flags that were made by other ones are not used.
pub(crate) const RULE: u32 = 2;

/// Who reads an option, and how many words it takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Only the front end.
    FrontEnd(usize),
    /// A backend may.
    Backend(usize),
}

/// Options with a value, joined to it or in the next word, that only a front end reads.
/// Folders are among them: for IR, clang (19, 22) looks in none for what assembly includes.
const FRONT_END_VALUES: [&str; 13] = [
    "-D",
    "-U",
    "-I",
    "-include",
    "-imacros",
    "-iquote",
    "-isystem",
    "-idirafter",
    "-iprefix",
    "-iwithprefix",
    "-iwithprefixbefore",
    "-iwithsysroot",
    "-iframework",
];
/// Options whose value is the next word, that only a front end reads.
const FRONT_END_NEXT: [&str; 15] = [
    "-MF",
    "-MT",
    "-MQ",
    "-MJ",
    "-F",
    "-include-pch",
    "-isystem-after",
    "-cxx-isystem",
    "-stdlib++-isystem",
    "--include",
    "--imacros",
    "--include-directory",
    "--define-macro",
    "--undefine-macro",
    "--serialize-diagnostics",
];
/// Front-end options of one word, by prefix: preprocessor and dependency options, and the
/// maps of paths. Those are applied to `__FILE__`, debug information and coverage when the bitcode is
/// made; a backend has nothing left to apply them to (clang 19, 22; a test compares bytes).
const FRONT_END_PREFIXES: [&str; 7] = [
    "-Wp,",
    "-M",
    "-nostdinc",
    "-fmacro-prefix-map=",
    "-ffile-prefix-map=",
    "-fdebug-prefix-map=",
    "-fcoverage-prefix-map=",
];
/// All other options of clang's (include/clang/Driver/Options.td, LLVM 15 to 22) whose value is the
/// next word. Darwin's linker has more, which no kernel's build knows.
const NEXT: [&str; 33] = [
    "--config",
    "--param",
    "--prefix",
    "--std",
    "--sysroot",
    "-A",
    "-B",
    "-G",
    "-L",
    "-T",
    "-Tbss",
    "-Tdata",
    "-Ttext",
    "-Xanalyzer",
    "-Xassembler",
    "-Xclang",
    "-Xlinker",
    "-Xopenmp-target",
    "-Xpreprocessor",
    "-arch",
    "-ccc-gcc-name",
    "-dumpdir",
    "-e",
    "-fdebug-compilation-dir",
    "-gcc-toolchain",
    "-isysroot",
    "-ivfsoverlay",
    "-l",
    "-mllvm",
    "-mthread-model",
    "-resource-dir",
    "-target",
    "-working-directory",
];

fn use_of(word: &str) -> Use {
    // Hundreds of words of thousands of objects: most differ in the letter after the dash.
    let letter = word.as_bytes().get(1);
    let may_be = |option: &&&str| option.as_bytes().get(1) == letter;
    let is_joined =
        |options: &[&str]| options.iter().filter(may_be).any(|option| word.starts_with(option));
    if FRONT_END_VALUES.contains(&word) || FRONT_END_NEXT.contains(&word) {
        Use::FrontEnd(2)
    } else if NEXT.contains(&word) || word.starts_with("-Xarch_") {
        Use::Backend(2)
    } else if is_joined(&FRONT_END_VALUES) || is_joined(&FRONT_END_PREFIXES) {
        Use::FrontEnd(1)
    } else {
        Use::Backend(1)
    }
}

/// Words of `flags` that can change a backend's output.
pub(crate) fn effective(flags: &Words) -> Vec<&str> {
    let mut kept = Vec::new();
    let mut flags = flags.iter();
    while let Some(word) = flags.next() {
        let (count, keep) = match use_of(word) {
            Use::FrontEnd(count) => (count, false),
            Use::Backend(count) => (count, true),
        };
        let words = std::iter::once(word).chain(flags.by_ref().take(count - 1));
        if keep { kept.extend(words) } else { words.for_each(drop) }
    }
    kept
}

/// What stands in a recorded front-end command besides flags.
#[derive(Default)]
struct Compile<'a> {
    compiles: bool,
    source: Option<&'a str>,
    output: Option<&'a str>,
}

/// The backend's flags out of a recorded front-end command: less the compiler, what only
/// the front end reads, `-c`, `-o OBJECT`, `-x LANGUAGE` and the source.
fn from_command(words: &[String], object: &str) -> Result<Vec<String>, String> {
    let (compiler, rest) = words.split_at(cmd_file::compiler_words(words));
    let (mut flags, mut found) = (Vec::new(), Compile::default());
    let mut rest = rest.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        match word {
            "-c" => found.compiles = true,
            "-o" | "--output" => found.output = rest.next(),
            "-x" | "--language" => drop(rest.next()),
            "-" | "--" => return Err(format!("a command with `{word}`, which names no source")),
            _ if word.starts_with("-x") => {}
            _ if word.starts_with('-') || word.starts_with('@') => match use_of(word) {
                Use::FrontEnd(count) => rest.by_ref().take(count - 1).for_each(drop),
                Use::Backend(count) => {
                    flags.push(word.to_owned());
                    flags.extend(rest.by_ref().take(count - 1).map(str::to_owned));
                }
            },
            _ => {
                if let Some(other) = found.source.replace(word) {
                    return Err(format!("a command with two sources, {other} and {word}"));
                }
            }
        }
    }
    if compiler.is_empty() || !found.compiles || found.source.is_none() {
        return Err("a command that does not compile a source file".to_owned());
    }
    match found.output {
        Some(output) if is_same_file(output, object) => Ok(flags),
        Some(output) => Err(format!("a command that makes {output}")),
        None => Err("a command with no -o".to_owned()),
    }
}

/// Kbuild may spell one object in two ways: `arch/arm64/kvm/../../../virt/kvm/x.o`. The
/// front end may also write aside, in a file named after the object (`.tmp_x.o`).
fn is_same_file(output: &str, object: &str) -> bool {
    let plain = |path: &str| crate::archive::read::normalize(Path::new(path));
    let (output, object) = (plain(output), plain(&cmd_file::front_ends_name(object)));
    let aside = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?;
        Some(path.with_file_name(format!(".tmp_{name}")))
    };
    output == object || output.ends_with(&object) || Some(output) == aside(&object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        shell_words::split(text).unwrap()
    }

    fn packed(text: &str) -> Words {
        words(text).into_iter().collect()
    }

    #[test]
    fn a_recorded_command_gives_what_a_backend_reads() {
        let command = "ccache clang-22 -Wp,-MMD,a/.b.o.d -nostdinc -I../include -I inc -include k.h \
             -D __KERNEL__ -DX='\"y z\"' -U V -fmacro-prefix-map=../= -O2 -mllvm -foo -Xclang -bar \
             -fsanitize-ignorelist=l.txt -flto=thin -fno-lto -Wall -c -o a/b.o ../a/b.c";
        let flags = from_command(&words(command), "a/b.o").unwrap();
        let want = "-O2 -mllvm -foo -Xclang -bar \
             -fsanitize-ignorelist=l.txt -flto=thin -fno-lto -Wall";
        assert_eq!(flags, words(want));
    }

    #[test]
    fn every_word_of_a_recorded_command_is_in_its_place() {
        let with = |words: &str| {
            let command = format!("clang {words} -Wall -c -o a.o a.c");
            from_command(&shell_words::split(&command).unwrap(), "a.o")
        };
        for option in [
            "--sysroot /s",
            "-isysroot /s",
            "-resource-dir /r",
            "-target x",
            "-Xclang -foo",
            "-mllvm -x=1",
            "--config c",
            "-B b",
            "-working-directory w",
            "-Xarch_host -g",
            "-ivfsoverlay y",
            "--sysroot=/s",
            "-gcc-toolchain g",
        ] {
            assert_eq!(with(option).unwrap(), words(&format!("{option} -Wall")), "{option}");
        }
        for option in [
            "-include x.h",
            "-I d",
            "-Id",
            "-D X=1",
            "-U X",
            "-isystem d",
            "-isystem-after d",
            "-iwithprefix d",
            "-include-pch p",
            "-MF d",
            "-x c",
            "-xc",
        ] {
            assert_eq!(with(option).unwrap(), ["-Wall"], "{option}");
        }
        let error = with("--new-option-of-clang value").unwrap_err();
        assert_eq!(error, "a command with two sources, value and a.c");
        assert!(with("- ").unwrap_err().contains("`-`"));
    }

    #[test]
    fn options_of_cc_are_ccs_and_come_once() {
        let command = "clang -mllvm -inline-threshold=1 -Wp,-MMD,.a.o.d -O2 -c -o a.o a.c";
        assert_eq!(from_command(&words(command), "a.o").unwrap(), ["-O2"]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".a.o.cmd"), format!("cmd_a.o := {command}\n")).unwrap();
        let compiler = recorded_compiler(dir.path(), "a.o").unwrap();
        assert_eq!(compiler, "clang -mllvm -inline-threshold=1");
    }

    #[test]
    fn a_command_for_another_file_gives_no_flags() {
        let other = from_command(&words("clang -O2 -c -o a/c.o a/c.c"), "a/b.o");
        assert!(other.unwrap_err().contains("a/c.o"));
        for command in
            ["ld.lld -r -o a/b.o x.o y.o", "clang -O2 -o a/b.o -c", "clang -S b.c -o a/b.o"]
        {
            assert!(from_command(&words(command), "a/b.o").is_err(), "{command}");
        }
    }

    #[test]
    fn two_spellings_of_one_object_are_one() {
        let command = "clang -O2 -c -o arch/arm64/kvm/../../../virt/kvm/x.o ../virt/kvm/x.c";
        assert!(from_command(&words(command), "virt/kvm/x.o").is_ok());
        let aside = "clang -O2 -c -o fs/.tmp_x.o ../fs/x.c";
        assert!(from_command(&words(aside), "fs/x.o").is_ok());
    }

    #[test]
    fn front_end_flags_do_not_count() {
        let flags = packed("-Iinc -isystem sys -DA=1 -D B -include x.h -Wp,-MMD,d -O2 -MF d -g");
        assert_eq!(effective(&flags), ["-O2", "-g"]);
        let values = "-Xclang -DA -mllvm -Ix -Wa,-Iinc";
        assert_eq!(effective(&packed(values)), words(values));
        assert_eq!(effective(&packed("-O2 -mllvm")), ["-O2", "-mllvm"]);
        assert_eq!(effective(&packed("-O2 -include")), ["-O2"]);
    }

    #[test]
    fn saved_flags_come_first_and_absence_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join(".x.o.cmd");
        let compile = "savedcmd_x.o := clang -O3 -c -o x.o x.c\n";
        std::fs::write(&record, format!("{compile}saved_c_flags_x.o := -O2  -g\n")).unwrap();
        let flags = recorded(dir.path(), "x.o").unwrap();
        assert_eq!((flags.text.as_str(), flags.words), ("-O2  -g", packed("-O2 -g")));
        std::fs::write(&record, compile).unwrap();
        assert_eq!(recorded(dir.path(), "x.o").unwrap().text, "-O3");
        for damaged in ["saved_c_flags_x.o := -O2\0-g\n", "cmd_x.o := clang -O2\0 -c -o x.o x.c\n"]
        {
            std::fs::write(&record, damaged).unwrap();
            let error = recorded(dir.path(), "x.o").unwrap_err().to_string();
            assert!(error.contains(".x.o.cmd: a command with a zero byte"), "{error}");
        }
        for (more, sign) in [("; touch x", ';'), ("| tee x", '|'), ("& touch x", '&')] {
            std::fs::write(&record, format!("saved_c_flags_x.o := -O2 {more}\n")).unwrap();
            let error = recorded(dir.path(), "x.o").unwrap_err();
            assert!(error.to_string().contains(&format!("flags with shell syntax (`{sign}`)")));
            assert_eq!(error.exit_code(), 3);
        }
        std::fs::write(&record, "saved_c_flags_x.o := -O2 -DX='\"a;b|c&d\"'\n").unwrap();
        assert_eq!(recorded(dir.path(), "x.o").unwrap().words, packed("-O2 -DX='\"a;b|c&d\"'"));
        std::fs::write(&record, "deps_x.o := x.c\n").unwrap();
        let error = recorded(dir.path(), "x.o").unwrap_err().to_string();
        assert!(error.contains(".x.o.cmd: no command"), "{error}");
        std::fs::remove_file(&record).unwrap();
        let error = recorded(dir.path(), "x.o").unwrap_err();
        assert_eq!(error.exit_code(), 3);
    }
}
