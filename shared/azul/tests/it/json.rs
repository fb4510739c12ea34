//! Events in JSON.

use azul::event::{BinaryEvent, DownloadEvent, ModelVersion, ZERO_TIME};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use testkit::samples;

fn stays_the_same<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(event: &T) {
    let text = serde_json::to_string(event).unwrap();
    assert_eq!(serde_json::from_str::<T>(&text).unwrap(), *event);
    assert_no_null(&serde_json::from_str(&text).unwrap(), &text);
}

/// Asserts that an event has no null outside `info`, which is `{"c": null}` in the samples because its content is free.
fn assert_no_null(value: &Value, text: &str) {
    match value {
        Value::Null => panic!("null in {text}"),
        Value::Array(items) => items.iter().for_each(|item| assert_no_null(item, text)),
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| *name != "info")
            .for_each(|(_, value)| assert_no_null(value, text)),
        _ => {}
    }
}

#[test]
fn every_model_is_read_back_as_it_was_and_has_no_null() {
    for version in [ModelVersion::V5, ModelVersion::V6] {
        stays_the_same(&samples::binary(version, 2));
        stays_the_same(&samples::mapped(version));
        stays_the_same(&samples::bare(version));
        stays_the_same(&samples::download(version));
        stays_the_same(&samples::bare_download(version));
        stays_the_same(&samples::status(version));
        stays_the_same(&samples::plugin(version));
    }
}

#[test]
fn what_is_empty_is_absent_except_what_readers_require() {
    assert_eq!(
        serde_json::to_value(samples::bare(ModelVersion::V6)).unwrap(),
        json!({
            "model_version": 6,
            "kafka_key": "",
            "timestamp": "2024-01-01T01:00:00.123456Z",
            "author": {"name": "a"},
            "source": {"name": "s", "path": [], "timestamp": "2024-01-01T01:00:00.123456Z"},
            "entity": {},
            "action": "mapped",
        })
    );
    let request = serde_json::to_value(samples::bare_download(ModelVersion::V6)).unwrap();
    assert_eq!(request["entity"], json!({"hash": "b".repeat(64)}));
    let plugin = serde_json::to_value(samples::plugin(ModelVersion::V6)).unwrap();
    let feature = json!({"name": "tags", "type": "string", "desc": "A tag."});
    assert_eq!(plugin["entity"]["features"], json!([feature]));
}

#[test]
fn what_go_leaves_unset_is_read_as_unset() {
    let event: BinaryEvent = serde_json::from_value(json!({
        "model_version": 6,
        "author": {"name": "a"},
        "source": {"name": "s", "path": null, "timestamp": "2024-01-01T00:00:00.123456789+10:00"},
        "entity": {"sha256": "b", "info": null},
        "action": "mapped",
        "field_of_a_later_version": 1,
    }))
    .unwrap();
    assert_eq!(event.timestamp, ZERO_TIME);
    assert_eq!(event.source.timestamp.to_string(), "2023-12-31T14:00:00.123456789Z");
    assert_eq!((event.source.path.len(), event.entity.info), (0, None));

    let mut request = serde_json::to_value(samples::download(ModelVersion::V6)).unwrap();
    request["entity"]["direct_expiry"] = json!("0001-01-01T00:00:00Z");
    request["entity"]["metadata"] = json!("not an object");
    let request: DownloadEvent = serde_json::from_value(request).unwrap();
    assert_eq!((request.entity.direct_expiry, request.entity.metadata), (None, None));
}
