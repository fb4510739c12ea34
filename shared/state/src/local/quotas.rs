//! Quotas in SQLite: a row for each place taken, and a counter of them.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use jiff::{Timestamp, ToSpan, civil::Date};
use rusqlite::{OptionalExtension, Transaction, params};

use super::db::{Db, Fault, unsigned};
use crate::{QuotaUsage, Quotas, Reservation, ReservationStage, StoreError, totals::utc_day};
use net::peers::Peers;

/// Days for which a place is kept after its own day. It is far longer than any work on it takes.
const KEPT_DAYS: i64 = 35;
/// Number of reservations after which old rows are removed.
const PURGE_EVERY: u32 = 64;
/// Most rows that are removed at a time.
const PURGED: i64 = 1000;

pub(super) struct LocalQuotas {
    db: Db,
    /// Peers that have to confirm the local clock before old places are removed.
    peers: Peers,
    reservations: AtomicU32,
}

impl LocalQuotas {
    pub(super) fn new(db: Db, peers: Peers) -> Self {
        Self { db, peers, reservations: AtomicU32::new(0) }
    }
}

#[async_trait]
impl Quotas for LocalQuotas {
    async fn reserve(
        &self,
        category: &str,
        day: Date,
        limit: u64,
        id: &str,
    ) -> Result<Reservation, StoreError> {
        let (category, id) = (category.to_owned(), id.to_owned());
        let now = Timestamp::now();
        let purge = self.reservations.fetch_add(1, Ordering::Relaxed).is_multiple_of(PURGE_EVERY)
            && self.peers.may_delete(now);
        self.db
            .write(format!("reserving a place in the quota of {category}"), move |db| {
                if purge {
                    // An event may name any day, so `day` may lie in the future.
                    remove_old(db, day.min(utc_day(now)))?;
                }
                let day = number(day);
                if let Some(stage) = stage_of(db, &category, day, &id)? {
                    return Ok(Reservation::Already(stage));
                }
                let used = used(db, &category, day)?;
                if used >= limit {
                    return Ok(Reservation::Full { used });
                }
                db.execute(
                    "INSERT INTO quota_places (day, category, id, stage) VALUES (?1, ?2, ?3, ?4)",
                    params![day, category, id, rank(ReservationStage::Reserved)],
                )?;
                db.execute(
                    "INSERT INTO quota_used (day, category, used) VALUES (?1, ?2, 1)
                     ON CONFLICT (day, category) DO UPDATE SET used = used + 1",
                    params![day, category],
                )?;
                Ok(Reservation::Granted)
            })
            .await
    }

    async fn set_stage(
        &self,
        category: &str,
        day: Date,
        id: &str,
        stage: ReservationStage,
    ) -> Result<bool, StoreError> {
        let (category, id) = (category.to_owned(), id.to_owned());
        self.db
            .write(format!("noting the stage of a place in the quota of {category}"), move |db| {
                let rows = db.execute(
                    "UPDATE quota_places SET stage = max(stage, ?4)
                     WHERE day = ?1 AND category = ?2 AND id = ?3",
                    params![number(day), category, id, rank(stage)],
                )?;
                Ok(rows == 1)
            })
            .await
    }

    async fn settled(&self, category: &str, day: Date) -> Result<u64, StoreError> {
        let category = category.to_owned();
        self.db
            .read(format!("reading the quota of {category}"), move |db| {
                let settled = db.query_row(
                    "SELECT count(*) FROM quota_places
                     WHERE day = ?1 AND category = ?2 AND stage >= ?3",
                    params![number(day), category, rank(ReservationStage::Sourced)],
                    |row| row.get(0),
                )?;
                Ok(unsigned(settled, &format!("the quota of {category}"))?)
            })
            .await
    }

    async fn release(&self, category: &str, day: Date, id: &str) -> Result<bool, StoreError> {
        let (category, id) = (category.to_owned(), id.to_owned());
        self.db
            .write(format!("giving back a place in the quota of {category}"), move |db| {
                let day = number(day);
                let rows = db.execute(
                    "DELETE FROM quota_places
                     WHERE day = ?1 AND category = ?2 AND id = ?3 AND stage < ?4",
                    params![day, category, id, rank(ReservationStage::Sourced)],
                )?;
                if rows == 0 {
                    return Ok(false);
                }
                db.execute(
                    "UPDATE quota_used SET used = used - 1 WHERE day = ?1 AND category = ?2",
                    params![day, category],
                )?;
                Ok(true)
            })
            .await
    }

    async fn usage(&self, day: Date) -> Result<Vec<QuotaUsage>, StoreError> {
        self.db
            .read(format!("reading the quotas of {day}"), move |db| {
                let mut statement = db.prepare_cached(
                    "SELECT category, used FROM quota_used
                     WHERE day = ?1 AND used > 0 ORDER BY category",
                )?;
                let mut rows = statement.query([number(day)])?;
                let mut usage = Vec::new();
                while let Some(row) = rows.next()? {
                    let category: String = row.get(0)?;
                    let used = unsigned(row.get(1)?, &format!("the quota of {category}"))?;
                    usage.push(QuotaUsage { category, used });
                }
                Ok(usage)
            })
            .await
    }
}

fn stage_of(
    db: &Transaction<'_>,
    category: &str,
    day: i64,
    id: &str,
) -> Result<Option<ReservationStage>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT stage FROM quota_places WHERE day = ?1 AND category = ?2 AND id = ?3",
    )?;
    let found: Option<i64> =
        statement.query_row(params![day, category, id], |row| row.get(0)).optional()?;
    let stage = match found {
        None => None,
        Some(0) => Some(ReservationStage::Reserved),
        Some(1) => Some(ReservationStage::Stored),
        Some(2) => Some(ReservationStage::Sourced),
        Some(3) => Some(ReservationStage::Reported),
        Some(other) => {
            return Err(StoreError::Damaged {
                what: format!("a place in the quota of {category}"),
                reason: format!("its stage is {other}"),
            }
            .into());
        }
    };
    Ok(stage)
}

fn used(db: &Transaction<'_>, category: &str, day: i64) -> Result<u64, Fault> {
    let mut statement =
        db.prepare_cached("SELECT used FROM quota_used WHERE day = ?1 AND category = ?2")?;
    let used: Option<i64> =
        statement.query_row(params![day, category], |row| row.get(0)).optional()?;
    Ok(unsigned(used.unwrap_or(0), &format!("the quota of {category}"))?)
}

fn remove_old(db: &Transaction<'_>, today: Date) -> Result<(), Fault> {
    let before = number(today.saturating_sub(KEPT_DAYS.days()));
    // `DELETE` has no limit here, and a primary key of three columns has no single number to select by. So the rows are
    // selected by the whole key.
    db.execute(
        "DELETE FROM quota_places WHERE (day, category, id) IN
             (SELECT day, category, id FROM quota_places WHERE day < ?1 LIMIT ?2)",
        [before, PURGED],
    )?;
    db.execute(
        "DELETE FROM quota_used WHERE (day, category) IN
             (SELECT day, category FROM quota_used WHERE day < ?1 LIMIT ?2)",
        [before, PURGED],
    )?;
    Ok(())
}

/// Returns a day as the number YYYYMMDD, such as 20261124.
fn number(day: Date) -> i64 {
    i64::from(day.year()) * 10_000 + i64::from(day.month()) * 100 + i64::from(day.day())
}

/// Returns the number that the database stores for a stage. Later stages have greater numbers.
fn rank(stage: ReservationStage) -> i64 {
    match stage {
        ReservationStage::Reserved => 0,
        ReservationStage::Stored => 1,
        ReservationStage::Sourced => 2,
        ReservationStage::Reported => 3,
    }
}
