//! Joins lines across the borders of pieces of text, such as the blocks of bzip2.
//!
//! The text before the first line break of a piece belongs to the line that earlier pieces began. All other lines are
//! worked on in place, without a copy.

use std::{convert::Infallible, ops::Range};

use super::{KEPT_OF_LONG_LINE, Line};

/// Estimated memory for the result of a short line, in bytes.
const RESULT_BYTES: usize = 256;

/// Number of blank bytes that one comparison skips.
const BLANKS: usize = 4 << 10;

/// The blank lines that most long runs consist of.
const RUNS: [&[u8]; 2] = [&[b'\n'; BLANKS], [[b'\r', b'\n']; BLANKS / 2].as_flattened()];

/// The byte order mark that some programs write before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line that began in one piece of text and ends in another.
#[derive(Debug, Default)]
struct Joined {
    /// Bytes of the line; only the first ones if it is longer than the cap.
    kept: Vec<u8>,
    length: u64,
    last: Option<u8>,
}

impl Joined {
    fn add(&mut self, part: &[u8], most_of_line: usize) {
        self.length = self.length.saturating_add(part.len() as u64);
        self.last = part.last().copied().or(self.last);
        // The buffer has room for one byte more than the cap, because `\r` may follow a line of exactly the cap.
        let room = most_of_line.saturating_add(1);
        if self.length <= room as u64 {
            // The capacity doubles but never exceeds `room`. A plain `Vec` would exceed it by up to half.
            let needed = self.kept.len() + part.len();
            if needed > self.kept.capacity() {
                let capacity = self.kept.capacity().saturating_mul(2).min(room).max(needed);
                self.kept.reserve_exact(capacity - self.kept.len());
            }
            self.kept.extend_from_slice(part);
        } else {
            let missing = KEPT_OF_LONG_LINE.saturating_sub(self.kept.len());
            self.kept.extend_from_slice(part.get(..missing).unwrap_or(part));
            self.kept.truncate(KEPT_OF_LONG_LINE);
            self.kept.shrink_to(KEPT_OF_LONG_LINE);
        }
    }
}

/// Cuts consecutive pieces of text into lines.
#[derive(Debug)]
pub(super) struct LineJoiner {
    most_of_line: usize,
    /// Number of line breaks so far.
    number: u64,
    open: Joined,
}

/// The lines of a piece of text.
#[derive(Debug)]
pub(super) struct Piece {
    most_of_line: usize,
    /// Number of line breaks before the piece.
    number: u64,
    /// The line that an earlier piece began, where it ends in this one.
    joined: Option<Joined>,
    /// Range of the lines that begin and end in this piece.
    whole: Range<usize>,
    /// Number of lines that end in this piece.
    ends: u64,
}

impl LineJoiner {
    /// Starts before the first piece.
    pub(super) fn new(most_of_line: usize) -> Self {
        Self { most_of_line, number: 0, open: Joined::default() }
    }

    /// Takes the next piece of text and returns its lines. It does little work, because the pieces pass through it one
    /// after another.
    ///
    /// `ends` is the number of lines that end in the piece, as [`breaks`] counts them.
    pub(super) fn pass(&mut self, text: &[u8], ends: u64) -> Piece {
        let (most_of_line, number) = (self.most_of_line, self.number);
        let (Some(first), Some(last)) = (memchr::memchr(b'\n', text), memchr::memrchr(b'\n', text))
        else {
            self.open.add(text, most_of_line);
            return Piece { most_of_line, number, joined: None, whole: 0..0, ends: 0 };
        };
        let start = if self.open.length > 0 {
            self.open.add(text.get(..first).unwrap_or_default(), most_of_line);
            first + 1
        } else {
            0
        };
        let joined = (start > 0).then(|| std::mem::take(&mut self.open));
        self.number += ends;
        self.open.add(text.get(last + 1..).unwrap_or_default(), most_of_line);
        Piece { most_of_line, number, joined, whole: start..last + 1, ends }
    }

    /// Returns the number of lines so far, blank ones included.
    pub(super) fn lines(&self) -> u64 {
        self.number + u64::from(self.open.length > 0)
    }

    /// Returns the last line if no line break follows it.
    pub(super) fn finish(&mut self) -> Piece {
        let joined = (self.open.length > 0).then(|| std::mem::take(&mut self.open));
        let (most_of_line, number) = (self.most_of_line, self.number);
        Piece { most_of_line, number, joined, whole: 0..0, ends: 0 }
    }
}

impl Piece {
    /// Returns the bytes in memory for the piece, in addition to its text: the line that began earlier, and an estimate
    /// for the results of its lines, of which at most `most_lines` are not blank.
    pub(super) fn bytes(&self, most_lines: usize) -> usize {
        let joined = self.joined.as_ref().map_or(0, |joined| joined.kept.capacity());
        let lines = usize::try_from(self.ends).unwrap_or(usize::MAX).min(most_lines);
        joined.saturating_add(lines.saturating_mul(RESULT_BYTES))
    }

    /// Whether no line ends in the piece.
    pub(super) fn is_empty(&self) -> bool {
        self.joined.is_none() && self.whole.is_empty()
    }

    /// Calls `each` with every line that is not blank, until it fails. `text` is the text of the piece.
    pub(super) fn try_each<E>(
        self,
        text: &[u8],
        mut each: impl FnMut(&Line, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut number = self.number;
        let mut line = |number, kept: &[u8], length, last| match finish(
            kept,
            length,
            last,
            number,
            self.most_of_line,
        ) {
            Some((line, kept)) => each(&line, kept),
            None => Ok(()),
        };
        if let Some(joined) = self.joined {
            number += 1;
            line(number, &joined.kept, joined.length, joined.last)?;
        }
        let mut rest = text.get(self.whole).unwrap_or_default();
        loop {
            let (blank, after) = behind_blank_lines(rest, self.most_of_line);
            number += blank;
            let Some(end) = memchr::memchr(b'\n', after) else { return Ok(()) };
            let (part, after) = after.split_at(end);
            number += 1;
            line(number, part, part.len() as u64, part.last().copied())?;
            rest = after.get(1..).unwrap_or_default();
        }
    }

    /// Returns the results of `work` for all lines that are not blank.
    pub(super) fn map<T>(self, text: &[u8], work: impl Fn(&Line, &[u8]) -> T) -> Vec<T> {
        let mut made = Vec::new();
        let done = self.try_each(text, |line, bytes| {
            made.push(work(line, bytes));
            Ok::<_, Infallible>(())
        });
        match done {
            Ok(()) => made,
        }
    }
}

/// Returns the number of lines that end in a text.
pub(super) fn breaks(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

/// Returns the number of blank lines at the start of a text, and the text behind them. Stops early at a line that may
/// be longer than `most_of_line`, because such a line is too long and does not count as blank.
pub(super) fn behind_blank_lines(text: &[u8], most_of_line: usize) -> (u64, &[u8]) {
    let (mut blank, mut rest) = (0, text);
    // A record does not begin with a blank, so one look at its first byte is enough.
    while rest.first().is_some_and(u8::is_ascii_whitespace) {
        // A comparison is many times faster than a look at each byte.
        if let Some((run, after)) =
            RUNS.iter().find_map(|run| Some((run, rest.strip_prefix(*run)?)))
        {
            blank += breaks(run);
            rest = after;
            continue;
        }
        let start = rest.get(..most_of_line.clamp(1, BLANKS)).unwrap_or(rest);
        let blanks = start.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(start.len());
        let Some(last) = memchr::memrchr(b'\n', start.get(..blanks).unwrap_or_default()) else {
            break;
        };
        let (lines, after) = rest.split_at(last + 1);
        blank += breaks(lines);
        rest = after;
    }
    (blank, rest)
}

/// Returns the line and its bytes as they are passed on; `None` if it is blank.
fn finish(
    mut kept: &[u8],
    mut length: u64,
    last: Option<u8>,
    number: u64,
    most_of_line: usize,
) -> Option<(Line, &[u8])> {
    if last == Some(b'\r') {
        length -= 1;
        // If bytes of the line were left out, the `\r` is either among them or behind those that are kept.
        kept = usize::try_from(length).ok().and_then(|length| kept.get(..length)).unwrap_or(kept);
    }
    let line = if length <= most_of_line as u64 {
        Line::Record { number }
    } else {
        kept = kept.get(..KEPT_OF_LONG_LINE).unwrap_or(kept);
        Line::TooLong { number, length }
    };
    if number == 1 {
        // Editors of Windows write a byte order mark, which is not part of the text.
        kept = kept.strip_prefix(BYTE_ORDER_MARK).unwrap_or(kept);
    }
    let blank = matches!(line, Line::Record { .. }) && kept.trim_ascii().is_empty();
    (!blank).then_some((line, kept))
}
