//! What goes to Azul for a request: the sample's event, and what became of the request. Pure.

use azul_vt::azul::event::{
    Author, BinaryEntity, BinaryEvent, Datastream, DownloadEvent, Feature, FeatureDescriptor,
    JsonObject, ModelVersion, PathNode, Source, binary_action, download_action,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name of the author of downloads. The Go plugin's, so that its events and ours merge.
pub const AUTHOR: &str = "VirustotalDownload";
/// What a feature's value has at most: 4000 bytes, as in the Go plugin's events, whatever the characters.
const MAX_VALUE_CHARS: usize = 1000;

/// The author of downloads.
pub fn author() -> Author {
    Author::new(AUTHOR, "plugin")
}

/// The features of a sample's event.
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

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The sample is in Azul.
    Success,
    /// It had been in Azul before.
    AlreadyPresent,
    /// VirusTotal does not have it; its words.
    NotFound(String),
    /// It is not in Azul; why.
    Failed(String),
}

impl Outcome {
    /// The action of its event. Model version 5 knows fewer.
    pub fn action(&self, version: ModelVersion, skips: bool) -> &'static str {
        let is_new = version != ModelVersion::V5;
        match self {
            Self::AlreadyPresent if skips && is_new => download_action::SKIPPED_ALREADY_PRESENT,
            Self::Success | Self::AlreadyPresent => download_action::SUCCESS,
            Self::NotFound(_) if is_new => download_action::FAILED_NOT_FOUND,
            Self::NotFound(_) | Self::Failed(_) => download_action::FAILED,
        }
    }

    /// Its name in metrics.
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

/// The event that says what became of a request; a failure's reason is its `metadata.reason`. `skips`: a
/// sample that was there already is called skipped where the version has a word for it.
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
        // The Go plugin's requests leave it blank, and no dispatcher takes that any more.
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

/// The event of a sample that is at the dispatcher: its content, and captures of its traffic.
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

/// Model version 6 has no legacy names of formats.
fn clean(legacy: &mut String, version: ModelVersion) {
    if version != ModelVersion::V5 {
        legacy.clear();
    }
}
