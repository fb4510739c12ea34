//! Faults on demand: what a stand-in does instead of, or to, its normal answer.

use std::{collections::VecDeque, future::pending, sync::Mutex, time::Duration};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use serde::Deserialize;

use crate::server::{Conn, lock};

/// One misbehaviour. In JSON (for `POST /sim/fault`): `{"kind":"answer","status":503}`,
/// `{"kind":"reset"}`, ….
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// This answer instead of the normal one; the request has no effect.
    Answer {
        /// HTTP status.
        status: u16,
        /// Header names and values.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// Body text.
        #[serde(default)]
        body: String,
    },
    /// The connection is reset without an answer; the request has no effect.
    Reset,
    /// The request has its effect, then the connection is reset without an answer.
    Lost,
    /// No answer, ever; the request has no effect.
    Hang,
    /// The request has its effect, but no answer comes, ever.
    LostHang,
    /// The normal answer, reset after half of its body.
    ResetInBody,
    /// The normal answer, stopping for ever after half of its body.
    HangInBody,
    /// The normal answer, closed after half of the body that Content-Length promised.
    TruncateBody,
    /// The normal answer with its middle byte flipped.
    FlipByte,
    /// The normal answer without its body (Content-Length 0).
    EmptyBody,
    /// The normal answer, after a while.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// The normal answer in ten pieces, with a pause before each.
    Trickle {
        /// Milliseconds before each piece.
        ms: u64,
    },
}

impl Fault {
    /// An answer with that status and body.
    pub fn answer(status: u16, body: impl Into<String>) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.into() }
    }
}

/// What is to go wrong next, first in, first out.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<VecDeque<Fault>>);

impl Faults {
    pub(crate) fn push(&self, fault: &Fault, times: usize) {
        lock(&self.0).extend(std::iter::repeat_n(fault.clone(), times));
    }

    pub(crate) fn next(&self) -> Option<Fault> {
        lock(&self.0).pop_front()
    }

    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    pub(crate) fn left(&self) -> usize {
        lock(&self.0).len()
    }
}

/// Answers, with the fault if there is one.
pub(crate) async fn around(
    fault: Option<Fault>,
    conn: &Conn,
    answer: impl Future<Output = Response>,
) -> Response {
    match fault {
        None => answer.await,
        Some(Fault::Answer { status, headers, body }) => {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() =
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            for (name, value) in headers {
                if let (Ok(name), Ok(value)) =
                    (HeaderName::try_from(name), HeaderValue::try_from(value))
                {
                    response.headers_mut().append(name, value);
                }
            }
            response
        }
        Some(Fault::Reset) => conn.reset().await,
        Some(Fault::Lost) => {
            answer.await;
            conn.reset().await
        }
        Some(Fault::Hang) => pending().await,
        Some(Fault::LostHang) => {
            answer.await;
            pending().await
        }
        Some(Fault::Delay { ms }) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            answer.await
        }
        Some(fault) => spoil_body(&fault, conn, answer.await).await,
    }
}

async fn spoil_body(fault: &Fault, conn: &Conn, response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    // The body is one that a stand-in made: it has no way to fail.
    let whole = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let half = whole.slice(..whole.len() / 2);
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
    let body = match fault {
        Fault::FlipByte => {
            let mut bytes = whole.to_vec();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0x10;
            }
            Body::from(bytes)
        }
        Fault::EmptyBody => {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
            Body::empty()
        }
        Fault::TruncateBody => pieces(vec![half]),
        Fault::HangInBody => {
            Body::from_stream(first(half).chain(stream::once(pending::<Result<Bytes, _>>())))
        }
        Fault::ResetInBody => {
            let conn = conn.clone();
            Body::from_stream(first(half).chain(stream::once(async move {
                // Lets what was sent so far reach the client; it sees a broken body either way.
                tokio::time::sleep(Duration::from_millis(20)).await;
                conn.kill();
                pending().await
            })))
        }
        Fault::Trickle { ms } => {
            let pause = Duration::from_millis(*ms);
            let size = whole.len().div_ceil(10).max(1);
            let parts: Vec<Bytes> = whole.chunks(size).map(Bytes::copy_from_slice).collect();
            Body::from_stream(stream::iter(parts).then(move |part| async move {
                tokio::time::sleep(pause).await;
                Ok::<_, std::convert::Infallible>(part)
            }))
        }
        _ => Body::from(whole),
    };
    Response::from_parts(head, body)
}

fn first(
    bytes: Bytes,
) -> impl futures_util::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    stream::iter([Ok(bytes)])
}

fn pieces(parts: Vec<Bytes>) -> Body {
    Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, std::convert::Infallible>)))
}
