//! Polling the dispatcher for events: `GET /api/v2/event/{model}/active`.
//!
//! The dispatcher hands each event out once to a consumer group and never again, so what a poll gives must
//! be made durable before anything else is done. Facts: azul-dispatcher v12.

use std::{collections::BTreeSet, convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use reqwest::{StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use super::{
    answer,
    dispatcher::{Dispatcher, Model, PostError},
};

/// The version that every poll names. It is part of the consumer group: one that changed with each
/// release would start a new group, and lose what lies between.
pub const GROUP_VERSION: &str = "1";

/// How much longer than the dispatcher gathers we wait for its answer: an event that arrives while the
/// client has gone away is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer is read up to here; a larger one is an error, because part of it would be lost.
const MAX_ANSWER_BYTES: usize = 268_435_456;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Poll<'a> {
    /// The kind of events.
    pub model: Model,
    /// Who polls: the author's name, which is the consumer group.
    pub name: &'a str,
    /// Sources of the events; none: all. In a set, because their order is part of the group.
    pub sources: &'a BTreeSet<String>,
    /// Actions of the events, for [`Model::Binary`] only; none: all.
    pub actions: &'a [&'a str],
    /// Events at most; the dispatcher gives at most 1000.
    pub count: usize,
    /// How long the dispatcher gathers; less than a second would never be answered, so counts as one.
    pub deadline: Duration,
}

/// What a poll gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Polled {
    /// The events, as they came: one that cannot be read must not cost the others.
    pub events: Vec<Value>,
    /// Azul is being reprocessed: nothing is handed out, so ask again much later.
    pub paused: bool,
}

/// Why a poll gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// No answer.
    #[error("polling for {model} events failed")]
    NoAnswer {
        /// What was polled for.
        model: Model,
        /// Why.
        #[source]
        source: PostError,
    },
    /// An answer that is an error.
    #[error("polling for {model} events: the dispatcher answered {status}: {detail}")]
    Refused {
        /// What was polled for.
        model: Model,
        /// HTTP status.
        status: u16,
        /// Start of what it said.
        detail: String,
    },
}

impl PollError {
    /// Whether the same poll may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
        }
    }
}

impl Dispatcher {
    /// Asks for events and waits, at most `poll.deadline` and half a minute, until there are some.
    ///
    /// # Errors
    /// [`PollError`]. Events may have been handed out and lost where the answer broke off.
    pub async fn poll(&self, poll: &Poll<'_>) -> Result<Polled, PollError> {
        let model = poll.model;
        let no_answer = |source| PollError::NoAnswer { model, source };
        let seconds = poll.deadline.as_secs().max(1);
        let mut url = self.url(&format!("api/v2/event/{model}/active"));
        {
            let mut query = url.query_pairs_mut();
            query
                .append_pair("name", poll.name)
                .append_pair("version", GROUP_VERSION)
                .append_pair("count", &poll.count.to_string())
                .append_pair("deadline", &seconds.to_string())
                // JSON: one event that cannot be decoded costs itself alone.
                .append_pair("avro-format", "false")
                .append_pair("is-task", "true")
                .append_pair("r-live", "true");
            if model == Model::Binary {
                query.append_pair("d-self", "true");
                for action in poll.actions {
                    query.append_pair("r-action", action);
                }
            }
            for source in poll.sources {
                query.append_pair("r-source", source);
            }
        }
        let limit = Duration::from_secs(seconds).saturating_add(PATIENCE);
        let (response, body) = self.get(url, limit, MAX_ANSWER_BYTES).await.map_err(no_answer)?;
        if response.status != StatusCode::OK {
            let detail = answer::one_line(&String::from_utf8_lossy(&body));
            return Err(PollError::Refused { model, status: response.status.as_u16(), detail });
        }
        if body.len() >= MAX_ANSWER_BYTES {
            let lie = format!("it is larger than {MAX_ANSWER_BYTES} bytes");
            return Err(no_answer(PostError::Nonsense(lie)));
        }
        let content_type = response.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        understand(content_type.unwrap_or_default(), body)
            .await
            .map_err(|lie| no_answer(PostError::Nonsense(lie)))
    }
}

/// Reads the two parts of an answer: `info` and `events`.
async fn understand(content_type: &str, body: Bytes) -> Result<Polled, String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Info {
        paused: bool,
    }
    #[derive(Deserialize)]
    struct Events {
        #[serde(default)]
        events: Option<Vec<Value>>,
    }
    let boundary = multer::parse_boundary(content_type)
        .map_err(|e| format!("Content-Type `{content_type}`: {e}"))?;
    let body = stream::once(async move { Ok::<_, Infallible>(body) });
    let mut form = multer::Multipart::new(body, boundary);
    let (mut info, mut events) = (Info::default(), None);
    while let Some(field) = form.next_field().await.map_err(|e| e.to_string())? {
        let name = field.name().unwrap_or_default().to_owned();
        let content = field.bytes().await.map_err(|e| e.to_string())?;
        let broken = |e| format!("its part `{name}`: {e}");
        match name.as_str() {
            "info" => info = serde_json::from_slice(&content).map_err(broken)?,
            "events" => {
                let read: Events = serde_json::from_slice(&content).map_err(broken)?;
                events = Some(read.events.unwrap_or_default());
            }
            _ => {}
        }
    }
    let events = events.ok_or("it has no part `events`")?;
    Ok(Polled { events, paused: info.paused })
}
