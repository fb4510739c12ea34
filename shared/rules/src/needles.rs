//! Searches for the texts of all rules at once: those of `any`, `contains` and similar modifiers.
//!
//! Many rules look for a few words each in the same part of a record, such as the verdicts of all engines. One
//! pass over that part finds the words of all rules.

use std::{cell::RefCell, collections::HashMap};

use aho_corasick::{AhoCorasick, AhoCorasickKind};

/// Shortest part of a record that is searched for all rules at once, in bytes. For shorter parts it is faster to search
/// for the texts of each rule alone.
const SHORT: usize = 128;
/// Most parts of a record whose findings are remembered. A rule may look at each item of a long list.
const MAX_PARTS: usize = 64;
/// Longest text that gets a number, in bytes. Longer ones are searched for alone, because automatons grow with them.
const LONGEST_NEEDLE: usize = 256;
/// Most texts that get a number. Further ones are searched for alone.
const MAX_NEEDLES: usize = 4096;
/// Most bytes of texts in a fast automaton. More texts get an automaton that is smaller and slower.
const MAX_FAST_BYTES: usize = 64 << 10;

/// Numbers the texts. Equal texts get the same number.
#[derive(Default)]
pub(super) struct Interner {
    exact: Numbers,
    folded: Numbers,
}

#[derive(Default)]
struct Numbers(HashMap<Box<str>, usize>);

/// Automatons for the texts of all rules.
#[derive(Debug, Default)]
pub(super) struct Needles {
    exact: Option<Automaton>,
    folded: Option<Automaton>,
}

#[derive(Debug)]
struct Automaton {
    search: AhoCorasick,
    /// Number of texts in the automaton.
    count: usize,
}

/// The findings in the parts of one record that were looked at.
pub(super) struct NeedleSet<'n> {
    needles: &'n Needles,
    parts: RefCell<Vec<Part>>,
}

/// A part of a record, identified by its position in memory.
struct Part {
    start: usize,
    length: usize,
    exact: Option<Found>,
    folded: Option<Found>,
}

/// Whether each text was found, by its number.
struct Found(Vec<bool>);

impl Interner {
    /// Returns the number of a text that is searched for as it is. `None` for a text that has to be searched for alone,
    /// such as the empty one, which is everywhere.
    pub(super) fn exact(&mut self, needle: &str) -> Option<usize> {
        self.exact.number(needle)
    }

    /// Returns the number of an ASCII text that is searched for in any case. `None` as for [`Interner::exact`].
    pub(super) fn folded(&mut self, needle: &str) -> Option<usize> {
        self.folded.number(needle)
    }

    /// Builds the automatons for all texts that have numbers.
    pub(super) fn needles(self) -> Needles {
        Needles { exact: self.exact.automaton(false), folded: self.folded.automaton(true) }
    }
}

impl Numbers {
    fn number(&mut self, needle: &str) -> Option<usize> {
        let next = self.0.len();
        let known = self.0.contains_key(needle);
        if needle.is_empty() || needle.len() > LONGEST_NEEDLE || (!known && next == MAX_NEEDLES) {
            return None;
        }
        Some(*self.0.entry(needle.into()).or_insert(next))
    }

    fn automaton(self, any_case: bool) -> Option<Automaton> {
        let count = self.0.len();
        let mut needles: Vec<_> = self.0.into_iter().collect();
        needles.sort_unstable_by_key(|(_, number)| *number);
        let bytes: usize = needles.iter().map(|(needle, _)| needle.len()).sum();
        let small = (bytes > MAX_FAST_BYTES).then_some(AhoCorasickKind::ContiguousNFA);
        let search = AhoCorasick::builder()
            .ascii_case_insensitive(any_case)
            .kind(small)
            .build(needles.into_iter().map(|(needle, _)| needle.into_string()));
        // If the texts are too much for an automaton, each is searched for alone.
        (count > 0).then(|| search.ok()).flatten().map(|search| Automaton { search, count })
    }
}

impl Automaton {
    fn find(&self, text: &str) -> Found {
        let (mut found, mut missing) = (vec![false; self.count], self.count);
        for hit in self.search.find_overlapping_iter(text) {
            if let Some(found) = found.get_mut(hit.pattern().as_usize()).filter(|found| !**found) {
                *found = true;
                missing -= 1;
            }
            if missing == 0 {
                break;
            }
        }
        Found(found)
    }
}

impl Found {
    fn any(&self, numbers: &[usize]) -> bool {
        numbers.iter().any(|number| self.0.get(*number).copied().unwrap_or(false))
    }
}

impl<'n> NeedleSet<'n> {
    /// Starts without findings.
    pub(super) fn new(needles: &'n Needles) -> Self {
        Self { needles, parts: RefCell::default() }
    }

    /// Whether one of these texts is in `part` of the record; `None` if it is not known.
    pub(super) fn exact(&self, part: &str, numbers: &[usize]) -> Option<bool> {
        let automaton = self.needles.exact.as_ref()?;
        self.part(part, |seen| seen.exact.get_or_insert_with(|| automaton.find(part)).any(numbers))
    }

    /// Like [`NeedleSet::exact`], but in any case. `part` must be ASCII.
    pub(super) fn folded(&self, part: &str, numbers: &[usize]) -> Option<bool> {
        let automaton = self.needles.folded.as_ref()?;
        self.part(part, |seen| seen.folded.get_or_insert_with(|| automaton.find(part)).any(numbers))
    }

    /// Returns the result of `look` for the findings in a part; `None` if none are remembered for it.
    fn part(&self, part: &str, look: impl FnOnce(&mut Part) -> bool) -> Option<bool> {
        if part.len() < SHORT {
            return None;
        }
        let mut parts = self.parts.borrow_mut();
        let (start, length) = (part.as_ptr().addr(), part.len());
        if let Some(seen) = parts.iter_mut().find(|p| p.start == start && p.length == length) {
            return Some(look(seen));
        }
        if parts.len() == MAX_PARTS {
            return None;
        }
        let mut new = Part { start, length, exact: None, folded: None };
        let found = look(&mut new);
        parts.push(new);
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Filter;
    use json::Document;

    fn words() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[abAB é]{0,3}", 1..4)
    }

    proptest! {
        /// A rule must match the same records, whatever the other rules look for.
        #[test]
        fn many_rules_at_once_match_what_each_alone_matches(
            rules in prop::collection::vec((words(), 0..6_usize), 1..6),
            texts in prop::collection::vec("[abAB é]{0,12}|[ab]{128,140}", 1..4),
        ) {
            let json = serde_json::json!({ "a": texts, "b": texts.concat() }).to_string();
            let document = Document::parse(json.clone()).unwrap();
            let rules = rules.iter().map(|(words, kind)| match kind {
                0 => format!("a|@any:{}", words.join(",")),
                1 => format!("a|@iany:{}", words.join(",")),
                2 => format!("b|@contains:{}", words.concat()),
                3 => format!("b|@icontains:{}|@any:a,{}", words.concat(), words.join(",")),
                4 => format!("a.#(%\"*\")#|@iany:{}", words.join(",")),
                _ => format!("@iany:{}", words.join(",")),
            });
            let mut interner = Interner::default();
            let filters: Vec<_> =
                rules.map(|rule| Filter::compile_with(&rule, &mut interner).unwrap()).collect();
            let needles = interner.needles();
            let searches = NeedleSet::new(&needles);
            for filter in filters {
                let alone = filter.matches(&json);
                prop_assert_eq!(filter.matches_in(&document, &searches), alone, "{:?}", filter);
            }
        }
    }
}
