//! Values of msgpack and their bytes: what both sides of the wire are written in. No messages, no state.
//!
//! What comes in is hostile until it was looked at. A value is walked once before anything in it is believed: every
//! length is checked against the bytes that are there, nesting has a limit and needs no recursion. What it says is then
//! borrowed from its bytes; no tree of values is built, so that a value takes no more memory than it is long.

use rmp::Marker;

use crate::printable::printable;

/// How deep a message may nest; an update of the stock worker nests five deep.
const MAX_DEPTH: usize = 32;

/// Bytes that are no message of this protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no message: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// One whole value that was walked and not yet looked into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Raw<'m>(&'m [u8]);

/// What a field that is missing says.
pub(super) const NIL: Raw<'_> = Raw(&[0xc0]);

impl<'m> Raw<'m> {
    /// Walks over one value that fills `bytes` to the end.
    pub(super) fn whole(bytes: &'m [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let value = reader.skip()?;
        if reader.0.is_empty() { Ok(value) } else { Err(Malformed("bytes after its end")) }
    }

    fn head(self) -> (Head<'m>, Reader<'m>) {
        let mut reader = Reader(self.0);
        // It was walked before.
        let head = reader.head().unwrap_or(Head::Other);
        (head, reader)
    }

    pub(super) fn is_nil(self) -> bool {
        matches!(self.head().0, Head::Nil)
    }

    pub(super) fn boolean(self) -> Option<bool> {
        match self.head().0 {
            Head::Boolean(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn bytes(self) -> Option<&'m [u8]> {
        match self.head().0 {
            Head::Text(bytes) | Head::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn text(self) -> Option<&'m str> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// For people: the beginning of a text, whatever it is.
    pub(super) fn shown_text(self) -> String {
        let bytes = self.bytes().unwrap_or(b"no text");
        printable(&String::from_utf8_lossy(&bytes[..bytes.len().min(1000)])).into_owned()
    }

    pub(super) fn unsigned(self) -> Option<u64> {
        match self.head().0 {
            Head::Unsigned(number) => Some(number),
            Head::Signed(number) => u64::try_from(number).ok(),
            _ => None,
        }
    }

    pub(super) fn signed(self) -> Option<i64> {
        match self.head().0 {
            Head::Unsigned(number) => i64::try_from(number).ok(),
            Head::Signed(number) => Some(number),
            _ => None,
        }
    }

    pub(super) fn float(self) -> Option<f64> {
        match self.head().0 {
            Head::Float(number) => Some(number),
            Head::Unsigned(number) => u32::try_from(number).ok().map(f64::from),
            _ => None,
        }
    }

    /// How many items a list has, and where they begin.
    pub(super) fn items(self) -> Option<(u32, Reader<'m>)> {
        match self.head() {
            (Head::List(length), rest) => Some((length, rest)),
            _ => None,
        }
    }

    pub(super) fn first_item(self) -> Option<Raw<'m>> {
        let (length, mut rest) = self.items()?;
        if length == 0 { None } else { rest.skip().ok() }
    }

    /// Calls `note` with each field of a map. Keys that are no text are passed over.
    pub(super) fn each_field(self, mut note: impl FnMut(&'m [u8], Raw<'m>)) -> Option<()> {
        let (Head::Map(length), mut rest) = self.head() else { return None };
        for _ in 0..length {
            let (key, value) = (rest.skip().ok()?, rest.skip().ok()?);
            if let Some(key) = key.bytes() {
                note(key, value);
            }
        }
        Some(())
    }
}

/// How a value begins.
enum Head<'m> {
    Nil,
    Boolean(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'m [u8]),
    Binary(&'m [u8]),
    /// Its items follow.
    List(u32),
    /// Twice as many values follow.
    Map(u32),
    Other,
}

/// Bytes that are still to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reader<'m>(&'m [u8]);

impl<'m> Reader<'m> {
    fn take(&mut self, length: usize) -> Result<&'m [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("as many as were asked for"))
    }

    fn length<const N: usize>(&mut self) -> Result<u32, Malformed> {
        Ok(self.array::<N>()?.iter().fold(0, |length, byte| length << 8 | u32::from(*byte)))
    }

    fn sized<const N: usize>(&mut self) -> Result<&'m [u8], Malformed> {
        let length = self.length::<N>()?;
        self.take(length as usize)
    }

    fn extension(&mut self, length: u32) -> Result<Head<'m>, Malformed> {
        self.take(1)?;
        self.take(length as usize)?;
        Ok(Head::Other)
    }

    /// Reads the beginning of a list or map, or the whole of any other value.
    fn head(&mut self) -> Result<Head<'m>, Malformed> {
        let [marker] = self.array()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Head::Nil,
            Marker::True => Head::Boolean(true),
            Marker::False => Head::Boolean(false),
            Marker::FixPos(number) => Head::Unsigned(number.into()),
            Marker::FixNeg(number) => Head::Signed(number.into()),
            Marker::U8 => Head::Unsigned(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Head::Unsigned(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Head::Unsigned(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => Head::Unsigned(u64::from_be_bytes(self.array()?)),
            Marker::I8 => Head::Signed(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Head::Signed(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Head::Signed(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Head::Signed(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Head::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Head::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(length) => Head::Text(self.take(length.into())?),
            Marker::Str8 => Head::Text(self.sized::<1>()?),
            Marker::Str16 => Head::Text(self.sized::<2>()?),
            Marker::Str32 => Head::Text(self.sized::<4>()?),
            Marker::Bin8 => Head::Binary(self.sized::<1>()?),
            Marker::Bin16 => Head::Binary(self.sized::<2>()?),
            Marker::Bin32 => Head::Binary(self.sized::<4>()?),
            Marker::FixArray(length) => Head::List(length.into()),
            Marker::Array16 => Head::List(self.length::<2>()?),
            Marker::Array32 => Head::List(self.length::<4>()?),
            Marker::FixMap(length) => Head::Map(length.into()),
            Marker::Map16 => Head::Map(self.length::<2>()?),
            Marker::Map32 => Head::Map(self.length::<4>()?),
            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Ext8 => {
                let length = self.length::<1>()?;
                self.extension(length)?
            }
            Marker::Ext16 => {
                let length = self.length::<2>()?;
                self.extension(length)?
            }
            Marker::Ext32 => {
                let length = self.length::<4>()?;
                self.extension(length)?
            }
            Marker::Reserved => return Err(Malformed("a byte that begins no value")),
        })
    }

    /// Walks over one value with everything in it.
    pub(super) fn skip(&mut self) -> Result<Raw<'m>, Malformed> {
        let begin = self.0;
        // How many values are still to come at each level.
        let mut left = [0_u64; MAX_DEPTH];
        let mut depth = 0;
        left[0] = 1;
        loop {
            while left[depth] == 0 {
                if depth == 0 {
                    return Ok(Raw(&begin[..begin.len() - self.0.len()]));
                }
                depth -= 1;
            }
            left[depth] -= 1;
            let values = match self.head()? {
                Head::List(length) => u64::from(length),
                Head::Map(length) => 2 * u64::from(length),
                _ => continue,
            };
            // A value is a byte at least.
            if values > self.0.len() as u64 {
                return Err(Malformed("it ends too early"));
            }
            depth += 1;
            *left.get_mut(depth).ok_or(Malformed("nested too deeply"))? = values;
        }
    }
}

/// Writes one message. Writing to memory does not fail.
pub(super) struct Writer(pub(super) Vec<u8>);

const TO_MEMORY: &str = "memory takes it";

impl Writer {
    pub(super) fn request(op: &str, number: u64, more_fields: u32) -> Self {
        let mut writer = Self(Vec::with_capacity(64));
        writer.map(2 + more_fields);
        writer.field("op").text(op);
        writer.field("seq_number").unsigned(number);
        writer
    }

    pub(super) fn map(&mut self, fields: u32) -> &mut Self {
        rmp::encode::write_map_len(&mut self.0, fields).expect(TO_MEMORY);
        self
    }

    pub(super) fn list(&mut self, items: usize) -> &mut Self {
        let items = u32::try_from(items).expect("its sender looked at the length");
        rmp::encode::write_array_len(&mut self.0, items).expect(TO_MEMORY);
        self
    }

    pub(super) fn field(&mut self, name: &str) -> &mut Self {
        self.text(name)
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        rmp::encode::write_str(&mut self.0, text).expect(TO_MEMORY);
        self
    }

    pub(super) fn binary(&mut self, bytes: &[u8]) -> &mut Self {
        rmp::encode::write_bin(&mut self.0, bytes).expect(TO_MEMORY);
        self
    }

    pub(super) fn unsigned(&mut self, number: u64) -> &mut Self {
        rmp::encode::write_uint(&mut self.0, number).expect(TO_MEMORY);
        self
    }

    pub(super) fn signed(&mut self, number: i64) -> &mut Self {
        rmp::encode::write_sint(&mut self.0, number).expect(TO_MEMORY);
        self
    }

    pub(super) fn float(&mut self, number: f64) -> &mut Self {
        rmp::encode::write_f64(&mut self.0, number).expect(TO_MEMORY);
        self
    }

    pub(super) fn nil(&mut self) -> &mut Self {
        rmp::encode::write_nil(&mut self.0).expect(TO_MEMORY);
        self
    }

    pub(super) fn boolean(&mut self, value: bool) -> &mut Self {
        rmp::encode::write_bool(&mut self.0, value).expect(TO_MEMORY);
        self
    }

    pub(super) fn seconds(&mut self, seconds: Option<f64>) -> &mut Self {
        match seconds {
            Some(seconds) => self.float(seconds),
            None => self.nil(),
        }
    }
}
