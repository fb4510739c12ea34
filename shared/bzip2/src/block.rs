//! Decodes one block: its header, its symbols and its bytes.

#![expect(clippy::cast_possible_truncation, reason = "the format bounds each number")]

use super::{
    bits::Bits,
    bwt::Walks,
    crc,
    huffman::{LONGEST, SYMBOLS, Table},
    mtf::MoveToFront,
    rle,
    scan::MAGIC_BITS,
};

/// Error for a block that is damaged, or written as no usual program writes it. The ordinary decoder decides which it
/// is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unverified;

/// Bytes of a block for each level, before the run-length coding is undone.
pub(crate) const LEVEL_BYTES: usize = 100_000;

/// Largest output of a block, in bytes. Runs can make 46 MB of one block; such blocks are too rare to reserve that
/// memory.
pub(crate) const MAX_OUT: usize = 4 << 20;

const TABLES: usize = 6;
const MAX_SELECTORS: usize = 18_002;
/// Number of symbols that are decoded with the same table.
const GROUP: usize = 50;
/// Most digits in the length of a run.
const MAX_DIGITS: u32 = 20;

/// Decodes blocks one after another and keeps the buffers between them.
pub(crate) struct Decoder {
    tables: Vec<Table>,
    selectors: Vec<u8>,
    /// Runs of equal bytes. The lowest eight bits of an entry are the byte, the bits above them its number of
    /// repetitions.
    runs: Vec<u32>,
    walks: Walks,
    text: Vec<u8>,
    out: Vec<u8>,
}

/// Values from the header of a block that are needed after its tables were read.
struct Header {
    checksum: u32,
    origin: usize,
    used: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            tables: (0..TABLES).map(|_| Table::EMPTY).collect(),
            selectors: Vec::new(),
            runs: Vec::new(),
            walks: Walks::new(),
            text: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Returns the bytes of the block that was decoded last.
    pub(crate) fn out(&self) -> &[u8] {
        &self.out
    }

    /// Decodes the block from bit `start` to bit `end` of `data`, and returns its checksum after it was verified.
    ///
    /// # Errors
    /// [`Unverified`] if anything differs from what a usual program writes.
    pub(crate) fn decode(
        &mut self,
        data: &[u8],
        start: usize,
        end: usize,
        level: u8,
    ) -> Result<u32, Unverified> {
        self.out.clear();
        // Most blocks need no more, even with their runs. A vector that grows step by step would take twice as much.
        self.out.reserve_exact(10 * LEVEL_BYTES);
        let most = usize::from(level) * LEVEL_BYTES;
        let mut bits = Bits::new(data, start + MAGIC_BITS);
        let header = self.header(&mut bits)?;
        self.symbols(&mut bits, &header.used)?;
        if bits.past_end() || bits.position() != end {
            return Err(Unverified);
        }
        self.walks.place(&self.runs, most)?;
        self.walks.walk(header.origin, &mut self.text)?;
        rle::expand(&self.text, &mut self.out, MAX_OUT)?;
        if crc::checksum(&self.out) == header.checksum {
            Ok(header.checksum)
        } else {
            Err(Unverified)
        }
    }

    fn header(&mut self, bits: &mut Bits<'_>) -> Result<Header, Unverified> {
        let checksum = bits.take(32);
        let randomised = bits.take(1) != 0;
        let origin = bits.take(24) as usize;
        if randomised {
            return Err(Unverified);
        }
        let mut used = Vec::with_capacity(256);
        let ranges = bits.take(16);
        for range in 0..16 {
            if ranges >> (15 - range) & 1 != 0 {
                let bytes = bits.take(16);
                let set = (0..16_u8).filter(|byte| bytes >> (15 - byte) & 1 != 0);
                used.extend(set.map(|byte| range * 16 + byte));
            }
        }
        let tables = bits.take(3) as usize;
        if used.is_empty() || !(2..=TABLES).contains(&tables) {
            return Err(Unverified);
        }
        self.selectors(bits, tables)?;
        for table in self.tables.iter_mut().take(tables) {
            read_table(bits, used.len() + 2, table)?;
        }
        Ok(Header { checksum, origin, used })
    }

    fn selectors(&mut self, bits: &mut Bits<'_>, tables: usize) -> Result<(), Unverified> {
        let count = bits.take(15) as usize;
        if !(1..=MAX_SELECTORS).contains(&count) {
            return Err(Unverified);
        }
        self.selectors.clear();
        let mut order = MoveToFront::new(&[0, 1, 2, 3, 4, 5]);
        for _ in 0..count {
            bits.refill();
            let place = (!bits.peek(TABLES as u32) << (32 - TABLES)).leading_zeros();
            if place as usize >= tables {
                return Err(Unverified);
            }
            bits.skip(place + 1);
            self.selectors.push(order.take(place as u8));
        }
        Ok(())
    }

    /// Reads the symbols up to the end of the block and stores them as runs of equal bytes.
    fn symbols(&mut self, bits: &mut Bits<'_>, used: &[u8]) -> Result<(), Unverified> {
        let end = used.len() as u16 + 1;
        let mut list = MoveToFront::new(used);
        self.runs.clear();
        // A run repeats the byte before it. Before the first byte, it repeats the first byte of the list.
        let mut run = u32::from(list.front());
        let mut digits = 0;
        for selector in &self.selectors {
            let table = self.tables.get(usize::from(*selector)).ok_or(Unverified)?;
            let mut ended = [0; GROUP];
            let mut count = 0;
            for _ in 0..GROUP / 2 {
                bits.refill();
                for _ in 0..2 {
                    let symbol = table.next(bits)?;
                    if symbol == end {
                        self.runs.extend_from_slice(ended.get(..count).ok_or(Unverified)?);
                        self.runs.push(run);
                        return Ok(());
                    }
                    // It cannot be predicted whether a symbol is a digit or a byte, so both are computed without a
                    // branch.
                    let digit = symbol <= 1;
                    if digits > MAX_DIGITS {
                        return Err(Unverified);
                    }
                    let longer = run + ((u32::from(symbol & 1) + 1) << digits << 8);
                    *ended.get_mut(count).ok_or(Unverified)? = run;
                    count += usize::from(!digit);
                    let byte = list.take(if digit { 0 } else { (symbol - 1) as u8 });
                    run = if digit { longer } else { 1 << 8 | u32::from(byte) };
                    digits = if digit { digits + 1 } else { 0 };
                }
            }
            self.runs.extend_from_slice(ended.get(..count).ok_or(Unverified)?);
        }
        Err(Unverified)
    }
}

/// Reads the code lengths of a table. Each is written as steps up or down from the one before it.
fn read_table(bits: &mut Bits<'_>, symbols: usize, table: &mut Table) -> Result<(), Unverified> {
    let mut lengths = [0; SYMBOLS];
    let lengths = lengths.get_mut(..symbols).ok_or(Unverified)?;
    let mut length = bits.take(5);
    for to in lengths.iter_mut() {
        loop {
            if !(1..=LONGEST).contains(&length) {
                return Err(Unverified);
            }
            bits.refill();
            if bits.peek(1) == 0 {
                bits.skip(1);
                break;
            }
            length = if bits.peek(2) == 2 { length + 1 } else { length - 1 };
            bits.skip(2);
        }
        *to = length as u8;
    }
    table.build(lengths)
}
