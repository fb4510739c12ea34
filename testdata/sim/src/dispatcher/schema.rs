//! The event models as one table, from which the Avro schemas, the JSON checks and the sizes follow.
//!
//! Written from the wire facts, not from the code under test: that is what makes the stand-in an
//! independent check.

use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use apache_avro::Schema;
use serde_json::{Value, json};

/// The event models of the dispatcher that this project uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Model {
    /// Something became known about a binary.
    Binary,
    /// A sample is asked for, or what became of the request.
    Download,
    /// The work on an event has a result.
    Status,
    /// A plugin registers itself.
    Plugin,
}

impl Model {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Binary, Self::Download, Self::Status, Self::Plugin];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Download => "download",
            Self::Status => "status",
            Self::Plugin => "plugin",
        }
    }

    /// The model with that name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }

    pub(super) fn record(self) -> &'static Record {
        match self {
            Self::Binary => &BINARY_EVENT,
            Self::Download => &DOWNLOAD_EVENT,
            Self::Status => &STATUS_EVENT,
            Self::Plugin => &PLUGIN_EVENT,
        }
    }

    /// The schema of a bulk message, for model version 5 or 6.
    pub(super) fn bulk_schema(self, version: i64) -> Result<&'static Schema> {
        static SCHEMAS: OnceLock<Vec<(Model, i64, Schema)>> = OnceLock::new();
        let schemas = if let Some(known) = SCHEMAS.get() {
            known
        } else {
            let mut made = Vec::new();
            for model in Self::ALL {
                for version in [5, 6] {
                    let text = bulk_schema_json(model, version);
                    let schema = Schema::parse(&text)
                        .with_context(|| format!("schema of {} {version}", model.name()))?;
                    made.push((model, version, schema));
                }
            }
            SCHEMAS.get_or_init(|| made)
        };
        schemas
            .iter()
            .find(|(model, v, _)| *model == self && *v == version)
            .map(|(_, _, schema)| schema)
            .ok_or_else(|| anyhow!("model version {version} is not known, 5 and 6 are"))
    }
}

pub(super) enum Kind {
    Text,
    Long,
    Double,
    Bool,
    /// Avro `fixed` of 8 bytes: a big-endian unsigned integer.
    U64,
    /// Microseconds since 1970; RFC 3339 in JSON.
    Time,
    /// JSON text as Avro bytes.
    Json,
    TextMap,
    Texts,
    One(&'static Record),
    Many(&'static Record),
}

pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) need: Need,
}

#[derive(PartialEq, Eq)]
pub(super) enum Need {
    /// Always in the JSON spelling, also when empty.
    Always,
    /// Left out of the JSON spelling when empty.
    Optional,
    /// Field that is left out when it is empty, as with `Optional`, and that only model version 5 has.
    OnlyV5,
}

pub(super) struct Record {
    pub(super) name: &'static str,
    pub(super) fields: &'static [Field],
}

const fn always(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, need: Need::Always }
}

const fn maybe(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, need: Need::Optional }
}

const fn only_v5(name: &'static str) -> Field {
    Field { name, kind: Kind::Text, need: Need::OnlyV5 }
}

static AUTHOR: Record = Record {
    name: "EventAuthor",
    fields: &[
        always("name", Kind::Text),
        maybe("version", Kind::Text),
        maybe("category", Kind::Text),
        maybe("security", Kind::Text),
    ],
};

static PATH_NODE: Record = Record {
    name: "PathNode",
    fields: &[
        always("author", Kind::One(&AUTHOR)),
        always("action", Kind::Text),
        always("sha256", Kind::Text),
        maybe("relationship", Kind::TextMap),
        always("timestamp", Kind::Time),
        only_v5("file_format_legacy"),
        maybe("file_format", Kind::Text),
        maybe("size", Kind::U64),
        maybe("filename", Kind::Text),
        maybe("language", Kind::Text),
    ],
};

static SOURCE: Record = Record {
    name: "EventSource",
    fields: &[
        always("name", Kind::Text),
        maybe("references", Kind::TextMap),
        maybe("security", Kind::Text),
        always("path", Kind::Many(&PATH_NODE)),
        always("timestamp", Kind::Time),
        maybe("settings", Kind::TextMap),
    ],
};

static FEATURE: Record = Record {
    name: "Feature",
    fields: &[
        always("name", Kind::Text),
        always("value", Kind::Text),
        always("type", Kind::Text),
        maybe("label", Kind::Text),
        maybe("size", Kind::U64),
        maybe("offset", Kind::U64),
    ],
};

static DATASTREAM: Record = Record {
    name: "Datastream",
    fields: &[
        maybe("identify_version", Kind::Long),
        maybe("label", Kind::Text),
        maybe("size", Kind::U64),
        maybe("sha512", Kind::Text),
        maybe("sha256", Kind::Text),
        maybe("sha1", Kind::Text),
        maybe("md5", Kind::Text),
        maybe("ssdeep", Kind::Text),
        maybe("tlsh", Kind::Text),
        maybe("mime", Kind::Text),
        maybe("magic", Kind::Text),
        only_v5("file_format_legacy"),
        maybe("file_format", Kind::Text),
        maybe("file_extension", Kind::Text),
        maybe("language", Kind::Text),
    ],
};

static BINARY_ENTITY: Record = Record {
    name: "BinaryEntity",
    fields: &[
        maybe("sha256", Kind::Text),
        maybe("sha512", Kind::Text),
        maybe("sha1", Kind::Text),
        maybe("md5", Kind::Text),
        maybe("ssdeep", Kind::Text),
        maybe("tlsh", Kind::Text),
        maybe("size", Kind::U64),
        maybe("mime", Kind::Text),
        maybe("magic", Kind::Text),
        only_v5("file_format_legacy"),
        maybe("file_format", Kind::Text),
        maybe("file_extension", Kind::Text),
        maybe("info", Kind::Json),
        maybe("features", Kind::Many(&FEATURE)),
        maybe("datastreams", Kind::Many(&DATASTREAM)),
    ],
};

static FLAGS: Record = Record {
    name: "BinaryFlags",
    fields: &[
        maybe("bypass_cache", Kind::Bool),
        maybe("expedite", Kind::Bool),
        maybe("retry", Kind::Bool),
    ],
};

static BINARY_EVENT: Record = Record {
    name: "BinaryEvent",
    fields: &[
        always("model_version", Kind::Long),
        always("kafka_key", Kind::Text),
        always("timestamp", Kind::Time),
        always("author", Kind::One(&AUTHOR)),
        always("source", Kind::One(&SOURCE)),
        always("entity", Kind::One(&BINARY_ENTITY)),
        always("action", Kind::Text),
        maybe("dequeued", Kind::Text),
        maybe("retries", Kind::Long),
        maybe("flags", Kind::One(&FLAGS)),
        maybe("track_source_references", Kind::Text),
        maybe("track_links", Kind::Texts),
        maybe("track_authors", Kind::Texts),
    ],
};

static DOWNLOAD_ENTITY: Record = Record {
    name: "DownloadEntity",
    fields: &[
        always("hash", Kind::Text),
        maybe("direct_url", Kind::Text),
        maybe("direct_expiry", Kind::Time),
        maybe("pcap", Kind::Bool),
        maybe("category", Kind::Text),
        maybe("category_quota", Kind::Long),
        maybe("metadata", Kind::Json),
    ],
};

static DOWNLOAD_EVENT: Record = Record {
    name: "DownloadEvent",
    fields: &[
        always("model_version", Kind::Long),
        always("kafka_key", Kind::Text),
        always("timestamp", Kind::Time),
        always("author", Kind::One(&AUTHOR)),
        always("source", Kind::One(&SOURCE)),
        always("action", Kind::Text),
        always("entity", Kind::One(&DOWNLOAD_ENTITY)),
    ],
};

static STATUS_ENTITY: Record = Record {
    name: "StatusEntity",
    fields: &[
        always("input", Kind::One(&BINARY_EVENT)),
        always("status", Kind::Text),
        always("runtime", Kind::Double),
        maybe("error", Kind::Text),
        maybe("message", Kind::Text),
        maybe("results", Kind::Many(&BINARY_EVENT)),
    ],
};

static STATUS_EVENT: Record = Record {
    name: "StatusEvent",
    fields: &[
        always("model_version", Kind::Long),
        always("kafka_key", Kind::Text),
        always("timestamp", Kind::Time),
        always("author", Kind::One(&AUTHOR)),
        always("entity", Kind::One(&STATUS_ENTITY)),
    ],
};

static DESCRIPTOR: Record = Record {
    name: "PluginFeature",
    fields: &[
        always("name", Kind::Text),
        always("type", Kind::Text),
        maybe("desc", Kind::Text),
        maybe("tags", Kind::Texts),
    ],
};

static PLUGIN_ENTITY: Record = Record {
    name: "PluginEntity",
    fields: &[
        always("name", Kind::Text),
        maybe("version", Kind::Text),
        maybe("category", Kind::Text),
        maybe("contact", Kind::Text),
        maybe("description", Kind::Text),
        maybe("features", Kind::Many(&DESCRIPTOR)),
        maybe("security", Kind::Text),
        maybe("config", Kind::TextMap),
    ],
};

static PLUGIN_EVENT: Record = Record {
    name: "PluginEvent",
    fields: &[
        always("model_version", Kind::Long),
        always("kafka_key", Kind::Text),
        always("timestamp", Kind::Time),
        always("author", Kind::One(&AUTHOR)),
        always("entity", Kind::One(&PLUGIN_ENTITY)),
    ],
};

/// The Avro schema of a bulk message as JSON: `model_version`, then the events.
fn bulk_schema_json(model: Model, version: i64) -> Value {
    let mut named = Vec::new();
    let items = record_schema(model.record(), version, &mut named);
    json!({
        "type": "record",
        "name": "Bulk",
        "fields": [
            {"name": "model_version", "type": "long"},
            {"name": "events", "type": {"type": "array", "items": items}},
        ],
    })
}

/// A record's schema the first time, its name thereafter, as Avro wants named types.
fn record_schema(record: &'static Record, version: i64, named: &mut Vec<&'static str>) -> Value {
    if named.contains(&record.name) {
        return json!(record.name);
    }
    named.push(record.name);
    let mut fields = Vec::new();
    for field in record.fields {
        if field.need == Need::OnlyV5 && version != 5 {
            continue;
        }
        let kind = match &field.kind {
            Kind::Text => json!("string"),
            Kind::Long => json!("long"),
            Kind::Double => json!("double"),
            Kind::Bool => json!("boolean"),
            Kind::U64 if named.contains(&"u64be") => json!("u64be"),
            Kind::U64 => {
                named.push("u64be");
                json!({"type": "fixed", "name": "u64be", "size": 8})
            }
            Kind::Time => json!({"type": "long", "logicalType": "timestamp-micros"}),
            Kind::Json => json!("bytes"),
            Kind::TextMap => json!({"type": "map", "values": "string"}),
            Kind::Texts => json!({"type": "array", "items": "string"}),
            Kind::One(inner) => record_schema(inner, version, named),
            Kind::Many(inner) => {
                json!({"type": "array", "items": record_schema(inner, version, named)})
            }
        };
        fields.push(json!({"name": field.name, "type": kind}));
    }
    json!({"type": "record", "name": record.name, "fields": fields})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_parses_and_only_version_5_knows_the_legacy_format() {
        for model in Model::ALL {
            for version in [5, 6] {
                let schema = model.bulk_schema(version).unwrap().canonical_form();
                let legacy = model != Model::Plugin && version == 5;
                assert_eq!(schema.contains("file_format_legacy"), legacy, "{model:?} {version}");
            }
        }
        assert!(Model::Binary.bulk_schema(7).is_err());
    }
}
