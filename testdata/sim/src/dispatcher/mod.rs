//! The Azul dispatcher, as far as this project speaks to it, traps included.

mod arrivals;
mod decode;
mod encode;
mod key;
mod poll;
mod post;
mod schema;
mod streams;
#[cfg(test)]
mod tests;
mod validate;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, State as Shared},
    response::Response,
    routing::{get, post as on_post},
};
use bytes::Bytes;
use http::{StatusCode, Uri};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use self::{arrivals::Book, poll::Groups, streams::Streams};
pub use self::{
    arrivals::{Arrived, Download, Published},
    schema::Model,
};
use crate::{
    fault::{Fault, Faults, around},
    server::{Conn, Date, Server, lock, wait_until},
};

/// A running dispatcher. Dropping it ends it.
///
/// At the start the sources `virustotal`, `vtlivehunt`, `samples` and `incidents` are registered,
/// nothing expires and nothing is filtered.
#[derive(Debug)]
pub struct Dispatcher {
    server: Server,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// For posts of events, polls and streams.
    faults: Faults,
    poll_faults: Faults,
    stream_faults: Faults,
    upload_faults: Faults,
    /// Counts changes of the state, for those who wait for one.
    changed: watch::Sender<u64>,
}

type Predicate = Box<dyn Fn(&Value) -> bool + Send + Sync>;

struct State {
    sources: BTreeSet<String>,
    expiry: BTreeMap<String, SignedDuration>,
    filter: Option<(String, Predicate)>,
    refused: Option<Predicate>,
    max_event_bytes: usize,
    now: Option<Timestamp>,
    serial: u64,
    book: Book,
    posts: Vec<Posted>,
    groups: Groups,
    paused: bool,
    streams: Streams,
    /// Events that it took and threw away; `None` where it keeps them.
    sunk: Option<u64>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("posts", &self.posts.len()).finish_non_exhaustive()
    }
}

/// One `POST` of events, as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The query's `model`.
    pub model: String,
    /// Whether the query asked for the broker's receipt.
    pub sync: bool,
    /// Whether the body was said to be Avro.
    pub avro: bool,
    /// Bytes of the body.
    pub size_bytes: usize,
    /// SHA-256 of the body, as hex.
    pub sha256: String,
    /// Events decoded from it; 0 where it was refused as a whole.
    pub events: usize,
    /// The status answered; `None` for a forced fault that answered nothing or something else.
    pub status: Option<u16>,
}

impl Dispatcher {
    /// Starts on a free port.
    ///
    /// # Errors
    /// No port can be listened on.
    pub async fn start() -> Result<Self> {
        Self::start_on(0).await
    }

    /// Starts on that port.
    ///
    /// # Errors
    /// The port cannot be listened on.
    pub async fn start_on(port: u16) -> Result<Self> {
        let names = ["virustotal", "vtlivehunt", "samples", "incidents"];
        let inner = Arc::new(Inner {
            state: Mutex::new(State {
                sources: names.map(str::to_owned).into(),
                expiry: BTreeMap::new(),
                filter: None,
                refused: None,
                max_event_bytes: 3_145_728,
                now: None,
                serial: 0,
                book: Book::default(),
                posts: Vec::new(),
                groups: Groups::default(),
                paused: false,
                streams: Streams::default(),
                sunk: None,
            }),
            faults: Faults::default(),
            poll_faults: Faults::default(),
            stream_faults: Faults::default(),
            upload_faults: Faults::default(),
            changed: watch::Sender::new(0),
        });
        let router = Router::new()
            .route("/", get(|| async { "Azul Dispatcher" }))
            .route("/api/v2/event", on_post(post_event))
            .route("/api/v2/event/{model}/active", get(poll::active))
            .route("/api/v2/event/{model}/passive", get(poll::passive))
            .route("/api/v3/stream/{source}/{label}", on_post(streams::upload))
            .route("/api/v3/stream/{source}/{label}/{sha256}", get(streams::download))
            .route("/sim/summary", get(summary))
            .route("/sim/keys", get(keys))
            .route("/sim/fault", on_post(set_fault))
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&inner));
        Ok(Self { server: Server::start(port, router).await?, inner })
    }

    /// `http://127.0.0.1:<port>`, without a slash at its end.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Ends it and waits for that.
    pub async fn stop(self) {
        self.server.stop().await;
    }

    // Controls.

    /// Sets the header `Date` of each further answer.
    pub fn set_date(&self, date: Date) {
        self.server.set_date(date);
    }

    /// Binary events of this source are taken from now on.
    pub fn register_source(&self, name: &str) {
        lock(&self.inner.state).sources.insert(name.to_owned());
    }

    /// Binary events of this source get the 500 of an unregistered topic from now on.
    pub fn unregister_source(&self, name: &str) {
        lock(&self.inner.state).sources.remove(name);
    }

    /// Binary events of this source whose source time is older are aged off.
    pub fn expire(&self, source: &str, age: SignedDuration) {
        lock(&self.inner.state).expiry.insert(source.to_owned(), age);
    }

    /// The instant that ages are counted from; the system's clock until this is called.
    pub fn set_now(&self, now: Timestamp) {
        lock(&self.inner.state).now = Some(now);
    }

    /// Events for which `filter` is true are filtered, under that name.
    pub fn filter(&self, name: &str, filter: impl Fn(&Value) -> bool + Send + Sync + 'static) {
        lock(&self.inner.state).filter = Some((name.to_owned(), Box::new(filter)));
    }

    /// Events for which `refused` is true are invalid, whatever they hold.
    pub fn refuse(&self, refused: impl Fn(&Value) -> bool + Send + Sync + 'static) {
        lock(&self.inner.state).refused = Some(Box::new(refused));
    }

    /// The largest event taken, in bytes as the server encodes it; 3,145,728 at the start.
    pub fn set_max_event_bytes(&self, bytes: usize) {
        lock(&self.inner.state).max_event_bytes = bytes;
    }

    /// The next `times` posts of events go wrong like that; earlier faults come first.
    pub fn fail(&self, fault: &Fault, times: usize) {
        self.inner.faults.push(fault, times);
    }

    /// The next `times` polls go wrong like that.
    pub fn fail_polls(&self, fault: &Fault, times: usize) {
        self.inner.poll_faults.push(fault, times);
    }

    /// Faults that nothing has met yet.
    pub fn faults_left(&self) -> usize {
        self.inner.all_faults().iter().map(|faults| faults.left()).sum()
    }

    /// From here on nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.inner.clear_faults();
    }

    /// Binary events that come as Avro are counted and thrown away from now on, unread: for measurements, where
    /// the processor is not this one's.
    pub fn sink(&self) {
        lock(&self.inner.state).sunk.get_or_insert(0);
    }

    /// While paused, as Azul is while it reprocesses, active polls answer at once with nothing.
    pub fn set_paused(&self, paused: bool) {
        lock(&self.inner.state).paused = paused;
    }

    /// Resets all connections and refuses new ones until [`Self::up`].
    pub async fn down(&self) {
        self.server.down().await;
    }

    /// Takes connections again, on the same port.
    pub async fn up(&self) {
        self.server.up().await;
    }

    /// Keeps arrivals in that file too, and starts with those that it holds.
    ///
    /// # Errors
    /// The file cannot be read or opened for appending.
    pub fn record_to(&self, path: &Path) -> Result<()> {
        lock(&self.inner.state).book.record_to(path)
    }

    /// Forgets what arrived, and where polling groups stand; a file of arrivals stays as it is.
    pub fn forget(&self) {
        let mut state = lock(&self.inner.state);
        state.book.forget();
        state.posts.clear();
        state.groups = Groups::default();
    }

    // Questions.

    /// Everything that arrived so far.
    pub fn arrived(&self) -> Arrived {
        lock(&self.inner.state).book.arrived.clone()
    }

    /// Binary key → the last event under it.
    pub fn keys(&self) -> BTreeMap<String, Value> {
        self.arrived().keys()
    }

    /// Returns the problems in events that the dispatcher took but Azul's readers refuse. A test expects none.
    pub fn problems(&self) -> Vec<String> {
        lock(&self.inner.state).book.arrived.problems.clone()
    }

    /// Every post of events so far, refused and failed ones too.
    pub fn posts(&self) -> Vec<Posted> {
        lock(&self.inner.state).posts.clone()
    }

    /// Waits until what arrived, and the posts so far, answer the question with yes.
    ///
    /// # Panics
    /// They do not within five minutes.
    pub async fn wait_until(&self, mut question: impl FnMut(&Arrived, &[Posted]) -> bool) {
        let is_so = || {
            let state = lock(&self.inner.state);
            question(&state.book.arrived, &state.posts)
        };
        let seen = || format!("{:?}", self.arrived().counts());
        wait_until(self.inner.changed.subscribe(), is_so, seen).await;
    }
}

impl Inner {
    fn all_faults(&self) -> [&Faults; 4] {
        [&self.faults, &self.poll_faults, &self.stream_faults, &self.upload_faults]
    }

    fn clear_faults(&self) {
        for faults in self.all_faults() {
            faults.clear();
        }
    }
}

/// The query of a request, the last value of a repeated name winning.
fn query(uri: &Uri) -> HashMap<String, String> {
    url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

async fn post_event(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let query = query(&uri);
    let yes = |name: &str| matches!(query.get(name).map(String::as_str), Some("true" | "1"));
    let index = {
        let mut state = lock(&inner.state);
        state.posts.push(Posted {
            model: query.get("model").cloned().unwrap_or_default(),
            sync: yes("sync"),
            avro: yes("avro-format"),
            size_bytes: body.len(),
            sha256: hex::encode(Sha256::digest(&body)),
            events: 0,
            status: None,
        });
        state.posts.len() - 1
    };
    inner.changed.send_modify(|n| *n += 1);
    around(inner.faults.next(), &conn, async {
        let response = {
            let mut state = lock(&inner.state);
            let outcome = post::post(&mut state, &query, &body);
            if let Some(posted) = state.posts.get_mut(index) {
                posted.events = outcome.sent;
                posted.status = Some(outcome.response.status().as_u16());
            }
            outcome.response
        };
        inner.changed.send_modify(|n| *n += 1);
        response
    })
    .await
}

async fn summary(Shared(inner): Shared<Arc<Inner>>) -> Response {
    let state = lock(&inner.state);
    let mut summary = state.book.arrived.summary();
    post::set(&mut summary, "posts", json!(state.posts.len()));
    post::set(&mut summary, "sunk", json!(state.sunk));
    post::json_response(StatusCode::OK, &summary)
}

async fn keys(Shared(inner): Shared<Arc<Inner>>) -> Response {
    let sha256s = lock(&inner.state).book.arrived.sha256s();
    post::json_response(StatusCode::OK, &json!(sha256s))
}

/// `{"kind":"reset","times":3,"on":"post"}` (or `poll`, `stream`, `upload`), or `{"clear":true}`.
async fn set_fault(Shared(inner): Shared<Arc<Inner>>, body: Bytes) -> Response {
    let Ok(value) = serde_json::from_slice::<Value>(&body) else {
        return post::error(StatusCode::BAD_REQUEST, "not JSON", "");
    };
    if value.get("clear") == Some(&json!(true)) {
        inner.clear_faults();
        return post::json_response(StatusCode::OK, &json!({"left": 0}));
    }
    let times = value.get("times").and_then(Value::as_u64).unwrap_or(1);
    let times = usize::try_from(times).unwrap_or(1);
    let faults = match value.get("on").and_then(Value::as_str) {
        None | Some("post") => &inner.faults,
        Some("poll") => &inner.poll_faults,
        Some("stream") => &inner.stream_faults,
        Some("upload") => &inner.upload_faults,
        Some(other) => return post::error(StatusCode::BAD_REQUEST, "not a place", other),
    };
    match serde_json::from_value::<Fault>(value) {
        Ok(fault) => {
            faults.push(&fault, times);
            post::json_response(StatusCode::OK, &json!({"left": faults.left()}))
        }
        Err(e) => post::error(StatusCode::BAD_REQUEST, "not a fault", &e.to_string()),
    }
}
