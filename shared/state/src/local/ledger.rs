//! The ledger in SQLite: a row for each feed minute.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, Params, Row, params};

use super::{
    db::{Db, Fault, nanoseconds, signed, timestamp, unsigned},
    leases::require_newest,
};
use crate::{Counts, GapKind, Lease, Ledger, LedgerRow, LedgerTotals, MinuteState, StoreError};
use base::minute::Minute;
use net::peers::latest_written;

pub(super) struct LocalLedger {
    pub(super) db: Db,
}

const SELECT: &str = "SELECT minute, state, bundle, lines_done, kind, reason, attempts, next_try,
        records, delivered, filtered, rejected, requests, bad_values, replaced_utf8, updated
    FROM ledger";

const GAP: &str = "gap";

#[async_trait]
impl Ledger for LocalLedger {
    async fn get(&self, minute: Minute) -> Result<Option<LedgerRow>, StoreError> {
        self.db
            .read(format!("reading the ledger of minute {minute}"), move |db| {
                let sql = format!("{SELECT} WHERE minute = ?1");
                Ok(rows(db, &sql, [minute.unix_seconds()])?.pop())
            })
            .await
    }

    async fn put(&self, row: &LedgerRow, lease: &Lease) -> Result<(), StoreError> {
        self.put_all(std::slice::from_ref(row), lease).await
    }

    /// Writes all rows or none, in one transaction.
    async fn put_all(&self, rows: &[LedgerRow], lease: &Lease) -> Result<(), StoreError> {
        let (rows, name, fence) = (rows.to_vec(), lease.name.clone(), lease.fence);
        self.db
            .write(format!("writing {} rows of the ledger", rows.len()), move |db| {
                require_newest(db, &name, fence)?;
                rows.iter().try_for_each(|row| insert(db, row))
            })
            .await
    }

    async fn range(&self, from: Minute, to: Minute) -> Result<Vec<LedgerRow>, StoreError> {
        self.db
            .read(format!("reading the ledger from {from} to {to}"), move |db| {
                let sql = format!("{SELECT} WHERE minute >= ?1 AND minute < ?2 ORDER BY minute");
                rows(db, &sql, [from.unix_seconds(), to.unix_seconds()])
            })
            .await
    }

    async fn unfinished(&self, now: Timestamp, limit: usize) -> Result<Vec<LedgerRow>, StoreError> {
        self.db
            .read("reading what is unfinished", move |db| {
                let sql = format!(
                    "{SELECT} WHERE state IN ('gap', 'planned', 'loading')
                         AND (state <> 'gap' OR next_try <= ?1 OR updated > ?2)
                     ORDER BY minute LIMIT ?3"
                );
                let latest = nanoseconds(latest_written(now));
                rows(db, &sql, [nanoseconds(now), latest, at_most(limit)])
            })
            .await
    }

    async fn gaps(&self, limit: usize) -> Result<Vec<LedgerRow>, StoreError> {
        self.db
            .read("reading the gaps", move |db| {
                let sql = format!("{SELECT} WHERE state = 'gap' ORDER BY minute LIMIT ?1");
                rows(db, &sql, [at_most(limit)])
            })
            .await
    }

    async fn totals(&self) -> Result<LedgerTotals, StoreError> {
        self.db.read("counting the ledger", totals).await
    }

    async fn prune(&self, before: Minute) -> Result<u64, StoreError> {
        self.db
            .write(format!("forgetting the ledger before {before}"), move |db| {
                let sql = "DELETE FROM ledger WHERE minute < ?1 AND state IN ('loaded', 'buried')";
                Ok(db.execute(sql, [before.unix_seconds()])? as u64)
            })
            .await
    }
}

fn insert(db: &Connection, row: &LedgerRow) -> Result<(), Fault> {
    let columns = Columns::of(&row.state);
    let counts = row.counts;
    let mut statement = db.prepare_cached(
        "INSERT OR REPLACE INTO ledger (minute, state, bundle, lines_done, kind, reason,
             attempts, next_try, records, delivered, filtered, rejected, requests,
             bad_values, replaced_utf8, updated)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
    )?;
    statement.execute(params![
        row.minute.unix_seconds(),
        columns.state,
        columns.bundle,
        columns.lines_done,
        columns.kind,
        columns.reason,
        columns.attempts,
        columns.next_try,
        signed(counts.records),
        signed(counts.delivered),
        signed(counts.filtered),
        signed(counts.rejected),
        signed(counts.requests),
        signed(counts.bad_values),
        signed(counts.replaced_utf8),
        nanoseconds(row.updated),
    ])?;
    Ok(())
}

fn totals(db: &Connection) -> Result<LedgerTotals, Fault> {
    let mut totals = LedgerTotals::default();
    let mut statement = db.prepare_cached(
        // Unlike `sum()`, `total()` does not fail if the sum exceeds 64 bits. The cast limits it to the greatest value.
        "SELECT state, count(*), CAST(total(records) AS INTEGER), CAST(total(delivered) AS INTEGER),
             CAST(total(filtered) AS INTEGER), CAST(total(rejected) AS INTEGER),
             CAST(total(requests) AS INTEGER), CAST(total(bad_values) AS INTEGER),
             CAST(total(replaced_utf8) AS INTEGER)
         FROM ledger GROUP BY state",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let state: String = row.get(0)?;
        let minutes = unsigned(row.get(1)?, "the ledger")?;
        match state.as_str() {
            "planned" => totals.planned = minutes,
            "loading" => totals.loading = minutes,
            "loaded" => totals.loaded = minutes,
            GAP => totals.gaps = minutes,
            "buried" => totals.buried = minutes,
            other => return Err(damaged("the ledger", format!("state `{other}`")).into()),
        }
        totals.counts.add(counts(row, 2, "the ledger")?);
    }
    Ok(totals)
}

/// The columns of a minute's state.
#[derive(Default)]
struct Columns<'a> {
    state: &'static str,
    bundle: Option<&'a str>,
    lines_done: Option<i64>,
    kind: Option<&'static str>,
    reason: Option<&'a str>,
    attempts: Option<u32>,
    next_try: Option<i64>,
}

impl<'a> Columns<'a> {
    fn of(state: &'a MinuteState) -> Self {
        let none = Self::default();
        match state {
            MinuteState::Planned => Self { state: "planned", ..none },
            MinuteState::Loading { bundle, lines_done } => Self {
                state: "loading",
                bundle: Some(bundle),
                lines_done: Some(signed(*lines_done)),
                ..none
            },
            MinuteState::Loaded => Self { state: "loaded", ..none },
            MinuteState::Gap { kind, reason, attempts, next_try } => Self {
                state: GAP,
                kind: Some(match kind {
                    GapKind::Missing => "missing",
                    GapKind::Failed => "failed",
                }),
                reason: Some(reason),
                attempts: Some(*attempts),
                next_try: Some(nanoseconds(*next_try)),
                ..none
            },
            MinuteState::Buried { reason } => {
                Self { state: "buried", reason: Some(reason), ..none }
            }
        }
    }
}

fn rows(db: &Connection, sql: &str, params: impl Params) -> Result<Vec<LedgerRow>, Fault> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(ledger_row(row)?);
    }
    Ok(found)
}

fn ledger_row(row: &Row<'_>) -> Result<LedgerRow, Fault> {
    let minute = Minute::from_unix_seconds(row.get(0)?);
    let what = format!("the ledger of minute {minute}");
    let state: String = row.get(1)?;
    let state = match state.as_str() {
        "planned" => MinuteState::Planned,
        "loading" => {
            MinuteState::Loading { bundle: row.get(2)?, lines_done: unsigned(row.get(3)?, &what)? }
        }
        "loaded" => MinuteState::Loaded,
        GAP => {
            let kind: String = row.get(4)?;
            MinuteState::Gap {
                kind: match kind.as_str() {
                    "missing" => GapKind::Missing,
                    "failed" => GapKind::Failed,
                    other => return Err(damaged(&what, format!("gap of kind `{other}`")).into()),
                },
                reason: row.get(5)?,
                attempts: row.get(6)?,
                next_try: timestamp(row.get(7)?),
            }
        }
        "buried" => MinuteState::Buried { reason: row.get(5)? },
        other => return Err(damaged(&what, format!("state `{other}`")).into()),
    };
    let counts = counts(row, 8, &what)?;
    Ok(LedgerRow { minute, state, counts, updated: timestamp(row.get(15)?) })
}

/// Reads the counts from seven columns, beginning at `first`.
fn counts(row: &Row<'_>, first: usize, what: &str) -> Result<Counts, Fault> {
    let count =
        |n: usize| -> Result<u64, Fault> { Ok(unsigned(row.get(first.saturating_add(n))?, what)?) };
    Ok(Counts {
        records: count(0)?,
        delivered: count(1)?,
        filtered: count(2)?,
        rejected: count(3)?,
        requests: count(4)?,
        bad_values: count(5)?,
        replaced_utf8: count(6)?,
    })
}

fn damaged(what: &str, reason: String) -> StoreError {
    StoreError::Damaged { what: what.to_owned(), reason }
}

fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
