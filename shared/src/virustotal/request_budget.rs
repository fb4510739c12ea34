//! Decides when VirusTotal may be asked: by the request budget, and by pauses after it reports that a quota is used up.

use jiff::{SignedDuration, Timestamp};

use super::VirusTotalError;
use crate::{
    errors::chain,
    http_client::MAX_RETRY_AFTER,
    store::{
        BUDGET, Store, StoreError,
        budget::{Permit, Window},
    },
};

/// Kind under which [`crate::store::Memory`] remembers that requests to VirusTotal are paused.
const PAUSED: &str = "pause";
/// Kind of the requests to the file feed, which do not count against the request budget.
pub const FEED: &str = "virustotal feed";
/// Time after which a caller checks again whether the pause is over.
const POLL_INTERVAL: SignedDuration = SignedDuration::from_secs(5);
/// Length of the pause if VirusTotal reports that a quota is used up but does not say for how long.
const QUOTA_WAIT: SignedDuration = SignedDuration::from_secs(60);
/// Longest pause, even if VirusTotal asks for a longer one, because a quota may be raised meanwhile and a clock may be
/// wrong.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(1);

/// Asks for permission to send one request to VirusTotal now. Returns `None` if it is granted, else how long to wait
/// before asking again.
///
/// # Errors
/// [`StoreError`] if the state cannot be read or written.
pub async fn acquire(
    store: &Store,
    windows: &[Window],
    now: Timestamp,
) -> Result<Option<SignedDuration>, StoreError> {
    if is_paused(store, now).await? {
        return Ok(Some(POLL_INTERVAL));
    }
    Ok(match store.budget.ask(BUDGET, windows, now).await? {
        Permit::Granted => None,
        Permit::Wait(wait) => Some(wait),
    })
}

/// Returns whether requests to VirusTotal's API are paused.
///
/// # Errors
/// [`StoreError`] if the state cannot be read.
pub async fn is_paused(store: &Store, now: Timestamp) -> Result<bool, StoreError> {
    is_kind_paused(store, BUDGET, now).await
}

/// Returns whether requests of a kind, [`BUDGET`] or [`FEED`], are paused.
///
/// # Errors
/// [`StoreError`] if the state cannot be read.
pub async fn is_kind_paused(store: &Store, kind: &str, now: Timestamp) -> Result<bool, StoreError> {
    store.memory.knows(PAUSED, kind, now).await
}

/// Returns whether a run has to end because an answer asks for a longer wait than the run may hold its leases. If so,
/// all processes pause requests of that kind for [`MAX_RETRY_AFTER`].
///
/// # Errors
/// [`StoreError`] if the pause cannot be written.
pub async fn pause_if_wait_is_long(
    store: &Store,
    kind: &str,
    error: &VirusTotalError,
    now: Timestamp,
) -> Result<bool, StoreError> {
    if error.retry_after().is_none_or(|asked| asked <= MAX_RETRY_AFTER) {
        return Ok(false);
    }
    let wait_s = MAX_RETRY_AFTER.as_secs();
    tracing::warn!(error = chain(error), wait_s, "the run ends: VirusTotal asks for a long wait");
    let wait = SignedDuration::try_from(MAX_RETRY_AFTER).unwrap_or(QUOTA_WAIT);
    store.memory.remember(PAUSED, kind, wait, now).await?;
    Ok(true)
}

/// If an error says that a quota is used up, pauses the requests of all processes and returns the length of the pause.
/// A 429 of another host does not count, because it concerns only the link to it.
///
/// # Errors
/// [`StoreError`] if the pause cannot be written.
pub async fn note_rate_limited(
    store: &Store,
    error: &VirusTotalError,
    now: Timestamp,
) -> Result<Option<SignedDuration>, StoreError> {
    if !error.answer().is_some_and(|answer| answer.status == Some(429) && answer.is_own) {
        return Ok(None);
    }
    let asked = error.retry_after().and_then(|wait| SignedDuration::try_from(wait).ok());
    let wait = asked.unwrap_or(QUOTA_WAIT).min(LONGEST_PAUSE);
    tracing::warn!(error = chain(error), wait_s = wait.as_secs(), "quota used up");
    // Other processes learn of the pause without a request.
    store.memory.remember(PAUSED, BUDGET, wait, now).await?;
    Ok(Some(wait))
}
