//! A sliding-window rate limit that all processes share.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::StoreError;

/// Time added to each window. It absorbs the difference between the clocks and the travel time of a request, so that
/// the server never counts one request too many.
pub const WINDOW_MARGIN: SignedDuration = SignedDuration::from_millis(250);

/// At most `limit` requests in any stretch of time as long as `length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Name of the window, such as `minute`; `[a-z]`.
    pub name: &'static str,
    /// Length of the window.
    pub length: SignedDuration,
    /// Largest number of requests in the window.
    pub limit: u32,
}

impl Window {
    /// Returns for how long a grant counts: the window's length and [`WINDOW_MARGIN`].
    pub fn counted(&self) -> SignedDuration {
        self.length.saturating_add(WINDOW_MARGIN)
    }
}

/// Answer to the question whether a request may be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// The request may be made now, and is counted.
    Granted,
    /// The request may be made after this time at the earliest. Nothing was counted.
    Wait(SignedDuration),
}

/// Use of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WindowUsage {
    /// The window.
    pub window: Window,
    /// Number of requests granted within the window's length before now.
    pub used: u64,
}

/// A sliding window of requests, exact under any concurrency.
///
/// A request is granted if, in each window, the `limit`-th last grant is at least the window's length and
/// [`WINDOW_MARGIN`] old. A grant stays counted even if its request is never made.
#[async_trait]
pub trait Budget: Send + Sync {
    /// Asks to make one request at `now`, within all of `windows`. Without windows every request is granted. `name` is
    /// the API that the request goes to.
    async fn ask(
        &self,
        name: &str,
        windows: &[Window],
        now: Timestamp,
    ) -> Result<Permit, StoreError>;

    /// Returns the use of each window at `now`; for display.
    async fn usage(
        &self,
        name: &str,
        windows: &[Window],
        now: Timestamp,
    ) -> Result<Vec<WindowUsage>, StoreError>;
}
