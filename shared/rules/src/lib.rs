//! Which samples are worth a download: rules from YAML files, written as GJSON paths over a record's
//! text, and the download requests that they lead to.
//!
//! Matching is pure, never fails and never panics, whatever the record holds: all that can be wrong
//! with a rule is said when it is compiled.

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
