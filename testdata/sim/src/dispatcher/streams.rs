//! `/api/v3/stream`: content, up and down.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use axum::{
    Extension,
    body::Body,
    extract::{Path, State as Shared},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::BodyExt;
use md5::Md5;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::{
    Dispatcher, Inner,
    post::{error, json_response, set},
    query,
};
use crate::{
    fault::{Fault, around},
    server::{Conn, lock},
};

/// Content beyond this is measured and hashed, but not kept.
const KEPT_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes at the start of the content that [`identify`] reads.
const IDENTIFIED_BYTES: usize = 4;

/// The streams that were uploaded, and the counts of uploads.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// (source, label, sha256) → content.
    stored: BTreeMap<(String, String, String), Stored>,
    /// Uploads begun.
    pub(super) attempts: usize,
    /// Uploads stored, repeats too.
    pub(super) uploads: usize,
}

#[derive(Clone, Debug)]
struct Stored {
    size: u64,
    /// `None` where it is too large to be kept.
    content: Option<Bytes>,
}

impl Streams {
    pub(super) fn put(&mut self, source: &str, label: &str, content: Bytes) -> String {
        let sha256 = hex::encode(Sha256::digest(&content));
        let stored = Stored { size: length(&content), content: Some(content) };
        self.stored.insert((source.to_owned(), label.to_owned(), sha256.clone()), stored);
        sha256
    }

    fn find(&self, source: &str, label: &str, sha256: &str) -> Option<Stored> {
        self.stored.get(&(source.to_owned(), label.to_owned(), sha256.to_owned())).cloned()
    }

    pub(super) fn get(&self, source: &str, label: &str, sha256: &str) -> Option<Bytes> {
        self.find(source, label, sha256)?.content
    }

    pub(super) fn names(&self) -> Vec<(String, String, String)> {
        self.stored.keys().cloned().collect()
    }

    pub(super) fn sizes(&self) -> Vec<(String, String, String, u64)> {
        let each = self.stored.iter();
        each.map(|((s, l, h), stored)| (s.clone(), l.clone(), h.clone(), stored.size)).collect()
    }
}

impl Dispatcher {
    /// The next `times` requests for streams, up or down, go wrong like that.
    pub fn fail_streams(&self, fault: &Fault, times: usize) {
        self.inner.stream_faults.push(fault, times);
    }

    /// The next `times` uploads of streams go wrong like that; these faults come before those of
    /// [`Self::fail_streams`]. The body is read to its end all the same.
    pub fn fail_uploads(&self, fault: &Fault, times: usize) {
        self.inner.upload_faults.push(fault, times);
    }

    /// Puts a stream there, as if it had been uploaded; gives its sha256.
    pub fn put_stream(&self, source: &str, label: &str, content: impl Into<Bytes>) -> String {
        lock(&self.inner.state).streams.put(source, label, content.into())
    }

    /// The content of a stream; none where it was uploaded and is larger than 64 MiB.
    pub fn stream(&self, source: &str, label: &str, sha256: &str) -> Option<Bytes> {
        lock(&self.inner.state).streams.get(source, label, sha256)
    }

    /// Source, label and sha256 of every stream.
    pub fn streams(&self) -> Vec<(String, String, String)> {
        lock(&self.inner.state).streams.names()
    }

    /// Source, label, sha256 and size in bytes of every stream.
    pub fn stream_sizes(&self) -> Vec<(String, String, String, u64)> {
        lock(&self.inner.state).streams.sizes()
    }

    /// Returns the number of uploads that were stored, with repeats.
    pub fn uploads(&self) -> usize {
        lock(&self.inner.state).streams.uploads
    }

    /// Returns the number of uploads that were begun, whether they succeeded or not.
    pub fn upload_attempts(&self) -> usize {
        lock(&self.inner.state).streams.attempts
    }
}

/// A body as far as it came in.
#[derive(Default)]
struct Received {
    size: u64,
    /// All of it, or only its start where it is too large to be kept.
    content: Vec<u8>,
    md5: Md5,
    sha1: Sha1,
    sha256: Sha256,
    sha512: Sha512,
}

impl Received {
    /// Reads a body to its end; an error if it breaks off.
    async fn from(mut body: Body) -> Result<Self, axum::Error> {
        let mut received = Self::default();
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame?.into_data() {
                received.add(&piece);
            }
        }
        Ok(received)
    }

    fn add(&mut self, piece: &[u8]) {
        self.size += length(piece);
        self.md5.update(piece);
        self.sha1.update(piece);
        self.sha256.update(piece);
        self.sha512.update(piece);
        if self.size <= KEPT_BYTES {
            self.content.extend_from_slice(piece);
        } else {
            self.content.truncate(IDENTIFIED_BYTES);
            self.content.shrink_to_fit();
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

pub(super) async fn upload(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path((source, label)): Path<(String, String)>,
    uri: Uri,
    body: Body,
) -> Response {
    lock(&inner.state).streams.attempts += 1;
    let received = match Received::from(body).await {
        Ok(received) => received,
        Err(e) => return error(StatusCode::BAD_REQUEST, "broken body", &e.to_string()),
    };
    let fault = inner.upload_faults.next().or_else(|| inner.stream_faults.next());
    around(fault, &conn, async { store(&inner, source, label, &query(&uri), received) }).await
}

fn store(
    inner: &Inner,
    source: String,
    label: String,
    query: &HashMap<String, String>,
    received: Received,
) -> Response {
    let Received { size, content, md5, sha1, sha256, sha512 } = received;
    if size == 0 {
        return error(StatusCode::BAD_REQUEST, "empty body", "there is no content in the body");
    }
    let sha256 = hex::encode(sha256.finalize());
    // Compared as written: an upper-case hash is another one.
    if let Some(expected) = query.get("expected-sha256")
        && *expected != sha256
    {
        let detail = format!("expected sha256 {expected}, the content has {sha256}");
        return error(StatusCode::BAD_REQUEST, "hash mismatch", &detail);
    }
    // The label is always this one, whatever the stream was stored under.
    let mut data = json!({
        "label": "content", "size": size, "sha256": sha256,
        "sha512": hex::encode(sha512.finalize()),
        "sha1": hex::encode(sha1.finalize()),
        "md5": hex::encode(md5.finalize()),
    });
    if !matches!(query.get("skip-identify").map(String::as_str), Some("true" | "1")) {
        let (format, mime, magic, extension) = identify(&content);
        set(&mut data, "identify_version", json!(7));
        set(&mut data, "file_format", json!(format));
        set(&mut data, "mime", json!(mime));
        set(&mut data, "magic", json!(magic));
        if !extension.is_empty() {
            set(&mut data, "file_extension", json!(extension));
        }
    }
    let content = (size <= KEPT_BYTES).then(|| Bytes::from(content));
    let streams = &mut lock(&inner.state).streams;
    streams.stored.insert((source, label, sha256), Stored { size, content });
    streams.uploads += 1;
    inner.changed.send_modify(|n| *n += 1);
    json_response(StatusCode::OK, &json!({"data": data}))
}

/// Format, media type, description and extension of a few kinds of content.
fn identify(content: &[u8]) -> (&'static str, &'static str, &'static str, &'static str) {
    match content {
        [b'M', b'Z', ..] => {
            ("executable/windows/pe32", "application/x-dosexec", "PE32 executable", "exe")
        }
        [b'%', b'P', b'D', b'F', ..] => ("document/pdf", "application/pdf", "PDF document", "pdf"),
        [b'P', b'K', 3, 4, ..] => ("archive/zip", "application/zip", "Zip archive data", "zip"),
        _ => ("unknown", "application/octet-stream", "data", ""),
    }
}

/// GET, and HEAD, whose body axum leaves out.
pub(super) async fn download(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path((source, label, sha256)): Path<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    around(inner.stream_faults.next(), &conn, async {
        let Some(stored) = lock(&inner.state).streams.find(&source, &label, &sha256) else {
            return error(StatusCode::NOT_FOUND, "not found", "no such stream");
        };
        let Some(content) = stored.content else { return not_kept(&method, stored.size) };
        let total = content.len();
        let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        let (status, body, content_range) = match range {
            None => (StatusCode::OK, content, None),
            Some(range) => match byte_range(range, total) {
                None => {
                    let status = StatusCode::RANGE_NOT_SATISFIABLE;
                    return error(status, "range", "this range cannot be given");
                }
                Some(range) => {
                    let last = range.end.saturating_sub(1);
                    let header = format!("bytes {}-{last}/{total}", range.start);
                    (StatusCode::PARTIAL_CONTENT, content.slice(range), Some(header))
                }
            },
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if let Some(Ok(value)) = content_range.map(HeaderValue::try_from) {
            fields.insert(header::CONTENT_RANGE, value);
        }
        response
    })
    .await
}

/// Returns the answer for a stream whose content is not kept.
fn not_kept(method: &Method, size: u64) -> Response {
    if method != Method::HEAD {
        let detail = format!("this stand-in keeps {KEPT_BYTES} bytes of content, not {size}");
        return error(StatusCode::INTERNAL_SERVER_ERROR, "content not kept", &detail);
    }
    let mut response = Response::new(Body::empty());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    response
}

/// One range, `bytes=2-5`, `bytes=2-` or `bytes=-3`, within the content.
fn byte_range(text: &str, total: usize) -> Option<Range<usize>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", count) => total.saturating_sub(count.parse().ok()?)..total,
        (first, "") => first.parse().ok()?..total,
        (first, last) => {
            first.parse().ok()?..last.parse::<usize>().ok()?.saturating_add(1).min(total)
        }
    };
    (range.start < range.end).then_some(range)
}
