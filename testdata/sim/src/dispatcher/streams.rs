//! `/api/v3/stream`: content, up and down.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::{Path, State as Shared},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use md5::Md5;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::{
    Inner,
    post::{error, json_response, set},
    query,
};
use crate::{
    fault::around,
    server::{Conn, lock},
};

/// (source, label, sha256) → content.
#[derive(Debug, Default)]
pub(super) struct Streams(BTreeMap<(String, String, String), Bytes>);

impl Streams {
    pub(super) fn put(&mut self, source: &str, label: &str, content: Bytes) -> String {
        let sha256 = hex::encode(Sha256::digest(&content));
        self.0.insert((source.to_owned(), label.to_owned(), sha256.clone()), content);
        sha256
    }

    pub(super) fn get(&self, source: &str, label: &str, sha256: &str) -> Option<Bytes> {
        self.0.get(&(source.to_owned(), label.to_owned(), sha256.to_owned())).cloned()
    }

    pub(super) fn names(&self) -> Vec<(String, String, String)> {
        self.0.keys().cloned().collect()
    }
}

pub(super) async fn upload(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path((source, label)): Path<(String, String)>,
    uri: Uri,
    body: Bytes,
) -> Response {
    around(inner.stream_faults.next(), &conn, async {
        let query = query(&uri);
        if body.is_empty() {
            return error(StatusCode::BAD_REQUEST, "empty body", "there is no content in the body");
        }
        let sha256 = hex::encode(Sha256::digest(&body));
        // Compared as written: an upper-case hash is another one.
        if let Some(expected) = query.get("expected-sha256")
            && *expected != sha256
        {
            let detail = format!("expected sha256 {expected}, the content has {sha256}");
            return error(StatusCode::BAD_REQUEST, "hash mismatch", &detail);
        }
        // The label is always this one, whatever the stream was stored under.
        let mut data = json!({
            "label": "content", "size": body.len(), "sha256": sha256,
            "sha512": hex::encode(Sha512::digest(&body)),
            "sha1": hex::encode(Sha1::digest(&body)),
            "md5": hex::encode(Md5::digest(&body)),
        });
        if !matches!(query.get("skip-identify").map(String::as_str), Some("true" | "1")) {
            let (format, mime, magic, extension) = identify(&body);
            set(&mut data, "identify_version", json!(7));
            set(&mut data, "file_format", json!(format));
            set(&mut data, "mime", json!(mime));
            set(&mut data, "magic", json!(magic));
            if !extension.is_empty() {
                set(&mut data, "file_extension", json!(extension));
            }
        }
        lock(&inner.state).streams.put(&source, &label, body);
        inner.changed.send_modify(|n| *n += 1);
        json_response(StatusCode::OK, &json!({"data": data}))
    })
    .await
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
    headers: HeaderMap,
) -> Response {
    around(inner.stream_faults.next(), &conn, async {
        let Some(content) = lock(&inner.state).streams.get(&source, &label, &sha256) else {
            return error(StatusCode::NOT_FOUND, "not found", "no such stream");
        };
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
