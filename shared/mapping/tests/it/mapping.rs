//! Checks the mapping of the project's own records, and properties that hold for any record.

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use azul::event::{Author, BinaryEvent, ModelVersion, PathNode};
use jiff::{SignedDuration, Timestamp};
use mapping::{HandlerSet, Mapped, Mapper, MapperOptions, Record, descriptors};
use proptest::prelude::*;
use serde_json::json;

fn now() -> Timestamp {
    "2024-05-02T00:00:00Z".parse().unwrap()
}

fn options() -> MapperOptions {
    MapperOptions {
        handlers: HandlerSet::parse("all").unwrap(),
        model_version: ModelVersion::V6,
        author: Author {
            name: "VirustotalFileFeed".into(),
            version: "1.0.0".into(),
            category: "plugin".into(),
            security: String::new(),
        },
        source: "virustotal".into(),
        max_age: None,
    }
}

fn testdata(file: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/records")).join(file)
}

fn records() -> Vec<String> {
    let text = fs::read_to_string(testdata("records.jsonl")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn map(text: &[u8]) -> Mapped {
    match Record::parse(text) {
        Ok(record) => Mapper::new(options()).map_feed(&record, now()),
        Err(error) => Mapped::Rejected(error.to_string()),
    }
}

fn event(mapped: Mapped) -> BinaryEvent {
    match mapped {
        Mapped::Event { event, .. } => *event,
        other => panic!("{other:?}"),
    }
}

fn first_record() -> Record {
    Record::parse(records()[0].as_bytes()).unwrap()
}

#[test]
fn our_records_become_our_events() {
    let mut ours = String::new();
    for (line, record) in records().iter().enumerate() {
        let outcome = match map(record.as_bytes()) {
            Mapped::Event { event, bad_values } => {
                json!({"event": event, "bad_values": bad_values})
            }
            Mapped::Filtered(reason) => json!({ "filtered": reason }),
            Mapped::Rejected(reason) => json!({ "rejected": reason }),
        };
        ours += &json!({"line": line + 1, "outcome": outcome}).to_string();
        ours.push('\n');
    }
    if env::var_os("BLESS").is_some() {
        fs::write(testdata("events.jsonl"), &ours).unwrap();
    }
    let expected = fs::read_to_string(testdata("events.jsonl")).unwrap();
    for (ours, expected) in ours.lines().zip(expected.lines()) {
        assert_eq!(ours, expected);
    }
    assert_eq!(ours.lines().count(), expected.lines().count());
}

#[test]
fn our_records_have_a_value_for_every_handler_and_only_registered_features() {
    let registered: BTreeSet<_> = descriptors().into_iter().map(|d| d.name).collect();
    for name in HandlerSet::parse("all").unwrap().names() {
        let handlers = HandlerSet::parse(name).unwrap();
        let mapper = Mapper::new(MapperOptions { handlers, ..options() });
        let mut found = 0;
        for record in records().iter().filter_map(|text| Record::parse(text.as_bytes()).ok()) {
            let Mapped::Event { event, .. } = mapper.map_feed(&record, now()) else { continue };
            found += event.entity.features.len();
            for feature in &event.entity.features {
                assert!(registered.contains(&*feature.name), "{}", feature.name);
            }
        }
        assert!(found > 0, "{name}");
    }
}

#[test]
fn version_5_names_virustotals_types_and_version_6_does_not() {
    let of = |model_version| {
        let mapper = Mapper::new(MapperOptions { model_version, ..options() });
        let event = event(mapper.map_feed(&first_record(), now()));
        let node = event.source.path[0].file_format_legacy.clone();
        (event.model_version, node, event.entity.file_format_legacy)
    };
    assert_eq!(of(ModelVersion::V5), (5, "peexe".into(), "PEBIN".into()));
    assert_eq!(of(ModelVersion::V6), (6, String::new(), String::new()));
}

#[test]
fn what_is_no_file_is_rejected_with_what_it_is() {
    let sha256 = "5a".repeat(32);
    for (text, words) in [
        (format!(r#"{{"type":"url","id":"{sha256}"}}"#), r#"an object of type "url", not a file"#),
        (format!(r#"{{"type":"behaviour","id":"{sha256}_x"}}"#), "type \"behaviour\""),
        (format!(r#"{{"type":7,"id":"{sha256}"}}"#), "type 7"),
        (r#"{"type":"domain","id":"example.test"}"#.into(), "type \"domain\""),
        (r#"{"id":"../../etc/passwd"}"#.into(), r#"its id is "../../etc/passwd", not a SHA-256"#),
        (format!(r#"{{"id":"{sha256}0"}}"#), "not a SHA-256 of 64"),
        (format!(r#"{{"attributes":{{"sha256":"{}"}}}}"#, &sha256[2..]), "its attributes.sha256"),
        (r#"{"attributes":{}}"#.into(), "neither attributes.sha256 nor id"),
    ] {
        let Mapped::Rejected(reason) = map(text.as_bytes()) else { panic!("{text}") };
        assert!(reason.contains(words), "{text}: {reason}");
    }
    let long = format!(r#"{{"id":"{}"}}"#, "a".repeat(1 << 20));
    let Mapped::Rejected(reason) = map(long.as_bytes()) else { panic!("it has an event") };
    assert!(reason.len() < 200, "{} bytes", reason.len());
}

#[test]
fn hashes_are_in_lower_case_whoever_wrote_them() {
    let (sha256, sha1, md5) = ("Ab".repeat(32), "Cd".repeat(20), "Ef".repeat(16));
    let attributes = json!({"sha1": sha1, "md5": md5});
    let record = json!({"type": "file", "id": sha256, "attributes": attributes});
    let event = event(map(record.to_string().as_bytes()));
    let entity = &event.entity;
    assert_eq!(
        (&entity.sha256, &event.source.path[0].sha256),
        (&"ab".repeat(32), &"ab".repeat(32))
    );
    assert_eq!((&entity.sha1, &entity.md5), (&"cd".repeat(20), &"ef".repeat(16)));
    // The hash of the empty file is recognised in upper case, too.
    let empty = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";
    assert!(matches!(map(format!(r#"{{"id":"{empty}"}}"#).as_bytes()), Mapped::Filtered(_)));
}

#[test]
fn what_azul_would_drop_the_event_for_is_left_out_or_cut() {
    let sha256 = "ab".repeat(32);
    let map = |attributes: serde_json::Value, submitter: serde_json::Value| {
        let context = json!({"submitter": submitter});
        let record = json!({"id": sha256, "attributes": attributes, "context_attributes": context});
        match map(record.to_string().as_bytes()) {
            Mapped::Event { event, bad_values } => (*event, bad_values),
            other => panic!("{other:?}"),
        }
    };
    for (ssdeep, tlsh, bad) in [("3:a:b:c", "T1", 2), ("x:a:b", "TNULL", 1), ("", "NULL", 0)] {
        let (event, bad_values) = map(json!({"ssdeep": ssdeep, "tlsh": tlsh}), json!({}));
        assert_eq!((event.entity.ssdeep, event.entity.tlsh), (String::new(), String::new()));
        assert_eq!(bad_values, bad, "{ssdeep} {tlsh}");
    }
    let (tlsh, ssdeep) = (format!("T1{}", "A1".repeat(35)), "3:a:b");
    let (event, bad_values) = map(json!({"ssdeep": ssdeep, "tlsh": tlsh}), json!({}));
    assert_eq!((event.entity.ssdeep.as_str(), event.entity.tlsh, bad_values), (ssdeep, tlsh, 0));

    let long = "é".repeat(20_000);
    let (event, bad_values) =
        map(json!({"type_extension": long}), json!({"city": long, "country": "AU"}));
    assert_eq!(event.entity.file_extension, "é".repeat(16_383));
    let city = &event.source.references["submitter_city"];
    assert_eq!(city.len(), 32_750, "`submitter_city.` and the city are indexed as one text");
    assert_eq!((bad_values, &event.source.references["submitter_country"][..]), (2, "AU"));
}

#[test]
fn records_older_than_the_limit_are_filtered_and_reports_are_not() {
    let age = |hours| {
        let max_age = Some(SignedDuration::from_hours(hours));
        Mapper::new(MapperOptions { max_age, ..options() })
    };
    // The last analysis was at 2024-05-01T10:11:12Z, less than 14 hours before `now()`.
    assert!(matches!(age(14).map_feed(&first_record(), now()), Mapped::Event { .. }));
    let Mapped::Filtered(reason) = age(13).map_feed(&first_record(), now()) else {
        panic!("not filtered")
    };
    assert_eq!(reason, "last analysed 2024-05-01T10:11:12Z, more than 13 h ago");
    assert!(matches!(age(13).map_report(&first_record(), None, now()), Mapped::Event { .. }));
    let dateless = Record::parse(br#"{"attributes":{"sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}"#).unwrap();
    assert!(matches!(age(13).map_feed(&dateless, now()), Mapped::Filtered(_)));
}

fn input() -> BinaryEvent {
    let mut input = event(map(records()[1].as_bytes()));
    input.source.name = "samples".into();
    input.source.timestamp = "2024-04-30T01:02:03Z".parse().unwrap();
    input.source.references = [("case".to_owned(), "17".to_owned())].into();
    input.source.path = vec![PathNode {
        action: "sourced".into(),
        file_format_legacy: "PE".into(),
        filename: "tool.exe".into(),
        ..input.source.path[0].clone()
    }];
    input
}

#[test]
fn a_report_goes_on_from_its_input() {
    let input = input();
    let event = event(Mapper::new(options()).map_report(&first_record(), Some(&input), now()));
    let [first, last] = event.source.path.as_slice() else { panic!("{:?}", event.source.path) };
    assert_eq!(
        (event.source.name.as_str(), &event.source.references["case"][..]),
        ("samples", "17")
    );
    assert_eq!(event.source.timestamp, input.source.timestamp);
    assert_eq!((first.action.as_str(), first.filename.as_str()), ("sourced", "tool.exe"));
    assert_eq!(first.file_format_legacy, "", "version 6 has no such field");
    assert_eq!((last.action.as_str(), last.filename.as_str()), ("mapped", "tool.exe"));
    assert_eq!(last.author, options().author);
    assert_eq!(last.sha256, event.entity.sha256);
    assert_eq!(last.timestamp, input.source.timestamp);
}

#[test]
fn a_report_without_input_is_like_a_record_and_may_stand_in_an_envelope() {
    let mapper = Mapper::new(options());
    let expected = mapper.map_feed(&first_record(), now());
    assert_eq!(mapper.map_report(&first_record(), None, now()), expected);
    let enveloped = Record::parse(format!(r#"{{"data":{}}}"#, records()[0]).as_bytes()).unwrap();
    assert_eq!(mapper.map_report(&enveloped, None, now()), expected);
    assert!(matches!(mapper.map_feed(&enveloped, now()), Mapped::Rejected(_)));
}

#[test]
fn a_report_with_input_needs_no_date_but_an_identity() {
    let mapper = Mapper::new(options());
    let map = |text: &str| {
        mapper.map_report(&Record::parse(text.as_bytes()).unwrap(), Some(&input()), now())
    };
    assert!(matches!(
        map(
            r#"{"data":{"id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}"#
        ),
        Mapped::Event { .. }
    ));
    let bad_date = r#"{"data":{"id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","attributes":{"last_analysis_date":"x"}}}"#;
    assert!(matches!(map(bad_date), Mapped::Event { .. }));
    assert!(matches!(map(r#"{"data":{"attributes":{}}}"#), Mapped::Rejected(_)));
    assert!(matches!(map(r#"{"error":{"code":"NotFoundError"}}"#), Mapped::Rejected(_)));
}

#[test]
fn a_megabyte_of_open_brackets_is_rejected() {
    for open in ["[", "{\"a\":", "[{\"a\":"] {
        let Mapped::Rejected(reason) = map(open.repeat(1 << 18).as_bytes()) else {
            panic!("{open}")
        };
        assert!(reason.contains("more than 128"), "{reason}");
    }
}

/// Makes unusual JSON values.
fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,20}".prop_map(Into::into),
        Just(json!("2024-05-01 10:11:12")),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(".{0,8}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Replaces the `nth` value in `value` by `by`.
fn replace(value: &mut serde_json::Value, nth: &mut usize, by: &serde_json::Value) {
    if *nth == 0 {
        *value = by.clone();
    }
    *nth = nth.wrapping_sub(1);
    match value {
        serde_json::Value::Array(items) => items.iter_mut().for_each(|v| replace(v, nth, by)),
        serde_json::Value::Object(map) => map.values_mut().for_each(|v| replace(v, nth, by)),
        _ => {}
    }
}

proptest! {
    #[test]
    fn any_bytes_have_an_outcome(bytes: Vec<u8>) {
        map(&bytes);
    }

    #[test]
    fn a_record_with_any_value_in_any_place_has_the_same_outcome_twice(
        record in 0..11_usize,
        mut nth in 1..120_usize,
        by in any_value(),
    ) {
        let mut value: serde_json::Value = serde_json::from_str(&records()[record]).unwrap();
        replace(&mut value, &mut nth, &by);
        let text = value.to_string();
        let outcome = map(text.as_bytes());
        if let Mapped::Event { event, .. } = &outcome {
            for feature in &event.entity.features {
                let good = match &*feature.kind {
                    "integer" => feature.value.parse::<i64>().is_ok(),
                    "float" => feature.value.parse::<f64>().is_ok_and(f64::is_finite),
                    "datetime" => feature.value.parse::<Timestamp>().is_ok(),
                    kind => kind == "string",
                };
                prop_assert!(good, "{:?}", feature);
            }
        }
        prop_assert_eq!(map(text.as_bytes()), outcome);
    }

    #[test]
    fn a_record_with_a_broken_byte_has_an_outcome(
        record in 0..11_usize,
        at: prop::sample::Index,
        byte: u8,
    ) {
        let mut text = records()[record].clone().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        map(&text);
    }
}
