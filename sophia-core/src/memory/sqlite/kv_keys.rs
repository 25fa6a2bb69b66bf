//! Which keys there are.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{SqliteStore, filter, internal, micros};
use crate::{
    Result,
    memory::kv::{KvIndex, KvKeys},
};

#[async_trait]
impl KvIndex for SqliteStore {
    async fn keys(&self, query: KvKeys, limit: usize, now: Timestamp) -> Result<Vec<String>> {
        self.read(move |connection| keys(connection, &query, limit, now)).await
    }
}

fn keys(connection: &Connection, query: &KvKeys, limit: usize, now: Timestamp) -> Result<Vec<String>> {
    let Some(wall) = filter::find_wall(connection, &query.scope)? else { return Ok(Vec::new()) };
    // From the prefix on in the order of the index; the first key that does not begin so ends the walk.
    let mut statement = connection
        .prepare_cached(
            "SELECT key FROM kv WHERE wall = ?1 AND key >= ?2 AND key >= char(2) AND (?3 IS NULL OR key > ?3) \
             AND (stale_until IS NULL OR stale_until > ?4) ORDER BY key",
        )
        .map_err(internal("memory.kv.keys"))?;
    let rows = statement
        .query_map(params![wall, query.prefix, query.after, micros(now)], |row| row.get::<_, String>(0))
        .map_err(internal("memory.kv.keys"))?;
    rows.take_while(|key| key.as_ref().map_or(true, |key| key.starts_with(&query.prefix)))
        .take(limit)
        .collect::<rusqlite::Result<_>>()
        .map_err(internal("memory.kv.keys"))
}
