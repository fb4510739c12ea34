//! Quotas in `DynamoDB`: an item for each place taken, and a counter of them. One transaction changes both.

use async_trait::async_trait;
use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};

use super::table::{
    Filter, Key, Table, Transacted, Updated, damaged, expiry, item, number, number_of, part, text,
    text_of,
};
use crate::{QuotaUsage, Quotas, Reservation, ReservationStage, StoreError};

/// Days for which a place is kept after its own day. It is far longer than any work on it takes.
const KEPT_DAYS: i64 = 35;

const STAGES: [ReservationStage; 4] = [
    ReservationStage::Reserved,
    ReservationStage::Stored,
    ReservationStage::Sourced,
    ReservationStage::Reported,
];

pub(super) struct AwsQuotas(pub(super) Table);

fn rank(stage: ReservationStage) -> usize {
    STAGES.iter().position(|s| *s == stage).unwrap_or_default()
}

fn quota_key(category: &str, day: Date, id: &str) -> Key {
    Key { pk: format!("quota#{day}#{}", part(category)), sk: format!("#{}", part(id)) }
}

fn used(category: &str, day: Date) -> Key {
    Key { pk: used_on(day), sk: format!("#{}", part(category)) }
}

fn used_on(day: Date) -> String {
    format!("quota-used#{day}")
}

#[async_trait]
impl Quotas for AwsQuotas {
    async fn reserve(
        &self,
        category: &str,
        day: Date,
        limit: u64,
        id: &str,
    ) -> Result<Reservation, StoreError> {
        let expires = expiry(
            TimeZone::UTC
                .to_timestamp(day.saturating_add(KEPT_DAYS.days()).at(0, 0, 0, 0))
                .unwrap_or(Timestamp::MAX),
        );
        let attributes = item([("stage", number(0)), ("expires_at", expires.clone())]);
        let taken = self.0.put(
            quota_key(category, day, id),
            attributes,
            Some("attribute_not_exists(#pk)"),
            item([]),
        )?;
        // Without a counter no place is taken. The first condition does not hold then, so a limit of 0 refuses as well.
        let room = if limit == 0 {
            "#used < :limit"
        } else {
            "attribute_not_exists(#used) OR #used < :limit"
        };
        let counted = self.0.change(
            used(category, day),
            "SET #category = :category, #expires_at = :expires ADD #used :one",
            Some(room),
            item([
                (":category", text(category)),
                (":expires", expires),
                (":limit", number(limit)),
                (":one", number(1)),
            ]),
        )?;
        let action = format!("reserving a place in the quota of {category}");
        let mut refused = match self.0.transact(&action, vec![taken, counted]).await? {
            Transacted::Done => return Ok(Reservation::Granted),
            Transacted::Refused(refused) => refused.into_iter(),
        };
        let what = format!("the quota of {category}");
        if let Some(place) = refused.next().flatten() {
            let rank: usize = number_of(&place, "stage", &what)?;
            let stage = STAGES.get(rank).copied();
            let stage = stage.ok_or_else(|| damaged(&what, format!("a place has stage {rank}")))?;
            return Ok(Reservation::Already(stage));
        }
        let count = refused.next().flatten().filter(|count| !count.is_empty());
        let used: Option<i64> = count.map(|count| number_of(&count, "used", &what)).transpose()?;
        Ok(Reservation::Full { used: used.and_then(|used| used.try_into().ok()).unwrap_or(0) })
    }

    async fn set_stage(
        &self,
        category: &str,
        day: Date,
        id: &str,
        stage: ReservationStage,
    ) -> Result<bool, StoreError> {
        let rank = rank(stage);
        let action = format!("noting the stage of a place in the quota of {category}");
        let updated = self
            .0
            .update(
                &action,
                quota_key(category, day, id),
                "SET #stage = :stage",
                "attribute_exists(#pk) AND #stage < :stage",
                item([(":stage", number(rank))]),
            )
            .await?;
        // The update is refused if there is no such place, or if its stage is as late already.
        Ok(match updated {
            Updated::Done(_) => true,
            Updated::Refused(place) => !place.is_empty(),
        })
    }

    async fn settled(&self, category: &str, day: Date) -> Result<u64, StoreError> {
        let action = format!("reading the quota of {category}");
        let filter = Filter {
            condition: Some("#stage >= :sourced"),
            values: item([(":sourced", number(rank(ReservationStage::Sourced)))]),
            ..Filter::default()
        };
        let settled = self.0.query(&action, &quota_key(category, day, "").pk, filter).await?;
        Ok(settled.len() as u64)
    }

    async fn release(&self, category: &str, day: Date, id: &str) -> Result<bool, StoreError> {
        let given = self.0.delete(
            quota_key(category, day, id),
            Some("attribute_exists(#pk) AND #stage < :sourced"),
            item([(":sourced", number(rank(ReservationStage::Sourced)))]),
        )?;
        let counted = self.0.change(
            used(category, day),
            "ADD #used :less",
            None,
            item([(":less", number(-1))]),
        )?;
        let action = format!("giving back a place in the quota of {category}");
        let transacted = self.0.transact(&action, vec![given, counted]).await?;
        Ok(matches!(transacted, Transacted::Done))
    }

    async fn usage(&self, day: Date) -> Result<Vec<QuotaUsage>, StoreError> {
        let action = format!("reading the quotas of {day}");
        let found = self.0.query(&action, &used_on(day), Filter::default()).await?;
        let mut usage = Vec::with_capacity(found.len());
        for count in found {
            let category = text_of(&count, "category", &action)?.to_owned();
            let used: i64 = number_of(&count, "used", &format!("the quota of {category}"))?;
            // The counter is below zero if it expired before a place that was then given back.
            if let Ok(used @ 1..) = u64::try_from(used) {
                usage.push(QuotaUsage { category, used });
            }
        }
        // Long names are shortened in the keys, so the keys' order may differ from that of the names.
        usage.sort_by(|a, b| a.category.cmp(&b.category));
        Ok(usage)
    }
}
