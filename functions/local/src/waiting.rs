//! What Prometheus sees of work that waits in an inbox, and of the budget that it waits for.

use std::sync::atomic::AtomicI64;

use axum::{
    body::Bytes,
    http::{Response, StatusCode, header::CONTENT_TYPE},
};
use azul_vt::{
    errors::chain,
    metrics::{self, Gateway},
    pipeline::Limits,
    store::{BUDGET, StoreError},
    tasks::{Common, Tasks},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::metrics::INTERVAL;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Per {
    window: &'static str,
}

/// A function whose inbox and budget are looked at.
pub(crate) struct Waiting<'a, T>(pub(crate) &'a T);

impl<T: Tasks> Waiting<'_, T> {
    async fn registry(&self) -> Result<Registry, StoreError> {
        let Common { settings, store, clock, about, .. } = self.0.common();
        let now = clock.now();
        let counts = store.inbox.counts(about.queue, now).await?;
        let usage = store.budget.usage(BUDGET, &settings.lookup.windows, now).await?;
        let mut registry = Registry::default();
        let items = Family::<State, Gauge<i64, AtomicI64>>::default();
        for (state, count) in
            [("waiting", counts.waiting), ("in_work", counts.in_work), ("buried", counts.buried)]
        {
            items.get_or_create(&State { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        registry.register("virustotal_plugin_inbox_items", "Items of the inbox", items);
        let (used, allowed) = (Family::default(), Family::default());
        for window in usage {
            let per = Per { window: window.window.name };
            let set = |family: &Family<Per, Gauge<i64, AtomicI64>>, value: u64| {
                family.get_or_create(&per).set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            set(&used, window.used);
            set(&allowed, window.window.limit.into());
        }
        for (name, help, family) in [
            ("used", "Requests to VirusTotal in the window that ends now", used),
            ("allowed", "What VT_REQUESTS_PER_… allows in the window", allowed),
        ] {
            registry.register(format!("virustotal_plugin_requests_{name}"), help, family);
        }
        self.0.measure(&mut registry).await?;
        Ok(registry)
    }

    /// The answer to `GET /metrics`.
    pub(crate) async fn answer(&self) -> Response<Bytes> {
        let (status, kind, text) = match self.registry().await {
            Ok(registry) => (StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(&registry)),
            Err(error) => {
                (StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", chain(&error))
            }
        };
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, axum::http::HeaderValue::from_static(kind));
        response
    }

    /// Pushes again and again, the last time when `limits` end.
    pub(crate) async fn keep_pushing(&self, gateway: &Gateway, limits: &Limits) {
        loop {
            match self.registry().await {
                Ok(registry) => gateway.try_push(&registry).await,
                Err(error) => tracing::warn!(error = chain(&error), "no metrics: the state"),
            }
            if limits.reached() {
                return;
            }
            limits.sleep(INTERVAL).await;
        }
    }
}
