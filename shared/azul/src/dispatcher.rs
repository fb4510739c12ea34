//! HTTP client of the Azul dispatcher: one post, one typed answer.
//!
//! The client only reports answers. The caller decides what an answer means for each event. Facts:
//! azul-dispatcher v12, `POST /api/v2/event`.

use std::{
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::{RequestBuilder, Response, StatusCode, header};
use url::Url;

use super::answer;
pub use super::answer::{Accepted, Answer, Filtered};
use base::errors::chain;
use net::{
    http_client,
    peers::{Peer, Peers},
};
use telemetry::metrics;

/// Most bytes that are read of an error body. The rest has no further information.
const MAX_ERROR_BODY_BYTES: usize = 65_536;

/// Most bytes that are read of the answer to a post, which may list refused events.
const MAX_BODY_BYTES: usize = 16_777_216;

/// The kinds of events, and so of topics, that the dispatcher keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Model {
    /// Events that say something about a binary.
    Binary,
    /// Events that request the download of a sample, or report the outcome of a request.
    Download,
    /// Events that report the outcome of the work on an event.
    Status,
    /// Events by which a plugin registers itself.
    Plugin,
}

impl Model {
    /// Returns the model's name in the query `model=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Download => "download",
            Self::Status => "status",
            Self::Plugin => "plugin",
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Encoding of a posted body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// An Avro bulk message ([`super::avro`]), model versions 4 to 6.
    Avro,
    /// JSON of one event or of a list of events, in the dispatcher's own model version.
    Json,
}

/// Timeouts of the client.
#[derive(Clone, Copy, Debug)]
pub struct DispatcherOptions {
    /// Longest time of a post, from its start to the end of its answer. The dispatcher waits for the broker's receipt
    /// of every event in the post.
    pub post_timeout: Duration,
    /// Longest time of [`Dispatcher::ping`].
    pub ping_timeout: Duration,
}

impl Default for DispatcherOptions {
    fn default() -> Self {
        Self { post_timeout: Duration::from_mins(1), ping_timeout: Duration::from_secs(10) }
    }
}

/// Error of a request without a usable answer. It is not known whether the events were published, and another try is
/// always worthwhile.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// No connection could be made, so nothing was published.
    #[error("the dispatcher cannot be reached")]
    Connect(#[source] reqwest::Error),
    /// There was a connection, but no complete answer arrived in time.
    #[error("the dispatcher gave no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The connection broke before the whole answer was there.
    #[error("the connection to the dispatcher broke")]
    Broken(#[source] reqwest::Error),
    /// The status is 200, but the body is not what the dispatcher sends with it.
    #[error("the dispatcher's answer makes no sense: {0}")]
    Nonsense(String),
}

/// Answer to a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Whether the server calls itself the dispatcher.
    pub is_dispatcher: bool,
    /// HTTP status.
    pub status: u16,
    /// Start of the answer's text, on one line.
    pub greeting: String,
    /// Time of the server's clock, in whole seconds, if the answer has a `Date` header.
    pub date: Option<Timestamp>,
}

/// The head of an answer: everything before its body.
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: header::HeaderMap,
}

/// Client of one dispatcher.
#[derive(Clone)]
pub struct Dispatcher {
    client: reqwest::Client,
    base: Url,
    options: DispatcherOptions,
    peers: Peers,
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The base may hold a name and a password.
        f.debug_struct("Dispatcher")
            .field("host", &self.base.host_str())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// Makes a client of the dispatcher at `events_url` (`PLUGIN_EVENTS_URL`), which may have a path.
    pub fn new(client: reqwest::Client, events_url: Url, options: DispatcherOptions) -> Self {
        Self { client, base: events_url, options, peers: Peers::default() }
    }

    /// Returns the client, which now reports to `peers` the outcome of each request.
    #[must_use]
    pub fn with_peers(self, peers: &Peers) -> Self {
        Self { peers: peers.clone(), ..self }
    }

    /// Posts events of one model, waits until the broker has them, and returns the typed answer.
    ///
    /// # Errors
    /// [`PostError`] if no usable answer arrived; the events may have been published or not.
    pub async fn post(
        &self,
        model: Model,
        body: Bytes,
        format: BodyFormat,
    ) -> Result<Answer, PostError> {
        let begun = Instant::now();
        let answer = self.post_unmeasured(model, body, format).await;
        match &answer {
            // Any other server error is caused by an event, so it is no outage.
            Ok(Answer::Other { status: status @ 500.., detail, .. }) => {
                let error = format!("it answers {status}: {detail}");
                self.peers.failed(Peer::Dispatcher, &error);
            }
            Ok(_) => self.peers.answered(Peer::Dispatcher, &header::HeaderMap::new()),
            Err(error) => self.peers.failed(Peer::Dispatcher, &chain(error)),
        }
        metrics::DISPATCHER_SECONDS.observe([], begun.elapsed().as_secs_f64());
        answer
    }

    async fn post_unmeasured(
        &self,
        model: Model,
        body: Bytes,
        format: BodyFormat,
    ) -> Result<Answer, PostError> {
        let limit = self.options.post_timeout;
        let (avro, content_type) = match format {
            BodyFormat::Avro => ("true", "application/avro"),
            BodyFormat::Json => ("false", "application/json"),
        };
        let mut url = self.url("api/v2/event");
        url.query_pairs_mut()
            .append_pair("model", model.name())
            .append_pair("avro-format", avro)
            // Without `sync` the answer arrives before the broker has the events, so they could still be lost.
            .append_pair("sync", "true")
            // Otherwise the answer would repeat every event.
            .append_pair("include_ok", "false")
            // Only Azul's operators may pause all plugins, for bulk reprocessing.
            .append_pair("pause_plugins", "false");
        let response = self
            .client
            .post(url)
            .header(header::CONTENT_TYPE, content_type)
            .timeout(limit)
            .body(body)
            .send()
            .await
            .map_err(|error| no_answer(error, limit))?;
        let status = response.status();
        self.peers.dated(Peer::Dispatcher, response.headers());
        let now = Timestamp::now();
        let retry_after =
            http_client::retry_after(response.headers(), now, http_client::MAX_RETRY_AFTER);
        let cap = if status == StatusCode::OK { MAX_BODY_BYTES } else { MAX_ERROR_BODY_BYTES };
        let body = match http_client::start_of_body(response, cap).await {
            Ok(body) => body,
            // The status alone decides; only the message is lost.
            Err(_) if status != StatusCode::OK && !answer::needs_body(status) => Bytes::new(),
            Err(error) => return Err(no_answer(error, limit)),
        };
        answer::understand(status, &body, retry_after)
    }

    /// Asks the dispatcher for its greeting: `GET /`.
    ///
    /// # Errors
    /// [`PostError`] if no answer arrived; any status is an answer.
    pub async fn ping(&self) -> Result<Pong, PostError> {
        let (head, body) =
            self.get(self.url(""), self.options.ping_timeout, MAX_ERROR_BODY_BYTES).await?;
        let date = http_client::date(&head.headers);
        let greeting = answer::one_line(&String::from_utf8_lossy(&body));
        let is_dispatcher =
            head.status == StatusCode::OK && greeting.starts_with("Azul Dispatcher");
        Ok(Pong { is_dispatcher, status: head.status.as_u16(), greeting, date })
    }

    /// Sends a GET request and reads at most `cap` bytes of the answer. Any status is an answer.
    pub(super) async fn get(
        &self,
        url: Url,
        limit: Duration,
        cap: usize,
    ) -> Result<(Head, Bytes), PostError> {
        let mut response = self.send(self.client.get(url), limit).await?;
        let head =
            Head { status: response.status(), headers: std::mem::take(response.headers_mut()) };
        let body = http_client::start_of_body(response, cap)
            .await
            .map_err(|error| no_answer(error, limit))?;
        Ok((head, body))
    }

    /// Sends a request, waits for the head of its answer, and reports to `peers` whether the dispatcher answered.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        limit: Duration,
    ) -> Result<Response, PostError> {
        let sent = request.timeout(limit).send().await.map_err(|error| no_answer(error, limit));
        match &sent {
            Ok(response) if response.status().is_server_error() => {
                self.peers.dated(Peer::Dispatcher, response.headers());
                self.peers.failed(Peer::Dispatcher, &format!("it answers {}", response.status()));
            }
            Ok(response) => self.peers.answered(Peer::Dispatcher, response.headers()),
            Err(error) => self.peers.failed(Peer::Dispatcher, &chain(error)),
        }
        sent
    }

    pub(super) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(super) fn options(&self) -> &DispatcherOptions {
        &self.options
    }

    /// Returns the URL of `path` below the base URL. The base URL's own path is kept, because Azul may be served below
    /// a prefix.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_query(None);
        url.set_fragment(None);
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/{path}"));
        url
    }
}

pub(super) fn no_answer(error: reqwest::Error, limit: Duration) -> PostError {
    // The URL may hold a name and a password.
    let error = error.without_url();
    if error.is_connect() {
        PostError::Connect(error)
    } else if error.is_timeout() {
        PostError::Timeout(limit)
    } else {
        PostError::Broken(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_with_a_path_keeps_it() {
        for (base, expected) in [
            ("http://dispatcher:8111", "http://dispatcher:8111/api/v2/event"),
            ("http://azul/x/dispatcher", "http://azul/x/dispatcher/api/v2/event"),
            ("http://azul/x/dispatcher/?a=b#c", "http://azul/x/dispatcher/api/v2/event"),
        ] {
            let dispatcher = Dispatcher::new(
                reqwest::Client::new(),
                base.parse().unwrap(),
                DispatcherOptions::default(),
            );
            assert_eq!(dispatcher.url("api/v2/event").as_str(), expected);
        }
    }

    #[test]
    fn debug_output_shows_no_password() {
        let dispatcher = Dispatcher::new(
            reqwest::Client::new(),
            "http://user:hunter2@dispatcher/hunter2".parse().unwrap(),
            DispatcherOptions::default(),
        );
        assert!(!format!("{dispatcher:?}").contains("hunter2"));
    }
}
