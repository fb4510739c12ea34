//! The Lambda `download`: webhooks by its function URL; what its queue hands over; any other event polls the
//! dispatcher and works what waits, until its time is over.

use std::{sync::Arc, time::Duration};

use azul_vt::{
    lambda,
    settings::Settings,
    store::{self, SystemClock},
    tasks::Tasks as _,
    telemetry::{self, Format},
};
use download::Download;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

/// What is kept of the invocation's time: the dispatcher's answer to a poll may come half a minute late.
const MARGIN: Duration = Duration::from_secs(40);

#[tokio::main]
async fn main() -> Result<(), Error> {
    let settings = Settings::from_env()?;
    telemetry::init(&settings.log, Format::Json)?;
    let store = store::open(&settings).await?;
    let download = Download::from_settings(settings, store, Arc::new(SystemClock))?;
    let receiver = download.common().receiver()?;
    let serve = Arc::new((download, receiver));
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let serve = Arc::clone(&serve);
        async move {
            let (download, receiver) = &*serve;
            let limits = lambda::limits_before(event.context.deadline(), MARGIN);
            Ok::<_, Error>(download.handle(receiver, &event.payload, &limits).await?)
        }
    }))
    .await
}
