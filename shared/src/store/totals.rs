//! What was downloaded on a day.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::Serialize;

use super::{QuotaUsage, Quotas, StoreError};

/// The limit where there is none.
pub const UNLIMITED: u64 = i64::MAX as u64;

/// Quotas whose categories no rule can have count what a day's downloads cost.
const API: &str = "=api";
const CAPTURES: &str = "=pcap";

/// The UTC day of a time.
pub fn utc_day(time: Timestamp) -> Date {
    TimeZone::UTC.to_datetime(time).date()
}

/// What was downloaded on a UTC day, or is reserved to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Samples, in all categories.
    pub total: u64,
    /// Those that cost a request of the API quota.
    pub api_charged: u64,
    /// Network captures.
    pub pcaps: u64,
    /// Samples by category.
    pub categories: Vec<QuotaUsage>,
}

impl Totals {
    /// Those of a day.
    ///
    /// # Errors
    /// What [`Quotas`] gives.
    pub async fn of(quotas: &dyn Quotas, day: Date) -> Result<Self, StoreError> {
        let mut totals = Self::default();
        for usage in quotas.usage(day).await? {
            match usage.category.as_str() {
                API => totals.api_charged = usage.used,
                CAPTURES => totals.pcaps = usage.used,
                _ => {
                    totals.total = totals.total.saturating_add(usage.used);
                    totals.categories.push(usage);
                }
            }
        }
        Ok(totals)
    }

    /// Counts a download that cost a request, once an `id`.
    ///
    /// # Errors
    /// What [`Quotas`] gives.
    pub async fn charge(quotas: &dyn Quotas, day: Date, id: &str) -> Result<(), StoreError> {
        quotas.reserve(API, day, UNLIMITED, id).await.map(drop)
    }

    /// Counts a network capture, once an `id`.
    ///
    /// # Errors
    /// What [`Quotas`] gives.
    pub async fn capture(quotas: &dyn Quotas, day: Date, id: &str) -> Result<(), StoreError> {
        quotas.reserve(CAPTURES, day, UNLIMITED, id).await.map(drop)
    }
}
