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

/// The crates of this project, whose log knows no secrets.
const OWN: [&str; 7] = ["azul_vt", "load", "ingest", "query", "download", "hunt", "vt"];

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people: text on stderr, coloured where that is a terminal.
    Text,
    /// For Lambda: one JSON object a line on stdout.
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error(
        "LOG={shown}: write a level (error, warn, info, debug, trace, off) or a filter such as \
         info,azul_vt::virustotal=debug"
    )]
    Filter {
        /// What LOG holds, at most its first 200 characters.
        shown: String,
    },
    /// Logging was set up before.
    #[error("logging is already set up in this process")]
    AlreadySetUp,
}

/// Sets up the process's log. `log` is what the setting LOG holds: a level, or directives
/// `target=level`, comma-separated.
///
/// # Errors
/// [`TelemetryError::Filter`] where `log` is no filter, [`TelemetryError::AlreadySetUp`] at a second call.
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

/// As [`init`] with [`Format::Text`], written by somebody who knows what else is on the screen.
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

/// Whatever LOG says: what libraries tell beyond `info` are the bytes that they carry, secrets among them.
fn is_for_the_log(metadata: &Metadata<'_>) -> bool {
    let krate = metadata.target().split("::").next().unwrap_or_default();
    OWN.contains(&krate) || *metadata.level() <= Level::INFO
}

fn filter(log: &str) -> Result<EnvFilter, TelemetryError> {
    let wrong = || TelemetryError::Filter { shown: log.chars().take(200).collect() };
    // A lone word that is no level would be taken for a target, and all else would be silent.
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
        for log in ["info", "off", "WARN", "info,azul_vt::virustotal=debug", "azul_vt::store"] {
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
