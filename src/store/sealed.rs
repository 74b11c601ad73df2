//! Files of ours that are read whole or not at all: a first line that says what they are, the CRC-32 of what
//! follows, and that. Must not know what it is.

/// What a file of this first line holds behind its check, if that is right.
pub(crate) fn open<'b>(magic: &[u8], bytes: &'b [u8]) -> Option<&'b [u8]> {
    let (check, payload) = bytes.strip_prefix(magic)?.split_at_checked(4)?;
    (crc32fast::hash(payload).to_le_bytes() == check).then_some(payload)
}

/// The bytes of such a file.
pub(crate) fn seal(magic: &[u8], payload: &[u8]) -> Vec<u8> {
    [magic, &crc32fast::hash(payload).to_le_bytes(), payload].concat()
}
