//! Logs that items wait: at most one line a minute for each reason, however many items wait.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::SignedDuration;
use tokio::time::Instant;

/// Shortest time between two lines of one reason.
const INTERVAL: Duration = Duration::from_mins(1);

/// For each reason, the time of its last line and the number of items that were put back since.
#[derive(Default)]
pub(super) struct WaitLog(Mutex<BTreeMap<&'static str, (Option<Instant>, u64)>>);

impl WaitLog {
    /// Notes that an item of `queue` was put back for `wait` because of `reason`.
    pub(super) fn note(&self, queue: &'static str, reason: &'static str, wait: SignedDuration) {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, times) = reasons.entry(reason).or_default();
        *times = times.saturating_add(1);
        if told.is_none_or(|at| at.elapsed() >= INTERVAL) {
            *told = Some(Instant::now());
            let times = std::mem::take(times);
            tracing::info!(queue, reason, times, wait_s = wait.as_secs(), "items wait");
        }
    }
}
