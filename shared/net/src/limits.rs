//! Limits that stop a run, and the count of the bundles that it loaded.

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

/// Time that work in flight may still take after the process was asked to end.
const GRACE: Duration = Duration::from_secs(1);

/// Wait that replaces one that the system's clock cannot represent. It is far longer than any real wait.
const YEAR: Duration = Duration::from_hours(365 * 24);

/// Limits of a process or of an invocation. Clones share the token and the count.
#[derive(Clone, Debug, Default)]
pub struct RunLimits {
    /// Time after which no new batch is begun and no post is retried.
    pub deadline: Option<Instant>,
    /// Cancelled when the process is asked to end.
    pub stop: CancellationToken,
    bundles: Arc<Bundles>,
}

#[derive(Debug, Default)]
struct Bundles {
    loaded: AtomicU64,
    /// Number of bundles that are loaded or being loaded.
    begun: AtomicU64,
}

/// A bundle that is being loaded.
#[derive(Debug)]
pub struct Begun {
    bundles: Arc<Bundles>,
    is_loaded: bool,
}

impl Begun {
    /// Counts the bundle as loaded to its end.
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
    reader: Box<dyn io::Read + Send>,
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
    /// Returns limits with this `deadline`.
    pub fn until(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::default() }
    }

    /// Returns limits with a token of their own, which is cancelled with this one's or alone.
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

    /// Returns whether a limit is reached, so that the run has to stop.
    pub fn reached(&self) -> bool {
        self.stop.is_cancelled() || self.deadline.is_some_and(|d| Instant::now() >= d)
    }

    /// Waits, but not longer than until a limit is reached. Returns whether a limit is reached.
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

    /// Returns the result of `work`. Returns `None` and drops the work if it is not done at the deadline, or a second
    /// after the process was asked to end.
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

    /// Returns a reader that fails once a limit is reached. It is needed because decoding runs on threads that cannot
    /// be stopped from outside, and the process ends only after them.
    pub fn reader(&self, reader: Box<dyn io::Read + Send>) -> Box<dyn io::Read + Send> {
        Box::new(LimitedReader { reader, limits: self.clone() })
    }

    /// Begins a bundle. Returns `None` if `most` bundles are loaded or being loaded under these limits already.
    pub fn begin_bundle(&self, most: Option<u64>) -> Option<Begun> {
        let begun = &self.bundles.begun;
        let more = |n: u64| most.is_none_or(|most| n < most).then(|| n.saturating_add(1));
        begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Begun { bundles: Arc::clone(&self.bundles), is_loaded: false })
    }

    /// Returns the number of bundles that were loaded under these limits.
    pub fn bundles(&self) -> u64 {
        self.bundles.loaded.load(Ordering::Relaxed)
    }
}
