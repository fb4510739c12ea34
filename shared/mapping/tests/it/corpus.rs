//! Compares mapping with the conformance corpus, which has the Go plugin's events for real and for hostile records.
//! Each difference is listed here with its reason.

use std::collections::{BTreeMap, BTreeSet};

use azul::{
    event::{Author, BinaryEvent, ModelVersion},
    limits::is_tlsh,
};
use jiff::Timestamp;
use mapping::{HandlerSet, Mapped, Mapper, MapperOptions, Record};
use serde::Deserialize;
use testkit::corpus;

/// A line of `expected/*.events.jsonl`.
#[derive(Deserialize)]
struct Expected {
    line: usize,
    events: Option<Vec<BinaryEvent>>,
}

/// A line of `expected/handlers.jsonl`.
#[derive(Deserialize)]
struct ExpectedFeatures {
    handler: String,
    file: String,
    features: Vec<ExpectedFeature>,
}

#[derive(Deserialize)]
struct ExpectedFeature {
    name: String,
    value: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    label: String,
}

/// A set of name, type, value and label.
type FeatureSet = BTreeSet<(String, String, String, String)>;

fn now() -> Timestamp {
    "2024-01-01T01:00:00Z".parse().unwrap()
}

fn author() -> Author {
    Author {
        name: "VirustotalFileFeed".into(),
        version: "2.2.0".into(),
        category: "plugin".into(),
        security: String::new(),
    }
}

fn mapper(handlers: &str) -> Mapper {
    Mapper::new(MapperOptions {
        handlers: HandlerSet::parse(handlers).unwrap(),
        model_version: ModelVersion::V5,
        author: author(),
        source: "virustotal".into(),
        max_age: None,
    })
}

fn lines(file: &str) -> Option<Vec<Vec<u8>>> {
    let bytes = corpus::read(file)?;
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Some(bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect())
}

fn parsed<T: serde::de::DeserializeOwned>(file: &str) -> Option<Vec<T>> {
    let parse = |line: Vec<u8>| serde_json::from_slice(&line).unwrap();
    Some(lines(file)?.into_iter().map(parse).collect())
}

fn event(mapped: Mapped) -> BinaryEvent {
    match mapped {
        Mapped::Event { event, .. } => *event,
        other => panic!("{other:?}"),
    }
}

fn feature_set(event: &BinaryEvent) -> FeatureSet {
    let of = |f: &azul::event::Feature| {
        (f.name.to_string(), f.kind.to_string(), f.value.clone(), f.label.clone())
    };
    event.entity.features.iter().map(of).collect()
}

/// Cuts the last character off the two names of a certificate, as the Go plugin does, for the comparison.
fn cut_certificate_names(ours: FeatureSet) -> FeatureSet {
    let cut = |(name, kind, mut value, label): (String, String, String, String)| {
        if name == "apk_cert_issuer" || name == "apk_cert_subject" {
            value.pop();
        }
        (name, kind, value, label)
    };
    ours.into_iter().map(cut).collect()
}

fn assert_same_features(ours: FeatureSet, theirs: &FeatureSet, what: &str) {
    let ours = cut_certificate_names(ours);
    let only_ours: Vec<_> = ours.difference(theirs).collect();
    let only_theirs: Vec<_> = theirs.difference(&ours).collect();
    assert!(
        only_ours.is_empty() && only_theirs.is_empty(),
        "{what}: only ours {only_ours:#?}, only theirs {only_theirs:#?}"
    );
}

/// Compares everything but the order of features.
fn assert_same_event(ours: &BinaryEvent, theirs: &BinaryEvent, line: usize) {
    assert_same_features(feature_set(ours), &feature_set(theirs), &format!("line {line}"));
    let without_features = |event: &BinaryEvent| {
        let mut event = event.clone();
        event.entity.features.clear();
        event.model_version = 5;
        // Azul drops a whole event with such a hash (`TNULL`), so our events leave it out.
        if !is_tlsh(&event.entity.tlsh) {
            event.entity.tlsh.clear();
        }
        event
    };
    assert_eq!(without_features(ours), without_features(theirs), "line {line}");
}

fn assert_feed_is_mapped_alike(records: &str, expected: &str) {
    let (Some(records), Some(expected)) = (lines(records), parsed::<Expected>(expected)) else {
        return;
    };
    let mapper = mapper("default");
    assert_eq!(records.len(), expected.len());
    for (record, expected) in records.iter().zip(expected) {
        let ours = event(mapper.map_feed(&Record::parse(record).unwrap(), now()));
        let theirs = expected.events.unwrap();
        assert_same_event(&ours, &theirs[0], expected.line);
    }
}

#[test]
fn feed_records_become_the_events_of_the_go_plugin() {
    assert_feed_is_mapped_alike("records/feed.jsonl", "expected/feed.events.jsonl");
}

#[test]
fn objects_as_feed_records_become_the_events_of_the_go_plugin() {
    assert_feed_is_mapped_alike("records/objects.jsonl", "expected/objects.events.jsonl");
}

#[test]
fn reports_become_the_events_of_the_go_plugin() {
    let (Some(records), Some(expected)) =
        (lines("records/objects.jsonl"), parsed::<Expected>("expected/objects.report.jsonl"))
    else {
        return;
    };
    for (record, expected) in records.iter().zip(expected) {
        let theirs = &expected.events.unwrap()[0];
        // The input event has the path of the answer without its last node.
        let mut input = theirs.clone();
        input.source.path.pop();
        let enveloped = [b"{\"data\":", record.as_slice(), b"}"].concat();
        for text in [record.as_slice(), &enveloped] {
            let record = Record::parse(text).unwrap();
            let ours = event(mapper("default").map_report(&record, Some(&input), now()));
            assert_same_event(&ours, theirs, expected.line);
        }
    }
}

#[test]
fn every_handler_gives_the_features_of_the_go_plugin_on_every_object() {
    let Some(expected) = parsed::<ExpectedFeatures>("expected/handlers.jsonl") else { return };
    let (Some(objects), Some(feed), Some(names)) = (
        lines("records/objects.jsonl"),
        lines("records/feed.jsonl"),
        corpus::read("records/objects.names"),
    ) else {
        return;
    };
    let names = String::from_utf8(names).unwrap();
    let objects: BTreeMap<_, _> = names.lines().zip(&objects).collect();
    let mut compared = 0;
    for row in &expected {
        let theirs: FeatureSet = row
            .features
            .iter()
            .map(|f| (f.name.clone(), f.kind.clone(), f.value.clone(), f.label.clone()))
            .collect();
        let mapper = mapper(&row.handler);
        let ours = |record: &[u8]| {
            feature_set(&event(mapper.map_feed(&Record::parse(record).unwrap(), now())))
        };
        if let Some(object) = objects.get(row.file.as_str()) {
            let what = format!("{} on {}", row.handler, row.file);
            assert_same_features(ours(object), &theirs, &what);
        } else {
            // These samples are also in the corpus, but not under this name.
            assert!(row.file.starts_with("v3_"), "{}", row.file);
            let found = feed
                .iter()
                .chain(objects.values().copied())
                .any(|record| cut_certificate_names(ours(record)) == theirs);
            assert!(found, "{} on {}", row.handler, row.file);
        }
        compared += 1;
    }
    assert_eq!(compared, 265);
}

/// The outcome for a hostile line.
#[derive(Debug)]
enum Hostile {
    /// The event is that of the Go plugin.
    Same,
    /// The event differs from that of the Go plugin, if it has one: the reason, the SHA-256, the features.
    Differs(&'static str, &'static str, &'static [(&'static str, &'static str, &'static str)]),
    /// Neither program has an event. The reason contains this word.
    Refused(&'static str),
    /// The record is filtered, and the Go plugin has no event either.
    Filtered,
    /// Only the Go plugin has an event, for this reason.
    OnlyTheirs(&'static str),
    /// The line is blank, so it is not a record and does not reach the mapping.
    Blank,
}

const ONE_BAD_VALUE: &str = "a bad value costs that value, not the record or its handler";
const FIRST_KEY: &str = "of duplicate keys the first wins, and keys are case-sensitive";

/// A whole SHA-256 in place of the corpus's `bb`, because Azul's hashes have 64 digits.
const BB: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Returns a line of the corpus with whole hashes.
fn whole_hashes(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let long = ["aa", "bb", "cc", "dd"].map(|byte| (format!("\"{byte}\""), byte.repeat(32)));
    let whole = |text: String, (short, long): &(String, String)| {
        text.replace(short.as_str(), &format!("\"{long}\""))
    };
    long.iter().fold(text.into_owned(), whole).into_bytes()
}

fn hostile(line: usize) -> Hostile {
    use Hostile::{Blank, Differs, Filtered, OnlyTheirs, Refused, Same};
    match line {
        2..=4 | 9 | 21 => Refused("neither"),
        5..=7 => Refused("not a JSON object"),
        8 => Filtered,
        10 | 12..=17 | 39 => Differs(ONE_BAD_VALUE, BB, &[]),
        11 => Differs("a negative size is none", BB, &[]),
        19 => OnlyTheirs(FIRST_KEY),
        18 | 20 => Differs(FIRST_KEY, BB, &[]),
        22 => Differs("`data` in a feed record means nothing", BB, &[]),
        26 => Differs(
            ONE_BAD_VALUE,
            BB,
            &[
                ("tags", "a", ""),
                ("tags", "1", ""),
                ("tags", "", ""),
                ("tags", "true", ""),
                ("tags", "1.5", ""),
            ],
        ),
        37 | 38 => Refused("not JSON"),
        43 => Blank,
        _ => Same,
    }
}

#[test]
fn every_hostile_line_has_its_outcome() {
    let (Some(records), Some(expected)) =
        (lines("records/hostile.jsonl"), parsed::<Expected>("expected/hostile.events.jsonl"))
    else {
        return;
    };
    assert_eq!((records.len(), expected.len()), (44, 44));
    let default = mapper("default");
    for (record, expected) in records.iter().zip(expected) {
        let line = expected.line;
        let mut theirs = expected.events.unwrap_or_default().into_iter().next();
        if let Some(theirs) = &mut theirs {
            theirs.entity.sha256 = theirs.entity.sha256.repeat(32);
            theirs.source.path[0].sha256 = theirs.entity.sha256.clone();
        }
        let record = &whole_hashes(record);
        let mapped = match Record::parse(record) {
            Ok(record) => default.map_feed(&record, now()),
            Err(error) => Mapped::Rejected(error.to_string()),
        };
        match (hostile(line), mapped, theirs) {
            (Hostile::Same, mapped, Some(theirs)) => {
                assert_same_event(&event(mapped), &theirs, line);
            }
            (Hostile::Differs(reason, sha256, features), mapped, _) => {
                println!("line {line} differs: {reason}");
                let ours = event(mapped);
                assert_eq!(ours.entity.sha256, sha256, "line {line}");
                assert_eq!(ours.source.path[0].sha256, sha256, "line {line}");
                let ours: Vec<_> = ours
                    .entity
                    .features
                    .iter()
                    .map(|f| (&*f.name, f.value.as_str(), f.label.as_str()))
                    .collect();
                assert_eq!(ours, features, "line {line}");
            }
            (Hostile::Refused(word), Mapped::Rejected(reason), None) => {
                assert!(reason.contains(word), "line {line}: {reason}");
            }
            (Hostile::Filtered, Mapped::Filtered(_), None) => {}
            (Hostile::OnlyTheirs(reason), Mapped::Rejected(_), Some(_)) => {
                println!("line {line} differs: {reason}");
            }
            (Hostile::Blank, ..) => assert!(record.iter().all(u8::is_ascii_whitespace)),
            (hostile, mapped, theirs) => {
                panic!("line {line}: {hostile:?}, ours {mapped:?}, theirs {theirs:?}")
            }
        }
    }
}
