//! Every function on one machine.

#[cfg(feature = "aws")]
mod aws;
mod cli;
mod doctor;
mod failure;
mod hunt;
mod ingest;
mod input;
mod lines;
mod load;
mod map;
mod metrics;
mod output;
mod quota;
mod rejects;
mod rules;
mod select;
mod serve;
mod server;
mod settings;
mod state;
mod status;
mod tasks;

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::Parser;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let job = job_by_name(&args);
    if let Some(job) = job {
        args.insert(1, job.into());
    }
    failure::exit_code(run(cli::Cli::parse_from(args).command, job.is_some()))
}

/// Returns the command for a link to this program that has the name of a program it replaces.
fn job_by_name(args: &[OsString]) -> Option<&'static str> {
    let name = args.first().map(Path::new).and_then(Path::file_stem)?;
    match name.to_str()? {
        "azul-vtquery" => Some("query"),
        "azul-vtdownload" => Some("download"),
        "azul-vthuntfeed" => Some("hunt"),
        _ => None,
    }
}

/// Runs a command. `by_name`: the program was called by the name of a program it replaces, whose defaults apply.
fn run(command: cli::Command, by_name: bool) -> Result<(), failure::Failure> {
    match command {
        cli::Command::Load(args) => load::run(&args),
        cli::Command::Replay(args) => load::replay(args.from, args.to, args.fetch),
        cli::Command::Retry(args) => load::replay(args.minute, args.minute, args.fetch),
        cli::Command::Ingest(_) => ingest::run(),
        cli::Command::Query(args) => tasks::run(args.listen, |mut settings, store, clock| {
            if by_name && settings.lookup.sources.is_empty() {
                settings.lookup.sources.insert("*".to_owned());
                tracing::warn!(
                    "LOOKUP_SOURCES is not set: VirusTotal is asked for, and so learns, the hash of each binary of \
                     every source but virustotal; set LOOKUP_SOURCES to the sources whose hashes it may learn"
                );
            }
            query::Query::from_settings(settings, store, clock)
        }),
        cli::Command::Hunt(args) => hunt::run(&args),
        cli::Command::Serve(args) => serve::run(&args),
        cli::Command::Download(args) => tasks::run(args.listen, download::Download::from_settings),
        cli::Command::Quota(args) => quota::run(&args),
        cli::Command::Map(args) => map::run(&args),
        cli::Command::Select(args) => select::run(&args),
        cli::Command::Rules(args) => rules::run(args.command),
        cli::Command::Settings(args) => settings::run(&args),
        cli::Command::Status(args) => status::run(&args),
        cli::Command::Doctor(_) => doctor::run(),
        cli::Command::Rejects(args) => rejects::run(&args.command),
        #[cfg(feature = "aws")]
        cli::Command::Aws(args) => aws::run(&args.command),
    }
}
