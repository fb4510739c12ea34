//! The end of a command: its exit code, and the one line on standard error that gives the reason.
//!
//! Exit code 0: the job is done, also if records were rejected. 1: the job failed. 2: wrong usage, unreadable input or
//! a refused rule. If the reader of standard output closes it, the command ends quietly with 0.

use std::{io, io::Write as _, process::ExitCode};

use anyhow::Error;
use azul_vt::errors;

/// Reason why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The job failed: exit code 1.
    Job(Error),
    /// The command line, the input or a rule cannot be used: exit code 2.
    Usage(Error),
    /// Everything was reported already, so only the exit code is left.
    Said(u8),
    /// The reader of standard output closed it.
    Closed,
}

impl Failure {
    /// Returns the failure of a job.
    pub(crate) fn job(error: impl Into<Error>) -> Self {
        Self::Job(error.into())
    }

    /// Returns the failure of a command that cannot be done as it was asked.
    pub(crate) fn usage(error: impl Into<Error>) -> Self {
        Self::Usage(error.into())
    }

    /// Returns the error on one line; `None` if nothing is left to report.
    pub(crate) fn line(&self) -> Option<String> {
        match self {
            Self::Job(error) | Self::Usage(error) => Some(one_line(error.as_ref())),
            Self::Said(_) | Self::Closed => None,
        }
    }

    /// Returns the failure of a write to standard output.
    pub(crate) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Closed;
        }
        Self::Job(Error::new(error).context("writing to standard output"))
    }
}

/// Prints the error of a failed command and returns the exit code of the process.
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

/// Writes a line to standard error. A write error is ignored, because nobody may be there to read it.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Returns the error and its causes on one line: `error: cause: cause`.
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
