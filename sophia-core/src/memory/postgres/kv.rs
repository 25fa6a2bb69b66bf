//! The durable tier of values under keys, and which keys there are.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    PostgresStore, filter,
    link::{Link, Taken, column},
    listen, micros, read, timestamp,
};
use crate::{
    Error, ErrorKind, Result,
    memory::{
        KeptKey,
        health::{TierHealth, TierStatus},
        kv::{Elsewhere, Invalidation, KvEntry, KvIndex, KvKey, KvKeys, KvTier, KvValue, is_reserved},
    },
};

/// Most expired keys that one purge removes.
const PURGE_BATCH: i64 = 5_000;

#[async_trait]
impl KvTier for PostgresStore {
    async fn get(&self, key: &KvKey) -> Result<Option<Arc<KvEntry>>> {
        const OPERATION: &str = "memory.kv.get";
        self.ears().start();
        let now = self.clock().now();
        let entry =
            self.link().within(OPERATION, async { get(&self.link().session(OPERATION).await?, key).await }).await?;
        Ok(entry.filter(|entry| !entry.is_dead(now)).map(Arc::new))
    }

    async fn set(&self, key: &KvKey, entry: Arc<KvEntry>) -> Result<()> {
        const OPERATION: &str = "memory.kv.set";
        let work = async {
            self.purge().await?;
            let taken = self.link().begin(OPERATION).await?;
            match &entry.value {
                Some(value) => set(&taken, key, &entry, value).await?,
                None => {
                    remove(&taken, key).await?;
                }
            }
            listen::tell(&taken, self.ears(), std::slice::from_ref(key)).await?;
            taken.commit().await
        };
        self.link().within(OPERATION, work).await
    }

    async fn delete(&self, key: &KvKey) -> Result<bool> {
        const OPERATION: &str = "memory.kv.delete";
        let now = micros(self.clock().now());
        let work = async {
            let taken = self.link().begin(OPERATION).await?;
            let was_alive = match remove(&taken, key).await? {
                Some(stale_until) => stale_until.is_none_or(|until| until > now),
                None => false,
            };
            listen::tell(&taken, self.ears(), std::slice::from_ref(key)).await?;
            taken.commit().await?;
            Ok(was_alive)
        };
        self.link().within(OPERATION, work).await
    }

    async fn invalidate(&self, what: &Invalidation) -> Result<u64> {
        const OPERATION: &str = "memory.kv.invalidate";
        let now = micros(self.clock().now());
        let work = async {
            let taken = self.link().begin(OPERATION).await?;
            let sql = "DELETE FROM kv WHERE wall = (SELECT wall FROM walls WHERE key = $1) \
                       AND (starts_with(key, $2) OR (tags <> '{}' AND tags && $3)) \
                       RETURNING key, stale_until IS NULL OR stale_until > $4";
            let rows = taken.query(sql, &[&what.scope.wall(), &what.prefix, &what.tags, &now]).await?;
            let mut keys = Vec::with_capacity(rows.len());
            let mut alive = 0;
            for row in &rows {
                let key: String = column(row, 0)?;
                alive += u64::from(column::<bool>(row, 1)? && !is_reserved(&key));
                keys.push(KvKey::new(&what.scope, &key));
            }
            // For what others are making, and is not there yet.
            keys.extend(what.notes().map(|note| KvKey::new(&what.scope, &note)));
            listen::tell(&taken, self.ears(), &keys).await?;
            taken.commit().await?;
            Ok(alive)
        };
        self.link().within(OPERATION, work).await
    }

    async fn health(&self) -> TierHealth {
        const OPERATION: &str = "memory.health";
        let start = Instant::now();
        let work = async {
            let taken = self.link().session(OPERATION).await?;
            taken.query_value::<i64>("SELECT count(*) FROM kv WHERE key >= chr(2)", &[]).await
        };
        match self.link().within(OPERATION, work).await {
            Ok(entries) => TierHealth {
                latency_ms: Some(start.elapsed().as_secs_f64() * 1e3),
                entries: Some(entries.unsigned_abs()),
                ..TierHealth::new(TierStatus::Healthy)
            },
            Err(error) => TierHealth::new(TierStatus::Unhealthy).detail(error.message()),
        }
    }

    /// The transaction that wrote what is there, 0 where nothing is.
    async fn version(&self, key: &KvKey) -> Result<i64> {
        const OPERATION: &str = "memory.kv.get_or_set";
        let work = async {
            let taken = self.link().session(OPERATION).await?;
            let sql = "SELECT k.xmin::text::bigint FROM kv AS k JOIN walls AS w USING (wall) \
                       WHERE w.key = $1 AND k.key = $2";
            let row = taken.query_opt(sql, &[&key.scope().wall(), &key.key()]).await?;
            row.map_or(Ok(0), |row| column(&row, 0))
        };
        self.link().within(OPERATION, work).await
    }

    async fn set_unchanged(&self, key: &KvKey, entry: Arc<KvEntry>, version: i64) -> Result<bool> {
        const OPERATION: &str = "memory.kv.get_or_set";
        let Some(value) = &entry.value else { return Ok(false) };
        let work = async {
            self.purge().await?;
            let taken = self.link().begin(OPERATION).await?;
            let is_set = match version {
                0 => insert(&taken, key, &entry, value, "ON CONFLICT (wall, key) DO NOTHING").await?,
                _ => replace(&taken, key, &entry, value, version).await?,
            };
            if is_set {
                listen::tell(&taken, self.ears(), std::slice::from_ref(key)).await?;
            }
            taken.commit().await?;
            Ok(is_set)
        };
        self.link().within(OPERATION, work).await
    }

    fn changed_elsewhere(&self, drop: &mut dyn FnMut(Elsewhere)) {
        self.ears().heard(drop);
    }
}

#[async_trait]
impl KvIndex for PostgresStore {
    async fn keys(&self, query: KvKeys, limit: usize, now: Timestamp) -> Result<Vec<String>> {
        const OPERATION: &str = "memory.kv.keys";
        let work = async {
            let taken = self.link().session(OPERATION).await?;
            let sql = "SELECT key FROM kv WHERE wall = (SELECT wall FROM walls WHERE key = $1) AND key >= $2 AND key >= chr(2) \
                       AND starts_with(key, $2) AND ($3::text IS NULL OR key > $3 COLLATE \"C\") \
                       AND (stale_until IS NULL OR stale_until > $4) ORDER BY key LIMIT $5";
            let values: [super::link::Value<'_>; 5] =
                [&query.scope.wall(), &query.prefix, &query.after, &micros(now), &read::integer(limit)];
            let rows = taken.query(sql, &values).await?;
            rows.iter().map(|row| column(row, 0)).collect()
        };
        self.link().within(OPERATION, work).await
    }
}

async fn get(taken: &Taken, key: &KvKey) -> Result<Option<KvEntry>> {
    let sql = "SELECT k.value, k.tags, k.expires_at, k.stale_until FROM kv AS k JOIN walls AS w USING (wall) \
               WHERE w.key = $1 AND k.key = $2";
    let Some(row) = taken.query_opt(sql, &[&key.scope().wall(), &key.key()]).await? else { return Ok(None) };
    let value = KvValue::from_json(column::<String>(&row, 0)?).map_err(|error| {
        Error::new(ErrorKind::Internal, "memory.kv.get", "a stored value cannot be read").with_source(error)
    })?;
    let (expires_at, stale_until): (Option<i64>, Option<i64>) = (column(&row, 2)?, column(&row, 3)?);
    Ok(Some(KvEntry {
        value: Some(Arc::new(value)),
        tags: column(&row, 1)?,
        expires_at: expires_at.map(timestamp),
        stale_until: stale_until.map(timestamp),
        // Not worth a column: after a restart the value is made anew when it is due, not before.
        cost_ms: None,
    }))
}

async fn set(taken: &Taken, key: &KvKey, entry: &KvEntry, value: &KvValue) -> Result<()> {
    let or = "ON CONFLICT (wall, key) DO UPDATE SET value = excluded.value, tags = excluded.tags, \
              expires_at = excluded.expires_at, stale_until = excluded.stale_until";
    insert(taken, key, entry, value, or).await.map(drop)
}

/// Inserts a value, or does what is said where there is one; returns whether it was written.
async fn insert(taken: &Taken, key: &KvKey, entry: &KvEntry, value: &KvValue, or: &'static str) -> Result<bool> {
    let scope = key.scope();
    let wall = filter::make_wall(taken, &scope).await?;
    let sql = format!(
        "INSERT INTO kv (wall, tenant, key, value, tags, expires_at, stale_until) VALUES ($1, $2, $3, $4, $5, $6, $7) {or}"
    );
    let (expires_at, stale_until) = (entry.expires_at.map(micros), entry.stale_until.map(micros));
    let values: [super::link::Value<'_>; 7] =
        [&wall, &scope.tenant, &key.key(), &value.json(), &entry.tags, &expires_at, &stale_until];
    Ok(taken.execute(&sql, &values).await? > 0)
}

/// Replaces what a transaction has written, if it is still there; returns whether it was.
async fn replace(taken: &Taken, key: &KvKey, entry: &KvEntry, value: &KvValue, written_by: i64) -> Result<bool> {
    let sql = "UPDATE kv SET value = $3, tags = $4, expires_at = $5, stale_until = $6 \
               WHERE wall = (SELECT wall FROM walls WHERE key = $1) AND key = $2 AND xmin::text::bigint = $7";
    let (expires_at, stale_until) = (entry.expires_at.map(micros), entry.stale_until.map(micros));
    let values: [super::link::Value<'_>; 7] =
        [&key.scope().wall(), &key.key(), &value.json(), &entry.tags, &expires_at, &stale_until, &written_by];
    Ok(taken.execute(sql, &values).await? > 0)
}

/// Puts a value under a key that has none; returns whether it had none.
pub(super) async fn add(taken: &Taken, key: &KvKey, kept: KeptKey) -> Result<bool> {
    let scope = key.scope();
    let wall = filter::make_wall(taken, &scope).await?;
    let sql = "INSERT INTO kv (wall, tenant, key, value, tags, expires_at, stale_until) \
               VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (wall, key) DO NOTHING";
    let value = KvValue::new(kept.value);
    let (expires_at, stale_until) = (kept.expires_at.map(micros), kept.stale_until.map(micros));
    let values: [super::link::Value<'_>; 7] =
        [&wall, &scope.tenant, &key.key(), &value.json(), &kept.tags, &expires_at, &stale_until];
    Ok(taken.execute(sql, &values).await? > 0)
}

/// Removes a key; returns until when it would have been alive, if it was there.
async fn remove(taken: &Taken, key: &KvKey) -> Result<Option<Option<i64>>> {
    let sql = "DELETE FROM kv WHERE wall = (SELECT wall FROM walls WHERE key = $1) AND key = $2 RETURNING stale_until";
    let row = taken.query_opt(sql, &[&key.scope().wall(), &key.key()]).await?;
    row.map(|row| column(&row, 0)).transpose()
}

/// Removes some of what has expired. No need to tell others: their copies expire by themselves.
pub(super) async fn purge(link: &Link, now: Timestamp) -> Result<()> {
    let taken = link.session("memory.kv.purge").await?;
    let sql = "DELETE FROM kv WHERE (wall, key) IN (SELECT wall, key FROM kv WHERE stale_until <= $1 \
               ORDER BY stale_until LIMIT $2 FOR UPDATE SKIP LOCKED)";
    taken.execute(sql, &[&micros(now), &PURGE_BATCH]).await.map(drop)
}
