//! Reasons why the dispatcher refuses an event, and problems that it ignores although Azul's readers refuse them.

use serde_json::Value;

use super::schema::Model;

const BINARY_ACTIONS: [&str; 5] = ["sourced", "extracted", "augmented", "mapped", "enriched"];
const DOWNLOAD_ACTIONS: [&str; 5] =
    ["requested", "success", "failed", "failed-not-found", "skipped-already-present"];
const STATUSES: [&str; 12] = [
    "completed",
    "completed-empty",
    "completed-with-errors",
    "opt-out",
    "heartbeat",
    "error-exception",
    "error-network",
    "error-runner",
    "error-input",
    "error-output",
    "error-timeout",
    "error-out-of-memory",
];
const FEATURE_TYPES: [&str; 7] =
    ["integer", "float", "string", "binary", "datetime", "filepath", "uri"];

/// Text at a JSON pointer, "" where there is none.
pub(super) fn text<'a>(event: &'a Value, pointer: &str) -> &'a str {
    event.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A list at a JSON pointer, empty where there is none.
pub(super) fn list<'a>(event: &'a Value, pointer: &str) -> &'a [Value] {
    event.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The event's action; for a status event its status, for a plugin event nothing.
pub(super) fn action(model: Model, event: &Value) -> &str {
    match model {
        Model::Binary | Model::Download => text(event, "/action"),
        Model::Status => text(event, "/entity/status"),
        Model::Plugin => "",
    }
}

/// Returns the reason why the dispatcher refuses the event; `None` if it does not.
pub(super) fn invalid(model: Model, event: &Value) -> Option<String> {
    if text(event, "/author/name").is_empty() {
        return Some("author.name is empty".to_owned());
    }
    let action = action(model, event);
    let known: &[&str] = match model {
        Model::Binary => &BINARY_ACTIONS,
        Model::Download => &DOWNLOAD_ACTIONS,
        Model::Status => &STATUSES,
        Model::Plugin => &[""],
    };
    if !known.contains(&action) {
        return Some(format!("{action:?} is no action of model {}", model.name()));
    }
    match model {
        Model::Binary => invalid_path(event).or_else(|| invalid_binary(event, action)),
        Model::Download => invalid_path(event),
        Model::Status if text(event, "/entity/input/dequeued").is_empty() => {
            Some("entity.input.dequeued is empty".to_owned())
        }
        Model::Status if action == "completed" => list(event, "/entity/results")
            .iter()
            .find_map(|result| invalid(Model::Binary, result))
            .map(|reason| format!("a result is invalid: {reason}")),
        Model::Status | Model::Plugin => None,
    }
}

fn invalid_path(event: &Value) -> Option<String> {
    let path = list(event, "/source/path");
    for (i, node) in path.iter().enumerate() {
        let node_action = text(node, "/action");
        if text(node, "/sha256").is_empty() {
            return Some(format!("source.path[{i}].sha256 is empty"));
        }
        if text(node, "/author/name").is_empty() {
            return Some(format!("source.path[{i}].author.name is empty"));
        }
        if !BINARY_ACTIONS.contains(&node_action) {
            return Some(format!("source.path[{i}].action {node_action:?} is no binary action"));
        }
        if node_action == "enriched" && i + 1 < path.len() {
            return Some(format!("source.path[{i}] is enriched and not the last"));
        }
    }
    None
}

fn invalid_binary(event: &Value, action: &str) -> Option<String> {
    let streams = list(event, "/entity/datastreams");
    let content = streams.iter().any(|s| text(s, "/label") == "content");
    if list(event, "/source/path").is_empty() {
        return Some("source.path is empty".to_owned());
    }
    match action {
        "enriched" if !streams.is_empty() => Some("enriched with datastreams".to_owned()),
        "mapped" if content => Some("mapped with a content datastream".to_owned()),
        "sourced" | "extracted" | "augmented" if !content => {
            Some(format!("{action} without a content datastream"))
        }
        _ => None,
    }
}

/// Returns the problems that the dispatcher ignores but Azul's strict readers do not.
pub(super) fn problems(model: Model, event: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match model {
        Model::Binary => {
            binary_problems(event, &mut found);
            path_problems(event, &mut found);
        }
        Model::Download => {
            path_problems(event, &mut found);
            hash("entity.hash", text(event, "/entity/hash"), &mut found);
            if event.pointer("/entity/metadata").is_some_and(|m| !m.is_object()) {
                found.push("entity.metadata is not a JSON object".to_owned());
            }
        }
        Model::Status => {
            if text(event, "/entity/input/kafka_key").is_empty() {
                found.push("entity.input.kafka_key is empty".to_owned());
            }
        }
        Model::Plugin => plugin_problems(event, &mut found),
    }
    found
}

fn hash(what: &str, value: &str, found: &mut Vec<String>) {
    let good = value.len() == 64 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !good {
        found.push(format!("{what} is not a lower-case sha256: {value:?}"));
    }
}

fn path_problems(event: &Value, found: &mut Vec<String>) {
    for node in list(event, "/source/path") {
        hash("a path node's sha256", text(node, "/sha256"), found);
    }
    let version = event.pointer("/model_version").and_then(Value::as_i64);
    if version == Some(6) && event.to_string().contains("\"file_format_legacy\"") {
        found.push("file_format_legacy in model version 6".to_owned());
    }
    if text(event, "/timestamp").starts_with("0001-") {
        found.push("timestamp is unset".to_owned());
    }
}

fn binary_problems(event: &Value, found: &mut Vec<String>) {
    hash("entity.sha256", text(event, "/entity/sha256"), found);
    if !event.pointer("/entity/info").is_none_or(Value::is_object) {
        found.push("entity.info is not a JSON object".to_owned());
    }
    for feature in list(event, "/entity/features") {
        let (name, kind) = (text(feature, "/name"), text(feature, "/type"));
        let value = text(feature, "/value");
        let fits = match kind {
            "integer" => value.parse::<i128>().is_ok(),
            "float" => value.parse::<f64>().is_ok(),
            "datetime" => value.contains('T') && value.parse::<jiff::Timestamp>().is_ok(),
            other => FEATURE_TYPES.contains(&other),
        };
        if !fits {
            found.push(format!("feature {name}: {value:?} is no {kind:?}"));
        }
        if name.is_empty() {
            found.push(format!("a feature without a name: {value:?}"));
        }
        if value.len() >= 32_766 {
            found.push(format!("feature {name}: a value of {} bytes", value.len()));
        }
    }
}

fn plugin_problems(event: &Value, found: &mut Vec<String>) {
    let features = list(event, "/entity/features");
    let mut names: Vec<&str> = features.iter().map(|f| text(f, "/name")).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        if let [a, b] = pair
            && a == b
        {
            found.push(format!("feature {a} is registered twice"));
        }
    }
    for feature in features {
        let name = text(feature, "/name");
        if !list(feature, "/tags").is_empty() {
            found.push(format!("feature {name} has tags"));
        }
        if text(feature, "/desc").trim().is_empty() {
            found.push(format!("feature {name} has no description"));
        }
        if !FEATURE_TYPES.contains(&text(feature, "/type")) {
            found.push(format!("feature {name} has an unknown type"));
        }
    }
    for pointer in ["/entity/name", "/entity/version", "/entity/contact", "/entity/description"] {
        if text(event, pointer).is_empty() {
            found.push(format!("{pointer} is empty"));
        }
    }
}
