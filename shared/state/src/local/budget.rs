//! The budget in SQLite: a row for each granted request, until it is older than every window.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{OptionalExtension, params};

use super::db::{Db, nanoseconds, unsigned};
use crate::{
    StoreError,
    budget::{Budget, Permit, Window, WindowUsage},
};
use net::peers::{Peers, latest_written};

pub(super) struct LocalBudget {
    pub(super) db: Db,
    /// Peers that have to confirm the local clock before old grants are removed.
    pub(super) peers: Peers,
}

/// Returns in nanoseconds for how long a grant counts.
fn counted(window: &Window) -> i64 {
    i64::try_from(window.counted().as_nanos()).unwrap_or(i64::MAX)
}

#[async_trait]
impl Budget for LocalBudget {
    async fn ask(
        &self,
        name: &str,
        windows: &[Window],
        now: Timestamp,
    ) -> Result<Permit, StoreError> {
        if windows.is_empty() {
            return Ok(Permit::Granted);
        }
        // A grant in the future was made by a clock that was ahead. It does not count.
        let latest = nanoseconds(latest_written(now));
        let may_forget = self.peers.may_delete(now);
        let (name, windows, now) = (name.to_owned(), windows.to_vec(), nanoseconds(now));
        self.db
            .write(format!("asking for a request of the budget {name}"), move |db| {
                // A clock that went back a little must not make room, so the time never goes below the last grant.
                let last: Option<i64> = db
                    .prepare_cached(
                        "SELECT max(granted) FROM budget WHERE name = ?1 AND granted <= ?2",
                    )?
                    .query_row(params![name, latest], |row| row.get(0))?;
                let now = last.map_or(now, |last| last.max(now));
                let mut wait = 0;
                for window in &windows {
                    let Some(before) = window.limit.checked_sub(1) else {
                        wait = i64::MAX;
                        continue;
                    };
                    let nth: Option<i64> = db
                        .prepare_cached(
                            "SELECT granted FROM budget WHERE name = ?1 AND granted <= ?3
                             ORDER BY granted DESC, number DESC LIMIT 1 OFFSET ?2",
                        )?
                        .query_row(params![name, before, latest], |row| row.get(0))
                        .optional()?;
                    if let Some(nth) = nth {
                        let free = nth.saturating_add(counted(window));
                        wait = wait.max(free.saturating_sub(now));
                    }
                }
                if wait > 0 {
                    return Ok(Permit::Wait(SignedDuration::from_nanos(wait)));
                }
                db.execute(
                    "INSERT INTO budget (name, granted) VALUES (?1, ?2)",
                    params![name, now],
                )?;
                if may_forget {
                    let longest = windows.iter().map(counted).max().unwrap_or(0);
                    db.execute(
                        "DELETE FROM budget WHERE name = ?1 AND (granted < ?2 OR granted > ?3)",
                        params![name, now.saturating_sub(longest), latest],
                    )?;
                }
                Ok(Permit::Granted)
            })
            .await
    }

    async fn usage(
        &self,
        name: &str,
        windows: &[Window],
        now: Timestamp,
    ) -> Result<Vec<WindowUsage>, StoreError> {
        let latest = nanoseconds(latest_written(now));
        let (name, windows, now) = (name.to_owned(), windows.to_vec(), nanoseconds(now));
        self.db
            .read(format!("reading the budget {name}"), move |db| {
                let mut statement = db.prepare_cached(
                    "SELECT count(*) FROM budget
                     WHERE name = ?1 AND granted > ?2 AND granted <= ?3",
                )?;
                let mut usage = Vec::new();
                for window in windows {
                    let from = now.saturating_sub(counted(&window));
                    let used =
                        statement.query_row(params![name, from, latest], |row| row.get(0))?;
                    usage.push(WindowUsage { window, used: unsigned(used, "the budget")? });
                }
                Ok(usage)
            })
            .await
    }
}
