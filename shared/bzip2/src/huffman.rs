//! Canonical Huffman codes of up to 20 bits.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::inline_always,
    reason = "codes have 20 bits, symbols nine; the hot loop has all of it within"
)]

use super::{bits::Bits, block::Unverified};

/// Longest code of the format, in bits.
pub(crate) const LONGEST: u32 = 20;

/// Symbols of the largest alphabet: two digits of runs, 255 places and the end of the block.
pub(crate) const SYMBOLS: usize = 258;

/// Longest code that is looked up in one step, in bits. Six tables of this size fit into the first-level cache.
const DIRECT: u32 = 10;

/// A code that is ready for decoding.
pub(crate) struct Table {
    /// By the next ten bits: the symbol, shifted left by five, and the length of its code. 0 if the code is longer or
    /// invalid.
    direct: [u16; 1 << DIRECT],
    /// By length: the first value of 20 bits that is beyond the codes of this length.
    limit: [u32; LONGEST as usize + 1],
    /// By length: index of the first symbol in `sorted`, minus the first code.
    base: [i32; LONGEST as usize + 1],
    /// The symbols in the order of their codes.
    sorted: [u16; SYMBOLS],
}

impl Table {
    pub(crate) const EMPTY: Self = Self {
        direct: [0; 1 << DIRECT],
        limit: [0; LONGEST as usize + 1],
        base: [0; LONGEST as usize + 1],
        sorted: [0; SYMBOLS],
    };

    /// Builds the table from the lengths of the codes, 1 to 20 each.
    ///
    /// # Errors
    /// [`Unverified`] if there are more codes than room for them. Fewer codes are an error only when a missing one is
    /// read.
    #[expect(
        clippy::indexing_slicing,
        reason = "lengths are at most 20, codes within the room checked"
    )]
    pub(crate) fn build(&mut self, lengths: &[u8]) -> Result<(), Unverified> {
        let mut counts = [0_u32; LONGEST as usize + 1];
        for length in lengths {
            counts[usize::from(*length)] += 1;
        }
        let mut starts = [0_u32; LONGEST as usize + 1];
        let (mut code, mut start) = (0_u32, 0_u32);
        for length in 1..=LONGEST as usize {
            code <<= 1;
            self.base[length] = start as i32 - code as i32;
            starts[length] = start;
            start += counts[length];
            code += counts[length];
            if code > 1 << length {
                return Err(Unverified);
            }
            self.limit[length] = code << (LONGEST as usize - length);
        }
        for (symbol, length) in lengths.iter().enumerate() {
            let start = &mut starts[usize::from(*length)];
            self.sorted[*start as usize] = symbol as u16;
            *start += 1;
        }
        self.fill(&counts);
        Ok(())
    }

    #[expect(clippy::indexing_slicing, reason = "codes within the room checked by the caller")]
    fn fill(&mut self, counts: &[u32; LONGEST as usize + 1]) {
        let (mut at, mut symbol) = (0, 0);
        for length in 1..=DIRECT {
            let same = 1 << (DIRECT - length);
            for _ in 0..counts[length as usize] {
                self.direct[at..at + same].fill(self.sorted[symbol] << 5 | length as u16);
                at += same;
                symbol += 1;
            }
        }
        self.direct[at..].fill(0);
    }

    /// Consumes a code and returns its symbol. 20 bits must be loaded.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "ten bits into a table of 1024")]
    pub(crate) fn next(&self, bits: &mut Bits<'_>) -> Result<u16, Unverified> {
        let entry = self.direct[bits.peek(DIRECT) as usize];
        if entry == 0 {
            return self.next_long(bits);
        }
        bits.skip(u32::from(entry & 31));
        Ok(entry >> 5)
    }

    #[inline(never)]
    fn next_long(&self, bits: &mut Bits<'_>) -> Result<u16, Unverified> {
        let value = bits.peek(LONGEST);
        for length in DIRECT + 1..=LONGEST {
            let (Some(limit), Some(base)) =
                (self.limit.get(length as usize), self.base.get(length as usize))
            else {
                break;
            };
            if value < *limit {
                bits.skip(length);
                let at = (value >> (LONGEST - length)) as i32 + base;
                return self.sorted.get(at as usize).copied().ok_or(Unverified);
            }
        }
        Err(Unverified)
    }
}
