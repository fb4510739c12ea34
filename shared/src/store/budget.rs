//! How many requests may be made of somebody in a time.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::StoreError;

/// What is added to a window, so that the other side's clock and the way there cannot make one request
/// too many of it.
pub const WINDOW_MARGIN: SignedDuration = SignedDuration::from_millis(250);

/// At most `limit` requests in any stretch of time as long as `length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Its name, such as `minute`; `[a-z]`.
    pub name: &'static str,
    /// Its length.
    pub length: SignedDuration,
    /// Requests at most.
    pub limit: u32,
}

impl Window {
    /// How long a grant counts: the window's length and [`WINDOW_MARGIN`].
    pub fn counted(&self) -> SignedDuration {
        self.length.saturating_add(WINDOW_MARGIN)
    }
}

/// Answer to somebody who wants to make a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// It may be made now, and is counted.
    Granted,
    /// Not now: not before so much time has passed. Nothing was counted.
    Wait(SignedDuration),
}

/// Use of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WindowUsage {
    /// The window.
    pub window: Window,
    /// Requests granted in the length of it up to now.
    pub used: u64,
}

/// A sliding window of requests, exact under any concurrency.
///
/// A request is granted when, in each window, the `limit`-th last one is at least the window's length and
/// [`WINDOW_MARGIN`] old. What was granted stays counted whether or not the request was made.
#[async_trait]
pub trait Budget: Send + Sync {
    /// Asks for one request at `now`, within all of `windows`; without any, all are granted. `name` says
    /// whose requests they are.
    async fn ask(
        &self,
        name: &str,
        windows: &[Window],
        now: Timestamp,
    ) -> Result<Permit, StoreError>;

    /// Use of each window at `now`; for display.
    async fn usage(
        &self,
        name: &str,
        windows: &[Window],
        now: Timestamp,
    ) -> Result<Vec<WindowUsage>, StoreError>;
}
