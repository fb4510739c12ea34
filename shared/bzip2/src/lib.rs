//! Decodes bzip2 on several threads, a block at a time, and hands over only blocks whose checksum is right.
//!
//! [`decode`] finds blocks by their magic numbers, decodes them in any order, and hands them over in their own. From
//! the first place that differs from what a usual program writes, it leaves the input to an ordinary decoder: damage,
//! rare features of the format, and blocks that stand for very much text. [`Rest`] is the input from that place on, and
//! brings the ordinary decoder to the same bytes and the same error as the whole input would.
//!
//! The format has no standard; it is what the program bzip2 1.0 writes and reads.
//!
//! # Memory
//!
//! For any input, each thread takes about 9 MB, and up to 20 MB for blocks of long runs. Of the results that `work`
//! returns, at most two for each thread wait to be taken; each is made of at most 4 MiB. The compressed bytes that were
//! read and not decoded are about 1 MB for each of these results, and 1 MB more; a [`Rest`] holds no more than these.
//!
//! # Example
//!
//! ```
//! use std::io::{self, BufReader, Read, Write};
//!
//! use bzip2::bufread::MultiBzDecoder;
//! use parallel_bzip2::{End, Limits, decode};
//!
//! fn decompress(input: impl Read + Send, output: &mut impl Write) -> io::Result<()> {
//!     let limits = Limits { threads: 4, max_bytes: u64::MAX };
//!     let end = decode(
//!         input,
//!         limits,
//!         |_block| Some(()),
//!         |(), block| block.to_vec(),
//!         |bytes| output.write_all(&bytes),
//!     )?;
//!     if let End::Unclear(rest) = end {
//!         let skip = rest.skip() as u64;
//!         let mut ordinary = MultiBzDecoder::new(BufReader::new(rest));
//!         io::copy(&mut ordinary.by_ref().take(skip), &mut io::sink())?;
//!         io::copy(&mut ordinary, output)?;
//!     }
//!     Ok(())
//! }
//!
//! let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
//! encoder.write_all(b"one line\n")?;
//! let packed = encoder.finish()?;
//! let mut text = Vec::new();
//! decompress(&packed[..], &mut text)?;
//! assert_eq!(text, b"one line\n");
//! # Ok::<_, io::Error>(())
//! ```

mod bits;
mod block;
mod bwt;
mod crc;
mod huffman;
mod mtf;
mod pipeline;
mod rest;
mod rle;
mod scan;
mod source;
mod stream;

pub use pipeline::{End, Limits, decode};
pub use rest::Rest;
