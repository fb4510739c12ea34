//! Selects the samples to download. Rules from YAML files are GJSON paths over the text of a record, and lead to
//! download requests.
//!
//! Matching is pure, never fails and never panics for any record. Every error in a rule is reported when the rule is
//! compiled.

mod filter;
mod hits;
mod needles;
mod path;
mod raw;
mod re2;
mod rules;
mod selector;
mod watch;

pub use filter::{Filter, FilterError};
pub use rules::{Loaded, Rule, RuleError, RuleErrors, RuleProblem, RuleSet};
pub use selector::{Candidate, Selector, SelectorOptions};
pub use watch::{CHECK_INTERVAL, Directory, Marks, Refresh, RuleSource, Rules};
