//! Settings of look-ups and of webhooks.

use std::{collections::BTreeSet, net::SocketAddr};

use jiff::SignedDuration;

use super::{Reader, SettingError, hours, list, megabytes, within};
use crate::{secrets::SecretSource, store::budget::Window};

/// Settings of `query`, some of which `download` uses too.
#[derive(Clone, Debug)]
pub struct LookupSettings {
    /// `LOOKUP_SOURCES`; empty where it is not set.
    pub sources: BTreeSet<String>,
    /// `LOOKUP_FORMATS`; `None`: all.
    pub formats: Option<Vec<String>>,
    /// `LOOKUP_MAX_SIZE`, in bytes; `None`: no limit.
    pub max_size: Option<u64>,
    /// `VT_REQUESTS_PER_MINUTE`, `…_DAY`, `…_MONTH`: the windows that are limited.
    pub windows: Vec<Window>,
    /// `VT_MAX_ATTEMPTS`.
    pub max_attempts: u32,
    /// `VT_GIVE_UP_HOURS`: longest time that an item waits for a peer that is out.
    pub give_up: SignedDuration,
    /// `REPORT_CACHE_HOURS`.
    pub report_cache: SignedDuration,
    /// `UNKNOWN_CACHE_HOURS`.
    pub unknown_cache: SignedDuration,
    /// `WEBHOOK_SECRETS` or `WEBHOOK_SECRETS_SECRET`: Standard Webhooks secrets.
    pub webhook_secrets: Option<SecretSource>,
    /// `WEBHOOK_LISTEN`.
    pub webhook_listen: SocketAddr,
    /// `WORKERS`: items worked at once.
    pub workers: usize,
}

/// Value that stands for the limits of a public key: 4 requests a minute and 500 a day (VirusTotal's reference, "Public
/// vs Premium API").
const PUBLIC: &str = "public";

impl LookupSettings {
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, SettingError> {
        let sources = r.text(&["LOOKUP_SOURCES"], "");
        let formats = r.text(&["LOOKUP_FORMATS"], "");
        let max_size = r.parse(
            &["LOOKUP_MAX_SIZE"],
            "",
            "a number of MB, such as 650 or 650MB; 0 for no limit",
            |t| match t {
                "" => Some(None),
                text => megabytes(text).map(|n| (n > 0).then_some(n)),
            },
        )?;
        let mut windows = Vec::new();
        for (variable, name, length, public) in [
            ("VT_REQUESTS_PER_MINUTE", "minute", SignedDuration::from_mins(1), Some(4)),
            ("VT_REQUESTS_PER_DAY", "day", SignedDuration::from_hours(24), Some(500)),
            ("VT_REQUESTS_PER_MONTH", "month", SignedDuration::from_hours(31 * 24), None),
        ] {
            let expected = "a number of requests, or public for what a public key may ask";
            let limit = r.parse(&[variable], "", expected, |t| match t {
                "" => Some(None),
                PUBLIC => Some(public),
                number => within::<u32>(number, 1, i64::from(u32::MAX)).map(Some),
            })?;
            windows.extend(limit.map(|limit| Window { name, length, limit }));
        }
        let max_attempts =
            r.parse(&["VT_MAX_ATTEMPTS"], "5", "a number from 1 to 100", |t| within(t, 1, 100))?;
        let expected = "a number of hours from 1 to 8760";
        let give_up = r.parse(&["VT_GIVE_UP_HOURS"], "24", expected, |t| {
            within::<i64>(t, 1, 8760).and_then(hours)
        })?;
        let cache = |t: &str| within::<i64>(t, 0, 8760).and_then(hours);
        let report_cache = r.parse(&["REPORT_CACHE_HOURS"], "24", "a number of hours", cache)?;
        let unknown_cache = r.parse(&["UNKNOWN_CACHE_HOURS"], "24", "a number of hours", cache)?;
        let webhook_secrets = r.secret_source("WEBHOOK_SECRETS", "WEBHOOK_SECRETS_SECRET")?;
        let webhook_listen: SocketAddr = r.parse(
            &["WEBHOOK_LISTEN"],
            "127.0.0.1:8855",
            "an address and a port, such as 127.0.0.1:8855",
            |t| t.parse().ok(),
        )?;
        if webhook_secrets.is_none() && !webhook_listen.ip().is_loopback() {
            return Err(SettingError {
                name: "WEBHOOK_LISTEN",
                shown: webhook_listen.to_string(),
                expected: "without WEBHOOK_SECRETS only a loopback address, such as 127.0.0.1:8855"
                    .into(),
            });
        }
        let workers = r.parse(&["WORKERS"], "4", "a number from 1 to 64", |t| within(t, 1, 64))?;
        let formats = list(&formats);
        Ok(Self {
            sources: list(&sources).into_iter().collect(),
            formats: (!formats.is_empty()).then_some(formats),
            max_size,
            windows,
            max_attempts,
            give_up,
            report_cache,
            unknown_cache,
            webhook_secrets,
            webhook_listen,
            workers,
        })
    }
}
