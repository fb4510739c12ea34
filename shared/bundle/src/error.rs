//! Errors of reading a bundle.

use std::io;

use super::Compression;

/// Reasons why a bundle cannot be read. `at` is the number of decompressed bytes before the error.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The input has no bytes. A compressed bundle has some, even one without lines.
    #[error("the bundle is empty: it has no bytes at all")]
    Empty,
    /// The reader of the bundle failed. That says nothing about the bundle itself.
    #[error("the bundle could not be read on after decompressed byte {at}")]
    Read {
        /// Number of decompressed bytes before the error.
        at: u64,
        /// The error of the reader.
        #[source]
        source: io::Error,
    },
    /// The input ends inside a compressed stream.
    #[error("the {compression} bundle is cut off after decompressed byte {at}")]
    Truncated {
        /// Compression of the bundle.
        compression: Compression,
        /// Number of decompressed bytes before the error.
        at: u64,
    },
    /// A checksum or the structure of a compressed stream is wrong.
    #[error("the {compression} bundle is damaged after decompressed byte {at}")]
    Corrupt {
        /// Compression of the bundle.
        compression: Compression,
        /// Number of decompressed bytes before the error.
        at: u64,
        /// The error of the decompressor.
        #[source]
        source: io::Error,
    },
    /// Bytes that are not another compressed stream follow a complete one.
    #[error("the {compression} bundle ends after decompressed byte {at}, but other bytes follow")]
    TrailingGarbage {
        /// Compression of the bundle.
        compression: Compression,
        /// Number of decompressed bytes before the error.
        at: u64,
    },
    /// A zstd frame needs a larger window than is allowed.
    #[error(
        "the zstd bundle needs a window of more than {limit} bytes after decompressed byte {at}: \
         compress it without --ultra and --long"
    )]
    WindowTooLarge {
        /// Number of decompressed bytes before the error.
        at: u64,
        /// The largest window, in bytes.
        limit: u64,
    },
    /// The bundle has more decompressed bytes than its cap allows.
    #[error("the bundle has more than {limit} decompressed bytes (MAX_BUNDLE_BYTES)")]
    TooLarge {
        /// The cap, in decompressed bytes.
        limit: u64,
    },
}

impl BundleError {
    /// Whether another try with the same bytes may succeed. That is so only if the reader of the bundle failed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Read { .. })
    }
}
