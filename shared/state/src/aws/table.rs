//! Access to the `DynamoDB` table: items by key, conditional writes, transactions.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{transact_write_items::TransactWriteItemsError, update_item::UpdateItemError},
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem},
};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::error::failed;
use crate::StoreError;
use net::http_client::{Backoff, request_id};

pub(super) type Item = HashMap<String, AttributeValue>;

/// Sort key of an item that is the only one in its partition.
pub(super) const ALONE: &str = "-";
/// Most writes in one transaction, which is `DynamoDB`'s limit.
pub(super) const TRANSACTION: usize = 100;

/// Setting that names the table; it is shown in errors.
const PLACE: &str = "STATE_TABLE";
/// Most retries of a write that conflicts with another one to the same item. Many clients of one quota conflict often,
/// but each time one of them succeeds.
const MEETINGS: u32 = 50;
/// Longest wait before the first retry; the wait is random and grows with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// Upper bound of the growing wait between retries.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Smallest number of items that a query with a condition examines in one call, even if it wants fewer.
const PAGE: usize = 100;
/// Most bytes of a name that are used unchanged in a key; `DynamoDB` allows 1024 in a sort key.
const LONGEST_NAME: usize = 800;

#[derive(Clone)]
pub(super) struct Table {
    client: Client,
    name: Arc<str>,
}

/// Primary key of an item.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) pk: String,
    pub(super) sk: String,
}

impl Key {
    pub(super) fn alone(pk: String) -> Self {
        Self { pk, sk: ALONE.to_owned() }
    }

    fn item(self) -> Item {
        item([("pk", text(self.pk)), ("sk", text(self.sk))])
    }
}

/// Outcome of a conditional update.
pub(super) enum Updated {
    /// The update was made; the item as it is now.
    Done(Item),
    /// The condition does not hold; the existing item, which is empty if there is none.
    Refused(Item),
}

/// Outcome of a transaction.
pub(super) enum Transacted {
    /// All writes were made.
    Done,
    /// No write was made. For each write whose condition does not hold, the existing item, which is empty if there is
    /// none or for a mere check.
    Refused(Vec<Option<Item>>),
}

/// Selects items of a partition.
#[derive(Default)]
pub(super) struct Filter<'a> {
    /// First and last sort key; `None` selects all.
    pub(super) between: Option<(String, String)>,
    /// Condition on other attributes; its values are in `values`.
    pub(super) condition: Option<&'a str>,
    pub(super) values: Item,
    /// Most items to return.
    pub(super) limit: Option<usize>,
    /// Whether the item with the last sort key comes first.
    pub(super) newest_first: bool,
}

impl Table {
    pub(super) fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.into() }
    }

    /// Reads an item, consistently.
    pub(super) async fn get(&self, action: &str, key: Key) -> Result<Option<Item>, StoreError> {
        let get = self.client.get_item().table_name(&*self.name).consistent_read(true);
        let found = get.set_key(Some(key.item())).send().await;
        Ok(found.map_err(|error| failed(action, PLACE, error))?.item)
    }

    /// Reads a partition in order of the sort key, consistently.
    pub(super) async fn query(
        &self,
        action: &str,
        pk: &str,
        filter: Filter<'_>,
    ) -> Result<Vec<Item>, StoreError> {
        let limit = filter.limit.unwrap_or(usize::MAX);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut values = filter.values;
        values.insert(":pk".into(), text(pk));
        let mut keys = "#pk = :pk".to_owned();
        if let Some((first, last)) = filter.between {
            keys.push_str(" AND #sk BETWEEN :first AND :last");
            values.extend(item([(":first", text(first)), (":last", text(last))]));
        }
        let mut names = names(&keys);
        names.extend(self::names(filter.condition.unwrap_or_default()));
        // Only a query that may end early is cut into small pages.
        let least = if filter.condition.is_some() { PAGE } else { 1 };
        let page = filter.limit.map(|n| i32::try_from(n.max(least)).unwrap_or(i32::MAX));
        let query = self
            .client
            .query()
            .table_name(&*self.name)
            .consistent_read(true)
            .scan_index_forward(!filter.newest_first)
            .key_condition_expression(keys)
            .set_filter_expression(filter.condition.map(str::to_owned))
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values))
            .set_limit(page);
        let mut found = Vec::new();
        let mut start = None;
        loop {
            let page = query.clone().set_exclusive_start_key(start).send().await;
            let page = page.map_err(|error| failed(action, PLACE, error))?;
            found.extend(page.items.unwrap_or_default());
            start = page.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() || found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }

    /// Changes or creates an item if `condition` holds. Expressions write names as `#name` and values as `:name`. If
    /// the change sets `#by = :me` to a [`mark`], a repeat of a call that was already made counts as done.
    pub(super) async fn update(
        &self,
        action: &str,
        key: Key,
        change: &str,
        condition: &str,
        values: Item,
    ) -> Result<Updated, StoreError> {
        let me = values.get(":me").cloned();
        let update = self
            .client
            .update_item()
            .table_name(&*self.name)
            .set_key(Some(key.item()))
            .update_expression(change)
            .condition_expression(condition)
            .set_expression_attribute_names(Some(names(&format!("{change} {condition}"))))
            .set_expression_attribute_values(Some(values))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let error = match update.clone().send().await {
                Ok(done) => return Ok(Updated::Done(done.attributes.unwrap_or_default())),
                Err(error) => error,
            };
            match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    let item = refused.item.clone().unwrap_or_default();
                    let ours = me.is_some() && item.get("by") == me.as_ref();
                    return Ok(if ours { Updated::Done(item) } else { Updated::Refused(item) });
                }
                Some(UpdateItemError::TransactionConflictException(_))
                    if backoff.attempts() < MEETINGS =>
                {
                    tokio::time::sleep(backoff.next_wait(None)).await;
                }
                _ => return Err(failed(action, PLACE, error)),
            }
        }
    }

    /// Makes all writes or none. A repeat of a transaction that was already made does nothing.
    pub(super) async fn transact(
        &self,
        action: &str,
        writes: Vec<TransactWriteItem>,
    ) -> Result<Transacted, StoreError> {
        let transaction = self
            .client
            .transact_write_items()
            .set_transact_items(Some(writes))
            .client_request_token(mark());
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let Err(error) = transaction.clone().send().await else { return Ok(Transacted::Done) };
            match verdict(&error) {
                Verdict::Refused(items) => return Ok(Transacted::Refused(items)),
                Verdict::Met if backoff.attempts() < MEETINGS => {
                    tokio::time::sleep(backoff.next_wait(None)).await;
                }
                _ => return Err(failed(action, PLACE, error)),
            }
        }
    }

    /// Returns a write for a transaction that changes an item, as [`Table::update`] does.
    pub(super) fn change(
        &self,
        key: Key,
        change: &str,
        condition: Option<&str>,
        values: Item,
    ) -> Result<TransactWriteItem, StoreError> {
        let expressions = format!("{change} {}", condition.unwrap_or_default());
        let update = aws_sdk_dynamodb::types::Update::builder()
            .table_name(&*self.name)
            .set_key(Some(key.item()))
            .update_expression(change)
            .set_condition_expression(condition.map(str::to_owned))
            .set_expression_attribute_names(Some(names(&expressions)))
            .set_expression_attribute_values(Some(values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build();
        Ok(TransactWriteItem::builder().update(update.map_err(incomplete)?).build())
    }

    /// Returns a write for a transaction that puts an item in the place of the old one.
    pub(super) fn put(
        &self,
        key: Key,
        attributes: Item,
        condition: Option<&str>,
        values: Item,
    ) -> Result<TransactWriteItem, StoreError> {
        let mut item = key.item();
        item.extend(attributes);
        let put = aws_sdk_dynamodb::types::Put::builder()
            .table_name(&*self.name)
            .set_item(Some(item))
            .set_condition_expression(condition.map(str::to_owned))
            .set_expression_attribute_names(condition.map(names))
            .set_expression_attribute_values((!values.is_empty()).then_some(values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build();
        Ok(TransactWriteItem::builder().put(put.map_err(incomplete)?).build())
    }

    /// Returns a write for a transaction that removes an item.
    pub(super) fn delete(
        &self,
        key: Key,
        condition: Option<&str>,
        values: Item,
    ) -> Result<TransactWriteItem, StoreError> {
        let delete = aws_sdk_dynamodb::types::Delete::builder()
            .table_name(&*self.name)
            .set_key(Some(key.item()))
            .set_condition_expression(condition.map(str::to_owned))
            .set_expression_attribute_names(condition.map(names))
            .set_expression_attribute_values((!values.is_empty()).then_some(values))
            .build();
        Ok(TransactWriteItem::builder().delete(delete.map_err(incomplete)?).build())
    }

    /// Returns a condition for a transaction on an item that it does not change.
    pub(super) fn check(
        &self,
        key: Key,
        condition: &str,
        values: Item,
    ) -> Result<TransactWriteItem, StoreError> {
        let check = aws_sdk_dynamodb::types::ConditionCheck::builder()
            .table_name(&*self.name)
            .set_key(Some(key.item()))
            .condition_expression(condition)
            .set_expression_attribute_names(Some(names(condition)))
            .set_expression_attribute_values(Some(values))
            .build();
        Ok(TransactWriteItem::builder().condition_check(check.map_err(incomplete)?).build())
    }
}

enum Verdict {
    Refused(Vec<Option<Item>>),
    /// The write conflicted with another one.
    Met,
    Failed,
}

fn verdict<R>(error: &SdkError<TransactWriteItemsError, R>) -> Verdict {
    let Some(error) = error.as_service_error() else { return Verdict::Failed };
    let TransactWriteItemsError::TransactionCanceledException(cancelled) = error else {
        // The first copy of this very transaction may still be in progress, which counts as a conflict too.
        let met = error.code() == Some("TransactionInProgressException");
        return if met { Verdict::Met } else { Verdict::Failed };
    };
    let reasons = cancelled.cancellation_reasons();
    let is = |code: &str| reasons.iter().any(|reason| reason.code() == Some(code));
    if is("ConditionalCheckFailed") {
        let refused = |reason: &aws_sdk_dynamodb::types::CancellationReason| {
            (reason.code() == Some("ConditionalCheckFailed"))
                .then(|| reason.item.clone().unwrap_or_default())
        };
        return Verdict::Refused(reasons.iter().map(refused).collect());
    }
    let met = ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"];
    if met.into_iter().any(is) { Verdict::Met } else { Verdict::Failed }
}

/// Returns the error of the SDK's builders for a write with a missing part. No write here lacks one.
fn incomplete(error: aws_sdk_dynamodb::error::BuildError) -> StoreError {
    StoreError::Unavailable { action: "putting a write together".into(), source: error.into() }
}

/// Returns a random mark that identifies a call: 24 hexadecimal digits.
pub(super) fn mark() -> String {
    request_id() + &request_id()
}

/// Returns the attribute names that an expression writes as `#name`. Plain names could be reserved words of `DynamoDB`.
fn names(expression: &str) -> HashMap<String, String> {
    expression
        .split('#')
        .skip(1)
        .map(|rest| {
            let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let name = rest.split(|c| !name(c)).next().unwrap_or_default();
            (format!("#{name}"), name.to_owned())
        })
        .collect()
}

/// Returns a name as a part of a key. A long name is shortened and made unique by its hash.
pub(super) fn part(name: &str) -> String {
    if name.len() <= LONGEST_NAME {
        return name.to_owned();
    }
    let start = name.get(..name.floor_char_boundary(LONGEST_NAME)).unwrap_or_default();
    format!("{start}#{}", hex::encode(Sha256::digest(name)))
}

pub(super) fn item<const N: usize>(attributes: [(&str, AttributeValue); N]) -> Item {
    attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: impl ToString + Copy) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn time(time: Timestamp) -> AttributeValue {
    number(time.as_nanosecond())
}

/// Returns a value for `expires_at`: whole seconds, later than `time`.
pub(super) fn expiry(time: Timestamp) -> AttributeValue {
    number(time.as_second().saturating_add(1))
}

/// Returns the text in the attribute `name`.
pub(super) fn text_of<'a>(item: &'a Item, name: &str, what: &str) -> Result<&'a str, StoreError> {
    item.get(name)
        .and_then(|value| value.as_s().ok())
        .map(String::as_str)
        .ok_or_else(|| damaged(what, format!("it has no text `{name}`")))
}

/// Returns the number in the attribute `name`.
pub(super) fn number_of<T: std::str::FromStr>(
    item: &Item,
    name: &str,
    what: &str,
) -> Result<T, StoreError> {
    item.get(name)
        .and_then(|value| value.as_n().ok())
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| damaged(what, format!("it has no number `{name}` that can be one")))
}

/// Returns the time in the attribute `name`.
pub(super) fn time_of(item: &Item, name: &str, what: &str) -> Result<Timestamp, StoreError> {
    Timestamp::from_nanosecond(number_of(item, name, what)?)
        .map_err(|error| damaged(what, format!("`{name}` is no time: {error}")))
}

pub(super) fn damaged(what: &str, reason: String) -> StoreError {
    StoreError::Damaged { what: what.to_owned(), reason }
}
