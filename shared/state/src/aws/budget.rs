//! The budget in `DynamoDB`: an item for each granted request, numbered without gaps, which is kept until it is older
//! than every window.
//!
//! A process has the grant if it puts the item with the next number. If another process was first, it reads the last
//! grant again. So the times only grow, and the `limit`-th last grant is the item `limit` numbers back.

use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::table::{
    Filter, Item, Key, Table, Updated, damaged, expiry, item, mark, part, text, text_of, time,
    time_of,
};
use crate::{
    StoreError,
    budget::{Budget, Permit, Window, WindowUsage},
};
use net::{http_client::Backoff, peers::latest_written};

/// Shortest time for which a grant is kept. It covers the longest window that any setting may use, so that a changed
/// setting finds the grants that it needs.
const KEPT: SignedDuration = SignedDuration::from_hours(32 * 24);
/// Most attempts to put the next grant, when other processes are first each time.
const MEETINGS: u32 = 100;
/// Longest wait before the second attempt; it grows with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Upper bound of the growing wait between attempts.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

const GRANT: &str = "SET #granted = :granted, #expires_at = :expires, #by = :me";
const FREE: &str = "attribute_not_exists(#pk)";

pub(super) struct AwsBudget(pub(super) Table);

fn partition(name: &str) -> String {
    format!("budget#{}", part(name))
}

/// The grant with the highest number.
#[derive(Clone, Copy)]
struct Last {
    number: u64,
    granted: Timestamp,
}

impl AwsBudget {
    async fn last(&self, name: &str, action: &str) -> Result<Option<Last>, StoreError> {
        let newest = Filter { limit: Some(1), newest_first: true, ..Filter::default() };
        let found = self.0.query(action, &partition(name), newest).await?;
        let last = |item: &Item| {
            let what = format!("the budget {name}");
            let number = text_of(item, "sk", &what)?.parse();
            let number =
                number.map_err(|e| damaged(&what, format!("a grant has no number: {e}")))?;
            Ok(Last { number, granted: time_of(item, "granted", &what)? })
        };
        found.first().map(last).transpose()
    }

    /// Returns the time at which a number was granted; `None` if that is so long ago that the item has expired.
    async fn granted(
        &self,
        name: &str,
        number: u64,
        action: &str,
    ) -> Result<Option<Timestamp>, StoreError> {
        let found = self.0.get(action, key(name, number)).await?;
        found.map(|item| time_of(&item, "granted", &format!("the budget {name}"))).transpose()
    }

    /// Returns how long to wait before the next grant, looking back from `last`.
    async fn wait(
        &self,
        name: &str,
        windows: &[Window],
        last: Option<Last>,
        now: Timestamp,
        action: &str,
    ) -> Result<SignedDuration, StoreError> {
        let mut wait = SignedDuration::ZERO;
        for window in windows {
            if window.limit == 0 {
                return Ok(SignedDuration::from_nanos(i64::MAX));
            }
            let nth = last.and_then(|l| (l.number + 1).checked_sub(u64::from(window.limit)));
            let Some(nth) = nth.filter(|nth| *nth > 0) else { continue };
            // A grant in the future was made by a clock that was ahead. It does not count.
            let granted = self.granted(name, nth, action).await?;
            if let Some(granted) = granted.filter(|granted| *granted <= latest_written(now)) {
                wait = wait.max(window.counted().saturating_sub(now.duration_since(granted)));
            }
        }
        Ok(wait)
    }
}

#[async_trait]
impl Budget for AwsBudget {
    async fn ask(
        &self,
        name: &str,
        windows: &[Window],
        now: Timestamp,
    ) -> Result<Permit, StoreError> {
        if windows.is_empty() {
            return Ok(Permit::Granted);
        }
        let action = format!("asking for a request of the budget {name}");
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        while backoff.attempts() < MEETINGS {
            let last = self.last(name, &action).await?;
            // A clock that went back a little must not make room, so the time never goes below the last grant.
            let latest = last.map(|last| last.granted).filter(|at| *at <= latest_written(now));
            let now = latest.map_or(now, |latest| latest.max(now));
            let wait = self.wait(name, windows, last, now, &action).await?;
            if wait > SignedDuration::ZERO {
                return Ok(Permit::Wait(wait));
            }
            let longest = windows.iter().map(Window::counted).max().unwrap_or_default().max(KEPT);
            let values = item([
                (":granted", time(now)),
                (":expires", expiry(now.saturating_add(longest).unwrap_or(Timestamp::MAX))),
                (":me", text(mark())),
            ]);
            let next = key(name, last.map_or(1, |last| last.number + 1));
            if let Updated::Done(_) = self.0.update(&action, next, GRANT, FREE, values).await? {
                return Ok(Permit::Granted);
            }
            tokio::time::sleep(backoff.next_wait(None)).await;
        }
        let source = "others were first, time after time".into();
        Err(StoreError::Unavailable { action, source })
    }

    async fn usage(
        &self,
        name: &str,
        windows: &[Window],
        now: Timestamp,
    ) -> Result<Vec<WindowUsage>, StoreError> {
        let action = format!("reading the budget {name}");
        let last = self.last(name, &action).await?.map_or(0, |last| last.number);
        let mut usage = Vec::new();
        for window in windows {
            let from = now.saturating_sub(window.counted()).unwrap_or(Timestamp::MIN);
            // The times grow with the numbers, so a binary search finds the first grant within the window.
            let (mut old, mut young) = (0, last + 1);
            while young - old > 1 {
                let middle = old + (young - old) / 2;
                let granted = self.granted(name, middle, &action).await?;
                // Grants of a clock that was ahead have lower numbers than those made since, so they count as old.
                if granted.is_some_and(|granted| granted > from && granted <= latest_written(now)) {
                    young = middle;
                } else {
                    old = middle;
                }
            }
            usage.push(WindowUsage { window: *window, used: last - old });
        }
        Ok(usage)
    }
}

/// Returns the key of a grant. The number has leading zeros, so that keys sort like numbers.
fn key(name: &str, number: u64) -> Key {
    Key { pk: partition(name), sk: format!("{number:020}") }
}
