//! Reads records that are not one a line: they are in a list, span several lines, or share a line.
//!
//! [`layout_of`] decides by the start of a bundle, which is unambiguous: no record begins with `[`, and in a list of
//! lines the first record ends on its line, with no other value behind it.

use std::io::{self, BufRead as _, BufReader, Chain, Cursor, Read};

use serde::{Deserialize as _, de::IgnoredAny};

use super::{Caps, decode::Decoder};

/// Bytes of text that are read at once.
const PIECE: usize = 64 << 10;

/// The arrangement of the records in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Each record is on a line of its own.
    Lines,
    /// Records are JSON texts with any line breaks; [`JsonLinesReader`] makes lines of them.
    Documents,
}

/// Returns the arrangement of a bundle's records, and the bundle from its start again. Looks at no more than
/// `max_line_bytes` of its text. A bundle that cannot be read counts as lines: its next reader reports the error.
pub fn layout_of<R: Read>(reader: R, caps: Caps) -> (Layout, Chain<Cursor<Vec<u8>>, R>) {
    let mut tee = Tee { reader, seen: Vec::new() };
    let most = (caps.max_line_bytes as u64).saturating_add(1);
    let text = Text::new(&mut tee, caps).take(most);
    let layout = look(BufReader::with_capacity(PIECE, text)).unwrap_or(Layout::Lines);
    (layout, Cursor::new(tee.seen).chain(tee.reader))
}

fn look(text: impl io::BufRead) -> io::Result<Layout> {
    let mut start = Start { text, breaks: 0 };
    start.skip(|byte| byte.is_ascii_whitespace() || BYTE_ORDER_MARK.contains(&byte))?;
    match start.next()? {
        Some(b'[') => return Ok(Layout::Documents),
        Some(b'{') => {}
        _ => return Ok(Layout::Lines),
    }
    start.breaks = 0;
    let mut json = serde_json::Deserializer::from_reader(&mut start);
    if IgnoredAny::deserialize(&mut json).is_err() {
        return Ok(Layout::Lines);
    }
    if start.breaks > 0 {
        return Ok(Layout::Documents);
    }
    start.skip(|byte| byte != b'\n' && byte.is_ascii_whitespace())?;
    let follows = matches!(start.next()?, Some(b'{' | b'['));
    Ok(if follows { Layout::Documents } else { Layout::Lines })
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A text that is read byte by byte, with the number of its line breaks so far.
struct Start<T> {
    text: T,
    breaks: u64,
}

impl<T: io::BufRead> Start<T> {
    /// Returns the next byte without consuming it.
    fn next(&mut self) -> io::Result<Option<u8>> {
        Ok(self.text.fill_buf()?.first().copied())
    }

    /// Skips the next bytes for which `is_so` holds.
    fn skip(&mut self, is_so: impl Fn(u8) -> bool) -> io::Result<()> {
        while self.next()?.is_some_and(&is_so) {
            self.text.consume(1);
        }
        Ok(())
    }
}

impl<T: io::BufRead> Read for Start<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(out)?;
        let read_bytes = out.get(..read).unwrap_or_default();
        self.breaks += memchr::memchr_iter(b'\n', read_bytes).count() as u64;
        Ok(read)
    }
}

/// A reader that keeps all bytes that it has read.
struct Tee<R> {
    reader: R,
    seen: Vec<u8>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(out)?;
        self.seen.extend_from_slice(out.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// The text of a bundle, decompressed on the thread that reads it. Its errors are [`BundleError`](super::BundleError)s.
struct Text<R> {
    decoder: Decoder<R>,
    max_bytes: u64,
}

impl<R: Read> Text<R> {
    fn new(reader: R, caps: Caps) -> Self {
        Self { decoder: Decoder::new(reader), max_bytes: caps.max_bundle_bytes }
    }
}

impl<R: Read> Read for Text<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.decoder.read_within(out, self.max_bytes).map_err(io::Error::other)
    }
}

/// The text of a bundle of documents, with one record a line. Brackets and commas around records are dropped, and line
/// breaks in a record become blanks. A text that is not JSON still becomes a line, which its parser refuses. The memory
/// that it takes does not depend on the text.
pub struct JsonLinesReader<R> {
    text: BufReader<Text<R>>,
    state: State,
    ready: Vec<u8>,
    /// Number of bytes of `ready` that were returned already.
    taken: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Between,
    /// Inside a value. `depth` counts the open lists and objects; it is 0 in a text or a number.
    Value {
        depth: u64,
        quoted: bool,
        escaped: bool,
    },
}

impl<R: Read> JsonLinesReader<R> {
    /// Makes lines of the bundle that `reader` gives from its start.
    pub fn new(reader: R, caps: Caps) -> Self {
        let text = BufReader::with_capacity(PIECE, Text::new(reader, caps));
        // The blank keeps the text from being taken for a compressed one, whatever its first value is.
        Self { text, state: State::Between, ready: vec![b' '], taken: 0 }
    }

    /// Takes one more byte of text.
    fn put(&mut self, byte: u8) {
        let State::Value { mut depth, mut quoted, mut escaped } = self.state else {
            match byte {
                b',' | b'[' | b']' => return,
                _ if byte.is_ascii_whitespace() || BYTE_ORDER_MARK.contains(&byte) => return,
                _ => {}
            }
            self.state = State::Value { depth: 0, quoted: false, escaped: false };
            return self.put(byte);
        };
        let mut is_over = false;
        if quoted {
            let was_escaped = std::mem::take(&mut escaped);
            match byte {
                b'\\' => escaped = !was_escaped,
                b'"' if !was_escaped => {
                    quoted = false;
                    is_over = depth == 0;
                }
                // A line break in a string is not JSON, but its meaning is clear, so it is escaped.
                b'\n' if !was_escaped => self.ready.push(b'\\'),
                _ => {}
            }
            self.ready.push(if byte == b'\n' { b'n' } else { byte });
        } else {
            match byte {
                b'"' => quoted = true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    is_over = depth == 0;
                }
                // This byte ends a number or a word such as `true`.
                b']' | b',' if depth == 0 => return self.end(),
                _ if depth == 0 && byte.is_ascii_whitespace() => return self.end(),
                _ => {}
            }
            self.ready.push(if matches!(byte, b'\n' | b'\r') { b' ' } else { byte });
        }
        self.state = State::Value { depth, quoted, escaped };
        if is_over {
            self.end();
        }
    }

    fn end(&mut self) {
        self.state = State::Between;
        self.ready.push(b'\n');
    }
}

impl<R: Read> Read for JsonLinesReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
            let piece = self.text.fill_buf()?.to_vec();
            if piece.is_empty() {
                return Ok(0);
            }
            self.text.consume(piece.len());
            for byte in piece {
                self.put(byte);
            }
        }
        let ready = self.ready.get(self.taken..).unwrap_or_default();
        let read = ready.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..read), ready.get(..read)) {
            to.copy_from_slice(from);
        }
        self.taken += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPS: Caps = Caps { max_bundle_bytes: 1 << 20, max_line_bytes: 1 << 10 };

    fn layout_of_text(text: &str) -> Layout {
        let (layout, mut again) = layout_of(text.as_bytes(), CAPS);
        let mut whole = String::new();
        again.read_to_string(&mut whole).unwrap();
        assert_eq!(whole, text, "nothing of it is lost");
        layout
    }

    fn lines(text: &str) -> Vec<String> {
        let mut lines = String::new();
        JsonLinesReader::new(text.as_bytes(), CAPS).read_to_string(&mut lines).unwrap();
        lines.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn the_start_says_whether_records_stand_a_line_each() {
        for text in [
            "",
            "\n\n",
            "{}\n{}\n",
            "{} trailing\n",
            "not json\n[{}]\n",
            // The first line is incomplete, so only that line is lost.
            "{\"a\":1,\n{\"b\":2}\n",
            "{\"a\":\n{\"b\":2}\n{\"c\":3}\n",
            "{\"a\":\"x\n\",\"b\":2}\n",
            "17\n",
        ] {
            assert_eq!(layout_of_text(text), Layout::Lines, "{text}");
        }
        for text in [
            "[{}]",
            " \n[\n{}",
            "\u{feff}[]",
            "{\n\"a\": 1\n}",
            "{\r\n}",
            "{}{}",
            "{\"a\":\"}\"} {\"b\":1}\n",
        ] {
            assert_eq!(layout_of_text(text), Layout::Documents, "{text}");
        }
        let long = format!("{{\n\"a\":\"{}\"}}", "x".repeat(2000));
        assert_eq!(layout_of_text(&long), Layout::Lines, "no record may be so long");
    }

    #[test]
    fn documents_become_a_record_a_line() {
        let pretty =
            "[\n  {\r\n    \"a\": [1, {\"b\": \"],}{[\\\"\"}]\n  },\n  {\"c\": 2}]\n{\"d\":3}{}";
        let expected =
            [r#"{      "a": [1, {"b": "],}{[\""}]   }"#, r#"{"c": 2}"#, r#"{"d":3}"#, "{}"];
        assert_eq!(lines(pretty), expected);
        assert_eq!(lines("[1,\"x,\", null]"), ["1", "\"x,\"", "null"]);
        assert_eq!(lines("[{\"a\":\"x\ny\"}]"), [r#"{"a":"x\ny"}"#]);
        assert_eq!(lines("[{\"a\":"), [r#"{"a":"#]);
        assert_eq!(lines("}]{}"), ["}", "{}"]);
    }

    #[test]
    fn what_is_made_of_a_list_is_not_taken_for_compressed() {
        let mut lines = Vec::new();
        JsonLinesReader::new(&b"[BZh9]"[..], CAPS).read_to_end(&mut lines).unwrap();
        assert_eq!(lines, b" BZh9\n");
    }

    proptest! {
        #[test]
        fn any_list_of_objects_reads_back(texts: Vec<(String, String)>) {
            let objects: Vec<_> = texts.into_iter().map(|(a, b)| serde_json::json!({a: [b, {}]})).collect();
            for text in [serde_json::to_string(&objects), serde_json::to_string_pretty(&objects)] {
                let lines = lines(&text.unwrap());
                let read: Vec<serde_json::Value> =
                    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
                prop_assert_eq!(&read, &objects);
            }
        }
    }
}
