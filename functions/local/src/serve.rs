//! `vt serve`: all functions in one process, each on its schedule.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use azul_vt::{
    errors::chain,
    lambda::Function as _,
    peers::{ClockCheck, Peer, PeerOutage},
    pipeline::{Pipeline, RunLimits},
    settings::Settings,
    store::{self, Clock, Store, StoreError, SystemClock},
    tasks::EventFunction,
    webhook::receive::Receiver,
};
use bytes::Bytes;
use download::Download;
use http::{HeaderValue, Method, Response, StatusCode, Uri, header::CONTENT_TYPE};
use hunt::Hunt;
use ingest::Ingest;
use jiff::Timestamp;
use load::Load;
use query::Query;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Function, ServeArgs},
    failure::{Failure, say},
    load::{runtime, stop_on_signal},
    metrics,
    server::{Request, Server},
    status, tasks,
};

/// Wait before a function that failed, or that another process runs, is begun again. A run that lasts this long is well.
const AGAIN: Duration = Duration::from_mins(1);

/// Longest wait of `load` and `hunt` for the first poll of `download`.
const FIRST_POLL: Duration = Duration::from_mins(1);

/// Key of the object that `/health` writes and removes, to see whether the state can be written.
const PROBE: &str = "health/probe";
/// Size of that object. A file system may have room for a few bytes and for nothing else.
const PROBE_BYTES: usize = 64 * 1024;
/// Longest time that `/health` waits for its probe, for example on a disk that hangs.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// Runs `vt serve`.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let settings = crate::settings::begin()?;
    runtime()?.block_on(serve(args, settings))
}

/// The functions that are run, and how they are.
struct Served {
    settings: Settings,
    store: Store,
    load: Option<Arc<Load>>,
    ingest: Option<Arc<Ingest>>,
    query: Option<ServedFunction<Query>>,
    download: Option<ServedFunction<Download>>,
    hunt: Option<Arc<Hunt>>,
    board: Board,
}

/// A function, and who takes its webhooks.
struct ServedFunction<T> {
    tasks: Arc<T>,
    receiver: Receiver,
}

impl<T: EventFunction> ServedFunction<T> {
    fn new(tasks: T) -> Result<Self, Failure> {
        let receiver = tasks.common().receiver().context("WEBHOOK_SECRETS");
        let receiver = receiver.map_err(Failure::Usage)?;
        Ok(Self { tasks: Arc::new(tasks), receiver })
    }

    /// Takes a webhook, which [`Receiver`] knows by the path `/`.
    async fn take(&self, mut request: Request) -> Response<Bytes> {
        *request.uri_mut() = Uri::from_static("/");
        self.receiver.handle(request, &*self.tasks.decide()).await
    }
}

/// How a function is.
#[derive(Clone, Debug, Serialize)]
struct Standing {
    /// `running`, `waiting` for its next run or for the first poll of `download`, or `ended`.
    state: &'static str,
    since: Timestamp,
    /// Why it failed last, until it is well again.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How all functions are, by name.
#[derive(Default)]
struct Board(Mutex<BTreeMap<&'static str, Standing>>);

impl Board {
    /// A function begins; whether it is well will be seen.
    fn begun(&self, name: &'static str) {
        let error = self.all().remove(name).and_then(|standing| standing.error);
        self.set(name, "running", error);
    }

    fn set(&self, name: &'static str, state: &'static str, error: Option<String>) {
        let standing = Standing { state, since: Timestamp::now(), error };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, standing);
    }

    fn all(&self) -> BTreeMap<&'static str, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(args: &ServeArgs, settings: Settings) -> Result<(), Failure> {
    let limits = RunLimits::default();
    stop_on_signal(&limits);
    // Boxed, here and below: what setting up holds is large, and gone afterwards.
    let all = Arc::new(Box::pin(Served::new(args, settings, &limits)).await?);
    let gateway = metrics::gateway(&all.settings, "serve")?;
    // Without secrets only what comes from this machine may post, which the receivers check.
    let at = &all.settings;
    let server = Server::bind("SERVE_LISTEN", at.serve_listen, at, None).await?;
    let posts = if all.query.is_some() || all.download.is_some() {
        let (address, most) = (at.lookup.webhook_listen, at.max_connections);
        Server::bind_beside("WEBHOOK_LISTEN", address, most, "webhooks").await
    } else {
        None
    };
    let ingest_server = match &all.ingest {
        Some(_) => Some(crate::ingest::bind(&all.settings).await?),
        None => None,
    };
    let functions = async {
        Box::pin(all.functions(ingest_server, &limits)).await;
        // All of them ended, so there is nothing more to tell of.
        limits.stop.cancel();
    };
    let answering = Arc::clone(&all);
    let respond = move |request| {
        let all = Arc::clone(&answering);
        async move { all.answer(request).await }
    };
    let taking = Arc::clone(&all);
    let take = move |request| {
        let all = Arc::clone(&taking);
        async move { all.take(request).await }
    };
    let webhooks = async {
        if let Some(posts) = posts {
            posts.serve(&limits, take).await;
        }
    };
    let answers = Box::pin(server.serve(&limits, respond));
    let working = async {
        tokio::join!(functions, answers, Box::pin(webhooks));
    };
    let measure = async || all.measure().await;
    metrics::pushing(gateway.as_ref(), &limits, measure, working).await;
    say("vt serve: ended");
    Ok(())
}

impl Served {
    /// Sets up the functions that are asked for, all of them before any begins.
    async fn new(
        args: &ServeArgs,
        settings: Settings,
        limits: &RunLimits,
    ) -> Result<Self, Failure> {
        let runs = |function| match function {
            _ if !args.functions.is_empty() => args.functions.contains(&function),
            Function::Query => !settings.lookup.sources.is_empty(),
            _ => true,
        };
        let store = store::open(&settings.state_options()).await.map_err(Failure::job)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let with = || (settings.clone(), store.clone(), Arc::clone(&clock));
        let mut served = Self {
            load: None,
            ingest: None,
            query: None,
            download: None,
            hunt: None,
            board: Board::default(),
            settings: settings.clone(),
            store: store.clone(),
        };
        if runs(Function::Load) {
            if settings.virustotal_apikey.is_none() {
                return Err(Failure::usage(load::LoadError::NoKey));
            }
            let (settings, store, clock) = with();
            let load = Load::from_settings(settings, store, clock).await;
            let mut load = load.map_err(Failure::usage)?;
            load.sweeps = !runs(Function::Ingest);
            served.load = Some(Arc::new(load));
        }
        if runs(Function::Ingest) {
            let pipeline = Pipeline::from_settings(&settings, store.clone()).await;
            let pipeline = pipeline.map_err(Failure::usage)?;
            let ingest = Ingest::new(&settings, store.clone(), Arc::clone(&clock), pipeline);
            let mut ingest = ingest.context("INGEST_SECRETS").map_err(Failure::Usage)?;
            ingest.limits = limits.child();
            ingest.shows_metrics = false;
            served.ingest = Some(Arc::new(ingest));
        }
        if runs(Function::Query) {
            let (settings, store, clock) = with();
            let query = Query::from_settings(settings, store, clock).map_err(Failure::usage)?;
            served.query = Some(ServedFunction::new(query)?);
        } else if args.functions.is_empty() {
            say("vt serve: query is not run, because LOOKUP_SOURCES is not set");
        }
        if runs(Function::Download) {
            let (settings, store, clock) = with();
            let download = Download::from_settings(settings, store, clock);
            served.download = Some(ServedFunction::new(download.map_err(Failure::usage)?)?);
        }
        if runs(Function::Hunt) {
            let (settings, store, clock) = with();
            let hunt = Hunt::from_settings(settings, store, clock).map_err(Failure::usage)?;
            served.hunt = Some(Arc::new(hunt));
        }
        Ok(served)
    }

    /// Runs the functions until `limits` end.
    async fn functions(&self, ingest_server: Option<Server>, limits: &RunLimits) {
        let download_ended = CancellationToken::new();
        let load = async {
            let Some(load) = &self.load else { return };
            self.wait_for_download(load::NAME, &download_ended, limits).await;
            self.keep(load::NAME, limits, |limits| {
                let load = Arc::clone(load);
                async move { crate::load::run_once(&load, &limits).await }
            })
            .await;
        };
        let hunt = async {
            let Some(hunt) = &self.hunt else { return };
            self.wait_for_download(hunt::NAME, &download_ended, limits).await;
            self.keep(hunt::NAME, limits, |limits| {
                let hunt = Arc::clone(hunt);
                async move { crate::hunt::run_once(&hunt, &limits).await }
            })
            .await;
        };
        let ingest = async {
            let (Some(ingest), Some(server)) = (&self.ingest, ingest_server) else { return };
            self.board.set(ingest::NAME, "running", None);
            let ingest = Arc::clone(ingest);
            let run = tokio::spawn(async move { crate::ingest::listen(server, &ingest).await });
            if let Err(panic) = run.await {
                let error = line(&Failure::job(panic));
                tracing::error!(error, "ingest failed; until a restart it takes nothing");
                self.board.set(ingest::NAME, "ended", Some(error));
            }
        };
        tokio::join!(
            load,
            hunt,
            ingest,
            self.tasks(self.query.as_ref(), None, limits),
            self.tasks(self.download.as_ref(), Some(&download_ended), limits)
        );
    }

    /// Runs a function that works events until `limits` end. Cancels `ended` when its first run has ended.
    async fn tasks<T: EventFunction + 'static>(
        &self,
        attended: Option<&ServedFunction<T>>,
        ended: Option<&CancellationToken>,
        limits: &RunLimits,
    ) {
        let Some(ServedFunction { tasks, .. }) = attended else { return };
        self.keep(T::NAME, limits, |limits| {
            // Dropping the guard cancels the token, also when the run panics.
            let ended = ended.cloned().map(CancellationToken::drop_guard);
            let tasks = Arc::clone(tasks);
            async move {
                let outcome = tasks::work(false, &tasks, &limits).await;
                drop(ended);
                outcome.map(|()| AGAIN)
            }
        })
        .await;
    }

    /// Waits until `download` gets the requests that the function `name` posts, if this process runs `download`. The
    /// first poll of all begins at the latest event, so requests that are posted before it would never be worked. The
    /// wait ends if `download` fails, and after [`FIRST_POLL`], because the feed must not stand still for it.
    async fn wait_for_download(
        &self,
        name: &'static str,
        download_ended: &CancellationToken,
        limits: &RunLimits,
    ) {
        let Some(ServedFunction { tasks, .. }) = &self.download else { return };
        self.board.set(name, "waiting", None);
        tokio::select! {
            () = tasks.common().first_poll() => {}
            () = download_ended.cancelled() => {}
            () = limits.stop.cancelled() => {}
            () = tokio::time::sleep(FIRST_POLL) => tracing::warn!(
                "{name} begins although download has had no answer to its polls for {} s; if it never had one, it \
                 does not get requests that are posted until then",
                FIRST_POLL.as_secs()
            ),
        }
    }

    /// Runs a function until `limits` end: again and again, as long after each run as that says. Each run is a task
    /// of its own, whose panic is a failure like others.
    async fn keep<Run>(
        &self,
        name: &'static str,
        limits: &RunLimits,
        job: impl Fn(RunLimits) -> Run + Send,
    ) where
        Run: Future<Output = Result<Duration, Failure>> + Send + 'static,
    {
        while !limits.reached() {
            self.board.begun(name);
            let mut run = tokio::spawn(job(limits.with_own_count()));
            let ended = tokio::select! {
                ended = &mut run => ended,
                // Some runs end only when they fail.
                () = tokio::time::sleep(AGAIN) => {
                    self.board.set(name, "running", None);
                    run.await
                }
            };
            let wait = match ended.unwrap_or_else(|panic| Err(Failure::job(panic))) {
                Ok(wait) => {
                    self.board.set(name, "waiting", None);
                    wait
                }
                Err(failure) => {
                    let error = line(&failure);
                    tracing::error!(error, "{name} failed; it is begun again in a minute");
                    self.board.set(name, "waiting", Some(error));
                    AGAIN
                }
            };
            limits.sleep(wait).await;
        }
    }

    /// Tells the metrics what only the state knows.
    async fn measure(&self) -> Result<(), StoreError> {
        if let Some(load) = &self.load {
            load.measure().await?;
        }
        if let Some(query) = &self.query {
            query.tasks.measure().await?;
        }
        if let Some(download) = &self.download {
            download.tasks.measure().await?;
        }
        Ok(())
    }

    async fn answer(&self, request: Request) -> Response<Bytes> {
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/health" if get => self.health().await,
            "/status" if get => self.status().await,
            "/metrics" if get => metrics::answer(self.measure().await),
            _ => self.take(request).await,
        }
    }

    /// Takes a webhook for a function that this process runs.
    async fn take(&self, request: Request) -> Response<Bytes> {
        match request.uri().path() {
            "/query" if let Some(query) = &self.query => query.take(request).await,
            "/download" if let Some(download) = &self.download => download.take(request).await,
            _ => {
                let error = "there is nothing here: POST /query, /download, where these run; at SERVE_LISTEN GET /health, /status, /metrics";
                json(StatusCode::NOT_FOUND, &json!({ "error": error }))
            }
        }
    }

    async fn health(&self) -> Response<Bytes> {
        let peers = &self.settings.peers;
        let clock = peers.clock(Timestamp::now());
        let state = self.state_error().await;
        let (status, body) = health(&self.board.all(), &peers.outages(), clock, state);
        json(status, &body)
    }

    /// Writes and removes an object, and returns why that fails, for example on a full disk. For a state under STATEDIR
    /// only: the outages of AWS are known from its answers.
    async fn state_error(&self) -> Option<String> {
        if self.settings.aws.is_some() {
            return None;
        }
        let bundles = &self.store.bundles;
        let written = async {
            bundles.put(PROBE, &vec![0; PROBE_BYTES]).await?;
            bundles.remove(PROBE).await
        };
        match timeout(PROBE_TIME, written).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(chain(&error)),
            Err(_) => Some(format!("writing to the state takes over {} s", PROBE_TIME.as_secs())),
        }
    }

    async fn status(&self) -> Response<Bytes> {
        match status::read(&self.settings, &self.store, Timestamp::now()).await {
            Ok(state) => {
                json(StatusCode::OK, &json!({ "functions": self.board.all(), "state": state }))
            }
            Err(failure) => {
                json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": failure.line() }))
            }
        }
    }
}

/// Returns 200 if every function is well. Returns 503 if the last run of a function failed, a peer has been out for
/// over a minute, a peer's clock differs from the local clock, or `state_error` says why the state cannot be written;
/// the body names which.
fn health(
    functions: &BTreeMap<&'static str, Standing>,
    outages: &BTreeMap<Peer, PeerOutage>,
    clock: ClockCheck,
    state_error: Option<String>,
) -> (StatusCode, Value) {
    let is_apart = matches!(clock, ClockCheck::Apart { .. });
    let ok = functions.values().all(|state| state.error.is_none())
        && !outages.values().any(PeerOutage::is_long)
        && !is_apart
        && state_error.is_none();
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = json!({ "ok": ok, "functions": functions, "outages": outages });
    if is_apart && let Some(body) = body.as_object_mut() {
        body.insert("clock".to_owned(), json!(clock.to_string()));
    }
    if let (Some(error), Some(body)) = (state_error, body.as_object_mut()) {
        body.insert("state".to_owned(), json!(error));
    }
    (status, body)
}

fn line(failure: &Failure) -> String {
    failure.line().unwrap_or_else(|| "it ended".to_owned())
}

fn json(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_out_for_over_a_minute_makes_health_bad() {
        let outage = |seconds| PeerOutage {
            since: Timestamp::UNIX_EPOCH,
            error: "connection refused".to_owned(),
            lasts: Duration::from_secs(seconds),
        };
        for (seconds, status) in [(59, 200), (61, 503)] {
            let outages = BTreeMap::from([(Peer::Dispatcher, outage(seconds))]);
            let (told, body) = health(&BTreeMap::new(), &outages, ClockCheck::Confirmed, None);
            assert_eq!(told.as_u16(), status, "{body}");
            assert_eq!(body["outages"]["dispatcher"]["error"], "connection refused", "{body}");
            assert_eq!(body["outages"]["dispatcher"]["since"], "1970-01-01T00:00:00Z", "{body}");
        }
    }

    #[test]
    fn why_a_function_failed_stands_there_until_it_is_well() {
        let board = Board::default();
        let error = || board.all()["load"].error.clone();
        board.begun("load");
        assert_eq!(error(), None);
        board.set("load", "waiting", Some("the key is refused".to_owned()));
        board.begun("load");
        assert_eq!(board.all()["load"].state, "running");
        assert_eq!(error().as_deref(), Some("the key is refused"));
        board.set("load", "waiting", None);
        board.begun("load");
        assert_eq!(error(), None);
    }
}
