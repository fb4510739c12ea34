//! The Lambda `load`: any JSON is a trigger.

use std::{sync::Arc, time::Duration};

use azul_vt::{
    pipeline::Limits,
    settings::Settings,
    store::{self, SystemClock},
    telemetry::{self, Format},
};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use load::Load;
use serde_json::Value;
use tokio::time::Instant;

/// What is kept of the invocation's time for ending at the border of a batch.
const MARGIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Error> {
    let settings = Settings::from_env()?;
    telemetry::init(&settings.log, Format::Json)?;
    let store = store::open(&settings).await?;
    let load = Arc::new(Load::from_settings(settings, store, Arc::new(SystemClock))?);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let load = Arc::clone(&load);
        async move {
            let left = event.context.deadline().duration_since(std::time::SystemTime::now());
            let deadline = Instant::now() + left.unwrap_or_default().saturating_sub(MARGIN);
            let limits = Limits::until(deadline);
            Ok::<_, Error>(load.handle(&event.payload, &limits).await?)
        }
    }))
    .await
}
