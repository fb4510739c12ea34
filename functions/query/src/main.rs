//! The Lambda `query`: webhooks by its function URL; what its queue hands over; any other event polls the
//! dispatcher and works what waits, until its time is over.

use std::{sync::Arc, time::Duration};

use azul_vt::{
    lambda,
    secrets::Secret,
    settings::Settings,
    store::{self, Clock, SystemClock, inbox::Queue},
    telemetry::{self, Format},
    webhook::receive::Receiver,
};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use query::Query;
use serde_json::Value;

/// What is kept of the invocation's time: the dispatcher's answer to a poll may come half a minute late.
const MARGIN: Duration = Duration::from_secs(40);

#[tokio::main]
async fn main() -> Result<(), Error> {
    let settings = Settings::from_env()?;
    telemetry::init(&settings.log, Format::Json)?;
    let store = store::open(&settings).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let secrets = settings.lookup.webhook_secrets.as_ref();
    let secrets = Secret::of("WEBHOOK_SECRETS", secrets, &settings);
    let receiver = Receiver::new(secrets, Queue::Query, store.clone(), Arc::clone(&clock))?;
    let query = Arc::new(Query::from_settings(settings, store, clock)?);
    let receiver = Arc::new(receiver);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let (query, receiver) = (Arc::clone(&query), Arc::clone(&receiver));
        async move {
            let limits = lambda::limits_before(event.context.deadline(), MARGIN);
            match lambda::webhook(&event.payload)? {
                Some(request) => {
                    let response = receiver.handle(request, &*query.decide()).await;
                    Ok::<_, Error>(lambda::answer(&response))
                }
                None => Ok(query.handle(&event.payload, &limits).await?),
            }
        }
    }))
    .await
}
