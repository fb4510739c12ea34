//! The conformance corpus, which stands beside the project and is no part of it.

use std::{env, fs, path::PathBuf};

/// A file of the corpus, for example `expected/feed.v5.avro`. `None` where there is no corpus, which is
/// said once for each file: the test is then skipped.
pub(crate) fn read(file: &str) -> Option<Vec<u8>> {
    let root = env::var_os("AZUL_VT_CORPUS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus")),
        PathBuf::from,
    );
    let path = root.join(file);
    match fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            println!("skipped: no {} ({error})", path.display());
            None
        }
    }
}
