//! Cursors in `DynamoDB`: an item for each.

use async_trait::async_trait;

use super::table::{Key, Table, Transacted, item, number, number_of, part};
use crate::{Cursors, StoreError};

pub(super) struct AwsCursors(pub(super) Table);

fn key(name: &str) -> Key {
    Key::alone(format!("cursor#{}", part(name)))
}

#[async_trait]
impl Cursors for AwsCursors {
    async fn read(&self, name: &str) -> Result<Option<i64>, StoreError> {
        let found = self.0.get(&format!("reading the cursor {name}"), key(name)).await?;
        let position = |item| number_of(&item, "position", &format!("the cursor {name}"));
        found.map(position).transpose()
    }

    async fn advance(
        &self,
        name: &str,
        expected: Option<i64>,
        to: i64,
    ) -> Result<bool, StoreError> {
        if expected.is_some_and(|expected| expected >= to) {
            return Ok(false);
        }
        let mut values = item([(":to", number(to))]);
        let condition = match expected {
            None => "attribute_not_exists(#pk)",
            Some(expected) => {
                values.insert(":expected".into(), number(expected));
                "#position = :expected"
            }
        };
        let action = format!("moving the cursor {name}");
        let change = self.0.change(key(name), "SET #position = :to", Some(condition), values)?;
        // The update is a transaction of one write, because its token identifies a repeat of the same call. A condition
        // alone cannot tell it from another process's step after the cursor has moved on.
        Ok(matches!(self.0.transact(&action, vec![change]).await?, Transacted::Done))
    }
}
