//! Leases as locked files and rows: the lock shows that the owner lives, and the row names the owner.
//!
//! The operating system frees the lock when its owner ends, however it ends, so a lease needs no expiry here. A lock
//! belongs to an open file, not to a process: two owners in one process exclude each other too. The lock is taken only
//! inside a transaction that writes, so the row always agrees with it. The owner removes the file inside such a
//! transaction as well, so that nobody is between opening the file and locking it. A reader of a lease also locks the
//! file for a moment, outside any transaction, so an owner tries several times.

use std::{
    fs::{File, TryLockError},
    path::PathBuf,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    Locked,
    db::{Db, Fault, nanoseconds, signed, timestamp, unsigned},
    lock_file,
};
use crate::{Grant, Lease, Leases, StoreError, keys::check_lease_name};

/// Number of tries to take a lock: a reader of the lease may hold it for a moment.
const TRIES: u32 = 3;
/// Time between two tries. The wait blocks the thread, which is one for blocking work.
const MOMENT: Duration = Duration::from_millis(5);

pub(super) struct LocalLeases {
    pub(super) db: Db,
    /// Directory of the lock files.
    pub(super) locks: PathBuf,
}

struct Row {
    owner: String,
    since: Timestamp,
    fence: u64,
}

impl LocalLeases {
    fn path(&self, name: &str) -> Result<PathBuf, StoreError> {
        check_lease_name(name)?;
        Ok(self.locks.join(file_name(name)))
    }
}

fn file_name(name: &str) -> String {
    format!("lease-{name}")
}

#[async_trait]
impl Leases for LocalLeases {
    async fn acquire(&self, name: &str, owner: &str, now: Timestamp) -> Result<Grant, StoreError> {
        let path = self.path(name)?;
        let (name, owner) = (name.to_owned(), owner.to_owned());
        let action = format!("taking the lease {name}");
        self.db
            .write(action.clone(), move |db| {
                let file = lock_file(&path).map_err(|e| unavailable(&action, e))?;
                let row = row(db, &name)?;
                let locked = match try_lock(&file) {
                    Ok(()) => Locked(file),
                    Err(TryLockError::WouldBlock) => {
                        let (owner, since) = row.map_or_else(
                            || ("another program".to_owned(), now),
                            |row| (row.owner, row.since),
                        );
                        return Ok(Grant::Held { owner, since });
                    }
                    Err(TryLockError::Error(e)) => return Err(unavailable(&action, e).into()),
                };
                let fence = row.map_or(1, |row| row.fence.saturating_add(1));
                db.execute(
                    "INSERT INTO leases (name, owner, since, renewed, fence)
                     VALUES (?1, ?2, ?3, ?3, ?4)
                     ON CONFLICT (name) DO UPDATE SET owner = excluded.owner,
                         since = excluded.since, renewed = excluded.renewed, fence = excluded.fence",
                    params![name, owner, nanoseconds(now), signed(fence)],
                )?;
                // If the commit fails, the lease is dropped, and the lock with it.
                Ok(Grant::Acquired(Lease { name, owner, fence, guard: Some(Box::new(locked)) }))
            })
            .await
    }

    async fn renew(&self, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
        let (name, fence) = (lease.name.clone(), lease.fence);
        self.db
            .write(format!("renewing the lease {name}"), move |db| {
                require_newest(db, &name, fence)?;
                let sql = "UPDATE leases SET renewed = ?2 WHERE name = ?1";
                db.execute(sql, params![name, nanoseconds(now)])?;
                Ok(())
            })
            .await
    }

    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        // The row stays, and is read only while the file is locked. The lock moves into the transaction and is released
        // after the file is removed. The file of an owner that died stays for the next one.
        let path = self.path(&lease.name)?;
        let action = format!("giving back the lease {}", lease.name);
        self.db
            .write(action.clone(), move |db| {
                let is_ours = row(db, &lease.name)?.is_some_and(|row| row.fence == lease.fence);
                if !is_ours {
                    return Ok(());
                }
                let removed = std::fs::remove_file(&path);
                drop(lease);
                match removed {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        Err(unavailable(&action, e).into())
                    }
                    _ => Ok(()),
                }
            })
            .await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let (locks, action) = (self.locks.clone(), "forgetting old leases");
        self.db
            .write(action, move |db| {
                let mut statement = db.prepare("SELECT name FROM leases WHERE renewed < ?1")?;
                let names = statement.query_map([nanoseconds(before)], |row| row.get(0))?;
                let names: Vec<String> = names.collect::<Result<_, _>>()?;
                let mut forgotten = 0;
                for name in names {
                    let path = locks.join(file_name(&name));
                    // A lease may be held although it was not renewed, for example after the machine slept.
                    match File::open(&path).map(|file| file.try_lock().map(|()| Locked(file))) {
                        Ok(Err(_)) => continue,
                        Ok(Ok(locked)) => {
                            std::fs::remove_file(&path).map_err(|e| unavailable(action, e))?;
                            drop(locked);
                        }
                        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                        Err(e) => return Err(unavailable(action, e).into()),
                    }
                    forgotten += db.execute("DELETE FROM leases WHERE name = ?1", [&name])? as u64;
                }
                Ok(forgotten)
            })
            .await
    }

    async fn holder(
        &self,
        name: &str,
        _now: Timestamp,
    ) -> Result<Option<(String, Timestamp)>, StoreError> {
        let path = self.path(name)?;
        let name = name.to_owned();
        let action = format!("looking at the lease {name}");
        self.db
            .read(action.clone(), move |db| {
                match File::open(&path) {
                    Ok(file) => match file.try_lock_shared() {
                        Ok(()) => {
                            drop(Locked(file));
                            return Ok(None);
                        }
                        Err(TryLockError::WouldBlock) => {}
                        Err(TryLockError::Error(e)) => return Err(unavailable(&action, e).into()),
                    },
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(unavailable(&action, e).into()),
                }
                Ok(row(db, &name)?.map(|row| (row.owner, row.since)))
            })
            .await
    }
}

/// Locks a file that nobody else has locked. A reader of a lease locks its file for a moment, so there are several
/// tries.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 1..TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(MOMENT),
            other => return other,
        }
    }
    file.try_lock()
}

/// Returns [`StoreError::LeaseLost`] if another owner took the lease over.
pub(super) fn require_newest(db: &Transaction<'_>, name: &str, fence: u64) -> Result<(), Fault> {
    match row(db, name)? {
        Some(row) if row.fence == fence => Ok(()),
        _ => Err(StoreError::LeaseLost { name: name.to_owned() }.into()),
    }
}

fn row(db: &Connection, name: &str) -> Result<Option<Row>, Fault> {
    let sql = "SELECT owner, since, fence FROM leases WHERE name = ?1";
    let found = db
        .query_row(sql, [name], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    found
        .map(|(owner, since, fence)| {
            let fence = unsigned(fence, &format!("the lease {name}"))?;
            Ok(Row { owner, since: timestamp(since), fence })
        })
        .transpose()
}

fn unavailable(action: &str, source: std::io::Error) -> StoreError {
    StoreError::Unavailable { action: action.to_owned(), source: source.into() }
}
