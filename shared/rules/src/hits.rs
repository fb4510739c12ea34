//! The ten modifiers for rules. Each looks at the raw JSON text of a value (a string with its quotes, a list with its
//! spacing) and returns it on a hit, otherwise nothing.

use memchr::memmem::Finder;
use regex::bytes::Regex;

use super::{
    needles::{Interner, NeedleSet},
    raw, re2,
};

/// A modifier with its argument, compiled.
#[derive(Debug)]
pub(super) enum Modifier {
    /// The argument can never give a hit.
    Never,
    Equal(Box<str>),
    NotEqual(Box<str>),
    /// The value is equal to one of the texts.
    In(Vec<Box<str>>),
    Greater(i64),
    Less(i64),
    Matches(Regex),
    /// The value contains one of the texts.
    Any(Any),
    /// The value contains one of the texts in any case.
    AnyCase(AnyCase),
}

/// Texts to look for as they are.
#[derive(Debug)]
pub(super) struct Any {
    needles: Vec<Finder<'static>>,
    /// Numbers of the texts among those of all rules; `None` if one of the texts has no number.
    numbers: Option<Box<[usize]>>,
}

/// Texts to look for in any case: both sides are lower-cased.
#[derive(Debug)]
pub(super) struct AnyCase {
    /// Numbers of the ASCII texts among those of all rules; `None` if one of them has no number.
    numbers: Option<Box<[usize]>>,
    /// Finders of the lower-cased texts.
    needles: Vec<Finder<'static>>,
    /// Expression for all ASCII texts at once. It serves values that are ASCII, as nearly all are, without a copy of
    /// the value.
    ascii: Option<Regex>,
}

/// A regular expression that does not compile.
#[derive(Debug)]
pub(super) struct HitError {
    pub(super) pattern: String,
    pub(super) source: Box<regex::Error>,
}

impl Modifier {
    /// Whether `name` is one of the ten modifiers.
    pub(super) fn known(name: &str) -> bool {
        matches!(
            name,
            "eq" | "ne" | "in" | "lt" | "gt" | "re" | "contains" | "icontains" | "any" | "iany"
        )
    }

    /// Returns the modifier `name` with `argument` as it is written, empty if there is none. `None` for a name that is
    /// not one of the ten.
    pub(super) fn new(
        name: &str,
        argument: &str,
        interner: &mut Interner,
    ) -> Option<Result<Self, HitError>> {
        let number = |hit: fn(i64) -> Self| argument.parse().map_or(Self::Never, hit);
        let items = || Some(items(argument)).filter(|items| !items.is_empty());
        Some(Ok(match name {
            "eq" => Self::Equal(argument.into()),
            "ne" => Self::NotEqual(argument.into()),
            "gt" => number(Self::Greater),
            "lt" => number(Self::Less),
            "in" => items().map_or(Self::Never, Self::In),
            "any" => items().map_or(Self::Never, |items| Self::Any(Any::new(&items, interner))),
            "iany" => {
                items().map_or(Self::Never, |items| Self::AnyCase(AnyCase::new(&items, interner)))
            }
            "contains" => Self::Any(Any::new(&[argument.into()], interner)),
            "icontains" => Self::AnyCase(AnyCase::new(&[argument.into()], interner)),
            "re" => return Some(Self::expression(argument)),
            _ => return None,
        }))
    }

    /// Compiles the argument of `re`. Text without quotes is not JSON and counts as the empty expression, which never
    /// hits.
    fn expression(argument: &str) -> Result<Self, HitError> {
        let pattern = if raw::valid(argument) { raw::as_text(argument) } else { "".into() };
        if pattern.is_empty() {
            return Ok(Self::Never);
        }
        match re2::compile(&pattern) {
            Ok(regex) => Ok(Self::Matches(regex)),
            Err(source) => {
                Err(HitError { pattern: pattern.into_owned(), source: Box::new(source) })
            }
        }
    }

    /// Returns the part of `raw` that the modifier passes on: all of it, or the first match for `re`; `None` without a
    /// hit. `searches` may be given only if `raw` is a part of their record.
    pub(super) fn apply<'t>(
        &self,
        raw: &'t str,
        searches: Option<&NeedleSet<'_>>,
    ) -> Option<&'t str> {
        let bytes = raw.as_bytes();
        let hit = match self {
            Self::Never => false,
            Self::Equal(text) => raw == &**text,
            Self::NotEqual(text) => raw != &**text,
            Self::In(items) => items.iter().any(|item| **item == *raw),
            Self::Greater(number) => raw.parse::<i64>().is_ok_and(|value| value > *number),
            Self::Less(number) => raw.parse::<i64>().is_ok_and(|value| value < *number),
            Self::Matches(regex) => {
                let range = regex.find(bytes)?.range();
                return raw.get(range).filter(|text| !text.is_empty());
            }
            Self::Any(any) => any.found_in(raw, searches),
            Self::AnyCase(any) => any.found_in(raw, searches),
        };
        hit.then_some(raw)
    }
}

impl Any {
    fn new(items: &[Box<str>], interner: &mut Interner) -> Self {
        let numbers = items.iter().map(|item| interner.exact(item)).collect();
        Self { needles: finders(items), numbers }
    }

    fn found_in(&self, raw: &str, searches: Option<&NeedleSet<'_>>) -> bool {
        let known = self.numbers.as_ref().zip(searches);
        known.and_then(|(numbers, searches)| searches.exact(raw, numbers)).unwrap_or_else(|| {
            self.needles.iter().any(|needle| needle.find(raw.as_bytes()).is_some())
        })
    }
}

impl AnyCase {
    fn new(items: &[Box<str>], interner: &mut Interner) -> Self {
        let lower: Vec<Box<str>> = items.iter().map(|item| lower(item).into()).collect();
        let pattern: Vec<String> =
            lower.iter().filter(|item| item.is_ascii()).map(|item| regex::escape(item)).collect();
        // An ASCII value cannot contain the other texts. If the expression would be too large, the texts are searched
        // for one by one.
        let ascii = if pattern.is_empty() { r"[^\s\S]".to_owned() } else { pattern.join("|") };
        let ascii = regex::bytes::RegexBuilder::new(&ascii)
            .unicode(false)
            .case_insensitive(true)
            .build()
            .ok();
        let ascii_needles = lower.iter().filter(|item| item.is_ascii());
        let numbers = ascii_needles.map(|item| interner.folded(item)).collect();
        Self { numbers, needles: finders(&lower), ascii }
    }

    fn found_in(&self, raw: &str, searches: Option<&NeedleSet<'_>>) -> bool {
        if raw.is_ascii() {
            let known = self.numbers.as_ref().zip(searches);
            if let Some(found) = known.and_then(|(numbers, all)| all.folded(raw, numbers)) {
                return found;
            }
            if let Some(ascii) = &self.ascii {
                return ascii.is_match(raw.as_bytes());
            }
        }
        let lower = lower(raw);
        self.needles.iter().any(|needle| needle.find(lower.as_bytes()).is_some())
    }
}

fn finders(items: &[Box<str>]) -> Vec<Finder<'static>> {
    items.iter().map(|item| Finder::new(item.as_bytes()).into_owned()).collect()
}

/// Returns the text with each character lower-cased on its own, without regard to its neighbours.
fn lower(text: &str) -> String {
    text.chars().filter_map(|c| c.to_lowercase().next()).collect()
}

/// Returns the items of an argument: the values of a JSON list as text, or the parts of any other text between commas.
/// Empty items are dropped.
fn items(argument: &str) -> Vec<Box<str>> {
    let kept = |item: &str| (!item.is_empty()).then(|| Box::from(item));
    if argument.starts_with('[') && raw::elements(argument).next().is_some() {
        return raw::elements(argument).filter_map(|raw| kept(&raw::as_text(raw))).collect();
    }
    argument.split(',').filter_map(kept).collect()
}
