//! The metrics of all functions, and how the counts of records become metrics.

use jiff::Timestamp;

pub use ::telemetry::metrics::*;

use crate::store::Counts;

/// Adds the counts of records that `function` processed, and sets the time of the last ones to `now`.
pub fn count(function: &str, counts: &Counts, now: Timestamp) {
    if counts.records > 0 {
        LAST_INGESTED.set([function], now.as_millisecond());
    }
    RECORDS.add([function], counts.records);
    for (outcome, count) in [
        ("delivered", counts.delivered),
        ("filtered", counts.filtered),
        ("rejected", counts.rejected),
    ] {
        EVENTS.add([function, outcome], count);
    }
    DOWNLOAD_REQUESTS.add([function], counts.requests);
}
