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
        let pushed = |gateway| Self { feed: Feed::new(), gateway, store: store.clone() };
        Ok(gateway.map(pushed).map(Arc::new))
    }

    /// Adds what a run did, unless it failed, and pushes.
    pub(crate) async fn ran(&self, report: Option<&Report>) {
        if let Some(report) = report {
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
        if let Err(error) = self.feed.look(&self.store).await {
            tracing::warn!(error = chain(&error), "the metrics lack the state");
        }
        self.gateway.try_push(&self.feed.registry).await;
    }
}

/// Counters count since the process began.
struct Feed {
    registry: Registry,
    delivered: Delivered,
    bundles: Family<Outcome, Counter<u64, AtomicU64>>,
    gaps: Gauge<i64, AtomicI64>,
    cursor: Gauge<i64, AtomicI64>,
    lag: Gauge<i64, AtomicI64>,
}

impl Feed {
    fn new() -> Self {
        let mut registry = Registry::default();
        let delivered = Delivered::register(&mut registry);
        let bundles = Family::default();
        let (gaps, cursor, lag) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("virustotal_plugin_bundles", "Feed minutes by outcome", bundles.clone());
        registry.register(
            "virustotal_plugin_gaps",
            "Feed minutes that are tried again",
            gaps.clone(),
        );
        registry.register(
            "virustotal_plugin_last_loaded_minute_timestamp_seconds",
            "The feed minute up to which nothing is open but gaps, since 1970",
            cursor.clone(),
        );
        registry.register(
            "virustotal_plugin_lag_seconds",
            "From that minute to now; the feed itself is an hour behind",
            lag.clone(),
        );
        Self { registry, delivered, bundles, gaps, cursor, lag }
    }

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

    /// Looks at how far the feed was loaded.
    async fn look(&self, store: &Store) -> Result<(), StoreError> {
        let now = SystemClock.now();
        let gaps = store.ledger.totals().await?.gaps;
        self.gaps.set(i64::try_from(gaps).unwrap_or(i64::MAX));
        if let Some(seconds) = store.cursors.read(load::NAME).await? {
            self.cursor.set(seconds);
            self.lag.set(now.as_second().saturating_sub(seconds));
        }
        Ok(())
    }
}
