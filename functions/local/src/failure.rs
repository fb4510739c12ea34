//! How a command ends: exit codes, and the one line on standard error that says why.
//!
//! 0: done, also where records were rejected. 1: the job failed. 2: usage, unreadable input or a
//! refused rule. Whoever closes our standard output has seen enough: that ends quietly with 0.

use std::{io, io::Write as _, process::ExitCode};

use anyhow::Error;
use azul_vt::errors;

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The job failed: exit code 1.
    Job(Error),
    /// Usage, unreadable input, a refused rule: exit code 2.
    Usage(Error),
    /// Everything was said already; only the exit code is left.
    Said(u8),
    /// The reader of our standard output went away.
    Closed,
}

impl Failure {
    /// The job failed.
    pub(crate) fn job(error: impl Into<Error>) -> Self {
        Self::Job(error.into())
    }

    /// The command cannot be done as it was asked.
    pub(crate) fn usage(error: impl Into<Error>) -> Self {
        Self::Usage(error.into())
    }

    /// What went wrong, on one line; `None` where there is nothing left to say.
    pub(crate) fn line(&self) -> Option<String> {
        match self {
            Self::Job(error) | Self::Usage(error) => Some(one_line(error.as_ref())),
            Self::Said(_) | Self::Closed => None,
        }
    }

    /// Writing to standard output failed.
    pub(crate) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Closed;
        }
        Self::Job(Error::new(error).context("writing to standard output"))
    }
}

/// Says what went wrong, where something did, and gives the process's exit code.
pub(crate) fn exit_code(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(line) = failure.line() {
                say(&format!("vt: {line}"));
            }
            ExitCode::from(match failure {
                Failure::Usage(_) => 2,
                Failure::Said(code) => code,
                _ => 1,
            })
        }
    }
}

/// A line on standard error. Nobody may be there to read it, and that is no failure.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The error and its causes on one line: `what: why: why`.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    errors::chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_one_line_and_says_nothing_twice() {
        let error = Error::msg("the\nroot").context("reading: the\nroot").context("opening x");
        assert_eq!(one_line(error.as_ref()), "opening x: reading: the root");
    }

    #[test]
    fn a_closed_reader_is_no_failure() {
        let closed = Failure::output(io::ErrorKind::BrokenPipe.into());
        assert!(matches!(closed, Failure::Closed));
        let full = Failure::output(io::ErrorKind::StorageFull.into());
        assert!(matches!(full, Failure::Job(_)));
    }
}
