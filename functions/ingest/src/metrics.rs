//! What Prometheus sees of `ingest`.

use std::sync::atomic::AtomicU64;

use azul_vt::{
    metrics::{self, Delivered},
    store::Counts,
};
use http::StatusCode;
use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    status: u32,
}

/// The counters of `ingest`.
#[derive(Default)]
pub struct Metrics {
    delivered: Delivered,
    answers: Family<Answer, Counter<u64, AtomicU64>>,
}

impl Metrics {
    pub(crate) fn answered(&self, status: StatusCode) {
        self.answers.get_or_create(&Answer { status: status.as_u16().into() }).inc();
    }

    pub(crate) fn delivered(&self, counts: &Counts, now: Timestamp) {
        self.delivered.add(counts, now);
    }

    /// All metrics, in the text format of Prometheus.
    pub fn render(&self) -> String {
        metrics::render(&self.registry())
    }

    /// All metrics, for a Pushgateway.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        self.delivered.register(&mut registry, true);
        let answers = self.answers.clone();
        registry.register("virustotal_plugin_answers", "HTTP answers by status", answers);
        registry
    }
}
