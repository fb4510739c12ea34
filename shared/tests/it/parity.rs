//! Records are mapped as the Go plugin maps them, but for the differences that the README lists.

use std::collections::BTreeSet;

use azul_vt::{
    azul::event::{BinaryEvent, ModelVersion},
    mapping::{HandlerSet, Mapped, Mapper, MapperOptions, Record},
    pipeline::assemble::feed_author,
};
use serde_json::Value;

use crate::corpus;

fn mapper(handlers: &str) -> Mapper {
    Mapper::new(MapperOptions {
        handlers: HandlerSet::parse(handlers).unwrap(),
        model_version: ModelVersion::V5,
        author: feed_author(),
        source: "virustotal".into(),
        max_age: None,
    })
}

fn lines(name: &str) -> Option<Vec<String>> {
    let bytes = corpus::read(name)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Some(text.trim_end_matches('\n').split('\n').map(str::to_owned).collect())
}

type Set = BTreeSet<(String, String, String, String)>;

fn expected_features(list: &Value) -> Set {
    let text = |f: &Value, key: &str| f[key].as_str().unwrap_or_default().to_owned();
    list.as_array()
        .into_iter()
        .flatten()
        .map(|f| (text(f, "name"), text(f, "type"), text(f, "value"), text(f, "label")))
        .collect()
}

fn our_features(event: &BinaryEvent) -> Set {
    let feature = |f: &azul_vt::azul::event::Feature| {
        (f.name.to_string(), f.kind.to_string(), f.value.clone(), f.label.clone())
    };
    event.entity.features.iter().map(feature).collect()
}

fn event(mapped: Mapped) -> Box<BinaryEvent> {
    match mapped {
        Mapped::Event { event, .. } => event,
        other => panic!("no event but {other:?}"),
    }
}

/// What both sides must agree on, with what must differ made equal.
fn comparable(event: &Value) -> Value {
    let mut event = event.clone();
    event["model_version"] = Value::Null;
    event["timestamp"] = Value::Null;
    event["author"]["version"] = Value::Null;
    event["entity"]["features"] = Value::Null;
    for node in event["source"]["path"].as_array_mut().unwrap() {
        node["author"]["version"] = Value::Null;
    }
    let object = event.as_object_mut().unwrap();
    for key in ["kafka_key", "action"] {
        object.remove(key);
    }
    event
}

fn compare(name: &str, map: impl Fn(&Record, &Value) -> Mapped, records: &str) {
    let (Some(records), Some(expected)) = (lines(records), lines(name)) else { return };
    let mut differences = Vec::new();
    for (line, (record, expected)) in records.iter().zip(expected).enumerate() {
        let expected: Value = serde_json::from_str(&expected).unwrap();
        let expected = &expected["events"][0];
        let bytes = record.as_bytes();
        let record = Record::parse(bytes).unwrap();
        let ours = event(map(&record, expected));
        let (theirs, found) =
            (expected_features(&expected["entity"]["features"]), our_features(&ours));
        for lost in theirs.difference(&found) {
            differences.push(format!("line {}: lost {lost:?}", line + 1));
        }
        for new in found.difference(&theirs) {
            differences.push(format!("line {}: new {new:?}", line + 1));
        }
        let ours = comparable(&serde_json::to_value(&ours).unwrap());
        let theirs = comparable(expected);
        if ours != theirs {
            differences.push(format!("line {}: {ours} is not {theirs}", line + 1));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n").chars().take(6000).collect::<String>()
    );
}

fn now() -> jiff::Timestamp {
    "2024-01-01T01:00:00Z".parse().unwrap()
}

#[test]
fn feed_records_give_the_features_and_fields_of_the_go_plugin() {
    let mapper = mapper("default");
    let map = |record: &Record, _: &Value| mapper.map_feed(record, now());
    compare("expected/feed.events.jsonl", map, "records/feed.jsonl");
}

#[test]
fn file_objects_as_feed_records_do_too() {
    let mapper = mapper("default");
    let map = |record: &Record, _: &Value| mapper.map_feed(record, now());
    compare("expected/objects.events.jsonl", map, "records/objects.jsonl");
}

#[test]
fn file_objects_as_reports_do_too() {
    let mapper = mapper("default");
    let map = |record: &Record, expected: &Value| {
        let mut input = serde_json::from_value::<BinaryEvent>(expected.clone().tap()).unwrap();
        input.source.path.pop();
        mapper.map_report(record, Some(&input), now())
    };
    compare("expected/objects.report.jsonl", map, "records/objects.jsonl");
}

/// The expected events lack what our models require.
trait Tap {
    fn tap(self) -> Self;
}

impl Tap for Value {
    fn tap(mut self) -> Self {
        self["kafka_key"] = "".into();
        self["action"] = "mapped".into();
        self
    }
}

#[test]
fn every_handler_finds_the_same_in_every_object() {
    let (Some(names), Some(records), Some(expected)) = (
        lines("records/objects.names"),
        lines("records/objects.jsonl"),
        lines("expected/handlers.jsonl"),
    ) else {
        return;
    };
    let mut differences = Vec::new();
    let mut rows = 0;
    for row in expected {
        let row: Value = serde_json::from_str(&row).unwrap();
        let handler = row["handler"].as_str().unwrap();
        let at = names.iter().position(|n| n == row["file"].as_str().unwrap()).unwrap();
        let record = Record::parse(records[at].as_bytes()).unwrap();
        let found = our_features(&event(mapper(handler).map_feed(&record, now())));
        let theirs = expected_features(&row["features"]);
        for lost in theirs.difference(&found) {
            differences.push(format!("{handler} {}: lost {lost:?}", names[at]));
        }
        for new in found.difference(&theirs) {
            differences.push(format!("{handler} {}: new {new:?}", names[at]));
        }
        rows += 1;
    }
    assert_eq!(rows, 265);
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n").chars().take(6000).collect::<String>()
    );
}

#[test]
fn every_hostile_line_is_accounted_for() {
    let Some(records) = corpus::read("records/hostile.jsonl") else { return };
    let mapper = mapper("all");
    let mut outcomes = [0, 0, 0];
    for line in records.split(|b| *b == b'\n') {
        let outcome = match Record::parse(line).map(|record| mapper.map_feed(&record, now())) {
            Ok(Mapped::Event { .. }) => 0,
            Ok(Mapped::Filtered(_)) => 1,
            Ok(Mapped::Rejected(_)) | Err(_) => 2,
        };
        outcomes[outcome] += 1;
    }
    assert!(outcomes.iter().all(|n| *n > 0), "{outcomes:?}");
}
