//! The local implementation: one SQLite file and a directory of bundles under STATEDIR, safe for several processes on
//! one host.
//!
//! ```text
//! STATEDIR/state.sqlite      cursors, leases, ledger, memory, quotas, inbox, budget
//! STATEDIR/locks/            an empty file for each lease, locked by its owner
//! STATEDIR/bundles/          objects, by key
//! STATEDIR/bundles/.scratch/ files that are not finished yet
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Store, StoreError};
use base::minute::Minute;
use net::peers::Peers;

mod budget;
mod bundles;
mod cursors;
mod db;
mod inbox;
mod leases;
mod ledger;
mod memory;
mod quotas;
mod scratch;

#[cfg(feature = "aws")]
pub(super) use scratch::Scratch;

/// Name of the database in STATEDIR.
const DATABASE: &str = "state.sqlite";
/// Name of the directory of lock files in STATEDIR.
const LOCKS: &str = "locks";
/// Name of the directory of bundles in STATEDIR.
const BUNDLES: &str = "bundles";

/// Opens the state under `state_dir`, and creates it if there is none. Blocks on the disk, and while another process
/// opens the same state.
///
/// # Errors
/// [`StoreError::StateDir`] if the directory cannot be created or written, [`StoreError::Newer`] if a newer program
/// wrote it, [`StoreError::Damaged`] if another program created the database.
pub fn open(state_dir: &Path) -> Result<Store, StoreError> {
    open_with(state_dir, &Peers::default())
}

/// As [`open`], but expired entries are removed only while `peers` confirm the local clock.
///
/// # Errors
/// As [`open`].
pub fn open_with(state_dir: &Path, peers: &Peers) -> Result<Store, StoreError> {
    let gate = begin(state_dir)?;
    let db = db::Db::open(&state_dir.join(DATABASE))?;
    let bundles = bundles::LocalBundles::open(state_dir.join(BUNDLES))?;
    drop(gate);
    Ok(store(state_dir, &db, bundles, peers))
}

/// Opens the state under `state_dir` for reading; `None` if there is no state. It creates and changes nothing, and
/// waits for no other process. Each write fails.
///
/// # Errors
/// As [`open`].
pub fn open_read_only(state_dir: &Path) -> Result<Option<Store>, StoreError> {
    let state_dir = std::path::absolute(state_dir).map_err(|e| unusable(state_dir, e))?;
    let database = state_dir.join(DATABASE);
    match fs::metadata(&database) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unusable(&database, e)),
    }
    let db = db::Db::look(&database)?;
    let bundles = bundles::LocalBundles::look(state_dir.join(BUNDLES));
    Ok(Some(store(&state_dir, &db, bundles, &Peers::default())))
}

fn store(state_dir: &Path, db: &db::Db, bundles: bundles::LocalBundles, peers: &Peers) -> Store {
    let locks = state_dir.join(LOCKS);
    Store {
        cursors: Arc::new(cursors::LocalCursors { db: db.clone() }),
        leases: Arc::new(leases::LocalLeases { db: db.clone(), locks }),
        ledger: Arc::new(ledger::LocalLedger { db: db.clone() }),
        memory: Arc::new(memory::LocalMemory::new(db.clone(), peers.clone())),
        quotas: Arc::new(quotas::LocalQuotas::new(db.clone(), peers.clone())),
        inbox: Arc::new(inbox::LocalInbox { db: db.clone() }),
        budget: Arc::new(budget::LocalBudget { db: db.clone(), peers: peers.clone() }),
        bundles: Arc::new(bundles),
    }
}

/// Opens a scratch directory for an implementation that keeps its objects elsewhere.
#[cfg(feature = "aws")]
pub(super) fn scratch(state_dir: &Path) -> Result<Scratch, StoreError> {
    let _gate = begin(state_dir)?;
    Scratch::open(&state_dir.join(BUNDLES).join(scratch::SCRATCH))
}

/// Creates the directories and returns a lock, which lets one process at a time open the state. It is needed because
/// SQLite's busy timeout does not cover the switch to WAL, and because left-over scratch must not be removed while
/// another process is about to lock it.
fn begin(state_dir: &Path) -> Result<Locked, StoreError> {
    let locks = state_dir.join(LOCKS);
    make_dir(state_dir, false)?;
    make_dir(&locks, true)?;
    make_dir(&state_dir.join(BUNDLES), true)?;
    let opening = locks.join("opening");
    let gate = lock_file(&opening).map_err(|e| unusable(&opening, e))?;
    gate.lock().map_err(|e| unusable(&opening, e))?;
    Ok(Locked(gate))
}

/// Returns the last minute that the Go plugin loaded. Its STATEDIR has a file `v3_files` with the start of that minute,
/// in seconds since 1970, as text. `None` if there is no such file.
///
/// # Errors
/// [`StoreError::Damaged`] if the file holds anything else, [`StoreError::StateDir`] if it cannot be read.
pub fn go_plugin_position(state_dir: &Path) -> Result<Option<Minute>, StoreError> {
    Ok(go_plugin_time(&state_dir.join("v3_files"))?.map(Minute::from_unix_seconds))
}

/// Returns the time, in seconds since 1970, of the last Livehunt notification that the Go plugin sent on. Its STATEDIR
/// has a file `livehunt` with that time as text. `None` if there is no such file.
///
/// # Errors
/// As [`go_plugin_position`].
pub fn go_plugin_hunt(state_dir: &Path) -> Result<Option<i64>, StoreError> {
    go_plugin_time(&state_dir.join("livehunt"))
}

fn go_plugin_time(path: &Path) -> Result<Option<i64>, StoreError> {
    // Times from the founding of VirusTotal (2004) to the year 9999. A number outside has another unit.
    const SANE: std::ops::Range<i64> = 1_072_915_200..253_402_300_800;
    // Most bytes that are read. It is longer than any number of seconds, with room for blanks and a newline.
    const LONGEST: u64 = 64;

    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LONGEST).read_to_end(&mut text).map_err(|e| unusable(path, e))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unusable(path, e)),
    };
    let seconds = str::from_utf8(&text).ok().and_then(|t| t.trim().parse::<i64>().ok());
    match seconds.filter(|s| SANE.contains(s)) {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(StoreError::Damaged {
            what: format!("the Go plugin's position in {}", path.display()),
            reason: format!(
                "`{}` is not a time in seconds since 1970; correct the file, or move it away to \
                 start without it",
                String::from_utf8_lossy(&text).trim().escape_debug()
            ),
        }),
    }
}

fn unusable(
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::StateDir { path: path.into(), source: source.into() }
}

/// Creates a directory that only this user can enter. An existing directory keeps its mode unless it is `ours`, because
/// STATEDIR itself may be shared with other programs on purpose.
fn make_dir(path: &Path, ours: bool) -> Result<(), StoreError> {
    let make = || {
        let is_new = !path.exists();
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if is_new {
            adopt(path)?;
        }
        if ours {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    };
    make().map_err(|e: io::Error| unusable(path, e))
}

/// Opens a file to lock, and creates it if there is none. Two processes must find the same file under one name, so a
/// caller that removes the file has to ensure that.
fn lock_file(path: &PathBuf) -> io::Result<File> {
    let is_new = !path.exists();
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if is_new {
        adopt(path)?;
    }
    Ok(file)
}

/// Gives a file that root made in another user's directory to that user. Otherwise the service, which runs as that
/// user, could not use it. SQLite does the same for its own files.
fn adopt(path: &Path) -> io::Result<()> {
    let made = fs::symlink_metadata(path)?;
    let Some(parent) = path.parent() else { return Ok(()) };
    // A relative name without a directory has an empty parent, which means the working directory.
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let parent = fs::metadata(parent)?;
    // A file that belongs to root was made by root.
    if made.uid() == 0 && parent.uid() != 0 {
        lchown(path, Some(parent.uid()), Some(parent.gid()))?;
    }
    Ok(())
}

/// A file that is locked until this is dropped.
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing the file is not enough. A child process that is just being started holds a copy of the open file, and
        // the lock with it, until it runs its own program. If unlocking fails, the close that follows frees the lock.
        drop(self.0.unlock());
    }
}
