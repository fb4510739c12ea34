//! The job of `ingest`: feed records that somebody posts become events at the dispatcher.
//!
//! One handler from `http::Request` to `http::Response`, served by a function URL and by `vt ingest`. A body is staged
//! under `posted/<sha256>` before it is worked and removed when it is delivered. Status 200 means that the body is
//! delivered, 202 that it is staged, and 422 that none of its records was taken. A body that stays staged is delivered
//! later, here or by the next `load`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use azul_vt::{
    bundle::BundleError,
    errors::chain,
    http_client,
    metrics::{self, prometheus},
    pipeline::{DeliverError, Pipeline, RunLimits, posted, publish::PublishError},
    settings::Settings,
    store::{Clock, Store},
    webhook::{BadSecret, arriving::ArrivingBodies},
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use jiff::SignedDuration;
use tokio::sync::Semaphore;
use tracing::Instrument as _;

mod auth;
mod body;
mod on_lambda;
mod reply;

use auth::{Auth, Caller};
pub use on_lambda::OnLambda;
use reply::{BodyReport, Problem, Reply};

/// The function's name.
pub const NAME: &str = "ingest";
/// Longest wait of a caller for the delivery. After it the caller is answered that its body is staged.
pub const WAIT: Duration = Duration::from_secs(25);
/// Time within which a prepared upload must begin.
const UPLOAD: SignedDuration = SignedDuration::from_mins(15);
/// Most bytes of the body of a request for an upload. The body is only read to check its signature.
const MAX_UPLOAD_REQUEST: u64 = 64 * 1024;
/// Number of bodies that are delivered at once. Further bodies stay staged and wait.
const AT_ONCE: usize = 4;
/// Most disk space of all bodies that are arriving, as a multiple of the largest body. Bodies are on disk before their
/// signatures are checked, so the space must be limited.
const MAX_ARRIVING: u64 = 4;

/// Everything that ingesting needs.
pub struct Ingest {
    /// State.
    pub store: Store,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Pipeline that turns lines into events and delivers them.
    pub pipeline: Pipeline,
    /// Limits of deliveries, which end at the border of a batch. A body that is not delivered completely stays staged.
    pub limits: RunLimits,
    /// Longest wait of a caller for the delivery.
    pub wait: Duration,
    /// Whether the process's metrics are at `/metrics`. It is false if the process has metrics of other functions too,
    /// because this address may be open to many.
    pub shows_metrics: bool,
    auth: Auth,
    headers: HeaderMap,
    max_body_bytes: u64,
    arriving: ArrivingBodies,
    places: Arc<Semaphore>,
    in_work: Mutex<BTreeSet<String>>,
}

impl Ingest {
    /// Creates `ingest` from its parts.
    ///
    /// # Errors
    /// [`BadSecret`] if a secret of `INGEST_SECRETS` is not a valid `whsec_` key.
    pub fn new(
        settings: &Settings,
        store: Store,
        clock: Arc<dyn Clock>,
        pipeline: Pipeline,
    ) -> Result<Self, BadSecret> {
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.plugin_headers {
            if let (Ok(name), Ok(value)) =
                (header::HeaderName::try_from(name), header::HeaderValue::try_from(value))
            {
                headers.insert(name, value);
            }
        }
        Ok(Self {
            auth: Auth::new(settings)?,
            store,
            clock,
            pipeline,
            limits: RunLimits::default(),
            wait: WAIT,
            shows_metrics: true,
            headers,
            max_body_bytes: settings.max_bundle_bytes,
            arriving: ArrivingBodies::new(settings.max_bundle_bytes.saturating_mul(MAX_ARRIVING)),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            in_work: Mutex::default(),
        })
    }

    /// Answers one request. It never fails; an error becomes an answer with an error status.
    pub async fn handle<B>(self: &Arc<Self>, request: Request<B>) -> Response<Bytes>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let json = wants_json(request.headers());
        let reply = self.route(request).await.unwrap_or_else(Reply::from);
        metrics::ANSWERS.add([NAME, reply.status.as_str()], 1);
        if reply.status == StatusCode::UNAUTHORIZED {
            metrics::SIGNATURE_FAILURES.add([NAME], 1);
        }
        let mut response = reply.into_response(json);
        for (name, value) in &self.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        response
    }

    async fn route<B>(self: &Arc<Self>, request: Request<B>) -> Result<Reply, Problem>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = request.uri().path();
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match path {
            "/" if get => {
                Ok(Reply::text("azul-vt ingest: POST feed records here, as JSON lines\n"))
            }
            "/health" if get => Ok(Reply::text("ok\n")),
            "/metrics" if !self.shows_metrics => Err(Problem::NoSuchPath),
            "/metrics" if get => {
                prometheus::render().map(Reply::metrics).ok_or(Problem::NoSuchPath)
            }
            "/" | "/virustotal" if request.method() == Method::POST => self.post(request).await,
            "/" => Err(Problem::Method("GET, HEAD, POST")),
            "/uploads" if request.method() == Method::POST => self.upload(request).await,
            "/virustotal" | "/uploads" => Err(Problem::Method("POST")),
            "/health" | "/metrics" => Err(Problem::Method("GET, HEAD")),
            _ => Err(Problem::NoSuchPath),
        }
    }

    async fn post<B>(self: &Arc<Self>, request: Request<B>) -> Result<Reply, Problem>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let headers = request.headers();
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > self.max_body_bytes) {
            return Err(Problem::TooLarge(self.max_body_bytes));
        }
        let caller = self.auth.check(headers, request.extensions(), self.clock.now()).await?;
        reply::check_content_type(headers)?;
        let encoding = reply::content_encoding(headers)?;
        let key = self.stage(caller, encoding, request.into_body()).await?;
        Ok(self.deliver_or_leave(key).await)
    }

    /// Prepares the upload of a body that is too large for a function URL. The caller puts the body into the bucket,
    /// and the bucket's event makes `load` deliver it.
    async fn upload<B>(&self, request: Request<B>) -> Result<Reply, Problem>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let now = self.clock.now();
        let caller = self.auth.check(request.headers(), request.extensions(), now).await?;
        body::check(request.into_body(), caller, MAX_UPLOAD_REQUEST).await?;
        let day = now.strftime("%Y/%m/%d");
        let key =
            format!("incoming/{day}/{}{}", http_client::request_id(), http_client::request_id());
        let upload = self.store.bundles.presign_put(&key, UPLOAD, now).await;
        let upload = upload.map_err(Problem::Presign)?.ok_or(Problem::NoUploads)?;
        tracing::info!(key, "an upload was prepared");
        Ok(Reply::upload(upload))
    }

    async fn stage<B>(
        &self,
        caller: Caller,
        encoding: Option<azul_vt::bundle::Compression>,
        body: B,
    ) -> Result<String, Problem>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let scratch = self.store.bundles.scratch();
        let arriving = self.arriving.begin();
        let received =
            body::receive(scratch, body, caller, encoding, self.max_body_bytes, &arriving).await?;
        let key = format!("{}{}", posted::FOLDER, received.sha256_hex);
        self.store.bundles.put_file(&key, received.file.path()).await.map_err(Problem::State)?;
        Ok(key)
    }

    /// Delivers a staged body, and answers when it is done or after the wait, whichever comes first.
    async fn deliver_or_leave(self: &Arc<Self>, key: String) -> Reply {
        let this = Arc::clone(self);
        // The delivery has its own task, so that it goes on if the caller goes away.
        let task = tokio::spawn(async move { this.deliver(&key).await }.in_current_span());
        match tokio::time::timeout(self.wait, task).await {
            Err(_) => Reply::staged("the dispatcher has not acknowledged it yet"),
            Ok(Err(_)) => Reply::staged("the delivery broke off; it will be tried again"),
            Ok(Ok(outcome)) => outcome,
        }
    }

    async fn deliver(&self, key: &str) -> Reply {
        // Another request or the sweep is delivering the same body, so its outcome is not known here.
        let Some(_work) = self.begin(key) else {
            return Reply::staged("the same body is being delivered already");
        };
        let Ok(_place) = self.places.acquire().await else {
            return Reply::staged("the server is ending");
        };
        self.register().await;
        self.outcome(posted::deliver(&self.pipeline, key, self.clock.now(), &self.limits).await)
    }

    /// Registers this plugin at Azul, once for each process. It is called before each delivery, so that a function URL
    /// can start without a dispatcher, and a registration that failed is tried again. A failure is only logged, because
    /// bodies can be delivered without the registration.
    pub async fn register(&self) {
        match self.pipeline.register(self.clock.now(), &self.limits).await {
            Ok(()) | Err(PublishError::Interrupted { .. }) => {}
            Err(error) => tracing::error!(error = chain(&error), "the plugin is not registered"),
        }
    }

    fn outcome(&self, outcome: Result<Option<posted::Posted>, DeliverError>) -> Reply {
        match outcome {
            Ok(Some(posted)) => {
                metrics::count(NAME, &posted.counts, self.clock.now());
                let account = BodyReport::new(posted);
                if account.is_refused() {
                    Reply::refused(account)
                } else {
                    Reply::delivered(account)
                }
            }
            Ok(None) => Reply::staged("the server is ending"),
            Err(DeliverError::Bundle(BundleError::TooLarge { limit })) => {
                Reply::from(Problem::TooLarge(limit))
            }
            Err(DeliverError::Bundle(error)) if !error.is_transient() => {
                Reply::from(Problem::Undecodable(chain(&error)))
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "a posted body was not delivered; it stays staged");
                Reply::staged("it could not be delivered now; the server's log says why")
            }
        }
    }

    /// Delivers the bodies that were left staged. Returns how many were delivered.
    pub async fn sweep(&self) -> u64 {
        let claim = |key: &str| self.begin(key);
        let delivered = |posted: &posted::Posted| {
            metrics::count(NAME, &posted.counts, self.clock.now());
        };
        let (swept, error) =
            posted::sweep(&self.pipeline, &*self.clock, &self.limits, claim, delivered).await;
        if let Some(error) = error {
            tracing::error!(error = chain(&error), "what is staged was not delivered whole");
        }
        swept
    }

    fn begin(&self, key: &str) -> Option<Work<'_>> {
        let mut in_work = self.in_work.lock().unwrap_or_else(PoisonError::into_inner);
        in_work.insert(key.to_owned()).then(|| Work { ingest: self, key: key.to_owned() })
    }
}

/// A body that is being delivered by this process.
struct Work<'a> {
    ingest: &'a Ingest,
    key: String,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let mut in_work = self.ingest.in_work.lock().unwrap_or_else(PoisonError::into_inner);
        in_work.remove(&self.key);
    }
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    accept.is_some_and(|accept| accept.contains("application/json"))
}

/// Status of the answer if a body is staged but not delivered yet.
const STAGED: StatusCode = StatusCode::ACCEPTED;
