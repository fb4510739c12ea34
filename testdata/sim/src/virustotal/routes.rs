//! Routes of VirusTotal's own origin and of the second one.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State as Shared},
    response::Response,
    routing::get,
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde_json::{Value, json};

use super::{Asked, Behaviour, Inner, Request, Unknown, content, hunting, sandbox};
use crate::{
    fault::around,
    server::{Conn, lock},
};

/// The routes of VirusTotal's own origin, and those of the second.
pub(super) fn routers(inner: &Arc<Inner>) -> (Router, Router) {
    let api = Router::new()
        .route("/api/v3/feeds/files/{minute}", get(feed))
        .route("/api/v3/feeds/files/{token}/download", get(content::by_link))
        .route("/api/v3/files/{id}", get(file))
        .route("/api/v3/files/{id}/download", get(content::by_hash))
        .route("/api/v3/files/{id}/behaviours", get(sandbox::behaviours))
        .route("/api/v3/file_behaviours/{id}/pcap", get(sandbox::pcap))
        .merge(hunting::routes())
        .route("/api/v3/users/{id}", get(user))
        .route("/api/v3/users/{id}/overall_quotas", get(quotas))
        .with_state(Arc::clone(inner));
    let second = Router::new()
        .route("/feeds/{minute}", get(bundle))
        .route("/content/{sha256}", get(content::content))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .with_state(Arc::clone(inner));
    (api, second)
}

impl Inner {
    /// Logs a request, and looks for the key where it must not be.
    pub(super) fn log(&self, asked: Asked, subject: &str, headers: &HeaderMap, uri: &Uri) {
        let mut state = lock(&self.state);
        let text =
            |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        if uri.to_string().contains(&state.key) {
            state.leaks.push(format!("in the path or query of a request for {asked:?}"));
        }
        if matches!(asked, Asked::Bundle | Asked::Content) {
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
            user_agent: text("user-agent"),
            request_id: text("x-request-id"),
            at: Instant::now(),
        });
        drop(state);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Returns a 401 answer unless the accepted key was sent.
    pub(super) fn refused(&self, headers: &HeaderMap) -> Option<Response> {
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

pub(super) fn error(status: u16, code: &str, message: &str) -> Response {
    let body = json!({"error": {"code": code, "message": message}});
    plain(status, "application/json; charset=utf-8", body.to_string())
}

pub(super) fn plain(status: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
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

pub(super) fn redirect(location: &str) -> Response {
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
        let now = known.script.take_for(false);
        let has_bundle = known.bundle.is_some() || known.script.gives_other_content();
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
    let normal = match target {
        Ok(target) => redirect(&target),
        Err(response) => response,
    };
    behave(behaviour, normal, &minute, &uri, &conn).await
}

/// Returns the normal answer, or another one if a behaviour is given.
pub(super) async fn behave(
    behaviour: Option<Behaviour>,
    normal: Response,
    subject: &str,
    uri: &Uri,
    conn: &Conn,
) -> Response {
    match behaviour {
        None | Some(Behaviour::Content(_) | Behaviour::Bundle(_)) => normal,
        Some(Behaviour::Missing) => not_found(subject),
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
        Some(Behaviour::RedirectTo(url)) => redirect(&url),
        Some(Behaviour::Api(fault)) => around(Some(fault), conn, async { normal }).await,
    }
}

/// The report on a file, by its SHA-256.
async fn file(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    inner.log(Asked::Report, &id, &headers, &uri);
    if let Some(refused) = inner.refused(&headers) {
        return refused;
    }
    let (behaviour, report) = {
        let mut state = lock(&inner.state);
        (state.take_for_files(&id), state.reports.get(&id).cloned())
    };
    let normal = match report {
        Some(report) => plain(200, "application/json; charset=utf-8", report),
        None => error(404, "NotFoundError", &format!("File {id:?} not found")),
    };
    behave(behaviour, normal, &id, &uri, &conn).await
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
        match known.script.take_for(true) {
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
