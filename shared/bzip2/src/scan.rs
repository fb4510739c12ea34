//! Finds the 48-bit magic numbers at the start of blocks and of stream ends, at any bit.

/// Magic number at the start of a block.
pub(crate) const BLOCK: u64 = 0x3141_5926_5359;
/// Magic number at the start of a stream's end.
pub(crate) const END: u64 = 0x1772_4538_5090;
/// Length of each magic number, in bits.
pub(crate) const MAGIC_BITS: usize = 48;

/// Distance between the pairs of bytes that are looked at, in bytes. At any bit offset, a magic number contains at
/// least five whole bytes, which make four overlapping pairs. One of these begins at a multiple of four.
const STRIDE: usize = 4;

/// One bit for each pair of bytes: whether the pair is part of a magic number.
static PAIRS: [u64; 1024] = pairs();

#[expect(clippy::indexing_slicing, reason = "evaluated while compiling")]
const fn pairs() -> [u64; 1024] {
    let mut pairs = [0; 1024];
    let mut shift = 0;
    while shift <= MAGIC_BITS - 16 {
        let block = (BLOCK >> shift & 0xffff) as usize;
        let end = (END >> shift & 0xffff) as usize;
        pairs[block / 64] |= 1 << (block % 64);
        pairs[end / 64] |= 1 << (end % 64);
        shift += 1;
    }
    pairs
}

/// Returns the 48 bits from bit `at` on; `None` if there are fewer.
pub(crate) fn at(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at / 8..)?;
    let mut word = [0; 8];
    let available = bytes.len().min(7);
    word.get_mut(..available)?.copy_from_slice(bytes.get(..available)?);
    (available * 8 >= at % 8 + MAGIC_BITS)
        .then(|| u64::from_be_bytes(word) << (at % 8) >> (64 - MAGIC_BITS))
}

/// Returns the first bit from `from` on at which a complete magic number stands.
#[expect(clippy::indexing_slicing, reason = "a pair of bytes into a table of 65536 bits")]
pub(crate) fn find(data: &[u8], from: usize) -> Option<usize> {
    let mut place = from / 8 / STRIDE * STRIDE;
    while let Some(pair) = data.get(place..).and_then(<[u8]>::first_chunk::<2>) {
        let pair = usize::from(u16::from_be_bytes(*pair));
        if PAIRS[pair / 64] >> (pair % 64) & 1 != 0 {
            let first = (place * 8).saturating_sub(MAGIC_BITS - 16).max(from);
            let found = (first..=place * 8).find(|bit| matches!(at(data, *bit), Some(BLOCK | END)));
            if found.is_some() {
                return found;
            }
        }
        place += STRIDE;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_numbers_are_found_at_each_bit_and_not_before() {
        for magic in [BLOCK, END] {
            for bit in 0..100 {
                let mut data = vec![0x55; 40];
                for i in 0..MAGIC_BITS {
                    let (byte, mask) = ((bit + i) / 8, 0x80 >> ((bit + i) % 8));
                    data[byte] &= !mask;
                    if magic >> (MAGIC_BITS - 1 - i) & 1 != 0 {
                        data[byte] |= mask;
                    }
                }
                for from in 0..=bit {
                    assert_eq!(find(&data, from), Some(bit));
                }
                assert_eq!(find(&data, bit + 1), None);
                let last = (bit + MAGIC_BITS).div_ceil(8);
                assert_eq!(find(&data[..last], 0), Some(bit));
                assert_eq!(find(&data[..last - 1], 0), None);
            }
        }
    }
}
