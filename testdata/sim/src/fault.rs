//! Faults on demand: what a stand-in does instead of, or to, its normal answer.

use std::{
    collections::VecDeque,
    future::{pending, ready},
    sync::Mutex,
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    response::Response,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderName, HeaderValue, StatusCode, header};
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

/// Queue of the faults of the next requests.
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
        Some(fault) => spoil_body(&fault, conn, answer.await),
    }
}

/// Spoils a body as it passes, so that one of any size stays out of memory.
fn spoil_body(fault: &Fault, conn: &Conn, response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    // The body is one that a stand-in made: it knows its length and has no way to fail.
    let total = body.size_hint().exact().unwrap_or_default();
    let pieces = body.into_data_stream().map(Result::unwrap_or_default);
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(total));
    let body = match fault {
        Fault::FlipByte => streamed(flipped(total / 2, pieces)),
        Fault::EmptyBody => {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
            Body::empty()
        }
        Fault::TruncateBody => streamed(until(total / 2, pieces).chain(stream::once(async {
            arriving().await;
            Bytes::new()
        }))),
        Fault::HangInBody => streamed(until(total / 2, pieces).chain(stream::once(pending()))),
        Fault::ResetInBody => {
            let conn = conn.clone();
            streamed(until(total / 2, pieces).chain(stream::once(async move {
                arriving().await;
                conn.kill();
                pending().await
            })))
        }
        Fault::Trickle { ms } => {
            let pause = Duration::from_millis(*ms);
            streamed(tenths(total, pieces).then(move |(starts, piece)| async move {
                if starts {
                    tokio::time::sleep(pause).await;
                }
                piece
            }))
        }
        _ => streamed(pieces),
    };
    Response::from_parts(head, body)
}

/// Lets what was sent so far reach the client, so that it sees a broken body and not a broken head.
async fn arriving() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn streamed(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::from_stream(pieces.map(Ok::<_, std::convert::Infallible>))
}

/// The pieces before that offset.
fn until(offset: u64, pieces: impl Stream<Item = Bytes>) -> impl Stream<Item = Bytes> {
    pieces.scan(offset, |left, mut piece| {
        piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= length(&piece);
        ready((!piece.is_empty()).then_some(piece))
    })
}

/// The pieces with the byte at that offset changed.
fn flipped(offset: u64, pieces: impl Stream<Item = Bytes>) -> impl Stream<Item = Bytes> {
    // `None` once it has passed.
    let mut before = Some(offset);
    pieces.map(move |piece| {
        let Some(at) = before else { return piece };
        before = at.checked_sub(length(&piece));
        if before.is_some() {
            return piece;
        }
        let mut bytes = piece.to_vec();
        if let Some(byte) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at)) {
            *byte ^= 0x10;
        }
        Bytes::from(bytes)
    })
}

/// The pieces cut where a tenth of the whole begins; each says whether one begins with it.
fn tenths(total: u64, pieces: impl Stream<Item = Bytes>) -> impl Stream<Item = (bool, Bytes)> {
    let tenth = total.div_ceil(10).max(1);
    let mut at = 0;
    pieces.flat_map(move |mut piece| {
        let mut parts = Vec::new();
        while !piece.is_empty() {
            let room = tenth - at % tenth;
            let part = piece.split_to(piece.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            at += length(&part);
            parts.push((room == tenth, part));
        }
        stream::iter(parts)
    })
}

fn length(piece: &Bytes) -> u64 {
    u64::try_from(piece.len()).unwrap_or(u64::MAX)
}
