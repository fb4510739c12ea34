//! GJSON paths. They are compiled once to a table of nodes and evaluated on raw JSON text or a parsed document.
//!
//! Every piece of a path is a range of its text. Its meaning depends only on that range and on its place: at a start,
//! where modifiers, literals and multipaths are known, or inside a walk. The table is therefore keyed by both, grows
//! with the length of the text, and needs no recursion.
//!
//! Each component is kept in two readings, because `#` is a word of its own in an array and part of a key in an object.

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
    /// `@name:argument`, and the rest of the path.
    Modify { call: Call, then: Option<NodeId> },
    /// `!value`, and the rest of the path.
    Literal { raw: Box<str>, then: Option<NodeId> },
    /// `{…}` or `[…]`, and the rest of the path.
    Multi { object: bool, entries: Vec<Entry>, then: Option<NodeId> },
    /// `..`, which reads the text as lines of JSON.
    Lines(Element),
    /// One step into an object or array.
    Step(Step),
}

#[derive(Debug)]
enum Call {
    Builtin(Builtin),
    /// A modifier for rules: it returns the input, nothing, or for `re` the matched text.
    Modifier(Modifier),
}

/// One part of a multipath.
#[derive(Debug)]
struct Entry {
    /// Name as a JSON string.
    name: Box<str>,
    path: NodeId,
}

/// A component of a path, as it reads in an object and as it reads in an array.
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
    /// The path ends here, so this is the value.
    End,
    /// `.`: the path continues inside the value. If that finds nothing, the next key that fits is tried.
    Into(NodeId),
    /// `|`, or a dot before a modifier or multipath: the value is final, and the path continues on it.
    Pipe(NodeId),
}

#[derive(Debug)]
enum Element {
    /// The component finds nothing in an array.
    Nothing,
    Index(usize, Next),
    /// `#`: the number of elements.
    Count(Option<NodeId>),
    /// `#.path`: the results of a path on each element.
    Each {
        path: NodeId,
        pipe: Option<NodeId>,
    },
    /// `#(…)` or `#(…)#`: the first or all elements that fit.
    Query {
        query: Query,
        all: bool,
        path: Option<NodeId>,
        pipe: Option<NodeId>,
    },
}

impl Path {
    /// Returns the value that the path finds in `json`, as raw JSON text.
    pub(super) fn get<'t>(&self, json: &'t str) -> Option<Cow<'t, str>> {
        eval::Eval::new(&self.nodes, None).get(self.start, json)
    }

    /// Like [`Path::get`] on the text of `document`, without reading its values again. `searches` belong to this
    /// document.
    pub(super) fn find<'t>(
        &self,
        document: &'t Document,
        searches: Option<&NeedleSet<'_>>,
    ) -> Option<Cow<'t, str>> {
        let eval = eval::Eval::new(&self.nodes, searches);
        match self.nodes.get(self.start) {
            Some(Node::Step(_)) => eval.get(self.start, document.root()),
            // A modifier also sees the blanks around the record.
            _ => eval.get(self.start, document.text()),
        }
    }
}

#[cfg(test)]
mod tests;
