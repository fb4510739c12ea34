//! JSON as a tape: one pass over the text makes a flat list of values that point into it.
//!
//! Promises: numbers keep their text, members keep their order, the first of equal keys wins, and text behind the value
//! is refused. `MAX_DEPTH` and `MAX_VALUES` bound the depth and the number of values, instead of stack and memory. A
//! tree of owned values would copy each string of a record, although few of them are ever looked at.

pub mod limits;

use std::{borrow::Cow, collections::HashSet};

/// Deepest nesting of lists and objects.
pub const MAX_DEPTH: usize = 128;

/// Most values and keys in one text. They take 8 MB of tape in each thread. The largest records seen hold some 50,000.
pub const MAX_VALUES: usize = 500_000;

/// Reasons why a text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text is not JSON.
    #[error("expected {expected} at byte {at}")]
    Syntax {
        /// The token that may stand there.
        expected: &'static str,
        /// Position of the error, in bytes from the start.
        at: usize,
    },
    /// Lists and objects are nested too deeply.
    #[error("more than {MAX_DEPTH} lists and objects in each other at byte {at}")]
    TooDeep {
        /// Position of the first list or object that is too deep, in bytes from the start.
        at: usize,
    },
    /// The text holds too many values.
    #[error("more than {MAX_VALUES} values")]
    TooManyValues,
    /// The text is too long: its positions do not fit into 32 bits.
    #[error("longer than 4 GB")]
    TooLong,
}

/// The kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true`.
    True,
    /// `false`.
    False,
    /// A number, as it is written.
    Number,
    /// A string or key without escapes.
    Text,
    /// A string or key with escapes.
    EscapedText,
    /// A list.
    List,
    /// An object.
    Object,
}

/// One value or key. The nodes of a container's content follow it: the items of a list, or the keys and values of an
/// object in turn.
#[derive(Clone, Copy, Debug)]
struct Node {
    kind: Kind,
    /// Start of the value in the text, in bytes. For a string it is the byte behind the opening quote, and `end` is the
    /// closing one.
    start: u32,
    end: u32,
    /// Index of the first node behind this value.
    next: u32,
}

const NOTHING: Node = Node { kind: Kind::Null, start: 0, end: 0, next: u32::MAX };

/// A parsed text.
#[derive(Clone, Debug)]
pub struct Document {
    text: String,
    nodes: Vec<Node>,
    lone_surrogates: u64,
}

impl Document {
    /// Reads a text that is one JSON value.
    ///
    /// # Errors
    /// See [`JsonError`].
    pub fn parse(text: String) -> Result<Self, JsonError> {
        if u32::try_from(text.len()).is_err() {
            return Err(JsonError::TooLong);
        }
        let mut parser = Parser {
            bytes: text.as_bytes(),
            at: 0,
            // Records hold a value for each 20 bytes or so.
            nodes: Vec::with_capacity(text.len() / 20 + 8),
            open: Vec::new(),
            lone_surrogates: 0,
        };
        parser.run()?;
        let Parser { nodes, lone_surrogates, .. } = parser;
        Ok(Self { text, nodes, lone_surrogates })
    }

    /// Returns the whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the number of escapes such as `\ud800` without their other half. They read as U+FFFD.
    pub fn lone_surrogates(&self) -> u64 {
        self.lone_surrogates
    }

    /// Returns the outermost value.
    pub fn root(&self) -> Value<'_> {
        self.value(0)
    }

    fn value(&self, index: u32) -> Value<'_> {
        let node = self.nodes.get(index as usize).copied().unwrap_or(NOTHING);
        Value { document: self, node, index }
    }
}

/// A value of a [`Document`].
#[derive(Clone, Copy)]
pub struct Value<'a> {
    document: &'a Document,
    node: Node,
    index: u32,
}

impl<'a> Value<'a> {
    /// Returns the kind of the value.
    pub fn kind(self) -> Kind {
        self.node.kind
    }

    /// Whether the value is `null`.
    pub fn is_null(self) -> bool {
        self.node.kind == Kind::Null
    }

    /// Returns the text of the value as it is written in the document; of a string, the text between its quotes.
    pub fn raw(self) -> &'a str {
        self.document.text.get(self.node.start as usize..self.node.end as usize).unwrap_or_default()
    }

    /// Returns the JSON of the value as it is written in the document, a string with its quotes.
    pub fn json(self) -> &'a str {
        let quote = u32::from(matches!(self.node.kind, Kind::Text | Kind::EscapedText));
        let range = (self.node.start - quote) as usize..(self.node.end + quote) as usize;
        self.document.text.get(range).unwrap_or_default()
    }

    /// Returns the text of a string with escapes decoded; `None` for any other value.
    pub fn text(self) -> Option<Cow<'a, str>> {
        match self.node.kind {
            Kind::Text => Some(Cow::Borrowed(self.raw())),
            Kind::EscapedText => Some(Cow::Owned(unescape(self.raw()))),
            _ => None,
        }
    }

    /// Returns the text of a string, a number or a boolean, for members that some senders write as one and some as
    /// another. `None` for anything else.
    pub fn lenient_text(self) -> Option<Cow<'a, str>> {
        match self.node.kind {
            Kind::Number | Kind::True | Kind::False => Some(Cow::Borrowed(self.raw())),
            _ => self.text(),
        }
    }

    /// Returns a whole number, also from a string. A fraction is cut off. `None` for anything else, and if the number
    /// does not fit.
    pub fn lenient_integer(self) -> Option<i64> {
        // Beyond this (2^53) a floating-point number cannot hold every whole number.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if matches!(self.node.kind, Kind::True | Kind::False) {
            return None;
        }
        let text = self.lenient_text()?;
        let text = text.trim();
        text.parse().ok().or_else(|| {
            let number: f64 = text.parse().ok().filter(|n: &f64| n.abs() < EXACT)?;
            #[expect(clippy::cast_possible_truncation, reason = "the fraction is left out")]
            let whole = number as i64;
            Some(whole)
        })
    }

    /// Returns a boolean, also from a string or from 0 or 1. `None` for anything else.
    pub fn lenient_bool(self) -> Option<bool> {
        match &*self.lenient_text()? {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        }
    }

    /// Returns the first member of an object with this key; `None` if there is none or the value is not an object.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        self.named(key).next()
    }

    /// Returns all members of an object with this key; none if the value is not an object. Other keys are skipped by
    /// their length alone, unless the length fits.
    pub fn named(self, key: &str) -> impl Iterator<Item = Value<'a>> {
        let Document { text, nodes, .. } = self.document;
        let mut at = self.children(Kind::Object);
        std::iter::from_fn(move || {
            while at < self.node.next {
                // A key has no content, so its value is the next node.
                let (name, index) = (nodes.get(at as usize)?, at + 1);
                let node = *nodes.get(index as usize)?;
                at = node.next;
                let raw = || text.get(name.start as usize..name.end as usize).unwrap_or_default();
                let found = match name.kind {
                    // An escape is longer than the character that it stands for.
                    Kind::EscapedText => {
                        (name.end - name.start) as usize > key.len() && unescape(raw()) == key
                    }
                    // Most keys differ in length.
                    _ => (name.end - name.start) as usize == key.len() && raw() == key,
                };
                if found {
                    return Some(Value { document: self.document, node, index });
                }
            }
            None
        })
    }

    /// Returns the value behind a path of keys; `None` if a key on the way is missing.
    pub fn at(self, path: &[&str]) -> Option<Value<'a>> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    /// Returns the items of a list; none if the value is not a list.
    pub fn items(self) -> impl Iterator<Item = Value<'a>> {
        let mut at = self.children(Kind::List);
        std::iter::from_fn(move || {
            let item = (at < self.node.next).then(|| self.document.value(at))?;
            at = item.node.next;
            Some(item)
        })
    }

    /// Returns the members of an object in order, each key once; none if the value is not an object.
    pub fn members(self) -> impl Iterator<Item = (Cow<'a, str>, Value<'a>)> {
        let mut seen = HashSet::new();
        self.pairs().filter_map(move |(key, value)| {
            let key = key.text()?;
            seen.insert(key.clone()).then_some((key, value))
        })
    }

    /// Returns the keys and values of an object in order, with repeated keys; none if the value is not an object.
    pub fn pairs(self) -> impl Iterator<Item = (Value<'a>, Value<'a>)> {
        let mut at = self.children(Kind::Object);
        std::iter::from_fn(move || {
            let key = (at < self.node.next).then(|| self.document.value(at))?;
            let value = self.document.value(key.node.next);
            at = value.node.next;
            Some((key, value))
        })
    }

    fn children(self, of: Kind) -> u32 {
        if self.node.kind == of { self.index.saturating_add(1) } else { u32::MAX }
    }
}

struct Parser<'t> {
    bytes: &'t [u8],
    at: usize,
    nodes: Vec<Node>,
    /// Indices of the containers that are not closed yet.
    open: Vec<usize>,
    lone_surrogates: u64,
}

impl Parser<'_> {
    fn run(&mut self) -> Result<(), JsonError> {
        self.skip_blanks();
        self.value()?;
        while let Some(&container) = self.open.last() {
            self.step(container)?;
        }
        self.skip_blanks();
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.expected("nothing more")) }
    }

    /// Reads the next item or member of the innermost container, or its end.
    fn step(&mut self, container: usize) -> Result<(), JsonError> {
        let first = self.nodes.len() == container + 1;
        let object = self.nodes.get(container).is_some_and(|node| node.kind == Kind::Object);
        self.skip_blanks();
        match self.peek() {
            Some(b'}') if object => return self.close(container),
            Some(b']') if !object => return self.close(container),
            Some(b',') if !first => {
                self.at += 1;
                self.skip_blanks();
            }
            _ if first => {}
            _ => return Err(self.expected(if object { "`,` or `}`" } else { "`,` or `]`" })),
        }
        if object {
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key"));
            }
            self.string()?;
            self.skip_blanks();
            if self.peek() != Some(b':') {
                return Err(self.expected("`:`"));
            }
            self.at += 1;
            self.skip_blanks();
        }
        self.value()
    }

    fn value(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{') => self.open(Kind::Object),
            Some(b'[') => self.open(Kind::List),
            Some(b't') => self.word("true", Kind::True),
            Some(b'f') => self.word("false", Kind::False),
            Some(b'n') => self.word("null", Kind::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.expected("a value")),
        }
    }

    fn open(&mut self, kind: Kind) -> Result<(), JsonError> {
        if self.open.len() == MAX_DEPTH {
            return Err(JsonError::TooDeep { at: self.at });
        }
        self.open.push(self.nodes.len());
        let start = self.at;
        self.at += 1;
        self.push(kind, start, start)
    }

    fn close(&mut self, container: usize) -> Result<(), JsonError> {
        self.at += 1;
        self.open.pop();
        let (end, next) = (offset(self.at)?, offset(self.nodes.len())?);
        if let Some(node) = self.nodes.get_mut(container) {
            node.end = end;
            node.next = next;
        }
        Ok(())
    }

    fn word(&mut self, word: &'static str, kind: Kind) -> Result<(), JsonError> {
        let start = self.at;
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        self.push(kind, start, self.at)
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.skip_if(|b| b == b'-');
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.skip_if(|b| b == b'.') {
            self.digits()?;
        }
        if self.skip_if(|b| matches!(b, b'e' | b'E')) {
            self.skip_if(|b| matches!(b, b'+' | b'-'));
            self.digits()?;
        }
        self.push(Kind::Number, start, self.at)
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !self.skip_if(|b| b.is_ascii_digit()) {
            return Err(self.expected("a digit"));
        }
        while self.skip_if(|b| b.is_ascii_digit()) {}
        Ok(())
    }

    fn string(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        let start = self.at;
        let mut kind = Kind::Text;
        loop {
            let rest = self.rest();
            let Some(length) = memchr::memchr2(b'"', b'\\', rest) else {
                self.at = self.bytes.len();
                return Err(self.expected("the end of a string"));
            };
            let (plain, stop) = rest.split_at(length);
            if let Some(control) = plain.iter().position(|b| *b < b' ') {
                self.at += control;
                return Err(self.expected("an escape instead of a control character"));
            }
            let ends = stop.first() == Some(&b'"');
            self.at += length;
            if ends {
                self.push(kind, start, self.at)?;
                self.at += 1;
                return Ok(());
            }
            kind = Kind::EscapedText;
            self.escape()?;
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let Some(escape) = Escape::read(self.rest()) else {
            return Err(self.expected("an escape that JSON has"));
        };
        self.lone_surrogates += u64::from(escape.lone);
        self.at += escape.length;
        Ok(())
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize) -> Result<(), JsonError> {
        if self.nodes.len() == MAX_VALUES {
            return Err(JsonError::TooManyValues);
        }
        let next = offset(self.nodes.len() + 1)?;
        self.nodes.push(Node { kind, start: offset(start)?, end: offset(end)?, next });
        Ok(())
    }

    fn skip_blanks(&mut self) {
        while self.skip_if(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {}
    }

    fn skip_if(&mut self, wanted: impl Fn(u8) -> bool) -> bool {
        let found = self.peek().is_some_and(wanted);
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn expected(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax { expected, at: self.at }
    }
}

fn offset(at: usize) -> Result<u32, JsonError> {
    u32::try_from(at).map_err(|_| JsonError::TooLong)
}

/// One escape at the start of some bytes.
struct Escape {
    says: char,
    length: usize,
    /// Whether it is half of a surrogate pair without the other half.
    lone: bool,
}

impl Escape {
    fn read(bytes: &[u8]) -> Option<Self> {
        let says = match bytes.get(1)? {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return Self::read_unicode(bytes),
            _ => return None,
        };
        Some(Self { says, length: 2, lone: false })
    }

    fn read_unicode(bytes: &[u8]) -> Option<Self> {
        let unit = utf16_unit(bytes)?;
        if let Some(says) = char::from_u32(unit) {
            return Some(Self { says, length: 6, lone: false });
        }
        let pair = bytes.get(6..).and_then(utf16_unit).and_then(|low| {
            let is_pair = unit < 0xdc00 && (0xdc00..0xe000).contains(&low);
            is_pair.then(|| 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00))
        });
        Some(match pair.and_then(char::from_u32) {
            Some(says) => Self { says, length: 12, lone: false },
            None => Self { says: char::REPLACEMENT_CHARACTER, length: 6, lone: true },
        })
    }
}

/// Reads `\uXXXX` at the start of `bytes`.
fn utf16_unit(bytes: &[u8]) -> Option<u32> {
    let hex = bytes.strip_prefix(b"\\u")?.get(..4)?;
    hex.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

/// Resolves the escapes of a string that the parser has accepted.
fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(plain) = memchr::memchr(b'\\', rest.as_bytes()) {
        text.push_str(rest.get(..plain).unwrap_or_default());
        rest = rest.get(plain..).unwrap_or_default();
        let Some(escape) = Escape::read(rest.as_bytes()) else { break };
        text.push(escape.says);
        rest = rest.get(escape.length..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Document {
        Document::parse(text.to_owned()).unwrap()
    }

    /// Returns the document as `serde_json` would read it.
    fn tree(value: Value<'_>) -> serde_json::Value {
        match value.kind() {
            Kind::Null => serde_json::Value::Null,
            Kind::True => true.into(),
            Kind::False => false.into(),
            Kind::Number => serde_json::from_str(value.raw()).unwrap(),
            Kind::Text | Kind::EscapedText => value.text().unwrap().into(),
            Kind::List => value.items().map(tree).collect(),
            Kind::Object => value.members().map(|(k, v)| (k.into_owned(), tree(v))).collect(),
        }
    }

    #[test]
    fn values_are_found_by_path_and_keep_their_text() {
        let document = parse(r#" {"a":{"b c":[1.50,-0,1E+3,{}]},"a":2,"\u0061d":"\n\u00e9"} "#);
        let root = document.root();
        let items: Vec<_> =
            root.at(&["a", "b c"]).unwrap().items().map(|item| item.raw().to_owned()).collect();
        assert_eq!(items, ["1.50", "-0", "1E+3", "{}"]);
        assert_eq!(root.get("ad").unwrap().text().unwrap(), "\né");
        assert_eq!(root.members().map(|(key, _)| key).collect::<Vec<_>>(), ["a", "ad"]);
        assert!(root.at(&["a", "b c", "x"]).is_none());
        assert!(root.get("b").is_none());
    }

    #[test]
    fn texts_numbers_and_truth_values_are_read_however_they_are_written() {
        let document = parse(
            r#"[7,"7"," 7 ",7.9,"7.5",-3,1e2,true,"true",0,null,[],{},"","x",1e300,99999999999999999999]"#,
        );
        let items: Vec<Value<'_>> = document.root().items().collect();
        let integers: Vec<_> = items.iter().map(|item| item.lenient_integer()).collect();
        let none = [None; 7];
        let expected = [7, 7, 7, 7, 7, -3, 100].map(Some);
        assert_eq!(integers[..7], expected);
        assert_eq!((integers[7], integers[8], integers[9]), (None, None, Some(0)));
        assert_eq!(integers[10..], none);
        let texts: Vec<_> = items.iter().map(|item| item.lenient_text()).collect();
        assert_eq!(texts[3].as_deref(), Some("7.9"));
        assert_eq!(texts[7].as_deref(), Some("true"));
        assert_eq!(texts[10..13], [None, None, None]);
        let truths: Vec<_> = items[7..11].iter().map(|item| item.lenient_bool()).collect();
        assert_eq!(truths, [Some(true), Some(true), Some(false), None]);
    }

    #[test]
    fn surrogates_pair_up_or_become_the_replacement_character() {
        let document =
            parse(r#"["\ud83d\ude00","\ud800","\udc00x","\ud800\ud83d\ude00","\ud800\n"]"#);
        let texts: Vec<_> = document.root().items().map(|item| item.text().unwrap()).collect();
        assert_eq!(texts, ["😀", "\u{fffd}", "\u{fffd}x", "\u{fffd}😀", "\u{fffd}\n"]);
        assert_eq!(document.lone_surrogates(), 4);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "tru",
            "nulll",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u+123\"",
            "\"a\nb\"",
            "{} {}",
            "{}x",
            "[}",
            "{]",
            "'a'",
            "NaN",
            "[1 2]",
            "\u{feff}{}",
        ] {
            assert!(Document::parse(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn depth_ends_at_the_cap_and_not_at_the_stack() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Document::parse(nested(MAX_DEPTH)).is_ok());
        let too_deep = JsonError::TooDeep { at: MAX_DEPTH };
        assert_eq!(Document::parse(nested(MAX_DEPTH + 1)).unwrap_err(), too_deep);
        assert_eq!(Document::parse("[".repeat(1 << 20)).unwrap_err(), too_deep);
    }

    #[test]
    fn the_number_of_values_is_bounded() {
        let text = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert_eq!(Document::parse(text).unwrap_err(), JsonError::TooManyValues);
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(5, 60, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_reads_as_serde_json_reads_it(value in any_json(), pretty: bool) {
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            prop_assert_eq!(tree(parse(&text).root()), value);
        }

        #[test]
        fn near_json_is_refused_exactly_where_serde_json_refuses_it(
            text in r#"[\[\]{}:,"0-9.eE+\-tfn \\ua]{0,12}"#,
        ) {
            let ours = Document::parse(text.clone()).is_ok();
            // Only this parser accepts lone surrogates and numbers that are too large for a double.
            let theirs = match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(_) => true,
                Err(e) => {
                    let reason = e.to_string();
                    ["surrogate", "hex escape", "out of range"].iter().any(|r| reason.contains(r))
                }
            };
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }
}
