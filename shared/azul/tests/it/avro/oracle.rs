//! Another implementation of Avro, with the layouts written down once more as its schema. It also makes the value to
//! expect for an event from the event's JSON.

use apache_avro::{
    Schema, reader::datum::GenericDatumReader, types::Value, writer::datum::GenericDatumWriter,
};
use azul::event::{ModelVersion, ZERO_TIME};
use jiff::Timestamp;
use serde_json::{Value as Json, json};

/// The records of the layout, one on a line, with their fields in order. `5:` marks fields that only version 5 has,
/// `[x]` is an array and `{}` a map of strings.
const LAYOUT: &str = "
Author          name string, version string, category string, security string
PathNode        author Author, action string, sha256 string, relationship {}, timestamp time, 5:file_format_legacy string, file_format string, size u64, filename string, language string
Source          name string, references {}, security string, path [PathNode], timestamp time, settings {}
Feature         name string, value string, type string, label string, size u64, offset u64
Datastream      identify_version long, label string, size u64, sha512 string, sha256 string, sha1 string, md5 string, ssdeep string, tlsh string, mime string, magic string, 5:file_format_legacy string, file_format string, file_extension string, language string
BinaryEntity    sha256 string, sha512 string, sha1 string, md5 string, ssdeep string, tlsh string, size u64, mime string, magic string, 5:file_format_legacy string, file_format string, file_extension string, info bytes, features [Feature], datastreams [Datastream]
Flags           bypass_cache boolean, expedite boolean, retry boolean
BinaryEvent     model_version long, kafka_key string, timestamp time, author Author, source Source, entity BinaryEntity, action string, dequeued string, retries long, flags Flags, track_source_references string, track_links [string], track_authors [string]
DownloadEntity  hash string, direct_url string, direct_expiry time, pcap boolean, category string, category_quota long, metadata bytes
DownloadEvent   model_version long, kafka_key string, timestamp time, author Author, source Source, action string, entity DownloadEntity
StatusEntity    input BinaryEvent, status string, runtime double, error string, message string, results [BinaryEvent]
StatusEvent     model_version long, kafka_key string, timestamp time, author Author, entity StatusEntity
Descriptor      name string, type string, desc string, tags [string]
PluginEntity    name string, version string, category string, contact string, description string, features [Descriptor], security string, config {}
PluginEvent     model_version long, kafka_key string, timestamp time, author Author, entity PluginEntity
Bulk            model_version long, events [EVENT]
";

pub(crate) struct Oracle {
    event: &'static str,
    version: ModelVersion,
    schema: Schema,
}

impl Oracle {
    /// Builds the schema for a record of the layout, such as `BinaryEvent`.
    pub(crate) fn new(event: &'static str, version: ModelVersion) -> Self {
        let mut oracle = Self { event, version, schema: Schema::Null };
        let schema = oracle.schema_of("Bulk", &mut Vec::new());
        oracle.schema = Schema::parse(&schema).unwrap();
        oracle
    }

    /// Reads a bulk message.
    pub(crate) fn read(&self, mut message: &[u8]) -> Value {
        let reader = GenericDatumReader::builder(&self.schema).build().unwrap();
        let value = reader.read_value(&mut message).unwrap();
        assert!(message.is_empty(), "{} bytes left", message.len());
        value
    }

    /// Writes a bulk message.
    pub(crate) fn write(&self, value: Value) -> Vec<u8> {
        let writer = GenericDatumWriter::builder(&self.schema).build().unwrap();
        writer.write_value_to_vec(value).unwrap()
    }

    /// Returns the value to expect for a bulk message of these events.
    pub(crate) fn expected<T: serde::Serialize>(&self, events: &[T]) -> Value {
        let bulk = json!({"model_version": self.version.number(), "events": events});
        self.value("Bulk", Some(&bulk))
    }

    fn fields(&self, record: &str) -> Option<Vec<(&'static str, &'static str)>> {
        let (_, fields) = LAYOUT
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == record)?;
        let fields = fields.split(',').map(|field| field.trim().rsplit_once(' ').unwrap());
        Some(
            fields
                .filter_map(|(name, kind)| match name.strip_prefix("5:") {
                    Some(name) => (self.version == ModelVersion::V5).then_some((name, kind)),
                    None => Some((name, kind)),
                })
                .collect(),
        )
    }

    fn item<'k>(&self, kind: &'k str) -> Option<&'k str> {
        let item = kind.strip_prefix('[')?.strip_suffix(']')?;
        Some(if item == "EVENT" { self.event } else { item })
    }

    /// Returns the schema of a type. A name is defined where it is used first.
    fn schema_of(&self, kind: &str, known: &mut Vec<String>) -> Json {
        if let Some(item) = self.item(kind) {
            return json!({"type": "array", "items": self.schema_of(item, known)});
        }
        match kind {
            "{}" => return json!({"type": "map", "values": "string"}),
            "time" => return json!({"type": "long", "logicalType": "timestamp-micros"}),
            "string" | "long" | "bytes" | "double" | "boolean" => return json!(kind),
            _ if known.iter().any(|name| name == kind) => return json!(kind),
            _ => known.push(kind.into()),
        }
        if kind == "u64" {
            return json!({"type": "fixed", "name": kind, "size": 8});
        }
        let fields: Vec<Json> = (self.fields(kind).unwrap().into_iter())
            .map(|(name, kind)| json!({"name": name, "type": self.schema_of(kind, known)}))
            .collect();
        json!({"type": "record", "name": kind, "fields": fields})
    }

    fn value(&self, kind: &str, json: Option<&Json>) -> Value {
        if let Some(item) = self.item(kind) {
            let items = json.and_then(Json::as_array).into_iter().flatten();
            return Value::Array(items.map(|json| self.value(item, Some(json))).collect());
        }
        match kind {
            "string" => Value::String(json.map_or("", |json| json.as_str().unwrap()).into()),
            "long" => Value::Long(json.map_or(0, |json| json.as_i64().unwrap())),
            "double" => Value::Double(json.map_or(0.0, |json| json.as_f64().unwrap())),
            "boolean" => Value::Boolean(json.is_some_and(|json| json.as_bool().unwrap())),
            "bytes" => Value::Bytes(json.map(|json| json.to_string().into()).unwrap_or_default()),
            "u64" => {
                let value = json.map_or(0, |json| json.as_u64().unwrap());
                Value::Fixed(8, value.to_be_bytes().into())
            }
            "time" => {
                let time: Timestamp =
                    json.map_or(ZERO_TIME, |json| json.as_str().unwrap().parse().unwrap());
                Value::TimestampMicros(time.as_microsecond())
            }
            "{}" => {
                let entries = json.and_then(Json::as_object).into_iter().flatten();
                let entries = entries
                    .map(|(key, json)| (key.clone(), self.value("string", Some(json))))
                    .collect();
                Value::Map(entries)
            }
            record => {
                let fields = self.fields(record).unwrap().into_iter();
                let fields = fields.map(|(name, kind)| {
                    (name.into(), self.value(kind, json.and_then(|json| json.get(name))))
                });
                Value::Record(fields.collect())
            }
        }
    }
}
