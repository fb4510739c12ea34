//! Waiting work: what came in and is not done yet.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::StoreError;

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
    /// As it was put, or as [`Inbox::again`] left it.
    pub body: String,
    /// How often it was tried and failed: what [`Inbox::again`] counted.
    pub attempts: u32,
    /// When it was put first.
    pub since: Timestamp,
    /// What the implementation knows it by, this time.
    pub receipt: String,
}

/// When and as what an item comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// Nobody gets it before.
    pub after: SignedDuration,
    /// Whether this was a failed attempt. Waiting for a quota is none.
    pub is_attempt: bool,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InboxCounts {
    /// Items that wait, also those that wait for their time.
    pub waiting: u64,
    /// Items that somebody is at.
    pub in_work: u64,
    /// Items given up.
    pub buried: u64,
}

/// Waiting work, durable. An item stays until it is done or buried; one whose taker died comes back when
/// its time is up.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Keeps items, durably once this returns. An error may leave some of them put.
    async fn put(&self, queue: Queue, items: &[NewItem], now: Timestamp) -> Result<(), StoreError>;

    /// Takes at most `most` items that are due, for `hold` from `now`; those that wait longest first, as
    /// far as the implementation knows.
    async fn take(
        &self,
        queue: Queue,
        most: usize,
        hold: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<Item>, StoreError>;

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
    async fn again(
        &self,
        queue: Queue,
        item: &Item,
        again: Again,
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
    /// whoever took them is dead, and they need not wait for their time. Gives how many came back. Does
    /// nothing where several workers may take from one queue.
    async fn reclaim(&self, queue: Queue, now: Timestamp) -> Result<u64, StoreError>;

    /// How much waits at `now`; for display, and roughly right is enough.
    async fn counts(&self, queue: Queue, now: Timestamp) -> Result<InboxCounts, StoreError>;
}
