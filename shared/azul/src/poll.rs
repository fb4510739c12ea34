//! Polling the dispatcher for events: `GET /api/v2/event/{model}/active`.
//!
//! The dispatcher hands each event out once to a consumer group and never again, so polled events must be made durable
//! before anything else is done. An answer is read as a stream, with one event in memory at a time. Facts:
//! azul-dispatcher v12.

use std::{collections::BTreeSet, time::Duration};

use multer::{Constraints, Multipart, SizeLimit};
use reqwest::{Response, StatusCode, header};
use serde::Deserialize;

pub use super::event_list::{EventText, TooLong};
use super::{
    answer,
    dispatcher::{Dispatcher, Model, PostError, no_answer},
    event_list::EventList,
};
use net::http_client;

/// Version that every poll names. It is part of the consumer group, so it must not change with releases: a new group
/// would miss the events in between.
pub const GROUP_VERSION: &str = "1";

/// Time for which the client waits longer than the dispatcher gathers events. An event is lost if it is handed out
/// after the client has gone away.
const ANSWER_GRACE: Duration = Duration::from_secs(30);

/// Most bytes that are read of the part `info` of an answer, and of an error's body.
const MAX_INFO_BYTES: usize = 65_536;

/// Parameters of a poll.
#[derive(Clone, Debug)]
pub struct Poll<'a> {
    /// The kind of events.
    pub model: Model,
    /// Name of the author that polls, which is the consumer group.
    pub name: &'a str,
    /// Sources of the events; empty for all. It is a sorted set, because their order is part of the consumer group.
    pub sources: &'a BTreeSet<String>,
    /// Actions of the events, for [`Model::Binary`] only; empty for all.
    pub actions: &'a [&'a str],
    /// Most events to return; the dispatcher gives at most 1000.
    pub count: usize,
    /// Longest time for which the dispatcher gathers events. Less than a second counts as one second, because the
    /// dispatcher would never answer.
    pub deadline: Duration,
}

/// The outcome of a poll, without the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// Number of events that came.
    pub events: usize,
    /// Length of the largest event in bytes.
    pub largest: usize,
    /// Whether Azul is being reprocessed. It hands out no events meanwhile, so the next poll should come much later.
    pub paused: bool,
    /// Whether the consumer group has its place in the events. The first poll of a group answers before it has one, and
    /// the group begins at the latest event after that.
    pub ready: bool,
}

/// Error of a poll.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// There was no usable answer.
    #[error("polling for {model} events failed")]
    NoAnswer {
        /// The kind of events that was polled for.
        model: Model,
        /// Reason why there was no usable answer.
        #[source]
        source: PostError,
    },
    /// The answer broke off behind some of its events. The dispatcher does not hand out the missing events again.
    #[error("the answer to a poll for {model} events broke off: of {announced} events {read} came")]
    BrokenOff {
        /// The kind of events that was polled for.
        model: Model,
        /// Number of events that came and were passed on.
        read: usize,
        /// Number of events that the answer announced.
        announced: usize,
        /// Length of the largest event that came, in bytes.
        largest: usize,
        /// Reason why the answer broke off.
        #[source]
        source: PostError,
    },
    /// The answer is an error.
    #[error("polling for {model} events: the dispatcher answered {status}: {detail}")]
    Refused {
        /// The kind of events that was polled for.
        model: Model,
        /// HTTP status.
        status: u16,
        /// Start of the answer's text.
        detail: String,
    },
}

impl PollError {
    /// Whether the same poll may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoAnswer { .. } | Self::BrokenOff { .. } => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
        }
    }
}

impl Dispatcher {
    /// Asks for events and waits until there are some, at most `poll.deadline` and half a minute. Passes the JSON text
    /// of each event to `take` as soon as it has come.
    ///
    /// # Errors
    /// [`PollError`]. If the answer broke off, events that were handed out may be lost.
    pub async fn poll(
        &self,
        poll: &Poll<'_>,
        take: &mut (dyn FnMut(EventText<'_>) + Send),
    ) -> Result<Polled, PollError> {
        let model = poll.model;
        let no_answer_to = |source| PollError::NoAnswer { model, source };
        let seconds = poll.deadline.as_secs().max(1);
        let mut url = self.url(&format!("api/v2/event/{model}/active"));
        {
            let mut query = url.query_pairs_mut();
            query
                .append_pair("name", poll.name)
                .append_pair("version", GROUP_VERSION)
                .append_pair("count", &poll.count.to_string())
                .append_pair("deadline", &seconds.to_string())
                // With JSON an event that cannot be decoded is lost alone.
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
        let limit = Duration::from_secs(seconds).saturating_add(ANSWER_GRACE);
        let response = self.send(self.client().get(url), limit).await.map_err(no_answer_to)?;
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            let body = http_client::start_of_body(response, MAX_INFO_BYTES).await;
            let body = body.map_err(|error| no_answer_to(no_answer(error, limit)))?;
            let detail = answer::one_line(&String::from_utf8_lossy(&body));
            return Err(PollError::Refused { model, status, detail });
        }
        let (mut info, mut list) = (Info::default(), EventList::default());
        match understand(response, limit, &mut info, &mut list, take).await {
            Ok(()) => Ok(Polled {
                events: list.given,
                largest: list.largest,
                paused: info.paused,
                ready: info.ready,
            }),
            Err(source) if info.fetched > 0 || list.given > 0 => {
                let (read, largest) = (list.given, list.largest);
                let announced = info.fetched.max(read);
                Err(PollError::BrokenOff { model, read, announced, largest, source })
            }
            Err(source) => Err(no_answer_to(source)),
        }
    }
}

/// The members that are used of the part `info` of an answer.
#[derive(Deserialize)]
#[serde(default)]
struct Info {
    fetched: usize,
    paused: bool,
    ready: bool,
}

impl Default for Info {
    /// A dispatcher that does not say whether it is ready is ready.
    fn default() -> Self {
        Self { fetched: 0, paused: false, ready: true }
    }
}

/// Reads the two parts of an answer: `info` and `events`.
async fn understand(
    response: Response,
    limit: Duration,
    info: &mut Info,
    list: &mut EventList,
    take: &mut (dyn FnMut(EventText<'_>) + Send),
) -> Result<(), PostError> {
    let broken = |error: multer::Error| match error {
        multer::Error::StreamReadFailed(source) => match source.downcast::<reqwest::Error>() {
            Ok(error) => no_answer(*error, limit),
            Err(source) => PostError::Nonsense(source.to_string()),
        },
        error => PostError::Nonsense(error.to_string()),
    };
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let content_type = content_type.unwrap_or_default();
    let boundary = multer::parse_boundary(content_type)
        .map_err(|e| PostError::Nonsense(format!("Content-Type `{content_type}`: {e}")))?;
    let most = u64::try_from(MAX_INFO_BYTES).unwrap_or(u64::MAX);
    let limits = Constraints::new().size_limit(SizeLimit::new().for_field("info", most));
    let mut form = Multipart::with_constraints(response.bytes_stream(), boundary, limits);
    let mut has_events = false;
    while let Some(mut field) = form.next_field().await.map_err(broken)? {
        match field.name() {
            Some("info") => {
                let content = field.bytes().await.map_err(broken)?;
                *info = serde_json::from_slice(&content)
                    .map_err(|e| PostError::Nonsense(format!("its part `info`: {e}")))?;
            }
            Some("events") => {
                let lie = |e| PostError::Nonsense(format!("its part `events`: {e}"));
                while let Some(piece) = field.chunk().await.map_err(broken)? {
                    list.feed(&piece, take).map_err(lie)?;
                }
                list.finish().map_err(lie)?;
                has_events = true;
            }
            _ => while field.chunk().await.map_err(broken)?.is_some() {},
        }
    }
    if has_events { Ok(()) } else { Err(PostError::Nonsense("it has no part `events`".into())) }
}
