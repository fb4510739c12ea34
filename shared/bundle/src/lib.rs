//! Cuts bundles into lines: those of a feed minute, and posted or given files.
//!
//! A bundle has JSON lines, plain or compressed with bzip2, gzip or zstd. Several streams, members or frames after one
//! another are one bundle, and the first bytes tell the compression. For any input, memory is bounded: it holds the
//! decompressors' state, a few pieces of text, and one line up to the cap.
//!
//! [`map_lines`] may pass on a line before the checksum that covers it was verified. A caller that must not use lines
//! of a damaged bundle takes those of [`map_checked_lines`], and calls [`verify`] before it takes the others.

mod decode;
mod documents;
mod error;
mod lines;
mod ordered;

use std::{convert::Infallible, io::Read};

pub use documents::{JsonLinesReader, Layout, layout_of};
pub use error::BundleError;
pub use ordered::{Extent, OrderedError, map_checked_lines, map_lines};

/// Number of bytes that are kept of a line over the cap, for display.
pub const KEPT_OF_LONG_LINE: usize = 4096;

/// Limits for reading a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Most decompressed bytes of the whole bundle. A larger bundle is [`BundleError::TooLarge`].
    pub max_bundle_bytes: u64,
    /// Most bytes of one line, without its end. A longer line is [`Line::TooLong`].
    pub max_line_bytes: usize,
}

/// The compression of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// No compression.
    Plain,
    /// bzip2, which VirusTotal's feed uses.
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

/// A line of a bundle. Lines are numbered from 1 as in the input. Blank lines are skipped, but they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A line within the cap. Its bytes come without its end (`\n` or `\r\n`).
    Record {
        /// Number of the line, from 1.
        number: u64,
    },
    /// A line over the cap. Only its first [`KEPT_OF_LONG_LINE`] bytes are kept.
    TooLong {
        /// Number of the line, from 1.
        number: u64,
        /// Length of the line in bytes, without its end.
        length: u64,
    },
}

impl Compression {
    /// Returns the compression by the first bytes of an input; four of them are enough.
    pub fn of(start: &[u8]) -> Self {
        match decode::sniff(start) {
            decode::Sniffed::Whole(compression) | decode::Sniffed::Cut(compression) => compression,
        }
    }
}

impl Line {
    /// Returns the number of the line, from 1.
    pub fn number(&self) -> u64 {
        match self {
            Self::Record { number } | Self::TooLong { number, .. } => *number,
        }
    }
}

/// Reads a whole bundle on `threads` threads and discards its lines. If it returns `Ok`, every byte can be decoded and
/// every checksum is right.
///
/// # Errors
/// The first [`BundleError`].
pub fn verify(reader: impl Read + Send, caps: Caps, threads: usize) -> Result<Extent, BundleError> {
    match map_lines(reader, caps, threads, |_, _| (), Ok::<_, Infallible>) {
        Ok(extent) => Ok(extent),
        Err(OrderedError::Bundle(error)) => Err(error),
    }
}
