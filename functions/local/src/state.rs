//! The state under STATEDIR, opened for looking at it.

use azul_vt::{
    settings::Settings,
    store::{Store, local},
};

use crate::failure::Failure;

/// Opens the state; `None` where nothing was kept yet, so that looking does not make it.
pub(crate) fn existing(settings: &Settings) -> Result<Option<Store>, Failure> {
    if !settings.state_dir.join("state.sqlite").exists() {
        return Ok(None);
    }
    local::open(&settings.state_dir).map(Some).map_err(Failure::job)
}

/// Runs a future to its end on one thread: enough for a command that waits for one thing at a time.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::job)?
        .block_on(work)
}
