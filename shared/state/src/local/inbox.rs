//! The inbox in SQLite: a row for each item.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{OptionalExtension, Row, params};

use super::db::{Db, nanoseconds, timestamp, unsigned};
use crate::{
    StoreError,
    inbox::{
        Body, Delivery, Inbox, InboxCounts, Item, ItemOutage, Message, NewItem, PutError,
        PutFailures, Queue, Retry,
    },
};
use net::peers::{Peer, latest_written};

/// Unit of the wait of an item that was lost before, in nanoseconds. The item waits one to two units for each earlier
/// loss.
const LOST: i64 = 5_000_000_000;

pub(super) struct LocalInbox {
    pub(super) db: Db,
}

fn later(now: Timestamp, by: SignedDuration) -> i64 {
    nanoseconds(now.saturating_add(by).unwrap_or(Timestamp::MAX))
}

/// Reads an item from the columns id, body, attempts, since, receipt, lost, `outage_since`, `outage_last`,
/// `outage_peer`.
fn item(row: &Row<'_>) -> rusqlite::Result<Item> {
    let receipt: i64 = row.get(4)?;
    let (since, last): (Option<i64>, Option<i64>) = (row.get(6)?, row.get(7)?);
    let peer: Option<String> = row.get(8)?;
    let outage = since.zip(last);
    Ok(Item {
        id: row.get(0)?,
        body: row.get(1)?,
        attempts: row.get(2)?,
        since: timestamp(row.get(3)?),
        lost: row.get(5)?,
        outage: outage.map(|(since, last)| ItemOutage {
            since: timestamp(since),
            last: timestamp(last),
            peer: peer.as_deref().map_or(Peer::VirusTotal, peer_of),
        }),
        receipt: receipt.to_string(),
    })
}

/// Returns the name of a peer in the database.
fn text_of(peer: Peer) -> &'static str {
    match peer {
        Peer::VirusTotal => "virustotal",
        Peer::Dispatcher => "dispatcher",
        Peer::State => "state",
    }
}

fn peer_of(text: &str) -> Peer {
    let peers = [Peer::Dispatcher, Peer::State];
    peers.into_iter().find(|peer| text_of(*peer) == text).unwrap_or(Peer::VirusTotal)
}

impl LocalInbox {
    /// Runs a statement on the row that `item` was taken from, if the taker still has it.
    async fn change(
        &self,
        action: &str,
        queue: Queue,
        item: &Item,
        sql: &'static str,
        more: Vec<rusqlite::types::Value>,
    ) -> Result<bool, StoreError> {
        let Item { id, receipt, .. } = item.clone();
        // A receipt that is not a number was not written by this implementation.
        let Ok(receipt) = receipt.parse::<i64>() else { return Ok(false) };
        let mut values: Vec<rusqlite::types::Value> =
            vec![queue.name().to_owned().into(), id.into(), receipt.into()];
        values.extend(more);
        self.db
            .write(format!("{action} an item of the inbox of {}", queue.name()), move |db| {
                let mut statement = db.prepare_cached(sql)?;
                Ok(statement.execute(rusqlite::params_from_iter(values))? == 1)
            })
            .await
    }

    /// Puts all of the items, or none, in one transaction.
    async fn put_together(
        &self,
        queue: Queue,
        items: Vec<NewItem>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let now = nanoseconds(now);
        self.db
            .write(format!("putting work into the inbox of {}", queue.name()), move |db| {
                let mut statement = db.prepare_cached(
                    "INSERT INTO inbox (queue, id, body, since, due, written)
                     VALUES (?1, ?2, ?3, ?4, ?4, ?4)
                     ON CONFLICT (queue, id) DO NOTHING",
                )?;
                for NewItem { id, body } in items {
                    statement.execute(params![queue.name(), id, body, now])?;
                }
                Ok(())
            })
            .await
    }
}

fn is_busy(error: &StoreError) -> bool {
    let StoreError::Unavailable { source, .. } = error else { return false };
    let source = source.downcast_ref::<rusqlite::Error>();
    source.and_then(rusqlite::Error::sqlite_error_code) == Some(rusqlite::ErrorCode::DatabaseBusy)
}

#[async_trait]
impl Inbox for LocalInbox {
    async fn put(&self, queue: Queue, items: &[NewItem], now: Timestamp) -> Result<(), PutError> {
        let mut failures = PutFailures::default();
        match self.put_together(queue, items.to_vec(), now).await {
            Ok(()) => return Ok(()),
            // The database is locked, and each item alone would wait for it just as long.
            Err(error) if items.len() == 1 || is_busy(&error) => {
                failures.add(0, error);
                failures.skip(1..items.len());
            }
            Err(_) => {
                for (place, item) in items.iter().enumerate() {
                    if let Err(error) = self.put_together(queue, vec![item.clone()], now).await {
                        failures.add(place, error);
                    }
                }
            }
        }
        failures.finish()
    }

    async fn take(
        &self,
        queue: Queue,
        most: usize,
        hold: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<Item>, StoreError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let latest = nanoseconds(latest_written(now));
        let (now, until) = (nanoseconds(now), later(now, hold));
        self.db
            .write(format!("taking work from the inbox of {}", queue.name()), move |db| {
                let mut statement = db.prepare_cached(
                    "UPDATE inbox SET due = ?3, lost = lost + taken, taken = 1, receipt = receipt + 1,
                                      written = ?2
                     WHERE queue = ?1 AND id IN
                         (SELECT id FROM inbox WHERE queue = ?1 AND buried IS NULL
                              AND (due <= ?2 OR written > ?5)
                          ORDER BY due, since, id LIMIT ?4)
                     RETURNING id, body, attempts, since, receipt, lost, outage_since, outage_last,
                               outage_peer",
                )?;
                let mut rows = statement.query(params![queue.name(), now, until, most, latest])?;
                let mut items = Vec::new();
                while let Some(row) = rows.next()? {
                    items.push(item(row)?);
                }
                // `RETURNING` does not keep the order.
                items.sort_by(|a, b| a.since.cmp(&b.since).then_with(|| a.id.cmp(&b.id)));
                Ok(items)
            })
            .await
    }

    async fn accept(
        &self,
        queue: Queue,
        delivery: &Delivery,
        hold: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Item>, StoreError> {
        let damaged = |reason: String| StoreError::Damaged {
            what: format!("message {} for {}", delivery.message_id, queue.name()),
            reason,
        };
        let message = Message::parse(&delivery.body).map_err(damaged)?;
        let due = later(now, message.wait(now));
        let Body::Body(body) = message.body else {
            return Err(damaged("its body is an object on AWS".into()));
        };
        let Message { id, attempts, since, outage, .. } = message;
        let peer = outage.map(|outage| text_of(outage.peer));
        let outage = outage.map(|o| (nanoseconds(o.since), nanoseconds(o.last))).unzip();
        let latest = nanoseconds(latest_written(now));
        let (now, until) = (nanoseconds(now), later(now, hold));
        self.db
            .write(format!("accepting work for the inbox of {}", queue.name()), move |db| {
                db.execute(
                    "INSERT INTO inbox (queue, id, body, attempts, since, due, outage_since, outage_last, written,
                                        outage_peer)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                     ON CONFLICT (queue, id) DO NOTHING",
                    params![
                        queue.name(), id, body, attempts, nanoseconds(since), due, outage.0, outage.1, now,
                        peer
                    ],
                )?;
                let taken = db
                    .query_row(
                        "UPDATE inbox SET due = ?4, lost = lost + taken, taken = 1, receipt = receipt + 1,
                                          written = ?3
                         WHERE queue = ?1 AND id = ?2 AND buried IS NULL
                             AND (due <= ?3 OR written > ?5)
                         RETURNING id, body, attempts, since, receipt, lost, outage_since, outage_last,
                                   outage_peer",
                        params![queue.name(), id, now, until, latest],
                        item,
                    )
                    .optional()?;
                Ok(taken)
            })
            .await
    }

    async fn hold(
        &self,
        queue: Queue,
        item: &Item,
        hold: SignedDuration,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE inbox SET due = ?4, written = ?5
                   WHERE queue = ?1 AND id = ?2 AND receipt = ?3 AND taken AND buried IS NULL";
        let more = vec![later(now, hold).into(), nanoseconds(now).into()];
        self.change("keeping", queue, item, sql, more).await
    }

    async fn done(&self, queue: Queue, item: &Item) -> Result<bool, StoreError> {
        let sql = "DELETE FROM inbox
                   WHERE queue = ?1 AND id = ?2 AND receipt = ?3 AND taken AND buried IS NULL";
        self.change("ending", queue, item, sql, Vec::new()).await
    }

    async fn requeue(
        &self,
        queue: Queue,
        item: &Item,
        again: Retry,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql =
            "UPDATE inbox SET due = ?4, taken = 0, lost = 0, attempts = attempts + ?5, body = ?6,
                          outage_since = coalesce(?7, outage_since),
                          outage_last = coalesce(?8, outage_last),
                          written = ?9,
                          outage_peer = coalesce(?10, outage_peer)
                   WHERE queue = ?1 AND id = ?2 AND receipt = ?3 AND taken AND buried IS NULL";
        let more = vec![
            later(now, again.after).into(),
            i64::from(again.is_attempt).into(),
            item.body.clone().into(),
            again.outage.map(|outage| nanoseconds(outage.since)).into(),
            again.outage.map(|outage| nanoseconds(outage.last)).into(),
            nanoseconds(now).into(),
            again.outage.map(|outage| text_of(outage.peer).to_owned()).into(),
        ];
        self.change("putting back", queue, item, sql, more).await
    }

    async fn bury(
        &self,
        queue: Queue,
        item: &Item,
        reason: &str,
        _now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE inbox SET buried = ?4, taken = 0
                   WHERE queue = ?1 AND id = ?2 AND receipt = ?3 AND taken AND buried IS NULL";
        self.change("burying", queue, item, sql, vec![reason.to_owned().into()]).await
    }

    async fn reclaim(&self, queue: Queue, now: Timestamp) -> Result<u64, StoreError> {
        let now = nanoseconds(now);
        self.db
            .write(format!("reclaiming work of {}", queue.name()), move |db| {
                // The receipt is increased, so that a taker that is still alive can end nothing. From its second loss
                // in a row an item waits, longer after each further loss and for a random time. So an item that kills
                // each process that takes it does not take its neighbours along.
                let rows = db.execute(
                    "UPDATE inbox SET due = iif(lost > 0, ?2 + lost * (?3 + abs(random() % ?3)), min(due, ?2)),
                                      lost = lost + 1, taken = 0, receipt = receipt + 1, written = ?2
                     WHERE queue = ?1 AND taken AND buried IS NULL",
                    params![queue.name(), now, LOST],
                )?;
                Ok(rows as u64)
            })
            .await
    }

    async fn counts(&self, queue: Queue, now: Timestamp) -> Result<InboxCounts, StoreError> {
        let now = nanoseconds(now);
        self.db
            .read(format!("counting the inbox of {}", queue.name()), move |db| {
                let sums = db
                    .query_row(
                        "SELECT count(*) FILTER (WHERE buried IS NULL AND NOT (taken AND due > ?2)),
                                count(*) FILTER (WHERE buried IS NULL AND taken AND due > ?2),
                                count(*) FILTER (WHERE buried IS NOT NULL),
                                count(*) FILTER (WHERE buried IS NULL AND due <= ?2),
                                min(since) FILTER (WHERE buried IS NULL AND NOT (taken AND due > ?2))
                         FROM inbox WHERE queue = ?1",
                        params![queue.name(), now],
                        |row| {
                            let oldest: Option<i64> = row.get(4)?;
                            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, oldest))
                        },
                    )
                    .optional()?;
                let (waiting, in_work, buried, due, oldest) = sums.unwrap_or_default();
                let count = |n| unsigned(n, "the inbox");
                Ok(InboxCounts {
                    waiting: count(waiting)?,
                    due: count(due)?,
                    oldest: oldest.map(timestamp),
                    in_work: count(in_work)?,
                    buried: count(buried)?,
                })
            })
            .await
    }
}
