//! Virtual environments of Python, which `make` installs, each with a target of its own.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// A virtual environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Venv {
    /// The target of `make` that installs it, by default in a folder of that name.
    pub(crate) target: &'static str,
    /// The variable that says where else it is.
    pub(crate) variable: &'static str,
}

impl Venv {
    pub(crate) fn folder(self) -> PathBuf {
        let default =
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(self.target);
        std::env::var_os(self.variable).map_or_else(default, Into::into)
    }

    pub(crate) fn python(self) -> PathBuf {
        self.folder().join("bin/python")
    }

    /// Whether it is there and whole. Where it is not, the reason is printed: a test that needs it then has
    /// nothing to show.
    ///
    /// # Errors
    /// It is not, although `CI` is `true`.
    pub(crate) fn is_installed(self) -> Result<bool> {
        if self.folder().join("installed.txt").is_file() {
            return Ok(true);
        }
        let reason = format!("skipped: run `make {}` to install what this needs", self.target);
        if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
            bail!(reason);
        }
        say(&reason);
        Ok(false)
    }
}

#[expect(clippy::print_stderr, reason = "a test's reader is told; there is no other channel")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
