//! `vt query`: looks up what Azul got elsewhere, for ever.

use std::sync::Arc;

use anyhow::Context as _;
use axum::{extract::Request, http::Method};
use azul_vt::{
    pipeline::Limits,
    secrets::Secret,
    settings::Settings,
    store::{self, Claim, Clock, SystemClock, inbox::Queue},
    telemetry::{self, Format},
    webhook::receive::Receiver,
};
use query::Query;

use crate::{
    cli::QueryArgs,
    failure::{Failure, say},
    load::{runtime, stop_on_signal},
    metrics,
    server::Server,
    waiting::Waiting,
};

/// Name of the lease.
const NAME: &str = "query";

/// Runs `vt query`.
pub(crate) fn run(args: &QueryArgs) -> Result<(), Failure> {
    let settings = crate::settings::read()?;
    telemetry::init(&settings.log, Format::Text).map_err(Failure::usage)?;
    runtime()?.block_on(query(args, settings))
}

async fn query(args: &QueryArgs, settings: Settings) -> Result<(), Failure> {
    let store = store::open(&settings).await.map_err(Failure::job)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let query = Query::from_settings(settings, store.clone(), Arc::clone(&clock));
    let query = Arc::new(query.map_err(Failure::usage)?);
    // With this lease nobody else takes work here, so what is taken was left by a process that ended.
    let limits = Limits::default();
    stop_on_signal(&limits);
    let claim =
        match Claim::take(&store.leases, &clock, NAME, &limits).await.map_err(Failure::job)? {
            Ok(claim) => claim,
            Err(owner) => {
                say(&format!("another `vt query` is at work ({owner})"));
                return Ok(());
            }
        };
    store.inbox.reclaim(Queue::Query, clock.now()).await.map_err(Failure::job)?;
    if args.listen {
        listen(&query, &claim.limits).await?;
    }
    let gateway = metrics::gateway(&query.settings, NAME)?;
    let (looked_at, stop) = (Arc::clone(&query), claim.limits.child());
    let pushing = gateway.map(|gateway| {
        let stop = stop.clone();
        tokio::spawn(async move { waiting(&looked_at).keep_pushing(&gateway, &stop).await })
    });
    let outcome = query.run(&claim.limits).await;
    stop.stop.cancel();
    if let Some(pushing) = pushing {
        pushing.await.map_err(Failure::job)?;
    }
    claim.give_back().await.map_err(Failure::job)?;
    let drained = outcome.map_err(Failure::job)?;
    say(&format!(
        "answered {} look-ups; {} put back, {} given up",
        drained.done, drained.again, drained.buried
    ));
    Ok(())
}

fn waiting(query: &Query) -> Waiting<'_> {
    let (store, clock, windows) = (&query.store, &*query.clock, &*query.settings.lookup.windows);
    Waiting { store, queue: Queue::Query, windows, clock }
}

/// Serves webhooks until `limits` end.
async fn listen(query: &Arc<Query>, limits: &Limits) -> Result<(), Failure> {
    let settings = &query.settings;
    let (address, secrets) = (settings.lookup.webhook_listen, &settings.lookup.webhook_secrets);
    let secrets = Secret::of("WEBHOOK_SECRETS", secrets.as_ref(), settings);
    let is_open = secrets.is_none();
    let (store, clock) = (query.store.clone(), Arc::clone(&query.clock));
    let receiver = Receiver::new(secrets, Queue::Query, store, clock);
    let receiver = Arc::new(receiver.context("WEBHOOK_SECRETS").map_err(Failure::Usage)?);
    let secrets = is_open.then_some("WEBHOOK_SECRETS");
    let server = Server::bind("WEBHOOK_LISTEN", address, secrets).await?;
    let (query, limits) = (Arc::clone(query), limits.clone());
    tokio::spawn(async move {
        let answer = move |request: Request| {
            let (query, receiver) = (Arc::clone(&query), Arc::clone(&receiver));
            async move {
                if request.method() == Method::GET && request.uri().path() == "/metrics" {
                    return waiting(&query).answer().await;
                }
                receiver.handle(request, &*query.decide()).await
            }
        };
        if let Err(error) = server.serve(&limits, answer).await {
            tracing::error!(
                error = azul_vt::errors::chain(&error),
                "webhooks are not taken any more"
            );
            limits.stop.cancel();
        }
    });
    Ok(())
}
