//! JSON with its members in the order they were put in: the same text on every platform and with any
//! features of `serde_json` that another part of the workspace may switch on.

use std::fmt::{self, Write as _};

/// A JSON value.
#[derive(Clone, Debug)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Int(i64),
    /// A number's own digits.
    Number(String),
    Text(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

/// An object literal: `obj! { "key" => value, … }`.
macro_rules! obj {
    ($($key:expr => $value:expr),* $(,)?) => {
        $crate::feed::json::Json::Map(vec![$(($key.into(), $crate::feed::json::Json::from($value))),*])
    };
}
pub(super) use obj;

/// A list of what the function makes, that many times.
pub(super) fn list<T: Into<Json>>(count: i64, make: impl FnMut(i64) -> T) -> Json {
    Json::List((0..count).map(make).map(Into::into).collect())
}

/// A number from its digits.
pub(super) fn number(digits: String) -> Json {
    Json::Number(digits)
}

impl Json {
    /// Puts a member at the end of an object.
    pub(super) fn put(&mut self, key: impl Into<String>, value: impl Into<Self>) {
        if let Self::Map(members) = self {
            members.push((key.into(), value.into()));
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Json {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Vec<Self>> for Json {
    fn from(items: Vec<Self>) -> Self {
        Self::List(items)
    }
}

impl<const N: usize> From<[&str; N]> for Json {
    fn from(items: [&str; N]) -> Self {
        Self::List(items.map(Self::from).into())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Number(digits) => f.write_str(digits),
            Self::Text(text) => write_text(f, text),
            Self::List(items) => {
                f.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_char(']')
            }
            Self::Map(members) => {
                f.write_char('{')?;
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write_text(f, key)?;
                    write!(f, ": {value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

/// Escapes what JSON demands, and all that is not ASCII: so does VirusTotal.
fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            ' '..='~' => f.write_char(c)?,
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(f, "\\u{unit:04x}")?;
                }
            }
        }
    }
    f.write_char('"')
}
