//! The durable tier of values under keys.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter, types::Value as Sql};

use super::{SqliteStore, filter, internal, micros, open, timestamp, write::json};
use crate::{
    Result, Scope,
    memory::{
        KeptKey,
        health::{TierHealth, TierStatus},
        kv::{Elsewhere, Invalidation, KvEntry, KvKey, KvTier, KvValue, is_reserved},
    },
};

/// Changes that are kept for other processes; who is further behind drops all that it holds.
const KEPT_CHANGES: i64 = 20_000;
/// What the keys begin with that stand for an invalidation where nothing is stored; the hash of its wall follows.
const EMPTY_WALL: &str = "\u{1}invalidated-wall/";
/// Most expired keys that one purge removes.
const PURGE_BATCH: i64 = 5_000;

#[async_trait]
impl KvTier for SqliteStore {
    async fn get(&self, key: &KvKey) -> Result<Option<Arc<KvEntry>>> {
        let (key, now) = (key.clone(), self.clock().now());
        let entry = self.read(move |connection| get(connection, &key)).await?;
        Ok(entry.filter(|entry| !entry.is_dead(now)).map(Arc::new))
    }

    async fn set(&self, key: &KvKey, entry: Arc<KvEntry>) -> Result<()> {
        let (key, origin) = (key.clone(), self.watch().origin());
        self.write(move |connection| set(connection, &key, &entry, origin)).await
    }

    async fn delete(&self, key: &KvKey) -> Result<bool> {
        let (key, origin, now) = (key.clone(), self.watch().origin(), self.clock().now());
        self.write(move |connection| {
            let Some(wall) = filter::find_wall(connection, &key.scope())? else { return Ok(false) };
            let alive = get(connection, &key)?.is_some_and(|entry| !entry.is_dead(now));
            remove(connection, wall, key.key(), origin)?;
            Ok(alive)
        })
        .await
    }

    async fn invalidate(&self, invalidation: &Invalidation) -> Result<u64> {
        let (invalidation, origin) = (invalidation.clone(), self.watch().origin());
        let now = self.clock().now();
        self.write(move |connection| invalidate(connection, &invalidation, origin, now)).await
    }

    async fn health(&self) -> TierHealth {
        let start = Instant::now();
        match self.read(count).await {
            Ok(entries) => TierHealth {
                latency_ms: Some(start.elapsed().as_secs_f64() * 1e3),
                entries: Some(entries),
                ..TierHealth::new(TierStatus::Healthy)
            },
            Err(error) => TierHealth::new(TierStatus::Unhealthy).detail(error.to_string()),
        }
    }

    /// The last change, of any key.
    async fn version(&self, _: &KvKey) -> Result<i64> {
        let failed = internal("memory.kv.get_or_set");
        self.read(move |connection| changes(connection).map(|(_, last)| last).map_err(failed)).await
    }

    async fn set_unchanged(&self, key: &KvKey, entry: Arc<KvEntry>, version: i64) -> Result<bool> {
        let (key, origin) = (key.clone(), self.watch().origin());
        self.write(move |connection| {
            let is_unchanged = !is_changed(connection, &key, &entry.tags, version)?;
            if is_unchanged {
                set(connection, &key, &entry, origin)?;
            }
            Ok(is_unchanged)
        })
        .await
    }

    fn changed_elsewhere(&self, drop: &mut dyn FnMut(Elsewhere)) {
        self.watch().look(self, drop);
    }
}

fn get(connection: &Connection, key: &KvKey) -> Result<Option<KvEntry>> {
    let failed = internal("memory.kv.get");
    let Some(wall) = filter::find_wall(connection, &key.scope())? else { return Ok(None) };
    let row: Option<(String, String, Option<i64>, Option<i64>)> = connection
        .prepare_cached("SELECT value, tags, expires_at, stale_until FROM kv WHERE wall = ?1 AND key = ?2")
        .and_then(|mut statement| {
            statement
                .query_row((wall, key.key()), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
                .optional()
        })
        .map_err(failed)?;
    let Some((value, tags, expires_at, stale_until)) = row else { return Ok(None) };
    let unreadable = |error: serde_json::Error| {
        crate::Error::new(crate::ErrorKind::Internal, "memory.kv.get", "a stored value cannot be read")
            .with_source(error)
    };
    Ok(Some(KvEntry {
        value: Some(Arc::new(KvValue::from_json(value).map_err(unreadable)?)),
        tags: serde_json::from_str(&tags).map_err(unreadable)?,
        expires_at: expires_at.map(timestamp),
        stale_until: stale_until.map(timestamp),
        // Not worth a column: after a restart the value is made anew when it is due, not before.
        cost_ms: None,
    }))
}

/// Returns whether there is a value under a key, living or not.
pub(super) fn has(connection: &Connection, wall: i64, key: &str) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM kv WHERE wall = ?1 AND key = ?2")
        .and_then(|mut statement| statement.exists((wall, key)))
        .map_err(internal("memory.kv.get"))
}

/// Puts a value under a key, and tells every process, this one too.
pub(super) fn put(connection: &Connection, kept: KeptKey) -> Result<()> {
    let entry = KvEntry {
        expires_at: kept.expires_at,
        stale_until: kept.stale_until,
        tags: kept.tags,
        ..KvEntry::new(KvValue::new(kept.value))
    };
    set(connection, &KvKey::new(&kept.scope, &kept.key), &entry, 0)
}

fn set(connection: &Connection, key: &KvKey, entry: &KvEntry, origin: i64) -> Result<()> {
    let failed = internal("memory.kv.set");
    let wall = filter::make_wall(connection, &key.scope())?;
    let Some(value) = &entry.value else { return remove(connection, wall, key.key(), origin) };
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        connection.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).map_err(&failed)
    };
    let (expires_at, stale_until) = (entry.expires_at.map(micros), entry.stale_until.map(micros));
    run(
        "INSERT OR REPLACE INTO kv (wall, key, value, tags, expires_at, stale_until) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![wall, key.key(), value.json(), json(&entry.tags), expires_at, stale_until],
    )?;
    run("DELETE FROM kv_tags WHERE wall = ?1 AND key = ?2", params![wall, key.key()])?;
    for tag in &entry.tags {
        run("INSERT OR IGNORE INTO kv_tags (wall, tag, key) VALUES (?1, ?2, ?3)", params![wall, tag, key.key()])?;
    }
    note_change(connection, wall, key.key(), origin)
}

/// Removes a key, and tells other processes.
pub(super) fn remove(connection: &Connection, wall: i64, key: &str, origin: i64) -> Result<()> {
    for sql in ["DELETE FROM kv WHERE wall = ?1 AND key = ?2", "DELETE FROM kv_tags WHERE wall = ?1 AND key = ?2"] {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute((wall, key)))
            .map_err(internal("memory.kv.delete"))?;
    }
    note_change(connection, wall, key, origin)
}

fn note_change(connection: &Connection, wall: i64, key: &str, origin: i64) -> Result<()> {
    connection
        .prepare_cached("INSERT INTO kv_changes (origin, wall, key) VALUES (?1, ?2, ?3)")
        .and_then(|mut statement| statement.execute((origin, wall, key)))
        .map(drop)
        .map_err(internal("memory.kv.set"))
}

/// Returns the first change that is kept, and the last; 0 where there is none.
fn changes(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    connection
        .prepare_cached("SELECT coalesce(min(change), 0), coalesce(max(change), 0) FROM kv_changes")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Returns whether a key with these tags was set, removed or invalidated after a change, or may have been.
fn is_changed(connection: &Connection, key: &KvKey, tags: &[String], since: i64) -> Result<bool> {
    let failed = internal("memory.kv.get_or_set");
    if since < changes(connection).map_err(&failed)?.0 - 1 {
        return Ok(true);
    }
    let scope = key.scope();
    let (wall, empty) = (filter::find_wall(connection, &scope)?.unwrap_or_default(), empty_wall(&scope));
    let mut statement = connection
        .prepare_cached(
            "SELECT key FROM kv_changes WHERE change > ?1 AND \
             (key = '' OR (wall = ?2 AND (key = ?3 OR key < char(2))) OR (wall = 0 AND key = ?4))",
        )
        .map_err(&failed)?;
    let mut noted = statement.query((since, wall, key.key(), &empty)).map_err(&failed)?;
    while let Some(row) = noted.next().map_err(&failed)? {
        let noted: String = row.get(0).map_err(&failed)?;
        let is_meant = match Invalidation::noted(&KvKey::new(&scope, &noted)) {
            Some(what) => what.means(key, tags),
            None => noted.is_empty() || noted == key.key() || noted == empty,
        };
        if is_meant {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the key that stands for an invalidation in a wall where nothing is stored, without its name: nobody would forget it.
fn empty_wall(scope: &Scope) -> String {
    format!("{EMPTY_WALL}{}", blake3::hash(scope.wall().as_bytes()).to_hex())
}

/// Tells every process, this one too, to drop what it holds; without naming a key.
pub(super) fn note_all_changed(connection: &Connection) -> Result<()> {
    note_change(connection, 0, "", 0)
}

fn invalidate(connection: &Connection, what: &Invalidation, origin: i64, now: Timestamp) -> Result<u64> {
    let Some(wall) = filter::find_wall(connection, &what.scope)? else {
        return note_change(connection, 0, &empty_wall(&what.scope), origin).map(|()| 0);
    };
    // For what is being made, and not there yet.
    for note in what.notes() {
        note_change(connection, wall, &note, origin)?;
    }
    let mut parts = Vec::new();
    let mut values = vec![Sql::Integer(micros(now)), Sql::Integer(wall)];
    if let Some(prefix) = &what.prefix {
        parts.push("substr(k.key, 1, length(?3)) = ?3".to_owned());
        values.push(Sql::Text(prefix.clone()));
    }
    if !what.tags.is_empty() {
        let marks = vec!["?"; what.tags.len()].join(", ");
        parts.push(format!("k.key IN (SELECT t.key FROM kv_tags AS t WHERE t.wall = k.wall AND t.tag IN ({marks}))"));
        values.extend(what.tags.iter().cloned().map(Sql::Text));
    }
    let sql = format!(
        "SELECT k.key, k.stale_until IS NULL OR k.stale_until > ?1 FROM kv AS k WHERE k.wall = ?2 AND ({})",
        parts.join(" OR ")
    );
    let keys: Vec<(String, bool)> = connection
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            statement.query_map(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .map_err(internal("memory.kv.invalidate"))?;
    for (key, _) in &keys {
        remove(connection, wall, key, origin)?;
    }
    Ok(keys.iter().filter(|(key, alive)| *alive && !is_reserved(key)).count() as u64)
}

/// Removes some of what has expired, and old changes.
pub(super) fn purge(connection: &Connection, now: Timestamp) -> Result<()> {
    let failed = internal("memory.kv.purge");
    let dead: Vec<(i64, String)> = connection
        .prepare_cached(&format!(
            "SELECT wall, key FROM kv WHERE stale_until <= ?1 ORDER BY stale_until LIMIT {PURGE_BATCH}"
        ))
        .and_then(|mut statement| statement.query_map([micros(now)], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(&failed)?;
    for (wall, key) in dead {
        // No need to tell others: their copies expire by themselves.
        for sql in ["DELETE FROM kv WHERE wall = ?1 AND key = ?2", "DELETE FROM kv_tags WHERE wall = ?1 AND key = ?2"] {
            connection
                .prepare_cached(sql)
                .and_then(|mut statement| statement.execute((wall, &key)))
                .map_err(&failed)?;
        }
    }
    connection
        .execute("DELETE FROM kv_changes WHERE change < (SELECT max(change) FROM kv_changes) - ?1", [KEPT_CHANGES])
        .map(drop)
        .map_err(&failed)
}

fn count(connection: &Connection) -> Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM kv WHERE key >= char(2)")
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
        .map(i64::unsigned_abs)
        .map_err(internal("memory.health"))
}

/// Sees what other processes have changed, in microseconds: SQLite says whether anything was committed at all.
#[derive(Debug)]
pub(super) struct Watch {
    path: Option<PathBuf>,
    /// Tells the changes of this store from those of others.
    origin: i64,
    connection: Mutex<Option<Connection>>,
    /// What `PRAGMA data_version` said last.
    version: AtomicI64,
    /// Last change that was seen; below zero before the first look.
    change: AtomicI64,
}

impl Watch {
    pub(super) fn new(path: Option<PathBuf>) -> Watch {
        let origin = i64::from_be_bytes(uuid::Uuid::now_v7().into_bytes()[8..].try_into().unwrap_or_default());
        let (version, change) = (AtomicI64::new(i64::MIN), AtomicI64::new(-1));
        Watch { path, origin, connection: Mutex::new(None), version, change }
    }

    pub(super) fn origin(&self) -> i64 {
        self.origin
    }

    pub(super) fn close(&self) {
        *self.connection.lock() = None;
        self.version.store(i64::MIN, Ordering::Relaxed);
        self.change.store(-1, Ordering::Relaxed);
    }

    fn look(&self, store: &SqliteStore, drop: &mut dyn FnMut(Elsewhere)) {
        // Another caller is looking: it will do.
        let (Some(path), Some(mut connection)) = (&self.path, self.connection.try_lock()) else { return };
        // Under the lock, which closing takes as well.
        if store.is_suspended() {
            return drop(Elsewhere::Everything);
        }
        let first = connection.is_none();
        if first {
            // Before the file is there, nobody has changed anything in it.
            if !path.exists() {
                return;
            }
            *connection = open::open_reader(path).ok();
        }
        // What cannot be told may have changed.
        if connection.as_ref().is_none_or(|connection| self.look_with(connection, drop).is_err()) {
            drop(Elsewhere::Everything);
        }
    }

    fn look_with(&self, connection: &Connection, drop: &mut dyn FnMut(Elsewhere)) -> rusqlite::Result<()> {
        let version: i64 = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if version == self.version.swap(version, Ordering::Relaxed) {
            return Ok(());
        }
        let since = self.change.load(Ordering::Relaxed);
        let (least, last) = changes(connection)?;
        self.change.store(last, Ordering::Relaxed);
        // Before the first look, anything may have changed; so it may have where the log was cut meanwhile.
        if since < 0 || since < least - 1 {
            drop(Elsewhere::Everything);
            return Ok(());
        }
        let mut statement = connection.prepare_cached(
            "SELECT w.tenant, w.user, c.key FROM kv_changes AS c LEFT JOIN walls AS w ON w.wall = c.wall \
             WHERE c.change > ?1 AND c.change <= ?2 AND c.origin <> ?3",
        )?;
        let keys = statement.query_map((since, last, self.origin), |row| {
            let scope = Scope { tenant: row.get(0)?, user: row.get(1)?, session: None, agent: None };
            let key: String = row.get(2)?;
            Ok(if key.is_empty() { Elsewhere::Everything } else { Elsewhere::Key(KvKey::new(&scope, &key)) })
        })?;
        for change in keys {
            drop(change?);
        }
        Ok(())
    }
}
