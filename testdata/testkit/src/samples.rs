//! Events with every field set, and random ones.

use azul::event::{
    Author, BinaryEntity, BinaryEvent, BinaryFlags, Datastream, DownloadEntity, DownloadEvent,
    Feature, FeatureDescriptor, JsonObject, ModelVersion, PathNode, PluginEntity, PluginEvent,
    Source, StatusEntity, StatusEvent, StringMap, binary_action, download_action, feature_type,
};
use jiff::Timestamp;
use proptest::{collection::vec, prelude::*};
use serde_json::json;

/// Time of the events.
pub const NOW: Timestamp = Timestamp::constant(1_704_070_800, 123_456_000);

/// Returns the author of the events.
pub fn author() -> Author {
    Author {
        name: "VirustotalFileFeed".into(),
        version: "0.1.0".into(),
        category: "plugin".into(),
        security: "OFFICIAL".into(),
    }
}

/// Only a model of version 5 has it.
fn legacy(version: ModelVersion) -> String {
    if version == ModelVersion::V5 { "Win32 EXE".into() } else { String::new() }
}

/// Returns a map of these entries.
pub fn map(entries: &[(&str, &str)]) -> StringMap {
    entries.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

/// Returns a JSON object as events hold it; `None` for any other value.
pub fn object(value: serde_json::Value) -> Option<JsonObject> {
    match value {
        serde_json::Value::Object(object) => Some(object),
        _ => None,
    }
}

/// Returns a source with every field set.
pub fn source(version: ModelVersion) -> Source {
    Source {
        name: "virustotal".into(),
        references: map(&[("submitter_country", "US"), ("submitter_id", "a96f7a0a")]),
        security: "OFFICIAL".into(),
        path: vec![PathNode {
            author: author(),
            action: binary_action::MAPPED.into(),
            sha256: "b".repeat(64),
            relationship: map(&[("how", "child")]),
            timestamp: NOW,
            file_format_legacy: legacy(version),
            file_format: "executable/windows/pe32".into(),
            size: u64::MAX,
            filename: "größe.exe".into(),
            language: "en".into(),
        }],
        timestamp: Timestamp::constant(-1, -1_000),
        settings: map(&[("passwords", "infected")]),
    }
}

/// Returns a binary event with every field set and this number of features.
pub fn binary(version: ModelVersion, features: usize) -> BinaryEvent {
    BinaryEvent {
        model_version: version.number(),
        kafka_key: "key".into(),
        timestamp: NOW,
        author: author(),
        source: source(version),
        entity: BinaryEntity {
            sha256: "b".repeat(64),
            sha512: "5".repeat(128),
            sha1: "1".repeat(40),
            md5: "d".repeat(32),
            ssdeep: "3:abc:def".into(),
            tlsh: "T1".into(),
            size: 25_317_852,
            mime: "application/zip".into(),
            magic: "Zip archive data".into(),
            file_format_legacy: legacy(version),
            file_format: "archive/zip".into(),
            file_extension: "zip".into(),
            info: object(json!({"a": [1, {"b": "ü"}], "c": null})),
            features: (0..features).map(feature).collect(),
            datastreams: vec![datastream(version)],
        },
        action: binary_action::SOURCED.into(),
        dequeued: "key.VirustotalFileLookup.1.1704070800".into(),
        retries: 2,
        flags: BinaryFlags { bypass_cache: true, expedite: false, retry: true },
        track_source_references: "virustotal.0".into(),
        track_links: vec!["a.b".into(), "b.c".into()],
        track_authors: vec!["plugin.a.1".into()],
    }
}

/// Returns a feature; the number decides which fields are set.
pub fn feature(number: usize) -> Feature {
    let feature = Feature::new("tags", format!("value {number}"), feature_type::STRING);
    Feature { size: 3, offset: 1 << 40, ..feature.labelled("label") }
}

fn datastream(version: ModelVersion) -> Datastream {
    Datastream {
        identify_version: 7,
        label: "content".into(),
        size: 1,
        sha512: "5".repeat(128),
        sha256: "2".repeat(64),
        sha1: "1".repeat(40),
        md5: "d".repeat(32),
        ssdeep: "3:a:b".into(),
        tlsh: "T1".into(),
        mime: "text/plain".into(),
        magic: "ASCII text".into(),
        file_format_legacy: legacy(version),
        file_format: "text/plain".into(),
        file_extension: "txt".into(),
        language: "c".into(),
    }
}

/// An event as the mapping makes it: only what a record gives.
pub fn mapped(version: ModelVersion) -> BinaryEvent {
    let whole = binary(version, 3);
    BinaryEvent {
        kafka_key: String::new(),
        entity: BinaryEntity { info: object(json!({})), datastreams: Vec::new(), ..whole.entity },
        action: binary_action::MAPPED.into(),
        dequeued: String::new(),
        retries: 0,
        flags: BinaryFlags::default(),
        track_source_references: String::new(),
        track_links: Vec::new(),
        track_authors: Vec::new(),
        ..whole
    }
}

/// An event with as little as possible.
pub fn bare(version: ModelVersion) -> BinaryEvent {
    BinaryEvent {
        author: Author { name: "a".into(), ..Author::default() },
        source: Source {
            name: "s".into(),
            references: StringMap::new(),
            security: String::new(),
            path: Vec::new(),
            timestamp: NOW,
            settings: StringMap::new(),
        },
        entity: BinaryEntity::default(),
        ..mapped(version)
    }
}

/// Returns a download event with every field set.
pub fn download(version: ModelVersion) -> DownloadEvent {
    DownloadEvent {
        model_version: version.number(),
        kafka_key: String::new(),
        timestamp: NOW,
        author: author(),
        source: source(version),
        action: download_action::REQUESTED.into(),
        entity: DownloadEntity {
            hash: "b".repeat(64),
            direct_url: "https://example.org/file".into(),
            direct_expiry: Some(NOW),
            pcap: true,
            category: "basic/any".into(),
            category_quota: 10,
            metadata: object(json!({"rule": "any"})),
        },
    }
}

/// A request without a direct link.
pub fn bare_download(version: ModelVersion) -> DownloadEvent {
    let entity = DownloadEntity { hash: "b".repeat(64), ..DownloadEntity::default() };
    DownloadEvent { entity, ..download(version) }
}

/// Returns a status event with every field set.
pub fn status(version: ModelVersion) -> StatusEvent {
    StatusEvent {
        model_version: version.number(),
        kafka_key: String::new(),
        timestamp: NOW,
        author: author(),
        entity: StatusEntity {
            input: binary(version, 1),
            status: "completed".into(),
            runtime: 1.25,
            error: "error".into(),
            message: "message".into(),
            results: vec![mapped(version), bare(version)],
        },
    }
}

/// Returns a registration with every field set.
pub fn plugin(version: ModelVersion) -> PluginEvent {
    PluginEvent {
        model_version: version.number(),
        kafka_key: String::new(),
        timestamp: NOW,
        author: author(),
        entity: PluginEntity {
            name: "VirustotalFileFeed".into(),
            version: "0.1.0".into(),
            category: "plugin".into(),
            contact: "azul-vt".into(),
            description: "Maps VirusTotal's file feed.".into(),
            features: vec![FeatureDescriptor {
                name: "tags".into(),
                kind: feature_type::STRING.into(),
                desc: "A tag.".into(),
                tags: Vec::new(),
            }],
            security: "OFFICIAL".into(),
            config: map(&[("HANDLERS", "default")]),
        },
    }
}

fn maps() -> impl Strategy<Value = StringMap> {
    proptest::collection::btree_map(any::<String>(), any::<String>(), 0..4)
}

fn times() -> impl Strategy<Value = Timestamp> {
    (-62_135_596_800_000_000_i64..253_402_207_200_000_000)
        .prop_map(|micros| Timestamp::from_microsecond(micros).unwrap())
}

fn features() -> impl Strategy<Value = Vec<Feature>> {
    let feature = (any::<[String; 4]>(), any::<[u64; 2]>()).prop_map(|(texts, [size, offset])| {
        let [name, value, kind, label] = texts;
        Feature { name: name.into(), value, kind: kind.into(), label, size, offset }
    });
    vec(feature, 0..205)
}

/// Random binary events of version 6.
pub fn events() -> impl Strategy<Value = BinaryEvent> {
    (
        (maps(), maps(), maps()),
        (times(), times(), times()),
        features(),
        (any::<[String; 6]>(), any::<u64>(), any::<i64>(), any::<[bool; 3]>()),
        (vec(any::<String>(), 0..3), any::<bool>(), maps()),
    )
        .prop_map(
            |(maps, times, features, (texts, size, retries, flags), (links, info, map))| {
                let mut event = binary(ModelVersion::V6, 0);
                let node = &mut event.source.path[0];
                (node.relationship, event.source.references, event.source.settings) = maps;
                (node.timestamp, event.source.timestamp, event.timestamp) = times;
                let node = node.clone();
                event.source.path = vec![node; links.len()];
                event.entity.features = features;
                [
                    event.kafka_key,
                    event.author.name,
                    event.entity.magic,
                    event.dequeued,
                    event.action,
                    event.track_source_references,
                ] = texts;
                event.entity.size = size;
                event.retries = retries;
                let [bypass_cache, expedite, retry] = flags;
                event.flags = BinaryFlags { bypass_cache, expedite, retry };
                event.track_links = links;
                event.entity.info =
                    info.then(|| map.into_iter().map(|(key, value)| (key, value.into())).collect());
                event
            },
        )
}
