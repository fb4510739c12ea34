//! The memory in SQLite: a row for each remembered id, until it expires.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Transaction, params};

use super::db::{Db, Fault, nanoseconds};
use crate::{Memory, StoreError};
use net::peers::{Peers, latest_written};

/// Number of writes after which expired rows are removed. They are also removed at the first write of a process.
const PURGE_EVERY: u32 = 64;
/// Most rows that are removed at a time. It is more than are written meanwhile, and few enough not to stop a write for
/// long.
const PURGED: i64 = 1000;

pub(super) struct LocalMemory {
    db: Db,
    /// Peers that have to confirm the local clock before expired entries are removed.
    peers: Peers,
    writes: AtomicU32,
}

impl LocalMemory {
    pub(super) fn new(db: Db, peers: Peers) -> Self {
        Self { db, peers, writes: AtomicU32::new(0) }
    }
}

#[async_trait]
impl Memory for LocalMemory {
    async fn knows(&self, kind: &str, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        let (kind, id) = (kind.to_owned(), id.to_owned());
        self.db
            .read(format!("looking for a {kind} in the memory"), move |db| {
                let mut statement = db.prepare_cached(
                    "SELECT 1 FROM memory WHERE kind = ?1 AND id = ?2 AND expires > ?3
                         AND written <= ?4",
                )?;
                let latest = nanoseconds(latest_written(now));
                Ok(statement.exists(params![kind, id, nanoseconds(now), latest])?)
            })
            .await
    }

    async fn remember(
        &self,
        kind: &str,
        id: &str,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let new = self.remember_all(kind, &[id.to_owned()], ttl, now).await?;
        Ok(new.first().copied().unwrap_or(false))
    }

    async fn forget(&self, kind: &str, id: &str) -> Result<(), StoreError> {
        let (kind, id) = (kind.to_owned(), id.to_owned());
        self.db
            .write(format!("forgetting a {kind}"), move |db| {
                db.execute("DELETE FROM memory WHERE kind = ?1 AND id = ?2", [kind, id])?;
                Ok(())
            })
            .await
    }

    async fn remember_all(
        &self,
        kind: &str,
        ids: &[String],
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<bool>, StoreError> {
        let (kind, ids) = (kind.to_owned(), ids.to_vec());
        let now_ns = nanoseconds(now);
        let expires = nanoseconds(now.saturating_add(ttl).unwrap_or(Timestamp::MAX));
        let latest = nanoseconds(latest_written(now));
        let purge = self.writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(PURGE_EVERY)
            && self.peers.may_delete(now);
        self.db
            .write(format!("remembering {} of kind {kind}", ids.len()), move |db| {
                if purge {
                    remove_expired(db, now_ns)?;
                }
                let mut statement = db.prepare_cached(
                    "INSERT INTO memory (kind, id, expires, written) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (kind, id) DO UPDATE
                         SET expires = excluded.expires, written = excluded.written
                         WHERE memory.expires <= ?4 OR memory.written > ?5",
                )?;
                let mut new = Vec::with_capacity(ids.len());
                for id in ids {
                    new.push(statement.execute(params![kind, id, expires, now_ns, latest])? == 1);
                }
                Ok(new)
            })
            .await
    }
}

fn remove_expired(db: &Transaction<'_>, now: i64) -> Result<(), Fault> {
    db.execute(
        "DELETE FROM memory WHERE (kind, id) IN
             (SELECT kind, id FROM memory WHERE expires <= ?1 ORDER BY expires LIMIT ?2)",
        [now, PURGED],
    )?;
    Ok(())
}
