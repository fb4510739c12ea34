//! The key under which the dispatcher stores an event: the same key overwrites.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    schema::Model,
    validate::{list, text},
};

/// The key of an event; `serial` makes it unique where the dispatcher makes a random one.
pub(super) fn key(model: Model, event: &Value, serial: u64) -> String {
    let parts = match model {
        Model::Binary => {
            let path = list(event, "/source/path");
            let nodes: Vec<Value> = path
                .iter()
                .rev()
                .take(2)
                .map(|node| {
                    json!([
                        text(node, "/sha256"),
                        text(node, "/action"),
                        text(node, "/author/name"),
                        text(node, "/author/security"),
                    ])
                })
                .collect();
            json!([
                text(event, "/source/name"),
                text(event, "/source/security"),
                whole_second(text(event, "/source/timestamp")),
                sorted(event.pointer("/source/references")),
                sorted(event.pointer("/source/settings")),
                nodes,
            ])
        }
        Model::Plugin => json!([text(event, "/entity/name"), text(event, "/entity/version")]),
        Model::Download | Model::Status => json!([model.name(), serial]),
    };
    hex::encode(Sha256::digest(parts.to_string()))
}

/// A map in one order, whatever order it came in; a missing one is an empty one.
fn sorted(map: Option<&Value>) -> BTreeMap<&str, &Value> {
    map.and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.as_str(), v)).collect()
}

/// An RFC 3339 time without its fraction, its zone as written.
fn whole_second(time: &str) -> String {
    let Some((seconds, rest)) = time.split_once('.') else { return time.to_owned() };
    let zone = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{seconds}{zone}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Value {
        json!({
            "timestamp": "2026-01-01T00:00:00Z",
            "author": {"name": "a", "version": "1"},
            "source": {
                "name": "virustotal", "references": {"submitter_id": "x"},
                "timestamp": "2026-01-01T00:00:00.5Z",
                "path": [{"sha256": "1", "action": "mapped", "author": {"name": "a"}}],
            },
            "entity": {"sha256": "1", "features": []},
        })
    }

    fn changed(pointer: &str, value: &Value) -> bool {
        let mut other = event();
        *other.pointer_mut(pointer).unwrap() = value.clone();
        key(Model::Binary, &event(), 0) != key(Model::Binary, &other, 1)
    }

    #[test]
    fn a_binary_key_is_made_of_source_and_path_and_of_nothing_else() {
        assert!(changed("/source/name", &json!("other")));
        assert!(changed("/source/references/submitter_id", &json!("y")));
        assert!(changed("/source/timestamp", &json!("2026-01-01T00:00:01Z")));
        assert!(changed("/source/timestamp", &json!("2026-01-01T01:00:00+01:00")));
        assert!(changed("/source/path/0/action", &json!("sourced")));
        assert!(!changed("/source/timestamp", &json!("2026-01-01T00:00:00.9Z")));
        assert!(!changed("/timestamp", &json!("2026-01-02T00:00:00Z")));
        assert!(!changed("/author/version", &json!("2")));
        assert!(!changed("/entity/features", &json!([{"name": "f"}])));
    }

    #[test]
    fn a_download_key_is_new_each_time() {
        assert_ne!(key(Model::Download, &event(), 1), key(Model::Download, &event(), 2));
    }
}
