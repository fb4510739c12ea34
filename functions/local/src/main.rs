//! Every function on one machine.

mod aws;
mod cli;
mod doctor;
mod failure;
mod ingest;
mod input;
mod lines;
mod load;
mod map;
mod metrics;
mod output;
mod rejects;
mod rules;
mod select;
mod settings;
mod state;
mod status;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    failure::exit_code(run(cli.command))
}

fn run(command: cli::Command) -> Result<(), failure::Failure> {
    match command {
        cli::Command::Load(args) => load::run(&args),
        cli::Command::Retry(args) => load::retry(args.minute),
        cli::Command::Ingest(_) => ingest::run(),
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
