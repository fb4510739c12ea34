//! A rule's text, compiled: paths that must all find something.

use std::{fmt, sync::Arc};

use super::{
    needles::{Interner, NeedleSet},
    path::{CompileError, Path, Warning},
};
use json::Document;

/// A rule's text, compiled. Cheap to clone.
#[derive(Clone)]
pub struct Filter(Arc<Compiled>);

struct Compiled {
    text: String,
    parts: Vec<Path>,
    warnings: Vec<String>,
}

/// Why a rule's text cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Nothing but blanks and `;`.
    #[error("the rule is empty: it would match every record")]
    Empty,
    /// The argument of `@re` is not a regular expression.
    #[error("`{part}`: `{pattern}` is not a regular expression")]
    BadRegex {
        /// The part of the rule, between `;`.
        part: String,
        /// The expression, with JSON's escapes decoded.
        pattern: String,
        /// Where and why.
        #[source]
        source: Box<regex::Error>,
    },
    /// Longer or more involved than a rule can be (16 KiB or 4096 pieces a part).
    #[error("a part of the rule is too long: `{beginning}…`")]
    TooLong {
        /// The part's first 60 characters.
        beginning: String,
    },
}

impl Filter {
    /// Compiles `rule`: parts between `;`, each a GJSON path, empty ones dropped. As in GJSON, a modifier
    /// that does not exist is a key, which no record has: that is a warning.
    ///
    /// # Errors
    /// The rule is empty, or a part is too long or holds a bad regular expression.
    pub fn compile(rule: &str) -> Result<Self, FilterError> {
        Self::compile_with(rule, &mut Interner::default())
    }

    /// As [`Filter::compile`], for one of many rules whose texts to look for get their numbers from `interner`.
    pub(super) fn compile_with(rule: &str, interner: &mut Interner) -> Result<Self, FilterError> {
        if rule.split(';').all(|part| part.trim().is_empty()) {
            return Err(FilterError::Empty);
        }
        let mut parts = Vec::new();
        let mut warnings = Vec::new();
        for part in rule.split(';').filter(|part| !part.is_empty()) {
            let (path, notes) =
                Path::compile(part, interner).map_err(|error| explain(part, error))?;
            parts.push(path);
            warnings.extend(notes.iter().map(|note| describe(part, note)));
        }
        Ok(Self(Arc::new(Compiled { text: rule.to_owned(), parts, warnings })))
    }

    /// The record, given as its JSON text, matches: each part finds something that is not empty, `{}`,
    /// `[]` or `null`.
    pub fn matches(&self, json_text: &str) -> bool {
        self.0.parts.iter().all(|part| part.get(json_text).is_some_and(|found| is_hit(&found)))
    }

    /// The same for a record that was parsed. `searches` are of this record, and of the rules that this one was
    /// compiled with.
    pub(super) fn matches_in(&self, document: &Document, searches: &NeedleSet<'_>) -> bool {
        let parts = &self.0.parts;
        parts.iter().all(|part| part.find(document, Some(searches)).is_some_and(|f| is_hit(&f)))
    }

    /// The rule as written.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// What compiles and can hardly be meant, a sentence each, for whoever checks rules.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }
}

fn is_hit(found: &str) -> bool {
    !matches!(found, "" | "\"\"" | "{}" | "[]" | "null")
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.0.text).finish()
    }
}

fn explain(part: &str, error: CompileError) -> FilterError {
    let part = part.to_owned();
    match error {
        CompileError::TooLong => {
            FilterError::TooLong { beginning: part.chars().take(60).collect() }
        }
        CompileError::BadRegex { pattern, source } => {
            FilterError::BadRegex { part, pattern, source }
        }
    }
}

fn describe(part: &str, warning: &Warning) -> String {
    match warning {
        Warning::Ignored(text) => {
            format!("`{part}`: `{text}` is ignored, since the argument before it has ended")
        }
        Warning::NeverHits(call) => format!(
            "`{call}` never hits: in, any and iany need items, gt and lt a whole number, re a quoted \
             expression"
        ),
        Warning::UnknownModifier(name) => format!(
            "`{part}`: there is no modifier `@{name}`, so it is a key, which VirusTotal's records do not \
             have (write `\\@{name}` if it is meant). Known are eq ne in lt gt re contains icontains any \
             iany, and this valid reverse ugly pretty keys values flatten join tostr fromstr group dig"
        ),
    }
}
