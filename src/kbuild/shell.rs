//! Text for a shell, split into words as the crate `shell_words` does it: a word with no quotes in it,
//! which nearly all of the hundreds are, is passed on as it stands, and no word is copied here. Must not
//! know what a word means.

/// What ends a word, where it is not quoted. A new line is left to the crate, as comments are.
const BLANKS: [char; 2] = [' ', '\t'];

/// Passes on each word of a text. An `Err` is a clause that says why there are none.
pub(super) fn split(text: &str, mut take: impl FnMut(&str)) -> Result<(), &'static str> {
    if memchr::memchr2(b'\n', b'#', text.as_bytes()).is_some() {
        return split_slowly(text, &mut take);
    }
    let mut rest = text.trim_start_matches(BLANKS);
    while !rest.is_empty() {
        let (end, plain) = end_of_word(rest.as_bytes());
        let (word, after) = rest.split_at(end);
        match plain {
            true => take(word),
            false => split_slowly(word, &mut take)?,
        }
        rest = after.trim_start_matches(BLANKS);
    }
    Ok(())
}

fn split_slowly(text: &str, take: &mut impl FnMut(&str)) -> Result<(), &'static str> {
    let words = shell_words::split(text).map_err(|_| "a command with an unclosed quote")?;
    words.iter().for_each(|word| take(word));
    Ok(())
}

/// Where the first word of a text ends, and whether it means itself.
fn end_of_word(text: &[u8]) -> (usize, bool) {
    let is_plain = |c: &u8| !matches!(c, b' ' | b'\t' | b'\'' | b'"' | b'\\');
    let plain = text.iter().position(|c| !is_plain(c)).unwrap_or(text.len());
    if matches!(text.get(plain), None | Some(b' ' | b'\t')) {
        return (plain, true);
    }
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.iter().enumerate().skip(plain) {
        match (quote, c) {
            _ if escaped => escaped = false,
            (None | Some(b'"'), b'\\') => escaped = true,
            (None, b'\'' | b'"') => quote = Some(*c),
            (None, b' ' | b'\t') => return (at, false),
            (Some(open), c) if open == *c => quote = None,
            _ => {}
        }
    }
    (text.len(), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Option<Vec<String>> {
        let mut words = Vec::new();
        split(text, |word| words.push(word.to_owned())).ok().map(|()| words)
    }

    #[test]
    fn quoted_words_of_a_kernels_flags() {
        let text = " -O2\t-D'pr(f)=\"x: \" f' -DM='\"k/p\"' -DE=\\\"a\\ b\\\"  '' ";
        let want = ["-O2", "-Dpr(f)=\"x: \" f", "-DM=\"k/p\"", "-DE=\"a b\"", ""];
        assert_eq!(words(text).unwrap(), want);
        assert_eq!(words("a 'b"), None);
    }

    proptest! {
        #[test]
        fn words_are_those_of_the_crate(text in "[ab \t\n'\"\\\\#$é]{0,16}") {
            prop_assert_eq!(words(&text), shell_words::split(&text).ok());
        }

        #[test]
        fn long_texts_too(text in "[a-e \t'\"\\\\=]{0,80}") {
            prop_assert_eq!(words(&text), shell_words::split(&text).ok());
        }
    }
}
