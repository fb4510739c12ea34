//! Decodes bzip2 a block at a time on several threads.
//!
//! Blocks are found by their magic numbers, decoded in any order and passed on in their own. From the first block that
//! differs from what a usual program writes, the ordinary decoder continues.
//!
//! The format has no standard; it is what the program bzip2 1.0 writes and reads.

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

pub(super) use pipeline::{End, decode};
pub(super) use rest::Rest;

#[cfg(test)]
mod tests;
