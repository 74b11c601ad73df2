//! Flags of one backend, from the front end's own record: `saved_c_flags_` where the tree
//! writes it, else the recorded compile command less what only a front end reads. Never a
//! guess: no record, no flags. Must not know when or how a backend runs.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::exec::words::Words;
use crate::kbuild::cmd_file::{self, CmdFile};

/// The flags of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// As words.
    pub words: Words,
    /// As they stand in a `.cmd` file: text for a shell.
    pub text: String,
}

/// Reads the flags for `object` (a name below `tree`).
pub fn recorded(tree: &Path, object: &str) -> Result<Flags> {
    let record = cmd_file::path_for(Path::new(object));
    match CmdFile::read(&tree.join(&record)) {
        Ok(file) => of_record(file, object),
        Err(e) => Err(no_flags(object, e.to_string())),
    }
}

fn no_flags(object: &str, found: String) -> Error {
    let record = cmd_file::path_for(Path::new(object));
    Error::NoFlags { object: object.to_owned(), record, found }
}

/// The flags for `object`, whose record says this.
pub fn of_record(file: CmdFile, object: &str) -> Result<Flags> {
    let fail = |found: String| no_flags(object, found);
    let (words, text) = match file.saved_c_flags {
        Some(text) => (cmd_file::first_command(&text).map_err(fail)?, text),
        None => {
            let command = file.command.ok_or_else(|| fail("no command".into()))?;
            let words = cmd_file::first_command(&command).map_err(fail)?;
            let words = from_command(&words, object).map_err(fail)?;
            let text = shell_words::join(&words);
            (words, text)
        }
    };
    let words: Words = words.into_iter().collect();
    match words.text() {
        Some(_) => Ok(Flags { words, text }),
        None => Err(fail("a command with a zero byte".into())),
    }
}

/// The compiler that the record of `object` names, as shell text: the words before the
/// first option.
pub fn recorded_compiler(tree: &Path, object: &str) -> Result<String> {
    let record = cmd_file::path_for(Path::new(object));
    let fail = |found: String| no_flags(object, found);
    let file = CmdFile::read(&tree.join(&record)).map_err(|e| fail(e.to_string()))?;
    let command = file.command.ok_or_else(|| fail("no command".into()))?;
    let words = cmd_file::first_command(&command).map_err(fail)?;
    let compiler: Vec<&String> = words.iter().take_while(|word| !word.starts_with('-')).collect();
    Ok(shell_words::join(compiler))
}

/// What an option of the front end's means to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Only the front end reads it; the count is of the words that it takes up.
    FrontEnd(usize),
    /// The backend may read it.
    Backend,
}

/// Options with a value, joined to it or in the next word, that only a front end reads.
/// Folders are among them: for IR, clang (19, 22) looks in none for what assembly includes.
const FRONT_END_VALUES: [&str; 8] =
    ["-D", "-U", "-I", "-include", "-imacros", "-iquote", "-isystem", "-idirafter"];
/// Front-end options of one word, by prefix: preprocessor and dependency options, and the
/// map for `__FILE__`.
const FRONT_END_PREFIXES: [&str; 3] = ["-Wp,", "-M", "-fmacro-prefix-map="];
/// Dependency options whose value may be the next word.
const DEPENDENCY_VALUES: [&str; 4] = ["-MF", "-MT", "-MQ", "-MJ"];
fn use_of(word: &str) -> Use {
    let with_value = |option: &&&str| word.starts_with(**option);
    if let Some(option) = FRONT_END_VALUES.iter().find(with_value) {
        return Use::FrontEnd(if word == *option { 2 } else { 1 });
    }
    if DEPENDENCY_VALUES.contains(&word) {
        return Use::FrontEnd(2);
    }
    let one_word = word == "-nostdinc" || FRONT_END_PREFIXES.iter().any(|p| word.starts_with(p));
    if one_word { Use::FrontEnd(1) } else { Use::Backend }
}

/// Words of `flags` that can change a backend's output.
pub fn effective(flags: &Words) -> Vec<&str> {
    let mut kept = Vec::new();
    let mut flags = flags.iter();
    while let Some(word) = flags.next() {
        let (count, keep) = match use_of(word) {
            _ if takes_next_word(word) => (2, true),
            Use::FrontEnd(count) => (count, false),
            Use::Backend => (1, true),
        };
        let words = std::iter::once(word).chain(flags.by_ref().take(count - 1));
        if keep { kept.extend(words) } else { words.for_each(drop) }
    }
    kept
}

/// The backend's flags out of a recorded front-end command: less the compiler, what only
/// the front end reads, `-c`, `-o OBJECT`, `-x LANGUAGE` and the source.
fn from_command(words: &[String], object: &str) -> Result<Vec<String>, String> {
    let compiler = words.iter().take_while(|word| !word.starts_with('-')).count();
    let (mut flags, mut source, mut output) = (Vec::new(), None, None);
    let (mut compiles, mut at) = (false, compiler);
    while at < words.len() {
        let word = words[at].as_str();
        let next = words.get(at + 1);
        match word {
            "-c" => compiles = true,
            "-o" | "-x" => {
                if word == "-o" {
                    output = next;
                }
                at += 1;
            }
            _ if takes_next_word(word) => {
                flags.push(words[at].clone());
                flags.extend(next.cloned());
                at += 1;
            }
            _ if word.starts_with('-') || word.starts_with('@') => match use_of(word) {
                Use::FrontEnd(count) => at += count - 1,
                Use::Backend => flags.push(words[at].clone()),
            },
            _ => source = Some(word),
        }
        at += 1;
    }
    if compiler == 0 || !compiles || source.is_none() {
        return Err("a command that does not compile a source file".to_owned());
    }
    match output {
        Some(output) if is_same_file(output, object) => Ok(flags),
        Some(output) => Err(format!("a command that makes {output}")),
        None => Err("a command with no -o".to_owned()),
    }
}

/// Options of clang's, other than those above, whose value is the next word.
fn takes_next_word(word: &str) -> bool {
    const OPTIONS: [&str; 10] = [
        "-Xclang",
        "-mllvm",
        "-Xassembler",
        "-Xpreprocessor",
        "-Xlinker",
        "-target",
        "--config",
        "-arch",
        "--param",
        "-B",
    ];
    OPTIONS.contains(&word)
}

/// Kbuild may spell one object in two ways: `arch/arm64/kvm/../../../virt/kvm/x.o`. The
/// front end may also write aside, in a file named after the object (`.tmp_x.o`).
fn is_same_file(output: &str, object: &str) -> bool {
    let plain = |path: &str| crate::archive::read::normalize(Path::new(path));
    let (output, object) = (plain(output), plain(object));
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
        std::fs::write(&record, "deps_x.o := x.c\n").unwrap();
        let error = recorded(dir.path(), "x.o").unwrap_err().to_string();
        assert!(error.contains(".x.o.cmd: no command"), "{error}");
        std::fs::remove_file(&record).unwrap();
        let error = recorded(dir.path(), "x.o").unwrap_err();
        assert_eq!(error.exit_code(), 3);
    }
}
