//! The Lambda `ingest`, behind a function URL.

use std::{sync::Arc, time::Duration};

use azul_vt::{
    lambda,
    pipeline::Pipeline,
    settings::Settings,
    store::{self, SystemClock},
    telemetry::{self, Format},
};
use ingest::Ingest;
use lambda_http::{Body, Error, Request, Response, service_fn};

/// What is kept of the invocation's time for the answer.
const MARGIN: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<(), Error> {
    let settings = Settings::from_env()?;
    telemetry::init(&settings.log, Format::Json)?;
    let store = store::open(&settings).await?;
    let clock = Arc::new(SystemClock);
    let pipeline = Pipeline::from_settings(&settings, store.clone()).await?;
    let mut ingest = Ingest::new(&settings, store, clock, pipeline)?;
    // The time that a function URL leaves is known at each request; the shortest common one is a minute.
    ingest.wait = ingest.wait.min(Duration::from_mins(1).saturating_sub(MARGIN));
    if !settings.ingest_is_authenticated() {
        tracing::info!("no INGEST_SECRETS, no INGEST_TOKENS: only callers that IAM knows may post");
    }
    let ingest = Arc::new(ingest);
    lambda_http::run(service_fn(move |mut request: Request| {
        lambda::let_in_by_iam(&mut request);
        let ingest = Arc::clone(&ingest);
        async move {
            let (parts, body) = ingest.handle(request).await.into_parts();
            Ok::<_, Error>(Response::from_parts(parts, Body::from(body.to_vec())))
        }
    }))
    .await
}
