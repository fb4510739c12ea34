//! The state of the stream at the last verified place, and bytes that bring an ordinary decoder to that place.

use super::{block::Unverified, crc, scan};

/// The state of the input before a place.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stream {
    /// Level of the open stream; `None` between two streams.
    level: Option<u8>,
    /// Combined checksum of the stream's blocks so far; `None` before the first block.
    checksum: Option<u32>,
    /// Whether any stream of the input has ended.
    ended: bool,
}

/// Length of each code in a block that is written here, in bits. Its alphabet has at most seven symbols.
const SYMBOL_BITS: usize = 3;

impl Stream {
    /// Notes the start of a stream.
    pub(crate) fn open(&mut self, level: u8) {
        self.level = Some(level);
        self.checksum = None;
    }

    /// Notes a block of the stream.
    pub(crate) fn block(&mut self, checksum: u32) {
        self.checksum = Some(crc::combine(self.checksum.unwrap_or(0), checksum));
    }

    /// Notes the end of the stream.
    ///
    /// # Errors
    /// [`Unverified`] if the stream's checksum is not that of its blocks.
    pub(crate) fn close(&mut self, checksum: u32) -> Result<(), Unverified> {
        if self.checksum.unwrap_or(0) != checksum {
            return Err(Unverified);
        }
        self.level = None;
        self.ended = true;
        Ok(())
    }

    /// Whether any stream of the input has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Returns bytes that bring an ordinary decoder to this place, and the number of bytes that it yields for them. The
    /// bytes end in bit `bit` of their last byte; 0 stands for a whole byte. After the end of a stream they are an
    /// empty stream. Within a stream they are its header and, after the first block, a block of four bytes whose
    /// checksum is that of all blocks before.
    pub(crate) fn prefix(&self, bit: usize) -> (Vec<u8>, u8) {
        let mut out = Writer::default();
        match self.level {
            None if self.ended => {
                out.bytes(b"BZh9");
                out.put(scan::END, 48);
                out.put(0, 32);
                (out.bytes, 0)
            }
            None => (Vec::new(), 0),
            Some(level) => {
                out.bytes(&[b'B', b'Z', b'h', b'0' + level]);
                let Some(checksum) = self.checksum else { return (out.bytes, 0) };
                let start = out.clone();
                for spare in 0..8 {
                    out.clone_from(&start);
                    put_block(&mut out, crc::bytes_with(checksum), checksum, spare);
                    if out.bits % 8 == bit {
                        break;
                    }
                }
                (out.bytes, 4)
            }
        }
    }
}

/// Writes a block of the bytes `plain` with `spare` selectors more than it needs. Each of them takes one bit.
fn put_block(out: &mut Writer, plain: [u8; 4], checksum: u32, spare: usize) {
    let mut text = plain.to_vec();
    if plain.iter().all(|byte| *byte == plain[0]) {
        text.push(0);
    }
    let mut rotations: Vec<usize> = (0..text.len()).collect();
    let rotation = |start: &usize| -> Vec<u8> {
        text.iter().cycle().skip(*start).take(text.len()).copied().collect()
    };
    rotations.sort_by_cached_key(rotation);
    let origin = rotations.iter().position(|start| *start == 0).unwrap_or_default();
    let last = rotations.iter().map(|start| rotation(start).last().copied().unwrap_or_default());
    let last: Vec<u8> = last.collect();
    let mut used = text.clone();
    used.sort_unstable();
    used.dedup();

    out.put(scan::BLOCK, 48);
    out.put(u64::from(checksum), 32);
    out.put(0, 1);
    out.put(origin as u64, 24);
    let has = |byte: u8| u64::from(used.contains(&byte));
    let range = |range: u8| (0..16).fold(0, |bits, byte| bits << 1 | has(range * 16 + byte));
    out.put((0..16).fold(0, |bits, i| bits << 1 | u64::from(range(i) != 0)), 16);
    for bits in (0..16).map(range).filter(|bits| *bits != 0) {
        out.put(bits, 16);
    }
    // The format requires at least two tables; only the first is used.
    out.put(2, 3);
    out.put(1 + spare as u64, 15);
    out.put(0, 1 + spare);
    for _ in 0..2 {
        // All codes are of the same length.
        out.put(SYMBOL_BITS as u64, 5);
        out.put(0, used.len() + 2);
    }
    put_symbols(out, &last, used);
}

/// Writes the symbols of the sorted text: places in the list of used bytes, and runs for the byte at its front.
fn put_symbols(out: &mut Writer, last: &[u8], mut places: Vec<u8>) {
    let end = places.len() + 1;
    let mut run = 0;
    let put_run = |out: &mut Writer, mut run: usize| {
        while run > 0 {
            out.put((run as u64 - 1) & 1, SYMBOL_BITS);
            run = (run - 1) / 2;
        }
    };
    for byte in last {
        let place = places.iter().position(|other| other == byte).unwrap_or_default();
        if place == 0 {
            run += 1;
            continue;
        }
        put_run(out, run);
        run = 0;
        out.put(place as u64 + 1, SYMBOL_BITS);
        let byte = places.remove(place);
        places.insert(0, byte);
    }
    put_run(out, run);
    out.put(end as u64, SYMBOL_BITS);
}

/// Writes bits to bytes, the highest of each byte first.
#[derive(Clone, Default)]
struct Writer {
    bytes: Vec<u8>,
    bits: usize,
}

impl Writer {
    fn put(&mut self, value: u64, count: usize) {
        for i in (0..count).rev() {
            if self.bits.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(byte) = self.bytes.last_mut() {
                *byte |= ((value >> i & 1) as u8) << (7 - self.bits % 8);
            }
            self.bits += 1;
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.put(u64::from(*byte), 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_prefix_ends_in_each_bit_and_gives_what_it_says() {
        for checksum in
            [0, 1, 2, 3, u32::MAX, 0x1234_5678, crc::checksum(b"aaaa"), crc::checksum(b"abab")]
        {
            for bit in 0..8 {
                let stream = Stream { level: Some(3), checksum: Some(checksum), ended: false };
                let (bytes, skip) = stream.prefix(bit);
                let mut out = Writer { bits: bytes.len() * 8 - (8 - bit) % 8, bytes };
                out.put(scan::END, 48);
                out.put(u64::from(checksum), 32);
                let mut plain = Vec::new();
                bzip2::read::BzDecoder::new(&out.bytes[..]).read_to_end(&mut plain).unwrap();
                assert_eq!(plain.len(), usize::from(skip));
            }
        }
    }
}
