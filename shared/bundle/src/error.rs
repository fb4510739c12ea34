//! Why a bundle cannot be read.

use std::io;

use super::Compression;

/// Why a bundle cannot be read. `at` is how many decompressed bytes came out before.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The input has no bytes at all. No compressed bundle looks so, not even one of zero lines.
    #[error("the bundle is empty: it has no bytes at all")]
    Empty,
    /// The reader below failed: this says nothing about the bundle.
    #[error("the bundle could not be read on after decompressed byte {at}")]
    Read {
        /// Decompressed bytes before.
        at: u64,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// The input ends inside a compressed stream.
    #[error("the {compression} bundle is cut off after decompressed byte {at}")]
    Truncated {
        /// How the bundle is compressed.
        compression: Compression,
        /// Decompressed bytes before.
        at: u64,
    },
    /// A checksum or the structure of a compressed stream is wrong.
    #[error("the {compression} bundle is damaged after decompressed byte {at}")]
    Corrupt {
        /// How the bundle is compressed.
        compression: Compression,
        /// Decompressed bytes before.
        at: u64,
        /// What the decompressor said.
        #[source]
        source: io::Error,
    },
    /// After a complete compressed stream comes something that is not another one.
    #[error("the {compression} bundle ends after decompressed byte {at}, but other bytes follow")]
    TrailingGarbage {
        /// How the bundle is compressed.
        compression: Compression,
        /// Decompressed bytes before.
        at: u64,
    },
    /// A zstd frame asks for more memory than is given.
    #[error(
        "the zstd bundle needs a window of more than {limit} bytes after decompressed byte {at}: \
         compress it without --ultra and --long"
    )]
    WindowTooLarge {
        /// Decompressed bytes before.
        at: u64,
        /// The largest window, in bytes.
        limit: u64,
    },
    /// The bundle is larger than its cap.
    #[error("the bundle has more than {limit} decompressed bytes (MAX_BUNDLE_BYTES)")]
    TooLarge {
        /// The cap, in decompressed bytes.
        limit: u64,
    },
}

impl BundleError {
    /// Whether the same bytes may well be readable another time: only where the reader below failed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Read { .. })
    }
}
