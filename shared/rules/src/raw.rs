//! Scans JSON text and returns raw slices of it. Text that is not JSON gives wrong slices or none, but never a panic.
//! The scanner has no stack, so any depth is possible.

use std::borrow::Cow;

/// The kind of a raw value, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    False,
    True,
    Number,
    String,
    Array,
    Object,
}

/// Returns the kind of `raw`, a slice from this module. `None` if no JSON value begins so.
pub(super) fn kind(raw: &str) -> Option<Kind> {
    let bytes = raw.as_bytes();
    Some(match bytes.first()? {
        b'{' => Kind::Object,
        b'[' => Kind::Array,
        b'"' => Kind::String,
        b't' => Kind::True,
        b'f' => Kind::False,
        // `nan` counts as a number.
        b'n' if bytes.get(1).is_none_or(|next| *next == b'u') => Kind::Null,
        b'0'..=b'9' | b'-' | b'+' | b'n' | b'N' | b'i' | b'I' => Kind::Number,
        _ => return None,
    })
}

/// Returns the value at the start of a modifier's output, if there is one. Text behind the value is cut off, except
/// behind an object or array.
pub(super) fn parse(text: &str) -> Option<&str> {
    let text = text.trim_start_matches(|c: char| c <= ' ');
    let end = match kind(text)? {
        Kind::Object | Kind::Array => text.len(),
        _ => value_end(text, 0),
    };
    text.get(..end)
}

/// Whether `text` is one JSON value that is nested no deeper than 128.
pub(super) fn valid(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Returns the position behind the value whose first byte is at `at`.
pub(super) fn value_end(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.first() {
        Some(b'"') => string_end(bytes, at),
        Some(b'{' | b'[') => group_end(bytes, at).unwrap_or(bytes.len()),
        Some(b'a'..=b'z') if rest.get(1).is_none_or(|b| !rest.starts_with(b"n") || *b == b'u') => {
            at + rest.iter().take_while(|b| b.is_ascii_lowercase()).count()
        }
        Some(_) => {
            let ends = |b: &u8| *b <= b' ' || matches!(b, b',' | b']' | b'}');
            at + rest.iter().position(ends).unwrap_or(rest.len())
        }
        None => bytes.len(),
    }
}

/// Returns the position behind the string that opens at `at`, or the end of the text.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes.get(at) == Some(&b'"') {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// Returns the position behind the bracket that closes the one at `at`. Brackets of all shapes count alike, and strings
/// inside are skipped. `None` if the bracket is not closed.
pub(super) fn group_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    let mut depth = 0_usize;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Iterates over the members of an object: the raw key with its quotes, and the raw value.
pub(super) struct Members<'a> {
    text: &'a str,
    at: usize,
}

/// Iterates over the raw values of an array.
pub(super) struct Elements<'a> {
    text: &'a str,
    at: usize,
}

/// Returns the members of `object`, which begins with its brace; none for anything else.
pub(super) fn members(object: &str) -> Members<'_> {
    Members { text: object, at: if object.starts_with('{') { 1 } else { object.len() } }
}

/// Returns the values of `array`, which begins with its bracket; none for anything else.
pub(super) fn elements(array: &str) -> Elements<'_> {
    Elements { text: array, at: if array.starts_with('[') { 1 } else { array.len() } }
}

/// Returns the values that follow each other in `text`, as in JSON lines.
pub(super) fn lines(text: &str) -> Elements<'_> {
    Elements { text, at: 0 }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        let rest = bytes.get(self.at..)?;
        let opens = memchr::memchr2(b'"', b'}', rest)?;
        let key = self.at + opens;
        if bytes.get(key) == Some(&b'}') {
            self.at = bytes.len();
            return None;
        }
        let key_end = string_end(bytes, key);
        let value = start(bytes, key_end)?;
        let value_end = value_end(self.text, value);
        self.at = value_end;
        Some((self.text.get(key..key_end)?, self.text.get(value..value_end)?))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<Self::Item> {
        let value = start(self.text.as_bytes(), self.at)?;
        let value_end = value_end(self.text, value);
        self.at = value_end;
        self.text.get(value..value_end)
    }
}

/// Returns the start of the next value; `None` if the array, object or text ends first.
fn start(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        match bytes.get(at)? {
            b'}' | b']' => return None,
            b'"' | b'{' | b'[' | b't' | b'f' | b'n' | b'N' | b'i' | b'I' | b'+' | b'-' => {
                return Some(at);
            }
            b'0'..=b'9' => return Some(at),
            _ => at += 1,
        }
    }
}

/// Returns the text of a raw string without its quotes and with escapes decoded. Lone surrogates become U+FFFD. An
/// escape that JSON does not have stays as it is written.
pub(super) fn decode(raw: &str) -> Cow<'_, str> {
    let inner = raw.strip_prefix('"').unwrap_or(raw);
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    unescape(inner)
}

/// Decodes the escapes of JSON strings in `inner`.
pub(super) fn unescape(inner: &str) -> Cow<'_, str> {
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut chars = after.chars();
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some(plain @ ('"' | '\\' | '/')) => out.push(plain),
            Some('u') if unit(after).is_some() => {
                let (decoded, length) = surrogates(after);
                out.push(decoded);
                rest = after.get(length..).unwrap_or_default();
                continue;
            }
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Reads the code unit of `uXXXX` at the start of `text`.
fn unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('u')?.get(..4)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// Reads the character of `uXXXX` or `uXXXX\uXXXX` at the start of `text`. Returns it with its length there.
fn surrogates(text: &str) -> (char, usize) {
    let high = unit(text).unwrap_or_default();
    let low = text.get(5..).and_then(|rest| rest.strip_prefix('\\')).and_then(unit);
    match (high, low) {
        (0xD800..=0xDBFF, Some(low @ 0xDC00..=0xDFFF)) => {
            let scalar = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            (char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER), 11)
        }
        _ => (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 5),
    }
}

/// Returns a value as text: a string decoded, a whole number with its own digits, any other number in plain decimal,
/// null as the empty text, and anything else raw.
pub(super) fn as_text(raw: &str) -> Cow<'_, str> {
    match kind(raw) {
        Some(Kind::String) => decode(raw),
        Some(Kind::Null) | None => Cow::Borrowed(""),
        Some(Kind::Number) => {
            let digits = raw.strip_prefix('-').unwrap_or(raw);
            if digits.bytes().all(|b| b.is_ascii_digit()) {
                return Cow::Borrowed(raw);
            }
            raw.parse::<f64>().map_or(Cow::Borrowed(raw), |number| Cow::Owned(number.to_string()))
        }
        Some(_) => Cow::Borrowed(raw),
    }
}

/// Returns `text` as a JSON string, with its quotes.
pub(super) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
