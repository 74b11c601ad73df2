//! Content digests and keys: BLAKE3, with every field's length in front of it, so that two
//! different lists of fields never give one key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// BLAKE3 of a file's bytes, or of a list of fields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        blake3::hash(bytes).into()
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 16 of its 64 hexadecimal digits: enough to tell two inputs apart.
    pub fn short(&self) -> String {
        String::from_utf8_lossy(&self.first_digits()).into_owned()
    }

    fn first_digits(&self) -> [u8; 16] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |at: usize| self.0[at / 2] >> (4 * (1 - at % 2)) & 15;
        std::array::from_fn(|at| DIGITS[usize::from(digit(at))])
    }
}

/// A digest that is recorded as its [first digits](Digest::short) alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Short(pub Digest);

impl Serialize for Short {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = self.0.first_digits();
        serializer.serialize_str(std::str::from_utf8(&digits).unwrap_or_default())
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Digest(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = blake3::HexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(blake3::Hash::from_hex(text)?.into())
    }
}

impl Serialize for Digest {
    /// Hexadecimal for people, 32 bytes in a binary format.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer).map(Digest);
        }
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Builds a key from fields, in order.
#[derive(Debug)]
pub struct KeyBuilder(blake3::Hasher);

impl KeyBuilder {
    /// Starts a key; `purpose` keeps keys of different kinds and versions apart.
    pub fn new(purpose: &str) -> Self {
        let mut key = KeyBuilder(blake3::Hasher::new());
        key.field(purpose.as_bytes());
        key
    }

    /// Adds a field.
    pub fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a digest as a field.
    pub fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.field(&digest.0)
    }

    /// The key.
    pub fn finish(&self) -> Digest {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(fields: &[Vec<u8>]) -> Digest {
        let mut key = KeyBuilder::new("test");
        fields.iter().for_each(|field| {
            key.field(field);
        });
        key.finish()
    }

    proptest! {
        #[test]
        fn different_fields_give_different_keys(
            a in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..5),
            b in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..5),
        ) {
            prop_assert_eq!(key(&a) == key(&b), a == b);
        }

        #[test]
        fn digests_read_back(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let digest = Digest::of(&bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
            prop_assert_eq!(digest.short(), &digest.to_string()[..16]);
            let short = postcard::to_stdvec(&Short(digest)).unwrap();
            prop_assert_eq!(short, postcard::to_stdvec(&digest.short()).unwrap());
            let json = serde_json::to_string(&digest).unwrap();
            prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
            let binary = postcard::to_stdvec(&digest).unwrap();
            prop_assert_eq!(binary.len(), 32);
            prop_assert_eq!(postcard::from_bytes::<Digest>(&binary).unwrap(), digest);
        }
    }
}
