//! A thin link as an entry of the shared cache holds it: its record, and the bytes of the index of each
//! module, in the record's order. What is read was perhaps written by others: nothing is taken that does
//! not fit together. Must not know what a thin link is made from.

use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;

use crate::format::Format;
use crate::store::{Digest, LinkRecord};

#[derive(Serialize, Deserialize)]
struct Saved<'a> {
    record: LinkRecord,
    #[serde(borrow)]
    indexes: Vec<&'a Bytes>,
}

/// The bytes of an entry: the record of a link, and its indexes.
pub fn pack(record: LinkRecord, indexes: &[Vec<u8>]) -> Vec<u8> {
    let indexes = indexes.iter().map(|index| Bytes::new(index)).collect();
    // Plain data into memory: there is nothing that could fail.
    postcard::to_stdvec(&Saved { record, indexes }).unwrap_or_default()
}

/// The record and the indexes in an entry's bytes; `None` where they are not those that [`pack`] was
/// given: an index that is no bitcode, or is not the one on record.
pub fn unpack(bytes: &[u8]) -> Option<(LinkRecord, Vec<&[u8]>)> {
    let (saved, rest) = postcard::take_from_bytes::<Saved<'_>>(bytes).ok()?;
    let Saved { record, indexes } = saved;
    let indexes: Vec<&[u8]> = indexes.into_iter().map(|index| &**index).collect();
    let mut pairs = record.modules.iter().zip(&indexes);
    let is_good = pairs.all(|(module, index)| {
        Format::of(index) == Format::Bitcode && Digest::of(index) == module.index
    });
    let is_whole = rest.is_empty() && record.modules.len() == indexes.len();
    (is_whole && is_good).then_some((record, indexes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Indexed;
    use crate::unit::Part;

    fn link(indexes: &[&[u8]]) -> (LinkRecord, Vec<Vec<u8>>) {
        let modules = indexes.iter().enumerate().map(|(at, index)| Indexed {
            part: Part { object: format!("{at}.o"), unit: None },
            index: Digest::of(index),
            imports: vec!["0.o".into()],
        });
        let key = Digest::of(b"key");
        let record = LinkRecord { unit: "vmlinux".into(), key, modules: modules.collect() };
        (record, indexes.iter().map(|index| index.to_vec()).collect())
    }

    #[test]
    fn a_link_comes_back_whole_or_not_at_all() {
        let (record, indexes) = link(&[b"BC\xC0\xDE one", b"BC\xC0\xDE two"]);
        let bytes = pack(record.clone(), &indexes);
        let (found, back) = unpack(&bytes).unwrap();
        assert!(found == record && back == indexes);
        assert!(unpack(&[&bytes, b"x".as_slice()].concat()).is_none(), "something behind it");
        for length in 0..bytes.len() {
            assert!(unpack(&bytes[..length]).is_none(), "{length} bytes of {}", bytes.len());
        }
    }

    #[test]
    fn an_index_that_is_empty_or_anothers_is_not_taken() {
        let (record, mut indexes) = link(&[b"BC\xC0\xDE one", b"BC\xC0\xDE two"]);
        indexes.swap(0, 1);
        assert!(unpack(&pack(record.clone(), &indexes)).is_none());
        indexes.pop();
        assert!(unpack(&pack(record, &indexes)).is_none());
        let (record, indexes) = link(&[b""]);
        assert!(unpack(&pack(record, &indexes)).is_none());
    }
}
