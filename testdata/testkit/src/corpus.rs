//! The conformance corpus, which stands beside the project and is no part of it.

use std::{env, fs, path::PathBuf};

/// Returns the path of a file of the corpus, for example `expected/feed.v5.avro`. The corpus is the directory that
/// `AZUL_VT_CORPUS` names, by default `../shared/corpus` beside the project. `None` if there is no such file: the test
/// is then skipped, and this says so.
pub fn path(file: &str) -> Option<PathBuf> {
    let root = env::var_os("AZUL_VT_CORPUS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/corpus")),
        PathBuf::from,
    );
    let path = root.join(file);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: there is no {}", path.display());
    None
}

/// Returns the bytes of a file of the corpus; `None` as for [`path`].
pub fn read(file: &str) -> Option<Vec<u8>> {
    let path = path(file)?;
    Some(fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}
