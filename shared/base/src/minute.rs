//! A minute of the feed, which names bundles, the cursor and the ledger's rows.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// A minute in UTC. It is written as `YYYYMMDDhhmm`, as in VirusTotal's feed
/// (`GET /feeds/files/{YYYYMMDDhhmm}`, VirusTotal's reference "Get a file feed batch").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Minute(i64);

/// Error for a text that is not a minute.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a minute: write UTC as YYYYMMDDhhmm or as RFC 3339, such as 202611240857 or 2026-11-24T08:57Z"
)]
pub struct NotAMinute(String);

impl Minute {
    /// Returns the minute that contains `time`.
    pub fn of(time: Timestamp) -> Self {
        Self(time.as_second().div_euclid(60))
    }

    /// Returns the minute that contains the second `seconds` since 1970.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.div_euclid(60))
    }

    /// Returns the start of the minute, in seconds since 1970.
    pub fn unix_seconds(self) -> i64 {
        self.0.saturating_mul(60)
    }

    /// Returns the start of the minute, or the first or last time of the calendar if the minute lies outside it.
    pub fn start(self) -> Timestamp {
        Timestamp::from_second(self.unix_seconds()).unwrap_or(if self.0 < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        })
    }

    /// Returns the minute `n` minutes later, or earlier if `n` is negative.
    pub fn plus(self, n: i64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// Returns the next minute.
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// Returns the number of minutes from `earlier` to this one.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the start of the storage path for this minute, such as `2026/11/24/0857`.
    pub fn storage_path(self) -> String {
        self.civil().strftime("%Y/%m/%d/%H%M").to_string()
    }

    fn civil(self) -> civil::DateTime {
        TimeZone::UTC.to_datetime(self.start())
    }
}

impl fmt::Display for Minute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.civil().strftime("%Y%m%d%H%M"))
    }
}

impl FromStr for Minute {
    type Err = NotAMinute;

    fn from_str(text: &str) -> Result<Self, NotAMinute> {
        let wrong = || NotAMinute(text.chars().take(40).collect());
        if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
            let civil = civil::DateTime::strptime("%Y%m%d%H%M", text).map_err(|_| wrong())?;
            return TimeZone::UTC.to_timestamp(civil).map(Self::of).map_err(|_| wrong());
        }
        text.parse::<Timestamp>().map(Self::of).map_err(|_| wrong())
    }
}

impl TryFrom<String> for Minute {
    type Error = NotAMinute;

    fn try_from(text: String) -> Result<Self, NotAMinute> {
        text.parse()
    }
}

impl From<Minute> for String {
    fn from(minute: Minute) -> Self {
        minute.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_reads_and_prints_both_spellings() {
        let minute: Minute = "202611240857".parse().unwrap();
        assert_eq!(minute.to_string(), "202611240857");
        assert_eq!(minute, "2026-11-24T08:57:59Z".parse().unwrap());
        assert_eq!(minute, "2026-11-24T19:57+11:00".parse().unwrap());
        assert_eq!(minute.storage_path(), "2026/11/24/0857");
        assert_eq!(minute.next().since(minute), 1);
        assert!("202613240857".parse::<Minute>().is_err());
        assert!("yesterday".parse::<Minute>().is_err());
    }

    #[test]
    fn numbers_beyond_the_calendar_do_not_panic() {
        for seconds in [i64::MIN, -1, i64::MAX] {
            let _ = Minute::from_unix_seconds(seconds).to_string();
        }
    }
}
