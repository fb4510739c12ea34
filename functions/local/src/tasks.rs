//! `vt query` and `vt download`: work the events of the dispatcher until they are stopped.

use std::sync::Arc;

use anyhow::Context as _;
use azul_vt::{
    pipeline::RunLimits,
    settings::Settings,
    store::{self, Claim, Clock, Store, SystemClock},
    tasks::{EventFunction, TaskContext},
};
use http::Method;

use crate::{
    failure::{Failure, say},
    load::{runtime, stop_on_signal},
    metrics,
    server::{Request, Server},
};

/// Runs a function that `build` makes of settings, state and clock; with `listen` it takes webhooks too.
pub(crate) fn run<T: EventFunction + 'static, E: std::error::Error + Send + Sync + 'static>(
    listen: bool,
    build: impl Fn(Settings, Store, Arc<dyn Clock>) -> Result<T, E>,
) -> Result<(), Failure> {
    let settings = crate::settings::begin()?;
    runtime()?.block_on(async {
        let store = store::open(&settings.state_options()).await.map_err(Failure::job)?;
        let tasks = build(settings, store, Arc::new(SystemClock)).map_err(Failure::usage)?;
        let tasks = Arc::new(tasks);
        let limits = RunLimits::default();
        stop_on_signal(&limits);
        let gateway = metrics::gateway(&tasks.common().settings, T::NAME)?;
        let working = work(listen, &tasks, &limits);
        metrics::pushing(gateway.as_ref(), &limits, async || tasks.measure().await, working).await
    })
}

/// Works until `limits` end, or returns if another process holds the lease. With `listen`, webhooks are taken too.
pub(crate) async fn work<T: EventFunction + 'static>(
    listen: bool,
    tasks: &Arc<T>,
    limits: &RunLimits,
) -> Result<(), Failure> {
    let TaskContext { store, clock, about, .. } = tasks.common();
    let name = T::NAME;
    // While this process holds the lease, no other one takes work here. So an item that is still marked as taken was
    // left by a process that ended.
    let claim = match Claim::take(&store.leases, clock, name, limits).await.map_err(Failure::job)? {
        Ok(claim) => claim,
        Err(owner) => {
            say(&format!("another `vt {name}` is at work ({owner})"));
            return Ok(());
        }
    };
    store.inbox.reclaim(about.queue, clock.now()).await.map_err(Failure::job)?;
    if listen {
        take_webhooks(tasks, &claim.limits).await?;
    }
    let outcome = tasks.run(&claim.limits).await;
    claim.give_back().await.map_err(Failure::job)?;
    let drained = outcome.map_err(Failure::job)?;
    say(&format!(
        "{} events done; {} put back, {} given up",
        drained.done, drained.again, drained.buried
    ));
    Ok(())
}

/// Serves webhooks until `limits` end.
async fn take_webhooks<T: EventFunction + 'static>(
    tasks: &Arc<T>,
    limits: &RunLimits,
) -> Result<(), Failure> {
    let common = tasks.common();
    let receiver = common.receiver().context("WEBHOOK_SECRETS").map_err(Failure::Usage)?;
    let receiver = Arc::new(receiver);
    let lookup = &common.settings.lookup;
    let secrets = lookup.webhook_secrets.is_none().then_some("WEBHOOK_SECRETS");
    let address = lookup.webhook_listen;
    let server = Server::bind("WEBHOOK_LISTEN", address, &common.settings, secrets).await?;
    let operators = Server::bind_for_operators(&common.settings).await;
    let (tasks, limits) = (Arc::clone(tasks), limits.clone());
    let measured = Arc::clone(&tasks);
    tokio::spawn(async move {
        let answer = move |request: Request| {
            let (tasks, receiver) = (Arc::clone(&tasks), Arc::clone(&receiver));
            async move {
                if request.method() == Method::GET && request.uri().path() == "/metrics" {
                    return metrics::answer(tasks.measure().await);
                }
                receiver.handle(request, &*tasks.decide()).await
            }
        };
        let measure = move || {
            let tasks = Arc::clone(&measured);
            async move { tasks.measure().await }
        };
        tokio::join!(server.serve(&limits, answer), metrics::serve(operators, &limits, measure));
    });
    Ok(())
}
