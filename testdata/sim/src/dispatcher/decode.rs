//! Request bodies → events in their JSON spelling.

use anyhow::{Context, Result, anyhow, bail, ensure};
use apache_avro::{reader::datum::GenericDatumReader, types::Value as Avro};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::schema::{Kind, Model, Need, Record};

/// Go's zero time in microseconds: what Avro holds where a time is missing.
pub(super) const ZERO_TIME_MICROS: i64 = -62_135_596_800_000_000;

/// Go's zero time in JSON.
pub(super) const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// The events of an Avro bulk message.
#[derive(Debug)]
pub(super) struct Bulk {
    pub(super) version: i64,
    pub(super) events: Vec<Value>,
    /// Bytes after the message. The real decoder does not look at them.
    pub(super) trailing: usize,
}

/// Decodes a bulk message, its leading long choosing the schema.
pub(super) fn avro(model: Model, body: &[u8]) -> Result<Bulk> {
    let version = leading_long(&mut { body }).context("no leading model version")?;
    let schema = model.bulk_schema(version)?;
    let reader = GenericDatumReader::builder(schema).build().context("schema")?;
    let mut rest = body;
    let value = reader.read_value(&mut rest).context("not a bulk message of this version")?;
    let Avro::Record(fields) = value else { bail!("not a record") };
    let events = fields
        .into_iter()
        .find_map(|(name, value)| (name == "events").then_some(value))
        .ok_or_else(|| anyhow!("no events"))?;
    let Avro::Array(items) = events else { bail!("events are not an array") };
    let events = items
        .into_iter()
        .map(|item| record_to_json(model.record(), item))
        .collect::<Result<_>>()?;
    Ok(Bulk { version, events, trailing: rest.len() })
}

/// Returns the number of events in the first block of a bulk message. This project sends all events in one block.
pub(super) fn leading_count(mut body: &[u8]) -> usize {
    let [_version, count] = [(); 2].map(|()| leading_long(&mut body).unwrap_or_default());
    // The count is negative if the block's size follows.
    usize::try_from(count.unsigned_abs()).unwrap_or_default()
}

/// Takes one of Avro's zigzag varints.
fn leading_long(body: &mut &[u8]) -> Option<i64> {
    let mut raw: u64 = 0;
    for i in 0..10 {
        let (byte, rest) = body.split_first()?;
        *body = rest;
        raw |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
        }
    }
    None
}

fn record_to_json(record: &Record, value: Avro) -> Result<Value> {
    let Avro::Record(values) = value else { bail!("{} is not a record", record.name) };
    let mut out = Map::new();
    for (name, value) in values {
        let field = record
            .fields
            .iter()
            .find(|f| f.name == name)
            .ok_or_else(|| anyhow!("{}.{name} is unknown", record.name))?;
        let value = to_json(&field.kind, value)
            .with_context(|| format!("{}.{}", record.name, field.name))?;
        if field.need == Need::Always || !is_empty(&field.kind, &value) {
            out.insert(name, value);
        }
    }
    Ok(Value::Object(out))
}

fn to_json(kind: &Kind, value: Avro) -> Result<Value> {
    Ok(match (kind, value) {
        (Kind::Text, Avro::String(s)) => json!(s),
        (Kind::Long, Avro::Long(n)) => json!(n),
        (Kind::Double, Avro::Double(n)) => json!(n),
        (Kind::Bool, Avro::Boolean(b)) => json!(b),
        (Kind::U64, Avro::Fixed(8, bytes)) => {
            let bytes: [u8; 8] = bytes.try_into().map_err(|_| anyhow!("fixed is not 8 bytes"))?;
            json!(u64::from_be_bytes(bytes))
        }
        (Kind::Time, Avro::TimestampMicros(micros)) => {
            json!(Timestamp::from_microsecond(micros).context("a time out of range")?.to_string())
        }
        // Text that is not JSON is kept as text, so that a test can see it. The real dispatcher takes it too.
        (Kind::Json, Avro::Bytes(bytes)) if bytes.is_empty() => Value::Null,
        (Kind::Json, Avro::Bytes(bytes)) => serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))),
        (Kind::TextMap, Avro::Map(entries)) => {
            let mut out = Map::new();
            for (key, value) in entries {
                out.insert(key, to_json(&Kind::Text, value)?);
            }
            Value::Object(out)
        }
        (Kind::Texts, Avro::Array(items)) => {
            Value::Array(items.into_iter().map(|i| to_json(&Kind::Text, i)).collect::<Result<_>>()?)
        }
        (Kind::One(inner), value) => record_to_json(inner, value)?,
        (Kind::Many(inner), Avro::Array(items)) => Value::Array(
            items.into_iter().map(|i| record_to_json(inner, i)).collect::<Result<_>>()?,
        ),
        (_, other) => bail!("unexpected {other:?}"),
    })
}

/// Empty as Go's `omitempty` sees it. An `info` of `{}` came as two bytes and stays.
fn is_empty(kind: &Kind, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() || s == ZERO_TIME,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty() && !matches!(kind, Kind::Json),
    }
}

/// Reason why a JSON body is refused as a whole.
#[derive(Debug)]
pub(super) enum JsonRefusal {
    /// Undecodable: 422.
    Undecodable(String),
    /// A model version from the future: 500.
    Future(String),
}

/// Decodes one event or a list of events.
pub(super) fn json(model: Model, body: &[u8]) -> Result<Vec<Value>, JsonRefusal> {
    let refuse = |e: anyhow::Error| JsonRefusal::Undecodable(format!("{e:#}"));
    let value: Value =
        serde_json::from_slice(body).context("not JSON").map_err(|e| refuse(anyhow!(e)))?;
    let mut events = match value {
        Value::Array(items) => items,
        one @ Value::Object(_) => vec![one],
        _ => return Err(refuse(anyhow!("neither an event nor a list of events"))),
    };
    for event in &mut events {
        match event.get("model_version").and_then(Value::as_i64) {
            Some(6) => {}
            Some(v) if v > 6 => {
                return Err(JsonRefusal::Future(format!("model_version {v} is newer than 6")));
            }
            v => {
                return Err(refuse(anyhow!(
                    "model_version {} is not the current 6",
                    v.map_or_else(|| "(none)".to_owned(), |v| v.to_string())
                )));
            }
        }
        check(model.record(), event).map_err(refuse)?;
    }
    Ok(events)
}

/// Checks the types of what is there, and fills in what must be and is not, as Go's decoder does.
fn check(record: &Record, value: &mut Value) -> Result<()> {
    let Value::Object(object) = value else { bail!("{} is not an object", record.name) };
    for field in record.fields {
        let here = || format!("{}.{}", record.name, field.name);
        match object.get_mut(field.name) {
            None | Some(Value::Null) => {
                if field.need == Need::Always {
                    object.insert(field.name.to_owned(), zero(&field.kind)?);
                }
            }
            Some(value) => check_value(&field.kind, value).with_context(here)?,
        }
    }
    Ok(())
}

fn check_value(kind: &Kind, value: &mut Value) -> Result<()> {
    match (kind, value) {
        (Kind::Time, Value::String(text)) => {
            ensure!(
                text.contains('T') && text.parse::<Timestamp>().is_ok(),
                "not an RFC 3339 time with a zone: {text:?}"
            );
        }
        (Kind::TextMap, Value::Object(map)) => {
            ensure!(map.values().all(Value::is_string), "not texts");
        }
        (Kind::Texts, Value::Array(items)) => {
            ensure!(items.iter().all(Value::is_string), "not texts");
        }
        (Kind::One(inner), value) => check(inner, value)?,
        (Kind::Many(inner), Value::Array(items)) => {
            for item in items {
                check(inner, item)?;
            }
        }
        (kind, value) => {
            let fits = match kind {
                Kind::Text => value.is_string(),
                Kind::Long => value.is_i64(),
                Kind::Double => value.is_number(),
                Kind::Bool => value.is_boolean(),
                Kind::U64 => value.is_u64(),
                Kind::Json => true,
                _ => false,
            };
            ensure!(fits, "unexpected {value}");
        }
    }
    Ok(())
}

fn zero(kind: &Kind) -> Result<Value> {
    Ok(match kind {
        Kind::Text => json!(""),
        Kind::Long | Kind::U64 => json!(0),
        Kind::Double => json!(0.0),
        Kind::Bool => json!(false),
        Kind::Time => json!(ZERO_TIME),
        Kind::Json => Value::Null,
        Kind::TextMap => json!({}),
        Kind::Texts | Kind::Many(_) => json!([]),
        Kind::One(inner) => {
            let mut value = json!({});
            check(inner, &mut value)?;
            value
        }
    })
}
