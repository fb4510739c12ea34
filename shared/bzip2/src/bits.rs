//! Reads the bits of a byte slice, the highest of each byte first.

#![expect(
    clippy::cast_possible_truncation,
    clippy::inline_always,
    reason = "bits are taken from words as they fit; the hot loop has all of it within"
)]

/// A position among the bits of a slice. Zeros follow the end of the slice; [`Bits::past_end`] tells whether they were
/// read.
pub(crate) struct Bits<'a> {
    data: &'a [u8],
    /// Index of the next byte that is not completely in `buffer`.
    next: usize,
    /// The next bits, from the top. Those below the first `count` are either zero or have the value that a refill gives
    /// them.
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// Starts at bit `start` of `data`.
    pub(crate) fn new(data: &'a [u8], start: usize) -> Self {
        let mut bits = Self { data, next: start / 8, buffer: 0, count: 0 };
        bits.refill();
        bits.skip((start % 8) as u32);
        bits
    }

    /// Loads at least 56 bits into the buffer.
    #[inline(always)]
    pub(crate) fn refill(&mut self) {
        if let Some(word) = self.data.get(self.next..).and_then(<[u8]>::first_chunk::<8>) {
            self.buffer |= u64::from_be_bytes(*word) >> self.count;
            self.next += ((63 - self.count) >> 3) as usize;
            // Counts as many whole bytes as the buffer has room for.
            self.count |= 0b11_1000;
        } else {
            self.refill_at_end();
        }
    }

    #[cold]
    fn refill_at_end(&mut self) {
        while self.count < 56 {
            let byte = self.data.get(self.next).copied().unwrap_or(0);
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.next += 1;
            self.count += 8;
        }
    }

    /// Returns the next `n` bits, 1 to 32, without consuming them. They must be loaded.
    #[inline(always)]
    pub(crate) fn peek(&self, n: u32) -> u32 {
        (self.buffer >> (64 - n)) as u32
    }

    /// Consumes `n` bits, which must be loaded.
    #[inline(always)]
    pub(crate) fn skip(&mut self, n: u32) {
        self.buffer <<= n;
        self.count -= n;
    }

    /// Consumes and returns the next `n` bits, 1 to 32.
    pub(crate) fn take(&mut self, n: u32) -> u32 {
        self.refill();
        let value = self.peek(n);
        self.skip(n);
        value
    }

    /// Returns the position of the next bit, from the start of the slice.
    pub(crate) fn position(&self) -> usize {
        self.next * 8 - self.count as usize
    }

    /// Whether more bits were consumed than the slice has.
    pub(crate) fn past_end(&self) -> bool {
        self.position() > self.data.len() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_as_they_stand_and_then_zeros() {
        let data: Vec<u8> = (0..40).map(|i: u8| i.wrapping_mul(37)).collect();
        for start in 0..64 {
            let mut bits = Bits::new(&data, start);
            for at in (start..40 * 8 + 64).step_by(13) {
                let expected = (at..at + 13).fold(0, |value, i| {
                    value << 1
                        | data.get(i / 8).map_or(0, |byte| u32::from(byte >> (7 - i % 8) & 1))
                });
                assert_eq!(bits.position(), at);
                assert_eq!(bits.take(13), expected);
                assert_eq!(bits.past_end(), at + 13 > 40 * 8);
            }
        }
    }
}
