//! Metrics of a process of `vt`: served over HTTP, and pushed to the gateway that the settings name.

use std::{convert::Infallible, time::Duration};

use azul_vt::{
    errors::chain,
    http_client,
    metrics::prometheus::{self, Gateway},
    pipeline::RunLimits,
    settings::Settings,
    store::StoreError,
};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header::CONTENT_TYPE};

use crate::{
    failure::Failure,
    server::{Request, Server},
};

/// Time between two pushes of a process that runs for long.
pub(crate) const INTERVAL: Duration = Duration::from_mins(1);

/// The gateway that the settings name, for one function's metrics.
pub(crate) fn gateway(settings: &Settings, function: &str) -> Result<Option<Gateway>, Failure> {
    let Some(url) = &settings.push_gateway else { return Ok(None) };
    let client = http_client::build(&settings.http).map_err(Failure::usage)?;
    Ok(Some(Gateway::new(client, url, function)))
}

/// Pushes the metrics. `measured` is the result of measuring the state; its error is logged.
pub(crate) async fn push(gateway: &Gateway, measured: Result<(), StoreError>) {
    if let Err(error) = measured {
        tracing::warn!(error = chain(&error), "the metrics lack the state");
    }
    gateway.try_push().await;
}

/// Runs `work` and returns its result. Pushes metrics once per [`INTERVAL`] meanwhile, and once more at the end, for no
/// longer than a second if `limits` ended the work. Without a gateway nothing is pushed.
pub(crate) async fn pushing<T>(
    gateway: Option<&Gateway>,
    limits: &RunLimits,
    measure: impl AsyncFn() -> Result<(), StoreError>,
    work: impl Future<Output = T>,
) -> T {
    let Some(gateway) = gateway else { return work.await };
    let outcome = tokio::select! {
        outcome = work => outcome,
        never = keep_pushing(gateway, &measure) => match never {},
    };
    let last = async { push(gateway, measure().await).await };
    if limits.run_until(last).await.is_none() {
        tracing::warn!("PLUGIN_PROMETHEUS_PUSH_GATEWAY: it is too slow for the last metrics");
    }
    outcome
}

async fn keep_pushing(
    gateway: &Gateway,
    measure: &impl AsyncFn() -> Result<(), StoreError>,
) -> Infallible {
    loop {
        push(gateway, measure().await).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Returns the answer to `GET /metrics`. `measured` is the result of measuring the state; its error is answered with
/// 503.
pub(crate) fn answer(measured: Result<(), StoreError>) -> Response<Bytes> {
    let (status, kind, text) = match measured {
        Ok(()) => {
            (StatusCode::OK, prometheus::CONTENT_TYPE, prometheus::render().unwrap_or_default())
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", chain(&error)),
    };
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Serves `GET /health` and `/metrics` until `limits` are reached. Does nothing without a `server`.
pub(crate) async fn serve<Measured>(
    server: Option<Server>,
    limits: &RunLimits,
    measure: impl Fn() -> Measured + Clone + Send + Sync + 'static,
) where
    Measured: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let Some(server) = server else { return };
    let respond = move |request: Request| {
        let measured = (request.uri().path() == "/metrics").then(&measure);
        let is_health = request.uri().path() == "/health";
        let is_question = matches!(*request.method(), Method::GET | Method::HEAD);
        async move {
            let error = "there is nothing here: GET /health, /metrics\n";
            let (status, text) = match measured {
                Some(measured) if is_question => return answer(measured.await),
                None if is_health && is_question => (StatusCode::OK, "ok\n"),
                _ => (StatusCode::NOT_FOUND, error),
            };
            let mut response = Response::new(Bytes::from_static(text.as_bytes()));
            *response.status_mut() = status;
            response
        }
    };
    server.serve(limits, respond).await;
}
