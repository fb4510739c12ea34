//! `vt rejects`: what was refused for good, and why.

use anyhow::anyhow;
use azul_vt::store::{Store, rejects::Rejects};

use crate::{cli::RejectsCommand, failure::Failure, output::Output, settings, state};

/// Lists or shows rejects.
pub(crate) fn run(command: &RejectsCommand) -> Result<(), Failure> {
    let settings = settings::read()?;
    let store = state::existing(&settings)?;
    match command {
        RejectsCommand::List => {
            let Some(store) = store else { return Ok(()) };
            state::block_on(list(&store))
        }
        RejectsCommand::Show { key } => state::block_on(show(store.as_ref(), key)),
    }
}

async fn list(store: &Store) -> Result<(), Failure> {
    let objects = Rejects::new(store.bundles.clone()).list().await.map_err(Failure::job)?;
    let mut output = Output::open();
    let row = |object: &azul_vt::store::BundleInfo| {
        [object.key.clone(), object.size.to_string(), format!("{:.0}", object.modified)]
    };
    output.table(&objects.iter().map(row).collect::<Vec<_>>())?;
    output.finish()
}

async fn show(store: Option<&Store>, key: &str) -> Result<(), Failure> {
    let found = match store {
        Some(store) => Rejects::new(store.bundles.clone()).read(key).await.map_err(Failure::job)?,
        None => None,
    };
    let Some(rejects) = found else {
        return Err(Failure::Usage(anyhow!(
            "there are no rejects under the key {key}; `vt rejects list` prints the keys"
        )));
    };
    let mut output = Output::open();
    for reject in &rejects {
        output.json(reject)?;
    }
    output.finish()
}
