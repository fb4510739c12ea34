//! Every function on one machine.

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
    let cli = cli::Cli::parse_from(by_name(std::env::args_os().collect()));
    failure::exit_code(run(cli.command))
}

/// A link to this program that has another program's name runs that program's job.
fn by_name(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(Path::new).and_then(Path::file_stem);
    let job = match name.and_then(|name| name.to_str()) {
        Some("azul-vtquery") => "query",
        Some("azul-vtdownload") => "download",
        Some("azul-vthuntfeed") => "hunt",
        _ => return args,
    };
    args.insert(1, job.into());
    args
}

fn run(command: cli::Command) -> Result<(), failure::Failure> {
    match command {
        cli::Command::Load(args) => load::run(&args),
        cli::Command::Replay(args) => load::replay(args.from, args.to),
        cli::Command::Retry(args) => load::replay(args.minute, args.minute),
        cli::Command::Ingest(_) => ingest::run(),
        cli::Command::Query(args) => tasks::run(args.listen, query::Query::from_settings),
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
        cli::Command::Aws(args) => aws::run(&args.command),
    }
}
