//! Lambda's Runtime API, as a function's process sees it: it asks for the next event, and posts an answer or an
//! error. Source: AWS Lambda's documentation, "Using the Lambda runtime API for custom runtimes".

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    response::Response,
    routing::{get, post},
};
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

use crate::server::{Server, lock};

/// Outcome of an invocation: the answer, or the error `{"errorType":…,"errorMessage":…}`.
pub type Outcome = std::result::Result<Value, Value>;

/// A running Runtime API for one function. Dropping it ends it.
#[derive(Debug)]
pub struct RuntimeApi {
    server: Server,
    events: mpsc::UnboundedSender<Event>,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Event {
    id: String,
    body: String,
    deadline_ms: u128,
}

#[derive(Debug)]
struct Inner {
    events: AsyncMutex<mpsc::UnboundedReceiver<Event>>,
    outcomes: Mutex<HashMap<String, oneshot::Sender<Outcome>>>,
    count: AtomicU64,
}

impl RuntimeApi {
    /// Starts on a free port.
    ///
    /// # Errors
    /// No port can be listened on.
    pub async fn start() -> Result<Self> {
        let (events, receiver) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            events: AsyncMutex::new(receiver),
            outcomes: Mutex::default(),
            count: AtomicU64::new(0),
        });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .with_state(Arc::clone(&inner));
        Ok(Self { server: Server::start(0, router).await?, events, inner })
    }

    /// The environment that Lambda gives to a function's process.
    pub fn environment(&self, function: &str) -> [(&'static str, String); 6] {
        [
            ("AWS_LAMBDA_RUNTIME_API", self.server.url().replace("http://", "")),
            ("AWS_LAMBDA_FUNCTION_NAME", function.to_owned()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512".to_owned()),
            ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{function}")),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "here".to_owned()),
        ]
    }

    /// Invokes the function with an event and so much time, and waits for what it gives.
    ///
    /// # Errors
    /// It gave nothing for a minute longer than its time.
    pub async fn invoke(&self, event: &Value, time: Duration) -> Result<Outcome> {
        let id = format!("request-{}", self.inner.count.fetch_add(1, Ordering::Relaxed));
        let (send, receive) = oneshot::channel();
        lock(&self.inner.outcomes).insert(id.clone(), send);
        let deadline_ms = (SystemTime::now() + time).duration_since(UNIX_EPOCH)?.as_millis();
        self.events.send(Event { id: id.clone(), body: event.to_string(), deadline_ms })?;
        let answered = tokio::time::timeout(time + Duration::from_mins(1), receive).await;
        Ok(answered.with_context(|| format!("{id} is not answered"))??)
    }
}

fn answer(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

async fn next(State(inner): State<Arc<Inner>>) -> Response {
    let Some(event) = inner.events.lock().await.recv().await else {
        return answer(StatusCode::GONE);
    };
    let response = Response::builder()
        .header("content-type", "application/json")
        .header("lambda-runtime-aws-request-id", event.id)
        .header("lambda-runtime-deadline-ms", event.deadline_ms.to_string())
        .header(
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:us-east-1:000000000000:function:here",
        )
        .body(Body::from(event.body));
    response.unwrap_or_else(|_| answer(StatusCode::INTERNAL_SERVER_ERROR))
}

async fn response(
    State(inner): State<Arc<Inner>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Response {
    ended(&inner, &id, &body, Ok)
}

async fn error(State(inner): State<Arc<Inner>>, Path(id): Path<String>, body: Bytes) -> Response {
    ended(&inner, &id, &body, Err)
}

fn ended(inner: &Inner, id: &str, body: &[u8], how: fn(Value) -> Outcome) -> Response {
    let Ok(body) = serde_json::from_slice(body) else { return answer(StatusCode::BAD_REQUEST) };
    match lock(&inner.outcomes).remove(id) {
        Some(send) => {
            // Whoever waited may have given up.
            let _ = send.send(how(body));
            answer(StatusCode::ACCEPTED)
        }
        None => answer(StatusCode::NOT_FOUND),
    }
}
