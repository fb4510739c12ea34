//! `vt ingest`: a server for posted records.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{Router, body::Body, extract::Request};
use azul_vt::{
    metrics::Gateway,
    pipeline::Pipeline,
    settings::Settings,
    store::{self, SystemClock},
    telemetry::{self, Format},
    webhook::LetIn,
};
use ingest::Ingest;

use crate::{
    failure::{Failure, say},
    load::{runtime, stop_on_signal},
    metrics,
};

/// How often what is left staged is tried again.
const SWEEP: Duration = Duration::from_secs(30);

/// Runs `vt ingest`.
pub(crate) fn run() -> Result<(), Failure> {
    let settings = crate::settings::read()?;
    telemetry::init(&settings.log, Format::Text).map_err(Failure::usage)?;
    runtime()?.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    let store = store::open(&settings).await.map_err(Failure::job)?;
    let pipeline =
        Pipeline::from_settings(&settings, store.clone()).await.map_err(Failure::usage)?;
    let ingest = Arc::new(
        Ingest::new(&settings, store, Arc::new(SystemClock), pipeline)
            .context("INGEST_SECRETS")
            .map_err(Failure::Usage)?,
    );
    let address = settings.ingest_listen;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("INGEST_LISTEN: cannot listen on {address}"))
        .map_err(Failure::Job)?;
    let address = listener.local_addr().map_err(Failure::job)?;
    let open = if settings.ingest_is_authenticated() {
        ""
    } else {
        " (loopback only: set INGEST_SECRETS or INGEST_TOKENS to serve others)"
    };
    say(&format!("listening on http://{address}{open}"));
    stop_on_signal(&ingest.limits);
    tokio::spawn(keep_up(Arc::clone(&ingest)));
    let gateway = metrics::gateway(&settings, "ingest")?;
    if let Some(gateway) = gateway.clone() {
        tokio::spawn(push(Arc::clone(&ingest), gateway));
    }
    let service = Arc::clone(&ingest);
    // Without secrets and tokens settings.rs allows loopback addresses only.
    let let_in = address.ip().is_loopback();
    let app = Router::new().fallback(move |mut request: Request| {
        let ingest = Arc::clone(&service);
        if let_in {
            request.extensions_mut().insert(LetIn);
        }
        async move { ingest.handle(request).await.map(Body::from) }
    });
    let stop = ingest.limits.stop.clone();
    axum::serve(listener, app)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
        .map_err(Failure::job)?;
    if let Some(gateway) = gateway {
        gateway.try_push(&ingest.metrics.registry()).await;
    }
    Ok(())
}

/// Pushes metrics again and again, until the server ends.
async fn push(ingest: Arc<Ingest>, gateway: Gateway) {
    loop {
        gateway.try_push(&ingest.metrics.registry()).await;
        if ingest.limits.sleep(metrics::INTERVAL).await {
            return;
        }
    }
}

/// Registers the plugin, and delivers what is left staged, now and then.
async fn keep_up(ingest: Arc<Ingest>) {
    // A dispatcher that is down is waited for; bodies are taken meanwhile.
    ingest.register().await;
    loop {
        ingest.sweep().await;
        if ingest.limits.sleep(SWEEP).await {
            return;
        }
    }
}
