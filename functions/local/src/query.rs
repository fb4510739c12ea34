//! `vt query`: looks up what Azul got elsewhere, for ever.

use std::sync::Arc;

use anyhow::Context as _;
use axum::{Router, body::Body, extract::Request};
use azul_vt::{
    pipeline::Limits,
    secrets::Secret,
    settings::Settings,
    store::{self, Clock, Grant, Keeper, SystemClock, inbox::Queue},
    telemetry::{self, Format},
    webhook::{LetIn, receive::Receiver},
};
use query::Query;
use tokio::net::TcpListener;

use crate::{
    cli::QueryArgs,
    failure::{Failure, say},
    load::{runtime, stop_on_signal},
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
    let owner = load::owner();
    let lease = match store.leases.acquire(NAME, &owner, clock.now()).await.map_err(Failure::job)? {
        Grant::Acquired(lease) => lease,
        Grant::Held { owner, since } => {
            say(&format!("another `vt query` is at work ({owner}, since {since:.0})"));
            return Ok(());
        }
    };
    let limits = Limits::default();
    stop_on_signal(&limits);
    let keeper = Keeper::start(&store.leases, &clock, &lease, &limits.stop);
    store.inbox.reclaim(Queue::Query, clock.now()).await.map_err(Failure::job)?;
    if args.listen {
        listen(&query, &limits).await?;
    }
    let outcome = query.run(&limits).await;
    drop(keeper);
    store.leases.release(lease).await.map_err(Failure::job)?;
    let drained = outcome.map_err(Failure::job)?;
    say(&format!(
        "answered {} look-ups; {} put back, {} given up",
        drained.done, drained.again, drained.buried
    ));
    Ok(())
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
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("WEBHOOK_LISTEN: cannot listen on {address}"))
        .map_err(Failure::Job)?;
    let address = listener.local_addr().map_err(Failure::job)?;
    let note = if is_open { " (loopback only: set WEBHOOK_SECRETS to serve others)" } else { "" };
    say(&format!("listening on http://{address}{note}"));
    let query = Arc::clone(query);
    // Without secrets settings.rs allows loopback addresses only.
    let let_in = address.ip().is_loopback();
    let app = Router::new().fallback(move |mut request: Request| {
        let (query, receiver) = (Arc::clone(&query), Arc::clone(&receiver));
        if let_in {
            request.extensions_mut().insert(LetIn);
        }
        async move { receiver.handle(request, &*query.decide()).await.map(Body::from) }
    });
    let stop = limits.stop.clone();
    tokio::spawn(async move {
        let ended = stop.clone();
        let served = axum::serve(listener, app)
            .with_graceful_shutdown(async move { ended.cancelled().await })
            .await;
        if let Err(error) = served {
            tracing::error!(
                error = azul_vt::errors::chain(&error),
                "webhooks are not taken any more"
            );
            stop.cancel();
        }
    });
    Ok(())
}
