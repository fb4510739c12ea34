//! The ten modifiers that rules are made of. Each looks at a value's raw JSON text (a string keeps its
//! quotes, a list its spacing) and gives it back on a hit, else nothing.

use memchr::memmem::Finder;
use regex::bytes::Regex;

use super::{
    needles::{Interner, NeedleSet},
    raw, re2,
};

/// A modifier with its argument, compiled.
#[derive(Debug)]
pub(super) enum Modifier {
    /// An argument that lets nothing through.
    Never,
    Equal(Box<str>),
    NotEqual(Box<str>),
    /// Equal to one of them.
    In(Vec<Box<str>>),
    Greater(i64),
    Less(i64),
    Matches(Regex),
    /// Contains one of them.
    Any(Any),
    /// The same, whatever the case.
    AnyCase(AnyCase),
}

/// Texts to look for.
#[derive(Debug)]
pub(super) struct Any {
    needles: Vec<Finder<'static>>,
    /// Their numbers among those of all rules, where they have some.
    numbers: Option<Box<[usize]>>,
}

/// Texts to look for after lower-casing both sides.
#[derive(Debug)]
pub(super) struct AnyCase {
    /// Those that are ASCII, by their numbers among those of all rules, where they have some.
    numbers: Option<Box<[usize]>>,
    /// Lower-cased.
    needles: Vec<Finder<'static>>,
    /// All of them at once, for text that is ASCII, as nearly all is: no copy is made then.
    ascii: Option<Regex>,
}

/// A regular expression that does not compile.
#[derive(Debug)]
pub(super) struct HitError {
    pub(super) pattern: String,
    pub(super) source: Box<regex::Error>,
}

impl Modifier {
    /// `name` is one of the ten.
    pub(super) fn known(name: &str) -> bool {
        matches!(
            name,
            "eq" | "ne" | "in" | "lt" | "gt" | "re" | "contains" | "icontains" | "any" | "iany"
        )
    }

    /// The modifier `name` with `argument` as written, "" where there is none; `None` for a name that
    /// is not one of the ten.
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

    /// Text without quotes is no JSON and counts as the empty expression, whose match is empty: no hit.
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

    /// What of `raw` the modifier gives on: all of it, for `re` the first match; `None` without a hit. With
    /// `searches`, `raw` is a part of their record.
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
        // Needles that are not ASCII are in no ASCII text. One that is too long for an expression is
        // looked for as the others are.
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

/// Character by character: no other than this decides how one is lower-cased.
fn lower(text: &str) -> String {
    text.chars().filter_map(|c| c.to_lowercase().next()).collect()
}

/// The items of an argument: of a JSON list its values as text, of other text what stands between
/// commas. Empty items are dropped.
fn items(argument: &str) -> Vec<Box<str>> {
    let kept = |item: &str| (!item.is_empty()).then(|| Box::from(item));
    if argument.starts_with('[') && raw::elements(argument).next().is_some() {
        return raw::elements(argument).filter_map(|raw| kept(&raw::as_text(raw))).collect();
    }
    argument.split(',').filter_map(kept).collect()
}
