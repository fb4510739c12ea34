//! Scratch directories for unfinished files. Each process has one, which is removed after it has ended.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{Locked, adopt, lock_file, make_dir, unusable};
use crate::StoreError;

/// Name of the folder of scratch directories. It is on the file system of the finished files. No key can name it,
/// because segments of keys do not begin with a dot.
pub(super) const SCRATCH: &str = ".scratch";

/// A directory that no other process uses.
pub(crate) struct Scratch {
    /// Path of the directory.
    pub(crate) path: PathBuf,
    /// Lock that this process holds while it uses the directory.
    _lock: Locked,
}

impl Scratch {
    /// Creates a scratch directory in the folder `all`, and removes those of dead processes. Only one process may call
    /// it at a time.
    pub(super) fn open(all: &Path) -> Result<Self, StoreError> {
        make_dir(all, true)?;
        remove_abandoned(all).map_err(|e| unusable(all, e))?;
        let (path, lock) = own_scratch(all).map_err(|e| unusable(all, e))?;
        Ok(Self { path, _lock: lock })
    }
}

/// Removes the scratch directories of processes that ended, which are those whose locks are free.
fn remove_abandoned(all: &Path) -> io::Result<()> {
    for entry in fs::read_dir(all)? {
        let lock = entry?.path();
        if lock.extension().is_none_or(|e| e != "lock") {
            continue;
        }
        match remove_where_abandoned(&lock) {
            // The scratch belongs to another user, and a process that may remove it does so.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(path = %lock.display(), "scratch of another user is passed over");
            }
            removed => removed?,
        }
    }
    Ok(())
}

fn remove_where_abandoned(lock: &PathBuf) -> io::Result<()> {
    if lock_file(lock)?.try_lock().is_err() {
        return Ok(());
    }
    match fs::remove_dir_all(lock.with_extension("")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => fs::remove_file(lock),
    }
}

/// Creates and locks a scratch directory that no other process uses.
fn own_scratch(all: &Path) -> io::Result<(PathBuf, Locked)> {
    let mut n = 0_u64;
    loop {
        let lock = all.join(format!("{n}.lock"));
        match new_file(&lock) {
            Ok(file) => {
                file.lock()?;
                let scratch = lock.with_extension("");
                DirBuilder::new().mode(0o700).recursive(true).create(&scratch)?;
                adopt(&scratch)?;
                return Ok((scratch, Locked(file)));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => n += 1,
            Err(e) => return Err(e),
        }
    }
}

pub(super) fn new_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    adopt(path)?;
    Ok(file)
}
