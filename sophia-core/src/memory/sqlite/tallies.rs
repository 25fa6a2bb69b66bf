//! Numbers that several processes count in.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{SqliteStore, internal, micros};
use crate::{
    Result,
    tally::{Applied, TallyChange, TallyStore},
};

/// Expired numbers that one purge removes at most.
const PURGE_BATCH: usize = 1_000;

#[async_trait]
impl TallyStore for SqliteStore {
    async fn apply(&self, changes: &[TallyChange]) -> Result<Applied> {
        let changes = changes.to_vec();
        let now = self.clock().now();
        self.write(move |connection| apply(connection, &changes, now)).await
    }

    async fn read(&self, group: &str) -> Result<Vec<(String, f64)>> {
        let group = group.to_owned();
        let now = self.clock().now();
        SqliteStore::read(self, move |connection| read(connection, &group, now)).await
    }
}

fn apply(connection: &Connection, changes: &[TallyChange], now: Timestamp) -> Result<Applied> {
    let numbers = changes.iter().map(|change| Ok(change.of(find(connection, change, now)?)));
    let numbers: Vec<f64> = numbers.collect::<Result<_>>()?;
    let applied = changes.iter().zip(&numbers).all(|(change, number)| change.allows(*number));
    if applied {
        for (change, number) in changes.iter().zip(&numbers).filter(|(change, _)| !change.only_looks()) {
            connection
                .prepare_cached(
                    "INSERT INTO tallies (name, field, amount, expires_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO \
                     UPDATE SET amount = ?3, expires_at = max(expires_at, ?4)",
                )
                .and_then(|mut statement| {
                    statement.execute(params![change.group, change.field, number, micros(change.expires_at)])
                })
                .map_err(internal("chat.tally"))?;
        }
    }
    Ok(Applied::new(applied, numbers))
}

fn find(connection: &Connection, change: &TallyChange, now: Timestamp) -> Result<Option<f64>> {
    connection
        .prepare_cached("SELECT amount FROM tallies WHERE name = ?1 AND field = ?2 AND expires_at > ?3")
        .and_then(|mut statement| {
            statement.query_row(params![change.group, change.field, micros(now)], |row| row.get(0)).optional()
        })
        .map_err(internal("chat.tally"))
}

fn read(connection: &Connection, group: &str, now: Timestamp) -> Result<Vec<(String, f64)>> {
    connection
        .prepare_cached("SELECT field, amount FROM tallies WHERE name = ?1 AND expires_at > ?2")
        .and_then(|mut statement| {
            statement.query_map(params![group, micros(now)], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .map_err(internal("chat.tally"))
}

/// Removes some of what has expired.
pub(super) fn purge(connection: &Connection, now: Timestamp) -> Result<()> {
    connection
        .prepare_cached(&format!(
            "DELETE FROM tallies WHERE (name, field) IN \
             (SELECT name, field FROM tallies WHERE expires_at <= ?1 ORDER BY expires_at LIMIT {PURGE_BATCH})"
        ))
        .and_then(|mut statement| statement.execute([micros(now)]))
        .map(drop)
        .map_err(internal("chat.tally"))
}
