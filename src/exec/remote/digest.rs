//! Digests as the server knows them: by SHA-256, or by BLAKE3 where the server can and the store of this program
//! has them already. Must not know what a blob is for.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::messages;

/// What a digest is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Sha256,
    Blake3,
}

impl Function {
    /// Its number in the protocol.
    pub fn number(self) -> i32 {
        match self {
            Function::Sha256 => 1,
            Function::Blake3 => 9,
        }
    }

    /// What stands for it in the names of resources: newer functions are named.
    pub fn in_names(self) -> &'static str {
        match self {
            Function::Sha256 => "",
            Function::Blake3 => "blake3/",
        }
    }

    /// The digest of some bytes.
    pub fn of(self, bytes: &[u8]) -> Digest {
        let hash = match self {
            Function::Sha256 => Sha256::digest(bytes).into(),
            Function::Blake3 => *blake3::hash(bytes).as_bytes(),
        };
        Digest { hash, size: bytes.len() as u64 }
    }
}

/// What names a blob: 32 bytes, and how many the blob has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Digest {
    pub hash: [u8; 32],
    pub size: u64,
}

impl Digest {
    /// The hash in hexadecimal.
    pub fn hex(&self) -> String {
        blake3::Hash::from(self.hash).to_hex().to_string()
    }

    /// As a message has it.
    pub fn message(&self) -> messages::Digest {
        messages::Digest { hash: self.hex(), size_bytes: self.size as i64 }
    }

    /// What a message has, if it is a digest.
    pub fn read(message: &messages::Digest) -> Option<Self> {
        let hash = blake3::Hash::from_hex(&message.hash).ok()?;
        Some(Digest { hash: *hash.as_bytes(), size: u64::try_from(message.size_bytes).ok()? })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}/{}", self.hex(), self.size)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf abc | sha256sum`, `printf abc | b3sum`.
    #[test]
    fn digests_are_those_of_the_programs() {
        let abc = Function::Sha256.of(b"abc").to_string();
        assert_eq!(abc, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/3");
        let abc = Function::Blake3.of(b"abc").to_string();
        assert_eq!(abc, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85/3");
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let digest = Function::Sha256.of(b"x");
        assert_eq!(Digest::read(&digest.message()), Some(digest));
        let with = |hash: &str, size_bytes| messages::Digest { hash: hash.into(), size_bytes };
        assert_eq!(Digest::read(&with(&digest.hex(), -1)), None);
        assert_eq!(Digest::read(&with("ab", 1)), None);
        assert_eq!(Digest::read(&with(&"x".repeat(64), 1)), None);
    }
}
