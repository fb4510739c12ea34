//! `vt ingest`: a server for posted records.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use azul_vt::{
    pipeline::Pipeline,
    settings::Settings,
    store::{self, SystemClock},
};
use ingest::Ingest;

use crate::{
    failure::Failure,
    load::{runtime, stop_on_signal},
    metrics,
    server::Server,
};

/// Time between two attempts to deliver the bodies that are still staged.
const SWEEP: Duration = Duration::from_secs(30);

/// Runs `vt ingest`.
pub(crate) fn run() -> Result<(), Failure> {
    let settings = crate::settings::begin()?;
    runtime()?.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    let store = store::open(&settings.state_options()).await.map_err(Failure::job)?;
    let pipeline =
        Pipeline::from_settings(&settings, store.clone()).await.map_err(Failure::usage)?;
    let ingest = Ingest::new(&settings, store, Arc::new(SystemClock), pipeline);
    let ingest = Arc::new(ingest.context("INGEST_SECRETS").map_err(Failure::Usage)?);
    let gateway = metrics::gateway(&settings, ingest::NAME)?;
    stop_on_signal(&ingest.limits);
    let server = bind(&settings).await?;
    let operators = Server::bind_for_operators(&settings).await;
    let working = async {
        let measure = || async { Ok(()) };
        tokio::join!(listen(server, &ingest), metrics::serve(operators, &ingest.limits, measure),);
        Ok(())
    };
    metrics::pushing(gateway.as_ref(), &ingest.limits, async || Ok(()), working).await
}

/// Takes the address that the settings name.
pub(crate) async fn bind(settings: &Settings) -> Result<Server, Failure> {
    let open = !settings.ingest_is_authenticated();
    let secrets = open.then_some("INGEST_SECRETS or INGEST_TOKENS");
    Server::bind("INGEST_LISTEN", settings.ingest_listen, settings, secrets).await
}

/// Takes bodies until the limits of `ingest` end, and delivers staged bodies meanwhile.
pub(crate) async fn listen(server: Server, ingest: &Arc<Ingest>) {
    tokio::spawn(keep_up(Arc::clone(ingest)));
    let service = Arc::clone(ingest);
    let answer = move |request| {
        let ingest = Arc::clone(&service);
        async move { ingest.handle(request).await }
    };
    server.serve(&ingest.limits, answer).await;
}

/// Registers the plugin, then delivers staged bodies again and again.
async fn keep_up(ingest: Arc<Ingest>) {
    // The registration waits for a dispatcher that is down; bodies are taken meanwhile.
    ingest.register().await;
    loop {
        ingest.sweep().await;
        if ingest.limits.sleep(SWEEP).await {
            return;
        }
    }
}
