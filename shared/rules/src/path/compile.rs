//! Compiles the text of a path to a table of nodes.

use std::collections::HashMap;

use super::{
    Call, Element, Entry, Key, Next, Node, NodeId, Path, Step,
    glob::{Glob, Token},
    modify::{Builtin, PrettyOptions},
    query::{self, Query},
};
use crate::{
    hits::{HitError, Modifier},
    needles::Interner,
    raw,
};

/// Longest text of a path, in bytes. Nobody writes a longer rule by hand.
const MAX_LENGTH: usize = 16 * 1024;
const MAX_NODES: usize = 4096;

/// Reasons why a path cannot be used.
#[derive(Debug)]
pub(crate) enum CompileError {
    /// The path is longer, or has more pieces, than anything that is written by hand.
    TooLong,
    /// The argument of `@re` is not a regular expression.
    BadRegex { pattern: String, source: Box<regex::Error> },
}

/// A part of a path that compiles but is probably not what its author meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Warning {
    /// Text follows the end of an argument and is ignored.
    Ignored(String),
    /// The argument of a modifier can never give a hit.
    NeverHits(String),
    /// An `@name` is not a known modifier, so it is read as a key.
    UnknownModifier(String),
}

/// The position of a piece in its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    /// The piece is at the start or behind a pipe, where modifiers, literals and multipaths are known.
    Start,
    /// The piece is behind a dot, inside an object or array.
    Walk,
}

/// A piece of a path: start and end in the text, and its place.
type Piece = (usize, usize, Place);

struct Compiler<'p> {
    text: &'p str,
    interner: &'p mut Interner,
    ids: HashMap<Piece, NodeId>,
    queue: Vec<Piece>,
    bad_regex: HashMap<NodeId, CompileError>,
    warnings: HashMap<NodeId, Warning>,
}

impl Path {
    /// Compiles `text`. `interner` numbers the texts that the path looks for.
    pub(crate) fn compile(
        text: &str,
        interner: &mut Interner,
    ) -> Result<(Self, Vec<Warning>), CompileError> {
        if text.len() > MAX_LENGTH {
            return Err(CompileError::TooLong);
        }
        let mut compiler = Compiler {
            text,
            interner,
            ids: HashMap::new(),
            queue: Vec::new(),
            bad_regex: HashMap::new(),
            warnings: HashMap::new(),
        };
        let start = compiler.id((0, text.len(), Place::Start));
        let mut nodes = Vec::new();
        // Nodes are built in the order of the queue, which is the order of their ids.
        while let Some(piece) = compiler.queue.get(nodes.len()).copied() {
            if nodes.len() >= MAX_NODES {
                return Err(CompileError::TooLong);
            }
            let node = compiler.node(nodes.len(), piece);
            nodes.push(node);
        }
        let path = Self { nodes, start };
        let mut warnings = Vec::new();
        for node in path.intended() {
            if let Some(error) = compiler.bad_regex.remove(&node) {
                return Err(error);
            }
            warnings.extend(compiler.warnings.remove(&node));
        }
        Ok((path, warnings))
    }

    /// Returns the nodes that the author can have meant. A component with `#` counts only as it reads in arrays, any
    /// other only as it reads in objects. Except for escapes, the others read the same in arrays.
    fn intended(&self) -> Vec<NodeId> {
        let mut seen = vec![false; self.nodes.len()];
        let mut order = Vec::new();
        let mut open = vec![self.start];
        while let Some(id) = open.pop() {
            let (Some(node), Some(seen)) = (self.nodes.get(id), seen.get_mut(id)) else { continue };
            if std::mem::replace(seen, true) {
                continue;
            }
            order.push(id);
            match node {
                Node::Modify { call, then } => {
                    if let Call::Builtin(Builtin::Dig(path)) = call {
                        open.push(*path);
                    }
                    open.extend(*then);
                }
                Node::Literal { then, .. } => open.extend(*then),
                Node::Multi { entries, then, .. } => {
                    open.extend(entries.iter().map(|entry| entry.path));
                    open.extend(*then);
                }
                Node::Lines(element) => open.extend(element.leads_to()),
                Node::Step(step) => match &step.element {
                    Element::Nothing | Element::Index(..) => open.extend(step.next.leads_to()),
                    element => open.extend(element.leads_to()),
                },
            }
        }
        order
    }
}

impl Next {
    fn leads_to(self) -> Option<NodeId> {
        match self {
            Self::End => None,
            Self::Into(node) | Self::Pipe(node) => Some(node),
        }
    }
}

impl Element {
    fn leads_to(&self) -> Vec<NodeId> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Index(_, next) => next.leads_to().into_iter().collect(),
            Self::Count(pipe) => pipe.iter().copied().collect(),
            Self::Each { path, pipe } => std::iter::once(*path).chain(*pipe).collect(),
            Self::Query { query, path, pipe, .. } => {
                query.path.iter().chain(path).chain(pipe).copied().collect()
            }
        }
    }
}

impl<'p> Compiler<'p> {
    fn id(&mut self, piece: Piece) -> NodeId {
        let next = self.queue.len();
        let id = *self.ids.entry(piece).or_insert(next);
        if id == next {
            self.queue.push(piece);
        }
        id
    }

    fn slice(&self, start: usize, end: usize) -> &'p str {
        self.text.get(start..end).unwrap_or_default()
    }

    fn node(&mut self, id: NodeId, (start, end, place): Piece) -> Node {
        let text = self.slice(start, end);
        if text.len() > 1 && text.starts_with('@') {
            if place == Place::Start
                && let Some(node) = self.modifier(id, start, end)
            {
                return node;
            }
            let name = modifier_name(text).0.to_owned();
            self.warnings.insert(id, Warning::UnknownModifier(name));
        }
        if place == Place::Start {
            let special = match text.as_bytes() {
                [b'!', _, ..] => self.literal(start, end),
                [b'{' | b'[', _, ..] => self.multi(start, end),
                [b'.', b'.', ..] => Some(Node::Lines(self.element(start + 2, end))),
                _ => None,
            };
            if let Some(special) = special {
                return special;
            }
        }
        let (key, next) = self.key(start, end);
        Node::Step(Step { key, next, element: self.element(start, end) })
    }

    /// Returns the node for the text behind a finished piece, if that begins with a separator.
    fn then(&mut self, id: Option<NodeId>, at: usize, end: usize) -> Option<NodeId> {
        let rest = self.slice(at, end);
        if rest.starts_with(['.', '|']) {
            return Some(self.id((at + 1, end, Place::Start)));
        }
        if let Some(id) = id
            && !rest.is_empty()
        {
            self.warnings.insert(id, Warning::Ignored(rest.to_owned()));
        }
        None
    }

    fn modifier(&mut self, id: NodeId, start: usize, end: usize) -> Option<Node> {
        let text = self.slice(start, end);
        let (name, has_argument) = modifier_name(text);
        let after = start + 1 + name.len();
        let (argument, rest) = if has_argument {
            let length = argument_length(self.slice(after + 1, end));
            ((after + 1, after + 1 + length), after + 1 + length)
        } else {
            ((after, after), after)
        };
        let written = self.slice(argument.0, argument.1);
        let call = if name == "dig" {
            Call::Builtin(Builtin::Dig(self.id((argument.0, argument.1, Place::Start))))
        } else if let Some(builtin) = builtin(name, written) {
            Call::Builtin(builtin)
        } else {
            let hit = match Modifier::new(name, written, self.interner)? {
                Ok(hit) => hit,
                Err(HitError { pattern, source }) => {
                    self.bad_regex.insert(id, CompileError::BadRegex { pattern, source });
                    Modifier::Never
                }
            };
            if matches!(hit, Modifier::Never) {
                self.warnings.insert(id, Warning::NeverHits(format!("@{name}:{written}")));
            }
            Call::Modifier(hit)
        };
        let then = self.then(Some(id), rest, end);
        Some(Node::Modify { call, then })
    }

    fn literal(&mut self, start: usize, end: usize) -> Option<Node> {
        let text = self.slice(start + 1, end);
        let length = match text.as_bytes().first()? {
            b'"' | b'{' | b'[' => raw::value_end(text, 0),
            b'0'..=b'9' | b'-' | b'+' => {
                let number = |c: char| matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E');
                let length = text.find(|c| !number(c)).unwrap_or(text.len());
                // A dot that no digit follows is a separator.
                text.get(..length)?.trim_end_matches('.').len()
            }
            _ => ["true", "false", "null", "nan", "inf"]
                .iter()
                .find(|word| {
                    text.strip_prefix(**word)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '|']))
                })?
                .len(),
        };
        let raw = text.get(..length)?.into();
        let then = self.then(None, start + 1 + length, end);
        Some(Node::Literal { raw, then })
    }

    /// Reads a multipath. `None` if its brackets do not close, or if something other than a separator follows.
    fn multi(&mut self, start: usize, end: usize) -> Option<Node> {
        let text = self.slice(start, end);
        let bytes = text.as_bytes();
        let object = text.starts_with('{');
        let mut ranges = Vec::new();
        let (mut from, mut colon, mut modifier) = (1, None, false);
        let mut at = 1;
        let close = loop {
            match bytes.get(at)? {
                b'\\' => at += 1,
                b'"' => {
                    at = raw::value_end(text, at);
                    continue;
                }
                b'[' | b'{' | b'(' => match raw::group_end(bytes, at) {
                    Some(group) => {
                        at = group;
                        continue;
                    }
                    None => return None,
                },
                b'@' if at == from || matches!(bytes.get(at - 1), Some(b'.' | b'|' | b':')) => {
                    modifier = true;
                }
                b':' if !modifier && colon.is_none() => colon = Some(at),
                separator @ (b',' | b']' | b'}' | b')') => {
                    ranges.push((from, colon, at));
                    (from, colon, modifier) = (at + 1, None, false);
                    if *separator != b',' {
                        break at;
                    }
                }
                _ => {}
            }
            at += 1;
        };
        let rest = text.get(close + 1..)?;
        if !rest.is_empty() && !rest.starts_with(['.', '|']) {
            return None;
        }
        let entries = ranges
            .into_iter()
            .map(|(from, colon, to)| {
                let path_from = colon.map_or(from, |colon| colon + 1);
                let name = colon.and_then(|colon| text.get(from..colon)).unwrap_or_default();
                let name = entry_name(name, text.get(path_from..to).unwrap_or_default());
                let path = self.id((start + path_from, start + to, Place::Start));
                Entry { name: name.into(), path }
            })
            .collect();
        let then = self.then(None, start + close + 1, end);
        Some(Node::Multi { object, entries, then })
    }

    /// Returns the step that follows the separator at `at`.
    fn next(&mut self, at: usize, end: usize) -> Next {
        let rest = self.slice(at + 1, end);
        let starts_anew = rest.starts_with(['[', '{'])
            || (rest.starts_with('@') && is_modifier(modifier_name(rest).0));
        if self.slice(at, end).starts_with('|') || starts_anew {
            Next::Pipe(self.id((at + 1, end, Place::Start)))
        } else {
            Next::Into(self.id((at + 1, end, Place::Walk)))
        }
    }

    /// Reads a component as it is in an object.
    fn key(&mut self, start: usize, end: usize) -> (Key, Next) {
        let text = self.slice(start, end);
        let mut tokens = Vec::new();
        let mut chars = text.char_indices();
        let mut next = Next::End;
        while let Some((at, c)) = chars.next() {
            tokens.push(match c {
                '.' | '|' => {
                    next = self.next(start + at, end);
                    break;
                }
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => match chars.next() {
                    Some((_, escaped)) => Token::Char(escaped),
                    None => break,
                },
                plain => Token::Char(plain),
            });
        }
        let plain: Option<String> = tokens
            .iter()
            .map(|token| match token {
                Token::Char(c) => Some(*c),
                _ => None,
            })
            .collect();
        let key = match plain {
            Some(plain) => Key::Exact(plain.into()),
            None => Key::Like(Glob::from_tokens(tokens)),
        };
        (key, next)
    }

    /// Reads a component as it is in an array, where nothing is escaped.
    fn element(&mut self, start: usize, end: usize) -> Element {
        let text = self.slice(start, end);
        if text.starts_with("#.") {
            let (path, pipe) = self.split(start + 2, end);
            return Element::Each { path, pipe };
        }
        if text.starts_with("#(") || text.starts_with("#[") {
            return self.query(start, end);
        }
        let part = text.find(['.', '|']).unwrap_or(text.len());
        let name = text.get(..part).unwrap_or_default();
        if name == "#" {
            let pipe = (part < text.len()).then(|| self.id((start + part + 1, end, Place::Start)));
            return Element::Count(pipe);
        }
        let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
        match name.parse() {
            Ok(index) if digits => {
                let next = if part < text.len() { self.next(start + part, end) } else { Next::End };
                Element::Index(index, next)
            }
            _ => Element::Nothing,
        }
    }

    fn query(&mut self, start: usize, end: usize) -> Element {
        let text = self.slice(start, end);
        let empty = self.id((start, start, Place::Start));
        // A query whose bracket does not close has no condition.
        let Some(parts) = query::parts(text) else {
            let query = Query { path: None, empty, test: query::Compare::Exists };
            return Element::Query { query, all: false, path: None, pipe: None };
        };
        let (from, to) = parts.path;
        let path = (from < to).then(|| self.id((start + from, start + to, Place::Start)));
        let query = Query { path, empty, test: parts.test };
        let rest = text.get(parts.end..).unwrap_or_default();
        let all = rest.starts_with('#');
        // Text between the query and the next separator has no meaning.
        let (path, pipe) = match rest.find(['.', '|']) {
            None => (None, None),
            Some(at) => {
                let at = start + parts.end + at;
                if self.slice(at, end).starts_with('|') {
                    (None, Some(self.id((at + 1, end, Place::Start))))
                } else {
                    let (path, pipe) = self.split(at + 1, end);
                    (Some(path), pipe)
                }
            }
        };
        Element::Query { query, all, path, pipe }
    }

    /// Splits a text into the path for each element and the pipe for the list of the results.
    fn split(&mut self, start: usize, end: usize) -> (NodeId, Option<NodeId>) {
        let text = self.slice(start, end);
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'|' => {
                    let pipe = self.id((start + at + 1, end, Place::Start));
                    return (self.id((start, start + at, Place::Start)), Some(pipe));
                }
                b'\\' => at += 1,
                b'(' | b'[' | b'{' => {
                    if let Some(group) = raw::group_end(bytes, at) {
                        at = group;
                        continue;
                    }
                }
                b'"' if at > 0 && bytes.get(at - 1) == Some(&b':') => {
                    at = raw::value_end(text, at);
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        (self.id((start, end, Place::Start)), None)
    }
}

/// Returns the name in `@name…`, and whether an argument follows.
fn modifier_name(text: &str) -> (&str, bool) {
    let name = text.get(1..).unwrap_or_default();
    match name.find([':', '|', '.']) {
        Some(at) => (name.get(..at).unwrap_or_default(), name.as_bytes().get(at) == Some(&b':')),
        None => (name, false),
    }
}

fn is_modifier(name: &str) -> bool {
    name == "dig" || builtin(name, "").is_some() || Modifier::known(name)
}

fn builtin(name: &str, argument: &str) -> Option<Builtin> {
    let option = |key: &str| {
        raw::members(argument).find(|(name, _)| raw::decode(name) == key).map(|(_, raw)| raw)
    };
    let on = |key: &str| option(key).is_some_and(|raw| raw == "true");
    let text = |key: &str| option(key).map(|raw| raw::as_text(raw).into_owned());
    Some(match name {
        "this" => Builtin::This,
        "valid" => Builtin::Valid,
        "reverse" => Builtin::Reverse,
        "ugly" => Builtin::Ugly,
        "pretty" => {
            let defaults = PrettyOptions::default();
            Builtin::Pretty(PrettyOptions {
                sort_keys: on("sortKeys"),
                indent: text("indent").unwrap_or(defaults.indent),
                prefix: text("prefix").unwrap_or(defaults.prefix),
                width: text("width").and_then(|n| n.parse().ok()).unwrap_or(defaults.width),
            })
        }
        "flatten" => Builtin::Flatten { deep: on("deep") },
        "join" => Builtin::Join { preserve: on("preserve") },
        "keys" => Builtin::Keys,
        "values" => Builtin::Values,
        "tostr" => Builtin::ToStr,
        "fromstr" => Builtin::FromStr,
        "group" => Builtin::Group,
        _ => return None,
    })
}

/// Returns the length of the argument at the start of `text`. A JSON string, list, object or text in round brackets
/// ends with its closing character. Anything else ends at the next pipe outside brackets and quotes.
fn argument_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(b'"') => return raw::value_end(text, 0),
        Some(b'{' | b'[' | b'(') => return raw::group_end(bytes, 0).unwrap_or(bytes.len()),
        _ => {}
    }
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'|' => return at,
            b'"' => at = raw::value_end(text, at),
            b'{' | b'[' | b'(' => at = raw::group_end(bytes, at).unwrap_or(bytes.len()),
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Returns the name of a member as a JSON string: the written name, or the last component of its path.
fn entry_name(written: &str, path: &str) -> String {
    if !written.is_empty() {
        let quoted = written.starts_with('"') && raw::valid(written);
        return if quoted { written.to_owned() } else { raw::quote(written) };
    }
    let bytes = path.as_bytes();
    let separator = |at: &usize| {
        matches!(bytes.get(*at), Some(b'.' | b'|'))
            && at.checked_sub(1).and_then(|before| bytes.get(before)) != Some(&b'\\')
    };
    let last = (0..bytes.len()).rev().find(separator).map_or(0, |at| at + 1);
    let name = path.get(last..).unwrap_or_default();
    let odd = |c: char| c < ' ' || matches!(c, '[' | ']' | '{' | '}' | '(' | ')' | '#' | '|' | '!');
    raw::quote(if name.is_empty() || name.contains(odd) { "_" } else { name })
}
