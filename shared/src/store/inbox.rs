//! Waiting work: what came in and is not done yet.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::{
    errors::chain,
    peers::{Peer, latest_written},
};

/// Whose work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// Binaries to look up.
    Query,
    /// Samples to download.
    Download,
    /// Feed minutes to load.
    Minutes,
}

impl Queue {
    /// Its name, as it is kept.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Download => "download",
            Self::Minutes => "minutes",
        }
    }

    /// The queue of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Query, Self::Download, Self::Minutes].into_iter().find(|queue| queue.name() == name)
    }
}

/// Work to be put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewItem {
    /// Names it. An id that waits already is not put again where the implementation can tell (a
    /// queue of SQS cannot), so work must bear being done twice.
    pub id: String,
    /// What is to be done, as JSON text; no secrets.
    pub body: String,
}

/// Work that was taken, and that nobody else gets before its time is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// As it was put.
    pub id: String,
    /// As it was put, or as [`Inbox::requeue`] left it.
    pub body: String,
    /// How often it was tried and failed: what [`Inbox::requeue`] counted.
    pub attempts: u32,
    /// How many takers in a row left it unended, as one does who dies at it; [`Inbox::requeue`] begins anew.
    pub lost: u32,
    /// When it was put first.
    pub since: Timestamp,
    /// The outage that the item waits for, or waited for last.
    pub outage: Option<Outage>,
    /// What the implementation knows it by, this time.
    pub receipt: String,
}

/// A time in which an item could not be worked, because a peer that it needs gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Time of the first failure.
    pub since: Timestamp,
    /// Time of the latest failure.
    pub last: Timestamp,
    /// The peer that is out. Items of earlier versions name none, which counts as VirusTotal.
    #[serde(default)]
    pub peer: Peer,
}

/// When and as what an item comes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Nobody gets it before.
    pub after: SignedDuration,
    /// Whether this was a failed attempt. Waiting for a quota is none.
    pub is_attempt: bool,
    /// The outage that the item waits for; `None` keeps the one that is known.
    pub outage: Option<Outage>,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InboxCounts {
    /// Items that wait, also those that wait for their time.
    pub waiting: u64,
    /// Number of waiting items that are due.
    pub due: u64,
    /// Time at which the oldest waiting item was put, if the implementation knows it.
    pub oldest: Option<Timestamp>,
    /// Items that somebody is at.
    pub in_work: u64,
    /// Items given up.
    pub buried: u64,
}

/// A message as a queue handed it over, by an event or when it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// What the queue names it; what is answered to say that it failed.
    pub message_id: String,
    /// What this delivery of it is known by.
    pub receipt_handle: String,
    /// The message's text: an item as JSON, as this program put it.
    pub body: String,
    /// What the queue says of it beside.
    #[serde(default)]
    pub attributes: DeliveryAttributes,
}

/// What SQS says of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeliveryAttributes {
    /// How often it was handed over, this time among them: digits.
    pub approximate_receive_count: String,
}

impl Delivery {
    /// How many takers before this one left the message unended.
    pub(super) fn lost(&self) -> u32 {
        let received: u32 = self.attributes.approximate_receive_count.parse().unwrap_or(1);
        received.saturating_sub(1)
    }

    /// The messages of an event of SQS; `None` where it is an event of another kind.
    pub fn all_of(event: &serde_json::Value) -> Option<Vec<Self>> {
        let records = event.get("Records")?.as_array()?;
        let of_sqs = |record: &serde_json::Value| {
            let source = record.get("eventSource").and_then(serde_json::Value::as_str);
            (source == Some("aws:sqs")).then(|| Self::deserialize(record).ok())?
        };
        (!records.is_empty()).then(|| records.iter().map(of_sqs).collect())?
    }
}

/// What a message in a queue says of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    /// [`Message::FORMAT`].
    pub(super) format: u8,
    /// The function's queue: one of AWS's may be named to two functions by mistake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<String>,
    pub(super) id: String,
    #[serde(default)]
    pub(super) attempts: u32,
    pub(super) since: Timestamp,
    /// Not to be worked before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<Timestamp>,
    /// Time at which `due` was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) written: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outage: Option<Outage>,
    #[serde(flatten)]
    pub(super) body: Body,
}

/// The body of an item, or where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Body {
    /// Itself.
    Body(String),
    /// The key of an object.
    Object(String),
}

impl Message {
    pub(super) const FORMAT: u8 = 1;

    /// A message of an item that is due at once.
    pub(super) fn new(queue: Queue, id: &str, body: &str, attempts: u32, since: Timestamp) -> Self {
        Self {
            format: Self::FORMAT,
            queue: Some(queue.name().to_owned()),
            id: id.to_owned(),
            attempts,
            since,
            due: None,
            written: None,
            outage: None,
            body: Body::Body(body.to_owned()),
        }
    }

    /// Returns how long the item still waits. An item is due now if a clock wrote it that was ahead.
    pub(super) fn wait(&self, now: Timestamp) -> SignedDuration {
        if self.written.is_some_and(|written| written > latest_written(now)) {
            return SignedDuration::ZERO;
        }
        self.due.map_or(SignedDuration::ZERO, |due| due.duration_since(now))
    }

    /// Reads a message; the error says why it is none, and quotes nothing of it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match serde_json::from_str(text) {
            Ok(message @ Self { format: Self::FORMAT, .. }) => Ok(message),
            Ok(Self { format, .. }) => Err(format!("its format {format} is not known here")),
            Err(error) => Err(format!("it is no message of this program: {error}")),
        }
    }
}

/// Some items were not put; all others were.
#[derive(Debug, thiserror::Error)]
#[error("{} items were not put into the inbox", .waiting.len().saturating_add(.refused.len()))]
pub struct PutError {
    /// Indices, in the given list, of the items that may be put later.
    pub waiting: Vec<usize>,
    /// Indices of the items that can never be put, with the reason.
    pub refused: Vec<(usize, String)>,
    /// The first error; if items wait, the first error of a waiting item.
    #[source]
    pub source: StoreError,
}

impl From<PutError> for StoreError {
    fn from(error: PutError) -> Self {
        error.source
    }
}

/// Collects the items that could not be put.
#[derive(Default)]
pub(super) struct Unput {
    waiting: Vec<usize>,
    refused: Vec<(usize, String)>,
    first: Option<StoreError>,
}

impl Unput {
    pub(super) fn add(&mut self, place: usize, error: StoreError) {
        if matches!(error, StoreError::BadName { .. }) {
            self.refused.push((place, chain(&error)));
            self.first.get_or_insert(error);
        } else {
            if self.waiting.is_empty() {
                self.first = Some(error);
            }
            self.waiting.push(place);
        }
    }

    /// Adds items that were not tried, because of an error that was added already.
    pub(super) fn skip(&mut self, places: impl IntoIterator<Item = usize>) {
        self.waiting.extend(places);
    }

    pub(super) fn finish(self) -> Result<(), PutError> {
        let Self { waiting, refused, first } = self;
        first.map_or(Ok(()), |source| Err(PutError { waiting, refused, source }))
    }
}

/// Waiting work, durable. An item stays until it is done or buried; one whose taker died comes back when
/// its time is up.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Puts items, which are durable once this returns. An item that cannot be put does not hold up the others.
    async fn put(&self, queue: Queue, items: &[NewItem], now: Timestamp) -> Result<(), PutError>;

    /// Takes at most `most` items that are due, for `hold` from `now`; those that wait longest first, as
    /// far as the implementation knows.
    async fn take(
        &self,
        queue: Queue,
        most: usize,
        hold: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<Item>, StoreError>;

    /// Whether [`Item::lost`] may also count takers that never began the item.
    fn counts_unbegun(&self) -> bool {
        false
    }

    /// Takes what a queue handed over by an event, for `hold` from `now`. `None` where it is not to be worked
    /// now: it is not due, is done, was given up because it cannot be read, or waits because its body cannot be read
    /// now. An implementation that is no queue of messages puts it first.
    async fn accept(
        &self,
        queue: Queue,
        delivery: &Delivery,
        hold: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Item>, StoreError>;

    /// Keeps an item for `hold` from `now`. False where it was lost to somebody else, or is done.
    async fn hold(
        &self,
        queue: Queue,
        item: &Item,
        hold: SignedDuration,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Ends an item. False where it was lost to somebody else, or is done: no harm.
    async fn done(&self, queue: Queue, item: &Item) -> Result<bool, StoreError>;

    /// Puts an item back, with its body as it is now in `item`. False where it was lost, as above.
    async fn requeue(
        &self,
        queue: Queue,
        item: &Item,
        again: Retry,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Gives an item up; it stays, with the reason, for an operator. False where it was lost, as above.
    async fn bury(
        &self,
        queue: Queue,
        item: &Item,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Says that nobody is at any item of the queue: the caller holds the lease of the function, so
    /// whoever took them is dead, and they need not wait for their time; but for those that were lost before,
    /// which wait some seconds, more each time. Gives how many came back. Does nothing where several workers
    /// may take from one queue.
    async fn reclaim(&self, queue: Queue, now: Timestamp) -> Result<u64, StoreError>;

    /// How much waits at `now`; for display, and roughly right is enough.
    async fn counts(&self, queue: Queue, now: Timestamp) -> Result<InboxCounts, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_waits_until_it_is_due_unless_a_clock_wrote_it_that_was_ahead() {
        let now: Timestamp = "2026-11-24T09:00:00Z".parse().unwrap();
        let minute = SignedDuration::from_mins(1);
        let mut message = Message::new(Queue::Query, "a", "{}", 0, now);
        assert_eq!(message.wait(now), SignedDuration::ZERO);
        message.due = Some(now + minute);
        assert_eq!(message.wait(now), minute);
        message.written = Some(now);
        assert_eq!(message.wait(now), minute);
        let ahead = now + SignedDuration::from_hours(400 * 24);
        (message.due, message.written) = (Some(ahead + minute), Some(ahead));
        assert_eq!(message.wait(now), SignedDuration::ZERO);
    }
}
