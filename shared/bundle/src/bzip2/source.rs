//! The compressed bytes, cut where the numbers stand that blocks and ends of streams start with.

#![expect(clippy::cast_possible_truncation, reason = "the lower 32 bits are meant")]

use std::io::{self, Read};

use super::scan::{self, MAGIC_BITS};

/// Bytes read at once.
const INPUT: usize = 64 << 10;
/// Bytes of a compressed block. A usual program writes less than a hundredth more than the block has bytes.
const MOST_BLOCK: usize = 1 << 20;
/// Bits of the end of a stream: its number and the checksum.
const END_BITS: usize = MAGIC_BITS + 32;

/// What may stand in the input; whether it does is seen when its turn comes.
pub(crate) enum Kind {
    /// The header of a stream.
    Open {
        /// Its digit.
        level: u8,
    },
    /// A block, up to the next number.
    Block {
        /// Of its stream.
        level: u8,
        /// Where the next number stands, from the start of the item's bytes.
        end: usize,
    },
    /// The end of a stream.
    Close {
        /// The checksum of the stream.
        checksum: u32,
    },
    /// The end of the input, where a stream may start.
    End,
    /// Anything else, such as the end of the input where none may be. Nothing comes after it.
    Unclear,
}

/// A part of the input.
pub(crate) struct Item {
    pub(crate) kind: Kind,
    /// Its bytes, the first and the last of them perhaps shared with its neighbours.
    pub(crate) bytes: Vec<u8>,
    /// In which bit of the first byte it starts.
    pub(crate) start: usize,
    /// How many of the bytes come before the next item's first one.
    pub(crate) whole: usize,
}

/// Reads and cuts.
pub(crate) struct Source<R> {
    reader: R,
    /// What was read and not yet cut off, from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// The next item's first bit, from `start` on.
    bit: usize,
    /// The level of the stream.
    inside: Option<u8>,
    /// The reader has no more, or failed.
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

    /// The next item. After [`Kind::End`] and [`Kind::Unclear`] none may be asked for.
    pub(crate) fn next(&mut self) -> Item {
        match self.inside {
            Some(level) => self.next_inside(level),
            None => self.next_between(),
        }
    }

    /// What is left: the bytes not cut off, the reader, whether that has ended, and why if it failed.
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

    /// Where the next number stands; `None` where it is too far, or missing.
    fn find_end(&mut self, mut from: usize) -> Option<usize> {
        loop {
            let bytes = self.available();
            if let Some(end) = scan::find(bytes, from) {
                return Some(end);
            }
            if bytes.len() > MOST_BLOCK {
                return None;
            }
            from = from.max((bytes.len() * 8).saturating_sub(MAGIC_BITS - 1));
            if !self.more() {
                return None;
            }
        }
    }

    /// An item up to bit `end`.
    fn cut(&mut self, kind: Kind, end: usize) -> Item {
        let start = self.bit;
        let bytes = self.available().get(..end.div_ceil(8)).unwrap_or_default().to_vec();
        let unclear = matches!(kind, Kind::Unclear);
        // What nobody can tell stays here as a whole, and comes first in the rest.
        let whole = if unclear { 0 } else { end / 8 };
        self.start += whole;
        self.bit = end - whole * 8;
        Item { kind, bytes: if unclear { Vec::new() } else { bytes }, start, whole }
    }

    fn available(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Reads until at least `count` bytes are available, fewer only at the end.
    fn need(&mut self, count: usize) {
        while self.available().len() < count && self.more() {}
    }

    /// Reads on; false where there is nothing more.
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
        // A reader that claims more than there is room for is wrong; its claim is cut.
        let count = read.as_ref().map_or(0, |count| *count).min(INPUT);
        self.buffer.truncate(before + count);
        self.error = read.err();
        self.ended = count == 0;
        !self.ended
    }
}
