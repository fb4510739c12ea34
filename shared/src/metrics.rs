//! Metrics of Prometheus: what became of records, under one set of names for every function; as text to be
//! fetched, or pushed to a Pushgateway.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode_registry},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use url::Url;

use crate::store::Counts;

/// The media type of [`render`]: the text format that scrapers of all ages and the Pushgateway read.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The `job` that pushed metrics are grouped under.
pub const JOB: &str = "virustotal_plugin";

/// A gateway that is slow must not hold up what it is told of.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The label that says what became of a thing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// In the words of [`Counts`].
    pub outcome: &'static str,
}

/// What became of records.
#[derive(Debug, Default)]
pub struct Delivered {
    last: Gauge<i64, AtomicI64>,
    records: Counter<u64, AtomicU64>,
    outcomes: Family<Outcome, Counter<u64, AtomicU64>>,
    requests: Counter<u64, AtomicU64>,
}

impl Delivered {
    /// Enters the metrics into a registry; `last`: also the time of the last delivery, which is 0 before
    /// there was one.
    pub fn register(&self, registry: &mut Registry, last: bool) {
        if last {
            // The name and the unit are the Go plugin's: dashboards know them.
            registry.register(
                "virustotal_plugin_last_ingested_timestamp",
                "When records were delivered last, milliseconds since 1970",
                self.last.clone(),
            );
        }
        registry.register("virustotal_plugin_records", "Records read", self.records.clone());
        registry.register(
            "virustotal_plugin_events",
            "Events and records by outcome",
            self.outcomes.clone(),
        );
        registry.register(
            "virustotal_plugin_download_requests",
            "Download requests that the dispatcher acknowledged",
            self.requests.clone(),
        );
    }

    /// Whether there was a delivery.
    pub fn any(&self) -> bool {
        self.last.get() > 0
    }

    /// Adds what was counted, up to `now`.
    pub fn add(&self, counts: &Counts, now: Timestamp) {
        if counts.records > 0 {
            self.last.set(now.as_millisecond());
        }
        self.records.inc_by(counts.records);
        for (outcome, count) in [
            ("delivered", counts.delivered),
            ("filtered", counts.filtered),
            ("rejected", counts.rejected),
        ] {
            self.outcomes.get_or_create(&Outcome { outcome }).inc_by(count);
        }
        self.requests.inc_by(counts.requests);
    }
}

/// All metrics of a registry as text of the media type [`CONTENT_TYPE`].
pub fn render(registry: &Registry) -> String {
    let mut open = String::new();
    // Writing to a String cannot fail.
    let _ = encode_registry(&mut open, registry);
    let word = |line: &str, at: usize| line.split(' ').nth(at).map(str::to_owned);
    let counters: BTreeSet<String> = open
        .lines()
        .filter(|line| line.starts_with("# TYPE ") && line.ends_with(" counter"))
        .filter_map(|line| word(line, 2))
        .collect();
    let mut text = String::with_capacity(open.len());
    for line in open.lines() {
        // OpenMetrics, which the crate writes, names a counter without the ending that its samples have.
        let name = word(line, 2).filter(|name| line.starts_with('#') && counters.contains(name));
        let line = match name {
            Some(name) => line.replacen(&name, &format!("{name}_total"), 1),
            None => line.to_owned(),
        };
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Why metrics were not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// No answer.
    #[error("the Pushgateway does not answer")]
    NoAnswer(#[source] reqwest::Error),
    /// An answer that is no success.
    #[error("the Pushgateway answers {status}: {said}")]
    Refused {
        /// Its status.
        status: u16,
        /// The beginning of its answer.
        said: String,
    },
}

/// Where metrics are pushed to.
#[derive(Clone, Debug)]
pub struct Gateway {
    client: reqwest::Client,
    url: Url,
}

impl Gateway {
    /// The group `job=`[`JOB`], `function=<function>` of the Pushgateway at `base`.
    pub fn new(client: reqwest::Client, base: &Url, function: &str) -> Self {
        let mut url = base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["metrics", "job", JOB, "function", function]);
        }
        Self { client, url }
    }

    /// Replaces those of the group's metrics that `registry` has; others stay, for whoever has nothing new
    /// to say of them.
    ///
    /// # Errors
    /// No answer within 5 s, or one that is no success. Never worth more than a warning.
    pub async fn push(&self, registry: &Registry) -> Result<(), PushError> {
        // Without the URL: it may hold a password.
        let failed = |error: reqwest::Error| PushError::NoAnswer(error.without_url());
        let request = self
            .client
            .post(self.url.clone())
            .header(reqwest::header::CONTENT_TYPE, CONTENT_TYPE)
            .timeout(TIMEOUT)
            .body(render(registry));
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let said = answer.text().await.map_err(failed)?;
        Err(PushError::Refused { status: status.as_u16(), said: said.chars().take(200).collect() })
    }

    /// As [`Gateway::push`]; a failure is a line in the log.
    pub async fn try_push(&self, registry: &Registry) {
        if let Err(error) = self.push(registry).await {
            let error = crate::errors::chain(&error);
            tracing::warn!(error, "PLUGIN_PROMETHEUS_PUSH_GATEWAY: metrics were not pushed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_as_their_samples_are() {
        let mut registry = Registry::default();
        let delivered = Delivered::default();
        delivered.register(&mut registry, true);
        let counts = Counts { records: 3, delivered: 2, rejected: 1, ..Counts::default() };
        delivered.add(&counts, Timestamp::from_millisecond(1_700_000_000_123).unwrap());
        let text = render(&registry);
        for line in [
            "# TYPE virustotal_plugin_last_ingested_timestamp gauge",
            "virustotal_plugin_last_ingested_timestamp 1700000000123",
            "# HELP virustotal_plugin_records_total Records read.",
            "# TYPE virustotal_plugin_records_total counter",
            "virustotal_plugin_records_total 3",
            "# TYPE virustotal_plugin_events_total counter",
            "virustotal_plugin_events_total{outcome=\"rejected\"} 1",
            "virustotal_plugin_download_requests_total 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("EOF"));
    }

    #[test]
    fn a_gateway_may_stand_below_a_path() {
        for (base, url) in [
            ("http://gw:9091", "http://gw:9091/metrics/job/virustotal_plugin/function/load"),
            ("http://gw/a/", "http://gw/a/metrics/job/virustotal_plugin/function/load"),
        ] {
            let base = base.parse().unwrap();
            let gateway = Gateway::new(reqwest::Client::new(), &base, "load");
            assert_eq!(gateway.url.as_str(), url);
        }
    }
}
