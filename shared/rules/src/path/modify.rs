//! The modifiers that GJSON itself has.

use std::borrow::Cow;

use super::{NodeId, eval::Eval};
use crate::raw::{self, Kind};

/// Deepest nesting that the modifiers look into. Deeper values are left as they are.
const MAX_DEPTH: usize = 128;

#[derive(Debug)]
pub(super) enum Builtin {
    This,
    Valid,
    Reverse,
    Ugly,
    Pretty(PrettyOptions),
    Flatten { deep: bool },
    Join { preserve: bool },
    Keys,
    Values,
    ToStr,
    FromStr,
    Group,
    Dig(NodeId),
}

#[derive(Debug)]
pub(super) struct PrettyOptions {
    pub(super) sort_keys: bool,
    pub(super) indent: String,
    pub(super) prefix: String,
    /// Most columns of a list on a single line.
    pub(super) width: usize,
}

impl Default for PrettyOptions {
    fn default() -> Self {
        Self { sort_keys: false, indent: "  ".to_owned(), prefix: String::new(), width: 80 }
    }
}

impl Builtin {
    /// Returns the result of the modifier for `json`; `None` if it has none.
    pub(super) fn apply<'t>(&self, json: &'t str, eval: &Eval<'_>) -> Option<Cow<'t, str>> {
        let trimmed = json.trim_matches(|c: char| c <= ' ');
        Some(match self {
            Self::Valid => Cow::Borrowed(raw::valid(json).then_some(json)?),
            Self::Reverse => reverse(trimmed).map_or(Cow::Borrowed(json), Cow::Owned),
            Self::Ugly => Cow::Owned(ugly(json)),
            Self::Pretty(options) => Cow::Owned(options.pretty(trimmed)),
            Self::Flatten { deep } if trimmed.starts_with('[') => {
                let mut values = Vec::new();
                flatten(trimmed, *deep, 0, &mut values);
                Cow::Owned(list(values))
            }
            Self::Join { preserve } if trimmed.starts_with('[') => {
                Cow::Owned(join(trimmed, *preserve))
            }
            Self::This | Self::Flatten { .. } | Self::Join { .. } => Cow::Borrowed(json),
            Self::Keys => Cow::Owned(keys(trimmed)),
            Self::Values => match raw::kind(trimmed) {
                Some(Kind::Object) => {
                    Cow::Owned(list(raw::members(trimmed).map(|(_, value)| value)))
                }
                Some(Kind::Array) => Cow::Borrowed(json),
                _ => Cow::Owned(format!("[{trimmed}]")),
            },
            Self::ToStr => Cow::Owned(raw::quote(json)),
            Self::FromStr => {
                raw::valid(json).then_some(())?;
                if trimmed.starts_with('"') { raw::decode(trimmed) } else { raw::as_text(json) }
            }
            Self::Group => Cow::Owned(group(trimmed)?),
            Self::Dig(path) => {
                let mut found = Vec::new();
                dig(trimmed, *path, eval, 0, &mut found);
                Cow::Owned(list(found))
            }
        })
    }
}

fn list<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> String {
    let mut out = String::from("[");
    for value in values {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(value.as_ref());
    }
    out.push(']');
    out
}

fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::from("{");
    for (key, value) in members {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(key);
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    out
}

fn reverse(json: &str) -> Option<String> {
    match raw::kind(json)? {
        Kind::Array => {
            let mut values: Vec<_> = raw::elements(json).collect();
            values.reverse();
            Some(list(values))
        }
        Kind::Object => {
            let mut members: Vec<_> = raw::members(json).collect();
            members.reverse();
            Some(object(members))
        }
        _ => None,
    }
}

fn keys(json: &str) -> String {
    match raw::kind(json) {
        Some(Kind::Object) => list(raw::members(json).map(|(key, _)| key)),
        // Elements have no names.
        Some(Kind::Array) => list(raw::elements(json).map(|_| "null")),
        Some(_) => "[null]".to_owned(),
        None => "[]".to_owned(),
    }
}

fn flatten<'t>(array: &'t str, deep: bool, depth: usize, out: &mut Vec<&'t str>) {
    for value in raw::elements(array) {
        if !value.starts_with('[') {
            out.push(value);
        } else if deep && depth < MAX_DEPTH {
            flatten(value, true, depth + 1, out);
        } else if depth == 0 {
            out.extend(raw::elements(value));
        } else {
            out.push(value);
        }
    }
}

fn join(array: &str, preserve: bool) -> String {
    let all = raw::elements(array).flat_map(raw::members);
    if preserve {
        return object(all);
    }
    // Among equal keys, the first one gives the place and the last one the value.
    let mut places = std::collections::HashMap::new();
    let mut members: Vec<(&str, &str)> = Vec::new();
    for (key, value) in all {
        let place = *places.entry(raw::decode(key)).or_insert(members.len());
        match members.get_mut(place) {
            Some(member) => member.1 = value,
            None => members.push((key, value)),
        }
    }
    object(members)
}

/// Converts an object of lists to a list of objects.
fn group(json: &str) -> Option<String> {
    json.starts_with('{').then_some(())?;
    let mut rows: Vec<Vec<(&str, &str)>> = Vec::new();
    for (key, value) in raw::members(json) {
        for (index, element) in raw::elements(value).enumerate() {
            match rows.get_mut(index) {
                Some(row) => row.push((key, element)),
                None => rows.push(vec![(key, element)]),
            }
        }
    }
    Some(list(rows.into_iter().map(object)))
}

/// Collects the results of `path` for a value and for everything inside it, outer values first.
fn dig<'t>(
    json: &'t str,
    path: NodeId,
    eval: &Eval<'_>,
    depth: usize,
    found: &mut Vec<Cow<'t, str>>,
) {
    if depth > MAX_DEPTH {
        return;
    }
    if let Some(value) = eval.get(path, json)
        && eval.write(value.len()).is_some()
    {
        found.push(value);
    }
    if json.starts_with('[') {
        for value in raw::elements(json) {
            dig(value, path, eval, depth + 1, found);
        }
    } else {
        for (_, value) in raw::members(json) {
            dig(value, path, eval, depth + 1, found);
        }
    }
}

fn ugly(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(|c: char| c <= ' ' || c == '"') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let length = if from.starts_with('"') {
            let end = raw::value_end(from, 0);
            out.push_str(from.get(..end).unwrap_or_default());
            end
        } else {
            1
        };
        rest = from.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

impl PrettyOptions {
    fn pretty(&self, json: &str) -> String {
        // The first line has no prefix: with one, the result would not begin a JSON value.
        let mut out = String::new();
        self.value(json, 0, &mut out);
        if json.starts_with(['{', '[']) {
            out.push('\n');
        }
        out
    }

    fn value(&self, raw: &str, depth: usize, out: &mut String) {
        let (open, close) = match raw::kind(raw) {
            Some(Kind::Object) if depth < MAX_DEPTH => ('{', '}'),
            Some(Kind::Array) if depth < MAX_DEPTH => {
                if let Some(line) = self.one_line(raw, out) {
                    return out.push_str(&line);
                }
                ('[', ']')
            }
            _ => return out.push_str(raw),
        };
        out.push(open);
        let mut empty = true;
        let mut item = |key: Option<&str>, value: &str, out: &mut String| {
            out.push_str(if empty { "\n" } else { ",\n" });
            empty = false;
            self.indent(depth + 1, out);
            if let Some(key) = key {
                out.push_str(key);
                out.push_str(": ");
            }
            self.value(value, depth + 1, out);
        };
        if open == '{' {
            let mut members: Vec<_> = raw::members(raw).collect();
            if self.sort_keys {
                members.sort_by(|(a, _), (b, _)| raw::decode(a).cmp(&raw::decode(b)));
            }
            for (key, value) in members {
                item(Some(key), value, out);
            }
        } else {
            for value in raw::elements(raw) {
                item(None, value, out);
            }
        }
        if !empty {
            out.push('\n');
            self.indent(depth, out);
        }
        out.push(close);
    }

    fn indent(&self, depth: usize, out: &mut String) {
        out.push_str(&self.prefix);
        for _ in 0..depth {
            out.push_str(&self.indent);
        }
    }

    /// Returns a list without objects on one line, if it fits into the width.
    fn one_line(&self, array: &str, out: &str) -> Option<String> {
        let column = out.len() - out.rfind('\n').map_or(0, |at| at + 1);
        let room = self.width.checked_sub(column)?;
        let mut line = String::new();
        write_line(array, room, &mut line)?;
        Some(line)
    }
}

/// Appends `array` to `line`. `None` if it contains an object or exceeds `room`, which also bounds the depth.
fn write_line(array: &str, room: usize, line: &mut String) -> Option<()> {
    line.push('[');
    for (index, value) in raw::elements(array).enumerate() {
        if index > 0 {
            line.push_str(", ");
        }
        match raw::kind(value)? {
            // A hundred columns have at most a hundred brackets. A larger width allows no deeper nesting.
            Kind::Array if line.len() < room.min(MAX_DEPTH) => write_line(value, room, line)?,
            Kind::Array | Kind::Object => return None,
            _ => line.push_str(value),
        }
        if line.len() > room {
            return None;
        }
    }
    line.push(']');
    (line.len() <= room).then_some(())
}
