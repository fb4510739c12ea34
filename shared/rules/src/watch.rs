//! Rules that follow their files: read again when one changed, never worse than before.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::rules::{self, Loaded, RuleError, RuleErrors, RuleSet};

/// The files are looked at no more often than this.
pub const CHECK_INTERVAL: Duration = Duration::from_mins(1);

/// The rule files of a place by name, each with a mark that changes when the file does. Sorted.
pub type Marks = Vec<(String, String)>;

/// Where rule files are.
#[async_trait]
pub trait RuleSource: Send + Sync {
    /// Looks for the rule files. `None`: their place does not exist.
    ///
    /// # Errors
    /// Not to be found out.
    async fn look(&self) -> Result<Option<Marks>, RuleError>;

    /// Reads the files that a look has seen.
    ///
    /// # Errors
    /// Every error found, unless `lenient`: then those of single files and rules come with the good rules.
    async fn load(&self, seen: Option<&Marks>, lenient: bool) -> Result<Loaded, RuleErrors>;

    /// The error that says that nothing is left where there were rules.
    fn gone(&self) -> RuleError;
}

/// A directory: every `*.yaml` below it.
#[derive(Clone, Debug)]
pub struct Directory(pub PathBuf);

/// A set of rules and the files that it comes from.
pub struct Rules {
    source: Box<dyn RuleSource>,
    lenient: bool,
    current: RuleSet,
    missing: bool,
    seen: Option<Marks>,
    checked: Instant,
}

/// What [`Rules::refresh`] found.
#[derive(Debug)]
#[must_use = "a broken set is worth an alarm"]
pub enum Refresh {
    /// Nothing changed, or it is too early to look.
    Unchanged,
    /// There is a new set in [`Rules::current`]; the errors are those that leniency passed over.
    Reloaded(Vec<RuleError>),
    /// The new set is broken or out of reach and the old one stays: alarm. Said once a change, or at each
    /// look where a look or a read failed.
    Broken(RuleErrors),
}

impl Rules {
    /// Reads the rules for the first time. Gives the holder, the errors that leniency passed over, and
    /// whether the rules' place is missing.
    ///
    /// # Errors
    /// As [`RuleSource::look`] and [`RuleSource::load`].
    pub async fn open(
        source: Box<dyn RuleSource>,
        lenient: bool,
        now: Instant,
    ) -> Result<(Self, Vec<RuleError>, bool), RuleErrors> {
        // Looked at first: a file that changes while it is read looks changed at the next check.
        let seen = source.look().await.map_err(|error| RuleErrors(vec![error]))?;
        let Loaded { rules: current, errors, missing } =
            source.load(seen.as_ref(), lenient).await?;
        Ok((Self { source, lenient, current, missing, seen, checked: now }, errors, missing))
    }

    /// The rules in force.
    pub fn current(&self) -> &RuleSet {
        &self.current
    }

    /// Looks at the files, at most once each [`CHECK_INTERVAL`], and reads them again if a name or a mark
    /// differs.
    pub async fn refresh(&mut self, now: Instant) -> Refresh {
        if now.saturating_duration_since(self.checked) < CHECK_INTERVAL {
            return Refresh::Unchanged;
        }
        self.checked = now;
        let seen = match self.source.look().await {
            Ok(seen) if seen == self.seen => return Refresh::Unchanged,
            Ok(seen) => seen,
            Err(error) => return Refresh::Broken(RuleErrors(vec![error])),
        };
        let loaded = self.source.load(seen.as_ref(), self.lenient).await;
        // What may be read the next time is looked at again, changed or not.
        let passes = matches!(&loaded, Err(errors) if errors.0.iter().any(RuleError::may_pass));
        if !passes {
            self.seen = seen;
        }
        match loaded {
            // A volume that is not mounted for a while must not end the selection.
            Ok(loaded) if loaded.missing && !self.missing => {
                Refresh::Broken(RuleErrors(vec![self.source.gone()]))
            }
            Ok(loaded) => {
                self.current = loaded.rules;
                self.missing = loaded.missing;
                Refresh::Reloaded(loaded.errors)
            }
            Err(errors) => Refresh::Broken(errors),
        }
    }
}

#[async_trait]
impl RuleSource for Directory {
    async fn look(&self) -> Result<Option<Marks>, RuleError> {
        if !self.0.exists() {
            return Ok(None);
        }
        let mark = |path: &PathBuf| {
            let meta = fs::metadata(path).ok()?;
            Some(format!("{} {:?}", meta.len(), meta.modified().ok()?))
        };
        // What cannot be read is an error of the load.
        let files = rules::files(&self.0, &mut Vec::new());
        let marks = files.iter().map(|path| (path.display().to_string(), mark(path)));
        Ok(Some(marks.map(|(name, mark)| (name, mark.unwrap_or_default())).collect()))
    }

    async fn load(&self, _seen: Option<&Marks>, lenient: bool) -> Result<Loaded, RuleErrors> {
        RuleSet::load(&self.0, lenient)
    }

    fn gone(&self) -> RuleError {
        RuleError::Gone { place: self.0.display().to_string() }
    }
}
