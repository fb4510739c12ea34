//! The ledger in `DynamoDB`: an item for each feed minute, a copy of each unfinished one, and sums of the finished
//! ones.
//!
//! A write is one transaction of the lease's fence, the row, its copy, and the sums of its day. The sums are written
//! only if the row becomes finished (loaded or buried) or was finished before. They change by the difference to the old
//! row.
//!
//! The old row is usually not read. The first transaction assumes that it is unfinished and makes that a condition. If
//! the condition fails, the refusal returns the old row, and the next transaction makes that row its condition.
//!
//! Finished rows, and the sums of their day, are forgotten after five weeks.
//!
//! The cost of a put is 3 or 4 items of a transaction (6 or 8 write units). `unfinished` and `gaps` read only
//! unfinished rows. `totals` reads those and an item for each day kept (about 10 kB, 3 read units).

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};
use jiff::{SignedDuration, Timestamp, ToSpan, civil::Date, tz::TimeZone};
use serde_json::Value;

use super::{
    leases::fence,
    table::{
        Filter, Item, Key, TRANSACTION, Table, Transacted, damaged, expiry, item, mark, number,
        number_of, text, text_of, time,
    },
};
use crate::{Lease, Ledger, LedgerRow, LedgerTotals, MinuteState, StoreError};
use base::minute::Minute;
use net::peers::latest_written;

const OPEN: &str = "ledger-open";
const TOTALS: &str = "ledger-totals";
/// Most rows in one transaction. It also holds the lease and the day's sums, and a copy of each row.
const ROWS: usize = (TRANSACTION - 2) / 2;
/// Days for which a finished row is kept after its minute. The sums of its day are kept one day longer.
const KEPT_DAYS: i64 = 36;
/// Most attempts of a write whose rows other processes change meanwhile.
const LOOKS: u32 = 20;

pub(super) struct AwsLedger(pub(super) Table);

/// The old row that a write assumes.
#[derive(Clone)]
enum Before {
    /// An unfinished row or none, which the sums do not include.
    Open,
    /// This row, as the write with this mark left it.
    Known(Box<LedgerRow>, String),
}

fn date(minute: Minute) -> Date {
    TimeZone::UTC.to_datetime(minute.start()).date()
}

/// Returns the partition of a day's rows. Each month has one, so that a range takes few queries and no partition grows
/// without bound.
fn partition(date: Date) -> String {
    format!("ledger#{}", date.strftime("%Y-%m"))
}

fn key(minute: Minute) -> Key {
    Key { pk: partition(date(minute)), sk: minute.to_string() }
}

fn open_key(minute: Minute) -> Key {
    Key { pk: OPEN.to_owned(), sk: minute.to_string() }
}

#[async_trait]
impl Ledger for AwsLedger {
    async fn get(&self, minute: Minute) -> Result<Option<LedgerRow>, StoreError> {
        let action = format!("reading the ledger of minute {minute}");
        let found = self.0.get(&action, key(minute)).await?;
        found.as_ref().map(row_of).transpose()
    }

    async fn put(&self, row: &LedgerRow, lease: &Lease) -> Result<(), StoreError> {
        self.put_some(&[row], lease).await
    }

    /// Writes the rows in transactions of up to 49 rows of one day.
    async fn put_all(&self, rows: &[LedgerRow], lease: &Lease) -> Result<(), StoreError> {
        // If there are several rows for one minute, the last one counts.
        let rows: BTreeMap<Minute, &LedgerRow> = rows.iter().map(|row| (row.minute, row)).collect();
        let rows: Vec<&LedgerRow> = rows.into_values().collect();
        for day in rows.chunk_by(|a, b| date(a.minute) == date(b.minute)) {
            for some in day.chunks(ROWS) {
                self.put_some(some, lease).await?;
            }
        }
        Ok(())
    }

    async fn range(&self, from: Minute, to: Minute) -> Result<Vec<LedgerRow>, StoreError> {
        let mut rows = Vec::new();
        if to <= from {
            return Ok(rows);
        }
        let last = to.plus(-1);
        let action = format!("reading the ledger from {from} to {to}");
        let mut month = date(from).first_of_month();
        while month <= date(last) {
            let between = Some((from.to_string(), last.to_string()));
            let filter = Filter { between, ..Filter::default() };
            for found in self.0.query(&action, &partition(month), filter).await? {
                rows.push(row_of(&found)?);
            }
            month = month.saturating_add(1.month());
        }
        Ok(rows)
    }

    async fn unfinished(&self, now: Timestamp, limit: usize) -> Result<Vec<LedgerRow>, StoreError> {
        let filter = Filter {
            condition: Some("#due <= :now OR #updated > :latest"),
            values: item([(":now", time(now)), (":latest", time(latest_written(now)))]),
            limit: Some(limit),
            ..Filter::default()
        };
        self.open("looking for unfinished minutes", filter).await
    }

    async fn gaps(&self, limit: usize) -> Result<Vec<LedgerRow>, StoreError> {
        let filter = Filter {
            condition: Some("#state = :gap"),
            values: item([(":gap", text("gap"))]),
            limit: Some(limit),
            ..Filter::default()
        };
        self.open("looking for gaps", filter).await
    }

    async fn totals(&self) -> Result<LedgerTotals, StoreError> {
        let action = "counting the ledger's rows";
        let mut totals = LedgerTotals::default();
        for row in self.open(action, Filter::default()).await? {
            match row.state {
                MinuteState::Planned => totals.planned += 1,
                MinuteState::Loading { .. } => totals.loading += 1,
                MinuteState::Gap { .. } => totals.gaps += 1,
                MinuteState::Loaded | MinuteState::Buried { .. } => {}
            }
            totals.counts.add(row.counts);
        }
        for day in self.0.query(action, TOTALS, Filter::default()).await? {
            let what = format!("the ledger's sums of {}", text_of(&day, "sk", "an item")?);
            let mut counts = serde_json::Map::new();
            for (name, value) in &day {
                if let AttributeValue::N(_) = value {
                    let sum: i64 = number_of(&day, name, &what)?;
                    // A sum is below zero if the sums expired before a row that was then written again.
                    counts.insert(name.clone(), u64::try_from(sum).unwrap_or(0).into());
                }
            }
            let sum = |name| counts.get(name).and_then(Value::as_u64).unwrap_or(0);
            totals.loaded += sum("loaded");
            totals.buried += sum("buried");
            let counts = serde_json::from_value(Value::Object(counts));
            totals.counts.add(counts.map_err(|error| damaged(&what, error.to_string()))?);
        }
        Ok(totals)
    }
}

impl AwsLedger {
    async fn open(&self, action: &str, filter: Filter<'_>) -> Result<Vec<LedgerRow>, StoreError> {
        self.0.query(action, OPEN, filter).await?.iter().map(row_of).collect()
    }

    /// Writes rows of one day in one transaction.
    async fn put_some(&self, rows: &[&LedgerRow], lease: &Lease) -> Result<(), StoreError> {
        let action = match rows {
            [row] => format!("writing the ledger of minute {}", row.minute),
            _ => format!("writing {} rows of the ledger", rows.len()),
        };
        let mut before = vec![Before::Open; rows.len()];
        for _ in 0..LOOKS {
            let writes = self.writes(rows, &before, lease)?;
            let mut refused = match self.0.transact(&action, writes).await? {
                Transacted::Done => return Ok(()),
                Transacted::Refused(refused) => refused.into_iter(),
            };
            if refused.next().flatten().is_some() {
                return Err(StoreError::LeaseLost { name: lease.name.clone() });
            }
            // Rows come next, in their order; their copies and the sums have no conditions.
            for (before, refused) in before.iter_mut().zip(refused) {
                if let Some(found) = refused {
                    *before = before_of(&found)?;
                }
            }
        }
        let source = "others write the same rows".into();
        Err(StoreError::Unavailable { action, source })
    }

    fn writes(
        &self,
        rows: &[&LedgerRow],
        before: &[Before],
        lease: &Lease,
    ) -> Result<Vec<TransactWriteItem>, StoreError> {
        let table = &self.0;
        let rev = mark();
        let mut writes = vec![fence(table, lease)?];
        let mut copies = Vec::new();
        let mut sums = BTreeMap::new();
        for (row, before) in rows.iter().zip(before) {
            let json = text(json(row)?);
            let open = is_open(&row.state);
            let mut attributes = item([
                ("row", json.clone()),
                ("open", AttributeValue::Bool(open)),
                ("rev", text(rev.clone())),
            ]);
            if !open {
                attributes.insert("expires_at".into(), expires(row.minute, KEPT_DAYS));
            }
            let (condition, values) = match before {
                Before::Open => (
                    "attribute_not_exists(#pk) OR #open = :open",
                    item([(":open", AttributeValue::Bool(true))]),
                ),
                Before::Known(old, rev) => {
                    count(&mut sums, old, -1)?;
                    ("#rev = :rev", item([(":rev", text(rev.clone()))]))
                }
            };
            count(&mut sums, row, 1)?;
            writes.push(table.put(key(row.minute), attributes, Some(condition), values)?);
            copies.push(if open {
                let (state, due) = state_of(&row.state);
                let updated = time(row.updated);
                let copy = item([
                    ("row", json),
                    ("state", text(state)),
                    ("due", due),
                    ("updated", updated),
                ]);
                table.put(open_key(row.minute), copy, None, item([]))?
            } else {
                table.delete(open_key(row.minute), None, item([]))?
            });
        }
        writes.append(&mut copies);
        sums.retain(|_, sum| *sum != 0);
        if let (Some(row), false) = (rows.first(), sums.is_empty()) {
            let key = Key { pk: TOTALS.to_owned(), sk: date(row.minute).to_string() };
            let adds: Vec<String> = sums.keys().map(|name| format!("#{name} :{name}")).collect();
            let change = format!("SET #expires_at = :expires ADD {}", adds.join(", "));
            let mut values = item([(":expires", expires(row.minute, KEPT_DAYS + 1))]);
            values.extend(sums.iter().map(|(name, sum)| (format!(":{name}"), number(sum))));
            writes.push(table.change(key, &change, None, values)?);
        }
        Ok(writes)
    }
}

/// Returns the expiry time of an item, `days` after its minute.
fn expires(minute: Minute, days: i64) -> AttributeValue {
    let after = SignedDuration::from_hours(days * 24);
    expiry(minute.start().saturating_add(after).unwrap_or(Timestamp::MAX))
}

/// Adds a finished row's counts to the sums, multiplied by the given factor.
fn count(
    sums: &mut BTreeMap<String, i128>,
    row: &LedgerRow,
    times: i128,
) -> Result<(), StoreError> {
    if is_open(&row.state) {
        return Ok(());
    }
    let (state, _) = state_of(&row.state);
    *sums.entry(state.to_owned()).or_default() += times;
    let what = || format!("the counts of minute {}", row.minute);
    let counts = serde_json::to_value(row.counts).map_err(|e| damaged(&what(), e.to_string()))?;
    for (name, value) in counts.as_object().into_iter().flatten() {
        let value = value.as_u64().map(i128::from).unwrap_or_default();
        *sums.entry(name.clone()).or_default() += times * value;
    }
    Ok(())
}

/// Whether something is still to be done for the minute.
fn is_open(state: &MinuteState) -> bool {
    !matches!(state, MinuteState::Loaded | MinuteState::Buried { .. })
}

/// Returns the name of a state and the time at which it is due.
fn state_of(state: &MinuteState) -> (&'static str, AttributeValue) {
    let always = number(0);
    match state {
        MinuteState::Planned => ("planned", always),
        MinuteState::Loading { .. } => ("loading", always),
        MinuteState::Loaded => ("loaded", always),
        MinuteState::Gap { next_try, .. } => ("gap", time(*next_try)),
        MinuteState::Buried { .. } => ("buried", always),
    }
}

fn json(row: &LedgerRow) -> Result<String, StoreError> {
    let what = || format!("the ledger of minute {}", row.minute);
    serde_json::to_string(row).map_err(|error| damaged(&what(), error.to_string()))
}

fn row_of(item: &Item) -> Result<LedgerRow, StoreError> {
    let what = format!("the ledger of minute {}", text_of(item, "sk", "an item")?);
    serde_json::from_str(text_of(item, "row", &what)?)
        .map_err(|error| damaged(&what, error.to_string()))
}

/// Returns the old row that a refused write has to assume next: the row that the refusal found.
fn before_of(found: &Item) -> Result<Before, StoreError> {
    if found.is_empty() || found.get("open") == Some(&AttributeValue::Bool(true)) {
        return Ok(Before::Open);
    }
    let row = row_of(found)?;
    let rev = text_of(found, "rev", &format!("the ledger of minute {}", row.minute))?;
    Ok(Before::Known(Box::new(row), rev.to_owned()))
}
