//! A list of bytes for move-to-front coding: an entry that is used moves to the front.

#![expect(
    clippy::cast_possible_truncation,
    clippy::inline_always,
    reason = "the lowest byte of a word is meant; the hot loop has all of it within"
)]

/// Number of entries that are kept in one word. Most entries that are used are near the front.
const WORD: usize = 8;

/// Bytes in the order of their last use.
pub(crate) struct MoveToFront {
    /// The first eight entries. The very first is in the lowest byte.
    head: u64,
    /// The next eight entries.
    middle: u64,
    /// All entries by place. The first sixteen places are stale, because `head` and `middle` hold them.
    tail: [u8; 256],
}

impl MoveToFront {
    /// Makes a list of the bytes that a block uses, at most 256, in this order.
    pub(crate) fn new(used: &[u8]) -> Self {
        let mut tail = [0; 256];
        for (to, from) in tail.iter_mut().zip(used) {
            *to = *from;
        }
        let mut words = tail.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        let (head, middle) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        Self { head, middle, tail }
    }

    /// Returns the first byte of the list.
    pub(crate) fn front(&self) -> u8 {
        self.head as u8
    }

    /// Moves the byte at `place` to the front and returns it.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a place below 256 in a list of 256")]
    pub(crate) fn take(&mut self, place: u8) -> u8 {
        if usize::from(place) < WORD {
            let byte = move_within(&mut self.head, place);
            self.head = self.head & !0xff | byte;
            return byte as u8;
        }
        let byte = if usize::from(place) < 2 * WORD {
            move_within(&mut self.middle, place - WORD as u8)
        } else {
            let byte = self.tail[usize::from(place)];
            self.tail.copy_within(2 * WORD..usize::from(place), 2 * WORD + 1);
            self.tail[2 * WORD] = (self.middle >> 56) as u8;
            self.middle <<= 8;
            u64::from(byte)
        };
        self.middle = self.middle & !0xff | self.head >> 56;
        self.head = self.head << 8 | byte;
        byte as u8
    }
}

/// Moves the bytes before `place` back by one and returns the byte that was at `place`. The caller sets the first
/// place.
#[inline(always)]
fn move_within(word: &mut u64, place: u8) -> u64 {
    let shift = u32::from(place) * 8;
    let byte = *word >> shift & 0xff;
    let moved = u64::MAX >> (56 - shift);
    *word = *word & !moved | *word << 8 & moved;
    byte
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_what_a_plain_list_does() {
        let mut plain: Vec<u8> = (0..=255).rev().collect();
        let mut list = MoveToFront::new(&plain);
        for i in 0..5000_u32 {
            let place = ((i * i * 7) >> 4) as u8 & if i % 3 == 0 { 0xff } else { 0x0f };
            let byte = plain.remove(usize::from(place));
            plain.insert(0, byte);
            assert_eq!(list.take(place), byte);
            assert_eq!(list.front(), byte);
        }
    }
}
