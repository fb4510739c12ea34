//! Uploads and downloads of content at the dispatcher: `/api/v3/stream/{source}/{label}`. Facts: azul-dispatcher v12.

use std::time::Duration;

use reqwest::{Body, Response, StatusCode, header::CONTENT_TYPE};
use serde::Deserialize;
use url::Url;

use super::{
    answer,
    dispatcher::{Dispatcher, PostError, no_answer},
    event::Datastream,
};
use net::http_client;

/// Longest time from the start of an upload to its answer. It covers a large sample over a slow link, and its
/// identification by the dispatcher.
pub const STREAM_TIME: Duration = Duration::from_mins(15);
/// Most bytes that are read of an answer.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Address of content in Azul: its source, its label and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentAddress<'a> {
    /// Source.
    pub source: &'a str,
    /// `content`, `pcap`, ….
    pub label: &'a str,
    /// Lower-case hex.
    pub sha256: &'a str,
}

/// Error of a request for content at the dispatcher.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// There was no usable answer.
    #[error("the dispatcher's store")]
    NoAnswer(#[source] PostError),
    /// The answer is an error.
    #[error("the dispatcher's store answered {status}: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Start of the answer's text.
        detail: String,
    },
}

impl StreamError {
    /// Returns whether the same request may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoAnswer(_) => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500..),
        }
    }
}

impl Dispatcher {
    fn stream_url(&self, segments: &[&str]) -> Url {
        let mut url = self.url("api/v3/stream");
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(segments);
        }
        url
    }

    /// Returns whether the dispatcher has the content.
    ///
    /// # Errors
    /// Any [`StreamError`].
    pub async fn has_stream(&self, place: ContentAddress<'_>) -> Result<bool, StreamError> {
        let url = self.stream_url(&[place.source, place.label, place.sha256]);
        let limit = self.options().post_timeout;
        let answer = self.send(self.client().head(url), limit).await;
        let answer = answer.map_err(StreamError::NoAnswer)?;
        match answer.status() {
            StatusCode::OK => unless_a_page(answer).map(|_| true),
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(StreamError::Refused { status: status.as_u16(), detail: String::new() }),
        }
    }

    /// Opens content for streaming; `None` if the dispatcher does not have it. Reading it takes at most
    /// [`STREAM_TIME`].
    ///
    /// # Errors
    /// Any [`StreamError`].
    pub async fn open_stream(
        &self,
        place: ContentAddress<'_>,
    ) -> Result<Option<Response>, StreamError> {
        let url = self.stream_url(&[place.source, place.label, place.sha256]);
        let answer = self.send(self.client().get(url), STREAM_TIME).await;
        let answer = answer.map_err(StreamError::NoAnswer)?;
        match answer.status() {
            StatusCode::OK => unless_a_page(answer).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(refused(answer).await),
        }
    }

    /// Uploads content, within [`STREAM_TIME`]. If a hash is `expected` (lower-case hex), the dispatcher keeps only
    /// content with that hash. Returns what the dispatcher found out about the content, under `label`.
    ///
    /// # Errors
    /// Any [`StreamError`]. If `body` ends in an error, the dispatcher keeps nothing, and this is
    /// [`StreamError::NoAnswer`].
    pub async fn put_stream(
        &self,
        source: &str,
        label: &str,
        expected: Option<&str>,
        body: Body,
    ) -> Result<Datastream, StreamError> {
        #[derive(Deserialize)]
        struct Stored {
            data: Datastream,
        }
        let mut url = self.stream_url(&[source, label]);
        if let Some(expected) = expected {
            url.query_pairs_mut().append_pair("expected-sha256", expected);
        }
        let lost = |error| StreamError::NoAnswer(no_answer(error, STREAM_TIME));
        let request = self.client().post(url).timeout(STREAM_TIME).body(body);
        // The outcome is not reported to `peers`, because an error in `body` ends the upload as well.
        let answer = request.send().await.map_err(lost)?;
        if answer.status() != StatusCode::OK {
            return Err(refused(answer).await);
        }
        let said = http_client::start_of_body(answer, MAX_ANSWER_BYTES).await.map_err(lost)?;
        let Ok(Stored { mut data }) = serde_json::from_slice(&said) else {
            let why = "it does not describe what was stored".to_owned();
            return Err(StreamError::NoAnswer(PostError::Nonsense(why)));
        };
        // The dispatcher always answers with the label `content`.
        label.clone_into(&mut data.label);
        Ok(data)
    }
}

/// Refuses an HTML page, which comes from a proxy: the dispatcher sends all content as bytes.
fn unless_a_page(answer: Response) -> Result<Response, StreamError> {
    let content_type = answer.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html")) {
        let why = "it is a page of HTML, so a proxy or a gateway gave it".to_owned();
        return Err(StreamError::NoAnswer(PostError::Nonsense(why)));
    }
    Ok(answer)
}

async fn refused(answer: Response) -> StreamError {
    let status = answer.status().as_u16();
    let said = http_client::start_of_body(answer, MAX_ANSWER_BYTES).await.unwrap_or_default();
    StreamError::Refused { status, detail: answer::one_line(&String::from_utf8_lossy(&said)) }
}
