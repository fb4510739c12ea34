//! Cursors: an item each.

use async_trait::async_trait;

use super::table::{Key, Table, Updated, item, mark, number, number_of, part, text};
use crate::store::{Cursors, StoreError};

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
        let mut values = item([(":to", number(to)), (":me", text(mark()))]);
        let condition = match expected {
            None => "attribute_not_exists(#pk)",
            Some(expected) => {
                values.insert(":expected".into(), number(expected));
                "#position = :expected"
            }
        };
        let action = format!("moving the cursor {name}");
        let change = "SET #position = :to, #by = :me";
        let updated = self.0.update(&action, key(name), change, condition, values).await?;
        Ok(matches!(updated, Updated::Done(_)))
    }
}
