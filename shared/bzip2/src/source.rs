//! Reads the compressed bytes and cuts them at the magic numbers of blocks and stream ends.

#![expect(clippy::cast_possible_truncation, reason = "the lower 32 bits are meant")]

use std::io::{self, Read};

use super::scan::{self, MAGIC_BITS};

/// Number of bytes that are read at once.
const INPUT: usize = 64 << 10;
/// Largest compressed block, in bytes. A usual program writes at most a hundredth more than the block has decoded
/// bytes.
const MAX_BLOCK: usize = 1 << 20;
/// Length of a stream's end, in bits: the magic number and the checksum.
const END_BITS: usize = MAGIC_BITS + 32;

/// The presumed kind of an item. It is verified when it is the item's turn.
pub(crate) enum Kind {
    /// The header of a stream.
    Open {
        /// Level of the stream: the digit in its header.
        level: u8,
    },
    /// A block, up to the next number.
    Block {
        /// Level of the stream.
        level: u8,
        /// Position of the next magic number, in bits from the start of the item's bytes.
        end: usize,
    },
    /// The end of a stream.
    Close {
        /// The checksum of the stream.
        checksum: u32,
    },
    /// The end of the input, where a stream may start.
    End,
    /// Anything else, such as an end of the input within a stream. No item follows it.
    Unclear,
}

/// A part of the input.
pub(crate) struct Item {
    pub(crate) kind: Kind,
    /// Bytes of the item. The first and the last of them may be shared with the neighbours.
    pub(crate) bytes: Vec<u8>,
    /// Bit of the first byte at which the item starts.
    pub(crate) start: usize,
    /// Number of bytes before the first byte of the next item.
    pub(crate) whole: usize,
}

/// Reads the input and cuts it into items.
pub(crate) struct Source<R> {
    reader: R,
    /// Bytes that were read; those from `start` on are not cut off yet.
    buffer: Vec<u8>,
    start: usize,
    /// First bit of the next item, counted from byte `start`.
    bit: usize,
    /// Level of the stream; `None` between two streams.
    inside: Option<u8>,
    /// Whether the reader has no more bytes, or failed.
    ended: bool,
    error: Option<io::Error>,
}

impl<R: Read> Source<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            start: 0,
            bit: 0,
            inside: None,
            ended: false,
            error: None,
        }
    }

    /// Returns the next item. It must not be called again after [`Kind::End`] or [`Kind::Unclear`].
    pub(crate) fn next(&mut self) -> Item {
        match self.inside {
            Some(level) => self.next_inside(level),
            None => self.next_between(),
        }
    }

    /// Returns the bytes that are not cut off, the reader, whether the reader has ended, and its error if it failed.
    pub(crate) fn into_rest(mut self) -> (Vec<u8>, R, bool, Option<io::Error>) {
        self.buffer.drain(..self.start);
        (self.buffer, self.reader, self.ended, self.error)
    }

    fn next_between(&mut self) -> Item {
        self.need(4);
        let found = match self.available() {
            [] if self.error.is_none() => Kind::End,
            [b'B', b'Z', b'h', digit @ b'1'..=b'9', ..] => Kind::Open { level: digit - b'0' },
            _ => Kind::Unclear,
        };
        match found {
            Kind::Open { level } => {
                self.inside = Some(level);
                self.cut(found, 32)
            }
            found => self.cut(found, 0),
        }
    }

    fn next_inside(&mut self, level: u8) -> Item {
        let bit = self.bit;
        self.need((bit + END_BITS).div_ceil(8));
        let bytes = self.available();
        match scan::at(bytes, bit) {
            Some(scan::BLOCK) => match self.find_end(bit + MAGIC_BITS) {
                Some(end) => self.cut(Kind::Block { level, end }, end),
                None => self.cut(Kind::Unclear, bit),
            },
            Some(scan::END) if bytes.len() * 8 >= bit + END_BITS => {
                let upper = scan::at(bytes, bit + MAGIC_BITS - 16).unwrap_or_default();
                self.inside = None;
                let after = (bit + END_BITS).next_multiple_of(8);
                self.cut(Kind::Close { checksum: upper as u32 }, after)
            }
            _ => self.cut(Kind::Unclear, bit),
        }
    }

    /// Returns the position of the next magic number; `None` if it is too far away or missing.
    fn find_end(&mut self, mut from: usize) -> Option<usize> {
        loop {
            let bytes = self.available();
            if let Some(end) = scan::find(bytes, from) {
                return Some(end);
            }
            if bytes.len() > MAX_BLOCK {
                return None;
            }
            from = from.max((bytes.len() * 8).saturating_sub(MAGIC_BITS - 1));
            if !self.more() {
                return None;
            }
        }
    }

    /// Cuts off an item that ends before bit `end`.
    fn cut(&mut self, kind: Kind, end: usize) -> Item {
        let start = self.bit;
        let bytes = self.available().get(..end.div_ceil(8)).unwrap_or_default().to_vec();
        let unclear = matches!(kind, Kind::Unclear);
        // Bytes of an unclear item stay in the buffer, which comes behind the unused items in the rest.
        let whole = if unclear { 0 } else { end / 8 };
        self.start += whole;
        self.bit = end - whole * 8;
        Item { kind, bytes: if unclear { Vec::new() } else { bytes }, start, whole }
    }

    fn available(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Reads until at least `count` bytes are available, or the input ends.
    fn need(&mut self, count: usize) {
        while self.available().len() < count && self.more() {}
    }

    /// Reads more bytes. Returns false if there are none.
    fn more(&mut self) -> bool {
        if self.ended {
            return false;
        }
        if self.start >= INPUT {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let before = self.buffer.len();
        self.buffer.resize(before + INPUT, 0);
        let read = loop {
            match self.reader.read(self.buffer.get_mut(before..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        // A reader that returns more bytes than it was given room for is wrong, so its count is capped.
        let count = read.as_ref().map_or(0, |count| *count).min(INPUT);
        self.buffer.truncate(before + count);
        self.error = read.err();
        self.ended = count == 0;
        !self.ended
    }
}
