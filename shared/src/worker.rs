//! Workers: items of an inbox, one after the other, each to its end.
//!
//! An item ends as *done*, *again* or *buried*, and only then leaves its taker. Whoever dies at one loses
//! nothing: it comes back when its time is up, so work must bear being done twice.

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

/// Time for which an item is taken.
pub const HOLD: SignedDuration = SignedDuration::from_mins(1);
/// Interval at which the hold of an item is renewed while it is worked, as a lease is.
const RENEW: Duration = Duration::from_secs(20);
/// An item is given up after this many workers in a row died on it.
const MAX_LOST_TAKES: u32 = 5;
/// Kind under which [`crate::store::Memory`] knows an item that is in its last try.
const LAST_TRY: &str = "last try";
/// How long that is known: as long as SQS keeps a message.
const LAST_TRY_KNOWN: SignedDuration = SignedDuration::from_hours(14 * 24);
/// How often an empty inbox is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Time after which an inbox that could not be read is read again.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// Wait of an event's item that cannot be begun, or that only an operator can help. Without it the queue would start
/// the next worker at once.
pub(crate) const STOPPED: SignedDuration = SignedDuration::from_mins(1);
/// How long an item waits that an invocation took when its time was up, for the same reason.
const NO_TIME: SignedDuration = SignedDuration::from_mins(1);

/// What is to become of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is done.
    Done,
    /// It comes back.
    Retry(Retry),
    /// It never works; why.
    Bury(String),
    /// It comes back, and nothing else of the queue can work either until an operator has done
    /// something; what.
    Stop(String),
}

impl Disposition {
    /// It comes back after a time, and this was no attempt: it waited for something.
    pub fn later(after: SignedDuration) -> Self {
        Self::Retry(Retry { after, is_attempt: false, ..Retry::default() })
    }

    /// It was taken when `limits` were reached. Whoever comes after a process that was asked to end, which has no
    /// deadline as an invocation has, finds it at once.
    pub fn unbegun(limits: &RunLimits) -> Self {
        let is_process = limits.stop.is_cancelled() && limits.deadline.is_none();
        Self::later(if is_process { SignedDuration::ZERO } else { NO_TIME })
    }
}

/// What a worker does.
#[async_trait]
pub trait Work: Send + Sync {
    /// Works one item. Whatever goes wrong is an [`Disposition`].
    async fn work(&self, item: &Item, limits: &RunLimits) -> Disposition;

    /// Returns the file and source of an item, for lists of failures.
    fn subject(&self, _item: &Item) -> Subject {
        Subject::default()
    }

    /// What becomes of an item that one taker after the other died at.
    async fn lost(&self, _item: &Item, reason: String) -> Disposition {
        Disposition::Bury(reason)
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Drained {
    /// Items done.
    pub done: u64,
    /// Items put back.
    pub again: u64,
    /// Items buried.
    pub buried: u64,
    /// Why nothing can work until an operator has done something.
    pub stopped: Option<String>,
}

/// What became of messages that a queue handed over by an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Those that were not ended, by their ids: the queue hands them over again.
    pub failed: Vec<String>,
    /// Why nothing can work until an operator has done something.
    pub stopped: Option<String>,
}

impl Delivered {
    /// What Lambda expects as the answer to an event of SQS whose mapping reports failures item by item.
    pub fn answer(&self) -> Value {
        let failed = self.failed.iter().map(|id| json!({ "itemIdentifier": id }));
        json!({ "batchItemFailures": failed.collect::<Vec<_>>() })
    }
}

/// Who works.
pub struct Workers<'a> {
    /// Where the items are.
    pub store: &'a Store,
    /// Whose.
    pub queue: Queue,
    /// Time.
    pub clock: &'a dyn Clock,
    /// How many items are worked at once.
    pub at_once: usize,
}

impl Workers<'_> {
    /// Works items until `limits` are reached, or, unless `waits`, until none is due. What is begun is
    /// finished.
    ///
    /// # Errors
    /// The inbox cannot be read or written. With `waits`, this ends the work only if the error is not transient.
    pub async fn drain(
        &self,
        work: &dyn Work,
        waits: bool,
        limits: &RunLimits,
    ) -> Result<Drained, StoreError> {
        let mut drained = Drained::default();
        let mut working = FuturesUnordered::new();
        // Taking and working go on side by side: a queue may take its time.
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
                taking = Some(self.store.inbox.take(self.queue, asked, HOLD, now));
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

    /// Works what a queue handed over by an event, and ends each message that it can.
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
            if let Some(item) = inbox.accept(self.queue, delivery, HOLD, now).await? {
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

    /// Works one message; `None` where there was nothing to do. An error: it comes back when its time is up.
    async fn accepted<'a>(
        &self,
        work: &dyn Work,
        delivery: &'a Delivery,
        limits: &RunLimits,
    ) -> (&'a Delivery, Result<Option<Disposition>, StoreError>) {
        let now = self.clock.now();
        let end = match self.store.inbox.accept(self.queue, delivery, HOLD, now).await {
            Ok(Some(item)) => self.one(work, item, STOPPED, limits).await.map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        (delivery, end)
    }

    /// Works one item that was taken, and ends it; it waits for `stopped` where only an operator can help. An
    /// error: it comes back when its time is up.
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
            // It is somebody else's: what becomes of it is theirs to say.
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
    /// A queue also counts what it handed to functions that could not start, for want of a secret for example. Whoever
    /// starts first must not give up what nobody began. So such an item is begun once more, which is noted before; it is
    /// given up where that try does not end either.
    async fn begins_last_try(&self, item: &Item) -> Result<bool, StoreError> {
        if item.lost < MAX_LOST_TAKES || !self.store.inbox.counts_unbegun() {
            return Ok(false);
        }
        let (id, now) = (self.last_try(item), self.clock.now());
        self.store.memory.remember(LAST_TRY, &id, LAST_TRY_KNOWN, now).await
    }

    /// The last try came to an end, so the item may have another one.
    async fn forget_last_try(&self, item: &Item) {
        if let Err(error) = self.store.memory.forget(LAST_TRY, &self.last_try(item)).await {
            let (queue, id, error) = (self.queue.name(), &item.id, chain(&error));
            tracing::warn!(queue, id, error, "the item has no other last try");
        }
    }

    fn last_try(&self, item: &Item) -> String {
        format!("{} {}", self.queue.name(), item.id)
    }

    /// Keeps an item for its worker, side by side with the work; ends where it was lost.
    async fn keep(&self, item: &Item) {
        let (queue, id) = (self.queue.name(), &item.id);
        loop {
            tokio::time::sleep(RENEW).await;
            match self.store.inbox.hold(self.queue, item, HOLD, self.clock.now()).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(queue, id, "the item was lost");
                    return;
                }
                // It is held for two times more.
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
