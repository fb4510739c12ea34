//! Leases in `DynamoDB`: an item for each, with its owner and its expiry.
//!
//! A lease expires [`LASTS`] after it was taken or renewed, by its owner's clock. Another process compares that time
//! with its own clock. If the clocks differ by less than the time between a renewal and the expiry (60 s less 20 s), a
//! living owner keeps its lease. If they differ by more, the owner may lose the lease early, and its next write is
//! refused. So the safety of writes never depends on clocks, only on the fencing number.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::TransactWriteItem;
use jiff::{SignedDuration, Timestamp};

use super::table::{
    Item, Key, Table, Updated, expiry, item, mark, number, number_of, text, text_of, time, time_of,
};
use crate::{Grant, Lease, Leases, StoreError, keys::check_lease_name};
use net::peers::latest_written;

/// Time after which a lease expires without a renewal.
const LASTS: SignedDuration = SignedDuration::from_secs(60);
/// Time for which the item of an unused lease is kept. It is far longer than a process can live, so that no living
/// owner's fencing number is given again.
const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

pub(super) struct AwsLeases(pub(super) Table);

fn key(name: &str) -> Key {
    Key::alone(format!("lease#{name}"))
}

/// Returns a condition for a transaction that fails it if the lease belongs to another owner.
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
        // A renewal that arrives late, after the lease was given back, must not take it again.
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
        // The update is refused if another owner has the lease; then there is nothing to give back.
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

/// Returns the times of a lease that is taken or renewed at `now`.
fn times(now: Timestamp) -> Item {
    let after = |lasts| now.saturating_add(lasts).unwrap_or(Timestamp::MAX);
    item([(":now", time(now)), (":until", time(after(LASTS))), (":expires", expiry(after(KEPT)))])
}
