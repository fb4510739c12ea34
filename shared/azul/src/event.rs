//! Azul's event models, as the dispatcher takes and gives them in JSON.
//!
//! The fields are in the order of Avro, on which [`super::avro`] relies. The source is azul-bedrock, model versions 5
//! (Azul 8 and 9) and 6 (Azul 10 and later). Azul's strict readers expect optional fields to be absent and never null,
//! so every optional field is left out when it is empty.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// A map of strings, sorted, so that equal events have equal bytes.
pub type StringMap = BTreeMap<String, String>;

/// A JSON object that Azul carries without reading it.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// Time that is written in Avro for a missing time: year 1 in UTC, which is Go's zero time. The Unix epoch would count
/// as a real time, such as a link that expired in 1970.
pub const ZERO_TIME: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// Values of [`BinaryEvent::action`] and [`PathNode::action`].
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

/// Values of [`DownloadEvent::action`].
pub mod download_action {
    /// A download of the sample is requested.
    pub const REQUESTED: &str = "requested";
    /// The sample was downloaded.
    pub const SUCCESS: &str = "success";
    /// The sample could not be downloaded.
    pub const FAILED: &str = "failed";
    /// VirusTotal does not have the sample. Known from model version 6 on.
    pub const FAILED_NOT_FOUND: &str = "failed-not-found";
    /// Azul already has the sample. Known from model version 6 on.
    pub const SKIPPED_ALREADY_PRESENT: &str = "skipped-already-present";
}

/// Values of [`StatusEntity::status`].
pub mod status {
    /// The work is done, and its results are in the status event.
    pub const COMPLETED: &str = "completed";
    /// There was nothing to do.
    pub const OPT_OUT: &str = "opt-out";
    /// A service that was asked did not answer.
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
    /// A time as in RFC 3339.
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
    /// Returns the number that is written as `model_version`.
    pub fn number(self) -> i64 {
        match self {
            Self::V5 => 5,
            Self::V6 => 6,
        }
    }

    /// Returns the version with this number; `None` if events cannot be written in it.
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

/// The author of an event or of a step in a path.
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
    /// Returns an author for events of this program, with the version of this program.
    pub fn new(name: &str, category: &str) -> Self {
        Self {
            name: name.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            category: category.into(),
            security: String::new(),
        }
    }
}

/// One step on the way by which a binary became known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathNode {
    /// Author of the step.
    pub author: Author,
    /// Action of the step, one of [`binary_action`].
    pub action: String,
    /// SHA-256 of the binary, in lower-case hexadecimal digits.
    pub sha256: String,
    /// Relationship of this binary to the one of the node before.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub relationship: StringMap,
    /// Time of the step.
    #[serde(default = "zero_time")]
    pub timestamp: Timestamp,
    /// Model version 5 only; must be empty in version 6.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file_format_legacy: String,
    /// Azul's file format, for example `document/pdf`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file_format: String,
    /// Size of the binary, in bytes.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub size: u64,
    /// Name of the file, where known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filename: String,
    /// Language of the content, where known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub language: String,
}

/// The origin of a binary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Name of the source, as in Azul's configuration.
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
    /// Type of the value, one of [`feature_type`].
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// Context of the value, where the feature's name alone is not clear.
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
    /// Returns a feature with a name, a value as text and a type from [`feature_type`]. The other fields are unset.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
        kind: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { name: name.into(), value: value.into(), kind: kind.into(), ..Self::default() }
    }

    /// Returns the feature with this label.
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
    /// Label of the content, such as `content` or `pcap`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Size in bytes.
    #[serde(skip_serializing_if = "is_unset")]
    pub size: u64,
    /// SHA-512 in lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha512: String,
    /// SHA-256 in lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// SHA-1 in lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha1: String,
    /// MD5 in lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub md5: String,
    /// Fuzzy hash by ssdeep.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssdeep: String,
    /// Fuzzy hash by TLSH.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tlsh: String,
    /// Media type.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mime: String,
    /// Description of the content by the program `file`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub magic: String,
    /// Model version 5 only; must be empty in version 6.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file_format_legacy: String,
    /// Azul's file format.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file_format: String,
    /// File extension without the dot.
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
    /// SHA-256 in lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// SHA-512 in lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha512: String,
    /// SHA-1 in lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha1: String,
    /// MD5 in lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub md5: String,
    /// Fuzzy hash by ssdeep.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssdeep: String,
    /// Fuzzy hash by TLSH.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tlsh: String,
    /// Size in bytes.
    #[serde(skip_serializing_if = "is_unset")]
    pub size: u64,
    /// Media type.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mime: String,
    /// Description of the content by the program `file`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub magic: String,
    /// Model version 5 only; must be empty in version 6.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file_format_legacy: String,
    /// Azul's file format.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file_format: String,
    /// File extension without the dot.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file_extension: String,
    /// Additional facts as a JSON object, `{}` for mapped events. In Avro it is the JSON text in bytes, empty for
    /// `None`. A text that is not a JSON object is read as `None`: Azul does not check it, and one broken event must
    /// not cost the others of its message.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object_or_none")]
    pub info: Option<JsonObject>,
    /// Facts about the binary.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    /// Contents of the binary that the dispatcher holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datastreams: Vec<Datastream>,
}

/// Flags that tell the dispatcher how to treat an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BinaryFlags {
    /// The work is done again even if its result is known.
    #[serde(skip_serializing_if = "is_unset")]
    pub bypass_cache: bool,
    /// The event is handled ahead of others.
    #[serde(skip_serializing_if = "is_unset")]
    pub expedite: bool,
    /// The event is another try.
    #[serde(skip_serializing_if = "is_unset")]
    pub retry: bool,
}

/// Model `binary`: a fact about a binary became known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinaryEvent {
    /// 5 or 6 when written, 4 to 6 when read.
    pub model_version: i64,
    /// Set by the dispatcher; "" when sent.
    #[serde(default)]
    pub kafka_key: String,
    /// Time at which the event was made: the run's `now`. Not part of the dispatcher's key.
    #[serde(default = "zero_time")]
    pub timestamp: Timestamp,
    /// Author of the event.
    pub author: Author,
    /// Origin of the binary.
    pub source: Source,
    /// The binary.
    pub entity: BinaryEntity,
    /// Action of the event, one of [`binary_action`].
    pub action: String,
    /// Set by the dispatcher on events handed out from `active`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dequeued: String,
    /// Number of times that the event was handed out before.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub retries: i64,
    /// Flags for the dispatcher.
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

/// The sample of a [`DownloadEvent`], and how to get it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DownloadEntity {
    /// SHA-256 of the sample, in lower-case hexadecimal digits.
    pub hash: String,
    /// Link to the sample that takes no quota; valid until `direct_expiry`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub direct_url: String,
    /// Time until which `direct_url` is valid. Go's zero time is read as `None`, and `None` is written as the zero time
    /// in Avro.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "time_unless_zero")]
    pub direct_expiry: Option<Timestamp>,
    /// Network captures are wanted too.
    #[serde(skip_serializing_if = "is_unset")]
    pub pcap: bool,
    /// Category by which the quota is counted: `<rule file>/<rule>`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub category: String,
    /// Most downloads in this category in a UTC day.
    #[serde(skip_serializing_if = "is_unset")]
    pub category_quota: i64,
    /// Free-form facts. Read and written like [`BinaryEntity::info`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object_or_none")]
    pub metadata: Option<JsonObject>,
}

/// Model `download`: a request for a sample, or the outcome of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadEvent {
    /// Version of the event model, 5 or 6 when written.
    pub model_version: i64,
    /// Set by the dispatcher; "" when sent.
    #[serde(default)]
    pub kafka_key: String,
    /// Time at which the event was made.
    #[serde(default = "zero_time")]
    pub timestamp: Timestamp,
    /// Author of the event.
    pub author: Author,
    /// Origin of the binary.
    pub source: Source,
    /// Action of the event, one of [`download_action`].
    pub action: String,
    /// The sample.
    pub entity: DownloadEntity,
}

/// The outcome of the work on an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusEntity {
    /// The whole event that was worked on, with its `dequeued` and `kafka_key`.
    pub input: BinaryEvent,
    /// Outcome of the work, one of [`status`].
    pub status: String,
    /// Duration of the work, in seconds.
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

/// Model `status`: the answer to an event that was taken from the dispatcher as a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusEvent {
    /// Version of the event model, 5 or 6 when written.
    pub model_version: i64,
    /// Set by the dispatcher; "" when sent.
    #[serde(default)]
    pub kafka_key: String,
    /// Time at which the event was made.
    #[serde(default = "zero_time")]
    pub timestamp: Timestamp,
    /// Author of the event.
    pub author: Author,
    /// The outcome.
    pub entity: StatusEntity,
}

/// A feature that a plugin may emit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureDescriptor {
    /// Feature name.
    pub name: String,
    /// Type of the feature, one of [`feature_type`].
    #[serde(rename = "type")]
    pub kind: String,
    /// One sentence for analysts; never empty.
    pub desc: String,
    /// Tags of the feature. Always empty and therefore absent in JSON, because Azul's current readers do not know the
    /// field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// Facts that a plugin registers about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginEntity {
    /// Plugin name.
    pub name: String,
    /// Plugin version.
    pub version: String,
    /// `plugin` or `loader`.
    pub category: String,
    /// Contact for questions about the plugin.
    pub contact: String,
    /// Description of the plugin.
    pub description: String,
    /// All features that the plugin may emit.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub features: Vec<FeatureDescriptor>,
    /// Security marking, mostly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub security: String,
    /// Settings to show; never secrets.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub config: StringMap,
}

/// Model `plugin`: a plugin registers itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginEvent {
    /// Version of the event model, 5 or 6 when written.
    pub model_version: i64,
    /// Set by the dispatcher; "" when sent.
    #[serde(default)]
    pub kafka_key: String,
    /// Time at which the event was made.
    #[serde(default = "zero_time")]
    pub timestamp: Timestamp,
    /// Author of the event.
    pub author: Author,
    /// The plugin.
    pub entity: PluginEntity,
}

/// Whether a field has its default value and is left out.
fn is_unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn zero_time() -> Timestamp {
    ZERO_TIME
}

/// Reads a list. `null` counts as empty, because Go writes it for a list that was never set.
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
