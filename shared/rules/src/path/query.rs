//! Queries: the text between the brackets of `#(…)`.

use std::cmp::Ordering;

use super::{NodeId, glob::Glob};
use crate::raw::{self, Kind};

/// A condition on the elements of an array.
#[derive(Debug)]
pub(super) struct Query {
    /// Path in an element to the value that is compared; `None` for the element itself.
    pub(super) path: Option<NodeId>,
    /// Path that is evaluated on elements that are objects or arrays if the query has no path.
    pub(super) empty: NodeId,
    pub(super) test: Compare,
}

/// The comparison of a query.
#[derive(Debug)]
pub(super) enum Compare {
    /// The value exists.
    Exists,
    /// Whether the value belongs to a class is compared with true.
    Class(Class, Operator),
    /// The value is compared with a text that never equals a value of any class.
    Never,
    /// The value is compared with a written one.
    Value { operator: Operator, text: String, number: f64, like: Glob },
}

/// Classes of values, such as `~true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// `~true`: true, numbers other than 0, strings that spell true.
    True,
    /// `~false`: false, 0, strings that spell false, null and missing values.
    False,
    /// `~null`: null and missing values.
    Null,
    /// `~*`: any value that exists.
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Like,
    NotLike,
}

/// The parts of a query's text, and its end.
pub(super) struct Parts {
    /// Range of the path in the text.
    pub(super) path: (usize, usize),
    pub(super) test: Compare,
    /// Position behind the closing bracket.
    pub(super) end: usize,
}

/// Reads the query at the start of `query`, which begins with `#(` or `#[`. `None` if its bracket does not close.
pub(super) fn parts(query: &str) -> Option<Parts> {
    let bytes = query.as_bytes();
    let mut depth = 1_usize;
    let mut operator = None;
    let mut at = 2;
    let close = loop {
        match bytes.get(at)? {
            b'\\' => at += 1,
            b'(' | b'[' => depth += 1,
            b')' | b']' => {
                depth -= 1;
                if depth == 0 {
                    break at;
                }
            }
            b'"' => {
                let end = raw::value_end(query, at);
                if end >= bytes.len() && !query.ends_with('"') {
                    return None;
                }
                at = end;
                continue;
            }
            b'!' | b'=' | b'<' | b'>' | b'%' if depth == 1 && operator.is_none() => {
                operator = Some(at);
            }
            _ => {}
        }
        at += 1;
    };
    let path_end = operator.unwrap_or(close);
    let path = trimmed(query, 2, path_end);
    let condition = match operator {
        Some(at) => compare(query.get(at..close)?.trim_matches(|c: char| c <= ' ')),
        None => Compare::Exists,
    };
    Some(Parts { path, test: condition, end: close + 1 })
}

fn trimmed(text: &str, start: usize, end: usize) -> (usize, usize) {
    let blank = |c: char| c <= ' ';
    let part = text.get(start..end).unwrap_or_default();
    let left = part.len() - part.trim_start_matches(blank).len();
    (start + left, start + left + part.trim_matches(blank).len())
}

/// Reads an operator and the value behind it.
fn compare(text: &str) -> Compare {
    const OPERATORS: [(&str, Operator); 9] = [
        ("!=", Operator::NotEqual),
        ("!%", Operator::NotLike),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("==", Operator::Equal),
        ("=", Operator::Equal),
        ("<", Operator::Less),
        (">", Operator::Greater),
        ("%", Operator::Like),
    ];
    let Some((value, operator)) =
        OPERATORS.iter().find_map(|(sign, operator)| Some((text.strip_prefix(sign)?, *operator)))
    else {
        // A lone `!` compares nothing.
        return Compare::Exists;
    };
    let value = value.trim_matches(|c: char| c <= ' ');
    let text = match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => raw::unescape(inner).into_owned(),
        None => value.to_owned(),
    };
    if let Some(class) = text.strip_prefix('~') {
        return match class {
            "true" => Compare::Class(Class::True, operator),
            "false" => Compare::Class(Class::False, operator),
            "null" => Compare::Class(Class::Null, operator),
            "*" => Compare::Class(Class::Any, operator),
            _ => Compare::Never,
        };
    }
    let number = text.parse().unwrap_or(0.0);
    let like = Glob::new(&text);
    Compare::Value { operator, text, number, like }
}

impl Compare {
    /// Whether the comparison holds for a value; `None` stands for a missing one.
    pub(super) fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Never => false,
            Self::Exists => value.is_some(),
            // The class gives true or false, which is compared with true.
            Self::Class(class, operator) => boolean(class.holds(value), *operator, "true"),
            Self::Value { operator, text, number, like } => {
                let Some(raw) = value else { return false };
                match raw::kind(raw) {
                    Some(Kind::String) => string(&raw::decode(raw), *operator, text, like),
                    Some(Kind::Number) => raw
                        .parse::<f64>()
                        .is_ok_and(|value| ordering(value.partial_cmp(number), *operator)),
                    Some(Kind::True) => boolean(true, *operator, text),
                    Some(Kind::False) => boolean(false, *operator, text),
                    _ => false,
                }
            }
        }
    }
}

fn string(value: &str, operator: Operator, text: &str, like: &Glob) -> bool {
    match operator {
        Operator::Like => like.fits(value),
        Operator::NotLike => !like.fits(value),
        _ => ordering(Some(value.cmp(text)), operator),
    }
}

fn ordering(order: Option<Ordering>, operator: Operator) -> bool {
    match operator {
        Operator::Equal => order == Some(Ordering::Equal),
        Operator::NotEqual => order != Some(Ordering::Equal),
        Operator::Less => order == Some(Ordering::Less),
        Operator::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Operator::Greater => order == Some(Ordering::Greater),
        Operator::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        Operator::Like | Operator::NotLike => false,
    }
}

/// Compares booleans, with false < true. Other texts are neither.
fn boolean(value: bool, operator: Operator, text: &str) -> bool {
    let own = if value { "true" } else { "false" };
    let other = if value { "false" } else { "true" };
    match operator {
        Operator::Equal => text == own,
        Operator::NotEqual => text != own,
        Operator::Less => !value && text == other,
        Operator::Greater => value && text == other,
        Operator::LessOrEqual => !value,
        Operator::GreaterOrEqual => value,
        Operator::Like | Operator::NotLike => false,
    }
}

impl Class {
    fn holds(self, value: Option<&str>) -> bool {
        let kind = value.and_then(raw::kind);
        match self {
            Self::Any => value.is_some(),
            Self::Null => matches!(kind, None | Some(Kind::Null)),
            Self::True => match kind {
                Some(Kind::True) => true,
                Some(Kind::Number) => number(value) != 0.0,
                Some(Kind::String) => spelled(value) == Some(true),
                _ => false,
            },
            Self::False => match kind {
                None | Some(Kind::Null | Kind::False) => true,
                Some(Kind::Number) => number(value) == 0.0,
                Some(Kind::String) => spelled(value) == Some(false),
                _ => false,
            },
        }
    }
}

fn number(raw: Option<&str>) -> f64 {
    raw.and_then(|raw| raw.parse().ok()).unwrap_or(0.0)
}

/// Returns the boolean that a string spells.
fn spelled(raw: Option<&str>) -> Option<bool> {
    match raw::decode(raw?).to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Some(true),
        "0" | "f" | "false" => Some(false),
        _ => None,
    }
}
