//! Leases: an item each, that says whose it is and until when.
//!
//! A lease runs out [`LASTS`] after it was taken or renewed, by the clock of whoever did; whoever wants it
//! compares with its own. Where the clocks are apart by less than what a renewal leaves (60 s less 20 s), a
//! living owner keeps it. Where they are apart by more it may lose it early, and then its next write is
//! refused: what is written under a lease never depends on clocks, only on the fencing number.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::TransactWriteItem;
use jiff::{SignedDuration, Timestamp};

use super::table::{
    Item, Key, Table, Updated, expiry, item, mark, number, number_of, text, text_of, time, time_of,
};
use crate::peers::latest_written;
use crate::store::{Grant, Lease, Leases, StoreError, keys::check_lease_name};

/// How long a lease lasts without a renewal.
const LASTS: SignedDuration = SignedDuration::from_secs(60);
/// How long the item of a lease is kept that nobody takes any more: far longer than an owner can live, whose
/// number would be given again.
const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

pub(super) struct AwsLeases(pub(super) Table);

fn key(name: &str) -> Key {
    Key::alone(format!("lease#{name}"))
}

/// The part of a transaction that refuses it where the lease belongs to somebody else.
pub(super) fn fence(table: &Table, lease: &Lease) -> Result<TransactWriteItem, StoreError> {
    let values = item([(":fence", number(lease.fence))]);
    table.check(key(&lease.name), "#fence = :fence", values)
}

#[async_trait]
impl Leases for AwsLeases {
    async fn acquire(&self, name: &str, owner: &str, now: Timestamp) -> Result<Grant, StoreError> {
        check_lease_name(name)?;
        let what = format!("the lease {name}");
        let change = "SET #owner = :owner, #since = :now, #renewed = :now, #until = :until, \
                      #expires_at = :expires, #by = :me ADD #fence :one";
        // A lease that ends later than its full length from now was written by a clock that was ahead, and does not
        // count.
        let condition = "attribute_not_exists(#pk) OR #until <= :now OR #until > :latest";
        let mut values = times(now);
        let latest = latest_written(now).saturating_add(LASTS).unwrap_or(Timestamp::MAX);
        values.extend(item([(":latest", time(latest))]));
        values.extend(item([(":owner", text(owner)), (":me", text(mark())), (":one", number(1))]));
        let action = format!("taking {what}");
        match self.0.update(&action, key(name), change, condition, values).await? {
            Updated::Done(now) => {
                let fence = number_of(&now, "fence", &what)?;
                Ok(Grant::Acquired(Lease {
                    name: name.to_owned(),
                    owner: owner.to_owned(),
                    fence,
                    guard: None,
                }))
            }
            Updated::Refused(held) => Ok(Grant::Held {
                owner: text_of(&held, "owner", &what)?.to_owned(),
                since: time_of(&held, "since", &what)?,
            }),
        }
    }

    async fn renew(&self, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
        let mut values = times(now);
        values.extend(item([(":fence", number(lease.fence)), (":free", number(0))]));
        let change = "SET #renewed = :now, #until = :until, #expires_at = :expires";
        // One that arrives late, after the lease was given back, must not take it.
        let condition = "#fence = :fence AND #until > :free";
        let action = format!("renewing the lease {}", lease.name);
        match self.0.update(&action, key(&lease.name), change, condition, values).await? {
            Updated::Done(_) => Ok(()),
            Updated::Refused(_) => Err(StoreError::LeaseLost { name: lease.name.clone() }),
        }
    }

    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        let values = item([(":fence", number(lease.fence)), (":free", number(0))]);
        let action = format!("giving back the lease {}", lease.name);
        let change = "SET #until = :free";
        // Refused where somebody else has it: then there is nothing to give back.
        self.0.update(&action, key(&lease.name), change, "#fence = :fence", values).await?;
        Ok(())
    }

    async fn holder(
        &self,
        name: &str,
        now: Timestamp,
    ) -> Result<Option<(String, Timestamp)>, StoreError> {
        let what = format!("the lease {name}");
        let Some(lease) = self.0.get(&format!("looking at {what}"), key(name)).await? else {
            return Ok(None);
        };
        if time_of(&lease, "until", &what)? <= now {
            return Ok(None);
        }
        let owner = text_of(&lease, "owner", &what)?.to_owned();
        Ok(Some((owner, time_of(&lease, "since", &what)?)))
    }
}

/// What a lease taken or renewed now has as its times.
fn times(now: Timestamp) -> Item {
    let after = |lasts| now.saturating_add(lasts).unwrap_or(Timestamp::MAX);
    item([(":now", time(now)), (":until", time(after(LASTS))), (":expires", expiry(after(KEPT)))])
}
