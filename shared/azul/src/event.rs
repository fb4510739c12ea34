//! Azul's event models, as the dispatcher takes and gives them in JSON.
//!
//! Field order is the Avro order; [`super::avro`] relies on it. Source: azul-bedrock, model versions 5
//! (Azul 8 and 9) and 6 (Azul 10 and later). Azul's strict readers want optional fields absent, never
//! null, so every optional field is left out when empty.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// Sorted, so that the same event has the same bytes.
pub type StringMap = BTreeMap<String, String>;

/// A JSON object that Azul carries without reading it.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// What stands for a missing time in Avro: year 1 in UTC, Go's zero time. The Unix epoch would be a
/// real time there: a link that expired in 1970.
pub const ZERO_TIME: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// What happened to a binary: [`BinaryEvent::action`] and [`PathNode::action`].
pub mod binary_action {
    /// Content came into Azul.
    pub const SOURCED: &str = "sourced";
    /// Content came out of another binary.
    pub const EXTRACTED: &str = "extracted";
    /// Another view of a binary was made.
    pub const AUGMENTED: &str = "augmented";
    /// Facts came from an outside database.
    pub const MAPPED: &str = "mapped";
    /// Facts were found in the content.
    pub const ENRICHED: &str = "enriched";
}

/// What happened to a request: [`DownloadEvent::action`].
pub mod download_action {
    /// A sample is asked for.
    pub const REQUESTED: &str = "requested";
    /// It was downloaded.
    pub const SUCCESS: &str = "success";
    /// It could not be downloaded.
    pub const FAILED: &str = "failed";
    /// VirusTotal does not have it. From model version 6.
    pub const FAILED_NOT_FOUND: &str = "failed-not-found";
    /// Azul has it already. From model version 6.
    pub const SKIPPED_ALREADY_PRESENT: &str = "skipped-already-present";
}

/// What became of a task: [`StatusEntity::status`].
pub mod status {
    /// The work is done; its results come with it.
    pub const COMPLETED: &str = "completed";
    /// There was nothing to do.
    pub const OPT_OUT: &str = "opt-out";
    /// Somebody who was asked did not answer.
    pub const ERROR_NETWORK: &str = "error-network";
    /// The work failed on this input.
    pub const ERROR_EXCEPTION: &str = "error-exception";
}

/// The types of features: [`Feature::kind`] and [`FeatureDescriptor::kind`].
pub mod feature_type {
    /// A signed 64-bit whole number in decimal.
    pub const INTEGER: &str = "integer";
    /// A number in decimal.
    pub const FLOAT: &str = "float";
    /// Text.
    pub const STRING: &str = "string";
    /// Bytes in Base64.
    pub const BINARY: &str = "binary";
    /// RFC 3339.
    pub const DATETIME: &str = "datetime";
    /// Path of a file.
    pub const FILEPATH: &str = "filepath";
    /// URI.
    pub const URI: &str = "uri";
}

/// The version of the event models on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelVersion {
    /// Azul 8 and 9. Carries `file_format_legacy`.
    V5,
    /// Azul 10 and later.
    V6,
}

impl ModelVersion {
    /// The number as it stands in `model_version`.
    pub fn number(self) -> i64 {
        match self {
            Self::V5 => 5,
            Self::V6 => 6,
        }
    }

    /// The version that we can write, of that number; `None` for all others.
    pub fn from_number(number: i64) -> Option<Self> {
        match number {
            5 => Some(Self::V5),
            6 => Some(Self::V6),
            _ => None,
        }
    }

    /// Whether `file_format_legacy` is part of the layout.
    pub(super) fn has_legacy_format(self) -> bool {
        self == Self::V5
    }
}

/// Who made an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Author {
    /// Plugin name; never empty on a valid event.
    pub name: String,
    /// Plugin version. Not part of the dispatcher's key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// `plugin` or `loader`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub category: String,
    /// Security marking, mostly empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub security: String,
}

impl Author {
    /// An author of this program's events, in its own version.
    pub fn new(name: &str, category: &str) -> Self {
        Self {
            name: name.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            category: category.into(),
            security: String::new(),
        }
    }
}

/// One step of how a binary came to be known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathNode {
    /// Who took the step.
    pub author: Author,
    /// A binary action: `sourced`, `extracted`, `augmented`, `mapped`, `enriched`.
    pub action: String,
    /// Lower-case hex.
    pub sha256: String,
    /// How this binary relates to the node before.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub relationship: StringMap,
    /// When the step was taken.
    #[serde(default = "zero_time")]
    pub timestamp: Timestamp,
    /// Model version 5 only; must be empty in version 6.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file_format_legacy: String,
    /// Azul's file format, for example `document/pdf`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file_format: String,
    /// Bytes.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub size: u64,
    /// Name of the file, where known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filename: String,
    /// Language of the content, where known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub language: String,
}

/// Where a binary came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// A source that Azul's configuration knows.
    pub name: String,
    /// Facts about this sighting; part of the dispatcher's key.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub references: StringMap,
    /// Security marking, mostly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub security: String,
    /// From the first sighting to this binary; never empty on a valid event.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub path: Vec<PathNode>,
    /// Time of the sighting, always UTC: its spelling is part of the dispatcher's key.
    #[serde(default = "zero_time")]
    pub timestamp: Timestamp,
    /// Settings of the source; part of the dispatcher's key.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub settings: StringMap,
}

/// One fact about a binary.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Feature {
    /// Feature name, as registered.
    pub name: Cow<'static, str>,
    /// The value as text, whatever its type.
    pub value: String,
    /// One of integer, float, string, binary, datetime, filepath, uri.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// What the value belongs to, where a name alone would not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Extent in the file, bytes.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub size: u64,
    /// Place in the file, bytes.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub offset: u64,
}

impl Feature {
    /// A feature with a name, a value as text and a type out of [`feature_type`]; nothing else set.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
        kind: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { name: name.into(), value: value.into(), kind: kind.into(), ..Self::default() }
    }

    /// The same with a label.
    pub fn labelled(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }
}

/// Content held by the dispatcher.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Datastream {
    /// Version of the dispatcher's file identification.
    #[serde(skip_serializing_if = "is_unset")]
    pub identify_version: i64,
    /// `content`, `pcap`, ….
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Bytes.
    #[serde(skip_serializing_if = "is_unset")]
    pub size: u64,
    /// Lower-case hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha512: String,
    /// Lower-case hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// Lower-case hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha1: String,
    /// Lower-case hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub md5: String,
    /// Fuzzy hash.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssdeep: String,
    /// Fuzzy hash.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tlsh: String,
    /// Media type.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mime: String,
    /// What `file` says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub magic: String,
    /// Model version 5 only; must be empty in version 6.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file_format_legacy: String,
    /// Azul's file format.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file_format: String,
    /// Without the dot.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file_extension: String,
    /// Language of the content, where known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub language: String,
}

/// The binary that a [`BinaryEvent`] is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BinaryEntity {
    /// Lower-case hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// Lower-case hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha512: String,
    /// Lower-case hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha1: String,
    /// Lower-case hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub md5: String,
    /// Fuzzy hash.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssdeep: String,
    /// Fuzzy hash.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tlsh: String,
    /// Bytes.
    #[serde(skip_serializing_if = "is_unset")]
    pub size: u64,
    /// Media type.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mime: String,
    /// What `file` says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub magic: String,
    /// Model version 5 only; must be empty in version 6.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file_format_legacy: String,
    /// Azul's file format.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file_format: String,
    /// Without the dot.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file_extension: String,
    /// Free-form facts; an object (`{}` for mapped events). Bytes of JSON text in Avro, none for `None`.
    /// What is no JSON object is read as `None`: Azul does not check it, and one broken event must not
    /// cost those that came with it.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object_or_none")]
    pub info: Option<JsonObject>,
    /// What is known of the binary.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    /// Its contents at the dispatcher.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datastreams: Vec<Datastream>,
}

/// How the dispatcher should treat an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BinaryFlags {
    /// Work again even if the result is known.
    #[serde(skip_serializing_if = "is_unset")]
    pub bypass_cache: bool,
    /// Ahead of others.
    #[serde(skip_serializing_if = "is_unset")]
    pub expedite: bool,
    /// This is another try.
    #[serde(skip_serializing_if = "is_unset")]
    pub retry: bool,
}

/// Model `binary`: something became known about a binary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinaryEvent {
    /// 5 or 6 when written, 4 to 6 when read.
    pub model_version: i64,
    /// Set by the dispatcher; "" when sent.
    #[serde(default)]
    pub kafka_key: String,
    /// When the event was made: the run's `now`. Not part of the key.
    #[serde(default = "zero_time")]
    pub timestamp: Timestamp,
    /// Who made the event.
    pub author: Author,
    /// Where the binary came from.
    pub source: Source,
    /// The binary.
    pub entity: BinaryEntity,
    /// `sourced`, `extracted`, `augmented`, `mapped` or `enriched`.
    pub action: String,
    /// Set by the dispatcher on events handed out from `active`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dequeued: String,
    /// How often it was handed out before.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub retries: i64,
    /// How the dispatcher should treat it.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub flags: BinaryFlags,
    /// Set by the dispatcher.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub track_source_references: String,
    /// Set by the dispatcher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub track_links: Vec<String>,
    /// Set by the dispatcher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub track_authors: Vec<String>,
}

/// What a [`DownloadEvent`] asks for or reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DownloadEntity {
    /// sha256, lower-case hex.
    pub hash: String,
    /// A link that needs no quota, while it lasts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub direct_url: String,
    /// Until when `direct_url` lasts. Go's zero time is read as `None`, and written for it in Avro.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "time_unless_zero")]
    pub direct_expiry: Option<Timestamp>,
    /// Network captures are wanted too.
    #[serde(skip_serializing_if = "is_unset")]
    pub pcap: bool,
    /// `<rule file>/<rule>`: what the quota is counted by.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub category: String,
    /// Downloads a UTC day in this category.
    #[serde(skip_serializing_if = "is_unset")]
    pub category_quota: i64,
    /// Free-form facts. Read and written like [`BinaryEntity::info`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object_or_none")]
    pub metadata: Option<JsonObject>,
}

/// Model `download`: a sample is asked for, or what became of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadEvent {
    /// 5 or 6 when written.
    pub model_version: i64,
    /// Set by the dispatcher; "" when sent.
    #[serde(default)]
    pub kafka_key: String,
    /// When the event was made.
    #[serde(default = "zero_time")]
    pub timestamp: Timestamp,
    /// Who made the event.
    pub author: Author,
    /// Where the binary came from.
    pub source: Source,
    /// `requested`, `success`, `failed`; from version 6 `failed-not-found`, `skipped-already-present`.
    pub action: String,
    /// The sample.
    pub entity: DownloadEntity,
}

/// What became of the work on an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusEntity {
    /// The event worked on, whole, with its `dequeued` and `kafka_key`.
    pub input: BinaryEvent,
    /// One of [`status`].
    pub status: String,
    /// Seconds.
    pub runtime: f64,
    /// Title of an error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Detail of an error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Events that the dispatcher publishes with a `completed` status.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<BinaryEvent>,
}

/// Model `status`: one for each event taken from the dispatcher as a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusEvent {
    /// 5 or 6 when written.
    pub model_version: i64,
    /// Set by the dispatcher; "" when sent.
    #[serde(default)]
    pub kafka_key: String,
    /// When the event was made.
    #[serde(default = "zero_time")]
    pub timestamp: Timestamp,
    /// Who made the event.
    pub author: Author,
    /// The outcome.
    pub entity: StatusEntity,
}

/// A feature that a plugin may emit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureDescriptor {
    /// Feature name.
    pub name: String,
    /// One of integer, float, string, binary, datetime, filepath, uri.
    #[serde(rename = "type")]
    pub kind: String,
    /// One sentence for analysts; never empty.
    pub desc: String,
    /// Always empty, so always absent in JSON: Azul's readers of today know no such field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginEntity {
    /// Plugin name.
    pub name: String,
    /// Plugin version.
    pub version: String,
    /// `plugin` or `loader`.
    pub category: String,
    /// Whom to ask about it.
    pub contact: String,
    /// What it does.
    pub description: String,
    /// Everything it may ever emit.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub features: Vec<FeatureDescriptor>,
    /// Security marking, mostly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub security: String,
    /// Settings worth showing; never secrets.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub config: StringMap,
}

/// Model `plugin`: a plugin registers itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginEvent {
    /// 5 or 6 when written.
    pub model_version: i64,
    /// Set by the dispatcher; "" when sent.
    #[serde(default)]
    pub kafka_key: String,
    /// When the event was made.
    #[serde(default = "zero_time")]
    pub timestamp: Timestamp,
    /// Who made the event.
    pub author: Author,
    /// The plugin.
    pub entity: PluginEntity,
}

/// Whether a field is as good as absent.
fn is_unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn zero_time() -> Timestamp {
    ZERO_TIME
}

/// Go writes `null` for a list that was never set.
fn null_as_empty<'de, D, T>(input: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

fn object_or_none<'de, D: Deserializer<'de>>(input: D) -> Result<Option<JsonObject>, D::Error> {
    Ok(match serde_json::Value::deserialize(input)? {
        serde_json::Value::Object(object) => Some(object),
        _ => None,
    })
}

fn time_unless_zero<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(Option::<Timestamp>::deserialize(input)?.filter(|time| *time != ZERO_TIME))
}
