//! The persistent state, as small traits. Each trait has two implementations: [`local`] (SQLite and a directory under
//! STATEDIR) and [`aws`] (`DynamoDB` and S3). [`open`] chooses by the settings.
//!
//! The traits need no more than a conditional write on one row, so that a key-value table can implement them as well as
//! SQLite. One suite of tests (`tests/it/store_suite.rs`) runs on every implementation.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp, civil::Date};
use serde::{Deserialize, Serialize};
use url::Url;

use base::minute::Minute;
use net::{
    http_client::{HttpOptions, HttpSetupError},
    peers::Peers,
};

/// Name of the requests to VirusTotal's API in [`budget::Budget`] and in the pauses.
pub const BUDGET: &str = "virustotal";

#[cfg(feature = "aws")]
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

pub use claim::{Claim, set_owner};
pub use net::clock::{Clock, SystemClock};

/// Error of the state.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state could not be read or written. The same call may succeed later.
    #[error("state: {action} failed")]
    Unavailable {
        /// The action that was attempted, for example `reading the cursor load`.
        action: String,
        /// Reason of the failure.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// AWS refuses the call, so an operator must act.
    #[error("state: {action} was refused; {advice}")]
    Refused {
        /// The action that was attempted.
        action: String,
        /// Advice for the operator.
        advice: String,
        /// The error that AWS returned.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A configured proxy or certificate authority cannot be used.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// The stored data is not valid, so an operator must act.
    #[error("state: {what} is damaged: {reason}")]
    Damaged {
        /// The row or object that is damaged.
        what: String,
        /// Description of the damage.
        reason: String,
    },
    /// Another owner has taken over the lease that the write was made under, so the work must stop.
    #[error("the lease `{name}` was lost to another owner")]
    LeaseLost {
        /// Name of the lease.
        name: String,
    },
    /// The key or name is not valid, so no call with it can succeed.
    #[error("`{name}` cannot name anything in the state: {reason}")]
    BadName {
        /// The key or name, shortened if it is very long.
        name: String,
        /// Rule that the key or name breaks.
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
        /// Reason of the failure.
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
    /// Returns whether the same call may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Positions in streams whose parts are processed in order.
#[async_trait]
pub trait Cursors: Send + Sync {
    /// Returns the time, in seconds since 1970, up to which everything is done. `None` before the first run.
    async fn read(&self, name: &str) -> Result<Option<i64>, StoreError>;

    /// Moves the cursor from `expected` to `to`. Returns false and changes nothing if the cursor is not at `expected`,
    /// or if `to` is not ahead of it.
    async fn advance(&self, name: &str, expected: Option<i64>, to: i64)
    -> Result<bool, StoreError>;
}

/// The exclusive right to work on something.
pub struct Lease {
    /// Name of the work that the lease is for.
    pub name: String,
    /// Name of the owner, in words that an operator understands.
    pub owner: String,
    /// Fencing number, which grows with each new owner. Each write under the lease carries it.
    pub fence: u64,
    /// Resource that the implementation holds for the lease (locally an open lock file). Dropping it frees the lease.
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
    /// The caller has the lease.
    Acquired(Lease),
    /// Another owner has the lease.
    Held {
        /// Name of that owner.
        owner: String,
        /// Time at which that owner took it.
        since: Timestamp,
    },
}

/// Leases with an owner, an expiry and a fencing number.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes the lease if it is free or its owner is dead.
    async fn acquire(&self, name: &str, owner: &str, now: Timestamp) -> Result<Grant, StoreError>;

    /// Renews the lease. [`StoreError::LeaseLost`] if another owner took it over.
    async fn renew(&self, lease: &Lease, now: Timestamp) -> Result<(), StoreError>;

    /// Gives the lease back.
    async fn release(&self, lease: Lease) -> Result<(), StoreError>;

    /// Removes leases that nobody took or renewed since `before`, and returns how many. `before` must be so long ago
    /// that no owner is alive whose fencing number could be given again. Does nothing if leases expire by themselves,
    /// as in this default.
    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let _ = before;
        Ok(0)
    }

    /// Returns the owner of the lease at `now`, and the time since when it has it; for display only.
    async fn holder(
        &self,
        name: &str,
        now: Timestamp,
    ) -> Result<Option<(String, Timestamp)>, StoreError>;
}

/// State of a feed minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MinuteState {
    /// The minute is to be loaded.
    Planned,
    /// The bundle of the minute is staged and verified, and is being delivered.
    Loading {
        /// Key of the staged bundle in [`Bundles`].
        bundle: String,
        /// Number of lines that are delivered, rejected or filtered. The next run continues behind them.
        lines_done: u64,
    },
    /// Everything in the minute is accounted for.
    Loaded,
    /// The minute could not be loaded yet.
    Gap {
        /// Kind of the failure.
        kind: GapKind,
        /// Message of VirusTotal or of the decoder.
        reason: String,
        /// Number of attempts so far.
        attempts: u32,
        /// Time of the next attempt.
        next_try: Timestamp,
    },
    /// The minute was given up, because it left VirusTotal's seven days before it could be loaded, or failed again and
    /// again.
    Buried {
        /// Reason why it was given up.
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

/// Counts of a minute while it is loaded.
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

    /// Returns the difference to `earlier`, an earlier value of the same counts.
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
    /// State of the minute.
    pub state: MinuteState,
    /// Counts of the minute so far.
    pub counts: Counts,
    /// Time of the last write of the row.
    pub updated: Timestamp,
}

/// Number of minutes in each state.
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
    /// Returns the row of a minute.
    async fn get(&self, minute: Minute) -> Result<Option<LedgerRow>, StoreError>;

    /// Writes a row under a lease. [`StoreError::LeaseLost`], and nothing is written, if the lease's fencing number is
    /// not the newest.
    async fn put(&self, row: &LedgerRow, lease: &Lease) -> Result<(), StoreError>;

    /// Returns the rows from `from` to before `to`, oldest first.
    async fn range(&self, from: Minute, to: Minute) -> Result<Vec<LedgerRow>, StoreError>;

    /// Writes several rows under a lease, as [`put`](Ledger::put) does one; an error may leave some
    /// of them written.
    async fn put_all(&self, rows: &[LedgerRow], lease: &Lease) -> Result<(), StoreError> {
        for row in rows {
            self.put(row, lease).await?;
        }
        Ok(())
    }

    /// Returns the minutes that are to be worked on, oldest first and at most `limit`: gaps whose next try is at or
    /// before `now`, and minutes that are planned or half loaded.
    async fn unfinished(&self, now: Timestamp, limit: usize) -> Result<Vec<LedgerRow>, StoreError>;

    /// Returns all gaps, oldest first, at most `limit`.
    async fn gaps(&self, limit: usize) -> Result<Vec<LedgerRow>, StoreError>;

    /// Returns the number of minutes in each state, and the sums of their counts.
    async fn totals(&self) -> Result<LedgerTotals, StoreError>;

    /// Removes rows of minutes before `before` that are loaded or given up, and returns how many. Does nothing if rows
    /// expire by themselves, as in this default.
    async fn prune(&self, before: Minute) -> Result<u64, StoreError> {
        let _ = before;
        Ok(0)
    }
}

/// Remembers ids of several kinds, each until it expires.
#[async_trait]
pub trait Memory: Send + Sync {
    /// Returns whether the id is remembered at `now`.
    async fn knows(&self, kind: &str, id: &str, now: Timestamp) -> Result<bool, StoreError>;

    /// Remembers an id until `now` + `ttl`, and returns true. If the id is remembered already, returns false and leaves
    /// its expiry unchanged, so that one conditional write is enough.
    async fn remember(
        &self,
        kind: &str,
        id: &str,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Forgets an id. It is no error if the id was not remembered.
    async fn forget(&self, kind: &str, id: &str) -> Result<(), StoreError>;

    /// Does [`remember`](Memory::remember) for several ids of one kind, and returns an answer for each, in their order.
    /// An implementation may use fewer writes. After an error some of the ids may be remembered.
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

/// The stage that a reserved download has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReservationStage {
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
    /// The id already had a place, whose work has reached this stage.
    Already(ReservationStage),
    /// No place is left.
    Full {
        /// Number of places taken.
        used: u64,
    },
}

/// Usage of one category on one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuotaUsage {
    /// `<rule file>/<rule>`.
    pub category: String,
    /// Number of places taken.
    pub used: u64,
}

/// Places in daily quotas: exact under any concurrency, idempotent by id.
#[async_trait]
pub trait Quotas: Send + Sync {
    /// Takes a place for `id` in `category` on the UTC day `day` if fewer than `limit` are taken. With a limit of 0 no
    /// place is taken, and the answer only says whether `id` has one.
    async fn reserve(
        &self,
        category: &str,
        day: Date,
        limit: u64,
        id: &str,
    ) -> Result<Reservation, StoreError>;

    /// Notes the stage that the work of a reservation has reached. A stage never goes back to an earlier one. Returns
    /// false if there is no such reservation.
    async fn set_stage(
        &self,
        category: &str,
        day: Date,
        id: &str,
        stage: ReservationStage,
    ) -> Result<bool, StoreError>;

    /// Returns how many places of a category are taken for good: those at [`ReservationStage::Sourced`] or later, which are never
    /// given back.
    async fn settled(&self, category: &str, day: Date) -> Result<u64, StoreError>;

    /// Gives a place back. Returns false if there was none, or if it is taken for good.
    async fn release(&self, category: &str, day: Date, id: &str) -> Result<bool, StoreError>;

    /// Returns the number of places taken on a day for each category, in order of name.
    async fn usage(&self, day: Date) -> Result<Vec<QuotaUsage>, StoreError>;
}

/// Metadata of an object in [`Bundles`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BundleInfo {
    /// Key of the object: `/`-separated segments of 1 to 255 bytes, none of which begins with a dot; no control
    /// characters or backslashes; at most 1024 bytes.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// Time at which the object was put.
    pub modified: Timestamp,
}

/// A presigned HTTP PUT by which another program uploads an object.
#[derive(Clone, PartialEq, Eq)]
pub struct Upload {
    /// URL of the upload. It carries the right to put, so it is a secret until it expires.
    pub url: Url,
    /// Headers to send unchanged, because they are signed.
    pub headers: Vec<(String, String)>,
    /// Time until which the upload may begin.
    pub expires: Timestamp,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Reader of an open bundle. Reading blocks, so it must be done off the async threads.
pub type BundleReader = Box<dyn std::io::Read + Send>;

/// Objects by key: staged bundles, posted bodies, rejects.
#[async_trait]
pub trait Bundles: Send + Sync {
    /// Moves the finished local file `from` under `key`, durably. Returns false if the key exists already, whose
    /// content then stays. `from` is gone after either answer.
    async fn put_file(&self, key: &str, from: &Path) -> Result<bool, StoreError>;

    /// Puts small content durably, and replaces an existing object.
    async fn put(&self, key: &str, content: &[u8]) -> Result<(), StoreError>;

    /// Opens an object for reading; `None` if there is no such key.
    async fn open(&self, key: &str) -> Result<Option<BundleReader>, StoreError>;

    /// Reads small content as a whole; `None` if there is no such key, or if its content cannot be read.
    async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(mut reader) = self.open(key).await? else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || {
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut content).map(|_| content)
        });
        Ok(read.await.ok().and_then(Result::ok))
    }

    /// Returns the objects whose keys begin with `prefix` (any text, not only whole folders), in order of key.
    async fn list(&self, prefix: &str) -> Result<Vec<BundleInfo>, StoreError>;

    /// Removes an object. It is no error if there is none.
    async fn remove(&self, key: &str) -> Result<(), StoreError>;

    /// Removes the objects whose keys begin with `prefix` and that were put longer ago than `age` before `now`.
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

    /// Returns a presigned request by which another program can put a new object under `key` once, until `now` +
    /// `valid`. `None` if objects are kept on this machine, because no server could take the request.
    async fn presign_put(
        &self,
        key: &str,
        valid: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Upload>, StoreError> {
        let _ = (valid, now);
        keys::check_key(key).map(|()| None)
    }

    /// Returns a directory on this machine for files that are to be put. Files that a dead process left in it are
    /// removed when the next process starts.
    fn scratch(&self) -> &Path;
}

/// All traits of the state, in one implementation.
#[derive(Clone)]
pub struct Store {
    /// Positions in streams.
    pub cursors: Arc<dyn Cursors>,
    /// Leases.
    pub leases: Arc<dyn Leases>,
    /// Feed minutes.
    pub ledger: Arc<dyn Ledger>,
    /// Ids that are remembered for a while, such as those of download requests.
    pub memory: Arc<dyn Memory>,
    /// Daily quotas.
    pub quotas: Arc<dyn Quotas>,
    /// Objects.
    pub bundles: Arc<dyn Bundles>,
    /// Waiting work.
    pub inbox: Arc<dyn inbox::Inbox>,
    /// Rate limit of requests to VirusTotal.
    pub budget: Arc<dyn budget::Budget>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// The place of the state on AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsState {
    /// `STATE_TABLE`: a `DynamoDB` table.
    pub table: String,
    /// `BUNDLE_BUCKET`: an S3 bucket.
    pub bucket: String,
}

/// The queues in which work waits where the state is on AWS.
#[derive(Clone, Debug, Default)]
pub struct Queues {
    /// `INBOX_QUEUE_URL`: queue of the items of the inbox.
    pub inbox: Option<Url>,
    /// `DOWNLOAD_QUEUE_URL`: queue of the items of `download`; `None`: they wait in that of the inbox.
    pub downloads: Option<Url>,
    /// `MINUTES_QUEUE_URL`: queue of the feed minutes that wait for workers.
    pub minutes: Option<Url>,
}

/// The place of the state, and how AWS is reached.
#[derive(Clone, Debug, Default)]
pub struct StateOptions {
    /// STATEDIR: the directory of the state, or of unfinished files where the state is on AWS.
    pub dir: PathBuf,
    /// The place on AWS; `None`: the state is in `dir`.
    pub aws: Option<AwsState>,
    /// The queues on AWS.
    pub queues: Queues,
    /// Proxies and certificate authorities of AWS's clients. A proxy for plain http is not used.
    pub http: HttpOptions,
    /// The peers that confirm the local clock. Clients of AWS report to them.
    pub peers: Peers,
}

/// Opens the state: on AWS if the options name a place there, else in their directory.
///
/// # Errors
/// As [`local::open`] and `aws::open`. A program without the feature `aws` refuses a place on AWS.
pub async fn open(options: &StateOptions) -> Result<Store, StoreError> {
    if let Some(places) = &options.aws {
        return open_aws(options, places).await;
    }
    let (dir, peers) = (options.dir.clone(), options.peers.clone());
    let opened = tokio::task::spawn_blocking(move || local::open_with(&dir, &peers)).await;
    opened.unwrap_or_else(|error| {
        Err(StoreError::Unavailable { action: "opening it".into(), source: error.into() })
    })
}

#[cfg(feature = "aws")]
async fn open_aws(options: &StateOptions, places: &AwsState) -> Result<Store, StoreError> {
    aws::open(options, places).await
}

#[cfg(not(feature = "aws"))]
#[expect(clippy::unused_async, reason = "it stands for a function that waits")]
async fn open_aws(_: &StateOptions, _: &AwsState) -> Result<Store, StoreError> {
    Err(without_aws("opening it"))
}

/// Returns the error for an `action` on AWS in a program that was built without the feature `aws`.
#[cfg(not(feature = "aws"))]
pub fn without_aws(action: &str) -> StoreError {
    StoreError::Refused {
        action: action.to_owned(),
        advice:
            "use a program that is built with the feature `aws`, or keep the state under STATEDIR"
                .into(),
        source: "this program is built without AWS".into(),
    }
}

/// Opens the state for reading; `None` if nothing was kept there yet. If the state is in a directory, nothing is created
/// or changed.
///
/// # Errors
/// As [`local::open_read_only`] and [`open`].
pub async fn open_read_only(options: &StateOptions) -> Result<Option<Store>, StoreError> {
    match &options.aws {
        Some(places) => open_aws(options, places).await.map(Some),
        None => local::open_read_only(&options.dir),
    }
}
