//! The Lambda `hunt`: any JSON reads what is new, `{"retrohunt":"<job>"}` the matches of a job.

use std::{sync::Arc, time::Duration};

use azul_vt::{
    lambda,
    settings::Settings,
    store::{self, SystemClock},
    telemetry::{self, Format},
};
use hunt::{Hunt, Trigger};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

/// What is kept of the invocation's time for ending at the border of a page.
const MARGIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Error> {
    let settings = Settings::from_env()?;
    telemetry::init(&settings.log, Format::Json)?;
    let store = store::open(&settings).await?;
    let hunt = Arc::new(Hunt::from_settings(settings, store, Arc::new(SystemClock))?);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let hunt = Arc::clone(&hunt);
        async move {
            let limits = lambda::limits_before(event.context.deadline(), MARGIN);
            Ok::<_, Error>(json!(hunt.run(&Trigger::of(&event.payload), &limits).await?))
        }
    }))
    .await
}
