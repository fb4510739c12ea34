//! Works the items of an inbox.
//!
//! A worker holds an item until the item is done, put back or buried. If the worker dies, the item becomes available
//! again when the hold ends. So nothing is lost, but the same work may be done twice.

use std::{pin::pin, time::Duration};

use async_trait::async_trait;
use futures_util::{
    StreamExt as _,
    future::{BoxFuture, OptionFuture},
    stream::{self, FuturesUnordered},
};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    errors::chain,
    pipeline::RunLimits,
    store::{
        Clock, Store, StoreError,
        failures::{self, Subject},
        inbox::{Delivery, Item, Queue, Retry},
    },
};

/// Time for which a worker holds an item before the hold must be renewed.
pub const VISIBILITY_TIMEOUT: SignedDuration = SignedDuration::from_mins(1);
/// Interval at which the hold of an item is renewed while it is worked, as a lease is.
const RENEW: Duration = Duration::from_secs(20);
/// An item is given up after this many workers in a row died on it.
const MAX_LOST_TAKES: u32 = 5;
/// Kind under which [`crate::store::Memory`] knows an item that is in its last try.
const LAST_TRY: &str = "last try";
/// Time for which a last try is remembered: as long as SQS keeps a message.
const LAST_TRY_KNOWN: SignedDuration = SignedDuration::from_hours(14 * 24);
/// Interval at which an empty inbox is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Time after which an inbox that could not be read is read again.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// Wait of an item from an event that cannot be begun, or that needs an operator. Without the wait, the queue would
/// start the next worker at once.
pub(crate) const STOPPED: SignedDuration = SignedDuration::from_mins(1);
/// Wait of an item that an invocation took when its time was over. Without the wait, the queue would start the next
/// worker at once.
const NO_TIME: SignedDuration = SignedDuration::from_mins(1);

/// The way in which an item ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The item is done.
    Done,
    /// The item is put back and tried again later.
    Retry(Retry),
    /// The item is given up, for this reason.
    Bury(String),
    /// The item is put back, and no other item of the queue can be worked until an operator acts. The text says what is
    /// wrong.
    Stop(String),
}

impl Disposition {
    /// Puts the item back for the time `after`. This does not count as an attempt, because the item only waited.
    pub fn later(after: SignedDuration) -> Self {
        Self::Retry(Retry { after, is_attempt: false, ..Retry::default() })
    }

    /// Puts back an item that was taken when `limits` were already reached. If a process without a deadline was asked
    /// to end, the item is available at once for the next process. If an invocation's time is over, the item waits for
    /// a minute.
    pub fn unbegun(limits: &RunLimits) -> Self {
        let is_process = limits.stop.is_cancelled() && limits.deadline.is_none();
        Self::later(if is_process { SignedDuration::ZERO } else { NO_TIME })
    }
}

/// The work that [`Workers`] do on an item.
#[async_trait]
pub trait Work: Send + Sync {
    /// Works one item and returns how it ends. An error becomes a [`Disposition`] too.
    async fn work(&self, item: &Item, limits: &RunLimits) -> Disposition;

    /// Returns the file and source of an item, for lists of failures.
    fn subject(&self, _item: &Item) -> Subject {
        Subject::default()
    }

    /// Decides how an item ends after several workers in a row died on it.
    async fn lost(&self, _item: &Item, reason: String) -> Disposition {
        Disposition::Bury(reason)
    }
}

/// The number of items that were worked, by their outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Drained {
    /// Number of items that are done.
    pub done: u64,
    /// Number of items that were put back.
    pub again: u64,
    /// Number of items that were buried.
    pub buried: u64,
    /// Reason why no item can be worked until an operator acts.
    pub stopped: Option<String>,
}

/// The outcome of messages that a queue handed over by an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Ids of the messages that could not be ended. The queue hands them over again.
    pub failed: Vec<String>,
    /// Reason why no message can be worked until an operator acts.
    pub stopped: Option<String>,
}

impl Delivered {
    /// Returns the answer that Lambda expects to an event of SQS if the event source mapping reports failures item by
    /// item.
    pub fn answer(&self) -> Value {
        let failed = self.failed.iter().map(|id| json!({ "itemIdentifier": id }));
        json!({ "batchItemFailures": failed.collect::<Vec<_>>() })
    }
}

/// Workers of one queue of the inbox.
pub struct Workers<'a> {
    /// Store whose inbox has the items.
    pub store: &'a Store,
    /// Queue whose items are worked.
    pub queue: Queue,
    /// Clock for holds and waits.
    pub clock: &'a dyn Clock,
    /// Number of items that are worked at the same time.
    pub at_once: usize,
}

impl Workers<'_> {
    /// Works items until `limits` are reached, or, unless `waits`, until no item is due. Items that were begun are
    /// finished.
    ///
    /// # Errors
    /// Fails if the inbox cannot be read or written. With `waits`, only an error that is not transient ends the work.
    pub async fn drain(
        &self,
        work: &dyn Work,
        waits: bool,
        limits: &RunLimits,
    ) -> Result<Drained, StoreError> {
        let mut drained = Drained::default();
        let mut working = FuturesUnordered::new();
        // Items are taken while others are worked, because a queue may answer slowly.
        let mut taking: Option<BoxFuture<'_, _>> = None;
        let (mut asked, mut look_at) = (0, Some(Instant::now()));
        loop {
            let goes_on = drained.stopped.is_none() && !limits.reached();
            let free = self.at_once.saturating_sub(working.len());
            if taking.is_none()
                && goes_on
                && free > 0
                && look_at.is_some_and(|at| Instant::now() >= at)
            {
                let now = self.clock.now();
                asked = free;
                taking = Some(self.store.inbox.take(self.queue, asked, VISIBILITY_TIMEOUT, now));
            }
            if taking.is_none() && working.is_empty() && (!goes_on || look_at.is_none()) {
                return Ok(drained);
            }
            let next_look = look_at.unwrap_or_else(Instant::now);
            tokio::select! {
                ended = working.next(), if !working.is_empty() => settle(&mut drained, ended, waits)?,
                items = OptionFuture::from(taking.as_mut()), if taking.is_some() => {
                    taking = None;
                    let items = match items.transpose() {
                        Err(error) if waits && error.is_transient() => {
                            let error = chain(&error);
                            tracing::warn!(queue = self.queue.name(), error, "no work can be taken");
                            look_at = Some(Instant::now() + RETRY_DELAY);
                            continue;
                        }
                        items => items?.unwrap_or_default(),
                    };
                    if items.len() < asked {
                        look_at = waits.then(|| Instant::now() + POLL_INTERVAL);
                    }
                    working.extend(items.into_iter().map(|item| self.one(work, item, SignedDuration::ZERO, limits)));
                }
                _ = limits.sleep(next_look.saturating_duration_since(Instant::now())),
                    if taking.is_none() && goes_on && free > 0 && look_at.is_some() => {}
            }
        }
    }

    /// Works the messages that a queue handed over by an event, and ends each one as far as possible.
    pub async fn deliver(
        &self,
        work: &dyn Work,
        deliveries: &[Delivery],
        limits: &RunLimits,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        let limits = limits.child();
        let ends: Vec<_> =
            deliveries.iter().map(|delivery| self.accepted(work, delivery, &limits)).collect();
        let mut ends = pin!(stream::iter(ends).buffer_unordered(self.at_once));
        while let Some((Delivery { message_id, .. }, end)) = ends.next().await {
            match end {
                Ok(Some(Disposition::Stop(why))) => {
                    delivered.stopped = Some(why);
                    limits.stop.cancel();
                }
                Ok(_) => {}
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(message_id, error, "a message was not ended");
                    delivered.failed.push(message_id.clone());
                }
            }
        }
        delivered
    }

    /// Puts an event's messages back that were not begun. This counts neither as an attempt nor as a lost take. The
    /// messages come again after `after`.
    pub async fn put_back(&self, deliveries: &[Delivery], after: SignedDuration) -> Delivered {
        let inbox = &self.store.inbox;
        let put_back = async |delivery: &Delivery| {
            let now = self.clock.now();
            if let Some(item) = inbox.accept(self.queue, delivery, VISIBILITY_TIMEOUT, now).await? {
                let again = Retry { after, is_attempt: false, ..Retry::default() };
                inbox.requeue(self.queue, &item, again, now).await?;
            }
            Ok::<(), StoreError>(())
        };
        let mut delivered = Delivered::default();
        for delivery in deliveries {
            if let Err(error) = put_back(delivery).await {
                let (message_id, error) = (&delivery.message_id, chain(&error));
                tracing::error!(message_id, error, "a message was not put back");
                delivered.failed.push(message_id.clone());
            }
        }
        delivered
    }

    /// Works one message; `None` if there was nothing to do. After an error the message comes back when its hold ends.
    async fn accepted<'a>(
        &self,
        work: &dyn Work,
        delivery: &'a Delivery,
        limits: &RunLimits,
    ) -> (&'a Delivery, Result<Option<Disposition>, StoreError>) {
        let now = self.clock.now();
        let end = match self.store.inbox.accept(self.queue, delivery, VISIBILITY_TIMEOUT, now).await
        {
            Ok(Some(item)) => self.one(work, item, STOPPED, limits).await.map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        (delivery, end)
    }

    /// Works one item that was taken, and ends it. An item that needs an operator waits for `stopped`. After an error
    /// the item comes back when its hold ends.
    async fn one(
        &self,
        work: &dyn Work,
        item: Item,
        stopped: SignedDuration,
        limits: &RunLimits,
    ) -> Result<Disposition, StoreError> {
        let is_last_try = self.begins_last_try(&item).await?;
        let mut working = if item.lost < MAX_LOST_TAKES || is_last_try {
            work.work(&item, limits)
        } else {
            let reason = format!("{} workers in a row ended at it without a word", item.lost);
            work.lost(&item, reason)
        };
        let after = tokio::select! {
            after = &mut working => after,
            // Another worker has the item now and decides how it ends.
            () = self.keep(&item) => return Ok(Disposition::later(SignedDuration::ZERO)),
        };
        drop(working);
        if is_last_try {
            self.forget_last_try(&item).await;
        }
        let now = self.clock.now();
        let inbox = &self.store.inbox;
        let ours = match &after {
            Disposition::Done => inbox.done(self.queue, &item).await?,
            Disposition::Retry(again) => {
                inbox.requeue(self.queue, &item, again.clone(), now).await?
            }
            Disposition::Bury(reason) => {
                tracing::error!(queue = self.queue.name(), id = item.id, reason, "given up");
                let subject = work.subject(&item);
                failures::note(self.store, self.queue, &item, subject, reason, now).await;
                inbox.bury(self.queue, &item, reason, now).await?
            }
            Disposition::Stop(_) => {
                let again = Retry { after: stopped, is_attempt: false, ..Retry::default() };
                inbox.requeue(self.queue, &item, again, now).await?
            }
        };
        if !ours {
            tracing::debug!(queue = self.queue.name(), id = item.id, "somebody else has the item");
        }
        Ok(after)
    }
}

impl Workers<'_> {
    /// Whether an item that would be given up has a last try now.
    ///
    /// A queue also counts deliveries to functions that could not start, for example because a secret was missing. The
    /// first function that starts must not give up items that no worker ever began. So such an item gets a last try,
    /// which is noted before it begins. The item is given up if the last try does not end either.
    async fn begins_last_try(&self, item: &Item) -> Result<bool, StoreError> {
        if item.lost < MAX_LOST_TAKES || !self.store.inbox.counts_unbegun() {
            return Ok(false);
        }
        let (id, now) = (self.last_try(item), self.clock.now());
        self.store.memory.remember(LAST_TRY, &id, LAST_TRY_KNOWN, now).await
    }

    /// Forgets the last try of an item, because it came to an end. The item may have another one later.
    async fn forget_last_try(&self, item: &Item) {
        if let Err(error) = self.store.memory.forget(LAST_TRY, &self.last_try(item)).await {
            let (queue, id, error) = (self.queue.name(), &item.id, chain(&error));
            tracing::warn!(queue, id, error, "the item has no other last try");
        }
    }

    fn last_try(&self, item: &Item) -> String {
        format!("{} {}", self.queue.name(), item.id)
    }

    /// Renews the hold of an item while it is worked. Returns if another worker has taken the item.
    async fn keep(&self, item: &Item) {
        let (queue, id) = (self.queue.name(), &item.id);
        loop {
            tokio::time::sleep(RENEW).await;
            match self
                .store
                .inbox
                .hold(self.queue, item, VISIBILITY_TIMEOUT, self.clock.now())
                .await
            {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(queue, id, "the item was lost");
                    return;
                }
                // The hold lasts for two more renewals.
                Err(error) => tracing::warn!(queue, id, error = chain(&error), "not renewed"),
            }
        }
    }
}

/// Counts how an item ended. An item that could not be ended comes back when its time is up. With `goes_on`, a
/// transient error is not returned, because the state may be writable later.
fn settle(
    drained: &mut Drained,
    ended: Option<Result<Disposition, StoreError>>,
    goes_on: bool,
) -> Result<(), StoreError> {
    let ended = ended.transpose().inspect_err(|error| {
        tracing::error!(error = chain(error), "an item could not be ended");
    });
    match ended {
        Err(error) if goes_on && error.is_transient() => drained.again += 1,
        Err(error) => return Err(error),
        Ok(ended) => count(drained, ended),
    }
    Ok(())
}

fn count(drained: &mut Drained, ended: Option<Disposition>) {
    match ended {
        None => {}
        Some(Disposition::Done) => drained.done += 1,
        Some(Disposition::Retry(_)) => drained.again += 1,
        Some(Disposition::Bury(_)) => drained.buried += 1,
        Some(Disposition::Stop(why)) => {
            drained.again += 1;
            drained.stopped = Some(why);
        }
    }
}
