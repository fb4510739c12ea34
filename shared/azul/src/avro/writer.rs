//! Writes events as Avro. They are appended to one buffer, without intermediate values.

use jiff::Timestamp;

use super::BLOCK_ITEMS;
use crate::event::{
    Author, BinaryEntity, BinaryEvent, BinaryFlags, Datastream, DownloadEntity, DownloadEvent,
    Feature, FeatureDescriptor, JsonObject, ModelVersion, PathNode, PluginEntity, PluginEvent,
    Source, StatusEntity, StatusEvent, StringMap, ZERO_TIME,
};

/// Appends one event in the layout of `version`, which is also written as its `model_version`.
pub fn encode_binary(event: &BinaryEvent, version: ModelVersion, out: &mut Vec<u8>) {
    head(version, &event.kafka_key, event.timestamp, &event.author, out);
    source(&event.source, version, out);
    binary_entity(&event.entity, version, out);
    string(&event.action, out);
    string(&event.dequeued, out);
    long(event.retries, out);
    let BinaryFlags { bypass_cache, expedite, retry } = event.flags;
    out.extend([bypass_cache, expedite, retry].map(u8::from));
    string(&event.track_source_references, out);
    blocks(event.track_links.iter(), out, |link, out| string(link, out));
    blocks(event.track_authors.iter(), out, |author, out| string(author, out));
}

/// Appends one event in the layout of `version`, which is also written as its `model_version`.
pub fn encode_download(event: &DownloadEvent, version: ModelVersion, out: &mut Vec<u8>) {
    head(version, &event.kafka_key, event.timestamp, &event.author, out);
    source(&event.source, version, out);
    string(&event.action, out);
    let DownloadEntity {
        hash,
        direct_url,
        direct_expiry,
        pcap,
        category,
        category_quota,
        metadata,
    } = &event.entity;
    string(hash, out);
    string(direct_url, out);
    time(direct_expiry.unwrap_or(ZERO_TIME), out);
    out.push(u8::from(*pcap));
    string(category, out);
    long(*category_quota, out);
    json(metadata.as_ref(), out);
}

/// Appends one event in the layout of `version`, which is also written as the `model_version` of the event and of the
/// events within it.
pub fn encode_status(event: &StatusEvent, version: ModelVersion, out: &mut Vec<u8>) {
    head(version, &event.kafka_key, event.timestamp, &event.author, out);
    let StatusEntity { input, status, runtime, error, message, results } = &event.entity;
    encode_binary(input, version, out);
    string(status, out);
    out.extend(runtime.to_le_bytes());
    string(error, out);
    string(message, out);
    blocks(results.iter(), out, |result, out| encode_binary(result, version, out));
}

/// Appends one event in the layout of `version`, which is also written as its `model_version`.
pub fn encode_plugin(event: &PluginEvent, version: ModelVersion, out: &mut Vec<u8>) {
    head(version, &event.kafka_key, event.timestamp, &event.author, out);
    let entity = &event.entity;
    let PluginEntity { name, version, category, contact, description, features, security, config } =
        entity;
    for text in [name, version, category, contact, description] {
        string(text, out);
    }
    blocks(features.iter(), out, |FeatureDescriptor { name, kind, desc, tags }, out| {
        for text in [name, kind, desc] {
            string(text, out);
        }
        blocks(tags.iter(), out, |tag, out| string(tag, out));
    });
    string(security, out);
    map(config, out);
}

/// Appends the bulk record to post. `events` were encoded by `encode_*` in the same version.
pub fn bulk(version: ModelVersion, events: &[&[u8]], out: &mut Vec<u8>) {
    long(version.number(), out);
    for block in events.chunks(BLOCK_ITEMS) {
        let size = block.iter().map(|event| event.len()).sum();
        out.reserve(size + 2 * MAX_LONG + 1);
        block_header(block.len(), size, out);
        for event in block {
            out.extend_from_slice(event);
        }
    }
    out.push(END_OF_BLOCKS);
}

fn head(version: ModelVersion, key: &str, at: Timestamp, by: &Author, out: &mut Vec<u8>) {
    long(version.number(), out);
    string(key, out);
    time(at, out);
    author(by, out);
}

fn author(Author { name, version, category, security }: &Author, out: &mut Vec<u8>) {
    for text in [name, version, category, security] {
        string(text, out);
    }
}

fn source(from: &Source, version: ModelVersion, out: &mut Vec<u8>) {
    let Source { name, references, security, path, timestamp, settings } = from;
    string(name, out);
    map(references, out);
    string(security, out);
    blocks(path.iter(), out, |node, out| path_node(node, version, out));
    time(*timestamp, out);
    map(settings, out);
}

fn path_node(node: &PathNode, version: ModelVersion, out: &mut Vec<u8>) {
    author(&node.author, out);
    string(&node.action, out);
    string(&node.sha256, out);
    map(&node.relationship, out);
    time(node.timestamp, out);
    if version.has_legacy_format() {
        string(&node.file_format_legacy, out);
    }
    string(&node.file_format, out);
    unsigned(node.size, out);
    string(&node.filename, out);
    string(&node.language, out);
}

fn binary_entity(entity: &BinaryEntity, version: ModelVersion, out: &mut Vec<u8>) {
    let BinaryEntity { sha256, sha512, sha1, md5, ssdeep, tlsh, mime, magic, .. } = entity;
    for text in [sha256, sha512, sha1, md5, ssdeep, tlsh] {
        string(text, out);
    }
    unsigned(entity.size, out);
    string(mime, out);
    string(magic, out);
    if version.has_legacy_format() {
        string(&entity.file_format_legacy, out);
    }
    string(&entity.file_format, out);
    string(&entity.file_extension, out);
    json(entity.info.as_ref(), out);
    blocks(entity.features.iter(), out, feature);
    blocks(entity.datastreams.iter(), out, |stream, out| datastream(stream, version, out));
}

pub(super) fn feature(feature: &Feature, out: &mut Vec<u8>) {
    let Feature { name, value, kind, label, size, offset } = feature;
    string(name, out);
    string(value, out);
    string(kind, out);
    string(label, out);
    unsigned(*size, out);
    unsigned(*offset, out);
}

fn datastream(stream: &Datastream, version: ModelVersion, out: &mut Vec<u8>) {
    let Datastream { sha512, sha256, sha1, md5, ssdeep, tlsh, mime, magic, .. } = stream;
    long(stream.identify_version, out);
    string(&stream.label, out);
    unsigned(stream.size, out);
    for text in [sha512, sha256, sha1, md5, ssdeep, tlsh, mime, magic] {
        string(text, out);
    }
    if version.has_legacy_format() {
        string(&stream.file_format_legacy, out);
    }
    string(&stream.file_format, out);
    string(&stream.file_extension, out);
    string(&stream.language, out);
}

/// Most bytes of a varint.
const MAX_LONG: usize = 10;

const END_OF_BLOCKS: u8 = 0;

/// Appends a zigzag varint: seven bits in each byte, the lowest first.
fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = zigzag(value);
    while rest > 0x7f {
        out.push(low_bits(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low_bits(rest));
}

fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

fn low_bits(value: u64) -> u8 {
    (value & 0x7f) as u8
}

/// Returns the number of bytes that [`long`] appends for `value`.
fn long_len(value: i64) -> usize {
    let bits = u64::BITS - zigzag(value).leading_zeros();
    bits.max(1).div_ceil(7) as usize
}

/// Converts a length in memory, which is below 2⁶³ on every machine.
fn length(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    long(length(value.len()), out);
    out.extend_from_slice(value);
}

fn string(value: &str, out: &mut Vec<u8>) {
    bytes(value.as_bytes(), out);
}

fn unsigned(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a time in whole microseconds. The rest is cut off towards the past, as Go does it.
fn time(value: Timestamp, out: &mut Vec<u8>) {
    let micros = value.as_nanosecond().div_euclid(1_000);
    // Years −9999 to 9999 in microseconds fit.
    long(i64::try_from(micros).unwrap_or_default(), out);
}

/// Appends the bytes of a JSON text. `None` is written as no bytes, as Azul's own Go code does.
fn json(value: Option<&JsonObject>, out: &mut Vec<u8>) {
    match value {
        None => bytes(&[], out),
        Some(object) if object.is_empty() => bytes(b"{}", out),
        // An object of JSON values always has a text.
        Some(object) => bytes(&serde_json::to_vec(object).unwrap_or_default(), out),
    }
}

fn map(entries: &StringMap, out: &mut Vec<u8>) {
    blocks(entries.iter(), out, |(key, value), out| {
        string(key, out);
        string(value, out);
    });
}

/// Appends the blocks of an array or a map. Each block is written first and then moved behind its header, because its
/// size is known only afterwards and a separate pass for counting would take longer.
fn blocks<I: ExactSizeIterator>(
    mut items: I,
    out: &mut Vec<u8>,
    write: impl Fn(I::Item, &mut Vec<u8>),
) {
    while items.len() > 0 {
        let count = items.len().min(BLOCK_ITEMS);
        let start = out.len();
        for item in items.by_ref().take(count) {
            write(item, out);
        }
        let size = out.len() - start;
        block_header(count, size, out);
        let header = out.len() - start - size;
        if let Some(block) = out.get_mut(start..) {
            block.rotate_right(header);
        }
    }
    out.push(END_OF_BLOCKS);
}

/// Appends the header of a block. A negative count says that the size in bytes follows, so that a reader can skip the
/// block.
fn block_header(count: usize, size: usize, out: &mut Vec<u8>) {
    long(-length(count), out);
    long(length(size), out);
}

/// Returns the number of bytes of a block with its header.
pub(super) fn block_len(count: usize, size: usize) -> usize {
    long_len(-length(count)) + long_len(length(size)) + size
}

/// Returns an estimate of an event's size in bytes, so that the buffer rarely grows.
pub(super) fn size_hint(event: &BinaryEvent) -> usize {
    2 * size_of::<BinaryEvent>() + 96 * event.entity.features.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn longs_are_written_as_the_avro_specification_shows() {
        for (value, expected) in [
            (0, vec![0]),
            (-1, vec![1]),
            (1, vec![2]),
            (-2, vec![3]),
            (-64, vec![0x7f]),
            (64, vec![0x80, 0x01]),
            (i64::MAX, vec![0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            (i64::MIN, vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ] {
            let mut out = Vec::new();
            long(value, &mut out);
            assert_eq!(out, expected, "{value}");
        }
    }

    #[test]
    fn a_time_before_1970_is_cut_towards_the_past() {
        let mut ours = Vec::new();
        time(Timestamp::constant(-1, -1), &mut ours);
        let mut expected = Vec::new();
        long(-1_000_001, &mut expected);
        assert_eq!(ours, expected);
    }

    proptest! {
        #[test]
        fn the_length_of_a_long_is_what_it_takes(value: i64) {
            let mut out = Vec::new();
            long(value, &mut out);
            prop_assert_eq!(out.len(), long_len(value));
        }
    }
}
