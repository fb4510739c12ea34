//! State: small capabilities, each kept by two families: [`local`] (SQLite and a directory under STATEDIR)
//! and [`aws`] (`DynamoDB` and S3). [`open`] chooses by the settings.
//!
//! The traits promise no more than a conditional write on one row, so that a key-value table can keep
//! them as well as SQLite does. One suite of tests (`tests/it/store_suite.rs`) runs on
//! every implementation.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp, civil::Date};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{http_client::HttpSetupError, minute::Minute, settings::Settings};

/// What [`budget::Budget`] and the pauses call requests of VirusTotal's API.
pub const BUDGET: &str = "virustotal";

pub mod aws;
pub mod budget;
mod claim;
pub mod failures;
pub mod inbox;
mod keys;
mod lease_renewer;
pub mod local;
pub mod rejects;
pub mod totals;

pub use claim::Claim;

/// What went wrong with the state.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state could not be read or written: try again.
    #[error("state: {action} failed")]
    Unavailable {
        /// What was attempted, for example `reading the cursor load`.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// AWS refuses: an operator must act.
    #[error("state: {action} was refused; {advice}")]
    Refused {
        /// What was attempted.
        action: String,
        /// What to look at.
        advice: String,
        /// What AWS said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A proxy or a certificate authority that AWS cannot be reached with.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// What was read makes no sense: an operator must look at it.
    #[error("state: {what} is damaged: {reason}")]
    Damaged {
        /// Which row or object.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The lease that a write was made under belongs to somebody else by now: stop working.
    #[error("the lease `{name}` was lost to another owner")]
    LeaseLost {
        /// Name of the lease.
        name: String,
    },
    /// A key or a name that no state can be kept under: never.
    #[error("`{name}` cannot name anything in the state: {reason}")]
    BadName {
        /// The key or name, cut where it is very long.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The directory for the state cannot be used: an operator must act.
    #[error(
        "STATEDIR: cannot use {path}: make it a directory that this user can write to, on a local disk, \
         or set STATEDIR to another one"
    )]
    StateDir {
        /// The path that failed.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The state was written by a newer program: an operator must act.
    #[error(
        "the state in {path} has schema version {found}, written by a newer version of this program, which \
         knows versions up to {known}: run that newer version, or set STATEDIR to another directory"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
}

impl StoreError {
    /// True where the same call may work later without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// A time source, so that tests can fix it.
pub trait Clock: Send + Sync {
    /// The time now, UTC.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Positions in streams that are worked in order.
#[async_trait]
pub trait Cursors: Send + Sync {
    /// Seconds since 1970 up to which everything is done; `None` before the first run.
    async fn read(&self, name: &str) -> Result<Option<i64>, StoreError>;

    /// Moves the cursor from `expected` to `to`. False, and nothing changed, where it does not stand
    /// at `expected` or `to` is not ahead of it.
    async fn advance(&self, name: &str, expected: Option<i64>, to: i64)
    -> Result<bool, StoreError>;
}

/// The right to be the only one at work on something.
pub struct Lease {
    /// What the lease is for.
    pub name: String,
    /// Who holds it, in words an operator understands.
    pub owner: String,
    /// Grows with each new owner; writes carry it.
    pub fence: u64,
    /// Held by the implementation (an open lock file locally); dropping it frees the lease.
    pub guard: Option<Box<dyn std::any::Any + Send + Sync>>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.name)
            .field("owner", &self.owner)
            .field("fence", &self.fence)
            .finish_non_exhaustive()
    }
}

/// Answer to a request for a lease.
#[derive(Debug)]
pub enum Grant {
    /// It is ours.
    Acquired(Lease),
    /// Somebody else works on it.
    Held {
        /// Who.
        owner: String,
        /// Since when.
        since: Timestamp,
    },
}

/// Leases with an owner, an expiry and a fencing number.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes the lease where it is free or its owner is dead.
    async fn acquire(&self, name: &str, owner: &str, now: Timestamp) -> Result<Grant, StoreError>;

    /// Stays the owner. [`StoreError::LeaseLost`] where somebody else took over.
    async fn renew(&self, lease: &Lease, now: Timestamp) -> Result<(), StoreError>;

    /// Gives it back.
    async fn release(&self, lease: Lease) -> Result<(), StoreError>;

    /// Forgets leases that nobody took or renewed since `before`, and gives how many: long enough ago that
    /// nobody lives whose fencing number would be given again. Here for those that expire by themselves:
    /// nothing to do.
    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let _ = before;
        Ok(0)
    }

    /// Who holds it at `now`, and since when; for display only.
    async fn holder(
        &self,
        name: &str,
        now: Timestamp,
    ) -> Result<Option<(String, Timestamp)>, StoreError>;
}

/// What is known of a feed minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MinuteState {
    /// It is to be loaded.
    Planned,
    /// Its bundle is staged and verified, and being delivered.
    Loading {
        /// Key of the staged bundle in [`Bundles`].
        bundle: String,
        /// Lines delivered, rejected or filtered so far; the next run goes on behind them.
        lines_done: u64,
    },
    /// All of it is delivered.
    Loaded,
    /// It could not be loaded yet.
    Gap {
        /// Why.
        kind: GapKind,
        /// What VirusTotal or the decoder said.
        reason: String,
        /// How often it was tried.
        attempts: u32,
        /// When to try again.
        next_try: Timestamp,
    },
    /// Given up: it left VirusTotal's seven days before it could be loaded, or failed again and again.
    Buried {
        /// Why.
        reason: String,
    },
}

/// Kinds of [`MinuteState::Gap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapKind {
    /// VirusTotal has no bundle for the minute (404).
    Missing,
    /// The bundle cannot be decoded, or loading it failed.
    Failed,
}

/// Fewest rejected records of a bundle that are worth a warning, if they are also a tenth of all.
const MUCH_REJECTED: u64 = 10;

/// What was counted while a minute was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Lines that are not blank.
    pub records: u64,
    /// Events that the dispatcher acknowledged.
    pub delivered: u64,
    /// Records and events that were not wanted: too old, the empty file, aged off, filtered.
    pub filtered: u64,
    /// Records and events that can never be delivered; kept under `rejects/`.
    pub rejected: u64,
    /// Download requests that the dispatcher acknowledged.
    pub requests: u64,
    /// Values that the mapping left out because they were bad.
    pub bad_values: u64,
    /// Invalid UTF-8 sequences that became U+FFFD.
    pub replaced_utf8: u64,
}

impl Counts {
    /// Adds another count to this one.
    pub fn add(&mut self, other: Self) {
        self.records = self.records.saturating_add(other.records);
        self.delivered = self.delivered.saturating_add(other.delivered);
        self.filtered = self.filtered.saturating_add(other.filtered);
        self.rejected = self.rejected.saturating_add(other.rejected);
        self.requests = self.requests.saturating_add(other.requests);
        self.bad_values = self.bad_values.saturating_add(other.bad_values);
        self.replaced_utf8 = self.replaced_utf8.saturating_add(other.replaced_utf8);
    }

    /// Whether there were records, and none of them was delivered or filtered.
    pub fn is_all_rejected(&self) -> bool {
        self.records > 0 && self.delivered == 0 && self.filtered == 0
    }

    /// Whether so many records were rejected that their sender should be looked at: at least ten, and at least a tenth
    /// of all.
    pub fn is_much_rejected(&self) -> bool {
        self.rejected >= MUCH_REJECTED && self.rejected.saturating_mul(10) >= self.records
    }

    /// What was counted since `earlier`, which this count grew from.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            records: self.records.saturating_sub(earlier.records),
            delivered: self.delivered.saturating_sub(earlier.delivered),
            filtered: self.filtered.saturating_sub(earlier.filtered),
            rejected: self.rejected.saturating_sub(earlier.rejected),
            requests: self.requests.saturating_sub(earlier.requests),
            bad_values: self.bad_values.saturating_sub(earlier.bad_values),
            replaced_utf8: self.replaced_utf8.saturating_sub(earlier.replaced_utf8),
        }
    }
}

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// The feed minute.
    pub minute: Minute,
    /// What became of it.
    pub state: MinuteState,
    /// Counted so far.
    pub counts: Counts,
    /// When the row was written last.
    pub updated: Timestamp,
}

/// How many minutes are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LedgerTotals {
    /// Minutes planned.
    pub planned: u64,
    /// Minutes being loaded.
    pub loading: u64,
    /// Minutes loaded.
    pub loaded: u64,
    /// Minutes to be tried again.
    pub gaps: u64,
    /// Minutes given up.
    pub buried: u64,
    /// Sum of the counts of all rows kept.
    pub counts: Counts,
}

/// A row for each feed minute.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The row of a minute.
    async fn get(&self, minute: Minute) -> Result<Option<LedgerRow>, StoreError>;

    /// Writes a row under a lease. [`StoreError::LeaseLost`], and nothing written, where the lease's
    /// fencing number is not the newest.
    async fn put(&self, row: &LedgerRow, lease: &Lease) -> Result<(), StoreError>;

    /// Rows from `from` to before `to`, oldest first.
    async fn range(&self, from: Minute, to: Minute) -> Result<Vec<LedgerRow>, StoreError>;

    /// Writes several rows under a lease, as [`put`](Ledger::put) does one; an error may leave some
    /// of them written.
    async fn put_all(&self, rows: &[LedgerRow], lease: &Lease) -> Result<(), StoreError> {
        for row in rows {
            self.put(row, lease).await?;
        }
        Ok(())
    }

    /// What is to be gone on with: gaps whose next try is at or before `now`, and minutes planned or in
    /// mid load; oldest first, at most `limit`.
    async fn unfinished(&self, now: Timestamp, limit: usize) -> Result<Vec<LedgerRow>, StoreError>;

    /// All gaps, oldest first, at most `limit`.
    async fn gaps(&self, limit: usize) -> Result<Vec<LedgerRow>, StoreError>;

    /// Counts by state.
    async fn totals(&self) -> Result<LedgerTotals, StoreError>;

    /// Forgets minutes before `before` that are loaded or given up, and gives how many. Here for those
    /// whose rows expire by themselves: nothing to do.
    async fn prune(&self, before: Minute) -> Result<u64, StoreError> {
        let _ = before;
        Ok(0)
    }
}

/// What to remember, for a while.
#[async_trait]
pub trait Memory: Send + Sync {
    /// Is it remembered at `now`?
    async fn knows(&self, kind: &str, id: &str, now: Timestamp) -> Result<bool, StoreError>;

    /// Remembers it until `now` + `ttl`. True where it was not remembered before; where it was, false,
    /// and its time stays as it is (so that one conditional write does it).
    async fn remember(
        &self,
        kind: &str,
        id: &str,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Forgets it; no error where it was not remembered.
    async fn forget(&self, kind: &str, id: &str) -> Result<(), StoreError>;

    /// [`remember`](Memory::remember) for several ids of one kind: an answer each, in their order. An
    /// implementation may do it in fewer writes; an error may leave some of them remembered.
    async fn remember_all(
        &self,
        kind: &str,
        ids: &[String],
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<bool>, StoreError> {
        let mut new = Vec::with_capacity(ids.len());
        for id in ids {
            new.push(self.remember(kind, id, ttl, now).await?);
        }
        Ok(new)
    }
}

/// How far a reserved download has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A place in the quota is taken.
    Reserved,
    /// The content is at the dispatcher.
    Stored,
    /// The `sourced` event is at the dispatcher: the place is taken for good.
    Sourced,
    /// The outcome is reported.
    Reported,
}

/// Answer to a request for a place in a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// A place was free and is taken now.
    Granted,
    /// This id has had a place all along.
    Already(Stage),
    /// No place is left.
    Full {
        /// Places taken.
        used: u64,
    },
}

/// Usage of one category on one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuotaUsage {
    /// `<rule file>/<rule>`.
    pub category: String,
    /// Places taken.
    pub used: u64,
}

/// Places in daily quotas: exact under any concurrency, idempotent by id.
#[async_trait]
pub trait Quotas: Send + Sync {
    /// Takes a place for `id` in `category` on the UTC day `day`, where fewer than `limit` are taken: with 0
    /// it only asks.
    async fn reserve(
        &self,
        category: &str,
        day: Date,
        limit: u64,
        id: &str,
    ) -> Result<Reservation, StoreError>;

    /// Notes how far the work of a reservation has come; never goes back to an earlier stage. False
    /// where there is no such reservation.
    async fn set_stage(
        &self,
        category: &str,
        day: Date,
        id: &str,
        stage: Stage,
    ) -> Result<bool, StoreError>;

    /// How many places of a category are taken for good: [`Stage::Sourced`] or later, never given back.
    async fn settled(&self, category: &str, day: Date) -> Result<u64, StoreError>;

    /// Gives a place back. False where there was none, or it is taken for good.
    async fn release(&self, category: &str, day: Date, id: &str) -> Result<bool, StoreError>;

    /// Places taken on a day, by category in order of name.
    async fn usage(&self, day: Date) -> Result<Vec<QuotaUsage>, StoreError>;
}

/// Something kept in [`Bundles`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BundleInfo {
    /// Its key: `/`-separated segments of 1 to 255 bytes, none of which begins with a dot; no control
    /// characters or backslashes; at most 1024 bytes.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was put.
    pub modified: Timestamp,
}

/// How to put an object by an HTTP PUT of one's own.
#[derive(Clone, PartialEq, Eq)]
pub struct Upload {
    /// Where to. It carries the right to put, so it is a secret until it expires.
    pub url: Url,
    /// Headers to send as they are: they are signed.
    pub headers: Vec<(String, String)>,
    /// Until when it may begin.
    pub expires: Timestamp,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// An open bundle. Reading blocks, so do it off the async threads.
pub type BundleReader = Box<dyn std::io::Read + Send>;

/// Objects by key: staged bundles, posted bodies, rejects.
#[async_trait]
pub trait Bundles: Send + Sync {
    /// Moves the finished local file `from` in under `key`, durably. False where the key exists
    /// already (then the old content stays). `from` is gone after either answer.
    async fn put_file(&self, key: &str, from: &Path) -> Result<bool, StoreError>;

    /// Puts small content, durably; replaces what was there.
    async fn put(&self, key: &str, content: &[u8]) -> Result<(), StoreError>;

    /// Opens for reading; `None` where there is no such key.
    async fn open(&self, key: &str) -> Result<Option<BundleReader>, StoreError>;

    /// Reads small content whole; `None` where there is no such key, or what is there cannot be read.
    async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(mut reader) = self.open(key).await? else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || {
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut content).map(|_| content)
        });
        Ok(read.await.ok().and_then(Result::ok))
    }

    /// What is kept under keys that begin with `prefix` (any text, not only whole folders), in order
    /// of key.
    async fn list(&self, prefix: &str) -> Result<Vec<BundleInfo>, StoreError>;

    /// Removes; no error where it is not there.
    async fn remove(&self, key: &str) -> Result<(), StoreError>;

    /// Removes what begins with `prefix` and was put longer ago than `age` before `now`.
    async fn remove_older(
        &self,
        prefix: &str,
        age: SignedDuration,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for object in self.list(prefix).await? {
            if now.duration_since(object.modified) > age {
                self.remove(&object.key).await?;
            }
        }
        Ok(())
    }

    /// A request by which somebody else puts a new object under `key` by themselves, once, until `now` +
    /// `valid`. `None` where objects are kept on this machine: then there is nobody to send it to.
    async fn presign_put(
        &self,
        key: &str,
        valid: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Upload>, StoreError> {
        let _ = (valid, now);
        keys::check_key(key).map(|()| None)
    }

    /// A directory on this machine for files that are to be put. What is left in it by a process that
    /// ended is removed when the next one starts.
    fn scratch(&self) -> &Path;
}

/// All capabilities of one family.
#[derive(Clone)]
pub struct Store {
    /// Positions.
    pub cursors: Arc<dyn Cursors>,
    /// Leases.
    pub leases: Arc<dyn Leases>,
    /// Feed minutes.
    pub ledger: Arc<dyn Ledger>,
    /// What was requested already.
    pub memory: Arc<dyn Memory>,
    /// Daily quotas.
    pub quotas: Arc<dyn Quotas>,
    /// Objects.
    pub bundles: Arc<dyn Bundles>,
    /// Waiting work.
    pub inbox: Arc<dyn inbox::Inbox>,
    /// Requests of VirusTotal.
    pub budget: Arc<dyn budget::Budget>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// Opens the state that the settings describe: on AWS where `STATE_TABLE` and `BUNDLE_BUCKET` are set, else
/// under STATEDIR.
///
/// # Errors
/// As [`local::open`] and [`aws::open`].
pub async fn open(settings: &Settings) -> Result<Store, StoreError> {
    if let Some(places) = &settings.aws {
        return aws::open(settings, places).await;
    }
    let (state_dir, peers) = (settings.state_dir.clone(), settings.peers.clone());
    let opened = tokio::task::spawn_blocking(move || local::open_with(&state_dir, &peers)).await;
    opened.unwrap_or_else(|error| {
        Err(StoreError::Unavailable { action: "opening it".into(), source: error.into() })
    })
}

/// Opens the state for reading. Makes and changes nothing if the state is under STATEDIR. `None` if nothing was kept
/// there yet.
///
/// # Errors
/// As [`local::look`] and [`aws::open`].
pub async fn look(settings: &Settings) -> Result<Option<Store>, StoreError> {
    if let Some(places) = &settings.aws {
        return aws::open(settings, places).await.map(Some);
    }
    local::look(&settings.state_dir)
}
