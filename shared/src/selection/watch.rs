//! Rules that follow their directory: read again when a file changed, never worse than before.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use super::rules::{self, Loaded, RuleError, RuleErrors, RuleSet};

/// The directory is looked at no more often than this.
pub const CHECK_INTERVAL: Duration = Duration::from_mins(1);

/// Path, length and time of change of each file.
type Fingerprint = Vec<(PathBuf, Option<(u64, SystemTime)>)>;

/// A set of rules and the directory that it comes from.
#[derive(Debug)]
pub struct Rules {
    dir: PathBuf,
    lenient: bool,
    current: RuleSet,
    missing: bool,
    fingerprint: Fingerprint,
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
    /// The new set is broken and the old one stays: alarm. Said once a change.
    Broken(RuleErrors),
}

impl Rules {
    /// Reads the rules below `dir` for the first time. Gives the holder, the errors that leniency
    /// passed over, and whether the directory is missing.
    ///
    /// # Errors
    /// As [`RuleSet::load`].
    pub fn open(
        dir: PathBuf,
        lenient: bool,
        now: Instant,
    ) -> Result<(Self, Vec<RuleError>, bool), RuleErrors> {
        // Taken first: a file that changes while it is read looks changed at the next check.
        let fingerprint = fingerprint(&dir);
        let Loaded { rules: current, errors, missing_directory: missing } =
            RuleSet::load(&dir, lenient)?;
        Ok((Self { dir, lenient, current, missing, fingerprint, checked: now }, errors, missing))
    }

    /// The rules in force.
    pub fn current(&self) -> &RuleSet {
        &self.current
    }

    /// Looks at the directory, at most once each [`CHECK_INTERVAL`], and reads it again if a name, a
    /// length or a time of change differs.
    pub fn refresh(&mut self, now: Instant) -> Refresh {
        if now.saturating_duration_since(self.checked) < CHECK_INTERVAL {
            return Refresh::Unchanged;
        }
        self.checked = now;
        let fingerprint = fingerprint(&self.dir);
        if fingerprint == self.fingerprint {
            return Refresh::Unchanged;
        }
        self.fingerprint = fingerprint;
        match RuleSet::load(&self.dir, self.lenient) {
            // A volume that is not mounted for a while must not end the selection.
            Ok(loaded) if loaded.missing_directory && !self.missing => {
                Refresh::Broken(RuleErrors(vec![RuleError::DirectoryGone {
                    path: self.dir.clone(),
                }]))
            }
            Ok(loaded) => {
                self.current = loaded.rules;
                self.missing = loaded.missing_directory;
                Refresh::Reloaded(loaded.errors)
            }
            Err(errors) => Refresh::Broken(errors),
        }
    }
}

fn fingerprint(dir: &Path) -> Fingerprint {
    let stat = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    };
    // The directory stands first, so that one without files differs from one that is gone; its own
    // time of change is of no interest.
    let exists = dir.exists().then_some((0, SystemTime::UNIX_EPOCH));
    let mut print = vec![(dir.to_path_buf(), exists)];
    for file in rules::files(dir, &mut Vec::new()) {
        let stat = stat(&file);
        print.push((file, stat));
    }
    print
}
