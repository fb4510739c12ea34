//! Outages of VirusTotal: where one request after the other has no answer or a server's error, all processes leave
//! it alone but for one request a minute, which finds out whether it is back.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use jiff::{SignedDuration, Timestamp};

use crate::store::{BUDGET, Store, StoreError};

/// What [`crate::store::Memory`] calls that VirusTotal is out, …
const OUTAGE: &str = "outage";
/// … and that somebody finds out whether it still is.
const PROBE: &str = "outage probe";
/// Failures in a row, of one process, that are an outage: one file's report alone may fail for good.
const FAILURES: u32 = 3;
/// For how long an outage is known that nobody finds the end of; then it is found anew.
const KNOWN_FOR: SignedDuration = SignedDuration::from_hours(24);
/// Between two requests that find out whether it is over.
const PROBE_INTERVAL: SignedDuration = SignedDuration::from_mins(1);

/// Outages as one process sees them; the state tells the others.
#[derive(Debug, Default)]
pub struct Outages {
    /// Failures since the last answer.
    failures: AtomicU32,
    /// An outage was seen that may still be noted.
    is_noted: AtomicBool,
}

impl Outages {
    /// Whether VirusTotal may be asked: it is not out, or the caller is the one to find that out.
    ///
    /// # Errors
    /// What the state gives.
    pub async fn may_ask(&self, store: &Store, now: Timestamp) -> Result<bool, StoreError> {
        if !store.memory.knows(OUTAGE, BUDGET, now).await? {
            return Ok(true);
        }
        self.is_noted.store(true, Ordering::Relaxed);
        store.memory.remember(PROBE, BUDGET, PROBE_INTERVAL, now).await
    }

    /// Notes a request without a usable answer, and `why`.
    ///
    /// # Errors
    /// What the state gives.
    pub async fn failed(&self, store: &Store, why: &str, now: Timestamp) -> Result<(), StoreError> {
        if self.failures.fetch_add(1, Ordering::Relaxed) < FAILURES - 1 {
            return Ok(());
        }
        self.is_noted.store(true, Ordering::Relaxed);
        if store.memory.remember(OUTAGE, BUDGET, KNOWN_FOR, now).await? {
            tracing::warn!(
                peer = "VirusTotal",
                error = why,
                "VirusTotal is out: what needs it waits until it answers again"
            );
        }
        Ok(())
    }

    /// Notes an answer of VirusTotal, whatever it said.
    ///
    /// # Errors
    /// What the state gives.
    pub async fn answered(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        self.failures.store(0, Ordering::Relaxed);
        if self.is_noted.swap(false, Ordering::Relaxed)
            && store.memory.knows(OUTAGE, BUDGET, now).await?
        {
            store.memory.forget(OUTAGE, BUDGET).await?;
            store.memory.forget(PROBE, BUDGET).await?;
            tracing::warn!(peer = "VirusTotal", "VirusTotal answers again");
        }
        Ok(())
    }
}
