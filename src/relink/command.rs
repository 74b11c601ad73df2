//! Recorded commands as text for a shell: looked at word by word, and pointed at other files,
//! but never split up and put together again. Must not know what any command does.

use std::ops::Range;

/// The words of a command: the places of what a shell would see as one word, quotes and all.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let (mut start, mut quote, mut escaped) = (None, None, false);
    for (at, c) in text.char_indices() {
        let ends = match (quote, c) {
            _ if escaped => {
                escaped = false;
                false
            }
            (Some('\''), '\\') => false,
            (_, '\\') => {
                escaped = true;
                false
            }
            (Some(open), _) => {
                if c == open {
                    quote = None;
                }
                false
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                false
            }
            (None, _) => c.is_whitespace() || matches!(c, ';' | '|' | '&' | '<' | '>'),
        };
        match (ends, start) {
            (true, Some(begin)) => {
                found.push(begin..at);
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    found.extend(start.map(|begin| begin..text.len()));
    found
}

/// The text with each word replaced for which `other` has something.
pub fn replace_words(text: &str, mut other: impl FnMut(&str) -> Option<String>) -> String {
    let (mut out, mut done) = (String::with_capacity(text.len()), 0);
    for place in words(text) {
        if let Some(new) = other(&text[place.clone()]) {
            out += &text[done..place.start];
            out += &new;
            done = place.end;
        }
    }
    out + &text[done..]
}

/// The text with `more` behind a program, wherever its words stand as such; they may begin a word
/// that is quoted.
pub fn add_to_program(text: &str, program: &str, more: &str) -> String {
    let (mut out, mut done) = (String::with_capacity(text.len()), 0);
    for place in words(text).into_iter().filter(|_| !program.is_empty()) {
        let quoted = text[place.start..].starts_with(['\'', '"']);
        let start = place.start + usize::from(quoted);
        let Some(rest) = text[start..].strip_prefix(program).filter(|_| start >= done) else {
            continue;
        };
        let ends = |c: char| c.is_whitespace() || matches!(c, ';' | '|' | '&' | '\'' | '"');
        if rest.chars().next().is_none_or(ends) {
            let end = start + program.len();
            out += &text[done..end];
            out += &format!(" {more}");
            done = end;
        }
    }
    out + &text[done..]
}

/// The command with `target` written to `aside` instead, a file in another folder. What is
/// named after it goes there as well: the file of dependencies, a map, what is moved over it.
pub fn retarget(text: &str, target: &str, aside: &str) -> String {
    let folder = |path: &str| path.rfind('/').map_or(0, |at| at + 1);
    let base = &target[folder(target)..];
    let beside = |ending: &str| format!("{}{ending}", &aside[..folder(aside)]);
    let temporary = format!(".tmp_{base}");
    replace_words(text, |word| {
        let plain = word.strip_prefix("./").unwrap_or(word);
        if plain == target {
            Some(aside.to_owned())
        } else if word == format!("-Map={target}.map") {
            Some(format!("-Map={aside}.map"))
        } else if word.starts_with("-Wp,-MMD,") {
            Some(format!("-Wp,-MMD,{}", beside(&format!(".{base}.d"))))
        } else if plain[folder(plain)..] == temporary {
            Some(beside(&temporary))
        } else {
            None
        }
    })
}

/// The words of a text, as they stand in it.
pub fn raw_words(text: &str) -> Vec<&str> {
    words(text).into_iter().map(|place| &text[place]).collect()
}

/// The program of a command: the words before the first option or file that it is given.
pub fn program(text: &str) -> String {
    let words = raw_words(text);
    words.into_iter().take_while(|word| !word.starts_with('-')).collect::<Vec<_>>().join(" ")
}

/// The programs that the commands of a text begin with.
pub fn programs(text: &str) -> Vec<&str> {
    let mut end = 0;
    let mut begins = |place: &Range<usize>| {
        let between = &text[end..place.start];
        end = place.end;
        place.start == between.len() || between.contains([';', '|', '&'])
    };
    words(text).into_iter().filter(|place| begins(place)).map(|place| &text[place]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn words_are_the_shells() {
        let text = "a  'b c';d\\ e|\"f 'g\" >h";
        assert_eq!(raw_words(text), ["a", "'b c'", "d\\ e", "\"f 'g\"", "h"]);
    }

    #[test]
    fn a_link_goes_elsewhere_with_all_that_is_named_after_it() {
        let text =
            "ld -r -o vmlinux.o -Map=vmlinux.o.map -T x vmlinux.a  ; ./objtool --link vmlinux.o";
        assert_eq!(
            retarget(text, "vmlinux.o", "s/vmlinux.o"),
            "ld -r -o s/vmlinux.o -Map=s/vmlinux.o.map -T x vmlinux.a  ; ./objtool --link s/vmlinux.o"
        );
        let text = "cc -Wp,-MMD,./..x.o.d -D'a=\".x.o\"' -c -o .x.o .x.c; ld -r -o ./.tmp_.x.o .x.o; mv ./.tmp_.x.o .x.o";
        assert_eq!(
            retarget(text, ".x.o", "s/.x.o"),
            "cc -Wp,-MMD,s/..x.o.d -D'a=\".x.o\"' -c -o s/.x.o .x.c; ld -r -o s/.tmp_.x.o s/.x.o; mv s/.tmp_.x.o s/.x.o"
        );
        let text = "objcopy -j 'x' vmlinux.unstripped vmlinux; objcopy vmlinux";
        assert_eq!(
            retarget(text, "vmlinux", "s/vmlinux"),
            "objcopy -j 'x' vmlinux.unstripped s/vmlinux; objcopy s/vmlinux"
        );
    }

    #[test]
    fn threads_are_given_to_the_linker_and_to_nothing_that_is_named_like_it() {
        let with = |text, linker| add_to_program(text, linker, "--threads=2");
        assert_eq!(
            with("ld -m elf_x86_64 --build-id=sha1 -o build/old.o; ld;./ld.sh", "ld"),
            "ld --threads=2 -m elf_x86_64 --build-id=sha1 -o build/old.o; ld --threads=2;./ld.sh"
        );
        assert_eq!(
            with("link.sh 'ccache ld.lld' '-z x' \"ccache ld.lld\" out", "ccache ld.lld"),
            "link.sh 'ccache ld.lld --threads=2' '-z x' \"ccache ld.lld --threads=2\" out"
        );
        assert_eq!(with("ccache ld.lld -r", "ccache ld.lld"), "ccache ld.lld --threads=2 -r");
    }

    #[test]
    fn programs_may_have_several_words() {
        assert_eq!(program("ccache clang-22 -Wp,-MMD,x -c"), "ccache clang-22");
        assert_eq!(
            programs(" tr a b <x | sed -n 's/;x/|/' && uniq; cat"),
            ["tr", "sed", "uniq", "cat"]
        );
    }

    proptest! {
        #[test]
        fn other_words_stay_as_they_are(text in "[ a-c;|'\"\\\\>]{0,40}") {
            prop_assert_eq!(replace_words(&text, |_| None), text.clone());
            prop_assert_eq!(retarget(&text, "no.o", "s/no.o"), text);
        }
    }
}
