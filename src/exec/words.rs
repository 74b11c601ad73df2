//! The words of a command in one piece of memory, as exec(2)'s strings and a fork server's packet
//! have them: a kernel's stage makes thousands of commands of hundreds of words each, and runs
//! most of them without a look at a word. Must not know what a word means.

use std::fmt;

/// Bytes that most commands of a kernel's stage have room in.
const USUAL: usize = 4 << 10;

/// Words of a command, each ended by a zero byte.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Words {
    text: String,
    /// A word had a zero byte in it: no process can be given these.
    unfit: bool,
}

impl Words {
    /// Adds a word at the end.
    pub fn push(&mut self, word: &str) {
        self.unfit |= word.contains('\0');
        self.text.push_str(word);
        self.text.push('\0');
    }

    /// All words in turn.
    pub fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        self.text.split_terminator('\0')
    }

    /// The words, each with the zero byte after it; `None` where one has another in it.
    pub fn text(&self) -> Option<&str> {
        (!self.unfit).then_some(&self.text)
    }
}

impl<S: AsRef<str>> Extend<S> for Words {
    fn extend<I: IntoIterator<Item = S>>(&mut self, words: I) {
        words.into_iter().for_each(|word| self.push(word.as_ref()));
    }
}

impl<S: AsRef<str>> FromIterator<S> for Words {
    fn from_iter<I: IntoIterator<Item = S>>(words: I) -> Self {
        let mut all = Words { text: String::with_capacity(USUAL), unfit: false };
        all.extend(words);
        all
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_zero_byte_in_a_word_is_not_the_end_of_one() {
        let words: Words = ["a\0b", "c"].into_iter().collect();
        assert_eq!(words.text(), None);
        let same: Words = ["a", "b", "c"].into_iter().collect();
        assert_eq!(same.text(), Some("a\0b\0c\0"));
        assert_ne!(words, same);
    }

    proptest! {
        #[test]
        fn words_come_back_one_by_one(words in proptest::collection::vec("[^\0]*", 0..6)) {
            let all: Words = words.iter().collect();
            prop_assert_eq!(all.iter().collect::<Vec<_>>(), words);
        }
    }
}
