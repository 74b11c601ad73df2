//! The table of kallsyms' tokens: pairs of bytes that occur most, each replaced by one byte
//! that no name holds. Must not know symbols, only their names.
//!
//! Format: `scripts/kallsyms.c`, Linux 6.1 to 7.3: bytes that no name holds are given to pairs
//! from 255 down; the pair that occurs most is next, of several the one with the lowest
//! number, where the second byte counts 256.

/// Bytes that a token stands for: one that is in the names, or a pair of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Unused,
    Byte,
    Pair(u8, u8),
}

/// The tokens, and the names written with them.
#[derive(Debug)]
pub struct Compressed {
    tokens: [Token; 256],
    /// The names, in the order in which they were given.
    pub names: Vec<Vec<u8>>,
}

/// Names of which pairs are counted, and where each pair may be.
struct Names {
    names: Vec<Vec<u8>>,
    counts: Vec<i32>,
    /// Names that held a pair once, each at most once in a row.
    places: Vec<Vec<u32>>,
}

fn number(first: u8, second: u8) -> usize {
    usize::from(first) | usize::from(second) << 8
}

impl Names {
    fn new(names: Vec<Vec<u8>>) -> Self {
        let mut all = Names { names, counts: vec![0; 1 << 16], places: vec![Vec::new(); 1 << 16] };
        for (at, name) in (0_u32..).zip(&all.names) {
            for pair in name.windows(2) {
                let pair = number(pair[0], pair[1]);
                all.counts[pair] += 1;
                let places = &mut all.places[pair];
                if places.last() != Some(&at) {
                    places.push(at);
                }
            }
        }
        all
    }

    /// The pair that occurs most; `None` where there is none.
    fn best(&self) -> Option<(u8, u8)> {
        let mut best = 0;
        for (number, count) in self.counts.iter().enumerate() {
            if *count > self.counts[best] {
                best = number;
            }
        }
        let pair = u16::try_from(best).unwrap_or_default().to_le_bytes();
        (self.counts[best] > 0).then_some((pair[0], pair[1]))
    }

    /// Writes `token` for each `first second`, from left to right; a new token is not looked
    /// at again.
    fn replace(&mut self, token: u8, first: u8, second: u8) {
        let places = std::mem::take(&mut self.places[number(first, second)]);
        for at in places {
            let name = &mut self.names[at as usize];
            let (mut from, mut to) = (0, 0);
            while from < name.len() {
                if name[from] != first || name.get(from + 1) != Some(&second) {
                    name[to] = name[from];
                    (from, to) = (from + 1, to + 1);
                    continue;
                }
                // Counts change as if the rest of the name were not looked at yet.
                self.counts[number(first, second)] -= 1;
                let before = to.checked_sub(1).map(|to| name[to]);
                let before = before.map(|byte| (number(byte, first), number(byte, token)));
                let after = name.get(from + 2);
                let after = after.map(|byte| (number(second, *byte), number(token, *byte)));
                for (old, new) in before.into_iter().chain(after) {
                    self.counts[old] -= 1;
                    self.counts[new] += 1;
                    if self.places[new].last() != Some(&at) {
                        self.places[new].push(at);
                    }
                }
                name[to] = token;
                (from, to) = (from + 2, to + 1);
            }
            name.truncate(to);
        }
    }
}

/// Finds the tokens, and writes the names with them.
pub fn compress(names: Vec<Vec<u8>>) -> Compressed {
    let mut tokens = [Token::Unused; 256];
    names.iter().flatten().for_each(|byte| tokens[usize::from(*byte)] = Token::Byte);
    let mut names = Names::new(names);
    for token in (0..=255_u8).rev() {
        if tokens[usize::from(token)] != Token::Unused {
            continue;
        }
        let Some((first, second)) = names.best() else {
            break;
        };
        tokens[usize::from(token)] = Token::Pair(first, second);
        names.replace(token, first, second);
    }
    Compressed { tokens, names: names.names }
}

impl Compressed {
    /// What each token stands for, in full.
    pub fn table(&self) -> Vec<Vec<u8>> {
        let all = 0..=255_u8;
        let expanded = all.map(|token| {
            let mut text = Vec::new();
            self.expand(token, &mut text);
            text
        });
        expanded.collect()
    }

    fn expand(&self, token: u8, text: &mut Vec<u8>) {
        match self.tokens[usize::from(token)] {
            Token::Unused => {}
            Token::Byte => text.push(token),
            Token::Pair(first, second) => {
                self.expand(first, text);
                self.expand(second, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_pair_that_occurs_most_comes_first_and_then_the_lowest() {
        let all = compress(vec![b"abab".to_vec(), b"cdx".to_vec(), b"cd".to_vec()]);
        // ab and cd occur twice each; ab has the lower number ('b' * 256 + 'a').
        assert_eq!(all.tokens[255], Token::Pair(b'a', b'b'));
        assert_eq!(all.tokens[254], Token::Pair(b'c', b'd'));
        assert_eq!(all.table()[255], b"ab");
        // Then what is left, until nothing occurs at all.
        assert_eq!((all.names[0].len(), all.names[1].len()), (1, 1));
    }

    #[test]
    fn a_row_of_one_byte_is_taken_by_twos() {
        let mut all = Names::new(vec![b"aaaaa".to_vec()]);
        all.replace(1, b'a', b'a');
        assert_eq!(all.names, [[1, 1, b'a']]);
    }

    proptest! {
        #[test]
        fn all_names_can_be_read_again(names in prop::collection::vec("[a-d_]{1,12}", 0..40)) {
            let given: Vec<Vec<u8>> = names.into_iter().map(String::into_bytes).collect();
            let all = compress(given.clone());
            let table = all.table();
            let read = |name: &Vec<u8>| {
                name.iter().flat_map(|token| table[usize::from(*token)].clone()).collect::<Vec<u8>>()
            };
            prop_assert_eq!(all.names.iter().map(read).collect::<Vec<_>>(), given);
        }

    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        // The counts that decide must be those of the names as they are.
        #[test]
        fn counts_stay_true(names in prop::collection::vec("[ab]{1,9}", 1..20)) {
            let mut all = Names::new(names.into_iter().map(String::into_bytes).collect());
            for token in (200..=255_u8).rev() {
                let Some((first, second)) = all.best() else { break };
                all.replace(token, first, second);
                prop_assert_eq!(&all.counts, &Names::new(all.names.clone()).counts);
            }
        }
    }
}
