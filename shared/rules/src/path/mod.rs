//! GJSON paths: compiled once into a table of nodes, evaluated over raw JSON text or a parsed document.
//!
//! Every piece of a path is a range of its text, and what a piece means depends only on that range and
//! on whether it stands at a start (where modifiers, literals and multipaths are known) or inside a
//! walk. So the table is keyed by both, grows with the text's length, and needs no recursion.
//!
//! Two readings of one component are kept side by side, since `#` is a word of its own in an array
//! and part of a key in an object.

mod compile;
mod eval;
mod glob;
mod modify;
mod query;

use std::borrow::Cow;

use self::{glob::Glob, modify::Builtin, query::Query};
use super::{hits::Modifier, needles::NeedleSet};
use json::Document;

pub(super) use self::compile::{CompileError, Warning};

/// Index into [`Path::nodes`].
type NodeId = usize;

/// A compiled path.
#[derive(Debug)]
pub(super) struct Path {
    nodes: Vec<Node>,
    start: NodeId,
}

#[derive(Debug)]
enum Node {
    /// `@name:argument`, then the rest.
    Modify { call: Call, then: Option<NodeId> },
    /// `!value`, then the rest.
    Literal { raw: Box<str>, then: Option<NodeId> },
    /// `{…}` or `[…]`, then the rest.
    Multi { object: bool, entries: Vec<Entry>, then: Option<NodeId> },
    /// `..`: the text as lines of JSON.
    Lines(Element),
    /// One step down.
    Step(Step),
}

#[derive(Debug)]
enum Call {
    Builtin(Builtin),
    /// Gives the input back, nothing, or for `re` the matched text.
    Modifier(Modifier),
}

/// One part of a multipath.
#[derive(Debug)]
struct Entry {
    /// A JSON string.
    name: Box<str>,
    path: NodeId,
}

/// A component: how it reads where it meets an object, and where it meets an array.
#[derive(Debug)]
struct Step {
    key: Key,
    next: Next,
    element: Element,
}

#[derive(Debug)]
enum Key {
    Exact(Box<str>),
    Like(Glob),
}

#[derive(Debug, Clone, Copy)]
enum Next {
    /// This is the value.
    End,
    /// `.`: go on inside; where that finds nothing, the next key that fits is tried.
    Into(NodeId),
    /// `|`, or a dot before a modifier or multipath: the value is settled, work on it.
    Pipe(NodeId),
}

#[derive(Debug)]
enum Element {
    /// Nothing in an array is called so.
    Nothing,
    Index(usize, Next),
    /// `#`
    Count(Option<NodeId>),
    /// `#.path`
    Each {
        path: NodeId,
        pipe: Option<NodeId>,
    },
    /// `#(…)` and `#(…)#`
    Query {
        query: Query,
        all: bool,
        path: Option<NodeId>,
        pipe: Option<NodeId>,
    },
}

impl Path {
    /// What the path finds in `json`, as raw JSON text.
    pub(super) fn get<'t>(&self, json: &'t str) -> Option<Cow<'t, str>> {
        eval::Eval::new(&self.nodes, None).get(self.start, json)
    }

    /// The same for the text of `document`, whose values are not read again. `searches` are those of this document.
    pub(super) fn find<'t>(
        &self,
        document: &'t Document,
        searches: Option<&NeedleSet<'_>>,
    ) -> Option<Cow<'t, str>> {
        let eval = eval::Eval::new(&self.nodes, searches);
        match self.nodes.get(self.start) {
            Some(Node::Step(_)) => eval.get(self.start, document.root()),
            // A modifier sees the blanks around the record too.
            _ => eval.get(self.start, document.text()),
        }
    }
}

#[cfg(test)]
mod tests;
