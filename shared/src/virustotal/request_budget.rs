//! When VirusTotal may be asked: the request budget, and quotas that it says are used up.

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

/// What [`crate::store::Memory`] calls that VirusTotal wants to be left alone.
const PAUSED: &str = "pause";
/// Kind of the requests to the file feed, which do not count against the request budget.
pub const FEED: &str = "virustotal feed";
/// When it is looked again whether it still does.
const POLL_INTERVAL: SignedDuration = SignedDuration::from_secs(5);
/// How long VirusTotal is left alone where it says that a quota is used up and not for how long.
const QUOTA_WAIT: SignedDuration = SignedDuration::from_secs(60);
/// However long it asks for: a quota may be raised meanwhile, and a clock may be wrong.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(1);

/// Takes a grant to ask VirusTotal once, now; `Some`: there is none for so long.
///
/// # Errors
/// What the state gives.
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

/// Whether VirusTotal wants to be left alone.
///
/// # Errors
/// What the state gives.
pub async fn is_paused(store: &Store, now: Timestamp) -> Result<bool, StoreError> {
    is_left_alone(store, BUDGET, now).await
}

/// Whether VirusTotal asked for a pause of the requests of a kind: [`BUDGET`] or [`FEED`].
///
/// # Errors
/// [`StoreError`] if the state cannot be read.
pub async fn is_left_alone(store: &Store, kind: &str, now: Timestamp) -> Result<bool, StoreError> {
    store.memory.knows(PAUSED, kind, now).await
}

/// Whether a run has to end, because an answer asks for a longer wait than the run may hold its leases. In this case
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

/// Where an error says that a quota is used up: notes that VirusTotal is to be left alone, by all, and gives
/// for how long. Another host's 429 is about the link to it.
///
/// # Errors
/// What the state gives.
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
    // Whoever comes next need not ask to find out.
    store.memory.remember(PAUSED, BUDGET, wait, now).await?;
    Ok(Some(wait))
}
