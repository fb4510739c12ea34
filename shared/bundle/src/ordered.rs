//! Passes lines through a pure function on several threads and returns the results in order.
//!
//! All threads decode the blocks of bzip2 at the same time ([`parallel_bzip2`]). Any other compression, and bzip2 that cannot be
//! verified, is decoded in turns, a chunk each, while the other threads work on their chunks. A `Window` bounds the
//! memory of chunks that are not passed on yet, for any speed of the workers and any length of the lines.

use std::{
    collections::BTreeMap,
    io::Read,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
};

use parallel_bzip2::{End, Limits, Rest};

use super::{
    BundleError, Caps, Compression, Line,
    decode::Decoder,
    lines::{LineJoiner, Piece, behind_blank_lines, breaks},
};

/// Size of a chunk of text, in bytes. It is small to save memory: eight records of the feed are enough work for one
/// turn.
const CHUNK_BYTES: usize = 256 << 10;
/// Most lines in a chunk, because the results of short lines take more memory than the lines. Records of the feed are
/// thousands of bytes long. A bzip2 bundle with more lines in a block is left to the ordinary decoder.
const MAX_LINES: usize = 8192;
/// Most chunks in memory for each worker.
const CHUNKS_A_WORKER: usize = 4;
/// Most bytes of all chunks in memory, with an estimate for their lines' results. A single larger chunk is allowed.
const WINDOW_BYTES: usize = 8 << 20;

/// Reasons why not all lines were passed on.
#[derive(Debug, thiserror::Error)]
pub enum OrderedError<E> {
    /// The input cannot be read further. The lines before the fault were passed on.
    #[error(transparent)]
    Bundle(BundleError),
    /// The `take` function failed.
    #[error(transparent)]
    Taker(E),
}

/// Size and compression of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Number of decompressed bytes.
    pub bytes: u64,
    /// Number of lines, blank ones included. It is also the number of the last line.
    pub lines: u64,
    /// Compression of the bundle, by its first bytes.
    pub compression: Compression,
}

/// Calls `work` for each line of `reader` that is not blank, on `threads` threads (0 counts as 1), and `take` with
/// the results, in order. `reader` needs no buffer of its own.
///
/// # Errors
/// [`OrderedError::Bundle`] if the input is broken. The lines before the fault were passed on, except for those in the
/// last 64 KiB that a decompressor had decoded when it failed. An input without bytes is [`BundleError::Empty`]; a
/// caller for which an empty plain file has zero lines has to match that. [`OrderedError::Taker`] with the error of
/// `take`.
pub fn map_lines<R: Read + Send, T: Send, E>(
    reader: R,
    caps: Caps,
    threads: usize,
    work: impl Fn(&Line, &[u8]) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<Extent, OrderedError<E>> {
    let mut joiner = LineJoiner::new(caps.max_line_bytes);
    let end = map_blocks(reader, caps, threads, &mut joiner, &work, &mut take);
    let (bytes, compression) = match end.map_err(OrderedError::Taker)? {
        End::Complete { bytes } => (bytes, Compression::Bzip2),
        End::Unclear(rest) => map_rest(rest, caps, threads, &mut joiner, &work, &mut take)?,
    };
    let lines = joiner.lines();
    map_last(joiner, work, take).map_err(OrderedError::Taker)?;
    Ok(Extent { bytes, lines, compression })
}

/// Like [`map_lines`], but calls `work` only for lines whose checksum was verified, and returns whether these are all
/// lines. Lines of a sound bzip2 bundle are verified. Lines with any other compression, or with none, never are.
///
/// # Errors
/// The error of `take`.
pub fn map_checked_lines<R: Read + Send, T: Send, E>(
    reader: R,
    caps: Caps,
    threads: usize,
    work: impl Fn(&Line, &[u8]) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<bool, E> {
    let mut joiner = LineJoiner::new(caps.max_line_bytes);
    match map_blocks(reader, caps, threads, &mut joiner, &work, &mut take)? {
        End::Complete { .. } => map_last(joiner, work, take).map(|()| true),
        End::Unclear(_) => Ok(false),
    }
}

/// Maps the lines of verified bzip2 blocks. The last line stays in the joiner if no line break ends it.
fn map_blocks<R: Read + Send, T: Send, E>(
    reader: R,
    caps: Caps,
    threads: usize,
    joiner: &mut LineJoiner,
    work: &(impl Fn(&Line, &[u8]) -> T + Sync),
    take: &mut impl FnMut(T) -> Result<(), E>,
) -> Result<End<R>, E> {
    parallel_bzip2::decode(
        reader,
        Limits { threads, max_bytes: caps.max_bundle_bytes },
        |text| {
            let ends = breaks(text);
            (ends <= MAX_LINES as u64).then(|| joiner.pass(text, ends))
        },
        |piece, text| piece.map(text, work),
        |made| made.into_iter().try_for_each(&mut *take),
    )
}

/// Maps the last line if no line break ends it.
fn map_last<T, E>(
    mut joiner: LineJoiner,
    work: impl Fn(&Line, &[u8]) -> T,
    take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    joiner.finish().map(&[], work).into_iter().try_for_each(take)
}

/// Maps the rest of the lines with the ordinary decoder. The last line stays in the joiner if no line break ends it.
fn map_rest<R: Read + Send, T: Send, E>(
    rest: Rest<R>,
    caps: Caps,
    threads: usize,
    joiner: &mut LineJoiner,
    work: &(impl Fn(&Line, &[u8]) -> T + Sync),
    take: &mut impl FnMut(T) -> Result<(), E>,
) -> Result<(u64, Compression), OrderedError<E>> {
    let mut chunks = Chunks {
        decoder: Decoder::resume(rest),
        joiner,
        most_bytes: caps.max_bundle_bytes,
        number: 0,
        broken: None,
        left: Vec::new(),
        taken: 0,
        most_of_line: caps.max_line_bytes,
    };
    if threads <= 1 {
        let mut text = Vec::new();
        while let Some(piece) = chunks.next(&mut text) {
            piece
                .try_each(&text, |line, bytes| take(work(line, bytes)))
                .map_err(OrderedError::Taker)?;
        }
    } else {
        let window = Window::new(threads * CHUNKS_A_WORKER);
        let turns = Mutex::new(&mut chunks);
        // The channel needs no bound, because the window bounds its content.
        let (to_taker, results) = channel();
        thread::scope(|scope| {
            let closing = Closing(&window);
            for _ in 0..threads {
                let (turns, window, out) = (&turns, &window, to_taker.clone());
                scope.spawn(move || take_turns(turns, window, work, &out));
            }
            drop(to_taker);
            let taken = in_order(&results, |worked: Worked<T>| {
                worked.items.into_iter().try_for_each(&mut *take)?;
                window.leave(worked.bytes);
                Ok(())
            });
            drop((closing, results));
            taken
        })
        .map_err(OrderedError::Taker)?;
    }
    if let Some(error) = chunks.broken {
        return Err(OrderedError::Bundle(error));
    }
    let compression = chunks.decoder.compression().unwrap_or(Compression::Plain);
    Ok((chunks.decoder.produced(), compression))
}

/// Calls `take` with the results of the workers in the order of their numbers, which begin at 0.
fn in_order<T, E>(
    made: impl IntoIterator<Item = (u64, T)>,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let (mut waiting, mut next) = (BTreeMap::new(), 0);
    for (number, item) in made {
        waiting.insert(number, item);
        while let Some(item) = waiting.remove(&next) {
            take(item)?;
            next += 1;
        }
    }
    Ok(())
}

/// The decoder's output, a chunk at a time.
struct Chunks<'a, R> {
    decoder: Decoder<Rest<R>>,
    joiner: &'a mut LineJoiner,
    most_bytes: u64,
    /// Number of the next chunk.
    number: u64,
    broken: Option<BundleError>,
    /// Decoded text that is passed on over several chunks.
    left: Vec<u8>,
    /// Number of bytes of `left` that were in earlier chunks.
    taken: usize,
    most_of_line: usize,
}

impl<R: Read> Chunks<'_, R> {
    /// Reads the next chunk in which a line ends into `text`; `None` if there is none.
    fn next(&mut self, text: &mut Vec<u8>) -> Option<Piece> {
        loop {
            text.clear();
            if self.taken < self.left.len() {
                let left = self.left.get(self.taken..).unwrap_or_default();
                let part = left.get(..few_lines(left, self.most_of_line)).unwrap_or(left);
                text.extend_from_slice(part);
                self.taken += part.len();
            } else if self.broken.is_none() {
                // The text before an error is passed on first.
                self.broken = self.decoder.fill(text, CHUNK_BYTES, self.most_bytes).err();
                let part = few_lines(text, self.most_of_line);
                if part < text.len() {
                    self.left.clear();
                    self.left.extend_from_slice(text.get(part..).unwrap_or_default());
                    self.taken = 0;
                    text.truncate(part);
                }
            }
            if text.is_empty() {
                return None;
            }
            let piece = self.joiner.pass(text, breaks(text));
            if !piece.is_empty() {
                self.number += 1;
                return Some(piece);
            }
        }
    }
}

/// Returns the length of the longest start of a text that has at most [`MAX_LINES`] non-blank lines.
fn few_lines(text: &[u8], most_of_line: usize) -> usize {
    if breaks(text) <= MAX_LINES as u64 {
        return text.len();
    }
    let mut rest = text;
    for _ in 0..MAX_LINES {
        (_, rest) = behind_blank_lines(rest, most_of_line);
        let Some(end) = memchr::memchr(b'\n', rest) else { return text.len() };
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    text.len() - rest.len()
}

/// Decodes chunks and works on their lines until there are no more.
fn take_turns<R: Read, T>(
    turns: &Mutex<&mut Chunks<'_, R>>,
    window: &Window,
    work: &impl Fn(&Line, &[u8]) -> T,
    out: &Sender<(u64, Worked<T>)>,
) {
    let _closing = ClosingOnPanic(window);
    loop {
        let mut text = Vec::new();
        let mut chunks = turns.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(piece) = chunks.next(&mut text) else { return };
        let number = chunks.number - 1;
        let bytes = text.len() + piece.bytes(MAX_LINES);
        // No other worker reads on while this one waits, because it holds `turns`.
        if !window.enter(bytes) {
            return;
        }
        drop(chunks);
        if out.send((number, Worked { bytes, items: piece.map(&text, work) })).is_err() {
            return;
        }
    }
}

/// The results of a chunk.
struct Worked<T> {
    bytes: usize,
    items: Vec<T>,
}

/// Accounts for the chunks that were read and are not passed on yet.
struct Window {
    most_chunks: usize,
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Default)]
struct Inside {
    chunks: usize,
    bytes: usize,
    closed: bool,
}

impl Window {
    fn new(most_chunks: usize) -> Self {
        Self { most_chunks, inside: Mutex::default(), changed: Condvar::new() }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for a chunk. An empty window has room for a chunk of any size. Returns false if the
    /// window is closed.
    fn enter(&self, bytes: usize) -> bool {
        let full = |inside: &mut Inside| {
            !inside.closed
                && inside.chunks > 0
                && (inside.chunks >= self.most_chunks || inside.bytes + bytes > WINDOW_BYTES)
        };
        let mut inside =
            self.changed.wait_while(self.inside(), full).unwrap_or_else(PoisonError::into_inner);
        inside.chunks += 1;
        inside.bytes += bytes;
        !inside.closed
    }

    /// Notes that a chunk was passed on.
    fn leave(&self, bytes: usize) {
        let mut inside = self.inside();
        inside.chunks -= 1;
        inside.bytes -= bytes;
        self.changed.notify_one();
    }
}

/// Closes the window when the taker ends for any reason. Nothing makes room after that, and a worker would wait for
/// ever.
struct Closing<'a>(&'a Window);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.inside().closed = true;
        self.0.changed.notify_all();
    }
}

/// Closes the window if a worker panics, because its result never comes and would never make room.
struct ClosingOnPanic<'a>(&'a Window);

impl Drop for ClosingOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            drop(Closing(self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const CAPS: Caps = Caps { max_bundle_bytes: 1 << 30, max_line_bytes: 1 << 20 };

    fn input(n: usize) -> Vec<u8> {
        (0..n).flat_map(|i| format!("line {i}\n").into_bytes()).collect()
    }

    fn collect(bytes: &[u8], threads: usize) -> Vec<String> {
        let mut all = Vec::new();
        map_lines(
            bytes,
            CAPS,
            threads,
            |_, line| String::from_utf8_lossy(line).into_owned(),
            |text| {
                all.push(text);
                Ok::<_, ()>(())
            },
        )
        .unwrap();
        all
    }

    #[test]
    fn results_come_in_the_order_of_the_lines_on_any_number_of_threads() {
        let bytes = input(5000);
        let one = collect(&bytes, 1);
        assert_eq!(one.len(), 5000);
        for threads in [2, 3, 8] {
            assert_eq!(collect(&bytes, threads), one);
        }
    }

    #[test]
    fn a_taker_that_gives_up_ends_all_threads() {
        let bytes = input(100_000);
        for threads in [1, 2, 5] {
            let mut seen = 0;
            let outcome = map_lines(
                &bytes[..],
                CAPS,
                threads,
                |_, _| (),
                |()| {
                    seen += 1;
                    if seen == 700 { Err("enough") } else { Ok(()) }
                },
            );
            assert!(matches!(outcome, Err(OrderedError::Taker("enough"))));
            assert_eq!(seen, 700);
        }
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_in_a_worker_ends_all_threads() {
        let bytes = input(100_000);
        let work = |line: &Line, _: &[u8]| assert_ne!(line.number(), 700);
        let taken = map_lines(&bytes[..], CAPS, 3, work, |()| Ok::<_, ()>(()));
        unreachable!("{taken:?}");
    }

    #[test]
    fn large_lines_in_memory_are_bounded_by_their_bytes_and_not_by_their_number() {
        let mut bytes = Vec::new();
        for _ in 0..64 {
            bytes.resize(bytes.len() + CAPS.max_line_bytes, b'x');
            bytes.push(b'\n');
        }
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        map_lines(
            &bytes[..],
            CAPS,
            16,
            |_, line| {
                let now = inside.fetch_add(line.len(), Ordering::Relaxed) + line.len();
                most.fetch_max(now, Ordering::Relaxed);
                line.len()
            },
            |length| {
                // The workers read as far ahead as the window allows before the first line is passed on.
                while most.load(Ordering::Relaxed) < WINDOW_BYTES / 2 {
                    thread::yield_now();
                }
                inside.fetch_sub(length, Ordering::Relaxed);
                Ok::<_, ()>(())
            },
        )
        .unwrap();
        assert!(most.into_inner() <= WINDOW_BYTES);
    }

    #[test]
    fn blank_lines_count_and_are_passed_over() {
        let blanks = ["\n", "\r\n", " \t\n", "\n \r\n\n"].map(|line| line.repeat(50_000)).concat();
        let text = format!("{blanks}first{blanks}second\n \n{}third", "x\n".repeat(20_000));
        let lines = blanks.lines().count() as u64;
        for threads in [1, 3] {
            let mut taken = Vec::new();
            let work = |line: &Line, bytes: &[u8]| (line.number(), bytes.len());
            let take = |line| {
                taken.push(line);
                Ok::<_, ()>(())
            };
            let extent = map_lines(text.as_bytes(), CAPS, threads, work, take).unwrap();
            assert_eq!(taken.len(), 20_003);
            assert_eq!((taken[0], taken[1]), ((lines + 1, 5), (2 * lines + 1, 6)));
            assert_eq!(taken[2], (2 * lines + 3, 1));
            assert_eq!(extent.lines, 2 * lines + 3 + 20_000);
        }
    }

    #[test]
    fn what_becomes_of_tiny_lines_is_bounded_too() {
        const LINES: usize = 600_000;
        let bytes = b"1\n".repeat(LINES);
        let mut packed = compressed(&bytes);
        packed.extend(compressed(&bytes));
        for (input, lines) in [(&bytes, LINES), (&packed, 2 * LINES)] {
            let (made, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let mut taken = 0;
            map_lines(
                &input[..],
                CAPS,
                3,
                |_, _| made.fetch_add(1, Ordering::Relaxed),
                |_| {
                    most.fetch_max(made.load(Ordering::Relaxed) - taken, Ordering::Relaxed);
                    taken += 1;
                    Ok::<_, ()>(())
                },
            )
            .unwrap();
            assert_eq!(taken, lines);
            assert!(most.into_inner() <= 12 * MAX_LINES);
        }
    }

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lines_before_a_fault_are_handed_on() {
        let mut compressed = Vec::new();
        let mut encoder =
            flate2::write::GzEncoder::new(&mut compressed, flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &input(20_000)).unwrap();
        encoder.finish().unwrap();
        compressed.truncate(compressed.len() / 2);
        let mut counts = Vec::new();
        for threads in [1, 4] {
            let mut seen = 0;
            let outcome = map_lines(
                &compressed[..],
                CAPS,
                threads,
                |_, _| (),
                |()| {
                    seen += 1;
                    Ok::<_, ()>(())
                },
            );
            assert!(matches!(outcome, Err(OrderedError::Bundle(_))));
            counts.push(seen);
        }
        assert!(counts[0] > 1000);
        assert_eq!(counts[0], counts[1]);
    }
}
