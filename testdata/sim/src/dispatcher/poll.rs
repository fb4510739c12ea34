//! `GET /api/v2/event/{model}/active|passive`: consumer groups, each handing an event out once.

use std::{
    collections::{BTreeMap, HashMap},
    future::pending,
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension,
    body::Body,
    extract::{Path, State as Shared},
    response::Response,
};
use http::{HeaderValue, StatusCode, Uri, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    Inner, Published, State, encode,
    post::{error, set},
    schema::Model,
    validate::text,
};
use crate::{
    fault::around,
    server::{Conn, lock},
};

/// Events in one answer at most.
const MAX_COUNT: usize = 1000;

/// Seconds that the dispatcher waits where the query says nothing.
const DEFAULT_DEADLINE: u64 = 5;

/// Separates the parts of an answer.
const BOUNDARY: &str = "5d1c0ffee5d1c0ffee5d1c0ffee5d1c0ffee5d1c0ffee5d1c0ffee";

/// Positions of the consumer groups, by the text that `Poll::group` returns.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<String, Group>);

/// Positions in the log of arrivals.
#[derive(Debug)]
struct Group {
    live: usize,
    historic: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Sets `dequeued` on binary events.
    Active,
    Passive,
}

/// A poll's parameters.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the query has these flags")]
struct Poll {
    model: Model,
    way: Way,
    name: String,
    version: String,
    count: usize,
    /// `None`: the real one never answers.
    deadline: Option<u64>,
    avro: bool,
    live: bool,
    historic: bool,
    deny_self: bool,
    sources: Vec<String>,
    actions: Vec<String>,
    denied: Vec<String>,
}

pub(super) async fn active(
    inner: Shared<Arc<Inner>>,
    conn: Extension<Conn>,
    model: Path<String>,
    uri: Uri,
) -> Response {
    poll(Way::Active, inner, conn, model, uri).await
}

pub(super) async fn passive(
    inner: Shared<Arc<Inner>>,
    conn: Extension<Conn>,
    model: Path<String>,
    uri: Uri,
) -> Response {
    poll(Way::Passive, inner, conn, model, uri).await
}

async fn poll(
    way: Way,
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path(model): Path<String>,
    uri: Uri,
) -> Response {
    around(inner.poll_faults.next(), &conn, async {
        let poll = match Poll::parse(way, &model, &uri) {
            Ok(poll) => poll,
            Err(detail) => {
                return error(StatusCode::UNPROCESSABLE_ENTITY, "bad parameters", &detail);
            }
        };
        let Some(seconds) = poll.deadline else { return pending().await };
        let until = Instant::now() + Duration::from_secs(seconds);
        // On a task of its own: it goes on, and takes events, when the client has gone away. So does
        // the real one, and the events are lost.
        let gathering = tokio::spawn(async move { gather(&inner, &poll, until).await });
        match gathering.await {
            Ok(response) => response,
            Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, "fetching failed", &e.to_string()),
        }
    })
    .await
}

impl Poll {
    fn parse(way: Way, model: &str, uri: &Uri) -> Result<Self, String> {
        let model = Model::from_name(model).ok_or_else(|| format!("no model {model:?}"))?;
        let mut query: HashMap<String, Vec<String>> = HashMap::new();
        let text = uri.query().unwrap_or_default();
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()).into_owned() {
            query.entry(name).or_default().push(value);
        }
        let all = |name: &str| query.get(name).cloned().unwrap_or_default();
        let one = |name: &str| all(name).into_iter().next().unwrap_or_default();
        let flag = |name: &str| match one(name).as_str() {
            "" | "false" | "0" => Ok(false),
            "true" | "1" => Ok(true),
            other => Err(format!("bad parameter for {name}: {other:?}")),
        };
        let number = |name: &str, default: i64| match one(name).as_str() {
            "" => Ok(default),
            digits => digits.parse().map_err(|e| format!("bad parameter for {name}: {e}")),
        };
        let count: i64 = number("count", 1)?;
        let deadline: i64 = number("deadline", DEFAULT_DEADLINE.cast_signed())?;
        let mut actions = all("r-action");
        let denied = all("d-action");
        if flag("r-content")? {
            if !actions.is_empty() || !denied.is_empty() {
                return Err("r-content excludes r-action and d-action".to_owned());
            }
            actions = vec!["sourced".to_owned(), "extracted".to_owned()];
        }
        let expedite = flag("r-expedite")?;
        let only_binary = [
            ("r-expedite", expedite),
            ("r-action", !actions.is_empty()),
            ("d-action", !denied.is_empty()),
        ];
        if model != Model::Binary
            && let Some((name, _)) = only_binary.iter().find(|(_, used)| *used)
        {
            return Err(format!("{name} is for binary events only"));
        }
        let (live, historic) = (flag("r-live")?, flag("r-historic")?);
        if !(live || historic || expedite) {
            return Err("one of r-live, r-historic and r-expedite must be set".to_owned());
        }
        Ok(Self {
            model,
            way,
            name: one("name"),
            version: one("version"),
            count: usize::try_from(count).unwrap_or(1).clamp(1, MAX_COUNT),
            deadline: u64::try_from(deadline).ok().filter(|seconds| *seconds > 0),
            avro: flag("avro-format")?,
            live,
            historic,
            deny_self: flag("d-self")?,
            sources: all("r-source"),
            actions,
            denied,
        })
    }

    /// Returns the text that identifies the consumer group. Polls that differ in any part of it do not share events.
    fn group(&self) -> String {
        let Self { name, version, sources, actions, live, historic, .. } = self;
        let model = self.model.name();
        if self.model == Model::Binary {
            format!("{name}-{version}-{model}-{sources:?}-{actions:?}-{live}-{historic}")
        } else {
            format!("{name}-{version}-{model}")
        }
    }

    /// The filter that keeps the event from this poll, if one does.
    fn filtered(&self, event: &Published) -> Option<&'static str> {
        let unwanted = |list: &[String], value: &str| {
            !list.is_empty() && !list.iter().any(|wanted| wanted == value)
        };
        if self.model != Model::Binary {
            None
        } else if unwanted(&self.sources, &event.source) {
            Some("r-source")
        } else if unwanted(&self.actions, &event.action) {
            Some("r-action")
        } else if self.denied.contains(&event.action) {
            Some("d-action")
        } else if self.deny_self && text(&event.event, "/author/name") == self.name {
            Some("d-self")
        } else {
            None
        }
    }
}

/// Events that a poll has gathered so far, and counts of the filtered ones.
#[derive(Default)]
struct Gathered {
    events: Vec<Value>,
    filters: BTreeMap<&'static str, u64>,
}

async fn gather(inner: &Inner, poll: &Poll, until: Instant) -> Response {
    let mut gathered = Gathered::default();
    let mut changes = inner.changed.subscribe();
    loop {
        {
            let mut state = lock(&inner.state);
            if state.paused && poll.way == Way::Active {
                return answer(poll, &gathered, true);
            }
            take(&mut state, poll, &mut gathered);
        }
        if gathered.events.len() >= poll.count {
            break;
        }
        if timeout_at(until, changes.changed()).await.is_err() {
            break;
        }
    }
    answer(poll, &gathered, false)
}

/// Moves what is there for the group's positions into the answer.
fn take(state: &mut State, poll: &Poll, gathered: &mut Gathered) {
    let log = &state.book.arrived.events;
    // A new group starts at the latest event, or at the first for those who want history.
    let group = state
        .groups
        .0
        .entry(poll.group())
        .or_insert_with(|| Group { live: log.len(), historic: 0 });
    let mut positions = Vec::new();
    if poll.historic {
        positions.push(&mut group.historic);
    }
    // Both flags: two positions, and an event is handed out twice.
    if poll.live {
        positions.push(&mut group.live);
    }
    for position in positions {
        while gathered.events.len() < poll.count
            && let Some(event) = log.get(*position)
        {
            *position += 1;
            if event.model != poll.model {
                continue;
            }
            if let Some(filter) = poll.filtered(event) {
                *gathered.filters.entry(filter).or_default() += 1;
                continue;
            }
            let mut handed_out = event.event.clone();
            if poll.model == Model::Binary && poll.way == Way::Active {
                let now = Timestamp::now().as_second();
                let dequeued = format!("{}.{}.{}.{now}", event.key, poll.name, poll.version);
                set(&mut handed_out, "dequeued", json!(dequeued));
            }
            gathered.events.push(handed_out);
        }
    }
}

/// The two parts of an answer, as a form.
fn answer(poll: &Poll, gathered: &Gathered, paused: bool) -> Response {
    let info = json!({
        "filtered": gathered.filters.values().sum::<u64>(),
        "fetched": gathered.events.len(),
        "ready": true,
        "paused": paused,
        "consumers_not_ready": "",
        "filters": gathered.filters,
    });
    let events = if poll.avro {
        encode::bulk(poll.model, &gathered.events)
    } else {
        json!({"events": gathered.events}).to_string().into_bytes()
    };
    let mut body = Vec::new();
    let parts =
        [("info", "info.json", info.to_string().into_bytes()), ("events", "events.json", events)];
    for (name, file, content) in parts {
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        body.extend(head.into_bytes());
        body.extend(content);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
    let mut response = Response::new(Body::from(body));
    if let Ok(value) = HeaderValue::try_from(format!("multipart/form-data; boundary={BOUNDARY}")) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}
