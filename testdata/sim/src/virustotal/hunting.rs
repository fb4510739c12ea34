//! Hits of hunting rules in pages: the IoC stream, its older form, retrohunt jobs and rulesets.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Router,
    extract::{Path, State as Shared},
    response::Response,
    routing::get,
};
use http::{HeaderMap, Uri, header};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Asked, Behaviour, Inner, Script, VirusTotal,
    routes::{error, plain},
    sandbox::{JSON, behave_here},
};
use crate::{
    lookup,
    server::{Conn, lock},
};

const DEFAULT_LIMIT: usize = 10;
const MAX_LIMIT: usize = 40;

/// The routes of hunting, all at VirusTotal's own origin.
pub(super) fn routes() -> Router<Arc<Inner>> {
    Router::new()
        .route("/api/v3/ioc_stream", get(stream))
        .route("/api/v3/intelligence/hunting_notification_files", get(legacy))
        .route("/api/v3/intelligence/retrohunt_jobs/{id}/matching_files", get(matching_files))
        .route("/api/v3/intelligence/hunting_rulesets", get(rulesets))
}

/// A hit of a rule, as a notification reports it.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The notification's own id.
    pub notification_id: String,
    /// When it was hit, Unix seconds.
    pub date: i64,
    /// The rule's name.
    pub rule: String,
    /// Id and name of the ruleset that the rule is in.
    pub ruleset: (String, String),
    /// The rule's own tags.
    pub rule_tags: Vec<String>,
    /// The notification's tags.
    pub tags: Vec<String>,
    /// The submitter's identity, ciphered, where the hunter may see it.
    pub source_key: Option<String>,
    /// The submitter's country.
    pub source_country: Option<String>,
    /// Part of the file that matched.
    pub match_source: String,
    /// The place that matched, as a hexdump.
    pub snippet: String,
    /// `file`, `url`, `domain` or `ip_address`.
    pub object_type: String,
    /// The object's id: a file's sha256.
    pub id: String,
    /// The object's attributes.
    pub attributes: Value,
}

impl Hit {
    /// Returns a hit of `rule` on the n-th sample ([`lookup::sample`]) at a date (Unix seconds).
    pub fn file(n: usize, date: i64, rule: &str) -> Self {
        let content = lookup::sample(n);
        let sha256 = hex::encode(Sha256::digest(&content));
        let (kind, extension) = if n.is_multiple_of(2) { ("pdf", "pdf") } else { ("peexe", "exe") };
        let distinct = hex::encode(Sha256::digest(format!("{n} {date} {rule}")));
        let distinct: String = distinct.chars().take(12).collect();
        Self {
            notification_id: format!("{n:08}{distinct}"),
            date,
            rule: rule.to_owned(),
            ruleset: ("6123456789".to_owned(), "synthetic".to_owned()),
            rule_tags: vec!["hunted".to_owned()],
            tags: vec![rule.to_lowercase(), "synthetic".to_owned()],
            source_key: None,
            source_country: None,
            match_source: "ORIGINAL_FILE".to_owned(),
            snippet: "00000000  *begin_highlight*73 61 6D 70 6C 65*end_highlight*  sample\n"
                .to_owned(),
            object_type: "file".to_owned(),
            attributes: json!({
                "sha256": sha256,
                "size": content.len(),
                "type_tag": kind,
                "last_analysis_date": date,
                "last_analysis_stats": {"malicious": 5},
                "names": [format!("sample_{n}.{extension}")],
                "tags": [kind],
            }),
            id: sha256,
        }
    }

    fn object(&self, context: &Value) -> Value {
        json!({
            "type": self.object_type, "id": self.id,
            "attributes": self.attributes, "context_attributes": context,
        })
    }

    /// Returns the hit in the form of the IoC stream.
    pub fn to_json(&self) -> Value {
        let (id, name) = &self.ruleset;
        self.object(&json!({
            "notification_id": self.notification_id,
            "notification_date": self.date,
            "origin": "hunting",
            "sources": [{"type": "hunting_ruleset", "id": id, "label": name}],
            "tags": self.tags,
            "hunting_info": {
                "rule_name": self.rule,
                "rule_tags": self.rule_tags,
                "snippet": self.snippet,
                "source_country": self.source_country,
                "source_key": self.source_key,
                "match_source": self.match_source,
            },
        }))
    }

    /// Returns the hit in the form of the older route.
    fn to_legacy_json(&self) -> Value {
        let (id, name) = &self.ruleset;
        self.object(&json!({
            "notification_id": self.notification_id,
            "notification_date": self.date,
            "notification_tags": self.tags,
            "notification_snippet": self.snippet,
            "notification_source_key": self.source_key,
            "rule_name": self.rule,
            "rule_tags": self.rule_tags,
            "ruleset_id": id,
            "ruleset_name": name,
            "match_in_subfile": false,
        }))
    }
}

/// The results of hunting, and the script for the next requests for them.
#[derive(Debug, Default)]
pub(super) struct Hunting {
    entries: BTreeMap<Place, Entry>,
    /// The objects that a retrohunt job matched, by the job's id.
    retrohunts: BTreeMap<String, Vec<Value>>,
    /// Rulesets by id.
    rulesets: BTreeMap<String, Ruleset>,
    script: Script,
    repeat_cursor: bool,
    ignore_order: bool,
}

/// Position of an entry among the others; a later entry has a greater position.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    date: i64,
    id: String,
    /// Entries that are alike in all else stay apart.
    number: usize,
}

impl Place {
    fn to_cursor(&self) -> String {
        hex::encode(format!("{}|{}|{}", self.date, self.number, self.id))
    }

    fn of_cursor(cursor: &str) -> Option<Self> {
        let text = String::from_utf8(hex::decode(cursor).ok()?).ok()?;
        let mut parts = text.splitn(3, '|');
        let (date, number, id) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { date: date.parse().ok()?, id: id.to_owned(), number: number.parse().ok()? })
    }
}

/// An entry of the stream.
#[derive(Debug)]
enum Entry {
    Hit(Box<Hit>),
    /// Entry that is given out unchanged. Of the filters, only the date applies to it.
    Malformed(Value),
}

#[derive(Debug)]
struct Ruleset {
    name: String,
    rate_limited: bool,
}

/// Reason why a request is refused.
#[derive(Debug)]
enum Refusal {
    BadRequest(String),
    NotFound(String),
}

impl Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::BadRequest(message) => error(400, "BadRequestError", &message),
            Self::NotFound(message) => error(404, "NotFoundError", &message),
        }
    }
}

/// The parameters of a request.
#[derive(Debug)]
struct Ask {
    limit: usize,
    after: Option<Place>,
    order: Option<String>,
    filter: String,
}

impl Ask {
    /// Reads the parameters from a query. With `any_cursor`, the cursor is ignored, so the request is for the first
    /// page.
    fn of(uri: &Uri, any_cursor: bool) -> Result<Self, Refusal> {
        let bad = |name, value: &str| Refusal::BadRequest(format!("Invalid {name}: {value:?}"));
        let mut ask =
            Self { limit: DEFAULT_LIMIT, after: None, order: None, filter: String::new() };
        for (name, value) in url::form_urlencoded::parse(query(uri)) {
            match &*name {
                "limit" => {
                    let limit = value.parse().ok().filter(|n| (1..=MAX_LIMIT).contains(n));
                    ask.limit = limit.ok_or_else(|| bad("limit", &value))?;
                }
                "cursor" if !any_cursor => {
                    let place = Place::of_cursor(&value).ok_or_else(|| bad("cursor", &value))?;
                    ask.after = Some(place);
                }
                "order" => ask.order = Some(value.into_owned()),
                "filter" => ask.filter = value.into_owned(),
                _ => {}
            }
        }
        Ok(ask)
    }

    fn newest_first(&self) -> Result<bool, Refusal> {
        match self.order.as_deref() {
            None | Some("date-") => Ok(true),
            Some("date+") => Ok(false),
            Some(other) => Err(Refusal::BadRequest(format!("Invalid order: {other:?}"))),
        }
    }
}

fn query(uri: &Uri) -> &[u8] {
    uri.query().unwrap_or_default().as_bytes()
}

/// Filter of the stream. The default filter takes every entry.
#[derive(Debug, Default)]
struct Filter {
    entity_type: Option<String>,
    subscriptions: bool,
    from: Option<i64>,
    to: Option<i64>,
}

impl Filter {
    fn of(text: &str) -> Result<Self, Refusal> {
        let mut filter = Self::default();
        for term in text.split_whitespace() {
            filter
                .add(term)
                .ok_or_else(|| Refusal::BadRequest(format!("Invalid filter: {term:?}")))?;
        }
        Ok(filter)
    }

    fn add(&mut self, term: &str) -> Option<()> {
        match term.split_once(':')? {
            ("origin", "hunting") => {}
            ("origin", "subscriptions") => self.subscriptions = true,
            ("entity_type", kind @ ("file" | "url" | "domain" | "ip_address")) => {
                self.entity_type = Some(kind.to_owned());
            }
            ("date", date) => match (date.strip_suffix('+'), date.strip_suffix('-')) {
                (Some(from), _) => self.from = Some(seconds(from)?),
                (None, Some(to)) => self.to = Some(seconds(to)?),
                (None, None) => return None,
            },
            _ => return None,
        }
        Some(())
    }

    fn takes(&self, date: i64, entry: &Entry) -> bool {
        let in_time =
            self.from.is_none_or(|from| from <= date) && self.to.is_none_or(|to| date <= to);
        in_time
            && match entry {
                Entry::Malformed(_) => true,
                Entry::Hit(hit) => {
                    let kind = self.entity_type.as_ref();
                    !self.subscriptions && kind.is_none_or(|kind| *kind == hit.object_type)
                }
            }
    }
}

/// Unix seconds, of themselves or of a date in ISO 8601, UTC unless it says otherwise.
fn seconds(date: &str) -> Option<i64> {
    if let Ok(seconds) = date.parse() {
        return Some(seconds);
    }
    let exact = date.parse::<Timestamp>().ok();
    let utc = || TimeZone::UTC.to_timestamp(date.parse::<DateTime>().ok()?).ok();
    exact.or_else(utc).map(Timestamp::as_second)
}

/// A part of a list, the list's length, and the cursor where there is more.
#[derive(Debug)]
struct Page {
    data: Vec<Value>,
    count: usize,
    cursor: Option<String>,
}

impl Page {
    /// Returns the page after the cursor, of entries that are in the right order already.
    fn cut<T>(
        entries: impl Iterator<Item = (Place, T)>,
        ask: &Ask,
        newest_first: bool,
        to_json: impl Fn(T) -> Value,
    ) -> Self {
        let (mut data, mut count, mut last, mut more) = (Vec::new(), 0, None, false);
        for (place, entry) in entries {
            count += 1;
            let was_given = |after: &Place| {
                if newest_first { place >= *after } else { place <= *after }
            };
            if ask.after.as_ref().is_some_and(was_given) {
                continue;
            }
            more = data.len() == ask.limit;
            if more {
                continue;
            }
            data.push(to_json(entry));
            last = Some(place);
        }
        Self { data, count, cursor: last.filter(|_| more).map(|place| place.to_cursor()) }
    }

    fn into_json(self, headers: &HeaderMap, uri: &Uri) -> Value {
        let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let mut meta = json!({"count": self.count});
        let own = uri.to_string();
        let mut links = json!({"self": format!("http://{host}{}", own.trim_end_matches('?'))});
        if let (Some(cursor), Some(meta), Some(links)) =
            (self.cursor, meta.as_object_mut(), links.as_object_mut())
        {
            let others = url::form_urlencoded::parse(query(uri)).filter(|(k, _)| k != "cursor");
            let next = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(others)
                .append_pair("cursor", &cursor)
                .finish();
            links.insert("next".to_owned(), format!("http://{host}{}?{next}", uri.path()).into());
            meta.insert("cursor".to_owned(), cursor.into());
        }
        json!({"data": self.data, "meta": meta, "links": links})
    }
}

impl Hunting {
    fn add(&mut self, date: i64, id: &str, entry: Entry) {
        let place = Place { date, id: id.to_owned(), number: self.entries.len() };
        self.entries.insert(place, entry);
    }

    fn stream(&self, ask: &Ask) -> Result<Page, Refusal> {
        let newest_first = ask.newest_first()? || self.ignore_order;
        let filter = Filter::of(&ask.filter)?;
        let taken = self.entries.iter().filter(|(place, entry)| filter.takes(place.date, entry));
        let taken = taken.map(|(place, entry)| (place.clone(), entry));
        let to_json = |entry: &Entry| match entry {
            Entry::Hit(hit) => hit.to_json(),
            Entry::Malformed(value) => value.clone(),
        };
        let mut page = if newest_first {
            Page::cut(taken.rev(), ask, true, to_json)
        } else {
            Page::cut(taken, ask, false, to_json)
        };
        if self.repeat_cursor {
            page.cursor = Some(Place::default().to_cursor());
        }
        Ok(page)
    }

    fn legacy(&self, ask: &Ask) -> Page {
        let of_file = |entry: &Entry| match entry {
            Entry::Hit(hit) => hit.object_type == "file",
            Entry::Malformed(_) => true,
        };
        let taken = self.entries.iter().rev().filter(|(_, entry)| of_file(entry));
        let taken = taken.map(|(place, entry)| (place.clone(), entry));
        Page::cut(taken, ask, true, |entry| match entry {
            Entry::Hit(hit) => hit.to_legacy_json(),
            Entry::Malformed(value) => value.clone(),
        })
    }

    fn matching_files(&self, job: &str, ask: &Ask) -> Result<Page, Refusal> {
        let files = self
            .retrohunts
            .get(job)
            .ok_or_else(|| Refusal::NotFound(format!("Retrohunt job {job:?} not found")))?;
        let numbered = files.iter().enumerate();
        let placed = numbered.map(|(number, file)| (Place { number, ..Place::default() }, file));
        Ok(Page::cut(placed, ask, false, Value::clone))
    }

    fn rulesets(&self, ask: &Ask) -> Page {
        let placed = self
            .rulesets
            .iter()
            .map(|(id, ruleset)| (Place { id: id.clone(), ..Place::default() }, (id, ruleset)));
        Page::cut(placed, ask, false, |(id, ruleset)| {
            json!({"type": "hunting_ruleset", "id": id, "attributes": {
                "name": ruleset.name,
                "enabled": true,
                "limit": 100,
                "rate_limited": ruleset.rate_limited,
            }})
        })
    }
}

impl VirusTotal {
    /// The stream has that hit from now on. It may come late: any date is good.
    pub fn hit(&self, hit: Hit) {
        let mut state = lock(&self.inner.state);
        let (date, id) = (hit.date, hit.notification_id.clone());
        state.hunting.add(date, &id, Entry::Hit(Box::new(hit)));
    }

    /// The stream has that entry as given, at the place of that date (Unix seconds). Of a filter's
    /// terms only those of the date hold for it; the older route has it too.
    pub fn malformed_hit(&self, value: Value, date: i64) {
        let mut state = lock(&self.inner.state);
        let id = value.pointer("/context_attributes/notification_id").and_then(Value::as_str);
        let id = id.unwrap_or_default().to_owned();
        state.hunting.add(date, &id, Entry::Malformed(value));
    }

    /// Sets the file objects that a retrohunt job matched, in order. Unknown jobs are answered with 404.
    pub fn retrohunt(&self, job: &str, files: Vec<Value>) {
        lock(&self.inner.state).hunting.retrohunts.insert(job.to_owned(), files);
    }

    /// Adds a ruleset to the list, which is ordered by id, or changes a known one.
    pub fn ruleset(&self, id: &str, name: &str, rate_limited: bool) {
        let ruleset = Ruleset { name: name.to_owned(), rate_limited };
        lock(&self.inner.state).hunting.rulesets.insert(id.to_owned(), ruleset);
    }

    /// The next `times` requests of hunting, whichever of its routes they are for, go like this. With
    /// `usize::MAX` it stays so.
    pub fn behave_hunting(&self, behaviour: &Behaviour, times: usize) {
        lock(&self.inner.state).hunting.script.push(behaviour, times);
    }

    /// Requests of hunting are normal again.
    pub fn clear_for_hunting(&self) {
        lock(&self.inner.state).hunting.script.clear();
    }

    /// Whether the stream gives its first page again and again, always with the same cursor: a peer
    /// that lies.
    pub fn repeat_cursor(&self, repeat: bool) {
        lock(&self.inner.state).hunting.repeat_cursor = repeat;
    }

    /// Makes the stream give the newest first whatever order is asked for, as a faulty peer does.
    pub fn ignore_order(&self, ignore: bool) {
        lock(&self.inner.state).hunting.ignore_order = ignore;
    }

    /// Returns the requests of hunting so far, in order and with repeats: the last part of the path (`ioc_stream`),
    /// followed by `?cursor=…` if there was a cursor.
    pub fn hunting_asked(&self) -> Vec<String> {
        self.subjects(Asked::Hunting)
    }
}

/// The IoC stream.
async fn stream(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    answer(&inner, &conn, &headers, &uri, Hunting::stream).await
}

/// Answers with a page in the form that came before the IoC stream.
async fn legacy(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    answer(&inner, &conn, &headers, &uri, |hunting, ask| Ok(hunting.legacy(ask))).await
}

/// The files that a retrohunt job matched.
async fn matching_files(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    Path(job): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let list = |hunting: &Hunting, ask: &Ask| hunting.matching_files(&job, ask);
    answer(&inner, &conn, &headers, &uri, list).await
}

/// The list of rulesets.
async fn rulesets(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(conn): Extension<Conn>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    answer(&inner, &conn, &headers, &uri, |hunting, ask| Ok(hunting.rulesets(ask))).await
}

/// A page of that list, or what the script makes of it.
async fn answer(
    inner: &Inner,
    conn: &Conn,
    headers: &HeaderMap,
    uri: &Uri,
    list: impl Fn(&Hunting, &Ask) -> Result<Page, Refusal>,
) -> Response {
    let subject = subject(uri);
    inner.log(Asked::Hunting, &subject, headers, uri);
    if let Some(refused) = inner.refused(headers) {
        return refused;
    }
    let (behaviour, page) = {
        let hunting = &mut lock(&inner.state).hunting;
        let behaviour = hunting.script.take();
        let any_cursor = hunting.repeat_cursor && uri.path().ends_with("/ioc_stream");
        (behaviour, Ask::of(uri, any_cursor).and_then(|ask| list(hunting, &ask)))
    };
    let normal = match page {
        Ok(page) => plain(200, JSON, page.into_json(headers, uri).to_string()),
        Err(refusal) => refusal.into_response(),
    };
    behave_here(behaviour, normal, JSON, &subject, uri, conn).await
}

/// The last part of the path, and the cursor if there is one.
fn subject(uri: &Uri) -> String {
    let last = uri.path().rsplit('/').next().unwrap_or_default();
    let cursor = url::form_urlencoded::parse(query(uri)).find(|(name, _)| name == "cursor");
    cursor.map_or_else(|| last.to_owned(), |(_, cursor)| format!("{last}?cursor={cursor}"))
}
