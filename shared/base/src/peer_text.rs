//! Cleans text from outside before it is shown: it is short, on one line, and without any configured secret.
//!
//! Text of a peer (a header, a body, a redirect's host) passes [`line()`] before it enters an error, an event, a reject
//! or the log. Rendered errors ([`crate::errors::chain`]) pass it too, and each line of the log passes
//! [`without_secrets`], so that messages of libraries are covered as well. A secret is found as it is, percent-encoded,
//! as JSON escapes it, as Base64 at any offset of a longer text, in either case, and backwards. A part of a long secret
//! is found if it has [`FRAGMENT`] bytes.

use std::{
    borrow::Cow,
    sync::{Arc, PoisonError, RwLock},
};

use aho_corasick::AhoCorasick;
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

/// Shortest part of a long secret that is hidden, in bytes.
pub const FRAGMENT: usize = 16;
/// Shortest secret that is hidden, in bytes. A shorter one would hide ordinary words.
const SHORTEST: usize = 6;
/// Most secrets that are hidden; a further one replaces the oldest. Rotated secrets stay in the list.
const MAX_SECRETS: usize = 128;
/// Replaces a secret in a text.
const HIDDEN: &str = "***";

static KNOWN: RwLock<Known> = RwLock::new(Known { secrets: Vec::new(), finder: None });

struct Known {
    secrets: Vec<SecretString>,
    /// Finds all secrets in a text. It is built when it is needed after a secret was added.
    finder: Option<Arc<AhoCorasick>>,
}

/// Hides `secret` from now on in the results of [`line()`] and [`without_secrets`], in this process. The text may hold
/// several secrets, separated by commas.
pub fn hide(secret: &SecretString) {
    let all = secret.expose_secret();
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    for part in std::iter::once(all).chain(all.split(',')) {
        let part = part.trim();
        let is_known = known.secrets.iter().any(|one| one.expose_secret() == part);
        if part.len() < SHORTEST || is_known {
            continue;
        }
        if known.secrets.len() == MAX_SECRETS {
            known.secrets.remove(0);
        }
        known.secrets.push(part.into());
        known.finder = None;
    }
}

/// Hides the user information of a URL: its password, or its name if that stands alone, because it may be a token.
pub fn hide_userinfo(url: &Url) {
    let (name, password) = (url.username(), url.password());
    if name.is_empty() && password.is_none() {
        return;
    }
    let decoded = |text: &str| {
        SecretString::from(String::from_utf8_lossy(&Scan::new(text).bytes).into_owned())
    };
    match password {
        None => hide(&decoded(name)),
        Some(password) => {
            hide(&decoded(password));
            // `Authorization: Basic` carries name and password in this form.
            hide(&decoded(&format!("{name}:{password}")));
        }
    }
}

/// Cleans the text of a peer for errors, events and the log: at most `most_chars` characters (and `…` if it was longer)
/// on one line, without control characters and secrets.
pub fn line(text: &str, most_chars: usize) -> String {
    // Secrets are hidden before the text is cut, because half a secret would not be found.
    let (start, is_cut) = start_of(text, most_chars.saturating_mul(8).max(4096));
    let mut clean = without_secrets(start).into_owned();
    if is_cut {
        // The cut may have left a part of a secret that is too short to be found, so the end is dropped.
        let end = clean.floor_char_boundary(clean.len().saturating_sub(FRAGMENT));
        clean.truncate(end);
    }
    let words = clean.split(|c: char| c.is_whitespace() || c.is_control());
    let mut line = String::new();
    for word in words.filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    match line.char_indices().nth(most_chars) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None if is_cut => format!("{line}…"),
        None => line,
    }
}

/// Returns `text` with `***` in place of each secret.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    let Some(finder) = finder() else { return Cow::Borrowed(text) };
    let mut scan = Scan::new(text);
    scan.bytes.iter_mut().for_each(|byte| *byte = plain(*byte));
    let found = finder.find_overlapping_iter(&scan.bytes).map(|found| {
        let (start, end) = (scan.place(found.start()), scan.place(found.end()));
        (text.floor_char_boundary(start), text.ceil_char_boundary(end))
    });
    let mut hidden: Vec<(usize, usize)> = found.collect();
    if hidden.is_empty() {
        return Cow::Borrowed(text);
    }
    hidden.sort_unstable();
    let (mut clean, mut at) = (String::with_capacity(text.len()), 0);
    for (start, end) in hidden {
        // A match that overlaps or touches the one before belongs to the same secret.
        if start > at || clean.is_empty() {
            clean.push_str(text.get(at..start).unwrap_or_default());
            clean.push_str(HIDDEN);
        }
        at = at.max(end);
    }
    clean.push_str(text.get(at..).unwrap_or_default());
    Cow::Owned(clean)
}

/// Returns the first `most_bytes` bytes of a text, or a few less to end at a character, and whether the text was cut.
fn start_of(text: &str, most_bytes: usize) -> (&str, bool) {
    let end = text.floor_char_boundary(most_bytes);
    (text.get(..end).unwrap_or_default(), end < text.len())
}

fn finder() -> Option<Arc<AhoCorasick>> {
    {
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
        if known.secrets.is_empty() || known.finder.is_some() {
            return known.finder.clone();
        }
    }
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    if known.finder.is_none() {
        let patterns = known.secrets.iter().flat_map(|secret| patterns(secret.expose_secret()));
        let mut patterns: Vec<Vec<u8>> = patterns.collect();
        patterns.sort_unstable();
        patterns.dedup();
        let finder = AhoCorasick::builder().ascii_case_insensitive(true).build(&patterns);
        known.finder = finder.ok().map(Arc::new);
    }
    known.finder.clone()
}

/// Returns the byte patterns by which a secret is found.
fn patterns(secret: &str) -> Vec<Vec<u8>> {
    let bytes = secret.as_bytes();
    let mut forms = vec![bytes.to_vec(), bytes.iter().rev().copied().collect()];
    let escaped = serde_json::Value::from(secret).to_string();
    forms.push(escaped.trim_matches('"').into());
    for shift in 0..3 {
        // The Base64 form of a secret depends on its offset in a group of three bytes. Digits that the secret shares
        // with its neighbours are left out.
        let text = BASE64_STANDARD_NO_PAD
            .encode([[0; 3].get(..shift).unwrap_or_default(), bytes].concat());
        let (from, to) = ((shift * 8).div_ceil(6), (shift + bytes.len()) * 8 / 6);
        forms.extend(text.get(from..to).map(|text| text.as_bytes().to_vec()));
    }
    let forms = forms.into_iter().map(|form| form.into_iter().map(plain).collect::<Vec<u8>>());
    let pieces = |form: Vec<u8>| {
        let length = form.len().clamp(1, FRAGMENT);
        form.windows(length).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    forms.flat_map(pieces).collect()
}

/// Maps the URL-safe alphabet of Base64 to the standard one.
fn plain(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

/// A text with percent-encoding and `\u00xx` decoded, also where they are nested, and the original position of each
/// byte.
struct Scan {
    bytes: Vec<u8>,
    /// Position of each byte in the original text; empty if nothing was decoded.
    places: Vec<usize>,
    length: usize,
}

impl Scan {
    fn new(text: &str) -> Self {
        let length = text.len();
        if !text.contains('%') && !text.contains("\\u00") {
            return Self { bytes: text.into(), places: Vec::new(), length };
        }
        let (mut bytes, mut places) = (Vec::with_capacity(length), Vec::with_capacity(length));
        for (place, byte) in text.bytes().enumerate() {
            bytes.push(byte);
            places.push(place);
            while let Some((escape, decoded)) = escape_at_end(&bytes) {
                bytes.truncate(bytes.len() - escape);
                places.truncate(bytes.len() + 1);
                bytes.push(decoded);
            }
        }
        Self { bytes, places, length }
    }

    /// Returns the position in the original text at which the byte `index` begins.
    fn place(&self, index: usize) -> usize {
        if self.places.is_empty() {
            return index;
        }
        self.places.get(index).copied().unwrap_or(self.length)
    }
}

/// Returns the length of the escape at the end of `bytes`, and the byte that it stands for.
fn escape_at_end(bytes: &[u8]) -> Option<(usize, u8)> {
    let hex = |high: u8, low: u8| {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        u8::try_from(digit(high)? * 16 + digit(low)?).ok()
    };
    match bytes {
        [.., b'\\', b'u', b'0', b'0', high, low] => Some((6, hex(*high, *low)?)),
        [.., b'%', high, low] => Some((3, hex(*high, *low)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hides a secret. All tests of a process share the list, so each has a secret of its own.
    fn hidden(secret: &str) {
        hide(&SecretString::from(secret));
    }

    #[test]
    fn a_secret_is_hidden_however_it_is_written() {
        let secret = "Zx9-QuiteSecret_0123456789-abcdef";
        hidden(secret);
        let all = |write: fn(u8) -> String| secret.bytes().map(write).collect::<Vec<_>>().concat();
        let percent = all(|byte| format!("%{byte:02x}"));
        let twice = percent.replace('%', "%25");
        let unicode = all(|byte| format!("\\u{byte:04X}"));
        let backwards: String = secret.chars().rev().collect();
        let mut forms = vec![
            secret.to_owned(),
            secret.to_uppercase(),
            secret.to_lowercase(),
            secret.replacen('Z', "%5A", 1),
            percent,
            twice,
            unicode,
            backwards,
        ];
        for before in ["", "a", "ab", "abc:"] {
            let whole = format!("{before}{secret}:after");
            forms.push(BASE64_STANDARD_NO_PAD.encode(&whole));
            forms.push(base64::prelude::BASE64_URL_SAFE.encode(&whole));
        }
        for form in forms {
            let text = format!("é {form} é");
            let clean = without_secrets(&text);
            assert!(clean.contains(HIDDEN), "{form}");
            assert!(clean.starts_with("é ") && clean.ends_with(" é"), "{clean}");
            for window in form.as_bytes().windows(FRAGMENT) {
                assert!(!clean.contains(str::from_utf8(window).unwrap()), "{form}: {clean}");
            }
        }
    }

    #[test]
    fn a_part_of_a_long_secret_is_hidden_too() {
        hidden("0f1e2d3c4b5a69788796a5b4c3d2e1f0");
        assert_eq!(line("cut: 0f1e2d3c4b5a69788796", 300), "cut: ***");
        assert_eq!(line("cut: 0f1e2d3c4b5a697", 300), "cut: 0f1e2d3c4b5a697");
        // The limit falls into the secret.
        let said = format!("{} 0f1e2d3c4b5a69788796a5b4c3d2e1f0 and more", "y".repeat(290));
        let clean = line(&said, 300);
        assert_eq!(clean, format!("{} *** and m…", "y".repeat(290)));
        let many = "0f1e2d3c4b5a69788796a5b4c3d2e1f0 ".repeat(10_000);
        assert!(!line(&many, 300).contains("0f1e"));
    }

    #[test]
    fn several_secrets_and_those_in_urls_are_hidden() {
        hidden("first-of-the-list,second-of-the-list");
        hide_userinfo(&"http://someone:pa%24%24word-1@proxy:3128".parse().unwrap());
        hide_userinfo(&"http://token-as-a-name@proxy:3128".parse().unwrap());
        let said = "second-of-the-list first-of-the-list pa$$word-1 pa%24%24word-1 TOKEN-as-a-name";
        assert_eq!(line(said, 300), "*** *** *** *** ***");
        let basic = BASE64_STANDARD_NO_PAD.encode("someone:pa$$word-1");
        assert!(!line(&basic, 300).contains(&basic[12..]));
    }

    #[test]
    fn ordinary_text_stays_as_it_is_but_for_lines_and_length() {
        hidden("short");
        assert_eq!(line("a short\r\n\u{1b}[31m text\0", 300), "a short [31m text");
        assert_eq!(line("100 % of 7%2", 300), "100 % of 7%2");
        assert_eq!(line("éééé", 3), "ééé…");
        let long = line(&"é ".repeat(1_000_000), 10);
        assert_eq!(long.chars().count(), 11);
        assert!(matches!(without_secrets("text"), Cow::Borrowed("text")));
    }
}
