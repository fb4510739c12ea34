//! A webhook's request, from its headers to durable work.
//!
//! The order is: size → caller → type → body and signature → events → inbox → the webhook's id is remembered → 202. A
//! crash before the end loses nothing. The sender gets no 202 and sends again, and the same items are put again.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::{
    BadSecret, Pending, PreAuthenticated, Secrets,
    arriving::{Arriving, ArrivingBodies, NoRoom},
};
use crate::{
    azul::incoming::{self, Incoming, NotEvents, Read},
    errors::chain,
    metrics,
    secrets::Secret,
    store::{
        Clock, Store,
        inbox::{NewItem, Queue},
    },
};

/// Most bytes of a body. A function URL of Lambda takes no more, so the limit is the same everywhere.
pub const MAX_BODY_BYTES: usize = 6 * 1024 * 1024;
/// Time after which a body is given up if nothing more of it came.
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of all bodies that are arriving. They are in memory before their signatures are checked.
const MAX_ARRIVING_BYTES: u64 = 32 * 1024 * 1024;
/// Most KiB of all bodies whose events are being read, which take a multiple of that in memory. A single body always
/// fits.
const MAX_READING_KIB: u32 = 8 * 1024;
/// Time for which a webhook's id is remembered. It is longer than senders repeat a webhook.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(8 * 24);
/// Kind under which [`crate::store::Memory`] remembers ids of webhooks.
const KIND: &str = "webhook";

/// The outcome of a received event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The event waits in the inbox.
    Accepted,
    /// The event is not work of this function.
    Ignored {
        /// Reason why the event is ignored.
        reason: String,
    },
    /// The event cannot be read.
    Rejected {
        /// Reason why the event cannot be read.
        reason: String,
    },
}

/// The outcomes of the events of a body or a poll.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// Number of events that wait in the inbox.
    pub accepted: usize,
    /// Number of events that are not work of this function.
    pub ignored: usize,
    /// Number of events that cannot be read.
    pub rejected: usize,
    /// The outcome of each event, in the order of the events.
    pub events: Vec<Outcome>,
}

/// Decides whether an event is work of this function. `Ok` has the inbox item's body as JSON text, and `Err` the reason
/// why the event is ignored.
pub type Decide<E> = dyn Fn(E) -> Result<String, String> + Send + Sync;

impl Accepted {
    /// Adds the outcome of the next event, and gives the body of the inbox item that the event is, if it is work.
    pub fn note<E>(&mut self, event: Read<E>, decide: &Decide<E>) -> Option<String> {
        let (outcome, body) = match event.map(decide) {
            Ok(Ok(body)) => {
                self.accepted += 1;
                (Outcome::Accepted, Some(body))
            }
            Ok(Err(reason)) => {
                self.ignored += 1;
                (Outcome::Ignored { reason }, None)
            }
            Err(reason) => {
                self.rejected += 1;
                (Outcome::Rejected { reason }, None)
            }
        };
        self.events.push(outcome);
        body
    }
}

/// Puts the wanted events of `events` into the inbox, as items `<name>/<place>`.
///
/// # Errors
/// Fails if the inbox cannot be written. Nothing is lost if the sender sends the events again.
pub async fn accept<E: Incoming>(
    store: &Store,
    queue: Queue,
    name: &str,
    events: Vec<Read<E>>,
    decide: &Decide<E>,
    now: jiff::Timestamp,
) -> Result<Accepted, crate::store::StoreError> {
    let mut accepted = Accepted::default();
    let (mut items, mut places) = (Vec::new(), Vec::new());
    for (place, event) in events.into_iter().enumerate() {
        if let Some(body) = accepted.note(event, decide) {
            items.push(NewItem { id: format!("{name}/{place}"), body });
            places.push(place);
        }
    }
    match store.inbox.put(queue, &items, now).await {
        Ok(()) => Ok(accepted),
        Err(error) if error.waiting.is_empty() => {
            // The sender is not asked to repeat: items that the inbox refuses would be refused again.
            for (n, reason) in error.refused {
                let Some(outcome) = places.get(n).and_then(|n| accepted.events.get_mut(*n)) else {
                    continue;
                };
                *outcome = Outcome::Rejected { reason };
                accepted.accepted = accepted.accepted.saturating_sub(1);
                accepted.rejected += 1;
            }
            Ok(accepted)
        }
        Err(error) => Err(error.into()),
    }
}

/// Reasons why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Problem {
    /// The answer is the same for every fault of a signature, so that a stranger learns nothing.
    #[error("no valid signature: sign the body as Standard Webhooks describes")]
    Unauthorized,
    #[error("the body is larger than {MAX_BODY_BYTES} bytes: send fewer events at once")]
    TooLarge,
    #[error("Content-Type must be application/json or application/avro")]
    ContentType,
    #[error("the body must not be encoded: send it without Content-Encoding")]
    ContentEncoding,
    #[error("{0}")]
    NotEvents(String),
    #[error("{0}")]
    TooMuch(String),
    #[error("too many events are coming in at once: send them again later")]
    Busy,
    #[error("the body broke off: send it again")]
    BrokenBody,
    #[error("only POST / (and GET /, GET /health)")]
    Method,
    #[error("there is nothing here: POST to /")]
    Path,
    #[error("the events could not be kept: send them again later")]
    State,
    #[error("signatures cannot be checked at the moment: send the events again later")]
    Secrets,
}

impl From<NoRoom> for Problem {
    fn from(NoRoom: NoRoom) -> Self {
        Self::Busy
    }
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::TooLarge | Self::TooMuch(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentType | Self::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotEvents(_) | Self::BrokenBody => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Path => StatusCode::NOT_FOUND,
            Self::State | Self::Secrets | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Receives a function's webhooks.
pub struct Receiver {
    secrets: Option<Secrets>,
    queue: Queue,
    store: Store,
    clock: Arc<dyn Clock>,
    /// Room for bodies that are arriving, or of which the events are not kept yet.
    arriving: ArrivingBodies,
    /// Permits for bodies whose events are being read, one for each KiB.
    reading: Semaphore,
}

impl Receiver {
    /// Creates a receiver for `queue`. Without `secrets` only requests marked with [`PreAuthenticated`] are taken.
    ///
    /// # Errors
    /// [`BadSecret`] if a configured secret is not a valid `whsec_` key.
    pub fn new(
        secrets: Option<Secret>,
        queue: Queue,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BadSecret> {
        let secrets = secrets.map(Secrets::new).transpose()?;
        let arriving = ArrivingBodies::new(MAX_ARRIVING_BYTES);
        let reading = Semaphore::new(MAX_READING_KIB as usize);
        Ok(Self { secrets, queue, store, clock, arriving, reading })
    }

    /// Answers one request. It never fails; an error becomes an answer with an error status.
    pub async fn handle<E, B>(&self, request: Request<B>, decide: &Decide<E>) -> Response<Bytes>
    where
        E: Incoming,
        B: http_body::Body<Data = Bytes>,
    {
        let function = self.queue.name();
        let response = match self.route(request, decide).await {
            Ok(response) => response,
            Err(problem) => {
                if matches!(problem, Problem::Unauthorized) {
                    metrics::SIGNATURE_FAILURES.add([function], 1);
                }
                let body = serde_json::json!({ "error": problem.to_string() });
                answer(problem.status(), &body)
            }
        };
        metrics::ANSWERS.add([function, response.status().as_str()], 1);
        response
    }

    async fn route<E, B>(
        &self,
        request: Request<B>,
        decide: &Decide<E>,
    ) -> Result<Response<Bytes>, Problem>
    where
        E: Incoming,
        B: http_body::Body<Data = Bytes>,
    {
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/" if request.method() == Method::POST => self.post(request, decide).await,
            "/" if get => {
                let name = self.queue.name();
                let greeting = format!("azul-vt {name}: POST events of the dispatcher here");
                Ok(answer(StatusCode::OK, &serde_json::json!({ "greeting": greeting })))
            }
            "/health" if get => Ok(answer(StatusCode::OK, &serde_json::json!({ "ok": true }))),
            "/" | "/health" => Err(Problem::Method),
            _ => Err(Problem::Path),
        }
    }

    async fn post<E, B>(
        &self,
        request: Request<B>,
        decide: &Decide<E>,
    ) -> Result<Response<Bytes>, Problem>
    where
        E: Incoming,
        B: http_body::Body<Data = Bytes>,
    {
        let headers = request.headers();
        let length = header_text(headers, header::CONTENT_LENGTH.as_str());
        if length.and_then(|text| text.parse().ok()).is_some_and(|n: usize| n > MAX_BODY_BYTES) {
            return Err(Problem::TooLarge);
        }
        let pending = self.pending(headers, request.extensions().get()).await?;
        if header_text(headers, header::CONTENT_ENCODING.as_str()).unwrap_or("identity")
            != "identity"
        {
            return Err(Problem::ContentEncoding);
        }
        let is_avro = match media_type(headers) {
            Some("application/json") => false,
            Some("application/avro") => true,
            _ => return Err(Problem::ContentType),
        };
        // This value holds the room for the body until the answer is known.
        let arriving = self.arriving.begin();
        let body = arriving.unless_broken_off(whole(request.into_body(), &arriving)).await??;
        // Without a signature there is no webhook id, so requests with the same body count as the same request.
        let name = match pending {
            None => format!("sha256-{}", hex::encode(Sha256::digest(&body))),
            Some(mut pending) => {
                pending.update(&body);
                pending.finish().map_err(|_| Problem::Unauthorized)?
            }
        };
        self.keep(&name, &body, is_avro, decide).await
    }

    /// Checks the caller as far as possible before the body is read. `None`: the caller need not sign.
    async fn pending(
        &self,
        headers: &HeaderMap,
        let_in: Option<&PreAuthenticated>,
    ) -> Result<Option<Pending>, Problem> {
        match (&self.secrets, let_in) {
            (Some(secrets), _) => {
                let verifier = secrets.verifier().await.map_err(|error| {
                    tracing::error!(error = chain(&error), "webhooks cannot be checked");
                    Problem::Secrets
                })?;
                let pending = verifier.begin(headers, self.clock.now());
                Ok(Some(pending.map_err(|_| Problem::Unauthorized)?))
            }
            (None, Some(PreAuthenticated)) => Ok(None),
            (None, None) => Err(Problem::Unauthorized),
        }
    }

    async fn keep<E: Incoming>(
        &self,
        name: &str,
        body: &[u8],
        is_avro: bool,
        decide: &Decide<E>,
    ) -> Result<Response<Bytes>, Problem> {
        let state = |error| {
            tracing::error!(error = chain(&error), "a webhook's events could not be kept");
            Problem::State
        };
        let now = self.clock.now();
        let id = format!("{}/{name}", self.queue.name());
        if self.store.memory.knows(KIND, &id, now).await.map_err(state)? {
            let body = serde_json::json!({ "duplicate": true });
            return Ok(answer(StatusCode::ACCEPTED, &body));
        }
        let reading = self.reading.acquire_many(kib(body.len()).min(MAX_READING_KIB)).await;
        let _reading = reading.map_err(|_| Problem::Busy)?;
        let events = if is_avro { incoming::from_avro(body) } else { incoming::from_json(body) };
        let events = events.map_err(|error| match error {
            NotEvents::TooMany | NotEvents::TooMuch(_) => Problem::TooMuch(chain(&error)),
            _ => Problem::NotEvents(chain(&error)),
        })?;
        let accepted = accept(&self.store, self.queue, name, events, decide, now).await;
        let accepted = accepted.map_err(state)?;
        self.store.memory.remember(KIND, &id, REMEMBERED, now).await.map_err(state)?;
        let Accepted { accepted: taken, ignored, rejected, .. } = accepted;
        tracing::info!(queue = self.queue.name(), taken, ignored, rejected, "webhook");
        Ok(answer(StatusCode::ACCEPTED, &serde_json::json!(accepted)))
    }
}

/// Reads a whole body into memory.
async fn whole<B>(body: B, arriving: &Arriving<'_>) -> Result<Vec<u8>, Problem>
where
    B: http_body::Body<Data = Bytes>,
{
    let mut body = pin!(body);
    let mut whole = Vec::new();
    while let Some(frame) = tokio::time::timeout(BODY_IDLE_TIMEOUT, body.frame())
        .await
        .map_err(|_| Problem::BrokenBody)?
    {
        let frame = frame.map_err(|_| Problem::BrokenBody)?;
        let Ok(data) = frame.into_data() else { continue }; // trailers
        let length = whole.len().saturating_add(data.len());
        if length > MAX_BODY_BYTES {
            return Err(Problem::TooLarge);
        }
        arriving.grow(length as u64)?;
        whole.extend_from_slice(&data);
    }
    arriving.finish()?;
    Ok(whole)
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns the media type of `Content-Type` without its parameters.
fn media_type(headers: &HeaderMap) -> Option<&str> {
    let text = header_text(headers, header::CONTENT_TYPE.as_str())?;
    Some(text.split(';').next().unwrap_or_default().trim())
}

/// Converts bytes to KiB, at least one.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes / 1024).unwrap_or(u32::MAX).saturating_add(1)
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{body}\n")));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
