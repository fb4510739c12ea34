//! Maps the parts of an event beside its features: the facts about the file, its type and its source.

use std::borrow::Cow;

use super::{record::FileObject, shapes::Sink};
use azul::{
    event::{BinaryEntity, StringMap},
    limits::{MAX_TEXT_BYTES, is_ssdeep, is_tlsh, start_of},
};
use json::Value;

/// The two names that VirusTotal has for a file's type. The Go plugin prefers one for the path node and the other for
/// the entity. Azul merges by these values, so the preferences stay.
pub(super) struct FileTypes<'a> {
    type_tag: Cow<'a, str>,
    magika: Cow<'a, str>,
}

impl<'a> FileTypes<'a> {
    pub(super) fn of(file: FileObject<'a>) -> Self {
        let text = |key| file.attribute(key).and_then(Value::text).unwrap_or_default();
        Self { type_tag: text("type_tag"), magika: text("magika") }
    }

    /// Returns the type for the path node: `type_tag`, or `magika` if that is missing.
    pub(super) fn by_tag(&self) -> &str {
        if self.type_tag.is_empty() { &self.magika } else { &self.type_tag }
    }

    /// Returns the type for the entity: `magika`, or `type_tag` if that is missing.
    pub(super) fn by_magika(&self) -> &str {
        if self.magika.is_empty() { &self.type_tag } else { &self.magika }
    }
}

/// Returns the entity without its identity, type and features.
pub(super) fn describe(file: FileObject<'_>, sink: &mut Sink) -> BinaryEntity {
    let size = file.size().unwrap_or_else(|_| {
        sink.bad();
        None
    });
    let ssdeep = fuzzy_hash(file.attribute("ssdeep"), is_ssdeep, sink);
    let tlsh = fuzzy_hash(file.attribute("tlsh"), is_tlsh, sink);
    let mut text = |value: Option<Value<'_>>| own_text(value, MAX_TEXT_BYTES, sink);
    let lower_case = |mut hash: String| {
        hash.make_ascii_lowercase();
        hash
    };
    BinaryEntity {
        sha1: lower_case(text(file.attribute("sha1"))),
        md5: lower_case(text(file.attribute("md5"))),
        ssdeep,
        tlsh,
        size: size.unwrap_or(0),
        mime: text(file.attribute("exiftool").and_then(|exiftool| exiftool.get("MIMEType"))),
        magic: text(file.attribute("magic")),
        file_extension: text(file.attribute("type_extension")),
        ..BinaryEntity::default()
    }
}

/// Returns the facts that VirusTotal gives about the submitter of the file. It writes `?` and `XX` for "unknown".
pub(super) fn references(file: FileObject<'_>, sink: &mut Sink) -> StringMap {
    let submitter = file.get("context_attributes").and_then(|context| context.get("submitter"));
    let mut references = StringMap::new();
    for (name, key, unknown) in [
        ("submitter_id", "id", ""),
        ("submitter_region", "region", "?"),
        ("submitter_city", "city", "?"),
        ("submitter_country", "country", "XX"),
        ("interface", "interface", ""),
    ] {
        // Azul indexes `name.text` as one term, so the length of the name counts.
        let most = MAX_TEXT_BYTES - name.len() - 1;
        let text = own_text(submitter.and_then(|submitter| submitter.get(key)), most, sink);
        if !text.is_empty() && text != unknown {
            references.insert(name.into(), text);
        }
    }
    references
}

/// Reads a hash whose form Azul checks. A bad hash is left out, because Azul would drop the whole event. VirusTotal
/// writes `NULL` and `TNULL` if there is none.
fn fuzzy_hash(value: Option<Value<'_>>, is_good: fn(&str) -> bool, sink: &mut Sink) -> String {
    let hash = own_text(value, MAX_TEXT_BYTES, sink);
    if is_good(&hash) {
        return hash;
    }
    if !matches!(hash.as_str(), "" | "NULL" | "TNULL") {
        sink.bad();
    }
    String::new()
}

/// Returns the text of a string, at most `max_bytes` bytes of it. A text that is cut, and any other value but null,
/// counts as a bad value.
fn own_text(value: Option<Value<'_>>, max_bytes: usize, sink: &mut Sink) -> String {
    match value.map(|value| (value, value.text())) {
        Some((_, Some(text))) if text.len() > max_bytes => {
            sink.bad();
            start_of(&text, max_bytes).to_owned()
        }
        Some((_, Some(text))) => text.into_owned(),
        Some((value, None)) if !value.is_null() => {
            sink.bad();
            String::new()
        }
        _ => String::new(),
    }
}
