//! Bundles: bytes of a feed minute, or of any posted or given file, become lines.
//!
//! A bundle is JSON lines, plain or compressed with bzip2, gzip or zstd (several streams, members or
//! frames after one another are one bundle). The first bytes say which. Memory is bounded whatever the
//! input: one chunk, the decompressor's own state, and one line up to the cap.

mod decode;
mod error;

use std::io::Read;

use decode::Decoder;
pub use error::BundleError;

/// How many bytes of a line over the cap are kept, so that it can be shown.
pub const KEPT_OF_LONG_LINE: usize = 4096;

/// What some programs write before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Decompressed bytes asked of the decoder at once.
const CHUNK: usize = 64 * 1024;

/// What a bundle may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Decompressed bytes of the whole bundle; a bundle with more is [`BundleError::TooLarge`].
    pub max_bundle_bytes: u64,
    /// Bytes of one line without its end; a line with more is [`Line::TooLong`].
    pub max_line_bytes: usize,
}

/// How a bundle is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// bzip2: what VirusTotal's feed sends.
    Bzip2,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// A line of a bundle. Lines are numbered from 1 as in the input; blank ones are passed over but count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A line within the cap: the caller's buffer holds it, without its end (`\n` or `\r\n`).
    Record {
        /// Which line.
        number: u64,
    },
    /// A line over the cap: the caller's buffer holds its first [`KEPT_OF_LONG_LINE`] bytes.
    TooLong {
        /// Which line.
        number: u64,
        /// Its length in bytes, without its end.
        length: u64,
    },
}

impl Compression {
    /// What the first bytes of an input say; four of them decide.
    pub fn of(start: &[u8]) -> Self {
        match decode::sniff(start) {
            decode::Sniffed::Whole(compression) | decode::Sniffed::Cut(compression) => compression,
        }
    }
}

impl Line {
    /// Which line it is, from 1.
    pub fn number(&self) -> u64 {
        match self {
            Self::Record { number } | Self::TooLong { number, .. } => *number,
        }
    }
}

/// What [`verify`] found in a whole bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Decompressed bytes.
    pub bytes: u64,
    /// Lines, blank ones included: the number of the last line.
    pub lines: u64,
    /// Lines that are not blank: as many as [`Lines::next`] gives.
    pub records: u64,
    /// What the first bytes said.
    pub compression: Compression,
}

/// The lines of a bundle, read as they are asked for.
///
/// A line may leave before the checksum that covers it was seen: who must not use lines of a damaged
/// bundle runs [`verify`] first.
pub struct Lines<R: Read> {
    decoder: Decoder<R>,
    caps: Caps,
    chunk: Box<[u8]>,
    position: usize,
    filled: usize,
    number: u64,
    ended: bool,
}

impl<R: Read> Lines<R> {
    /// Lines of what `reader` gives. Nothing is read yet. `reader` needs no buffer of its own.
    pub fn new(reader: R, caps: Caps) -> Self {
        Self {
            decoder: Decoder::new(reader),
            caps,
            chunk: vec![0; CHUNK].into_boxed_slice(),
            position: 0,
            filled: 0,
            number: 0,
            ended: false,
        }
    }

    /// The next line that is not blank, its bytes in `buf` (cleared first); `None` at the end.
    ///
    /// # Errors
    /// Any [`BundleError`]; all later calls then give [`BundleError::Ended`]. An input of no bytes at all
    /// is [`BundleError::Empty`]: whoever takes an empty plain file for zero lines matches that.
    pub fn next(&mut self, buf: &mut Vec<u8>) -> Result<Option<Line>, BundleError> {
        if self.ended {
            return Err(BundleError::Ended);
        }
        loop {
            let line = self.line(buf).inspect_err(|_| self.ended = true)?;
            // Editors of Windows write it; it is no part of the text.
            if self.number == 1 && buf.starts_with(BYTE_ORDER_MARK) {
                buf.drain(..BYTE_ORDER_MARK.len());
            }
            if !matches!(line, Some(Line::Record { .. }) if buf.trim_ascii().is_empty()) {
                return Ok(line);
            }
        }
    }

    /// Decompressed bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.decoder.produced()
    }

    /// How the bundle is compressed; `None` before the first line was asked for.
    pub fn compression(&self) -> Option<Compression> {
        self.decoder.compression()
    }

    /// The number of the line that was read last, blank or not; 0 before the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line, blank or not.
    fn line(&mut self, buf: &mut Vec<u8>) -> Result<Option<Line>, BundleError> {
        buf.clear();
        // One more than the cap: a line of exactly the cap may still be followed by `\r`.
        let room = self.caps.max_line_bytes.saturating_add(1);
        let mut length = 0_u64;
        let mut last = None;
        loop {
            if self.position >= self.filled && !self.fill()? {
                if length == 0 {
                    return Ok(None);
                }
                return Ok(Some(self.finish(buf, length, last)));
            }
            let rest = self.chunk.get(self.position..self.filled).unwrap_or_default();
            let end = memchr::memchr(b'\n', rest);
            let part = end.and_then(|end| rest.get(..end)).unwrap_or(rest);
            length = length.saturating_add(part.len() as u64);
            last = part.last().copied().or(last);
            if length <= room as u64 {
                append(buf, part, room);
            } else {
                let missing = KEPT_OF_LONG_LINE.saturating_sub(buf.len());
                buf.extend_from_slice(part.get(..missing).unwrap_or(part));
                buf.truncate(KEPT_OF_LONG_LINE);
            }
            self.position += part.len() + usize::from(end.is_some());
            if end.is_some() {
                return Ok(Some(self.finish(buf, length, last)));
            }
        }
    }

    fn finish(&mut self, buf: &mut Vec<u8>, mut length: u64, last: Option<u8>) -> Line {
        self.number += 1;
        let number = self.number;
        if last == Some(b'\r') {
            length -= 1;
            // Where bytes were left out, the `\r` is among them, or beyond what is kept.
            if usize::try_from(length).is_ok_and(|length| length < buf.len()) {
                buf.pop();
            }
        }
        if length <= self.caps.max_line_bytes as u64 {
            return Line::Record { number };
        }
        buf.truncate(KEPT_OF_LONG_LINE);
        Line::TooLong { number, length }
    }

    fn fill(&mut self) -> Result<bool, BundleError> {
        self.position = 0;
        self.filled = 0;
        let left = self.caps.max_bundle_bytes.saturating_sub(self.decoder.produced());
        // At the cap one byte is asked for, to tell a bundle that ends here from one that goes on.
        let wanted = usize::try_from(left).unwrap_or(CHUNK).clamp(1, CHUNK);
        let room = self.chunk.get_mut(..wanted).unwrap_or_default();
        let filled = self.decoder.read(room)?;
        if filled > 0 && left == 0 {
            return Err(BundleError::TooLarge { limit: self.caps.max_bundle_bytes });
        }
        self.filled = filled;
        Ok(filled > 0)
    }
}

/// Appends with a capacity that doubles but never passes `room`, which a plain `Vec` would by up to half.
fn append(buf: &mut Vec<u8>, part: &[u8], room: usize) {
    let needed = buf.len().saturating_add(part.len());
    if needed > buf.capacity() {
        let capacity = buf.capacity().saturating_mul(2).max(CHUNK).min(room).max(needed);
        buf.reserve_exact(capacity.saturating_sub(buf.len()));
    }
    buf.extend_from_slice(part);
}

/// Reads a whole bundle and throws it away: after this every byte of it decodes and every checksum holds.
///
/// # Errors
/// The first [`BundleError`].
pub fn verify(reader: impl Read, caps: Caps) -> Result<Verified, BundleError> {
    let mut lines = Lines::new(reader, caps);
    let mut buf = Vec::new();
    let mut records = 0;
    while lines.next(&mut buf)?.is_some() {
        records += 1;
    }
    Ok(Verified {
        bytes: lines.bytes(),
        lines: lines.number(),
        records,
        compression: lines.compression().unwrap_or(Compression::Plain),
    })
}
