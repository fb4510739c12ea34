//! When a run stops, and how much it has loaded.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::store::BundleReader;

/// How long what is in flight may still take once the process is asked to end.
const GRACE: Duration = Duration::from_secs(1);

/// Stands for a wait that the system's clock cannot tell; it is far longer than any real wait.
const YEAR: Duration = Duration::from_hours(365 * 24);

/// When to stop. One of them holds for a process or an invocation; clones share its token and its count.
#[derive(Clone, Debug, Default)]
pub struct RunLimits {
    /// No new batch is begun, and no post retried, after this.
    pub deadline: Option<Instant>,
    /// Cancelled when the process is asked to end.
    pub stop: CancellationToken,
    bundles: Arc<Bundles>,
}

#[derive(Debug, Default)]
struct Bundles {
    loaded: AtomicU64,
    /// Those, and those that are being loaded.
    begun: AtomicU64,
}

/// A bundle that is being loaded.
#[derive(Debug)]
pub struct Begun {
    bundles: Arc<Bundles>,
    is_loaded: bool,
}

impl Begun {
    /// It was loaded to its end.
    pub fn loaded(mut self) {
        self.is_loaded = true;
        self.bundles.loaded.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.is_loaded {
            self.bundles.begun.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A reader that fails once its limits are reached.
struct LimitedReader {
    reader: BundleReader,
    limits: RunLimits,
}

impl io::Read for LimitedReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.limits.reached() {
            return Err(io::Error::other("it is time to stop"));
        }
        self.reader.read(out)
    }
}

impl RunLimits {
    /// Until `deadline`.
    pub fn until(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::default() }
    }

    /// The same, with a token of its own that is cancelled with this one's, or alone.
    pub fn child(&self) -> Self {
        Self { stop: self.stop.child_token(), ..self.clone() }
    }

    /// As [`RunLimits::child`], but reached after `time` at the latest.
    pub fn within(&self, time: Duration) -> Self {
        let until = Instant::now() + time;
        Self { deadline: Some(self.deadline.map_or(until, |d| d.min(until))), ..self.child() }
    }

    /// As [`RunLimits::child`], with a count of its own.
    pub fn with_own_count(&self) -> Self {
        Self { bundles: Arc::default(), ..self.child() }
    }

    /// Whether it is time to stop.
    pub fn reached(&self) -> bool {
        self.stop.is_cancelled() || self.deadline.is_some_and(|d| Instant::now() >= d)
    }

    /// Waits, at most until it is time to stop. True where it is.
    pub async fn sleep(&self, wait: Duration) -> bool {
        let now = Instant::now();
        // A wait that the system's clock cannot tell is replaced by one of a year.
        let until = now.checked_add(wait).or_else(|| now.checked_add(YEAR)).unwrap_or(now);
        let until = self.deadline.map_or(until, |d| d.min(until));
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep_until(until) => {}
        }
        self.reached()
    }

    /// What `work` comes to; `None` where it is not done at the deadline, or a second after the process
    /// was asked to end: then it is broken off.
    pub async fn run_until<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let deadline = async {
            match self.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let asked = async {
            self.stop.cancelled().await;
            sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = deadline => None,
            () = asked => None,
        }
    }

    /// Reads what `reader` reads, and fails once it is time to stop. Decoding runs on threads that nobody can break off
    /// from outside, and a process ends only when they do.
    pub fn reader(&self, reader: BundleReader) -> BundleReader {
        Box::new(LimitedReader { reader, limits: self.clone() })
    }

    /// Begins a bundle, where those loaded under these limits and those being loaded are fewer than `most`.
    pub fn begin_bundle(&self, most: Option<u64>) -> Option<Begun> {
        let begun = &self.bundles.begun;
        let more = |n: u64| most.is_none_or(|most| n < most).then(|| n.saturating_add(1));
        begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Begun { bundles: Arc::clone(&self.bundles), is_loaded: false })
    }

    /// Bundles loaded under these limits.
    pub fn bundles(&self) -> u64 {
        self.bundles.loaded.load(Ordering::Relaxed)
    }
}
