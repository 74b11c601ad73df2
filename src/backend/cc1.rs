//! The command that clang's driver makes of a backend's, and calls itself with. The driver parses
//! hundreds of words and looks for toolchains on the disk, to say the same for each backend with
//! equal flags but for the names in it. Asked for two of them, it has answered for all. Must not
//! know who runs the command.
//!
//! Format: `clang -###` (clang/lib/Driver/Job.cpp, `sys::printArg` of LLVM; LLVM 19 to 22).

use std::borrow::Cow;

use super::command::aside_name;
use crate::exec::words::Words;
use crate::toolchain::quoted_words;
use crate::unit::Part;

/// Asks the driver what it would run, and to run nothing.
pub const ASK: &str = "-###";

/// Environment variables, by the start of their names, that have the driver write down what it
/// runs: then it has to be the one that runs it.
pub const REPORTS: [&str; 2] = ["CC_PRINT_", "CC_LOG_"];

/// A cc1 command with gaps for the names of one backend's files.
#[derive(Debug, PartialEq, Eq)]
pub struct Template {
    words: Vec<Word>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// Words that are the same for all, up to the next gap.
    Text(Words),
    Object,
    Output,
    Index,
    /// The last part of the object's name.
    File,
}

impl Word {
    /// The gap that a word of the command for `part` is.
    fn gap(text: &str, part: &Part) -> Option<Self> {
        let gaps = [Word::Object, Word::Output, Word::Index, Word::File];
        gaps.into_iter().find(|gap| gap.name(part).is_some_and(|name| name == text))
    }

    /// What is put into a gap.
    fn name<'a>(&self, part: &'a Part) -> Option<Cow<'a, str>> {
        Some(match self {
            Word::Text(_) => return None,
            Word::Object => part.object.as_str().into(),
            Word::Output => aside_name(&part.native()).into(),
            Word::Index => format!("-fthinlto-index={}", part.index()).into(),
            Word::File => part.object.rsplit('/').next().unwrap_or(&part.object).into(),
        })
    }

    fn fill(&self, part: &Part, words: &mut Words) {
        match (self, self.name(part)) {
            (_, Some(name)) => words.push(&name),
            (Word::Text(text), None) => words.append(text),
            (_, None) => {}
        }
    }
}

impl Template {
    /// Learns from what the driver printed for the backends of two objects with equal flags. `None`
    /// where it would run something else than one cc1 inside itself, has a warning to give, or
    /// where the first answer does not foretell the second.
    pub fn learn(first: (&Part, &[u8]), second: (&Part, &[u8])) -> Option<Self> {
        let mut words: Vec<Word> = Vec::new();
        for text in command(std::str::from_utf8(first.1).ok()?)?.iter() {
            match (Word::gap(text, first.0), words.last_mut()) {
                (Some(gap), _) => words.push(gap),
                (None, Some(Word::Text(run))) => run.push(text),
                (None, _) => words.push(Word::Text([text].into_iter().collect())),
            }
        }
        let template = Template { words };
        let other = command(std::str::from_utf8(second.1).ok()?)?;
        (template.fill(second.0) == other).then_some(template)
    }

    /// The command for one backend.
    pub fn fill(&self, part: &Part) -> Words {
        const NAMES: usize = 512;
        let texts = self.words.iter().map(|word| match word {
            Word::Text(text) => text.size(),
            _ => 0,
        });
        let mut words = Words::with_room(texts.sum::<usize>() + NAMES);
        self.words.iter().for_each(|word| word.fill(part, &mut words));
        words
    }
}

/// The one command that the driver printed, if it is a cc1 that it would run inside itself.
fn command(printed: &str) -> Option<Words> {
    if ["warning: ", "error: "].iter().any(|word| printed.contains(word)) {
        return None;
    }
    let mut lines = printed.lines().skip_while(|line| *line != " (in-process)").skip(1);
    let words = quoted_words(lines.next()?)?;
    let is_one = lines.next().is_none() && words.iter().nth(1) == Some("-cc1");
    is_one.then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As `clang -###` prints it.
    fn printed(words: &[&str]) -> String {
        let escaped = |word: &&str| {
            let escape =
                |c: char| if "\"\\$".contains(c) { format!("\\{c}") } else { c.to_string() };
            format!(" \"{}\"", word.chars().map(escape).collect::<String>())
        };
        let line: String = words.iter().map(escaped).collect();
        format!("clang version 22.1.8\nInstalledDir: /usr/bin\n (in-process)\n{line}\n")
    }

    fn answer(object: &str, more: &[&str]) -> Vec<u8> {
        let output = aside_name(&Part::of_vmlinux(object).native());
        let index = format!("-fthinlto-index={object}.thinlto.bc");
        let file = object.rsplit('/').next().unwrap();
        let names = ["clang", "-cc1", &index, "-main-file-name", file, "-O2"];
        let end = ["-o", &output, "-x", "ir", object];
        printed(&[&names, more, &end].concat()).into_bytes()
    }

    fn part(object: &str) -> Part {
        Part::of_vmlinux(object)
    }

    fn learn(first: &[u8], second: &[u8]) -> Option<Template> {
        Template::learn((&part("a/b.o"), first), (&part("c/d/e.o"), second))
    }

    #[test]
    fn two_answers_tell_the_third() {
        let flags = ["-DX=\"$y\\ z\"", "-fdebug-compilation-dir=/obj dir"];
        let template = learn(&answer("a/b.o", &flags), &answer("c/d/e.o", &flags)).unwrap();
        let third = String::from_utf8(answer("f.o", &flags)).unwrap();
        assert_eq!(template.fill(&part("f.o")), command(&third).unwrap());
        assert!(template.fill(&part("f.o")).iter().any(|word| word == flags[0]));
    }

    #[test]
    fn names_in_other_places_leave_the_driver_its_work() {
        let whole = |object: &str| answer(object, &[&format!("-record={object}")]);
        assert_eq!(learn(&whole("a/b.o"), &whole("c/d/e.o")), None);
        let flag = |object: &str| answer(object, &[&format!("-stack-usage-file={object}.su")]);
        assert_eq!(learn(&flag("a/b.o"), &flag("c/d/e.o")), None);
        assert_eq!(learn(&answer("a/b.o", &["-O1"]), &answer("c/d/e.o", &["-O3"])), None);
    }

    #[test]
    fn anything_but_one_cc1_inside_the_driver_leaves_it_its_work() {
        let good = String::from_utf8(answer("a/b.o", &[])).unwrap();
        let other = answer("c/d/e.o", &[]);
        assert!(learn(good.as_bytes(), &other).is_some());
        let spawned = good.replace(" (in-process)\n", "");
        let two = format!("{good} \"/usr/bin/ld\" \"x\"\n");
        let warned = format!("clang: warning: argument unused\n{good}");
        let assembler = good.replace("-cc1", "-cc1as");
        let cut = good.trim_end().trim_end_matches('"').to_owned();
        for bad in [spawned, two, warned, assembler, cut, String::new()] {
            assert_eq!(learn(bad.as_bytes(), &other), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn words_come_back_as_they_were(words in proptest::collection::vec("[^\n\r]*", 1..5)) {
            let printed = printed(&words.iter().map(String::as_str).collect::<Vec<_>>());
            let line = printed.lines().last().unwrap();
            prop_assert_eq!(quoted_words(line), Some(words.into_iter().collect()));
        }

        #[test]
        fn whatever_is_printed_does_no_harm(text in any::<String>(), line in "[ \"\\\\a]*") {
            let _ = (command(&text), quoted_words(&line));
        }
    }
}
