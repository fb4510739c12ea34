//! Evaluates a table of nodes on JSON: raw text, or a parsed document.

use std::{borrow::Cow, cell::Cell};

use super::{Call, Element, Entry, Key, Next, Node, NodeId, Step, query::Query};
use json::{Kind, Value};

use crate::{needles::NeedleSet, raw};

/// Deepest evaluation. A deeper one finds nothing. Records are less deep.
const MAX_DEPTH: usize = 128;
/// Most bytes that modifiers and multipaths may write for one path; beyond it nothing is found. Without a limit, a rule
/// that doubles its text again and again would exhaust the memory of the process.
const MAX_WRITTEN: usize = 256 * 1024 * 1024;

/// JSON that a path is evaluated on. Raw text and the value of a document give the same results. With a document, the
/// values that a path skips are not read again for each path.
pub(super) trait Json<'t>: Copy {
    /// Whether the values are parts of the record, which a [`NeedleSet`] knows.
    const IN_RECORD: bool;

    /// Returns the value as raw JSON.
    fn raw(self) -> &'t str;
    /// Returns the value that a path starting here walks into, if it can.
    fn inside(self) -> Option<Self>;
    fn is_list(self) -> bool;
    fn is_container(self) -> bool;
    /// Returns the keys and values of an object, with repeated keys.
    fn members(self) -> impl Iterator<Item = (Self, Self)>;
    fn elements(self) -> impl Iterator<Item = Self>;
    /// Returns the values of all members with this key.
    fn named(self, key: &str) -> impl Iterator<Item = Self>;
    /// Returns the text of this key.
    fn key(self) -> Cow<'t, str>;
}

impl<'t> Json<'t> for &'t str {
    const IN_RECORD: bool = false;

    fn raw(self) -> &'t str {
        self
    }

    fn inside(self) -> Option<Self> {
        let text = self.trim_start_matches(|c: char| c <= ' ');
        // A string may hold brackets, and yet has no members.
        if text.starts_with('"') {
            return None;
        }
        let open = memchr::memchr2(b'{', b'[', text.as_bytes())?;
        text.get(open..)
    }

    fn is_list(self) -> bool {
        self.starts_with('[')
    }

    fn is_container(self) -> bool {
        self.starts_with(['{', '['])
    }

    fn members(self) -> impl Iterator<Item = (Self, Self)> {
        raw::members(self)
    }

    fn elements(self) -> impl Iterator<Item = Self> {
        raw::elements(self)
    }

    fn named(self, key: &str) -> impl Iterator<Item = Self> {
        raw::members(self).filter(move |(name, _)| is_key(name, key)).map(|(_, value)| value)
    }

    fn key(self) -> Cow<'t, str> {
        raw::decode(self)
    }
}

impl<'t> Json<'t> for Value<'t> {
    const IN_RECORD: bool = true;

    fn raw(self) -> &'t str {
        self.json()
    }

    fn inside(self) -> Option<Self> {
        self.is_container().then_some(self)
    }

    fn is_list(self) -> bool {
        self.kind() == Kind::List
    }

    fn is_container(self) -> bool {
        matches!(self.kind(), Kind::List | Kind::Object)
    }

    fn members(self) -> impl Iterator<Item = (Self, Self)> {
        self.pairs()
    }

    fn elements(self) -> impl Iterator<Item = Self> {
        self.items()
    }

    fn named(self, key: &str) -> impl Iterator<Item = Self> {
        Value::named(self, key)
    }

    fn key(self) -> Cow<'t, str> {
        self.text().unwrap_or_default()
    }
}

/// One evaluation of a path.
pub(super) struct Eval<'n> {
    nodes: &'n [Node],
    searches: Option<&'n NeedleSet<'n>>,
    depth: Cell<usize>,
    written: Cell<usize>,
}

/// The result of a walk.
enum Found<'t> {
    /// Nothing was found. Other keys that fit may be tried.
    Miss,
    /// All elements that fit, maybe none. The list is kept unless another key leads to a single value.
    List(Option<Cow<'t, str>>),
    /// The result is final, even if it is no value.
    Value(Option<Cow<'t, str>>),
}

impl<'n> Eval<'n> {
    /// Starts an evaluation. `searches` belong to the record whose document is evaluated.
    pub(super) fn new(nodes: &'n [Node], searches: Option<&'n NeedleSet<'n>>) -> Self {
        Self { nodes, searches, depth: Cell::new(0), written: Cell::new(0) }
    }

    /// Returns the value that the path starting at `node` finds in `json`.
    pub(super) fn get<'t>(&self, node: NodeId, json: impl Json<'t>) -> Option<Cow<'t, str>> {
        let depth = self.depth.get();
        if depth >= MAX_DEPTH {
            return None;
        }
        self.depth.set(depth + 1);
        let found = self.start(node, json);
        self.depth.set(depth);
        found
    }

    fn start<'t, J: Json<'t>>(&self, node: NodeId, json: J) -> Option<Cow<'t, str>> {
        match self.nodes.get(node)? {
            Node::Modify { call, then } => {
                let out = match call {
                    Call::Builtin(builtin) => {
                        let out = builtin.apply(json.raw(), self)?;
                        if let Cow::Owned(out) = &out {
                            self.write(out.len())?;
                        }
                        out
                    }
                    Call::Modifier(hit) => {
                        let searches = self.searches.filter(|_| J::IN_RECORD);
                        Cow::Borrowed(hit.apply(json.raw(), searches)?)
                    }
                };
                self.then(*then, out)
            }
            Node::Literal { raw, then } => self.then(*then, Cow::Owned(raw.to_string())),
            Node::Multi { object, entries, then } => {
                let list = self.multi(*object, entries, json)?;
                self.then(*then, Cow::Owned(list))
            }
            Node::Lines(element) => match self.element(element, raw::lines(json.raw())) {
                Found::Miss => None,
                Found::List(value) | Found::Value(value) => value,
            },
            Node::Step(step) => match self.walk(step, json.inside()?) {
                Found::Miss => None,
                Found::List(value) | Found::Value(value) => value,
            },
        }
    }

    /// Evaluates the rest of the path on the result so far. Without a rest, returns the result as a value.
    fn then<'t>(&self, then: Option<NodeId>, out: Cow<'t, str>) -> Option<Cow<'t, str>> {
        map(out, |text| match then {
            Some(node) => self.get(node, text),
            None => raw::parse(text).map(Cow::Borrowed),
        })
    }

    fn pipe<'t>(&self, pipe: Option<NodeId>, value: Cow<'t, str>) -> Option<Cow<'t, str>> {
        match pipe {
            Some(node) => map(value, |text| self.get(node, text)),
            None => Some(value),
        }
    }

    fn multi<'t>(&self, object: bool, entries: &[Entry], json: impl Json<'t>) -> Option<String> {
        let mut out = String::from(if object { "{" } else { "[" });
        for Entry { name, path } in entries {
            let Some(value) = self.get(*path, json) else { continue };
            if out.len() > 1 {
                out.push(',');
            }
            if object {
                out.push_str(name);
                out.push(':');
            }
            self.write(value.len())?;
            out.push_str(&value);
        }
        out.push(if object { '}' } else { ']' });
        Some(out)
    }

    fn walk<'t>(&self, step: &Step, container: impl Json<'t>) -> Found<'t> {
        if container.is_list() {
            return self.element(&step.element, container.elements());
        }
        match &step.key {
            Key::Exact(key) => self.first(step.next, container.named(key)),
            Key::Like(glob) => {
                let members = container.members().filter(|(key, _)| glob.fits(&key.key()));
                self.first(step.next, members.map(|(_, value)| value))
            }
        }
    }

    /// Returns the result of the first value that leads to a single value; without one, the first list.
    fn first<'t, J: Json<'t>>(&self, next: Next, values: impl Iterator<Item = J>) -> Found<'t> {
        let mut list = None;
        for value in values {
            match self.next(next, value) {
                Found::Miss => {}
                Found::List(found) => {
                    list.get_or_insert(found);
                }
                found @ Found::Value(_) => return found,
            }
        }
        list.map_or(Found::Miss, Found::List)
    }

    fn next<'t>(&self, next: Next, value: impl Json<'t>) -> Found<'t> {
        match next {
            Next::End => Found::Value(Some(Cow::Borrowed(value.raw()))),
            Next::Pipe(node) => Found::Value(self.get(node, value)),
            Next::Into(node) => {
                let depth = self.depth.get();
                let (Some(Node::Step(step)), true, true) =
                    (self.nodes.get(node), value.is_container(), depth < MAX_DEPTH)
                else {
                    return Found::Miss;
                };
                self.depth.set(depth + 1);
                let found = self.walk(step, value);
                self.depth.set(depth);
                found
            }
        }
    }

    fn element<'t, J: Json<'t>>(
        &self,
        element: &Element,
        mut values: impl Iterator<Item = J>,
    ) -> Found<'t> {
        match element {
            Element::Nothing => Found::Miss,
            Element::Index(index, next) => {
                values.nth(*index).map_or(Found::Miss, |value| self.next(*next, value))
            }
            Element::Count(pipe) => {
                let count = Cow::Owned(values.count().to_string());
                Found::Value(self.pipe(*pipe, count))
            }
            Element::Each { path, pipe } => {
                let each = values.filter_map(|value| self.get(*path, value));
                let list = self.list(each);
                Found::Value(list.and_then(|list| self.pipe(*pipe, Cow::Owned(list))))
            }
            Element::Query { query, all, path, pipe } => {
                let mut fitting = values.filter(|value| self.fits(query, *value)).peekable();
                let inside = |value: J| match path {
                    Some(path) => self.get(*path, value),
                    None => Some(Cow::Borrowed(value.raw())),
                };
                if *all {
                    // As in GJSON, the pipe behind an inner path applies only if an element fits. Otherwise the list
                    // stays empty, whatever the pipe would make of it.
                    let pipe = pipe.filter(|_| path.is_none() || fitting.peek().is_some());
                    let list = self.list(fitting.filter_map(inside));
                    Found::List(list.and_then(|list| self.pipe(pipe, Cow::Owned(list))))
                } else if let Some(value) = fitting.next() {
                    Found::Value(inside(value).and_then(|value| self.pipe(*pipe, value)))
                } else {
                    Found::Miss
                }
            }
        }
    }

    fn fits<'t>(&self, query: &Query, element: impl Json<'t>) -> bool {
        let container = element.is_container();
        match query.path {
            Some(path) if container => query.test.holds(self.get(path, element).as_deref()),
            Some(_) => false,
            None if container => query.test.holds(self.get(query.empty, element).as_deref()),
            None => query.test.holds(Some(element.raw())),
        }
    }

    fn list<'t>(&self, values: impl Iterator<Item = Cow<'t, str>>) -> Option<String> {
        let mut out = String::from("[");
        for value in values {
            if out.len() > 1 {
                out.push(',');
            }
            self.write(value.len())?;
            out.push_str(&value);
        }
        out.push(']');
        Some(out)
    }

    /// Counts `bytes` as written; `None` if the limit is exceeded.
    pub(super) fn write(&self, bytes: usize) -> Option<()> {
        let written = self.written.get().saturating_add(bytes);
        self.written.set(written);
        (written <= MAX_WRITTEN).then_some(())
    }
}

/// Whether `raw` is `key`. `raw` is a key as it is written in the text, with its quotes.
fn is_key(raw: &str, key: &str) -> bool {
    // Most keys hold no escape and most keys differ in length.
    if raw.len() < key.len() + 2 {
        return false;
    }
    if raw.len() == key.len() + 2 && !raw.contains('\\') {
        return raw.get(1..raw.len() - 1) == Some(key);
    }
    raw.contains('\\') && *raw::decode(raw) == *key
}

/// Calls `work` on a text that is either borrowed or owned.
fn map<'t>(
    text: Cow<'t, str>,
    work: impl for<'x> FnOnce(&'x str) -> Option<Cow<'x, str>>,
) -> Option<Cow<'t, str>> {
    match text {
        Cow::Borrowed(text) => work(text),
        Cow::Owned(text) => work(&text).map(|found| Cow::Owned(found.into_owned())),
    }
}
