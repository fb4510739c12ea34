//! `POST /api/v2/event`: decode, validate, drop, publish, answer as the real one does.

use std::collections::{BTreeMap, HashMap};

use axum::{body::Body, response::Response};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    State, decode,
    decode::JsonRefusal,
    encode,
    key::key,
    schema::Model,
    validate::{invalid, list, text},
};

/// The name under which the real dispatcher counts what its sources' expiry dropped.
const AGE_OFF: &str = "ageoff";

/// The dispatcher's own fields beyond what [`encode`] writes of a posted event.
const TRACKING_BYTES: usize = 32;

/// The one title of all 500s: they are told apart by their detail only.
const PUBLISHING_FAILED: &str = "publishing failed";

/// A JSON answer.
pub(super) fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// The dispatcher's error body.
pub(super) fn error(status: StatusCode, title: &str, detail: &str) -> Response {
    error_with(status, title, detail, "ErrorStringEnumUnset", &json!({}))
}

fn error_with(
    status: StatusCode,
    title: &str,
    detail: &str,
    error_enum: &str,
    params: &Value,
) -> Response {
    let body = json!({
        "status": status.as_u16().to_string(),
        "title": title,
        "detail": detail,
        "error_enum": error_enum,
        "error_params": params,
    });
    json_response(status, &body)
}

/// Sets a member of an object.
pub(super) fn set(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(members) = object {
        members.insert(name.to_owned(), value);
    }
}

/// A request as [`super::Posted`] logs it.
pub(super) struct Outcome {
    pub(super) response: Response,
    /// Events decoded from the body.
    pub(super) sent: usize,
}

/// Works a whole request.
pub(super) fn post(state: &mut State, query: &HashMap<String, String>, body: &[u8]) -> Outcome {
    let yes = |name: &str| matches!(query.get(name).map(String::as_str), Some("true" | "1"));
    let refused = |response| Outcome { response, sent: 0 };
    let name = query.get("model").map_or("", String::as_str);
    let Some(model) = Model::from_name(name) else {
        let detail = format!("{name:?} is none of the models");
        return refused(error(StatusCode::BAD_REQUEST, "unknown model", &detail));
    };
    if body.is_empty() {
        let detail = "there are no events in the body";
        return refused(error(StatusCode::BAD_REQUEST, "empty body", detail));
    }
    if model == Model::Binary
        && yes("avro-format")
        && let Some(sunk) = &mut state.sunk
    {
        let sent = decode::leading_count(body);
        *sunk += sent as u64;
        let answer = json!({"total_ok": sent, "total_failures": 0, "failures": null});
        return Outcome { response: json_response(StatusCode::OK, &answer), sent };
    }
    let unprocessable =
        |detail: &str| error(StatusCode::UNPROCESSABLE_ENTITY, "invalid events", detail);

    let mut failures = Vec::new();
    let (events, sent, total_ok) = if yes("avro-format") {
        match decode::avro(model, body) {
            Ok(bulk) => {
                state.note_bulk(model, &bulk);
                let sent = bulk.events.len();
                // The trap: the first invalid event takes all that follow with it.
                let good: Vec<Value> = bulk
                    .events
                    .into_iter()
                    .take_while(|e| state.refuses(model, e).is_none())
                    .collect();
                let total_ok = good.len();
                (good, sent, total_ok)
            }
            Err(e) => return refused(unprocessable(&format!("avro: {e:#}"))),
        }
    } else {
        match decode::json(model, body) {
            Ok(events) => {
                let sent = events.len();
                let mut good = Vec::new();
                for event in events {
                    match state.refuses(model, &event) {
                        None => good.push(event),
                        Some(reason) => failures.push(json!({"event": event, "error": reason})),
                    }
                }
                let total_ok = good.len();
                (good, sent, total_ok)
            }
            Err(JsonRefusal::Undecodable(detail)) => return refused(unprocessable(&detail)),
            Err(JsonRefusal::Future(detail)) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return refused(error(status, PUBLISHING_FAILED, &detail));
            }
        }
    };

    let mut dropped: BTreeMap<String, usize> = BTreeMap::new();
    let mut publish = Vec::new();
    for event in events {
        match state.drops(model, &event) {
            Some(filter) => *dropped.entry(filter).or_default() += 1,
            None => publish.extend(split(model, event)),
        }
    }
    if publish.is_empty() {
        return Outcome { response: nothing_left(&dropped, &failures), sent };
    }
    let (published, errors) = publish_all(state, publish);
    if let Some(failed) = failed(published.len(), &errors) {
        return Outcome { response: failed, sent };
    }
    let listed = if failures.is_empty() { Value::Null } else { json!(failures) };
    let mut answer =
        json!({"total_ok": total_ok, "total_failures": failures.len(), "failures": listed});
    if yes("include_ok") {
        set(&mut answer, "ok", json!(published));
    }
    Outcome { response: json_response(StatusCode::OK, &answer), sent }
}

/// A completed status is published without its results; these go out as binary events.
fn split(model: Model, mut event: Value) -> Vec<(Model, Value)> {
    let mut out = Vec::new();
    if model == Model::Status && text(&event, "/entity/status") == "completed" {
        let results = list(&event, "/entity/results").to_vec();
        out.extend(results.into_iter().map(|result| (Model::Binary, result)));
        if let Some(entity) = event.pointer_mut("/entity").and_then(Value::as_object_mut) {
            entity.remove("results");
        }
    }
    out.push((model, event));
    out
}

fn publish_all(state: &mut State, events: Vec<(Model, Value)>) -> (Vec<Value>, Vec<String>) {
    let mut published = Vec::new();
    let mut errors = Vec::new();
    for (model, mut event) in events {
        let source = text(&event, "/source/name").to_owned();
        if model == Model::Binary && !state.sources.contains(&source) {
            let action = text(&event, "/action");
            errors.push(format!("unregistered topic for source '{source}' and action '{action}'"));
            continue;
        }
        state.serial += 1;
        let key = key(model, &event, state.serial);
        set(&mut event, "kafka_key", json!(key));
        let size = encode::event(model, &event).len() + TRACKING_BYTES;
        if size > state.max_event_bytes {
            errors.push(format!(
                "message too large for kafka: {size} vs {} bytes",
                state.max_event_bytes
            ));
            continue;
        }
        match state.book.enter(model, key, event.clone()) {
            Ok(()) => published.push(event),
            Err(e) => errors.push(format!("{e:#}")),
        }
    }
    (published, errors)
}

fn failed(published: usize, errors: &[String]) -> Option<Response> {
    if errors.is_empty() {
        return None;
    }
    let detail = format!(
        "successfully submitted {published}/{} events, the others failed: {}",
        published + errors.len(),
        errors.join("; ")
    );
    Some(error(StatusCode::INTERNAL_SERVER_ERROR, PUBLISHING_FAILED, &detail))
}

/// 425 with one of its three meanings.
fn nothing_left(dropped: &BTreeMap<String, usize>, failures: &[Value]) -> Response {
    let title = "no event is left to be published";
    if dropped.contains_key(AGE_OFF) {
        return error_with(
            StatusCode::TOO_EARLY,
            title,
            "every event is older than its source keeps",
            "ErrorStringEnumAllEventsAgedOffImmediately",
            &json!({}),
        );
    }
    let filters: Vec<String> =
        dropped.iter().map(|(name, count)| format!("{name}:{count}")).collect();
    let filters = filters.join(",");
    let reasons: Vec<&str> = failures.iter().map(|f| text(f, "/error")).collect();
    let reasons = format!("[{}]", reasons.join(" "));
    let detail = format!(
        "none of the events was produced: filters [{filters}], with {} response failures: {reasons}",
        failures.len()
    );
    error_with(
        StatusCode::TOO_EARLY,
        title,
        &detail,
        "ErrorStringEnumAllEventsFiltered",
        &json!({
            "filters": filters,
            "total_failures": failures.len().to_string(),
            "response_failures": reasons,
        }),
    )
}

impl State {
    /// Returns the reason why the event is refused; `None` if it is not.
    fn refuses(&self, model: Model, event: &Value) -> Option<String> {
        let asked = || self.refused.as_ref().is_some_and(|refused| refused(event));
        invalid(model, event).or_else(|| asked().then(|| "refused on demand".to_owned()))
    }

    /// The name of what drops the event, if something does.
    fn drops(&self, model: Model, event: &Value) -> Option<String> {
        if model == Model::Binary
            && let Some(age) = self.expiry.get(text(event, "/source/name"))
            && let Ok(time) = text(event, "/source/timestamp").parse::<Timestamp>()
        {
            let now = self.now.unwrap_or_else(Timestamp::now);
            if now.duration_since(time) > *age {
                return Some(AGE_OFF.to_owned());
            }
        }
        let (name, filter) = self.filter.as_ref()?;
        filter(event).then(|| name.clone())
    }

    /// Oddities of an Avro message that the real decoder lets pass.
    fn note_bulk(&mut self, model: Model, bulk: &decode::Bulk) {
        let problems = &mut self.book.arrived.problems;
        if bulk.trailing > 0 {
            problems.push(format!("{}: {} bytes after the message", model.name(), bulk.trailing));
        }
        for event in &bulk.events {
            let own = event.pointer("/model_version").and_then(Value::as_i64);
            if own != Some(bulk.version) {
                problems.push(format!("{}: model_version differs from the bulk's", model.name()));
            }
        }
    }
}
