//! What is left to the ordinary decoder.

use std::io::{self, Cursor, Read};

/// Compressed bytes that make an ordinary decoder go on from the last certain place: the same bytes and the
/// same error come of them as of the whole input, after [`Rest::skip`] bytes that are to be dropped.
#[derive(Debug)]
pub(crate) struct Rest<R> {
    start: Cursor<Vec<u8>>,
    reader: R,
    ended: bool,
    error: Option<io::Error>,
    skip: u8,
    produced: u64,
}

impl<R> Rest<R> {
    /// All of an input.
    pub(crate) fn whole(reader: R) -> Self {
        let nothing = (Vec::new(), reader, false, None);
        Self::new((Vec::new(), 0), 0, std::iter::empty(), nothing, 0)
    }

    pub(crate) fn new(
        (mut start, skip): (Vec<u8>, u8),
        bit: usize,
        items: impl Iterator<Item = Vec<u8>>,
        (buffer, reader, ended, error): (Vec<u8>, R, bool, Option<io::Error>),
        produced: u64,
    ) -> Self {
        // The last byte of what comes before and the first one of what comes after are one.
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

    /// How many of the first bytes that the ordinary decoder gives are none of the input's.
    pub(crate) fn skip(&self) -> u8 {
        self.skip
    }

    /// How many bytes were handed on before.
    pub(crate) fn produced(&self) -> u64 {
        self.produced
    }
}

impl<R: Read> Read for Rest<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.start.read(out)?;
        if read > 0 || out.is_empty() {
            return Ok(read);
        }
        // Not held any longer than needed.
        self.start = Cursor::default();
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.ended { Ok(0) } else { self.reader.read(out) }
    }
}
