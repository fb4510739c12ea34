//! Makes the events for a request: the sample's event, and the event of the request's outcome. Pure.

use azul_vt::azul::event::{
    Author, BinaryEntity, BinaryEvent, Datastream, DownloadEvent, Feature, FeatureDescriptor,
    JsonObject, ModelVersion, PathNode, Source, binary_action, download_action,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name of the author of downloads. It is the Go plugin's name, so that its events and those of this plugin merge.
pub const AUTHOR: &str = "VirustotalDownload";
/// Most characters of a feature's value. They have at most 4000 bytes, which is the limit of the Go plugin's events.
const MAX_VALUE_CHARS: usize = 1000;

/// Returns the author of downloads.
pub fn author() -> Author {
    Author::new(AUTHOR, "plugin")
}

/// Returns the features of a sample's event.
pub fn descriptors() -> Vec<FeatureDescriptor> {
    [
        ("file_format", "Azul's name of the file's format."),
        ("file_extension", "The extension that files of this format have, without the dot."),
        ("magic", "What libmagic says of the file."),
        ("mime", "The file's media type."),
    ]
    .map(|(name, desc)| FeatureDescriptor {
        name: name.into(),
        kind: "string".into(),
        desc: desc.into(),
        tags: Vec::new(),
    })
    .into()
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The sample is in Azul.
    Success,
    /// The sample had been in Azul before.
    AlreadyPresent,
    /// VirusTotal does not have the sample. The text is its answer.
    NotFound(String),
    /// The sample is not in Azul, for this reason.
    Failed(String),
}

impl Outcome {
    /// Returns the action of the outcome's event. Model version 5 has fewer actions.
    pub fn action(&self, version: ModelVersion, skips: bool) -> &'static str {
        let is_new = version != ModelVersion::V5;
        match self {
            Self::AlreadyPresent if skips && is_new => download_action::SKIPPED_ALREADY_PRESENT,
            Self::Success | Self::AlreadyPresent => download_action::SUCCESS,
            Self::NotFound(_) if is_new => download_action::FAILED_NOT_FOUND,
            Self::NotFound(_) | Self::Failed(_) => download_action::FAILED,
        }
    }

    /// Returns the name of the outcome in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::AlreadyPresent => "already_present",
            Self::NotFound(_) => "not_found",
            Self::Failed(_) => "failed",
        }
    }

    /// Returns the reason why there is no sample; `None` if there is one.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Success | Self::AlreadyPresent => None,
            Self::NotFound(reason) | Self::Failed(reason) => Some(reason),
        }
    }
}

/// Returns the event of a request's outcome. The reason of a failure is in `metadata.reason`. With `skips`, a sample
/// that was in Azul already is reported as skipped, if the model version has that action.
pub fn outcome(
    request: &DownloadEvent,
    outcome: &Outcome,
    version: ModelVersion,
    skips: bool,
    now: Timestamp,
) -> DownloadEvent {
    let mut event = request.clone();
    event.model_version = version.number();
    event.kafka_key = String::new();
    event.timestamp = now;
    event.author = author();
    event.action = outcome.action(version, skips).into();
    for node in &mut event.source.path {
        // The Go plugin's requests leave the action blank, which no dispatcher accepts any more.
        if node.action.is_empty() {
            node.action = binary_action::MAPPED.into();
        }
        clean(&mut node.file_format_legacy, version);
    }
    if let Some(reason) = outcome.reason() {
        let metadata = event.entity.metadata.get_or_insert_with(JsonObject::new);
        metadata.insert("reason".into(), Value::from(reason));
    }
    event
}

/// Returns the event of a sample that is in the dispatcher's store, with its content and captures of its traffic.
pub fn sourced(
    request: &DownloadEvent,
    mut content: Datastream,
    captures: Vec<Datastream>,
    version: ModelVersion,
    now: Timestamp,
) -> BinaryEvent {
    clean(&mut content.file_format_legacy, version);
    let features = [
        ("file_format", &content.file_format),
        ("file_extension", &content.file_extension),
        ("magic", &content.magic),
        ("mime", &content.mime),
    ];
    let features = features.into_iter().filter(|(_, value)| !value.is_empty());
    let features = features.map(|(name, value)| Feature {
        name: name.into(),
        value: value.chars().take(MAX_VALUE_CHARS).collect(),
        kind: "string".into(),
        ..Feature::default()
    });
    let node = PathNode {
        author: author(),
        action: binary_action::SOURCED.into(),
        sha256: content.sha256.clone(),
        relationship: <_>::default(),
        timestamp: now,
        file_format_legacy: content.file_format_legacy.clone(),
        file_format: content.file_format.clone(),
        size: content.size,
        filename: String::new(),
        language: String::new(),
    };
    let entity = BinaryEntity {
        sha256: content.sha256.clone(),
        sha512: content.sha512.clone(),
        sha1: content.sha1.clone(),
        md5: content.md5.clone(),
        ssdeep: content.ssdeep.clone(),
        tlsh: content.tlsh.clone(),
        size: content.size,
        mime: content.mime.clone(),
        magic: content.magic.clone(),
        file_format_legacy: content.file_format_legacy.clone(),
        file_format: content.file_format.clone(),
        file_extension: content.file_extension.clone(),
        features: features.collect(),
        ..BinaryEntity::default()
    };
    let mut datastreams = vec![content];
    datastreams.extend(captures.into_iter().map(|mut capture| {
        clean(&mut capture.file_format_legacy, version);
        capture
    }));
    BinaryEvent {
        model_version: version.number(),
        kafka_key: String::new(),
        timestamp: now,
        author: author(),
        source: Source { path: vec![node], ..request.source.clone() },
        entity: BinaryEntity { datastreams, ..entity },
        action: binary_action::SOURCED.into(),
        dequeued: String::new(),
        retries: 0,
        flags: <_>::default(),
        track_source_references: String::new(),
        track_links: Vec::new(),
        track_authors: Vec::new(),
    }
}

/// Clears a legacy name of a format, because only model version 5 has these names.
fn clean(legacy: &mut String, version: ModelVersion) {
    if version != ModelVersion::V5 {
        legacy.clear();
    }
}
