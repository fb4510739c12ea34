//! A record of the feed, or a file report. It is parsed once, and both mapping and selection read it.

use std::borrow::Cow;

use jiff::Timestamp;

use azul::limits::is_sha256;
use json::{Document, JsonError, Kind, Value};

/// Reasons why a record cannot be read. They are permanent, so another try is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record is not JSON, or it exceeds a limit.
    #[error("the record is not JSON that is taken here: {0}")]
    NotJson(String),
    /// The text is UTF-16, as some editors and shells of Windows write it.
    #[error("the text is UTF-16, not UTF-8: convert it, such as with `iconv -f UTF-16 -t UTF-8`")]
    Utf16,
    /// The record is JSON, but not an object.
    #[error("the record is {0}, not a JSON object")]
    NotAnObject(&'static str),
}

impl From<JsonError> for RecordError {
    fn from(error: JsonError) -> Self {
        Self::NotJson(error.to_string())
    }
}

/// A parsed record. Its text is valid UTF-8.
#[derive(Clone, Debug)]
pub struct Record {
    document: Document,
    invalid_bytes: u64,
}

impl Record {
    /// Reads one JSON object. Each invalid UTF-8 sequence becomes U+FFFD, as do lone surrogates.
    ///
    /// # Errors
    /// [`RecordError`] if `bytes` are not one JSON object or exceed a limit of [`Document::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let (text, invalid_bytes) = if let Ok(text) = str::from_utf8(bytes) {
            (text.to_owned(), 0)
        } else {
            let invalid = bytes.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty());
            (String::from_utf8_lossy(bytes).into_owned(), invalid.count() as u64)
        };
        let document = Document::parse(text)
            .map_err(|error| if is_utf16(bytes) { RecordError::Utf16 } else { error.into() })?;
        let what = match document.root().kind() {
            Kind::Object => return Ok(Self { document, invalid_bytes }),
            Kind::List => "a list",
            Kind::Text | Kind::EscapedText => "a string",
            Kind::Number => "a number",
            Kind::True | Kind::False => "a boolean",
            Kind::Null => "null",
        };
        Err(RecordError::NotAnObject(what))
    }

    /// Returns the JSON text of the record, with invalid UTF-8 replaced. The rules look at this text.
    pub fn text(&self) -> &str {
        self.document.text()
    }

    /// Returns the record as a JSON value.
    pub fn root(&self) -> Value<'_> {
        self.document.root()
    }

    /// Returns the record as it was read.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Returns the number of invalid byte sequences and lone surrogates that became U+FFFD.
    pub fn replaced(&self) -> u64 {
        self.invalid_bytes + self.document.lone_surrogates()
    }

    /// Returns the SHA-256 of the file: `attributes.sha256`, else `id`; 64 hexadecimal digits, in lower case.
    pub fn sha256(&self) -> Option<Cow<'_, str>> {
        self.feed_object().sha256()
    }

    /// Returns `attributes.size`, in bytes; `None` if it is missing or not a whole number.
    pub fn size(&self) -> Option<u64> {
        self.feed_object().size().ok().flatten()
    }

    /// Returns `attributes.last_analysis_date`; `None` if it is missing or not a time.
    pub fn last_analysis_date(&self) -> Option<Timestamp> {
        self.feed_object().last_analysis_date().ok().flatten()
    }

    /// Returns `context_attributes.download_url`, a link to the content of the file that is valid for a while.
    pub fn download_url(&self) -> Option<Cow<'_, str>> {
        let url = self.document.root().at(&["context_attributes", "download_url"])?.text()?;
        (!url.is_empty()).then_some(url)
    }

    /// Returns the file object of a feed record, which is the record itself.
    pub(super) fn feed_object(&self) -> FileObject<'_> {
        FileObject(self.document.root())
    }

    /// Returns the file object of a report: `data` if the report has VirusTotal's envelope, or else the report itself.
    pub(super) fn report_object(&self) -> FileObject<'_> {
        let root = self.document.root();
        FileObject(root.get("data").filter(|data| data.kind() == Kind::Object).unwrap_or(root))
    }
}

/// Error for a value of the wrong kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadValue;

/// VirusTotal's file object: `id`, `attributes`, and in the feed `context_attributes`.
#[derive(Clone, Copy)]
pub(super) struct FileObject<'a>(Value<'a>);

impl<'a> FileObject<'a> {
    /// Returns a member of the object. A null counts as missing.
    pub(super) fn get(self, key: &str) -> Option<Value<'a>> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn attribute(self, key: &str) -> Option<Value<'a>> {
        self.0.at(&["attributes", key]).filter(|value| !value.is_null())
    }

    /// Returns the SHA-256 in lower case, because Azul compares hashes as texts.
    pub(super) fn sha256(self) -> Option<Cow<'a, str>> {
        let hash = |value: Option<Value<'a>>| value?.text().filter(|text| is_sha256(text));
        let mut hash = hash(self.attribute("sha256")).or_else(|| hash(self.get("id")))?;
        if hash.bytes().any(|b| b.is_ascii_uppercase()) {
            hash.to_mut().make_ascii_lowercase();
        }
        Some(hash)
    }

    /// Returns why the object is not a file, by its `type`; `None` if it may be one. The hash is not looked at.
    pub(super) fn not_a_file_reason(self) -> Option<String> {
        let kind = self.get("type")?;
        (kind.text().as_deref() != Some("file"))
            .then(|| format!("it is an object of type {}, not a file", shown(kind)))
    }

    /// Says why the object has no [`FileObject::sha256`].
    pub(super) fn missing_sha256_reason(self) -> String {
        let names = [("attributes.sha256", self.attribute("sha256")), ("id", self.get("id"))];
        let is_text = |value: &Value<'_>| value.text().is_some_and(|text| !text.is_empty());
        match names.into_iter().find_map(|(name, value)| Some((name, value.filter(is_text)?))) {
            Some((name, value)) => {
                let shown = shown(value);
                format!("its {name} is {shown}, not a SHA-256 of 64 hexadecimal digits")
            }
            None => "neither attributes.sha256 nor id is a text that names the file".into(),
        }
    }

    pub(super) fn size(self) -> Result<Option<u64>, BadValue> {
        let Some(size) = self.attribute("size") else { return Ok(None) };
        match size.kind() {
            Kind::Number => size.raw().parse().map(Some).map_err(|_| BadValue),
            _ => Err(BadValue),
        }
    }

    /// Returns the time of the last analysis, in whole seconds. A time outside the years 1 to 9999 is invalid, because
    /// Azul writes times in RFC 3339. So is the first second of year 1, which Go programs send for "no time".
    pub(super) fn last_analysis_date(self) -> Result<Option<Timestamp>, BadValue> {
        let Some(date) = self.attribute("last_analysis_date") else { return Ok(None) };
        if date.kind() != Kind::Number {
            return Err(BadValue);
        }
        let seconds = date.raw().parse().map_err(|_| BadValue)?;
        super::format::azul_time(seconds).map(Some).ok_or(BadValue)
    }
}

/// Whether a line that is not JSON is part of a text in UTF-16: it begins with a byte order mark, or every other byte
/// of its start is NUL.
fn is_utf16(line: &[u8]) -> bool {
    let is_nul = |at: usize| line.get(at) == Some(&0);
    line.starts_with(b"\xff\xfe")
        || line.starts_with(b"\xfe\xff")
        || (is_nul(0) && is_nul(2) && !is_nul(1))
        || (is_nul(1) && is_nul(3) && !is_nul(0))
}

/// Returns the start of a value on one line, for an error.
fn shown(value: Value<'_>) -> String {
    const MOST: usize = 80;
    let on_line = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut start: String = value.json().chars().take(MOST).map(on_line).collect();
    if value.json().chars().nth(MOST).is_some() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record {
        Record::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_record_is_one_json_object() {
        for (text, what) in [
            ("[]", "a list"),
            ("null", "null"),
            ("\"x\"", "a string"),
            ("1", "a number"),
            ("true", "a boolean"),
        ] {
            assert_eq!(Record::parse(text.as_bytes()).unwrap_err(), RecordError::NotAnObject(what));
        }
        for utf16 in [&b"\xff\xfe{\0}\0\r\0"[..], b"\xfe\xff\0{\0}", b"\0{\0\"\0i\0d", b"{\0}\0"] {
            assert_eq!(Record::parse(utf16).unwrap_err(), RecordError::Utf16, "{utf16:?}");
        }
        let error = Record::parse(b"{} trailing").unwrap_err().to_string();
        assert!(error.ends_with("expected nothing more at byte 3"), "{error}");
    }

    #[test]
    fn identity_is_the_sha256_and_else_the_id() {
        let sha256 = |text: &str| record(text).sha256().map(Cow::into_owned);
        let (first, second) = ("aA".repeat(32), "bb".repeat(32));
        for other in [r#""""#, "5", r#""../../etc/passwd""#, r#""cc""#, "null"] {
            let text = format!(r#"{{"attributes":{{"sha256":{other}}},"id":"{second}"}}"#);
            assert_eq!(sha256(&text).as_deref(), Some(second.as_str()), "{other}");
        }
        let text = format!(r#"{{"attributes":{{"sha256":"{first}"}},"id":"{second}"}}"#);
        assert_eq!(sha256(&text), Some("aa".repeat(32)), "in lower case");
        assert_eq!(sha256(r#"{"attributes":[],"id":7}"#), None);
        assert_eq!(sha256(&format!(r#"{{"id":"{}"}}"#, "a".repeat(1 << 20))), None);
    }

    #[test]
    fn sizes_and_dates_that_are_none_read_as_missing() {
        for size in ["-1", "1.5", "1e3", "\"12\"", "99999999999999999999", "null", "[]"] {
            assert_eq!(
                record(&format!(r#"{{"attributes":{{"size":{size}}}}}"#)).size(),
                None,
                "{size}"
            );
        }
        for date in ["-62135596800", "253402300800", "\"1\"", "1.5", "99999999999999", "{}"] {
            let text = format!(r#"{{"attributes":{{"last_analysis_date":{date}}}}}"#);
            assert_eq!(record(&text).last_analysis_date(), None, "{date}");
        }
        let good = record(r#"{"attributes":{"size":12,"last_analysis_date":1719803962}}"#);
        assert_eq!(good.size(), Some(12));
        assert_eq!(good.last_analysis_date().unwrap().to_string(), "2024-07-01T03:19:22Z");
    }

    #[test]
    fn invalid_utf8_is_replaced_and_counted() {
        let record =
            Record::parse(b"{\"a\":\"x\xff\xe2\x28y\xf0\x9f\",\"b\":\"\\ud800\"}").unwrap();
        assert_eq!(record.text(), "{\"a\":\"x\u{fffd}\u{fffd}(y\u{fffd}\",\"b\":\"\\ud800\"}");
        assert_eq!(record.replaced(), 4);
    }

    #[test]
    fn the_download_link_is_a_text() {
        let url = |text| record(text).download_url().map(Cow::into_owned);
        let text = r#"{"context_attributes":{"download_url":"https:\/\/example.com/x"}}"#;
        assert_eq!(url(text).as_deref(), Some("https://example.com/x"));
        assert_eq!(url(r#"{"context_attributes":{"download_url":5}}"#), None);
        assert_eq!(url(r#"{"context_attributes":{"download_url":""}}"#), None);
    }
}
