//! bzip2, decoded a block at a time on several threads.
//!
//! Blocks are found by the numbers they start with, decoded in any order and handed on in theirs. What is not
//! exactly as it should be is left to the ordinary decoder, from the last certain place on.
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
