//! Computes bzip2's CRC-32: the usual polynomial, with the highest bit first.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the upper or lower byte of a register is meant"
)]

const POLYNOMIAL: u32 = 0x04c1_1db7;

/// Bytes that one step takes.
const STEP: usize = 16;

/// `TABLES[k][b]` is the effect of byte `b` on the register `k` bytes later.
static TABLES: [[u32; 256]; STEP] = tables();

#[expect(clippy::indexing_slicing, reason = "evaluated while compiling")]
const fn tables() -> [[u32; 256]; STEP] {
    let mut tables = [[0; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        let mut register = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            let top = register >> 31;
            register = (register << 1) ^ (top * POLYNOMIAL);
            bit += 1;
        }
        tables[0][byte] = register;
        byte += 1;
    }
    let mut later = 1;
    while later < STEP {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[later - 1][byte];
            tables[later][byte] = before << 8 ^ tables[0][(before >> 24) as usize];
            byte += 1;
        }
        later += 1;
    }
    tables
}

/// Returns the checksum of a block's bytes.
#[expect(clippy::indexing_slicing, reason = "a byte into a table of 256")]
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let mut register = u32::MAX;
    let (steps, rest) = bytes.as_chunks::<STEP>();
    for step in steps {
        let first = register.to_be_bytes();
        let mut next = 0;
        for (i, byte) in step.iter().enumerate() {
            let byte = if i < 4 { byte ^ first[i] } else { *byte };
            next ^= TABLES[STEP - 1 - i][usize::from(byte)];
        }
        register = next;
    }
    for byte in rest {
        register = register << 8 ^ TABLES[0][usize::from((register >> 24) as u8 ^ byte)];
    }
    !register
}

/// Returns the checksum of a stream after one more block.
pub(crate) fn combine(stream: u32, block: u32) -> u32 {
    stream.rotate_left(1) ^ block
}

/// Returns the four bytes that have this checksum. They are unique, because four bytes lead to each state of the
/// register in exactly one way.
pub(crate) fn bytes_with(checksum: u32) -> [u8; 4] {
    let mut register = !checksum;
    for _ in 0..32 {
        let fed_back = register & 1;
        register = ((register ^ (fed_back * POLYNOMIAL)) >> 1) | (fed_back << 31);
    }
    (!register).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogued_check_value_comes_out() {
        // CRC-32/BZIP2 of "123456789".
        assert_eq!(checksum(b"123456789"), 0xfc89_1918);
        assert_eq!(checksum(b""), 0);
    }

    #[test]
    fn steps_and_single_bytes_agree() {
        let bytes: Vec<u8> = (0..200_u32).map(|i| ((i * i) >> 3) as u8).collect();
        for end in 0..bytes.len() {
            let slow = bytes[..end].iter().fold(u32::MAX, |register, byte| {
                register << 8 ^ TABLES[0][usize::from((register >> 24) as u8 ^ byte)]
            });
            assert_eq!(checksum(&bytes[..end]), !slow);
        }
    }

    #[test]
    fn four_bytes_have_any_checksum() {
        for wanted in [0, 1, u32::MAX, 0x1234_5678, 0x8000_0000] {
            assert_eq!(checksum(&bytes_with(wanted)), wanted);
        }
    }
}
