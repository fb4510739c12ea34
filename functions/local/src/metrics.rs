//! What Prometheus sees of `vt load`, and pushing it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

use azul_vt::{
    errors::chain,
    http_client,
    metrics::{Delivered, Gateway, Outcome},
    settings::Settings,
    store::{Clock as _, Store, StoreError, SystemClock},
};
use load::Report;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::failure::Failure;

/// How often a process that goes on for long pushes.
pub(crate) const INTERVAL: Duration = Duration::from_mins(1);

/// The gateway that the settings name, for one function's metrics.
pub(crate) fn gateway(settings: &Settings, function: &str) -> Result<Option<Gateway>, Failure> {
    let Some(url) = &settings.push_gateway else { return Ok(None) };
    let client = http_client::build(settings).map_err(Failure::usage)?;
    Ok(Some(Gateway::new(client, url, function)))
}

/// The metrics of `vt load` and where they are pushed to.
pub(crate) struct Pushed {
    feed: Feed,
    gateway: Gateway,
    store: Store,
}

impl Pushed {
    /// Where the settings name a gateway.
    pub(crate) fn new(settings: &Settings, store: &Store) -> Result<Option<Arc<Self>>, Failure> {
        let gateway = gateway(settings, load::NAME)?;
        let pushed = |gateway| Self { feed: Feed::default(), gateway, store: store.clone() };
        Ok(gateway.map(pushed).map(Arc::new))
    }

    /// Adds what a run did, unless it failed, and pushes.
    pub(crate) async fn ran(&self, report: Option<&Report>) {
        if let Some(report) = report {
            if report.held_by.is_some() && report.is_idle() {
                return; // whoever is at work tells of it
            }
            self.feed.ran(report);
        }
        self.push().await;
    }

    /// Pushes again and again: how far a long run is. For a task that is aborted.
    pub(crate) async fn keep_pushing(self: Arc<Self>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.push().await;
        }
    }

    async fn push(&self) {
        let progress = Progress::look(&self.store).await;
        if let Err(error) = &progress {
            tracing::warn!(error = chain(error), "the metrics lack the state");
        }
        self.gateway.try_push(&self.feed.registry(progress.as_ref().ok())).await;
    }
}

/// Counters count since the process began.
#[derive(Default)]
struct Feed {
    delivered: Delivered,
    bundles: Family<Outcome, Counter<u64, AtomicU64>>,
}

/// How far the feed was loaded.
struct Progress {
    gaps: i64,
    /// Seconds since 1970; `None` before the first run.
    cursor: Option<i64>,
}

impl Progress {
    async fn look(store: &Store) -> Result<Self, StoreError> {
        let gaps = store.ledger.totals().await?.gaps;
        let cursor = store.cursors.read(load::NAME).await?;
        Ok(Self { gaps: i64::try_from(gaps).unwrap_or(i64::MAX), cursor })
    }
}

impl Feed {
    /// Adds a run.
    fn ran(&self, report: &Report) {
        self.delivered.add(&report.counts, SystemClock.now());
        for (outcome, count) in [
            ("loaded", report.loaded),
            ("missing", report.missing),
            ("failed", report.failed),
            ("buried", report.buried),
        ] {
            self.bundles.get_or_create(&Outcome { outcome }).inc_by(count);
        }
    }

    /// What there is to say: what is not known is left out, so that the gateway keeps what it was told before.
    fn registry(&self, progress: Option<&Progress>) -> Registry {
        let mut registry = Registry::default();
        self.delivered.register(&mut registry, self.delivered.any());
        let bundles = self.bundles.clone();
        registry.register("virustotal_plugin_bundles", "Feed minutes by outcome", bundles);
        let Some(&Progress { gaps, cursor }) = progress else { return registry };
        gauge(&mut registry, "gaps", "Feed minutes that are tried again", gaps);
        if let Some(cursor) = cursor {
            gauge(
                &mut registry,
                "last_loaded_minute_timestamp_seconds",
                "The feed minute up to which nothing is open but gaps, since 1970",
                cursor,
            );
            let lag = SystemClock.now().as_second().saturating_sub(cursor);
            let help = "From that minute to now; the feed itself is an hour behind";
            gauge(&mut registry, "lag_seconds", help, lag);
        }
        registry
    }
}

pub(crate) fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge<i64, AtomicI64> = Gauge::default();
    gauge.set(value);
    registry.register(format!("virustotal_plugin_{name}"), help, gauge);
}
