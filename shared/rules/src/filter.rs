//! Compiles the text of a rule: paths that must all find a value.

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

/// Reasons why the text of a rule cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The rule has only blanks and `;`.
    #[error("the rule is empty: it would match every record")]
    Empty,
    /// The argument of `@re` is not a regular expression.
    #[error("`{part}`: `{pattern}` is not a regular expression")]
    BadRegex {
        /// The part of the rule, between `;`.
        part: String,
        /// The expression, with JSON's escapes decoded.
        pattern: String,
        /// The error of the regular expression, with its position.
        #[source]
        source: Box<regex::Error>,
    },
    /// A part of the rule exceeds 16 KiB or 4096 pieces.
    #[error("a part of the rule is too long: `{beginning}…`")]
    TooLong {
        /// The part's first 60 characters.
        beginning: String,
    },
}

impl Filter {
    /// Compiles `rule`, which consists of GJSON paths separated by `;`. Empty parts are dropped. As in GJSON, an
    /// unknown modifier is read as a key. No record has such a key, so that gives a warning.
    ///
    /// # Errors
    /// [`FilterError`] if the rule is empty, or if a part is too long or has an invalid regular expression.
    pub fn compile(rule: &str) -> Result<Self, FilterError> {
        Self::compile_with(rule, &mut Interner::default())
    }

    /// Like [`Filter::compile`], for one of many rules. `interner` numbers the texts that the rules look for.
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

    /// Whether a record, given as its JSON text, matches the rule: each part finds a value that is not empty, `{}`,
    /// `[]` or `null`.
    pub fn matches(&self, json_text: &str) -> bool {
        self.0.parts.iter().all(|part| part.get(json_text).is_some_and(|found| is_hit(&found)))
    }

    /// Like [`Filter::matches`], for a parsed record. `searches` belong to this record and to the set of rules that
    /// this rule was compiled with.
    pub(super) fn matches_in(&self, document: &Document, searches: &NeedleSet<'_>) -> bool {
        let parts = &self.0.parts;
        parts.iter().all(|part| part.find(document, Some(searches)).is_some_and(|f| is_hit(&f)))
    }

    /// Returns the rule as it was written.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Returns warnings for the author of the rule, one sentence each, about parts that compile but are probably wrong.
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
