//! The words of a command in one piece of memory, as exec(2)'s strings and a fork server's packet
//! have them: a kernel's stage makes thousands of commands of hundreds of words each, and runs
//! most of them without a look at a word. Must not know what a word means.

use std::fmt;

/// Words of a command, each ended by a zero byte.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Words {
    text: String,
    /// A word had a zero byte in it: no process can be given these.
    unfit: bool,
}

impl Words {
    /// None yet, with room for so many bytes.
    pub fn with_room(bytes: usize) -> Self {
        Words { text: String::with_capacity(bytes), unfit: false }
    }

    /// How many bytes they take, each with the zero byte after it.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// Adds a word at the end.
    pub fn push(&mut self, word: &str) {
        self.unfit |= word.contains('\0');
        self.text.push_str(word);
        self.text.push('\0');
    }

    /// Adds all words of others at the end.
    pub fn append(&mut self, others: &Words) {
        self.unfit |= others.unfit;
        self.text.push_str(&others.text);
    }

    /// All words in turn; they are whole only where [`Words::text`] is there.
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
        let mut all = Words::default();
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

    fn of(words: &[&str]) -> Words {
        words.iter().collect()
    }

    #[test]
    fn words_with_a_zero_byte_are_no_text() {
        assert_eq!(of(&["a\0b", "c"]).text(), None);
        let mut words = of(&["a"]);
        words.append(&of(&["b\0"]));
        assert_eq!(words.text(), None);
        assert_eq!(of(&["a", "b", "c"]).text(), Some("a\0b\0c\0"));
        assert_ne!(of(&["a\0b", "c"]), of(&["a", "b", "c"]));
    }

    #[test]
    fn an_empty_word_is_a_word() {
        assert_eq!(Words::default().text(), Some(""));
        let mut words = of(&[""]);
        assert_eq!(words.text(), Some("\0"));
        words.push("a");
        words.append(&of(&["", "b"]));
        assert_eq!(words.text(), Some("\0a\0\0b\0"));
        assert_eq!(words.iter().collect::<Vec<_>>(), ["", "a", "", "b"]);
    }

    proptest! {
        #[test]
        fn words_come_back_one_by_one(words in proptest::collection::vec("[^\0]*", 0..6)) {
            let all: Words = words.iter().collect();
            prop_assert_eq!(all.iter().collect::<Vec<_>>(), words);
        }
    }
}
