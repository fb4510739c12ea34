//! Queues of waiting work: items that came in and are not done yet.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::StoreError;
use base::errors::chain;
use net::peers::{Peer, latest_written};

/// The queue that an item waits in. Each queue is worked by one function.
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
    /// Returns the queue's name as the state stores it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Download => "download",
            Self::Minutes => "minutes",
        }
    }

    /// Returns the queue with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Query, Self::Download, Self::Minutes].into_iter().find(|queue| queue.name() == name)
    }
}

/// An item to be put into a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewItem {
    /// Id of the item. An id that waits already is not put again, except by a queue of SQS, which cannot tell. So it
    /// must be safe to do the work twice.
    pub id: String,
    /// Description of the work as JSON text; it holds no secrets.
    pub body: String,
}

/// An item that was taken. Nobody else gets it before the taker's time is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Id as it was put.
    pub id: String,
    /// Body as it was put, or as [`Inbox::requeue`] left it.
    pub body: String,
    /// Number of failed attempts that [`Inbox::requeue`] counted.
    pub attempts: u32,
    /// Number of workers in a row that took the item and neither ended it nor put it back, for example because they
    /// died. [`Inbox::requeue`] resets it.
    pub lost: u32,
    /// Time at which the item was first put.
    pub since: Timestamp,
    /// The outage that the item waits for, or waited for last.
    pub outage: Option<ItemOutage>,
    /// Handle by which the implementation identifies this taking of the item.
    pub receipt: String,
}

/// A time in which an item could not be worked, because a peer that it needs gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemOutage {
    /// Time of the first failure.
    pub since: Timestamp,
    /// Time of the latest failure.
    pub last: Timestamp,
    /// The peer that is out. Items of earlier versions name none, which counts as VirusTotal.
    #[serde(default)]
    pub peer: Peer,
}

/// Options for putting an item back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Time until the item is due again.
    pub after: SignedDuration,
    /// Whether this counts as a failed attempt. Waiting for a quota does not.
    pub is_attempt: bool,
    /// The outage that the item waits for; `None` keeps the one that is known.
    pub outage: Option<ItemOutage>,
}

/// Numbers of items in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InboxCounts {
    /// Number of waiting items, including those that are not due yet.
    pub waiting: u64,
    /// Number of waiting items that are due.
    pub due: u64,
    /// Time at which the oldest waiting item was put, if the implementation knows it.
    pub oldest: Option<Timestamp>,
    /// Number of items that a worker has taken.
    pub in_work: u64,
    /// Number of items that were given up.
    pub buried: u64,
}

/// A message as a queue handed it over, by an event or when it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Id that the queue gives the message. The answer to an event names failed messages by it.
    pub message_id: String,
    /// Handle of this delivery of the message.
    pub receipt_handle: String,
    /// The message's text: an item as JSON, as this program put it.
    pub body: String,
    /// Further attributes that the queue gives.
    #[serde(default)]
    pub attributes: DeliveryAttributes,
}

/// Attributes that SQS gives a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeliveryAttributes {
    /// Number of deliveries of the message, in digits, including this one.
    pub approximate_receive_count: String,
}

impl Delivery {
    /// Returns how many earlier receivers did not end the message.
    #[cfg(feature = "aws")]
    pub(super) fn lost(&self) -> u32 {
        let received: u32 = self.attributes.approximate_receive_count.parse().unwrap_or(1);
        received.saturating_sub(1)
    }

    /// Returns the messages of an event of SQS, or `None` if the event is of another kind.
    pub fn all_of(event: &serde_json::Value) -> Option<Vec<Self>> {
        let records = event.get("Records")?.as_array()?;
        let of_sqs = |record: &serde_json::Value| {
            let source = record.get("eventSource").and_then(serde_json::Value::as_str);
            (source == Some("aws:sqs")).then(|| Self::deserialize(record).ok())?
        };
        (!records.is_empty()).then(|| records.iter().map(of_sqs).collect())?
    }
}

/// An item as a message in a queue holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    /// [`Message::FORMAT`].
    pub(super) format: u8,
    /// Name of the function's queue. It shows if one queue of AWS was configured for two functions by mistake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<String>,
    pub(super) id: String,
    #[serde(default)]
    pub(super) attempts: u32,
    pub(super) since: Timestamp,
    /// Time before which the item is not to be worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<Timestamp>,
    /// Time at which `due` was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) written: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outage: Option<ItemOutage>,
    #[serde(flatten)]
    pub(super) body: Body,
}

/// The body of an item, or where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Body {
    /// The body itself.
    Body(String),
    /// The key of the object that holds the body.
    Object(String),
}

impl Message {
    pub(super) const FORMAT: u8 = 1;

    /// Makes the message of an item that is due at once.
    #[cfg(any(feature = "aws", test))]
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

    /// Reads a message. The error says why the text is not a message, without quoting it.
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
pub(super) struct PutFailures {
    waiting: Vec<usize>,
    refused: Vec<(usize, String)>,
    first: Option<StoreError>,
}

impl PutFailures {
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

/// Durable queues of waiting work. An item stays until it is done or buried. An item whose taker died comes back when
/// the taker's time is up.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Puts items, which are durable once this returns. An item that cannot be put does not hold up the others.
    async fn put(&self, queue: Queue, items: &[NewItem], now: Timestamp) -> Result<(), PutError>;

    /// Takes at most `most` items that are due, for `hold` from `now`. The items that have waited longest come first,
    /// as far as the implementation knows.
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

    /// Takes an item that a queue delivered by an event, for `hold` from `now`. Returns `None` if the item is not due,
    /// is done, was given up because it cannot be read, or waits because its body cannot be read now. An implementation
    /// that is not a queue of messages puts the item first.
    async fn accept(
        &self,
        queue: Queue,
        delivery: &Delivery,
        hold: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Item>, StoreError>;

    /// Keeps an item for `hold` from `now`. Returns false if the item is done or another worker has it.
    async fn hold(
        &self,
        queue: Queue,
        item: &Item,
        hold: SignedDuration,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Ends an item. Returns false if the item is done already or another worker has it, which does no harm.
    async fn done(&self, queue: Queue, item: &Item) -> Result<bool, StoreError>;

    /// Puts an item back, with the body that `item` has now. Returns false if the item is done or another worker has
    /// it.
    async fn requeue(
        &self,
        queue: Queue,
        item: &Item,
        again: Retry,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Gives an item up. The item is kept with the reason, for an operator. Returns false if the item is done or
    /// another worker has it.
    async fn bury(
        &self,
        queue: Queue,
        item: &Item,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Makes all taken items of the queue due again, and returns how many there were. The caller must hold the lease of
    /// the function, because this means that every earlier taker is dead. Items that were lost before wait some
    /// seconds, and more each time. Does nothing if several workers may take from one queue.
    async fn reclaim(&self, queue: Queue, now: Timestamp) -> Result<u64, StoreError>;

    /// Returns the numbers of items at `now`; for display, so they may be approximate.
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
