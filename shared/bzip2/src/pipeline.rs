//! Passes the items of the input through the workers and returns the results in order.
//!
//! Each worker takes the next item, decodes it, and waits until all items before it are verified. Only then it works on
//! the decoded bytes. The calling thread takes the results. If an item cannot be verified, all workers stop, and the
//! items that were not used go back into the rest.

use std::{
    collections::BTreeMap,
    io::Read,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
};

use super::{
    block::{Decoder, Unverified},
    rest::Rest,
    source::{Item, Kind, Source},
    stream::Stream,
};

/// Blocks with fewer bytes, when decoded, are small: handing one over takes more time than decoding it.
const SMALL: usize = 4 << 10;
/// Most items after one another without a block that is not small. After more of them, the ordinary decoder continues.
const MAX_SMALL: u32 = 256;
/// Most results for each worker that may wait to be taken.
const WAITING_A_WORKER: u64 = 2;

/// Limits of a decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of threads that decode. 0 counts as 1. With 1, everything runs on the calling thread.
    pub threads: usize,
    /// Most decompressed bytes that are handed over. Decoding ends before the block that would exceed it.
    pub max_bytes: u64,
}

/// The end of a decoding.
#[derive(Debug)]
pub enum End<R> {
    /// The whole input was decoded, and every checksum is right.
    Complete {
        /// Number of decompressed bytes.
        bytes: u64,
    },
    /// An ordinary decoder has to continue with this rest, and decides whether the input is damaged.
    Unclear(Rest<R>),
}

/// State that the workers share: the number of the next item, and what is verified so far.
struct Order<A> {
    next: u64,
    stream: Stream,
    produced: u64,
    most_bytes: u64,
    /// Number of items since the last block that was not small.
    small: u32,
    stopped: bool,
    complete: bool,
    taken: u64,
    /// Items that were not used, by their numbers.
    left: BTreeMap<u64, Item>,
    admit: A,
}

impl<A> Order<A> {
    fn new(most_bytes: u64, admit: A) -> Self {
        Self {
            next: 0,
            stream: Stream::default(),
            produced: 0,
            most_bytes,
            small: 0,
            stopped: false,
            complete: false,
            taken: 0,
            left: BTreeMap::new(),
            admit,
        }
    }

    /// Verifies the next item. If it is a block, its bytes go to `admit`, and the result of that is returned.
    fn confirm<P>(
        &mut self,
        item: &Item,
        outcome: Result<u32, Unverified>,
        out: &[u8],
    ) -> Result<Option<P>, Unverified>
    where
        A: FnMut(&[u8]) -> Option<P>,
    {
        self.small += 1;
        if self.small > MAX_SMALL {
            return Err(Unverified);
        }
        let mut admitted = None;
        match item.kind {
            Kind::Open { level } => self.stream.open(level),
            Kind::Block { .. } => {
                let checksum = outcome?;
                let produced = self.produced.saturating_add(out.len() as u64);
                if produced > self.most_bytes {
                    return Err(Unverified);
                }
                admitted = Some((self.admit)(out).ok_or(Unverified)?);
                self.produced = produced;
                self.stream.block(checksum);
                if out.len() >= SMALL {
                    self.small = 0;
                }
            }
            Kind::Close { checksum } => self.stream.close(checksum)?,
            Kind::End if self.stream.has_ended() => {
                self.complete = true;
                self.stopped = true;
            }
            Kind::End | Kind::Unclear => return Err(Unverified),
        }
        self.next += 1;
        Ok(admitted)
    }

    fn end<R: Read>(self, source: Source<R>) -> End<R> {
        if self.complete {
            return End::Complete { bytes: self.produced };
        }
        let bit = self.left.first_key_value().map_or(0, |(_, item)| item.start);
        let prefix = self.stream.prefix(bit);
        let items = self.left.into_values().map(|mut item| {
            item.bytes.truncate(item.whole);
            item.bytes
        });
        End::Unclear(Rest::new(prefix, bit, items, source.into_rest(), self.produced))
    }
}

/// The input, and the number of its next item.
struct Input<R> {
    source: Source<R>,
    number: u64,
    ended: bool,
}

struct Shared<R, A> {
    input: Mutex<Input<R>>,
    order: Mutex<Order<A>>,
    changed: Condvar,
    most_waiting: u64,
}

/// Decodes the streams of `reader` by blocks, and hands the verified ones over in order.
///
/// Three functions take a block's bytes, which are at most 4 MiB and never copied:
///
/// 1. `admit` gets the bytes of each block in order, one at a time. Meanwhile no other block is admitted, so it does
///    little. Its result goes to `work`; `None` ends the decoding before this block.
/// 2. `work` gets that result and the bytes, in parallel for several blocks.
/// 3. `take` gets the result of `work`, in order and on the calling thread. An error ends the decoding.
///
/// `reader` needs no buffer of its own. Threads read it in turns, and all of them have ended when this function
/// returns. It returns early only between two reads: a call of `reader` that does not return keeps it waiting.
///
/// Decoding ends as [`End::Unclear`] where anything differs from what a usual program writes, where `reader` fails,
/// before the block that would exceed [`Limits::max_bytes`], and before a block for which `admit` returns `None`. An
/// input without bytes is unclear, too.
///
/// # Errors
/// The error of `take`. An error of `reader` is none: [`Rest`] returns it to its reader.
///
/// # Panics
/// If `admit`, `work` or `take` panics, after all threads have ended.
pub fn decode<R: Read + Send, P: Send, T: Send, E>(
    reader: R,
    limits: Limits,
    admit: impl FnMut(&[u8]) -> Option<P> + Send,
    work: impl Fn(P, &[u8]) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<End<R>, E> {
    let Limits { threads, max_bytes } = limits;
    let order = Order::new(max_bytes, admit);
    let source = Source::new(reader);
    if threads <= 1 {
        return decode_here(source, order, work, take);
    }
    let shared = Shared {
        input: Mutex::new(Input { source, number: 0, ended: false }),
        order: Mutex::new(order),
        changed: Condvar::new(),
        most_waiting: threads as u64 * WAITING_A_WORKER,
    };
    // The channel needs no bound, because a worker waits for room before it takes an item.
    let (to_taker, results) = channel();
    let taken = thread::scope(|scope| {
        let closing = Closing(&shared);
        for _ in 0..threads {
            let (shared, work, out) = (&shared, &work, to_taker.clone());
            scope.spawn(move || {
                let _closing = Closing(shared);
                shared.run(work, &out);
            });
        }
        drop(to_taker);
        let taken = in_order(results, |made: Option<T>| {
            made.map(&mut take).transpose()?;
            shared.order().taken += 1;
            shared.changed.notify_all();
            Ok(())
        });
        if taken.is_err() {
            shared.stop();
        }
        drop(closing);
        taken
    });
    taken?;
    let order = shared.order.into_inner().unwrap_or_else(PoisonError::into_inner);
    let input = shared.input.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(order.end(input.source))
}

fn decode_here<R: Read, P, T, E>(
    mut source: Source<R>,
    mut order: Order<impl FnMut(&[u8]) -> Option<P>>,
    work: impl Fn(P, &[u8]) -> T,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<End<R>, E> {
    let mut decoder = Decoder::new();
    while !order.stopped {
        let item = source.next();
        let outcome = decode_item(&mut decoder, &item);
        let Ok(admitted) = order.confirm(&item, outcome, decoder.out()) else {
            order.left.insert(order.next, item);
            break;
        };
        if let Some(admitted) = admitted {
            take(work(admitted, decoder.out()))?;
        }
    }
    drop(decoder);
    Ok(order.end(source))
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

fn decode_item(decoder: &mut Decoder, item: &Item) -> Result<u32, Unverified> {
    match item.kind {
        Kind::Block { level, end } => decoder.decode(&item.bytes, item.start, end, level),
        _ => Ok(0),
    }
}

impl<R: Read, P, A: FnMut(&[u8]) -> Option<P>> Shared<R, A> {
    /// Decodes items until there are no more, or all workers have to stop.
    fn run<T>(&self, work: &impl Fn(P, &[u8]) -> T, out: &Sender<(u64, Option<T>)>) {
        let mut decoder = Decoder::new();
        while let Some((number, item)) = self.next_item() {
            let outcome = decode_item(&mut decoder, &item);
            let mut order = self.order();
            while order.next != number && !order.stopped {
                order = self.wait(order);
            }
            let confirmed = if order.stopped {
                Err(Unverified)
            } else {
                order.confirm(&item, outcome, decoder.out())
            };
            let Ok(admitted) = confirmed else {
                order.left.insert(number, item);
                order.stopped = true;
                self.changed.notify_all();
                return;
            };
            drop(order);
            self.changed.notify_all();
            drop(item);
            let made = admitted.map(|admitted| work(admitted, decoder.out()));
            if out.send((number, made)).is_err() {
                return;
            }
        }
    }

    /// Waits until there is room for one more result, and returns the next item with its number; `None` if the worker
    /// has to stop.
    fn next_item(&self) -> Option<(u64, Item)> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order = self.order();
        while !order.stopped && input.number >= order.taken + self.most_waiting {
            order = self.wait(order);
        }
        if order.stopped || input.ended {
            return None;
        }
        drop(order);
        let item = input.source.next();
        input.ended = matches!(item.kind, Kind::End | Kind::Unclear);
        let number = input.number;
        input.number += 1;
        Some((number, item))
    }
}

impl<R, A> Shared<R, A> {
    fn order(&self) -> MutexGuard<'_, Order<A>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, order: MutexGuard<'a, Order<A>>) -> MutexGuard<'a, Order<A>> {
        self.changed.wait(order).unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.order().stopped = true;
        self.changed.notify_all();
    }
}

/// Stops all workers if the thread that holds it panics, because the others would wait for a result that never comes.
struct Closing<'a, R, A>(&'a Shared<R, A>);

impl<R, A> Drop for Closing<'_, R, A> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}
