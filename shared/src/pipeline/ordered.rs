//! Lines through a pure function on several threads, results in order.
//!
//! One thread reads chunks of lines, `threads` workers map them, the calling thread hands results on in
//! the order of the lines. A `Window` bounds what is in memory between reader and hand-over, whatever
//! the workers' speed and the lines' size.

use std::{
    collections::BTreeMap,
    io::Read,
    ops::Range,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use crate::bundle::{BundleError, Line, Lines};

/// A chunk ends at this many lines …
const CHUNK_LINES: usize = 64;
/// … or this many bytes. Small, as memory is: eight records of the feed are work enough for one hand-over.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks in memory for each worker …
const CHUNKS_A_WORKER: usize = 4;
/// … and bytes of lines in all chunks, unless one alone has more.
const WINDOW_BYTES: usize = 8 << 20;

/// Why not all lines were handed on.
#[derive(Debug, thiserror::Error)]
pub enum OrderedError<E> {
    /// The input cannot be read further; what came before it was handed on.
    #[error(transparent)]
    Bundle(BundleError),
    /// The taker of the results refused to go on.
    #[error(transparent)]
    Taker(E),
}

struct Chunk {
    sequence: u64,
    bytes: Vec<u8>,
    lines: Vec<(Line, Range<usize>)>,
}

impl Chunk {
    /// Reads the next chunk; `None` at the end. An error comes after the lines before it: it is kept
    /// in `broken` for the next call where this one found lines.
    fn read<R: Read>(
        lines: &mut Lines<R>,
        sequence: u64,
        line: &mut Vec<u8>,
        broken: &mut Option<BundleError>,
    ) -> Result<Option<Self>, BundleError> {
        if let Some(error) = broken.take() {
            return Err(error);
        }
        let mut chunk = Self { sequence, bytes: Vec::new(), lines: Vec::new() };
        while chunk.lines.len() < CHUNK_LINES && chunk.bytes.len() < CHUNK_BYTES {
            match lines.next(line) {
                Ok(Some(found)) => {
                    let start = chunk.bytes.len();
                    chunk.bytes.extend_from_slice(line);
                    chunk.lines.push((found, start..chunk.bytes.len()));
                }
                Ok(None) => break,
                Err(error) if chunk.lines.is_empty() => return Err(error),
                Err(error) => {
                    *broken = Some(error);
                    break;
                }
            }
        }
        Ok((!chunk.lines.is_empty()).then_some(chunk))
    }

    fn map<T>(self, work: &impl Fn(&Line, &[u8]) -> T) -> Vec<T> {
        self.lines
            .iter()
            .map(|(line, range)| work(line, self.bytes.get(range.clone()).unwrap_or_default()))
            .collect()
    }
}

/// Chunks that were read and not yet handed on.
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

    /// Waits until there is room for a chunk; an empty window has room for any. False where it is closed.
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

    /// A chunk that entered was handed on.
    fn leave(&self, bytes: usize) {
        let mut inside = self.inside();
        inside.chunks -= 1;
        inside.bytes -= bytes;
        self.changed.notify_one();
    }
}

/// Ends the reader when the taker or a worker ends, however that is: after a panic nobody makes room any
/// more, and who waits for it would wait for ever.
struct Closing<'a>(&'a Window);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.inside().closed = true;
        self.0.changed.notify_one();
    }
}

/// What a worker made of a chunk.
struct Worked<T> {
    sequence: u64,
    bytes: usize,
    items: Vec<T>,
}

/// Calls `work` for each line on `threads` threads (0 counts as 1) and `take` with the results, in order.
///
/// # Errors
/// [`OrderedError::Bundle`] where the input is broken: all lines before the fault were handed on.
/// [`OrderedError::Taker`] with what `take` answered.
pub fn map_lines<R: Read + Send, T: Send, E>(
    mut lines: Lines<R>,
    threads: usize,
    work: impl Fn(&Line, &[u8]) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), OrderedError<E>> {
    if threads <= 1 {
        return map_here(&mut lines, work, take);
    }
    let window = Window::new(threads * CHUNKS_A_WORKER);
    // Neither channel needs a bound of its own: what is in them is inside the window.
    let (to_workers, work_queue) = channel::<Chunk>();
    let (to_taker, results) = channel::<Worked<T>>();
    let work_queue = Mutex::new(work_queue);
    thread::scope(|scope| {
        let window = &window;
        let closing = Closing(window);
        let reader = scope.spawn(move || read_chunks(&mut lines, window, &to_workers));
        for _ in 0..threads {
            let (queue, out, work) = (&work_queue, to_taker.clone(), &work);
            scope.spawn(move || {
                let _closing = Closing(window);
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(chunk) = next else { return };
                    let (sequence, bytes) = (chunk.sequence, chunk.bytes.len());
                    if out.send(Worked { sequence, bytes, items: chunk.map(work) }).is_err() {
                        return;
                    }
                }
            });
        }
        drop(to_taker);
        let taken = take_in_order(&results, window, &mut take);
        drop((closing, results));
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        taken.map_err(OrderedError::Taker)?;
        read.map_err(OrderedError::Bundle)
    })
}

fn map_here<R: Read, T, E>(
    lines: &mut Lines<R>,
    work: impl Fn(&Line, &[u8]) -> T,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), OrderedError<E>> {
    let mut buffer = Vec::new();
    while let Some(line) = lines.next(&mut buffer).map_err(OrderedError::Bundle)? {
        take(work(&line, &buffer)).map_err(OrderedError::Taker)?;
    }
    Ok(())
}

/// Reads until the end, or until nobody takes the results any more.
fn read_chunks<R: Read>(
    lines: &mut Lines<R>,
    window: &Window,
    to_workers: &Sender<Chunk>,
) -> Result<(), BundleError> {
    let (mut line, mut broken) = (Vec::new(), None);
    for sequence in 0.. {
        let Some(chunk) = Chunk::read(lines, sequence, &mut line, &mut broken)? else { break };
        if !window.enter(chunk.bytes.len()) || to_workers.send(chunk).is_err() {
            break;
        }
    }
    Ok(())
}

fn take_in_order<T, E>(
    results: &Receiver<Worked<T>>,
    window: &Window,
    take: &mut impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for worked in results {
        waiting.insert(worked.sequence, worked);
        while let Some(worked) = waiting.remove(&next) {
            for item in worked.items {
                take(item)?;
            }
            next += 1;
            window.leave(worked.bytes);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::bundle::Caps;

    const CAPS: Caps = Caps { max_bundle_bytes: 1 << 30, max_line_bytes: 1 << 20 };

    fn input(n: usize) -> Vec<u8> {
        (0..n).flat_map(|i| format!("line {i}\n").into_bytes()).collect()
    }

    fn collect(bytes: &[u8], threads: usize) -> Vec<String> {
        let mut all = Vec::new();
        map_lines(
            Lines::new(bytes, CAPS),
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
                Lines::new(&bytes[..], CAPS),
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
        let taken = map_lines(Lines::new(&bytes[..], CAPS), 3, work, |()| Ok::<_, ()>(()));
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
            Lines::new(&bytes[..], CAPS),
            16,
            |_, line| {
                let now = inside.fetch_add(line.len(), Ordering::Relaxed) + line.len();
                most.fetch_max(now, Ordering::Relaxed);
                line.len()
            },
            |length| {
                // The workers go ahead as far as they are let before the first line is handed on.
                while most.load(Ordering::Relaxed) < WINDOW_BYTES {
                    thread::yield_now();
                }
                inside.fetch_sub(length, Ordering::Relaxed);
                Ok::<_, ()>(())
            },
        )
        .unwrap();
        assert_eq!(most.into_inner(), WINDOW_BYTES);
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
                Lines::new(&compressed[..], CAPS),
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
