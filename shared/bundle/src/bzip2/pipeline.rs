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
    super::in_order,
    block::{Decoder, Unverified},
    rest::Rest,
    source::{Item, Kind, Source},
    stream::Stream,
};

/// Blocks with fewer bytes, when decoded, are small: handing one over takes more time than decoding it.
const SMALL: usize = 4 << 10;
/// Most items after one another without a block that is not small. After more of them, the ordinary decoder continues.
const MOST_SMALL: u32 = 256;
/// Most results for each worker that may wait to be taken.
const WAITING_A_WORKER: u64 = 2;

/// The end of a decoding.
#[derive(Debug)]
pub(crate) enum End<R> {
    /// The whole input was decoded and is sound.
    Complete {
        /// Number of decompressed bytes.
        bytes: u64,
    },
    /// The ordinary decoder has to continue with this rest.
    Unclear(Rest<R>),
}

/// State that the workers share: the number of the next item, and what is verified so far.
struct Order<P> {
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
    pass: P,
}

impl<P> Order<P> {
    fn new(most_bytes: u64, pass: P) -> Self {
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
            pass,
        }
    }

    /// Verifies the next item. If it is a block, its bytes go to `pass`, and the result of that is returned.
    fn confirm<Q>(
        &mut self,
        item: &Item,
        outcome: Result<u32, Unverified>,
        out: &[u8],
    ) -> Result<Option<Q>, Unverified>
    where
        P: FnMut(&[u8]) -> Option<Q>,
    {
        self.small += 1;
        if self.small > MOST_SMALL {
            return Err(Unverified);
        }
        let mut passed = None;
        match item.kind {
            Kind::Open { level } => self.stream.open(level),
            Kind::Block { .. } => {
                let checksum = outcome?;
                let produced = self.produced.saturating_add(out.len() as u64);
                if produced > self.most_bytes {
                    return Err(Unverified);
                }
                passed = Some((self.pass)(out).ok_or(Unverified)?);
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
        Ok(passed)
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

struct Shared<R, P> {
    input: Mutex<Input<R>>,
    order: Mutex<Order<P>>,
    changed: Condvar,
    most_waiting: u64,
}

/// Decodes `reader` on `threads` threads. 0 counts as 1; with 1 everything runs on the calling thread.
///
/// `pass` gets the bytes of each verified block, in order. `work` gets its result and runs in parallel for several
/// blocks. `take` gets the result of `work`, in order and on the calling thread. Decoding ends as [`End::Unclear`]
/// before there are more than `most_bytes`, and before a block for which `pass` returns `None`.
///
/// # Errors
/// The error of `take`.
pub(crate) fn decode<R: Read + Send, P: Send, T: Send, E>(
    reader: R,
    threads: usize,
    most_bytes: u64,
    pass: impl FnMut(&[u8]) -> Option<P> + Send,
    work: impl Fn(P, &[u8]) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<End<R>, E> {
    let order = Order::new(most_bytes, pass);
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
        let Ok(passed) = order.confirm(&item, outcome, decoder.out()) else {
            order.left.insert(order.next, item);
            break;
        };
        if let Some(passed) = passed {
            take(work(passed, decoder.out()))?;
        }
    }
    drop(decoder);
    Ok(order.end(source))
}

fn decode_item(decoder: &mut Decoder, item: &Item) -> Result<u32, Unverified> {
    match item.kind {
        Kind::Block { level, end } => decoder.decode(&item.bytes, item.start, end, level),
        _ => Ok(0),
    }
}

impl<R: Read, P, F: FnMut(&[u8]) -> Option<P>> Shared<R, F> {
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
            let Ok(passed) = confirmed else {
                order.left.insert(number, item);
                order.stopped = true;
                self.changed.notify_all();
                return;
            };
            drop(order);
            self.changed.notify_all();
            drop(item);
            let made = passed.map(|passed| work(passed, decoder.out()));
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

impl<R, P> Shared<R, P> {
    fn order(&self) -> MutexGuard<'_, Order<P>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, order: MutexGuard<'a, Order<P>>) -> MutexGuard<'a, Order<P>> {
        self.changed.wait(order).unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.order().stopped = true;
        self.changed.notify_all();
    }
}

/// Stops all workers if the thread that holds it panics, because the others would wait for a result that never comes.
struct Closing<'a, R, P>(&'a Shared<R, P>);

impl<R, P> Drop for Closing<'_, R, P> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}
