//! Events in their JSON spelling → Avro of model version 6, as the dispatcher itself writes it:
//! for the size limit, and for what it hands out to pollers.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    decode::ZERO_TIME_MICROS,
    schema::{Kind, Model, Need, Record},
};

/// Items in one block; the dispatcher's encoder writes each block with its size in bytes.
const BLOCK: usize = 100;

/// The version that the dispatcher stores and hands out.
const CURRENT: i64 = 6;

/// One event, without any framing.
pub(super) fn event(model: Model, event: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    record(model.record(), event, &mut out);
    out
}

/// A bulk message: the version, then the events.
pub(super) fn bulk(model: Model, events: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    long(CURRENT, &mut out);
    blocks(events.iter(), &mut out, |item, out| record(model.record(), item, out));
    out
}

fn record(record: &Record, value: &Value, out: &mut Vec<u8>) {
    for field in record.fields.iter().filter(|f| f.need != Need::OnlyV5) {
        encode(&field.kind, value.get(field.name).unwrap_or(&Value::Null), out);
    }
}

fn encode(kind: &Kind, value: &Value, out: &mut Vec<u8>) {
    match kind {
        Kind::Text => bytes(value.as_str().unwrap_or_default().as_bytes(), out),
        Kind::Long => long(value.as_i64().unwrap_or_default(), out),
        Kind::Double => {
            out.extend(value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Kind::Bool => out.push(u8::from(value.as_bool().unwrap_or_default())),
        Kind::U64 => out.extend(value.as_u64().unwrap_or_default().to_be_bytes()),
        Kind::Time => {
            let parsed = value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
            long(parsed.map_or(ZERO_TIME_MICROS, Timestamp::as_microsecond), out);
        }
        Kind::Json if value.is_null() => bytes(b"", out),
        Kind::Json => bytes(value.to_string().as_bytes(), out),
        Kind::TextMap => {
            let entries = value.as_object();
            blocks(entries.into_iter().flatten(), out, |(key, value), out| {
                bytes(key.as_bytes(), out);
                encode(&Kind::Text, value, out);
            });
        }
        Kind::Texts => blocks(items(value), out, |item, out| encode(&Kind::Text, item, out)),
        Kind::One(inner) => record(inner, value, out),
        Kind::Many(inner) => blocks(items(value), out, |item, out| record(inner, item, out)),
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Blocks with a negative count and their size in bytes, then the closing zero.
fn blocks<T>(
    mut items: impl Iterator<Item = T>,
    out: &mut Vec<u8>,
    write: impl Fn(T, &mut Vec<u8>),
) {
    loop {
        let mut block = Vec::new();
        let mut count = 0;
        for item in items.by_ref().take(BLOCK) {
            write(item, &mut block);
            count += 1;
        }
        if count == 0 {
            break;
        }
        long(-count, out);
        long(i64::try_from(block.len()).unwrap_or(i64::MAX), out);
        out.extend(block);
    }
    long(0, out);
}

fn bytes(text: &[u8], out: &mut Vec<u8>) {
    long(i64::try_from(text.len()).unwrap_or(i64::MAX), out);
    out.extend(text);
}

fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}
