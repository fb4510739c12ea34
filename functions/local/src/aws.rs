//! `vt aws`: creates the resources of the state on AWS.

use azul_vt::store::aws::{self, init};

use crate::{
    cli::{AwsCommand, AwsInitArgs},
    failure::Failure,
    output::Output,
    settings, state,
};

/// Runs `vt aws`.
pub(crate) fn run(command: &AwsCommand) -> Result<(), Failure> {
    match command {
        AwsCommand::Init(args) => init(args),
    }
}

fn init(args: &AwsInitArgs) -> Result<(), Failure> {
    let settings = settings::read()?;
    let bucket = args.bucket.clone().unwrap_or_else(|| format!("{}-bundles", args.name));
    let made = state::block_on(async {
        let config = aws::config(&settings.http, &settings.peers).await.map_err(Failure::usage)?;
        init::create_all(&config, &args.name, &bucket).await.map_err(Failure::job)
    })?;
    let mut output = Output::open();
    output.line(&made.to_string())?;
    output.finish()
}
