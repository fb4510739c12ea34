//! Walks a table of nodes over raw JSON text.

use std::{borrow::Cow, cell::Cell};

use super::{Call, Element, Entry, Key, Next, Node, NodeId, Step, query::Query};
use crate::selection::json::{self, Kind};

/// Deeper evaluations find nothing. Records are no deeper.
const MAX_DEPTH: usize = 128;
/// Bytes that modifiers and multipaths may write for one path; beyond it nothing is found. A rule can
/// double its text again and again, and must not take the process with it.
const MAX_WRITTEN: usize = 256 * 1024 * 1024;

/// One evaluation.
pub(super) struct Eval<'n> {
    nodes: &'n [Node],
    depth: Cell<usize>,
    written: Cell<usize>,
}

/// What a walk came to.
enum Found<'t> {
    /// Nothing: other keys that fit may be tried.
    Miss,
    /// All elements that fit, maybe none: kept unless another key leads to a single value.
    List(Option<Cow<'t, str>>),
    /// Decided, also where there is no value.
    Value(Option<Cow<'t, str>>),
}

impl<'n> Eval<'n> {
    pub(super) fn new(nodes: &'n [Node]) -> Self {
        Self { nodes, depth: Cell::new(0), written: Cell::new(0) }
    }

    /// What the path that starts at `node` finds in `json`.
    pub(super) fn get<'t>(&self, node: NodeId, json: &'t str) -> Option<Cow<'t, str>> {
        let depth = self.depth.get();
        if depth >= MAX_DEPTH {
            return None;
        }
        self.depth.set(depth + 1);
        let found = self.start(node, json);
        self.depth.set(depth);
        found
    }

    fn start<'t>(&self, node: NodeId, json: &'t str) -> Option<Cow<'t, str>> {
        match self.nodes.get(node)? {
            Node::Modify { call, then } => {
                let out = match call {
                    Call::Builtin(builtin) => {
                        let out = builtin.apply(json, self)?;
                        if let Cow::Owned(out) = &out {
                            self.write(out.len())?;
                        }
                        out
                    }
                    Call::Hit(hit) => Cow::Borrowed(hit.apply(json)?),
                };
                self.then(*then, out)
            }
            Node::Literal { raw, then } => self.then(*then, Cow::Owned(raw.to_string())),
            Node::Multi { object, entries, then } => {
                let list = self.multi(*object, entries, json)?;
                self.then(*then, Cow::Owned(list))
            }
            Node::Lines(element) => match self.element(element, json::lines(json)) {
                Found::Miss => None,
                Found::List(value) | Found::Value(value) => value,
            },
            Node::Step(step) => {
                let text = json.trim_start_matches(|c: char| c <= ' ');
                // A string may hold brackets, and yet has no members.
                if text.starts_with('"') {
                    return None;
                }
                let open = memchr::memchr2(b'{', b'[', text.as_bytes())?;
                match self.walk(step, text.get(open..)?) {
                    Found::Miss => None,
                    Found::List(value) | Found::Value(value) => value,
                }
            }
        }
    }

    /// The rest of the path on what was found so far, or that as a value.
    fn then<'t>(&self, then: Option<NodeId>, out: Cow<'t, str>) -> Option<Cow<'t, str>> {
        map(out, |text| match then {
            Some(node) => self.get(node, text),
            None => json::parse(text).map(Cow::Borrowed),
        })
    }

    fn pipe<'t>(&self, pipe: Option<NodeId>, value: Cow<'t, str>) -> Option<Cow<'t, str>> {
        match pipe {
            Some(node) => map(value, |text| self.get(node, text)),
            None => Some(value),
        }
    }

    fn multi(&self, object: bool, entries: &[Entry], json: &str) -> Option<String> {
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

    /// `container` begins with its bracket.
    fn walk<'t>(&self, step: &Step, container: &'t str) -> Found<'t> {
        if container.starts_with('[') {
            return self.element(&step.element, json::elements(container));
        }
        let mut list = None;
        for (key, value) in json::members(container) {
            if !step.key.fits(key) {
                continue;
            }
            match self.next(step.next, value) {
                Found::Miss => {}
                Found::List(found) => {
                    list.get_or_insert(found);
                }
                found @ Found::Value(_) => return found,
            }
        }
        list.map_or(Found::Miss, Found::List)
    }

    fn next<'t>(&self, next: Next, value: &'t str) -> Found<'t> {
        match next {
            Next::End => Found::Value(Some(Cow::Borrowed(value))),
            Next::Pipe(node) => Found::Value(self.get(node, value)),
            Next::Into(node) => {
                let depth = self.depth.get();
                let (Some(Node::Step(step)), true, true) =
                    (self.nodes.get(node), value.starts_with(['{', '[']), depth < MAX_DEPTH)
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

    fn element<'t>(&self, element: &Element, mut values: json::Elements<'t>) -> Found<'t> {
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
                let mut fitting = values.filter(|value| self.fits(query, value)).peekable();
                let inside = |value: &'t str| match path {
                    Some(path) => self.get(*path, value),
                    None => Some(Cow::Borrowed(value)),
                };
                if *all {
                    // GJSON looks for the pipe behind an inner path when an element fits, so that
                    // without one the list stays, empty, whatever would have become of it.
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

    fn fits(&self, query: &Query, element: &str) -> bool {
        let container = matches!(json::kind(element), Some(Kind::Object | Kind::Array));
        match query.path {
            Some(path) if container => query.test.holds(self.get(path, element).as_deref()),
            Some(_) => false,
            None if container => query.test.holds(self.get(query.empty, element).as_deref()),
            None => query.test.holds(Some(element)),
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

    /// Accounts for `bytes` written; `None` when that is too much.
    pub(super) fn write(&self, bytes: usize) -> Option<()> {
        let written = self.written.get().saturating_add(bytes);
        self.written.set(written);
        (written <= MAX_WRITTEN).then_some(())
    }
}

impl Key {
    /// `raw` is a key as it stands in the text, quotes included.
    fn fits(&self, raw: &str) -> bool {
        match self {
            Self::Exact(key) => {
                // Most keys hold no escape and most keys differ in length.
                if raw.len() < key.len() + 2 {
                    return false;
                }
                if raw.len() == key.len() + 2 && !raw.contains('\\') {
                    return raw.get(1..raw.len() - 1) == Some(key);
                }
                raw.contains('\\') && json::decode(raw) == **key
            }
            Self::Like(glob) => glob.fits(&json::decode(raw)),
        }
    }
}

/// Works on a text that may have been made on the way.
fn map<'t>(
    text: Cow<'t, str>,
    work: impl for<'x> FnOnce(&'x str) -> Option<Cow<'x, str>>,
) -> Option<Cow<'t, str>> {
    match text {
        Cow::Borrowed(text) => work(text),
        Cow::Owned(text) => work(&text).map(|found| Cow::Owned(found.into_owned())),
    }
}
