//! Lines through a pure function on several threads, results in order.
//!
//! One thread reads chunks of lines, `threads` workers map them, the calling thread hands results on in
//! the order of the lines. A window of permits bounds what is in memory between reader and hand-over,
//! whatever the workers' speed.

use std::{
    collections::BTreeMap,
    io::Read,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use crate::bundle::{BundleError, Line, Lines};

/// A chunk ends at this many lines …
const CHUNK_LINES: usize = 64;
/// … or this many bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks in memory for each worker.
const CHUNKS_A_WORKER: usize = 3;

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
    let window = threads * CHUNKS_A_WORKER;
    let (permit_back, permits) = sync_channel::<()>(window);
    for _ in 0..window {
        // Cannot fail: the receiver is alive and the channel holds `window`.
        let _ = permit_back.send(());
    }
    let (to_workers, work_queue) = sync_channel::<Chunk>(threads);
    let (to_taker, results) = sync_channel::<(u64, Vec<T>)>(window);
    let work_queue = Mutex::new(work_queue);
    thread::scope(|scope| {
        let reader = scope.spawn(move || read_chunks(&mut lines, &permits, &to_workers));
        for _ in 0..threads {
            let (queue, out, work) = (&work_queue, to_taker.clone(), &work);
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(chunk) = next else { return };
                    if out.send((chunk.sequence, chunk.map(work))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(to_taker);
        let taken = take_in_order(results, permit_back, &mut take);
        // Where the taker gave up, the queue's end must be seen by the reader too.
        if taken.is_err() {
            while queue_drain(&work_queue) {}
        }
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        taken.map_err(OrderedError::Taker)?;
        read.map_err(OrderedError::Bundle)
    })
}

/// Takes one waiting chunk away; false where the reader is gone.
fn queue_drain(queue: &Mutex<Receiver<Chunk>>) -> bool {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().is_ok()
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

fn read_chunks<R: Read>(
    lines: &mut Lines<R>,
    permits: &Receiver<()>,
    to_workers: &SyncSender<Chunk>,
) -> Result<(), BundleError> {
    let (mut line, mut broken) = (Vec::new(), None);
    for sequence in 0.. {
        if permits.recv().is_err() {
            return Ok(()); // the taker gave up
        }
        let Some(chunk) = Chunk::read(lines, sequence, &mut line, &mut broken)? else {
            return Ok(());
        };
        if to_workers.send(chunk).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "dropping the permits' sender ends the reader")]
fn take_in_order<T, E>(
    results: Receiver<(u64, Vec<T>)>,
    permit_back: SyncSender<()>,
    take: &mut impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for (sequence, items) in results {
        waiting.insert(sequence, items);
        while let Some(items) = waiting.remove(&next) {
            for item in items {
                take(item)?;
            }
            next += 1;
            // No receiver: the reader has read everything.
            let _ = permit_back.send(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
