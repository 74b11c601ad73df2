//! What is known of a file's content: its digest, size and format. Must not know which file it is.

use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::format::Format;

/// What is known of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Digest of all bytes.
    pub digest: Digest,
    /// Format, by its first bytes.
    pub format: Format,
    /// Size in bytes.
    pub size: u64,
}

impl Facts {
    /// Facts of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let size = bytes.len() as u64;
        Facts { digest: Digest::of(bytes), format: Format::of(bytes), size }
    }
}

/// Facts of all bytes of an open file.
///
/// `said` is the size that the file is said to have; of one that grows meanwhile, no more is read than
/// is needed to see that.
pub(super) fn hash(file: &mut File, said: u64) -> io::Result<Facts> {
    const PIECE: u64 = 128 << 10;
    let mut hasher = blake3::Hasher::new();
    // Most files are small: nothing is cleared that is not used.
    let mut buffer = vec![0; said.clamp(1, PIECE) as usize];
    let (mut size, mut format) = (0u64, None);
    while size <= said {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        format.get_or_insert_with(|| Format::of(&buffer[..count]));
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
    Ok(Facts { digest: hasher.finalize().into(), format: format.unwrap_or(Format::Other), size })
}
