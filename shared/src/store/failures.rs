//! The last failures of each function's work, for people. An object holds a failure, and there are `SLOTS` of them a
//! function, so that little is kept however much fails.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Store, StoreError,
    inbox::{Item, Queue},
};
use crate::errors::chain;

const FOLDER: &str = "failures/";
/// Failures that are kept of a function. The item says which of them it replaces, so that one that fails again is
/// there once.
const SLOTS: u8 = 64;
/// Objects that are read at once.
const AT_ONCE: usize = 8;
/// Characters of a reason that are kept.
const LONGEST_REASON: usize = 1000;

/// What an item was about, as far as it is known.
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

/// Work that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The function's queue.
    pub queue: String,
    /// The item.
    pub id: String,
    /// What it was about.
    #[serde(flatten)]
    pub subject: Subject,
    /// Why it failed.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// Keeps that an item failed, for [`last`]. Where it cannot be kept that is logged, and is all.
pub async fn note(
    store: &Store,
    queue: Queue,
    item: &Item,
    subject: Subject,
    reason: &str,
    now: Timestamp,
) {
    let slot = Sha256::digest(&item.id).first().map_or(0, |byte| byte % SLOTS);
    let failure = Failure {
        queue: queue.name().to_owned(),
        id: item.id.chars().take(LONGEST_REASON).collect(),
        subject,
        reason: reason.chars().take(LONGEST_REASON).collect(),
        at: now,
    };
    let Ok(text) = serde_json::to_vec(&failure) else { return };
    let key = format!("{FOLDER}{}/{slot:02}.json", queue.name());
    if let Err(error) = store.bundles.put(&key, &text).await {
        tracing::warn!(
            queue = queue.name(),
            error = chain(&error),
            "a failure is in the log alone"
        );
    }
}

/// At most `most` of the last failures, the newest first.
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
