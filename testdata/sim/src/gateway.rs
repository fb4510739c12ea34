//! A Prometheus Pushgateway, as far as this project speaks to it: PUT replaces all metrics of a group, POST those
//! of the same names.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use axum::{Router, body::Body, extract::State, response::Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, header};

use crate::server::{Server, lock};

/// A running Pushgateway. Dropping it ends it.
#[derive(Debug)]
pub struct Gateway {
    server: Server,
    groups: Groups,
}

/// A group's path below `/metrics/` → what it holds.
type Groups = Arc<Mutex<BTreeMap<String, Pushed>>>;

/// Value that is stored for a sample that is not a whole number.
const NO_WHOLE_NUMBER: i64 = -1;

/// The metrics of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Pushes taken.
    pub times: usize,
    /// A sample's name and labels as written → its value; -1 where it is no whole number.
    pub samples: BTreeMap<String, i64>,
    /// Types by the metric's name.
    pub types: BTreeMap<String, String>,
}

impl Gateway {
    /// Starts on a free port.
    ///
    /// # Errors
    /// No port can be listened on.
    pub async fn start() -> Result<Self> {
        let groups = Groups::default();
        let router = Router::new().fallback(push).with_state(Arc::clone(&groups));
        Ok(Self { server: Server::start(0, router).await?, groups })
    }

    /// `http://127.0.0.1:<port>`, without a slash at its end.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Refuses connections from now on.
    pub async fn down(&self) {
        self.server.down().await;
    }

    /// Returns the pushed metrics by group, such as `job/x/function/y`.
    pub fn pushed(&self) -> BTreeMap<String, Pushed> {
        lock(&self.groups).clone()
    }
}

async fn push(
    State(groups): State<Groups>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match read(&method, &uri, &headers, &body) {
        Ok((group, samples, types)) => {
            let mut groups = lock(&groups);
            let pushed = groups.entry(group).or_default();
            pushed.times += 1;
            let replaced = |name: &str| method == Method::PUT || types.contains_key(family(name));
            pushed.samples.retain(|name, _| !replaced(name));
            pushed.types.retain(|name, _| !replaced(name));
            pushed.samples.extend(samples);
            pushed.types.extend(types);
            answer(StatusCode::OK, String::new())
        }
        Err((status, why)) => answer(status, why),
    }
}

fn answer(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

/// The name that a sample's type is said of: without labels, and without what a histogram's samples end with.
fn family(name: &str) -> &str {
    let name = name.split('{').next().unwrap_or_default();
    let endings = ["_bucket", "_sum", "_count"];
    endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

type Read = (String, BTreeMap<String, i64>, BTreeMap<String, String>);

fn read(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Read, (StatusCode, String)> {
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    let group = uri.path().strip_prefix("/metrics/").unwrap_or_default();
    let words: Vec<&str> = group.split('/').collect();
    if !matches!(*method, Method::PUT | Method::POST) {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "push with PUT or POST".into()));
    }
    if words.first() != Some(&"job") || !words.len().is_multiple_of(2) || words.contains(&"") {
        return Err((StatusCode::NOT_FOUND, "/metrics/job/<job>/<label>/<value>".into()));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("text/plain; version=0.0.4") {
        return Err(bad(format!("not the text format: {kind}")));
    }
    let text = str::from_utf8(body).map_err(|e| bad(e.to_string()))?;
    let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| bad(line.into()))?;
            types.insert(name.to_owned(), kind.to_owned());
        } else if !line.is_empty() && !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').ok_or_else(|| bad(line.into()))?;
            let value: f64 = value.parse().map_err(|_| bad(line.into()))?;
            if !types.contains_key(family(name)) {
                return Err(bad(format!("a sample without a type: {line}")));
            }
            let whole = value.to_string().parse().unwrap_or(NO_WHOLE_NUMBER);
            if samples.insert(name.to_owned(), whole).is_some() {
                return Err(bad(format!("the same sample twice: {line}")));
            }
        }
    }
    Ok((group.to_owned(), samples, types))
}
