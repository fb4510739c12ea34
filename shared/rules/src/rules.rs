//! Reads rules from files: every `*.yaml` below a directory. Errors name the file, the rule and the line.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_yaml::Value;

use super::{
    Filter, FilterError,
    needles::{Interner, NeedleSet, Needles},
};
use mapping::Record;

/// Deepest nesting of folders. The limit also ends links that lead back upwards.
const MAX_FOLDERS: usize = 32;

/// One rule, compiled.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Category by which the downloads of the rule are counted: `<file name up to the first dot>/<rule name>`.
    pub category: String,
    /// Condition that a record must match.
    pub filter: Filter,
    /// Reason for the rule in its author's words; empty if none is given.
    pub reference: String,
    /// Most downloads in a UTC day; 0 means never.
    pub daily_quota: i64,
    /// Whether network captures are requested too.
    pub collect_pcap: bool,
}

/// Compiled rules in the order of their files, and in each file in the order of its lines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RuleSet {
    rules: Arc<[Rule]>,
    needles: Arc<Needles>,
}

/// The result of [`RuleSet::load`].
#[derive(Debug)]
pub struct Loaded {
    /// The valid rules.
    pub rules: RuleSet,
    /// Errors of the other rules and files. Empty unless the load was lenient.
    pub errors: Vec<RuleError>,
    /// Whether the directory does not exist or the bucket has no rule files. There are no rules then, which is worth
    /// one message.
    pub missing: bool,
}

/// A file or a rule that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// A file or a folder could not be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of reading it.
        #[source]
        source: io::Error,
    },
    /// A file is not a YAML list of rules. The cause names line and column.
    #[error("{}: not a YAML list of rules (`- name: {{syntax: gjson, rule: …}}`)", file.display())]
    NotAList {
        /// Path of the file.
        file: PathBuf,
        /// Error of the YAML parser.
        #[source]
        source: serde_yaml::Error,
    },
    /// One rule of a file cannot be used.
    #[error("{}{}: rule `{rule}`", file.display(), LineOf(*line))]
    Rule {
        /// Path of the file.
        file: PathBuf,
        /// Line of the rule's name, from 1; `None` if it was not found.
        line: Option<usize>,
        /// The rule's name.
        rule: String,
        /// Error in the rule.
        #[source]
        problem: RuleProblem,
    },
    /// There were rules before, and now their place does not exist or has none.
    #[error("{place}: the rules are gone")]
    Gone {
        /// Directory, or bucket with prefix.
        place: String,
    },
    /// A bucket does not answer, or refuses the request.
    #[error("{place}: cannot be read")]
    OutOfReach {
        /// Bucket with prefix, or object.
        place: String,
        /// Cause of the failure.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The rule files exceed a limit.
    #[error("{place}: {limit}")]
    TooMuch {
        /// Bucket with prefix, or object.
        place: String,
        /// Limit that is exceeded, in words.
        limit: &'static str,
    },
}

impl RuleError {
    /// Whether a later try may succeed although no file changes.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::OutOfReach { .. } => true,
            // A file that is not UTF-8 stays so until it is changed.
            Self::Unreadable { source, .. } => source.kind() != io::ErrorKind::InvalidData,
            _ => false,
        }
    }
}

/// Errors in one rule.
#[derive(Debug, thiserror::Error)]
pub enum RuleProblem {
    /// A key is unknown or a value has the wrong type.
    #[error("is not {{syntax, rule, reference, daily_quota, collect_pcap}}")]
    Shape(#[source] serde_yaml::Error),
    /// The rule has no name.
    #[error("has no name")]
    Nameless,
    /// The name of the rule occurs twice in the file, so both rules would count by the same category.
    #[error("stands twice in this file")]
    Duplicate,
    /// A key is missing.
    #[error("has no `{0}`")]
    Missing(&'static str),
    /// The rule has a syntax other than `gjson`.
    #[error("has the syntax `{0}`; only `gjson` is known")]
    UnknownSyntax(String),
    /// `daily_quota` is below 0.
    #[error("has daily_quota {0}; it is the number of downloads a day, 0 or more")]
    NegativeQuota(i64),
    /// The rule's text does not compile.
    #[error("does not compile")]
    Filter(#[source] FilterError),
}

/// All errors in a set of rules. They are displayed one on a line, with their causes.
#[derive(Debug)]
pub struct RuleErrors(pub Vec<RuleError>);

/// A rule as it is written in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    syntax: Option<String>,
    rule: Option<String>,
    #[serde(default)]
    reference: Value,
    daily_quota: Option<i64>,
    collect_pcap: Option<bool>,
}

/// The rules of one list entry, in order. Repeated names are kept, which a map would hide.
struct Entry(Vec<(String, Value)>);

/// Displays `, line N`, or nothing.
struct LineOf(Option<usize>);

impl RuleSet {
    /// Returns a set without rules, which selects nothing.
    pub fn empty() -> Self {
        Self { rules: Arc::new([]), needles: Arc::default() }
    }

    /// Reads every `*.yaml` below `dir`, sorted by path. Files and folders whose names begin with a dot are skipped. If
    /// the directory does not exist, there are no rules and [`Loaded::missing`] is set.
    ///
    /// # Errors
    /// All errors, unless `lenient` is set. Then the valid rules are returned with [`Loaded::errors`].
    pub fn load(dir: &Path, lenient: bool) -> Result<Loaded, RuleErrors> {
        if matches!(fs::metadata(dir), Err(error) if error.kind() == io::ErrorKind::NotFound) {
            let rules = Self::empty();
            return Ok(Loaded { rules, errors: Vec::new(), missing: true });
        }
        let mut errors = Vec::new();
        let mut texts = Vec::new();
        for file in files(dir, &mut errors) {
            match fs::read_to_string(&file) {
                Ok(text) => texts.push((file, text)),
                Err(source) => errors.push(RuleError::Unreadable { path: file, source }),
            }
        }
        Self::compile(texts, errors, lenient)
    }

    /// Compiles the texts of files. `errors` are those of files that could not be read.
    ///
    /// # Errors
    /// All errors, unless `lenient` is set. Then the valid rules are returned with [`Loaded::errors`].
    pub fn compile(
        texts: Vec<(PathBuf, String)>,
        mut errors: Vec<RuleError>,
        lenient: bool,
    ) -> Result<Loaded, RuleErrors> {
        let (mut rules, mut interner) = (Vec::new(), Interner::default());
        for (file, text) in texts {
            read_file(&file, &text, &mut interner, &mut rules, &mut errors);
        }
        if !errors.is_empty() && !lenient {
            return Err(RuleErrors(errors));
        }
        let rules = Self { rules: rules.into(), needles: Arc::new(interner.needles()) };
        Ok(Loaded { rules, errors, missing: false })
    }

    /// Returns the rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Returns the rules that a record matches, in order, without those that never download. The result is that of
    /// [`Filter::matches`] for each rule with the text of the record, but takes less time.
    pub fn matching(&self, record: &Record) -> Vec<&Rule> {
        let searches = NeedleSet::new(&self.needles);
        let document = record.document();
        // A rule with a quota of 0 never downloads, so it is not matched.
        let wanted = self.rules.iter().filter(|rule| rule.daily_quota > 0);
        wanted.filter(|rule| rule.filter.matches_in(document, &searches)).collect()
    }

    /// Returns warnings about rules that compile but are probably wrong, one sentence each with the name of the rule.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.rules.iter().flat_map(|rule| {
            rule.filter.warnings().iter().map(|text| format!("rule {}: {text}", rule.category))
        })
    }

    /// Returns the number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Default for RuleSet {
    fn default() -> Self {
        Self::empty()
    }
}

/// Returns the rule files below `dir`, sorted by path. Links are followed, because mounted configuration consists of
/// them. It keeps its older versions in folders whose names begin with a dot, which are skipped.
pub(super) fn files(dir: &Path, errors: &mut Vec<RuleError>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![(dir.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>)
        {
            Ok(entries) => entries,
            Err(source) => {
                errors.push(RuleError::Unreadable { path: folder, source });
                continue;
            }
        };
        for path in entries.into_iter().map(|entry| entry.path()) {
            let hidden =
                path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden {
                continue;
            }
            if path.is_dir() {
                if depth < MAX_FOLDERS {
                    folders.push((path, depth + 1));
                }
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read_file(
    file: &Path,
    text: &str,
    interner: &mut Interner,
    rules: &mut Vec<Rule>,
    errors: &mut Vec<RuleError>,
) {
    // A file with only comments is null and has no rules.
    let entries = match serde_yaml::from_str::<Option<Vec<Entry>>>(text) {
        Ok(entries) => entries.unwrap_or_default(),
        Err(source) => {
            return errors.push(RuleError::NotAList { file: file.to_path_buf(), source });
        }
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split('.').next().unwrap_or_default();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (name, value) in entries.into_iter().flat_map(|Entry(rules)| rules) {
        let times = seen.entry(name.clone()).or_default();
        let compiled = if *times > 0 {
            Err(RuleProblem::Duplicate)
        } else {
            compile(stem, &name, value, interner)
        };
        match compiled {
            Ok(rule) => rules.push(rule),
            Err(problem) => errors.push(RuleError::Rule {
                file: file.to_path_buf(),
                line: line_of(text, &name, *times),
                rule: name,
                problem,
            }),
        }
        *times += 1;
    }
}

fn compile(
    stem: &str,
    name: &str,
    value: Value,
    interner: &mut Interner,
) -> Result<Rule, RuleProblem> {
    if name.trim().is_empty() {
        return Err(RuleProblem::Nameless);
    }
    let written: Written = serde_yaml::from_value(value).map_err(RuleProblem::Shape)?;
    let syntax = written.syntax.ok_or(RuleProblem::Missing("syntax"))?;
    if syntax != "gjson" {
        return Err(RuleProblem::UnknownSyntax(syntax));
    }
    let text = written.rule.ok_or(RuleProblem::Missing("rule"))?;
    let daily_quota = written.daily_quota.ok_or(RuleProblem::Missing("daily_quota"))?;
    if daily_quota < 0 {
        return Err(RuleProblem::NegativeQuota(daily_quota));
    }
    Ok(Rule {
        category: format!("{stem}/{name}"),
        filter: Filter::compile_with(&text, interner).map_err(RuleProblem::Filter)?,
        reference: match written.reference {
            Value::String(reference) => reference,
            Value::Null => String::new(),
            // Other values, such as lists of links, are kept as they would be written.
            other => serde_yaml::to_string(&other).unwrap_or_default().trim_end().to_owned(),
        },
        daily_quota,
        collect_pcap: written.collect_pcap.unwrap_or(false),
    })
}

/// Returns the line of the `nth` place where `name` is a key. The parser gives no positions after it has read a value,
/// so the text is searched again. A name in an unusual notation is not found.
fn line_of(text: &str, name: &str, nth: usize) -> Option<usize> {
    let key = |line: &str| {
        let line = line.trim_start_matches([' ', '\t', '-', '{', '"', '\'']);
        line.strip_prefix(name)
            .is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ']).starts_with(':'))
    };
    text.lines().enumerate().filter(|(_, line)| key(line)).nth(nth).map(|(index, _)| index + 1)
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of rule names to rules")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
                let mut rules = Vec::new();
                while let Some(rule) = map.next_entry()? {
                    rules.push(rule);
                }
                Ok(Entry(rules))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

impl fmt::Display for LineOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

impl fmt::Display for RuleErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
            let mut cause = std::error::Error::source(error);
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl std::error::Error for RuleErrors {}
