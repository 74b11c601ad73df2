//! Protocol buffers as bytes: what a message of the protocol is written as and read from
//! (<https://protobuf.dev/programming-guides/encoding/>). Fields are written in the order of their numbers and
//! left out where they have their default, so that equal messages have equal bytes: digests are taken of these.
//! Must not know any message.

use bytes::{Buf, Bytes};

/// What was read is no such message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

type Result<T> = std::result::Result<T, Malformed>;

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

/// A message.
pub(super) trait Message: Default {
    /// Writes all fields.
    fn put_fields(&self, out: &mut Vec<u8>);

    /// Takes a field by its number, or skips it.
    fn take_field(&mut self, number: u32, wire: u8, from: &mut Bytes) -> Result<()>;

    /// The message as bytes.
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::new();
        self.put_fields(&mut out);
        out.into()
    }

    /// The message that these bytes are; what is new in a later version of it is skipped.
    fn from_bytes(from: Bytes) -> Result<Self> {
        let mut message = Self::default();
        message.merge(from)?;
        Ok(message)
    }

    /// Takes more fields of the message.
    fn merge(&mut self, mut from: Bytes) -> Result<()> {
        while from.has_remaining() {
            let key = varint(&mut from)?;
            let number = u32::try_from(key >> 3).map_err(|_| Malformed)?;
            self.take_field(number, (key & 7) as u8, &mut from)?;
        }
        Ok(())
    }
}

/// The type of a field.
pub(super) trait Field {
    /// Writes it with its number, if it is not its default.
    fn put(&self, number: u32, out: &mut Vec<u8>);

    /// Takes its value, or one more of them.
    fn take(&mut self, wire: u8, from: &mut Bytes) -> Result<()>;
}

/// Defines messages: `NUMBER => NAME: TYPE` for each field that is used here.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($number:literal => $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Default, PartialEq)]
            pub(in crate::exec::remote) struct $name {
                $(pub $field: $type,)*
            }

            impl Message for $name {
                fn put_fields(&self, _out: &mut Vec<u8>) {
                    $(Field::put(&self.$field, $number, _out);)*
                }

                fn take_field(
                    &mut self,
                    number: u32,
                    wire: u8,
                    from: &mut Bytes,
                ) -> std::result::Result<(), Malformed> {
                    match number {
                        $($number => Field::take(&mut self.$field, wire, from),)*
                        _ => skip(wire, from),
                    }
                }
            }
        )*
    };
}
pub(super) use messages;

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint(from: &mut Bytes) -> Result<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = from.try_get_u8().map_err(|_| Malformed)?;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

fn put_key(number: u32, wire: u8, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | u64::from(wire), out);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(number, BYTES, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn bytes(wire: u8, from: &mut Bytes) -> Result<Bytes> {
    if wire != BYTES {
        return Err(Malformed);
    }
    let length = usize::try_from(varint(from)?).map_err(|_| Malformed)?;
    if length > from.len() {
        return Err(Malformed);
    }
    Ok(from.split_to(length))
}

/// Leaves out a field that is not known here.
pub(super) fn skip(wire: u8, from: &mut Bytes) -> Result<()> {
    let length = match wire {
        VARINT => return varint(from).map(drop),
        BYTES => return bytes(wire, from).map(drop),
        FIXED_64 => 8,
        FIXED_32 => 4,
        _ => return Err(Malformed),
    };
    if length > from.len() {
        return Err(Malformed);
    }
    from.advance(length);
    Ok(())
}

impl Field for i64 {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if *self != 0 {
            put_key(number, VARINT, out);
            put_varint(*self as u64, out);
        }
    }

    fn take(&mut self, wire: u8, from: &mut Bytes) -> Result<()> {
        if wire != VARINT {
            return Err(Malformed);
        }
        *self = varint(from)? as i64;
        Ok(())
    }
}

impl Field for i32 {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        i64::from(*self).put(number, out);
    }

    fn take(&mut self, wire: u8, from: &mut Bytes) -> Result<()> {
        let mut value = 0_i64;
        value.take(wire, from)?;
        *self = value as i32;
        Ok(())
    }
}

impl Field for bool {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        i64::from(*self).put(number, out);
    }

    fn take(&mut self, wire: u8, from: &mut Bytes) -> Result<()> {
        let mut value = 0_i64;
        value.take(wire, from)?;
        *self = value != 0;
        Ok(())
    }
}

impl Field for String {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self.as_bytes(), out);
        }
    }

    fn take(&mut self, wire: u8, from: &mut Bytes) -> Result<()> {
        *self = String::from_utf8(bytes(wire, from)?.into()).map_err(|_| Malformed)?;
        Ok(())
    }
}

impl Field for Bytes {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self, out);
        }
    }

    fn take(&mut self, wire: u8, from: &mut Bytes) -> Result<()> {
        *self = bytes(wire, from)?;
        Ok(())
    }
}

impl<M: Message> Field for Option<M> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(message) = self {
            put_bytes(number, &message.to_bytes(), out);
        }
    }

    fn take(&mut self, wire: u8, from: &mut Bytes) -> Result<()> {
        self.get_or_insert_default().merge(bytes(wire, from)?)
    }
}

impl<M: Message> Field for Vec<M> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        self.iter().for_each(|message| put_bytes(number, &message.to_bytes(), out));
    }

    fn take(&mut self, wire: u8, from: &mut Bytes) -> Result<()> {
        self.push(M::from_bytes(bytes(wire, from)?)?);
        Ok(())
    }
}

impl Field for Vec<String> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        self.iter().for_each(|text| put_bytes(number, text.as_bytes(), out));
    }

    fn take(&mut self, wire: u8, from: &mut Bytes) -> Result<()> {
        let mut text = String::new();
        text.take(wire, from)?;
        self.push(text);
        Ok(())
    }
}

/// Numbers of enumerations, which are written packed and may come one by one.
impl Field for Vec<i32> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            let mut packed = Vec::new();
            self.iter().for_each(|value| put_varint(i64::from(*value) as u64, &mut packed));
            put_bytes(number, &packed, out);
        }
    }

    fn take(&mut self, wire: u8, from: &mut Bytes) -> Result<()> {
        if wire == VARINT {
            self.push(varint(from)? as i32);
            return Ok(());
        }
        let mut packed = bytes(wire, from)?;
        while packed.has_remaining() {
            self.push(varint(&mut packed)? as i32);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    messages! {
        /// One field of each type.
        All {
            1 => text: String,
            2 => number: i64,
            3 => small: i32,
            4 => truth: bool,
            5 => inner: Option<Inner>,
            6 => many: Vec<Inner>,
            7 => texts: Vec<String>,
            8 => kinds: Vec<i32>,
            900 => bytes: Bytes,
        }
        /// Another message.
        Inner {
            3 => name: String,
        }
        /// A later version of it.
        Later {
            1 => fixed: i64,
            3 => name: String,
            4 => more: Vec<Inner>,
        }
    }

    fn inner(name: &str) -> Inner {
        Inner { name: name.to_owned() }
    }

    /// The bytes are those of the encoding's own description.
    #[test]
    fn bytes_are_those_of_the_standard() {
        let message = All { number: 150, text: "testing".into(), ..All::default() };
        assert_eq!(&message.to_bytes()[..], b"\x0a\x07testing\x10\x96\x01");
        let message = All { small: -2, kinds: vec![3, 270], ..All::default() };
        let expected = b"\x18\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x42\x03\x03\x8e\x02";
        assert_eq!(&message.to_bytes()[..], expected);
        assert_eq!(All::default().to_bytes().len(), 0);
    }

    #[test]
    fn a_message_that_comes_in_two_parts_is_one() {
        let bytes = Bytes::from_static(b"\x2a\x03\x1a\x01a\x2a\x00");
        assert_eq!(All::from_bytes(bytes).unwrap().inner, Some(inner("a")));
    }

    #[test]
    fn what_is_new_in_a_message_is_skipped() {
        let later = Later { fixed: 7, name: "n".into(), more: vec![inner("m")] };
        let mut bytes = later.to_bytes().to_vec();
        bytes.extend(b"\x29\x01\x02\x03\x04\x05\x06\x07\x08\x35\x01\x02\x03\x04");
        assert_eq!(Inner::from_bytes(bytes.into()), Ok(inner("n")));
        assert_eq!(Inner::from_bytes(Bytes::from_static(b"\x1b")), Err(Malformed), "a group");
    }

    proptest! {
        #[test]
        fn messages_come_back(text in ".*", number: i64, small: i32, truth: bool,
                              names in prop::collection::vec(".{0,3}", 0..3),
                              kinds in prop::collection::vec(any::<i32>(), 0..3)) {
            let message = All {
                inner: names.first().map(|name| inner(name)),
                many: names.iter().map(|name| inner(name)).collect(),
                texts: names, text: text.clone(), number, small, truth, kinds, bytes: text.into(),
            };
            prop_assert_eq!(All::from_bytes(message.to_bytes()), Ok(message.clone()));
            let bytes = message.to_bytes();
            for end in 0..bytes.len() {
                let _ = All::from_bytes(bytes.slice(..end));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = All::from_bytes(bytes.into());
        }
    }
}
