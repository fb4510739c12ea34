//! Shortens lines of the log to [`MAX_LINE_BYTES`], and removes secrets from them.
//!
//! Texts of peers were shortened and cleaned before they come here ([`base::peer_text`]). This module does the same
//! for all other texts, such as messages of libraries.

use std::io::{self, Write};

use serde_json::{Map, Value};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use base::peer_text;

/// Most bytes of a line, with its line break.
pub(super) const MAX_LINE_BYTES: usize = 2048;

/// Makes writers that take a whole line at a time, which is how `tracing-subscriber` writes.
pub(super) struct Bounded<M> {
    pub(super) inner: M,
    /// Whether lines are JSON objects. A shortened line is a JSON object too.
    pub(super) is_json: bool,
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Bounded<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { inner: self.inner.make_writer(), is_json: self.is_json }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Line { inner: self.inner.make_writer_for(meta), is_json: self.is_json }
    }
}

/// A writer that shortens and cleans each line.
pub(super) struct Line<W> {
    inner: W,
    is_json: bool,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let line_out = if self.is_json { json(&text) } else { plain(&text) };
        self.inner.write_all(line_out.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Returns a line of text, shortened if it is too long, with the number of bytes that were cut.
fn plain(line: &str) -> String {
    let (clean, left_out) = cut(line.trim_end_matches('\n'), MAX_LINE_BYTES - 64);
    // The cut may have removed the end of a colour, so colours end here.
    let reset = if left_out > 0 && clean.contains('\u{1b}') { "\u{1b}[0m" } else { "" };
    format!("{}{reset}\n", marked(clean, left_out))
}

/// Returns a line of JSON. If it is too long, its texts are shortened; if that is not enough, only time, level, target
/// and message are left.
fn json(line: &str) -> String {
    if line.len() <= MAX_LINE_BYTES {
        return peer_text::without_secrets(line).into_owned();
    }
    let Ok(mut whole) = serde_json::from_str::<Map<String, Value>>(line) else {
        return plain(line);
    };
    for most in [400, 100] {
        whole.values_mut().for_each(|value| shorten(value, most));
        if let Some(line) = rendered(&whole) {
            return line;
        }
    }
    let kept = ["timestamp", "level", "target", "message"];
    let all = whole.len();
    whole.retain(|name, _| kept.contains(&name.as_str()));
    whole.insert("fields_left_out".to_owned(), all.saturating_sub(whole.len()).into());
    rendered(&whole).unwrap_or_default()
}

/// Returns the line of an object; `None` if it is too long.
fn rendered(whole: &Map<String, Value>) -> Option<String> {
    let line = format!("{}\n", Value::from(whole.clone()));
    (line.len() <= MAX_LINE_BYTES).then(|| peer_text::without_secrets(&line).into_owned())
}

/// Shortens each text in a value to `most` bytes and a mark.
fn shorten(value: &mut Value, most: usize) {
    match value {
        Value::String(text) => {
            let (clean, left_out) = cut(text, most);
            *text = marked(clean, left_out);
        }
        Value::Array(values) => values.iter_mut().for_each(|value| shorten(value, most)),
        Value::Object(members) => members.values_mut().for_each(|value| shorten(value, most)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn marked(text: String, left_out: usize) -> String {
    if left_out == 0 { text } else { format!("{text}… ({left_out} bytes cut)") }
}

/// Returns the first `most` bytes of a text without its secrets, and the number of bytes that were cut.
fn cut(text: &str, most: usize) -> (String, usize) {
    // Secrets are searched in more text than is kept, so that none is cut in half before.
    let start = text.get(..text.floor_char_boundary(most.saturating_mul(4))).unwrap_or_default();
    let mut clean = peer_text::without_secrets(start).into_owned();
    let mut left_out = text.len() - start.len();
    let mut most = most;
    if left_out > 0 {
        most = most.min(clean.len().saturating_sub(peer_text::FRAGMENT));
    }
    let end = clean.floor_char_boundary(most);
    left_out += clean.len() - end;
    clean.truncate(end);
    (clean, left_out)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use secrecy::SecretString;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the log lines that `log` writes.
    fn lines(is_json: bool, log: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        let copy = written.clone();
        let writer = Bounded { inner: move || copy.clone(), is_json };
        let layer = tracing_subscriber::fmt().with_writer(writer).with_ansi(false);
        if is_json {
            let layer = layer.json().flatten_event(true).with_span_list(true).finish();
            tracing::subscriber::with_default(
                layer.with(None::<tracing_subscriber::filter::LevelFilter>),
                log,
            );
        } else {
            tracing::subscriber::with_default(layer.finish(), log);
        }
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_of_text_has_2_kilobytes_and_says_what_is_missing() {
        let long = "é".repeat(100_000);
        let lines = lines(false, || tracing::info!(long, "of a peer"));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].len() < MAX_LINE_BYTES, "{}", lines[0].len());
        assert!(
            lines[0].contains("of a peer") && lines[0].ends_with(" bytes cut)"),
            "{}",
            lines[0]
        );
    }

    #[test]
    fn a_line_of_json_has_2_kilobytes_and_stays_json() {
        let long = "\"é\n".repeat(100_000);
        let lines = lines(true, || {
            tracing::info!(long, number = 7, "of a peer");
            let all = tracing::info_span!("all", a = long, b = long, c = long, d = long);
            let more = tracing::info_span!(parent: &all, "more", a = long, b = long, c = long, d = long, e = long, f = long, g = long, h = long);
            let most = tracing::info_span!(parent: &more, "most", a = long, b = long, c = long, d = long, e = long, f = long, g = long, h = long);
            most.in_scope(|| tracing::warn!(long, "in spans"));
        });
        let read = |line: &String| serde_json::from_str::<Value>(line).unwrap();
        assert!(lines.iter().all(|line| line.len() < MAX_LINE_BYTES));
        assert_eq!((read(&lines[0])["number"].clone(), lines.len()), (7.into(), 2));
        assert!(read(&lines[0])["long"].as_str().unwrap().ends_with(" bytes cut)"));
        assert_eq!(read(&lines[1])["message"], "in spans");
        assert_eq!(read(&lines[1])["level"], "WARN");
    }

    #[test]
    fn no_line_shows_a_secret_not_even_half_of_one() {
        let secret = "lines-7d1c5e9b3a0f4826-secret";
        peer_text::hide(&SecretString::from(secret));
        for is_json in [false, true] {
            for before in [0, 1800, 1950, 2000, 7880, 7930, 7960] {
                let text = format!("{}{secret}", "y".repeat(before));
                for line in lines(is_json, || tracing::info!(text, "said")) {
                    assert!(!line.contains("7d1c5e9"), "{before}: {line}");
                    assert!(!is_json || serde_json::from_str::<Value>(&line).is_ok(), "{line}");
                }
            }
        }
    }
}
