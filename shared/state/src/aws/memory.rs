//! The memory in `DynamoDB`: an item for each remembered id, until it expires.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::table::{
    Item, Key, TRANSACTION, Table, Transacted, Updated, expiry, item, mark, part, text, time,
    time_of,
};
use crate::{Memory, StoreError};
use net::peers::latest_written;

const CHANGE: &str = "SET #until = :until, #expires_at = :expires, #written = :now, #by = :me";
/// Condition for a new entry: the id has no entry, or its entry has expired or was written by a clock that was ahead.
const NEW: &str = "attribute_not_exists(#pk) OR #until <= :now OR #written > :latest";

pub(super) struct AwsMemory(pub(super) Table);

fn key(kind: &str, id: &str) -> Key {
    Key::alone(format!("memory#{kind}#{}", part(id)))
}

#[async_trait]
impl Memory for AwsMemory {
    async fn knows(&self, kind: &str, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        let action = format!("looking for a {kind} in the memory");
        let Some(found) = self.0.get(&action, key(kind, id)).await? else { return Ok(false) };
        let what = format!("the memory of a {kind}");
        if found.contains_key("written") && time_of(&found, "written", &what)? > latest_written(now)
        {
            return Ok(false);
        }
        Ok(time_of(&found, "until", &what)? > now)
    }

    async fn remember(
        &self,
        kind: &str,
        id: &str,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let action = format!("remembering a {kind}");
        let updated = self.0.update(&action, key(kind, id), CHANGE, NEW, values(ttl, now)).await?;
        Ok(matches!(updated, Updated::Done(_)))
    }

    async fn forget(&self, kind: &str, id: &str) -> Result<(), StoreError> {
        let gone = self.0.delete(key(kind, id), None, item([]))?;
        self.0.transact(&format!("forgetting a {kind}"), vec![gone]).await?;
        Ok(())
    }

    /// Uses one transaction for up to 100 ids, and a second one for the others if some are known already.
    async fn remember_all(
        &self,
        kind: &str,
        ids: &[String],
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<bool>, StoreError> {
        let distinct: BTreeSet<&String> = ids.iter().collect();
        let distinct: Vec<&String> = distinct.into_iter().collect();
        let mut new = BTreeMap::new();
        for some in distinct.chunks(TRANSACTION) {
            let mut left = some.to_vec();
            while !left.is_empty() {
                let known = match left.as_slice() {
                    [id] => vec![!self.remember(kind, id, ttl, now).await?],
                    several => self.remember_together(kind, several, ttl, now).await?,
                };
                let done = !known.contains(&true);
                for (id, known) in left.iter().zip(&known) {
                    if done || *known {
                        new.insert(*id, !known);
                    }
                }
                left.retain(|id| !new.contains_key(id));
            }
        }
        // An id that is given twice is new only once.
        Ok(ids.iter().map(|id| new.remove(id).unwrap_or(false)).collect())
    }
}

impl AwsMemory {
    /// Remembers all of the ids. If any is known already, remembers none and returns which are known.
    async fn remember_together(
        &self,
        kind: &str,
        ids: &[&String],
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<bool>, StoreError> {
        let values = values(ttl, now);
        let writes = ids
            .iter()
            .map(|id| self.0.change(key(kind, id), CHANGE, Some(NEW), values.clone()))
            .collect::<Result<_, _>>()?;
        let action = format!("remembering {} of kind {kind}", ids.len());
        Ok(match self.0.transact(&action, writes).await? {
            Transacted::Done => vec![false; ids.len()],
            Transacted::Refused(refused) => refused.iter().map(Option::is_some).collect(),
        })
    }
}

fn values(ttl: SignedDuration, now: Timestamp) -> Item {
    let until = now.saturating_add(ttl).unwrap_or(Timestamp::MAX);
    item([
        (":until", time(until)),
        (":expires", expiry(until)),
        (":now", time(now)),
        (":latest", time(latest_written(now))),
        (":me", text(mark())),
    ])
}
