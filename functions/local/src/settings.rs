//! `vt settings`: prints the settings, their values and their origins.

use azul_vt::{
    metrics::prometheus,
    settings::Settings,
    telemetry::{self, Format},
};

use crate::{cli::SettingsArgs, failure::Failure, output::Output};

/// Reads the settings; one that cannot be used is a usage error.
pub(crate) fn read() -> Result<Settings, Failure> {
    Settings::from_env().map_err(Failure::usage)
}

/// Reads the settings, and begins the log and the metrics.
pub(crate) fn begin() -> Result<Settings, Failure> {
    let settings = read()?;
    telemetry::init(&settings.log, Format::Text).map_err(Failure::usage)?;
    prometheus::init().map_err(Failure::job)?;
    Ok(settings)
}

/// Prints every setting with its value (secrets masked) and where it came from.
pub(crate) fn run(args: &SettingsArgs) -> Result<(), Failure> {
    let settings = read()?;
    let mut output = Output::open();
    if args.json {
        output.json(&settings.shown)?;
    } else {
        let rows: Vec<[String; 3]> = settings
            .shown
            .iter()
            .map(|s| [s.name.to_owned(), s.value.clone(), format!("({})", s.source)])
            .collect();
        output.table(&rows)?;
    }
    output.finish()
}
