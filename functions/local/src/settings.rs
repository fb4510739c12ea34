//! `vt settings`: what is set, to what, and by whom.

use azul_vt::settings::Settings;

use crate::{cli::SettingsArgs, failure::Failure, output::Output};

/// Reads the settings; one that cannot be used is a usage error.
pub(crate) fn read() -> Result<Settings, Failure> {
    Settings::from_env().map_err(Failure::usage)
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
