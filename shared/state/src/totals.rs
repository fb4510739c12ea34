//! Totals of the downloads of a day.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::Serialize;

use super::{QuotaUsage, Quotas, StoreError};

/// Limit for quotas that are only counted and never full.
pub const UNLIMITED: u64 = i64::MAX as u64;

/// Category that counts the downloads of a day that cost a request. No rule can have this name.
const API: &str = "=api";
/// Category that counts the network captures of a day. No rule can have this name.
const CAPTURES: &str = "=pcap";

/// Returns the UTC day of a time.
pub fn utc_day(time: Timestamp) -> Date {
    TimeZone::UTC.to_datetime(time).date()
}

/// Numbers of downloads on a UTC day, including those that are only reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Number of samples in all categories.
    pub total: u64,
    /// Number of samples that cost a request of the API quota.
    pub api_charged: u64,
    /// Number of network captures.
    pub pcaps: u64,
    /// Number of samples in each category.
    pub categories: Vec<QuotaUsage>,
}

impl Totals {
    /// Reads the totals of a day.
    ///
    /// # Errors
    /// Any error of [`Quotas`].
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

    /// Counts a download that cost a request. Each `id` counts once.
    ///
    /// # Errors
    /// Any error of [`Quotas`].
    pub async fn charge(quotas: &dyn Quotas, day: Date, id: &str) -> Result<(), StoreError> {
        quotas.reserve(API, day, UNLIMITED, id).await.map(drop)
    }

    /// Counts a network capture. Each `id` counts once.
    ///
    /// # Errors
    /// Any error of [`Quotas`].
    pub async fn capture(quotas: &dyn Quotas, day: Date, id: &str) -> Result<(), StoreError> {
        quotas.reserve(CAPTURES, day, UNLIMITED, id).await.map(drop)
    }
}
