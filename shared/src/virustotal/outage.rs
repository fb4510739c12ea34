//! Tracks outages of VirusTotal. After several requests in a row without an answer, with a server error, or with an
//! answer of something else than VirusTotal, all processes stop asking, except for one request a minute that finds out
//! whether VirusTotal is back.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};

use crate::store::{BUDGET, Store, StoreError};

/// Kind under which [`crate::store::Memory`] remembers that VirusTotal is out.
const OUTAGE: &str = "outage";
/// Kind under which [`crate::store::Memory`] remembers that a process is finding out whether VirusTotal is back.
const PROBE: &str = "outage probe";
/// Failures in a row, in one process, that count as an outage. One alone does not, because a single file's report may
/// always fail.
const FAILURES: u32 = 3;
/// Time after which an outage is forgotten if no process notices its end. If it still lasts, it is noted anew.
const KNOWN_FOR: SignedDuration = SignedDuration::from_hours(24);
/// Shortest time between two requests that find out whether VirusTotal is back.
const PROBE_INTERVAL: SignedDuration = SignedDuration::from_mins(1);

/// Outages as one process sees them. The state shares them with the other processes.
#[derive(Debug, Default)]
pub struct Outages {
    /// Number of failures since the last answer.
    failures: AtomicU32,
    /// Items for which something else than VirusTotal answered since its last answer, at most [`FAILURES`].
    by_another: Mutex<BTreeSet<String>>,
    /// Whether the state may still have an outage that this process saw.
    is_noted: AtomicBool,
}

impl Outages {
    /// Whether the caller may ask VirusTotal: there is no outage, or the caller is the one that finds out whether it is
    /// over.
    ///
    /// # Errors
    /// [`StoreError`] if the state cannot be read or written.
    pub async fn may_ask(&self, store: &Store, now: Timestamp) -> Result<bool, StoreError> {
        if !store.memory.knows(OUTAGE, BUDGET, now).await? {
            return Ok(true);
        }
        self.is_noted.store(true, Ordering::Relaxed);
        store.memory.remember(PROBE, BUDGET, PROBE_INTERVAL, now).await
    }

    /// Notes a request without an answer, or with a server error, and `why`.
    ///
    /// # Errors
    /// [`StoreError`] if the outage cannot be written.
    pub async fn failed(&self, store: &Store, why: &str, now: Timestamp) -> Result<(), StoreError> {
        if self.failures.fetch_add(1, Ordering::Relaxed) < FAILURES - 1 {
            return Ok(());
        }
        self.note(store, why, now).await
    }

    /// Tells all processes of an outage.
    async fn note(&self, store: &Store, why: &str, now: Timestamp) -> Result<(), StoreError> {
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

    /// Notes that something else than VirusTotal answered the request for the item `id`, such as a proxy, and `why`.
    /// Returns whether that is an outage: several items in a row met it, or an outage is known already. One item alone
    /// is none, however often it is tried, because a single file's report may always be odd.
    ///
    /// # Errors
    /// [`StoreError`] if the outage cannot be read or written.
    pub async fn note_foreign_answer(
        &self,
        store: &Store,
        id: &str,
        why: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let items = {
            let mut items = self.by_another();
            if items.len() < FAILURES as usize {
                items.insert(id.to_owned());
            }
            items.len()
        };
        if items < FAILURES as usize {
            let is_noted = self.is_noted.load(Ordering::Relaxed);
            return Ok(is_noted && store.memory.knows(OUTAGE, BUDGET, now).await?);
        }
        self.note(store, why, now).await.map(|()| true)
    }

    fn by_another(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.by_another.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an answer of VirusTotal, whatever it said.
    ///
    /// # Errors
    /// [`StoreError`] if the end of the outage cannot be written.
    pub async fn answered(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        self.failures.store(0, Ordering::Relaxed);
        self.by_another().clear();
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
