//! What Prometheus sees.

use std::sync::atomic::{AtomicI64, AtomicU64};

use azul_vt::store::Counts;
use http::StatusCode;
use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The media type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    status: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The counters of `ingest`.
pub struct Metrics {
    registry: Registry,
    last: Gauge<i64, AtomicI64>,
    answers: Family<Answer, Counter<u64, AtomicU64>>,
    records: Family<Outcome, Counter<u64, AtomicU64>>,
    requests: Counter<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (last, requests) = (Gauge::default(), Counter::default());
        let (answers, records) = (Family::default(), Family::default());
        // The name and the unit are the Go plugin's: dashboards know them.
        registry.register(
            "virustotal_plugin_last_ingested_timestamp",
            "When records were delivered last, milliseconds since 1970",
            last.clone(),
        );
        registry.register("virustotal_plugin_answers", "HTTP answers by status", answers.clone());
        registry.register("virustotal_plugin_records", "Records by outcome", records.clone());
        registry.register(
            "virustotal_plugin_download_requests",
            "Download requests that the dispatcher acknowledged",
            requests.clone(),
        );
        Self { registry, last, answers, records, requests }
    }
}

impl Metrics {
    pub(crate) fn answered(&self, status: StatusCode) {
        self.answers.get_or_create(&Answer { status: status.as_u16().into() }).inc();
    }

    pub(crate) fn delivered(&self, counts: &Counts, now: Timestamp) {
        self.last.set(now.as_millisecond());
        for (outcome, count) in [
            ("delivered", counts.delivered),
            ("filtered", counts.filtered),
            ("rejected", counts.rejected),
        ] {
            self.records.get_or_create(&Outcome { outcome }).inc_by(count);
        }
        self.requests.inc_by(counts.requests);
    }

    /// All metrics, in the text format of Prometheus.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
