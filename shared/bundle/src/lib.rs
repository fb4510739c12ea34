//! Bundles: bytes of a feed minute, or of any posted or given file, become lines.
//!
//! A bundle is JSON lines, plain or compressed with bzip2, gzip or zstd (several streams, members or
//! frames after one another are one bundle). The first bytes say which. Memory is bounded whatever the
//! input: what the decompressors need, a few pieces of text, and one line up to the cap.
//!
//! A line may leave [`map_lines`] before the checksum that covers it was seen. Who must not use lines of a damaged
//! bundle takes those of [`map_checked_lines`], and runs [`verify`] before it takes the others.

mod bzip2;
mod decode;
mod documents;
mod error;
mod lines;
mod ordered;

use std::{collections::BTreeMap, convert::Infallible, io::Read};

pub use documents::{Layout, OneALine, layout_of};
pub use error::BundleError;
pub use ordered::{Extent, OrderedError, map_checked_lines, map_lines};

/// How many bytes of a line over the cap are kept, so that it can be shown.
pub const KEPT_OF_LONG_LINE: usize = 4096;

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
    /// A line within the cap; its bytes are without its end (`\n` or `\r\n`).
    Record {
        /// Which line.
        number: u64,
    },
    /// A line over the cap; its bytes are the first [`KEPT_OF_LONG_LINE`].
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

/// Calls `take` with what workers made, in the order of its numbers, which begin at 0.
fn in_order<T, E>(
    made: impl IntoIterator<Item = (u64, T)>,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let (mut waiting, mut next) = (BTreeMap::new(), 0);
    for (number, item) in made {
        waiting.insert(number, item);
        while let Some(item) = waiting.remove(&next) {
            take(item)?;
            next += 1;
        }
    }
    Ok(())
}

/// What [`verify`] found in a whole bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Lines that are not blank: as many as [`map_lines`] works on.
    pub records: u64,
    /// What there was of all.
    pub extent: Extent,
}

/// Reads a whole bundle on `threads` threads and throws it away: after this every byte of it decodes and every
/// checksum holds.
///
/// # Errors
/// The first [`BundleError`].
pub fn verify(
    reader: impl Read + Send,
    caps: Caps,
    threads: usize,
) -> Result<Verified, BundleError> {
    let mut records = 0;
    let count = |()| {
        records += 1;
        Ok::<_, Infallible>(())
    };
    match map_lines(reader, caps, threads, |_, _| (), count) {
        Ok(extent) => Ok(Verified { records, extent }),
        Err(OrderedError::Bundle(error)) => Err(error),
    }
}
