//! Keeps the last failures of each function for `vt status`. Each failure is an object, and a function has at most
//! `MOST` of them, so the space is bounded however much fails.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Store, StoreError,
    inbox::{Item, Queue},
};
use base::errors::chain;

const FOLDER: &str = "failures/";
/// Most failures that are kept of each function. The oldest ones are removed.
const MOST: usize = 64;
/// Characters of the digest of an item's id that are part of its key.
const DIGEST_CHARS: usize = 16;
/// Number of objects that are read at once.
const AT_ONCE: usize = 8;
/// Most characters of a reason or an id that are kept.
const LONGEST_REASON: usize = 1000;

/// The file, source and category of an item, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subject {
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// The source in Azul.
    pub source: String,
    /// The category of a download.
    pub category: String,
}

/// An item that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Name of the function's queue.
    pub queue: String,
    /// Id of the item.
    pub id: String,
    /// The file, source and category of the item.
    #[serde(flatten)]
    pub subject: Subject,
    /// Reason of the failure.
    pub reason: String,
    /// Time of the failure.
    pub at: Timestamp,
}

/// Keeps the failure of an item, for [`last`]. If it cannot be kept, that is only logged.
pub async fn note(
    store: &Store,
    queue: Queue,
    item: &Item,
    subject: Subject,
    reason: &str,
    now: Timestamp,
) {
    let failure = Failure {
        queue: queue.name().to_owned(),
        id: item.id.chars().take(LONGEST_REASON).collect(),
        subject,
        reason: reason.chars().take(LONGEST_REASON).collect(),
        at: now,
    };
    let Ok(text) = serde_json::to_vec(&failure) else { return };
    if let Err(error) = keep(store, queue, &item.id, &text, now).await {
        tracing::warn!(
            queue = queue.name(),
            error = chain(&error),
            "a failure is in the log alone"
        );
    }
}

/// Writes a failure, and removes the earlier one of the same item, and the oldest ones where there are too many.
async fn keep(
    store: &Store,
    queue: Queue,
    id: &str,
    text: &[u8],
    now: Timestamp,
) -> Result<(), StoreError> {
    let folder = format!("{FOLDER}{}/", queue.name());
    let digest: String = hex::encode(Sha256::digest(id)).chars().take(DIGEST_CHARS).collect();
    // The time comes first, so that the keys are in the order of the failures.
    let key = format!("{folder}{:020}-{digest}.json", now.as_nanosecond().max(0));
    store.bundles.put(&key, text).await?;
    let mut keys: Vec<String> =
        store.bundles.list(&folder).await?.into_iter().map(|object| object.key).collect();
    // Keys of earlier versions have no time: they are the oldest.
    keys.sort_by_cached_key(|key| (key.contains('-'), key.clone()));
    let (excess, of_item) = (keys.len().saturating_sub(MOST), format!("-{digest}.json"));
    for (n, other) in keys.iter().enumerate() {
        if n < excess || (*other != key && other.ends_with(&of_item)) {
            store.bundles.remove(other).await?;
        }
    }
    Ok(())
}

/// Returns at most `most` of the last failures, the newest first.
///
/// # Errors
/// The state cannot be read.
pub async fn last(store: &Store, most: usize) -> Result<Vec<Failure>, StoreError> {
    let objects = store.bundles.list(FOLDER).await?;
    let read = stream::iter(objects).map(async |object| store.bundles.read(&object.key).await);
    let texts: Vec<Option<Vec<u8>>> = read.buffer_unordered(AT_ONCE).try_collect().await?;
    let failures = texts.iter().flatten().filter_map(|text| serde_json::from_slice(text).ok());
    let mut failures: Vec<Failure> = failures.collect();
    failures.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.id.cmp(&b.id)));
    failures.truncate(most);
    Ok(failures)
}
