//! Read access to the state.

use azul_vt::{
    settings::Settings,
    store::{self, Store},
};

use crate::failure::Failure;

/// Opens the state for reading, by any user; `None` if nothing was kept in STATEDIR yet.
pub(crate) fn existing(settings: &Settings) -> Result<Option<Store>, Failure> {
    block_on(async { store::open_read_only(&settings.state_options()).await.map_err(Failure::job) })
}

/// Returns the message for a state that [`existing`] does not find.
pub(crate) fn none_yet(settings: &Settings) -> String {
    format!("no state yet in {}: `vt load` begins it", settings.state_place())
}

/// Runs a future to its end on one thread: enough for a command that waits for one thing at a time.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::job)?
        .block_on(work)
}
