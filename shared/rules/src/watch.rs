//! Watches rule files: rules are read again after a change, and a broken set never replaces a good one.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::rules::{self, Loaded, RuleError, RuleErrors, RuleSet};

/// Shortest time between two looks at the files.
pub const CHECK_INTERVAL: Duration = Duration::from_mins(1);

/// Names of the rule files in a place, sorted, each with a mark that changes when the file changes.
pub type Marks = Vec<(String, String)>;

/// A place with rule files.
#[async_trait]
pub trait RuleSource: Send + Sync {
    /// Lists the rule files. `None`: their place does not exist.
    ///
    /// # Errors
    /// [`RuleError`] if the place cannot be listed.
    async fn list(&self) -> Result<Option<Marks>, RuleError>;

    /// Reads the files that a call of [`RuleSource::list`] has found.
    ///
    /// # Errors
    /// All errors, unless `lenient` is set. Then errors of single files and rules are returned with the valid rules.
    async fn load(&self, seen: Option<&Marks>, lenient: bool) -> Result<Loaded, RuleErrors>;

    /// Returns the error that says that there were rules and none are left.
    fn gone(&self) -> RuleError;
}

/// A directory with rules: every `*.yaml` below it.
#[derive(Clone, Debug)]
pub struct Directory(pub PathBuf);

/// A set of rules, and the place that it was read from.
pub struct Rules {
    source: Box<dyn RuleSource>,
    lenient: bool,
    current: RuleSet,
    missing: bool,
    seen: Option<Marks>,
    checked: Instant,
}

/// The result of [`Rules::refresh`].
#[derive(Debug)]
#[must_use = "a broken set is worth an alarm"]
pub enum Refresh {
    /// The files did not change, or it is too early to look.
    Unchanged,
    /// [`Rules::current`] has a new set. The errors are those that a lenient load left out.
    Reloaded(Vec<RuleError>),
    /// The new set is broken or cannot be read, and the old one stays in force. That is worth an alarm. It is reported
    /// once for each change, or at each look if the look or the read failed.
    Broken(RuleErrors),
}

impl Rules {
    /// Reads the rules for the first time. Returns them, the errors that a lenient load left out, and whether the place
    /// of the rules is missing.
    ///
    /// # Errors
    /// The errors of [`RuleSource::list`] and [`RuleSource::load`].
    pub async fn open(
        source: Box<dyn RuleSource>,
        lenient: bool,
        now: Instant,
    ) -> Result<(Self, Vec<RuleError>, bool), RuleErrors> {
        // The look comes first, so that a file that changes while it is read looks changed at the next check.
        let seen = source.list().await.map_err(|error| RuleErrors(vec![error]))?;
        let Loaded { rules: current, errors, missing } =
            source.load(seen.as_ref(), lenient).await?;
        Ok((Self { source, lenient, current, missing, seen, checked: now }, errors, missing))
    }

    /// Returns the rules in force.
    pub fn current(&self) -> &RuleSet {
        &self.current
    }

    /// Looks at the files, at most once in each [`CHECK_INTERVAL`], and reads them again if a name or a mark has
    /// changed.
    pub async fn refresh(&mut self, now: Instant) -> Refresh {
        if now.saturating_duration_since(self.checked) < CHECK_INTERVAL {
            return Refresh::Unchanged;
        }
        self.checked = now;
        let seen = match self.source.list().await {
            Ok(seen) if seen == self.seen => return Refresh::Unchanged,
            Ok(seen) => seen,
            Err(error) => return Refresh::Broken(RuleErrors(vec![error])),
        };
        let loaded = self.source.load(seen.as_ref(), self.lenient).await;
        // If another read may succeed, the next check reads again even if no file changes.
        let passes = matches!(&loaded, Err(errors) if errors.0.iter().any(RuleError::is_transient));
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
    async fn list(&self) -> Result<Option<Marks>, RuleError> {
        if !self.0.exists() {
            return Ok(None);
        }
        let mark = |path: &PathBuf| {
            let meta = fs::metadata(path).ok()?;
            Some(format!("{} {:?}", meta.len(), meta.modified().ok()?))
        };
        // Folders that cannot be read are reported when the rules are loaded.
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
