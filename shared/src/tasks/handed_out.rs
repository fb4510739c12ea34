//! Events that the dispatcher handed out and that are not in the inbox yet.
//!
//! The dispatcher hands an event out once, so this process is the only one that has it. The event stays here until the
//! inbox has it, however long that takes; no more events are polled meanwhile. An event that cannot be read, or that no
//! inbox takes, is kept as a reject with its reason, for an operator.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::{
    errors::chain,
    http_client::Backoff,
    pipeline::RunLimits,
    store::{
        Clock, Store, StoreError,
        inbox::{NewItem, Queue},
        rejects::{Reject, RejectStage, Rejects},
    },
};

/// Most events that one poll asks for.
const MAX_EVENTS: usize = 50;
/// Size in bytes that the answer to a poll should not exceed: it has to come within half a minute over a slow link.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Size of Azul's largest event in bytes. The first poll assumes it, because no size is known yet.
const LARGEST_EVENT: usize = 3 * 1024 * 1024;
/// First wait between two tries to put events that the inbox did not take.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait between two tries to put events that the inbox did not take.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Longest time of the last try, after the process was asked to end.
const LAST_TRY: Duration = Duration::from_secs(5);

/// Events that were handed out and are not in the inbox yet.
pub(super) struct HandedOut {
    items: Mutex<Vec<NewItem>>,
    /// Events that cannot go into the inbox, until they are kept as rejects.
    rejects: Mutex<Vec<Reject>>,
    /// Size in bytes of the largest recent event.
    largest: AtomicUsize,
    /// Most events that the next poll asks for, whatever their size.
    most: AtomicUsize,
}

impl HandedOut {
    pub(super) fn new() -> Self {
        Self {
            items: Mutex::default(),
            rejects: Mutex::default(),
            largest: AtomicUsize::new(LARGEST_EVENT),
            most: AtomicUsize::new(MAX_EVENTS),
        }
    }

    fn items(&self) -> MutexGuard<'_, Vec<NewItem>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rejects(&self) -> MutexGuard<'_, Vec<Reject>> {
        self.rejects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, item: NewItem) {
        self.items().push(item);
    }

    /// Adds an event that is kept as a reject. `id` is the id of the item that the event is or would be.
    pub(super) fn reject(
        &self,
        (queue, id): (Queue, &str),
        stage: RejectStage,
        reason: &str,
        text: &[u8],
        now: Timestamp,
    ) {
        // No two items have the same id, so no reject replaces another one.
        let origin = format!("inbox/{}/{}", queue.name(), hex::encode(Sha256::digest(id)));
        self.rejects().push(Reject::new(origin, 1, stage, reason, text, now));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        let items = self.items().len();
        items.saturating_add(self.rejects().len())
    }

    /// Returns how many events the next poll may ask for.
    pub(super) fn most(&self) -> usize {
        let largest = self.largest.load(Ordering::Relaxed).max(1);
        (MAX_ANSWER_BYTES / largest).clamp(1, self.most.load(Ordering::Relaxed))
    }

    /// Notes whether an answer to a poll for `asked` events came whole or broke off. If it broke off, the next poll
    /// asks for half as many events, because a slow peer would lose as many again. Each whole answer doubles the
    /// number.
    pub(super) fn came(&self, asked: usize, is_whole: bool) {
        let most = if is_whole {
            self.most.load(Ordering::Relaxed).saturating_mul(2).min(MAX_EVENTS)
        } else {
            (asked / 2).max(1)
        };
        self.most.store(most, Ordering::Relaxed);
    }

    /// Notes the size in bytes of the largest event of an answer. The noted size falls by at most half with each
    /// answer, so that one large event makes the next few polls smaller.
    pub(super) fn measure(&self, largest: usize) {
        let before = self.largest.load(Ordering::Relaxed);
        self.largest.store(largest.max(before / 2), Ordering::Relaxed);
    }

    /// Puts all events into the inbox or keeps them as rejects. It tries again until all events are kept, and for a
    /// last time when `limits` are reached. Returns false if events are left; they stay here for as long as the process
    /// lives.
    pub(super) async fn keep(
        &self,
        store: &Store,
        queue: Queue,
        clock: &dyn Clock,
        limits: &RunLimits,
    ) -> bool {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let put = limits.run_until(self.put(store, queue, clock.now())).await;
            let events = self.len();
            if events == 0 {
                if backoff.attempts() > 0 {
                    tracing::info!(queue = queue.name(), "all polled events are kept now");
                }
                return true;
            }
            if let Some(Err(error)) = put {
                tracing::error!(
                    queue = queue.name(),
                    events,
                    error = chain(&error),
                    "polled events are not kept yet, and no more are polled until they are"
                );
            }
            if limits.sleep(FIRST_WAIT.max(backoff.next_wait(None))).await {
                break;
            }
        }
        let last = tokio::time::timeout(LAST_TRY, self.put(store, queue, clock.now())).await;
        let events = self.len();
        if events > 0 {
            let error = match last {
                Ok(Err(error)) => chain(&error),
                _ => "the time was up".to_owned(),
            };
            tracing::error!(
                queue = queue.name(),
                events,
                error,
                "polled events are not kept: they are lost if this process ends"
            );
        }
        events == 0
    }

    /// Tries once to put all events. An error means that some are left.
    async fn put(&self, store: &Store, queue: Queue, now: Timestamp) -> Result<(), StoreError> {
        // The items are copied, so that a call that is dropped halfway loses nothing.
        let items = self.items().clone();
        let mut left = None;
        if !items.is_empty()
            && let Err(error) = store.inbox.put(queue, &items, now).await
        {
            for (n, reason) in &error.refused {
                let Some(NewItem { id, body }) = items.get(*n) else { continue };
                tracing::error!(
                    queue = queue.name(),
                    id,
                    reason,
                    "a polled event can never be kept"
                );
                self.reject((queue, id), RejectStage::Item, reason, body.as_bytes(), now);
            }
            let waiting = error.waiting.iter().filter_map(|n| items.get(*n).cloned());
            *self.items() = waiting.collect();
            left = (!error.waiting.is_empty()).then_some(error.source);
        } else {
            self.items().clear();
        }
        self.put_rejects(store).await?;
        left.map_or(Ok(()), Err)
    }

    /// Tries once to keep all rejects. An error means that some are left.
    async fn put_rejects(&self, store: &Store) -> Result<(), StoreError> {
        let rejects = Rejects::new(Arc::clone(&store.bundles));
        loop {
            // The reject stays here until it is kept, so that a call that is dropped halfway loses nothing.
            let next = self.rejects().last().cloned();
            let Some(reject) = next else { return Ok(()) };
            rejects.write(&reject.origin, reject.line, std::slice::from_ref(&reject)).await?;
            self.rejects().pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_asks_for_no_more_than_an_answer_may_hold() {
        let handed_out = HandedOut::new();
        assert_eq!(handed_out.most() * LARGEST_EVENT, 63 * 1024 * 1024, "sizes are not known yet");
        handed_out.measure(10_000);
        handed_out.measure(10_000);
        assert_eq!(handed_out.most(), MAX_EVENTS, "small ones are asked for by fifty");
        handed_out.measure(LARGEST_EVENT);
        assert_eq!(handed_out.most(), 21);
        handed_out.measure(10 * MAX_ANSWER_BYTES);
        assert_eq!(handed_out.most(), 1);
    }

    #[test]
    fn answers_that_break_off_halve_the_number_down_to_one_event() {
        let handed_out = HandedOut::new();
        (0..20).for_each(|_| handed_out.measure(1));
        for most in [50, 25, 12, 6, 3, 1, 1] {
            assert_eq!(handed_out.most(), most);
            handed_out.came(most, false);
        }
        for most in [1, 2, 4, 8, 16, 32, 50, 50] {
            assert_eq!(handed_out.most(), most);
            handed_out.came(most, true);
        }
    }
}
