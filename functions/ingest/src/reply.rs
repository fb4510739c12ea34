//! Answers: what a caller reads, and what it should do.

use std::collections::BTreeMap;

use azul_vt::{
    bundle::Compression,
    metrics::prometheus::CONTENT_TYPE,
    pipeline::{NAMED_LINES, posted::Posted, reasons},
    store::{StoreError, Upload},
    webhook::{NoSecrets, arriving::NoRoom},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::STAGED;

/// Why a request is not answered as its caller hoped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("this path takes {0}")]
    Method(&'static str),
    #[error(
        "nothing is at this path: POST records to / or /virustotal, POST to /uploads, GET /, /health or /metrics"
    )]
    NoSuchPath,
    #[error(
        "there are no uploads here: this server keeps its state on one machine and takes bodies of any size, so POST the records to / directly"
    )]
    NoUploads,
    /// Opaque on purpose.
    #[error(
        "not authorised: send a Standard Webhooks signature or a bearer token that this server knows"
    )]
    Unauthorized,
    #[error(
        "the body is larger than {0} bytes (MAX_BUNDLE_BYTES; decompressed, where it is compressed): split it at a line's end and post the parts"
    )]
    TooLarge(u64),
    #[error(
        "Content-Type `{0}` is not taken: send JSON lines as application/json, application/jsonlines or application/x-ndjson"
    )]
    ContentType(String),
    #[error("Content-Encoding `{0}` is not taken: use gzip, zstd, bzip2 or none")]
    ContentEncoding(String),
    #[error("the body is not {0} although its Content-Encoding says so")]
    NotEncoded(Compression),
    #[error("the body broke off: {0}; post it again")]
    BodyBroken(String),
    #[error(
        "the body cannot be decoded: {0}. Nothing of it is delivered; mend it and post it again"
    )]
    Undecodable(String),
    #[error("too many bodies are coming in at once; post it again later")]
    Busy,
    #[error("the body could not be kept on disk; post it again later")]
    Disk(#[source] std::io::Error),
    #[error("the body could not be kept; post it again later")]
    State(#[source] StoreError),
    #[error("no upload can be prepared; ask again later")]
    Presign(#[source] StoreError),
    #[error("this server cannot read what its callers are known by; try again later")]
    Secrets(#[source] NoSecrets),
}

impl From<NoRoom> for Problem {
    fn from(NoRoom: NoRoom) -> Self {
        Self::Busy
    }
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoSuchPath | Self::NoUploads => StatusCode::NOT_FOUND,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentType(_) | Self::ContentEncoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotEncoded(_) | Self::BodyBroken(_) | Self::Undecodable(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Busy | Self::Disk(_) | Self::State(_) | Self::Presign(_) | Self::Secrets(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

/// What became of a body, in numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct BodyReport {
    status: &'static str,
    /// Lines that are not blank.
    records: u64,
    /// Events that the dispatcher acknowledged.
    accepted: u64,
    /// Not wanted.
    filtered: u64,
    /// Lines that can never be delivered, and why: the first thousand. The server keeps them.
    rejected: Vec<RejectedLine>,
    /// How many they are.
    rejected_count: u64,
    /// Download requests made.
    requests: u64,
    /// Says what is wrong with the whole body and how to fix it; absent if a record was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct RejectedLine {
    line: u64,
    reason: String,
}

impl BodyReport {
    pub(crate) fn new(posted: Posted) -> Self {
        let counts = posted.counts;
        let error = counts.is_all_rejected().then(|| {
            format!(
                "none of {} records was taken: {}. Send VirusTotal's file objects as JSON in UTF-8: one a line (with \
                 curl by --data-binary), in a list, or one after the other. What was rejected is kept by the server",
                counts.records,
                reasons(&posted.rejected)
            )
        });
        let rejects = posted.rejected.into_iter();
        Self {
            status: if error.is_some() { "rejected" } else { "delivered" },
            records: counts.records,
            accepted: counts.delivered,
            filtered: counts.filtered,
            rejected: rejects.map(|(line, reason)| RejectedLine { line, reason }).collect(),
            rejected_count: counts.rejected,
            requests: counts.requests,
            error,
        }
    }

    /// Returns a line for people: `read N records`, as the Go plugin says, and what became of them if not all were
    /// delivered.
    fn line(&self) -> String {
        let Self { records, accepted, filtered, rejected, rejected_count, .. } = self;
        let read = format!("read {records} records");
        if *records == 0 {
            return format!("{read}: the body has no lines");
        }
        if accepted == records {
            return read;
        }
        let why: Vec<_> = (rejected.iter().take(NAMED_LINES))
            .map(|RejectedLine { line, reason }| format!("; line {line}: {reason}"))
            .collect();
        format!(
            "{read}: {accepted} delivered, {filtered} filtered (older than DISPATCHER_MAX_AGE_HOURS, or not wanted by \
             Azul), {rejected_count} rejected{}",
            why.concat()
        )
    }

    /// Whether nothing of the body was taken.
    pub(crate) fn is_refused(&self) -> bool {
        self.error.is_some()
    }
}

enum Content {
    Text(String),
    Metrics(String),
    Delivered(BodyReport),
    Staged(String),
    Upload(Box<Upload>),
    Problem(String),
}

/// An answer, before it is known whether its caller reads JSON.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    content: Content,
    allow: Option<&'static str>,
}

impl Reply {
    fn new(status: StatusCode, content: Content) -> Self {
        Self { status, content, allow: None }
    }

    pub(crate) fn text(text: &str) -> Self {
        Self::new(StatusCode::OK, Content::Text(text.into()))
    }

    pub(crate) fn metrics(text: String) -> Self {
        Self::new(StatusCode::OK, Content::Metrics(text))
    }

    pub(crate) fn delivered(account: BodyReport) -> Self {
        Self::new(StatusCode::OK, Content::Delivered(account))
    }

    pub(crate) fn refused(account: BodyReport) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, Content::Delivered(account))
    }

    pub(crate) fn staged(why: &str) -> Self {
        Self::new(STAGED, Content::Staged(why.into()))
    }

    pub(crate) fn upload(upload: Upload) -> Self {
        Self::new(StatusCode::OK, Content::Upload(Box::new(upload)))
    }

    pub(crate) fn into_response(self, json: bool) -> Response<Bytes> {
        const TEXT: &str = "text/plain; charset=utf-8";
        const JSON: &str = "application/json";
        let object = |value: serde_json::Value| format!("{value}\n");
        let (kind, body) = match self.content {
            Content::Text(text) => (TEXT, text),
            Content::Metrics(text) => (CONTENT_TYPE, text),
            Content::Delivered(account) if json => (JSON, object(serde_json::json!(account))),
            Content::Delivered(BodyReport { error: Some(error), .. }) => {
                (TEXT, format!("{error}\n"))
            }
            Content::Delivered(report) => (TEXT, format!("{}\n", report.line())),
            Content::Staged(why) if json => {
                (JSON, object(serde_json::json!({"status": "staged", "reason": why})))
            }
            Content::Staged(why) => {
                (TEXT, format!("staged: it is safe here and will be delivered ({why})\n"))
            }
            Content::Upload(upload) => (JSON, object(upload_json(&upload))),
            Content::Problem(what) if json => {
                (JSON, object(serde_json::json!({"status": "error", "error": what})))
            }
            Content::Problem(what) => (TEXT, format!("{what}\n")),
        };
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// What the sender of an upload does: PUT its file to `url` with `headers`, before `expires`.
fn upload_json(upload: &Upload) -> serde_json::Value {
    let headers: BTreeMap<_, _> = upload.headers.iter().map(|(n, v)| (n, v)).collect();
    serde_json::json!({
        "method": "PUT",
        "url": upload.url.as_str(),
        "headers": headers,
        "expires": upload.expires.to_string(),
    })
}

impl From<Problem> for Reply {
    fn from(problem: Problem) -> Self {
        if problem.status().is_server_error() {
            let error = azul_vt::errors::chain(&problem);
            tracing::error!(error, "a posted body was refused");
        }
        let mut reply = Self::new(problem.status(), Content::Problem(problem.to_string()));
        if let Problem::Method(allowed) = problem {
            reply.allow = Some(allowed);
        }
        reply
    }
}

/// The media types of JSON lines. `application/json` is what the Go plugin's users send.
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    const TAKEN: [&str; 3] = ["application/json", "application/jsonlines", "application/x-ndjson"];
    let text = headers.get(header::CONTENT_TYPE).map(|v| String::from_utf8_lossy(v.as_bytes()));
    let text = text.unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    if TAKEN.iter().any(|taken| kind.eq_ignore_ascii_case(taken)) {
        return Ok(());
    }
    Err(Problem::ContentType(kind.chars().take(100).collect()))
}

pub(crate) fn content_encoding(headers: &HeaderMap) -> Result<Option<Compression>, Problem> {
    let text = headers.get(header::CONTENT_ENCODING).map(|v| String::from_utf8_lossy(v.as_bytes()));
    let text = text.unwrap_or_default().trim().to_ascii_lowercase();
    match text.as_str() {
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(Compression::Gzip)),
        "zstd" => Ok(Some(Compression::Zstd)),
        "bzip2" | "x-bzip2" => Ok(Some(Compression::Bzip2)),
        _ => Err(Problem::ContentEncoding(text.chars().take(100).collect())),
    }
}
