//! Filters and writes the log. A line has at most 2 KB and no secret in it (`lines`).

use std::{
    io::{self, IsTerminal as _},
    str::FromStr as _,
};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, filter_fn},
    fmt::MakeWriter,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

mod lines;

/// The crates of this project. Their log lines have no secrets.
pub const OWN: [&str; 18] = [
    "azul",
    "azul_vt",
    "base",
    "bundle",
    "download",
    "hunt",
    "ingest",
    "json",
    "load",
    "mapping",
    "net",
    "parallel_bzip2",
    "query",
    "rules",
    "state",
    "telemetry",
    "virustotal",
    "vt",
];

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text on stderr, for people. It is coloured if stderr is a terminal.
    Text,
    /// One JSON object a line on stdout, for Lambda.
    Json,
}

/// Reasons why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The value of LOG is not a valid filter.
    #[error(
        "LOG={shown}: write a level (error, warn, info, debug, trace, off) or a filter such as \
         info,virustotal=debug"
    )]
    Filter {
        /// Value of LOG, at most its first 200 characters.
        shown: String,
    },
    /// Logging was set up before.
    #[error("logging is already set up in this process")]
    AlreadySetUp,
}

/// Sets up the process's log. `log` is the value of the setting LOG: a level, or directives `target=level` separated by
/// commas.
///
/// # Errors
/// [`TelemetryError::Filter`] if `log` is not a valid filter, [`TelemetryError::AlreadySetUp`] at a second call.
pub fn init(log: &str, format: Format) -> Result<(), TelemetryError> {
    match format {
        Format::Text => init_text(log, io::stderr),
        Format::Json => tracing_subscriber::fmt()
            .with_env_filter(filter(log)?)
            .with_writer(lines::Bounded { inner: io::stdout, is_json: true })
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .finish()
            .with(filter_fn(is_for_the_log))
            .try_init()
            .map_err(|_| TelemetryError::AlreadySetUp),
    }
}

/// Sets up a log of [`Format::Text`] whose lines go to the writer `stderr`, which can keep them apart from other output
/// on the terminal.
///
/// # Errors
/// As [`init`].
pub fn init_text<W>(log: &str, stderr: W) -> Result<(), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter(log)?)
        .with_writer(lines::Bounded { inner: stderr, is_json: false })
        .with_ansi(io::stderr().is_terminal())
        .finish()
        .with(filter_fn(is_for_the_log))
        .try_init()
        .map_err(|_| TelemetryError::AlreadySetUp)
}

/// Whether a line may be logged at all, whatever LOG says. Libraries log the bytes that they transfer below `info`, and
/// these may contain secrets.
fn is_for_the_log(metadata: &Metadata<'_>) -> bool {
    let krate = metadata.target().split("::").next().unwrap_or_default();
    OWN.contains(&krate) || *metadata.level() <= Level::INFO
}

fn filter(log: &str) -> Result<EnvFilter, TelemetryError> {
    let wrong = || TelemetryError::Filter { shown: log.chars().take(200).collect() };
    // A single word that is not a level would be taken for a target, and all other targets would be silent.
    let typo = log.split(',').map(str::trim).any(|directive| {
        !directive.contains(['=', '[', ':']) && LevelFilter::from_str(directive).is_err()
    });
    if typo || log.trim().is_empty() {
        return Err(wrong());
    }
    EnvFilter::builder().parse(log).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_filters() {
        for log in ["info", "off", "WARN", "info,virustotal=debug", "azul_vt::pipeline"] {
            assert!(filter(log).is_ok(), "{log}");
        }
    }

    #[test]
    fn a_wrong_filter_is_an_error_that_names_the_setting() {
        for log in ["inof", "info,chatty", "azul_vt=loud", ""] {
            let error = filter(log).unwrap_err().to_string();
            assert!(error.starts_with(&format!("LOG={log}: ")), "{error}");
        }
    }
}
