//! VirusTotal, as far as the feed needs it: minutely bundles behind a redirect to a second origin,
//! all the error answers, and what a user object says of its key.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use anyhow::Result;
use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State as Shared},
    response::Response,
    routing::get,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    fault::{Fault, around},
    server::{Conn, Server, lock},
};

/// The key that is accepted until [`VirusTotal::set_key`].
pub const TEST_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A running VirusTotal with its second origin. Dropping it ends both.
///
/// At the start it accepts [`TEST_KEY`] and knows no minute: unknown minutes are missing (404).
#[derive(Debug)]
pub struct VirusTotal {
    api: Server,
    content: Server,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    key: String,
    content_url: String,
    minutes: BTreeMap<String, Minute>,
    unknown: Unknown,
    privileges: BTreeMap<String, bool>,
    requests: Vec<Request>,
    leaks: Vec<String>,
}

#[derive(Debug, Default)]
struct Minute {
    bundle: Option<Bytes>,
    /// What happens to the next requests for it, in order, and how many times.
    script: VecDeque<(Behaviour, usize)>,
}

impl Minute {
    /// What happens now, if it concerns the origin that asks: the bundle itself, or all else.
    fn take(&mut self, of_bundle: bool) -> Option<Behaviour> {
        let (next, times) = self.script.front_mut()?;
        if next.is_of_bundle() != of_bundle {
            return None;
        }
        let next = next.clone();
        *times = times.saturating_sub(1);
        if *times == 0 {
            self.script.pop_front();
        }
        Some(next)
    }
}

/// How minutes that nobody set are answered.
#[derive(Clone)]
pub enum Unknown {
    /// 404: the batch was never produced.
    Missing,
    /// 400 `NotAvailableYet`.
    NotAvailableYet,
    /// The bundle that the function makes of the minute (`YYYYMMDDhhmm`).
    Generate(Arc<dyn Fn(&str) -> Bytes + Send + Sync>),
}

impl std::fmt::Debug for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "Missing",
            Self::NotAvailableYet => "NotAvailableYet",
            Self::Generate(_) => "Generate",
        })
    }
}

/// What happens to a request for a minute, before the minute is normal again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// 404 `NotFoundError`: the batch was never produced.
    Missing,
    /// 400 `NotAvailableYet`.
    NotAvailableYet,
    /// 401 `WrongCredentialsError`.
    Unauthorized,
    /// 403 `ForbiddenError`: no feed licence.
    Forbidden,
    /// 429 `QuotaExceededError`, with Retry-After in seconds or without.
    TooManyRequests(Option<u64>),
    /// 500 with a body that is not JSON.
    ServerError,
    /// 503 `TransientError`, with Retry-After in seconds or without.
    Transient(Option<u64>),
    /// 504 `DeadlineExceededError`.
    DeadlineExceeded,
    /// A redirect without a Location.
    RedirectNowhere,
    /// A redirect to the same place, again and again.
    RedirectLoop,
    /// Any fault, on the answer of VirusTotal's own origin.
    Api(Fault),
    /// Any fault, on the answer of the second origin, which sends the bundle: for example
    /// [`Fault::TruncateBody`], [`Fault::FlipByte`], [`Fault::EmptyBody`], [`Fault::ResetInBody`],
    /// [`Fault::HangInBody`], [`Fault::Delay`].
    Content(Fault),
    /// Another bundle than the minute's own, this time.
    Bundle(Bytes),
}

impl Behaviour {
    fn is_of_bundle(&self) -> bool {
        matches!(self, Self::Content(_) | Self::Bundle(_))
    }
}

/// What a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A feed minute, at VirusTotal's own origin.
    Feed,
    /// The bundle, at the second origin.
    Bundle,
    /// A user object.
    User,
    /// Quotas of a user.
    Quotas,
}

/// A request, as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it asked for.
    pub asked: Asked,
    /// The minute (`YYYYMMDDhhmm`) or the user's id.
    pub subject: String,
    /// `User-Agent`.
    pub user_agent: String,
}

impl VirusTotal {
    /// Starts on free ports.
    ///
    /// # Errors
    /// No port can be listened on.
    pub async fn start() -> Result<Self> {
        Self::start_on(0).await
    }

    /// Starts on that port; the second origin takes a free one.
    ///
    /// # Errors
    /// The port cannot be listened on.
    pub async fn start_on(port: u16) -> Result<Self> {
        let privileges =
            ["file-feed", "download-file", "intelligence"].map(|p| (p.to_owned(), true)).into();
        let inner = Arc::new(Inner {
            state: Mutex::new(State {
                key: TEST_KEY.to_owned(),
                content_url: String::new(),
                minutes: BTreeMap::new(),
                unknown: Unknown::Missing,
                privileges,
                requests: Vec::new(),
                leaks: Vec::new(),
            }),
            changed: watch::Sender::new(0),
        });
        let api = Router::new()
            .route("/api/v3/feeds/files/{minute}", get(feed))
            .route("/api/v3/users/{id}", get(user))
            .route("/api/v3/users/{id}/overall_quotas", get(quotas))
            .with_state(Arc::clone(&inner));
        let content = Router::new()
            .route("/feeds/{minute}", get(bundle))
            .fallback(|| async { StatusCode::NOT_FOUND })
            .with_state(Arc::clone(&inner));
        let content = Server::start(0, content).await?;
        lock(&inner.state).content_url = content.url();
        Ok(Self { api: Server::start(port, api).await?, content, inner })
    }

    /// `http://127.0.0.1:<port>`, without a slash at its end: what VIRUSTOTAL is set to.
    pub fn url(&self) -> String {
        self.api.url()
    }

    /// The second origin, which redirects point to and which must never see the key.
    pub fn content_url(&self) -> String {
        self.content.url()
    }

    /// The key that is accepted now.
    pub fn key(&self) -> String {
        lock(&self.inner.state).key.clone()
    }

    /// Ends it and waits for that.
    pub async fn stop(self) {
        self.api.stop().await;
        self.content.stop().await;
    }

    // Controls.

    /// Only this key is accepted from now on.
    pub fn set_key(&self, key: &str) {
        key.clone_into(&mut lock(&self.inner.state).key);
    }

    /// That minute (`YYYYMMDDhhmm`) has this bundle.
    pub fn serve(&self, minute: &str, bundle: impl Into<Bytes>) {
        let mut state = lock(&self.inner.state);
        state.minutes.entry(minute.to_owned()).or_default().bundle = Some(bundle.into());
    }

    /// The next `times` requests for that minute go like this; then it is normal again. Several calls
    /// for one minute queue up. With `usize::MAX` it stays so.
    pub fn behave(&self, minute: &str, behaviour: &Behaviour, times: usize) {
        let mut state = lock(&self.inner.state);
        let minute = state.minutes.entry(minute.to_owned()).or_default();
        if times > 0 {
            minute.script.push_back((behaviour.clone(), times));
        }
    }

    /// That minute is normal again.
    pub fn clear(&self, minute: &str) {
        if let Some(minute) = lock(&self.inner.state).minutes.get_mut(minute) {
            minute.script.clear();
        }
    }

    /// How minutes are answered that were never given a bundle.
    pub fn set_unknown(&self, unknown: Unknown) {
        lock(&self.inner.state).unknown = unknown;
    }

    /// Whether the user of the key has that privilege (`file-feed`, `download-file`, …).
    pub fn set_privilege(&self, name: &str, granted: bool) {
        lock(&self.inner.state).privileges.insert(name.to_owned(), granted);
    }

    /// Resets all connections of both origins and refuses new ones until [`Self::up`].
    pub async fn down(&self) {
        self.api.down().await;
        self.content.down().await;
    }

    /// Takes connections again, on the same ports.
    pub async fn up(&self) {
        self.api.up().await;
        self.content.up().await;
    }

    // Questions.

    /// Every request so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.inner.state).requests.clone()
    }

    /// The feed minutes asked for so far, in order, repeats too.
    pub fn minutes_asked(&self) -> Vec<String> {
        let state = lock(&self.inner.state);
        let feeds = state.requests.iter().filter(|r| r.asked == Asked::Feed);
        feeds.map(|r| r.subject.clone()).collect()
    }

    /// Where the key was seen and must not be: at the second origin, or in any URL. Should be empty.
    pub fn key_leaked(&self) -> Vec<String> {
        lock(&self.inner.state).leaks.clone()
    }

    /// Waits until the requests so far answer the question with yes.
    pub async fn wait_until(&self, mut question: impl FnMut(&[Request]) -> bool) {
        let mut changes = self.inner.changed.subscribe();
        loop {
            if question(&lock(&self.inner.state).requests) {
                return;
            }
            // The sender lives in `self`.
            let _ = changes.changed().await;
        }
    }
}

impl Inner {
    /// Logs a request, and looks for the key where it must not be.
    fn log(&self, asked: Asked, subject: &str, headers: &HeaderMap, uri: &Uri) {
        let mut state = lock(&self.state);
        let text =
            |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        if uri.to_string().contains(&state.key) {
            state.leaks.push(format!("in the path or query of a request for {asked:?}"));
        }
        if asked == Asked::Bundle {
            for (name, value) in headers {
                let value = String::from_utf8_lossy(value.as_bytes());
                if name == "x-apikey" || value.contains(&state.key) {
                    state.leaks.push(format!("in the header {name} at the second origin"));
                }
            }
        }
        state.requests.push(Request {
            asked,
            subject: subject.to_owned(),
            user_agent: text(header::USER_AGENT),
        });
        drop(state);
        self.changed.send_modify(|n| *n += 1);
    }

    /// 401 unless the accepted key was sent.
    fn refused(&self, headers: &HeaderMap) -> Option<Response> {
        let key = headers.get("x-apikey").map(HeaderValue::as_bytes);
        match key {
            None => Some(error(401, "AuthenticationRequiredError", "X-Apikey header is missing")),
            Some(key) if key != lock(&self.state).key.as_bytes() => Some(wrong_credentials()),
            Some(_) => None,
        }
    }
}

fn wrong_credentials() -> Response {
    error(401, "WrongCredentialsError", "Wrong API key")
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let body = json!({"error": {"code": code, "message": message}});
    plain(status, "application/json; charset=utf-8", body.to_string())
}

fn plain(status: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // The hosting platform's trace id, which support asks for.
    headers.insert(
        "x-cloud-trace-context",
        HeaderValue::from_static("5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e/1"),
    );
    response
}

fn retry_after(mut response: Response, seconds: Option<u64>) -> Response {
    if let Some(seconds) = seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn not_found(minute: &str) -> Response {
    error(404, "NotFoundError", &format!("Package {minute} was not found"))
}

fn not_available_yet() -> Response {
    error(400, "NotAvailableYet", "The requested package is not available yet")
}

fn redirect(location: &str) -> Response {
    let mut response = plain(302, "text/html; charset=utf-8", "");
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

async fn feed(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path(minute): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    inner.log(Asked::Feed, &minute, &headers, &uri);
    if let Some(refused) = inner.refused(&headers) {
        return refused;
    }
    if minute.len() != 12 || !minute.bytes().all(|b| b.is_ascii_digit()) {
        return error(400, "BadRequestError", "The package must be a minute: YYYYMMDDhhmm");
    }
    let (behaviour, target) = {
        let mut state = lock(&inner.state);
        let content = state.content_url.clone();
        let known = state.minutes.entry(minute.clone()).or_default();
        let now = known.take(false);
        let has_bundle = known.bundle.is_some()
            || matches!(known.script.front(), Some((Behaviour::Bundle(_), _)));
        let target = if has_bundle { Ok(content) } else { Err(content) };
        let target = match (target, &state.unknown) {
            (Ok(content), _) | (Err(content), Unknown::Generate(_)) => {
                Ok(format!("{content}/feeds/{minute}?Expires=1800000000&Signature=c2lnbmVk"))
            }
            (Err(_), Unknown::NotAvailableYet) => Err(not_available_yet()),
            (Err(_), Unknown::Missing) => Err(not_found(&minute)),
        };
        (now, target)
    };
    let normal = || match target {
        Ok(target) => redirect(&target),
        Err(response) => response,
    };
    match behaviour {
        None | Some(Behaviour::Content(_) | Behaviour::Bundle(_)) => normal(),
        Some(Behaviour::Missing) => not_found(&minute),
        Some(Behaviour::NotAvailableYet) => not_available_yet(),
        Some(Behaviour::Unauthorized) => wrong_credentials(),
        Some(Behaviour::Forbidden) => error(
            403,
            "ForbiddenError",
            "You are not authorized to perform the requested operation",
        ),
        Some(Behaviour::TooManyRequests(seconds)) => {
            retry_after(error(429, "QuotaExceededError", "Quota exceeded"), seconds)
        }
        Some(Behaviour::ServerError) => {
            plain(500, "text/html", "<html><h1>500 Server Error</h1></html>")
        }
        Some(Behaviour::Transient(seconds)) => {
            retry_after(error(503, "TransientError", "Transient server error"), seconds)
        }
        Some(Behaviour::DeadlineExceeded) => {
            error(504, "DeadlineExceededError", "Deadline exceeded")
        }
        Some(Behaviour::RedirectNowhere) => plain(302, "text/html; charset=utf-8", ""),
        Some(Behaviour::RedirectLoop) => redirect(uri.path()),
        Some(Behaviour::Api(fault)) => {
            let answer = normal();
            around(Some(fault), &conn, async { answer }).await
        }
    }
}

async fn bundle(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path(minute): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    inner.log(Asked::Bundle, &minute, &headers, &uri);
    let (mut bytes, fault, generate) = {
        let mut state = lock(&inner.state);
        let known = state.minutes.entry(minute.clone()).or_default();
        let mut bytes = known.bundle.clone();
        let mut fault = None;
        match known.take(true) {
            Some(Behaviour::Content(f)) => fault = Some(f),
            Some(Behaviour::Bundle(other)) => bytes = Some(other),
            _ => {}
        }
        (bytes, fault, state.unknown.clone())
    };
    if let (None, Unknown::Generate(generate)) = (&bytes, generate) {
        let for_minute = minute.clone();
        bytes = tokio::task::spawn_blocking(move || generate(&for_minute)).await.ok();
        if let Some(bytes) = &bytes {
            // The same bytes next time, without the work.
            lock(&inner.state).minutes.entry(minute).or_default().bundle = Some(bytes.clone());
        }
    }
    let answer = match bytes {
        Some(bytes) => plain(200, "application/octet-stream", bytes),
        None => plain(404, "text/plain", "no such object"),
    };
    around(fault, &conn, async { answer }).await
}

async fn user(
    Shared(inner): Shared<Arc<Inner>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    inner.log(Asked::User, &id, &headers, &uri);
    if let Some(refused) = inner.refused(&headers) {
        return refused;
    }
    let privileges: BTreeMap<String, Value> = lock(&inner.state)
        .privileges
        .iter()
        .map(|(name, granted)| {
            let privilege = json!({
                "granted": granted, "expiration_date": null,
                "inherited_from": "synthetic-group", "inherited_via": "group",
            });
            (name.clone(), privilege)
        })
        .collect();
    let body = json!({"data": {
        "type": "user", "id": id,
        "attributes": {
            "status": "active",
            "privileges": privileges,
            "quotas": overall_quotas(),
        },
    }});
    plain(200, "application/json; charset=utf-8", body.to_string())
}

async fn quotas(
    Shared(inner): Shared<Arc<Inner>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    inner.log(Asked::Quotas, &id, &headers, &uri);
    if let Some(refused) = inner.refused(&headers) {
        return refused;
    }
    let mut data = serde_json::Map::new();
    for (name, quota) in overall_quotas() {
        data.insert(name, json!({"user": quota}));
    }
    plain(200, "application/json; charset=utf-8", json!({"data": data}).to_string())
}

fn overall_quotas() -> BTreeMap<String, Value> {
    [
        ("api_requests_hourly", 60_000, 12),
        ("api_requests_daily", 1_000_000, 345),
        ("api_requests_monthly", 30_000_000, 6_789),
        ("intelligence_downloads_monthly", 50_000, 42),
    ]
    .map(|(name, allowed, used)| (name.to_owned(), json!({"allowed": allowed, "used": used})))
    .into()
}
