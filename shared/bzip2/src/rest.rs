//! The input that is left to the ordinary decoder.

use std::io::{self, Cursor, Read};

/// A reader of compressed bytes with which an ordinary decoder continues from the last verified place.
///
/// It yields the same bytes and the same error as for the whole input, after the first [`Rest::skip`] bytes, which must
/// be dropped. An error of the input's reader is returned once, where it occurred.
#[derive(Debug)]
pub struct Rest<R> {
    start: Cursor<Vec<u8>>,
    reader: R,
    ended: bool,
    error: Option<io::Error>,
    skip: u8,
    produced: u64,
}

impl<R> Rest<R> {
    pub(crate) fn new(
        (mut start, skip): (Vec<u8>, u8),
        bit: usize,
        items: impl Iterator<Item = Vec<u8>>,
        (buffer, reader, ended, error): (Vec<u8>, R, bool, Option<io::Error>),
        produced: u64,
    ) -> Self {
        // The prefix may end within a byte in which the first item begins; both parts are joined.
        let shared = if bit > 0 { start.pop().unwrap_or_default() } else { 0 };
        let joint = start.len();
        for bytes in items {
            start.extend_from_slice(&bytes);
        }
        start.extend_from_slice(&buffer);
        if let Some(byte) = start.get_mut(joint).filter(|_| bit > 0) {
            *byte = shared | *byte & 0xff >> bit;
        }
        Self { start: Cursor::new(start), reader, ended, error, skip, produced }
    }

    /// Returns the number of bytes at the start of the ordinary decoder's output that are not part of the input: 0 or 4.
    pub fn skip(&self) -> usize {
        self.skip.into()
    }

    /// Returns the number of decompressed bytes that were handed over before.
    pub fn produced(&self) -> u64 {
        self.produced
    }
}

impl<R: Read> Read for Rest<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.start.read(out)?;
        if read > 0 || out.is_empty() {
            return Ok(read);
        }
        // The start is dropped as early as possible, to free its memory.
        self.start = Cursor::default();
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.ended { Ok(0) } else { self.reader.read(out) }
    }
}
