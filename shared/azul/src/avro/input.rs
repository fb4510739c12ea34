//! Reads Avro's own types from bytes that come from outside. Every length is checked against the bytes that are left
//! before anything is taken or reserved. Counts are bounded by the minimum size of their items, and no function is
//! recursive.

use jiff::Timestamp;
use thiserror::Error;

use super::BLOCK_ITEMS;
use crate::event::{JsonObject, ModelVersion, StringMap};
use json::limits::{JsonLimitError, JsonLimits};

/// Reasons why bytes are not a bulk message of Azul. `at` is a position in bytes from the start of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AvroError {
    /// The message ends in the middle of a value.
    #[error("the message ends at byte {at}, in the middle of a value")]
    Truncated {
        /// Position of the value's first byte.
        at: usize,
    },
    /// A number has more than 64 bits.
    #[error("the number at byte {at} has more than 64 bits")]
    Long {
        /// Position of the number's first byte.
        at: usize,
    },
    /// A length is negative or longer than the rest of the message.
    #[error("the length {length} at byte {at} is negative or more than is left")]
    Length {
        /// Position of the length.
        at: usize,
        /// The length as it is written.
        length: i64,
    },
    /// A block claims more items than its bytes can hold.
    #[error("the block at byte {at} has {count} items, more than its bytes can hold")]
    Count {
        /// Position of the block's first byte.
        at: usize,
        /// Number of items that the block claims.
        count: u64,
    },
    /// The items of a block do not end where the block says.
    #[error("the items of a block end at byte {at}, not where the block says")]
    BlockSize {
        /// Position of the end of the items.
        at: usize,
    },
    /// A boolean is neither 0 nor 1.
    #[error("the truth value at byte {at} is neither 0 nor 1")]
    Boolean {
        /// Position of the boolean.
        at: usize,
    },
    /// A time is outside the years −9999 to 9999.
    #[error("the time at byte {at} is out of range")]
    Time {
        /// Position of the time.
        at: usize,
    },
    /// A JSON text in the message exceeds a limit.
    #[error("the JSON at byte {at} is too much")]
    Json {
        /// Position of the text in the message, in bytes.
        at: usize,
        /// The limit that the text exceeds.
        #[source]
        source: JsonLimitError,
    },
    /// The model version has a layout that the reader does not know.
    #[error("model version {0} is not known here; 4, 5 and 6 are")]
    Version(i64),
    /// Bytes follow the last event.
    #[error("{0} bytes follow the last event")]
    Trailing(usize),
}

/// Limits of a JSON text within a message.
const MAX_JSON: JsonLimits = JsonLimits { values: 500_000, objects: 50_000 };

/// Fewest bytes of an entry of a map: the lengths of two empty strings.
const MIN_ENTRY_SIZE: usize = 2;

/// A reader of a message, from its start on.
pub(super) struct Reader<'m> {
    rest: &'m [u8],
    length: usize,
    /// Model version in whose layout the records are read.
    pub(super) layout: ModelVersion,
}

impl<'m> Reader<'m> {
    /// Starts at the beginning of a message. The layout is that of version 6 until the caller sets another one.
    pub(super) fn new(message: &'m [u8]) -> Self {
        Self { rest: message, length: message.len(), layout: ModelVersion::V6 }
    }

    /// Checks that the whole message was read.
    pub(super) fn end(&self) -> Result<(), AvroError> {
        if self.rest.is_empty() { Ok(()) } else { Err(AvroError::Trailing(self.rest.len())) }
    }

    /// Returns the number of bytes that were read.
    pub(super) fn at(&self) -> usize {
        self.length - self.rest.len()
    }

    fn byte(&mut self) -> Result<u8, AvroError> {
        let (&byte, rest) =
            self.rest.split_first().ok_or(AvroError::Truncated { at: self.at() })?;
        self.rest = rest;
        Ok(byte)
    }

    pub(super) fn long(&mut self) -> Result<i64, AvroError> {
        let at = self.at();
        let mut bits: u64 = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && low > 1 {
                break;
            }
            bits |= low << shift;
            if byte & 0x80 == 0 {
                return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
        }
        Err(AvroError::Long { at })
    }

    fn length(&mut self) -> Result<usize, AvroError> {
        let at = self.at();
        let length = self.long()?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.rest.len())
            .ok_or(AvroError::Length { at, length })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], AvroError> {
        let (&bytes, rest) =
            self.rest.split_first_chunk().ok_or(AvroError::Truncated { at: self.at() })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn bytes(&mut self) -> Result<&'m [u8], AvroError> {
        let at = self.at();
        let length = self.length()?;
        let (bytes, rest) =
            self.rest.split_at_checked(length).ok_or(AvroError::Truncated { at })?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn string(&mut self) -> Result<String, AvroError> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    pub(super) fn json(&mut self) -> Result<Option<JsonObject>, AvroError> {
        let at = self.at();
        let text = self.bytes()?;
        MAX_JSON.check(text).map_err(|source| AvroError::Json { at, source })?;
        Ok(serde_json::from_slice(text).ok())
    }

    pub(super) fn unsigned(&mut self) -> Result<u64, AvroError> {
        self.take().map(u64::from_be_bytes)
    }

    pub(super) fn double(&mut self) -> Result<f64, AvroError> {
        self.take().map(f64::from_le_bytes)
    }

    pub(super) fn boolean(&mut self) -> Result<bool, AvroError> {
        let at = self.at();
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(AvroError::Boolean { at }),
        }
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, AvroError> {
        let at = self.at();
        Timestamp::from_microsecond(self.long()?).map_err(|_| AvroError::Time { at })
    }

    pub(super) fn array<T>(
        &mut self,
        min_size: usize,
        item: impl Fn(&mut Self) -> Result<T, AvroError>,
    ) -> Result<Vec<T>, AvroError> {
        let mut items = Vec::new();
        self.blocks(min_size, |reader, left| {
            if items.len() == items.capacity() {
                // The claim of a block is trusted only up to the usual size of a block, so that a false one takes
                // little memory.
                items.reserve(left.min(BLOCK_ITEMS));
            }
            items.push(item(reader)?);
            Ok(())
        })?;
        Ok(items)
    }

    pub(super) fn map(&mut self) -> Result<StringMap, AvroError> {
        let mut entries = StringMap::new();
        self.blocks(MIN_ENTRY_SIZE, |reader, _| {
            let key = reader.string()?;
            entries.insert(key, reader.string()?);
            Ok(())
        })?;
        Ok(entries)
    }

    /// Reads the blocks of an array or a map in both framings: a count, or a negative count and a size in bytes. Calls
    /// `item` for each item with the number of items left in its block, this one included.
    fn blocks(
        &mut self,
        min_size: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), AvroError>,
    ) -> Result<(), AvroError> {
        loop {
            let at = self.at();
            let signed = self.long()?;
            if signed == 0 {
                return Ok(());
            }
            let count = signed.unsigned_abs();
            let (size, end) = if signed < 0 {
                let size = self.length()?;
                (size, Some(self.at() + size))
            } else {
                (self.rest.len(), None)
            };
            let left = usize::try_from(count)
                .ok()
                .filter(|count| *count <= size / min_size)
                .ok_or(AvroError::Count { at, count })?;
            for left in (1..=left).rev() {
                item(self, left)?;
            }
            if end.is_some_and(|end| end != self.at()) {
                return Err(AvroError::BlockSize { at: self.at() });
            }
        }
    }
}
