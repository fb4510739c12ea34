//! Checks the Avro encoding against another implementation, real messages and hostile bytes.

mod oracle;

use azul::{
    avro::{
        AvroError, FEATURES_TRUNCATED, TooLarge, bulk, cut_to_fit, decode_binary_bulk,
        decode_download_bulk, decode_plugin_bulk, decode_status_bulk, encode_binary,
        encode_download, encode_plugin, encode_status, fit,
    },
    event::{BinaryEvent, ModelVersion, feature_type},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde::{Deserialize, Serialize};

use self::oracle::Oracle;
use testkit::{corpus, samples};

type Encode<T> = fn(&T, ModelVersion, &mut Vec<u8>);
type Decode<T> = fn(&[u8]) -> Result<Vec<T>, AvroError>;

const VERSIONS: [ModelVersion; 2] = [ModelVersion::V5, ModelVersion::V6];

fn message<T>(events: &[T], version: ModelVersion, encode: Encode<T>) -> Vec<u8> {
    let encoded: Vec<Vec<u8>> = (events.iter())
        .map(|event| {
            let mut bytes = Vec::new();
            encode(event, version, &mut bytes);
            bytes
        })
        .collect();
    let encoded: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
    let mut message = Vec::new();
    bulk(version, &encoded, &mut message);
    message
}

/// Asserts that the oracle reads our bytes, and that we read the oracle's bytes and our own.
fn agree<T: Serialize + PartialEq + std::fmt::Debug>(
    model: &'static str,
    version: ModelVersion,
    events: &[T],
    encode: Encode<T>,
    decode: Decode<T>,
) {
    let oracle = Oracle::new(model, version);
    let value = oracle.expected(events);
    let ours = message(events, version, encode);
    assert_eq!(oracle.read(&ours), value, "{model} {version:?}: the oracle reads ours");
    let theirs = oracle.write(value);
    assert_eq!(decode(&theirs).unwrap(), events, "{model} {version:?}: we read the oracle's");
    assert_eq!(decode(&ours).unwrap(), events, "{model} {version:?}: we read ours");
}

#[test]
fn another_implementation_reads_ours_and_we_read_its_messages() {
    for version in VERSIONS {
        let binary =
            [samples::binary(version, 2), samples::mapped(version), samples::bare(version)];
        agree("BinaryEvent", version, &binary, encode_binary, decode_binary_bulk);
        let download = [samples::download(version), samples::bare_download(version)];
        agree("DownloadEvent", version, &download, encode_download, decode_download_bulk);
        let status = [samples::status(version)];
        agree("StatusEvent", version, &status, encode_status, decode_status_bulk);
        let plugin = [samples::plugin(version)];
        agree("PluginEvent", version, &plugin, encode_plugin, decode_plugin_bulk);
    }
}

#[test]
fn an_empty_message_holds_the_version_and_no_events() {
    agree("BinaryEvent", ModelVersion::V6, &[], encode_binary, decode_binary_bulk);
    assert_eq!(message(&[], ModelVersion::V6, encode_binary), [12, 0]);
}

#[test]
fn version_4_is_read_in_the_layout_of_version_5() {
    let event = samples::binary(ModelVersion::V5, 1);
    let mut four = message(std::slice::from_ref(&event), ModelVersion::V5, encode_binary);
    four[0] = 8;
    assert_eq!(decode_binary_bulk(&four).unwrap(), [event]);
}

#[test]
fn the_legacy_format_is_left_out_of_version_6() {
    let event = samples::binary(ModelVersion::V5, 1);
    let message = message(&[event], ModelVersion::V6, encode_binary);
    let read = decode_binary_bulk(&message).unwrap();
    assert_eq!(read, [samples::binary(ModelVersion::V6, 1)]);
}

/// A line of the corpus: the outcome for one record.
#[derive(Deserialize)]
struct Line {
    events: Option<Vec<BinaryEvent>>,
}

#[test]
fn real_messages_are_read_and_written_again() {
    let (Some(message_of_go), Some(expected)) =
        (corpus::read("expected/feed.v5.avro"), corpus::read("expected/feed.events.jsonl"))
    else {
        return;
    };
    let mut expected: Vec<BinaryEvent> = (expected.split(|byte| *byte == b'\n'))
        .filter(|line| !line.is_empty())
        .filter_map(|line| serde_json::from_slice::<Line>(line).unwrap().events)
        .flatten()
        .collect();
    for event in &mut expected {
        // The lines print the version of the program's own structs.
        event.model_version = 5;
    }

    let events = decode_binary_bulk(&message_of_go).unwrap();
    let mut sorted = events.clone();
    for event in sorted.iter_mut().chain(&mut expected) {
        event.entity.features.sort();
    }
    assert_eq!(sorted, expected);

    let ours = message(&events, ModelVersion::V5, encode_binary);
    let oracle = Oracle::new("BinaryEvent", ModelVersion::V5);
    assert_eq!(oracle.read(&ours), oracle.read(&message_of_go));
    // Only the order of map entries is free, so the same blocks take the same room.
    assert_eq!(ours.len(), message_of_go.len());
}

/// Returns the number of items and of bytes of each block at the start of an array.
fn block_headers(mut array: &[u8]) -> Vec<(i64, usize)> {
    fn long(bytes: &mut &[u8]) -> i64 {
        let end = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap();
        let zigzag =
            bytes[..=end].iter().rev().fold(0, |sum, byte| sum << 7 | i64::from(byte & 0x7f));
        *bytes = &bytes[end + 1..];
        zigzag >> 1 ^ -(zigzag & 1)
    }
    let mut blocks = Vec::new();
    loop {
        let count = long(&mut array);
        if count == 0 {
            return blocks;
        }
        let size = usize::try_from(long(&mut array)).unwrap();
        blocks.push((count, size));
        array = &array[size..];
    }
}

#[test]
fn blocks_hold_at_most_100_items_and_say_their_size() {
    let counts = |array: &[u8]| -> Vec<i64> {
        block_headers(array).into_iter().map(|(count, _)| count).collect()
    };
    let events = vec![samples::bare(ModelVersion::V6); 250];
    let message = message(&events, ModelVersion::V6, encode_binary);
    assert_eq!(counts(&message[1..]), [-100, -100, -50]);
    assert_eq!(decode_binary_bulk(&message).unwrap(), events);

    // A feature list stands between two events that differ only by it.
    let (mut without, mut with) = (Vec::new(), Vec::new());
    encode_binary(&samples::binary(ModelVersion::V6, 0), ModelVersion::V6, &mut without);
    encode_binary(&samples::binary(ModelVersion::V6, 250), ModelVersion::V6, &mut with);
    let start = without.iter().zip(&with).position(|(a, b)| a != b).unwrap();
    assert_eq!(counts(&with[start..]), [-100, -100, -50]);
}

#[test]
fn an_event_within_the_limit_is_left_whole() {
    let event = samples::mapped(ModelVersion::V6);
    let mut whole = Vec::new();
    encode_binary(&event, ModelVersion::V6, &mut whole);
    let fitted = fit(event, ModelVersion::V6, whole.len()).unwrap();
    assert_eq!((fitted.bytes, fitted.truncated_features), (whole, 0));
}

#[test]
fn an_event_over_the_limit_loses_features_from_the_end_and_says_how_many() {
    for version in VERSIONS {
        let event = samples::binary(version, 250);
        let mut whole = Vec::new();
        encode_binary(&event, version, &mut whole);
        let mut without = event.clone();
        without.entity.features.clear();
        let mut least = Vec::new();
        encode_binary(&without, version, &mut least);

        let mut kept_before = 0;
        for max in (least.len() + 60..whole.len()).step_by(31) {
            let fitted = fit(event.clone(), version, max).unwrap();
            assert!(fitted.bytes.len() <= max);
            let mut message = Vec::new();
            bulk(version, &[&fitted.bytes], &mut message);
            let [read] = decode_binary_bulk(&message).unwrap().try_into().unwrap();
            let (marker, kept) = read.entity.features.split_last().unwrap();
            assert_eq!(kept, &event.entity.features[..kept.len()]);
            assert_eq!((&*marker.name, &*marker.kind), (FEATURES_TRUNCATED, feature_type::INTEGER));
            let cut = event.entity.features.len() - kept.len();
            assert_eq!(marker.value, cut.to_string());
            assert_eq!(fitted.truncated_features, cut);
            // One more feature would not have fitted: a feature takes 54 to 57 bytes here, and the blocks take a few.
            assert!(cut == 1 || max - fitted.bytes.len() < 64, "{cut} cut at {max}");
            assert!(kept.len() >= kept_before);
            kept_before = kept.len();
        }
    }
}

#[test]
fn an_event_has_no_more_features_than_azul_takes() {
    for (features, kept, cut) in [(10_000, 10_000, None), (10_154, 9_999, Some("155"))] {
        let event = samples::binary(ModelVersion::V6, features);
        let shown = cut_to_fit(event.clone(), ModelVersion::V6, 1 << 30).unwrap();
        let mut features = shown.entity.features.clone();
        assert!(features.len() <= 10_000, "{}", features.len());
        if let Some(cut) = cut {
            let marker = features.pop().unwrap();
            assert_eq!((&*marker.name, marker.value.as_str()), (FEATURES_TRUNCATED, cut));
        }
        assert_eq!(features, event.entity.features[..kept]);
        let mut whole = Vec::new();
        encode_binary(&shown, ModelVersion::V6, &mut whole);
        assert_eq!(fit(event, ModelVersion::V6, 1 << 30).unwrap().bytes, whole);
        // The limits of bytes and of features hold together.
        let less = fit(shown, ModelVersion::V6, whole.len() / 2).unwrap();
        assert!(less.bytes.len() <= whole.len() / 2);
    }
}

#[test]
fn an_event_that_is_too_large_without_features_is_refused() {
    let mut event = samples::binary(ModelVersion::V6, 300);
    event.entity.magic = "x".repeat(10_000);
    let refused = fit(event.clone(), ModelVersion::V6, 10_000).unwrap_err();
    assert_eq!(refused.max, 10_000);
    assert!(refused.bytes > 10_000);
    event.entity.features.clear();
    assert_eq!(fit(event, ModelVersion::V6, 10_000), Err(TooLarge { ..refused }));
}

#[test]
fn an_event_without_room_for_the_marker_is_refused() {
    let mut event = samples::binary(ModelVersion::V6, 3);
    let features = std::mem::take(&mut event.entity.features);
    let mut least = Vec::new();
    encode_binary(&event, ModelVersion::V6, &mut least);
    event.entity.features = features;
    assert!(fit(event.clone(), ModelVersion::V6, least.len() + 40).is_err());
    assert_eq!(fit(event, ModelVersion::V6, least.len() + 60).unwrap().truncated_features, 3);
}

#[test]
fn what_claims_more_than_there_is_is_refused_at_once() {
    // All messages have version 6. Their blocks claim 2⁶² events, −2⁶³ events with 1 byte, a size over the rest, and
    // one event.
    let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
    let least = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let refused = |tail: &[u8]| decode_binary_bulk(&[&[12], tail].concat()).unwrap_err();
    assert_eq!(refused(&huge), AvroError::Count { at: 1, count: 1 << 62 });
    let message = [&least[..], &[2, 0]].concat();
    assert_eq!(refused(&message), AvroError::Count { at: 1, count: 1 << 63 });
    assert_eq!(refused(&[1, 100]), AvroError::Length { at: 2, length: 50 });
    assert_eq!(refused(&[1, 1]), AvroError::Length { at: 2, length: -1 });
    assert_eq!(refused(&[2]), AvroError::Count { at: 1, count: 1 });
    assert_eq!(refused(&[0x80; 10]), AvroError::Long { at: 1 });
    assert_eq!(refused(&[0x80]), AvroError::Truncated { at: 2 });
    assert_eq!(refused(&[0, 0]), AvroError::Trailing(1));
    assert_eq!(decode_binary_bulk(&[]), Err(AvroError::Truncated { at: 0 }));
    assert_eq!(decode_binary_bulk(&[14, 0]), Err(AvroError::Version(7)));
}

#[test]
fn a_message_that_ends_early_is_refused_wherever_it_ends() {
    let whole = message(&[samples::status(ModelVersion::V5)], ModelVersion::V5, encode_status);
    for end in 0..whole.len() {
        assert!(decode_status_bulk(&whole[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn text_that_is_no_utf_8_and_info_that_is_no_object_cost_only_themselves() {
    let mut event = samples::mapped(ModelVersion::V6);
    event.entity.magic = "MAGIC".into();
    let mut bytes = message(&[event.clone()], ModelVersion::V6, encode_binary);
    let at = bytes.windows(5).position(|window| window == b"MAGIC").unwrap();
    bytes[at] = 0xff;
    let at = bytes.windows(2).position(|window| window == b"{}").unwrap();
    bytes[at..at + 2].copy_from_slice(b"[]");
    event.entity.magic = "\u{fffd}AGIC".into();
    event.entity.info = None;
    assert_eq!(decode_binary_bulk(&bytes).unwrap(), [event]);
}

fn decode_all(message: &[u8]) {
    // The functions must return; what they return does not matter.
    let _ = decode_binary_bulk(message);
    let _ = decode_download_bulk(message);
    let _ = decode_status_bulk(message);
    let _ = decode_plugin_bulk(message);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn random_events_agree_with_the_other_implementation(events in vec(samples::events(), 0..4)) {
        agree("BinaryEvent", ModelVersion::V6, &events, encode_binary, decode_binary_bulk);
    }

    #[test]
    fn random_bytes_never_panic(version in 4u8..7, bytes in vec(any::<u8>(), 0..600)) {
        decode_all(&bytes);
        decode_all(&[&[version * 2], bytes.as_slice()].concat());
    }

    #[test]
    fn broken_messages_never_panic(
        changes in vec((any::<Index>(), any::<u8>()), 1..6),
        version in 0usize..2,
    ) {
        let version = VERSIONS[version];
        let messages = [
            message(&[samples::binary(version, 2), samples::bare(version)], version, encode_binary),
            message(&[samples::download(version)], version, encode_download),
            message(&[samples::status(version)], version, encode_status),
            message(&[samples::plugin(version)], version, encode_plugin),
        ];
        for mut bytes in messages.into_iter().chain(corpus::read("expected/feed.v5.avro")) {
            for (at, change) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *change;
            }
            decode_all(&bytes);
        }
    }
}
