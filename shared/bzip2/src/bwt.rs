//! Reverses the Burrows–Wheeler transform.
//!
//! Each row of the sorted table leads to the next. The output is therefore a chain of as many steps as there are bytes,
//! and each step waits for memory. To hide that, walks begin at many rows at the same time. A walk ends at the row
//! where another one began, and the order of the walks is known when all have ended.

#![expect(
    clippy::cast_possible_truncation,
    reason = "rows, rounds and lanes are bounded by the largest block"
)]

use super::block::{LEVEL_BYTES, Unverified};

/// Number of rows in memory: those of the largest block and one more, rounded up to a power of two so that no index is
/// out of bounds.
const ROWS: usize = 1 << 20;
/// Bit of a row that marks the start of a walk. The lowest eight bits of a row are its byte, the bits above them the
/// index of the next row.
const MARK: u32 = 1 << 31;
/// Number of walks that go on at the same time.
const LANES: usize = 16;
/// Steps of all lanes in one round. Each round has output buffers of its own.
const ROUND: usize = 256;
/// Number of equally spaced rows at which walks begin. With more of them the lanes finish at more similar times, but
/// each end of a walk takes time.
const STARTS: usize = 384;
/// Blocks with fewer bytes are small enough for a single walk.
const SMALL: usize = 8192;
/// Number of rows that are written at once for a short run.
const AHEAD: usize = 8;
const NONE: u32 = u32::MAX;

type Lanes = [[u8; ROUND]; LANES];

/// A part of a walk: the bytes `from` to `to` of a lane in a round, and the index of the next part.
#[derive(Clone, Copy)]
struct Part {
    round: u32,
    lane: u8,
    from: u16,
    to: u16,
    next: u32,
}

/// A walk: its first and last part, and the row where it ended, which is the first row of another one.
#[derive(Clone, Copy)]
struct Walk {
    first: u32,
    last: u32,
    end: u32,
}

/// The rows of a block and the walks through them.
pub(crate) struct Walks {
    rows: Box<[u32; ROWS]>,
    count: usize,
    rounds: Vec<Lanes>,
    parts: Vec<Part>,
    found: Vec<Walk>,
    starts: Vec<u32>,
}

impl Walks {
    #[expect(clippy::expect_used, reason = "the length is that of the array")]
    pub(crate) fn new() -> Self {
        let rows = vec![0; ROWS].into_boxed_slice();
        Self {
            rows: rows.try_into().expect("as many rows as the array has"),
            count: 0,
            rounds: Vec::new(),
            parts: Vec::new(),
            found: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// Sorts the bytes of the runs, at most `most`, into rows. Each row leads to the original position of its byte.
    #[expect(clippy::indexing_slicing, reason = "the places are sums of the very runs' lengths")]
    pub(crate) fn place(&mut self, runs: &[u32], most: usize) -> Result<(), Unverified> {
        let mut ends = [0_usize; 256];
        for run in runs {
            ends[(run & 0xff) as usize] += (run >> 8) as usize;
        }
        let mut next = [0_usize; 256];
        let mut sum = 0;
        for (place, end) in next.iter_mut().zip(&mut ends) {
            *place = sum;
            sum += *end;
            *end = sum;
        }
        if sum > most.min(9 * LEVEL_BYTES) {
            return Err(Unverified);
        }
        self.count = sum;
        let mut row = 0;
        for run in runs {
            let byte = (run & 0xff) as usize;
            let place = next[byte];
            let length = (run >> 8) as usize;
            let mut value = row << 8 | run & 0xff;
            next[byte] = place + length;
            row += length as u32;
            // Most runs are short, but their length cannot be predicted, so a fixed number of rows is written. The
            // surplus rows are overwritten later by the runs to which they belong.
            if length <= AHEAD && place + AHEAD <= ends[byte] {
                for (to, i) in self.rows[place..place + AHEAD].iter_mut().zip(0..) {
                    *to = value + (i << 8);
                }
                continue;
            }
            for to in &mut self.rows[place..place + length] {
                *to = value;
                value += 1 << 8;
            }
        }
        Ok(())
    }

    /// Writes the bytes to `text` in their order, from row `origin` on.
    pub(crate) fn walk(&mut self, origin: usize, text: &mut Vec<u8>) -> Result<(), Unverified> {
        text.clear();
        if origin >= self.count {
            return Err(Unverified);
        }
        if self.count < SMALL || !self.walk_all(origin) {
            self.walk_one(origin, text);
        } else {
            self.join(origin, text);
        }
        Ok(())
    }

    /// Walks through all rows in a single walk.
    #[expect(clippy::indexing_slicing, reason = "a row is below ROWS")]
    fn walk_one(&self, origin: usize, text: &mut Vec<u8>) {
        let mut row = origin;
        text.extend((0..self.count).map(|_| {
            let entry = self.rows[row];
            row = next(entry);
            entry as u8
        }));
    }

    /// Walks from all starts. Returns false if that would take much more memory than there are bytes, because a crafted
    /// block can make the walks very different in length.
    #[expect(clippy::indexing_slicing, reason = "rows are below ROWS, lanes below LANES")]
    fn walk_all(&mut self, origin: usize) -> bool {
        self.begin(origin);
        let idle = self.count;
        self.rows[idle] = (idle as u32) << 8;
        let mut waiting = 0;
        let mut at = [idle; LANES];
        let mut walk = [NONE; LANES];
        let mut from = [0_u16; LANES];
        for lane in 0..LANES {
            at[lane] = self.starts[waiting] as usize;
            walk[lane] = waiting as u32;
            waiting += 1;
        }
        let mut fresh = true;
        let most_rounds = self.count / (LANES * ROUND) * 3 / 2 + 8;
        for round in 0..most_rounds {
            if round == self.rounds.len() {
                self.rounds.push([[0; ROUND]; LANES]);
            }
            let mut step = 0;
            loop {
                if fresh {
                    // A new walk stands on its own mark, which does not end it, so its first step ignores marks.
                    single_step(&self.rows, &mut self.rounds[round], &mut at, step);
                    step += 1;
                    fresh = false;
                }
                step = steps(&self.rows, &mut self.rounds[round], &mut at, step);
                if step == ROUND {
                    break;
                }
                for lane in 0..LANES {
                    if self.rows[at[lane]] & MARK == 0 {
                        continue;
                    }
                    self.add(walk[lane], round, lane, from[lane], step);
                    self.found[walk[lane] as usize].end = at[lane] as u32;
                    from[lane] = step as u16;
                    if let Some(start) = self.starts.get(waiting) {
                        at[lane] = *start as usize;
                        walk[lane] = waiting as u32;
                        waiting += 1;
                    } else {
                        at[lane] = idle;
                        walk[lane] = NONE;
                    }
                }
                fresh = true;
            }
            let mut busy = false;
            for lane in 0..LANES {
                if walk[lane] != NONE {
                    self.add(walk[lane], round, lane, from[lane], ROUND);
                    busy = true;
                }
            }
            from = [0; LANES];
            if !busy {
                return true;
            }
        }
        false
    }

    /// Chooses the rows at which walks begin, and marks them.
    #[expect(clippy::indexing_slicing, reason = "starts are rows")]
    fn begin(&mut self, origin: usize) {
        self.starts.clear();
        self.starts.push(origin as u32);
        let distance = self.count / STARTS;
        let others = (0..STARTS).map(|start| start * distance).filter(|row| *row != origin);
        self.starts.extend(others.map(|row| row as u32));
        for start in &self.starts {
            self.rows[*start as usize] |= MARK;
        }
        self.parts.clear();
        self.found.clear();
        self.found.resize(self.starts.len(), Walk { first: NONE, last: NONE, end: NONE });
    }

    /// Adds a part to a walk.
    #[expect(clippy::indexing_slicing, reason = "walks and parts are numbered as they are added")]
    fn add(&mut self, walk: u32, round: usize, lane: usize, from: u16, to: usize) {
        let part = self.parts.len() as u32;
        self.parts.push(Part {
            round: round as u32,
            lane: lane as u8,
            from,
            to: to as u16,
            next: NONE,
        });
        let walk = &mut self.found[walk as usize];
        if walk.first == NONE {
            walk.first = part;
        } else {
            self.parts[walk.last as usize].next = part;
        }
        walk.last = part;
    }

    /// Appends the walks to `text` in their order. If the bytes of the block repeat, the rows form several circles.
    /// Then the circle of the origin is repeated until there are enough bytes, as in a single walk.
    #[expect(clippy::indexing_slicing, reason = "walks and parts are numbered as they are added")]
    fn join(&self, origin: usize, text: &mut Vec<u8>) {
        let distance = self.count / STARTS;
        // The capacity is the same for all blocks, because a vector that grows step by step would take twice as much.
        text.reserve_exact(9 * LEVEL_BYTES + ROUND);
        let mut walk = self.found[0];
        loop {
            let mut part = walk.first;
            while part != NONE {
                let Part { round, lane, from, to, next } = self.parts[part as usize];
                let bytes = &self.rounds[round as usize][usize::from(lane)];
                text.extend_from_slice(&bytes[usize::from(from)..usize::from(to)]);
                part = next;
                if text.len() >= self.count {
                    text.truncate(self.count);
                    return;
                }
            }
            let end = walk.end as usize;
            // The walk from the origin is number 0. If the origin is also one of the equally spaced rows, it is missing
            // among the others, and the walks behind it have numbers that are lower by one.
            let number = end / distance;
            let before =
                origin.is_multiple_of(distance) && origin < end && origin / distance < STARTS;
            walk = self.found[if end == origin { 0 } else { number + 1 - usize::from(before) }];
        }
    }
}

fn next(entry: u32) -> usize {
    (entry >> 8) as usize & (ROWS - 1)
}

/// Makes one step in all lanes.
#[expect(clippy::indexing_slicing, reason = "rows are below ROWS, steps below ROUND")]
fn single_step(rows: &[u32; ROWS], out: &mut Lanes, at: &mut [usize; LANES], step: usize) {
    for lane in 0..LANES {
        let entry = rows[at[lane]];
        out[lane][step] = entry as u8;
        at[lane] = next(entry);
    }
}

/// Makes steps in all lanes until one of them stands on a mark or the round is over. Returns the number of the next
/// step.
#[expect(clippy::indexing_slicing, reason = "rows are below ROWS, steps below ROUND")]
fn steps(rows: &[u32; ROWS], out: &mut Lanes, at: &mut [usize; LANES], mut step: usize) -> usize {
    let mut row = at.map(|row| row & (ROWS - 1));
    while step < ROUND {
        let mut marks = 0;
        let mut after = [0; LANES];
        for lane in 0..LANES {
            let entry = rows[row[lane]];
            out[lane][step] = entry as u8;
            after[lane] = next(entry);
            marks |= entry;
        }
        if marks & MARK != 0 {
            break;
        }
        row = after;
        step += 1;
    }
    *at = row;
    step
}
