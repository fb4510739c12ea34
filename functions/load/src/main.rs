//! The Lambda `load`: any JSON is a trigger.

use std::{sync::Arc, time::Duration};

use azul_vt::{
    lambda,
    settings::Settings,
    store::{self, SystemClock},
    telemetry::{self, Format},
};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use load::Load;
use serde_json::Value;

/// What is kept of the invocation's time for ending at the border of a batch.
const MARGIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Error> {
    let settings = Settings::from_env()?;
    telemetry::init(&settings.log, Format::Json)?;
    let store = store::open(&settings).await?;
    let load = Arc::new(Load::from_settings(settings, store, Arc::new(SystemClock)).await?);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let load = Arc::clone(&load);
        async move {
            let limits = lambda::limits_before(event.context.deadline(), MARGIN);
            Ok::<_, Error>(load.handle(&event.payload, &limits).await?)
        }
    }))
    .await
}
