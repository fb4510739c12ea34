//! Cursors in SQLite: a row for each.

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use super::db::Db;
use crate::{Cursors, StoreError};

pub(super) struct LocalCursors {
    pub(super) db: Db,
}

#[async_trait]
impl Cursors for LocalCursors {
    async fn read(&self, name: &str) -> Result<Option<i64>, StoreError> {
        let name = name.to_owned();
        self.db
            .read(format!("reading the cursor {name}"), move |db| {
                let sql = "SELECT position FROM cursors WHERE name = ?1";
                Ok(db.query_row(sql, [name], |row| row.get(0)).optional()?)
            })
            .await
    }

    async fn advance(
        &self,
        name: &str,
        expected: Option<i64>,
        to: i64,
    ) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.db
            .write(format!("moving the cursor {name}"), move |db| {
                let rows = match expected {
                    None => db.execute(
                        "INSERT INTO cursors (name, position) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                        params![name, to],
                    )?,
                    Some(expected) => db.execute(
                        "UPDATE cursors SET position = ?3
                         WHERE name = ?1 AND position = ?2 AND position < ?3",
                        params![name, expected, to],
                    )?,
                };
                Ok(rows == 1)
            })
            .await
    }
}
