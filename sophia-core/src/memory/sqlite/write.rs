//! Writing records: each function is one job of the writer and runs inside its savepoint.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::{block_files, filter, internal, micros, read, vectors};
use crate::{
    Result,
    memory::{
        RetentionConfig, half,
        record::{PINNED, Record, Status},
        revise::{self, Revision, content_hash, revise},
        store::{Atomicity, Change, Depth, Draft, Filter, Inserted, Key, NamedVector, SameContent},
        words,
    },
};

/// Changes that are kept for the vectors that processes hold; who is further behind reads its vectors again.
pub(super) const KEPT_CHANGES: i64 = 200_000;
/// Most expired records that one purge removes, so that no write waits long for it.
const PURGE_BATCH: i64 = 1_000;

pub(super) fn insert_all(
    connection: &Connection,
    drafts: Vec<Draft>,
    atomicity: Atomicity,
) -> Result<Vec<Result<Inserted>>> {
    let mut results = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let result = match atomicity {
            Atomicity::Together => Ok(insert(connection, draft)?),
            Atomicity::Each => in_savepoint(connection, || insert(connection, draft))?,
        };
        results.push(result);
    }
    Ok(results)
}

/// Runs `work`, and takes back what it did if it fails.
fn in_savepoint<T>(connection: &Connection, work: impl FnOnce() -> Result<T>) -> Result<Result<T>> {
    let run = |sql| connection.execute_batch(sql).map_err(internal("memory.store"));
    run("SAVEPOINT item")?;
    let result = work();
    run(if result.is_ok() { "RELEASE item" } else { "ROLLBACK TO item; RELEASE item" })?;
    Ok(result)
}

fn insert(connection: &Connection, draft: Draft) -> Result<Inserted> {
    let mut record = draft.record;
    let wall = filter::make_wall(connection, &record.scope)?;
    let of_its_id = |record: &Record| read::in_wall(connection, &record.scope, &Key::Id(record.id.clone()));
    if draft.same_content == SameContent::ReturnExisting {
        if draft.if_version.is_some() {
            revise::check(of_its_id(&record)?.as_ref(), &record, draft.if_version)?;
        }
        if let Some(existing) = find_same(connection, wall, &record)? {
            return Ok(inserted(&existing, false));
        }
    }
    if let Some(existing) = of_its_id(&record)? {
        let record = revise::replace(&existing, record, draft.if_version)?;
        replace(connection, wall, &existing, &record)?;
        set_vector(connection, wall, record.seq, draft.vector.as_ref())?;
        return Ok(inserted(&record, false));
    }
    revise::check(None, &record, draft.if_version)?;
    record.version = 1;
    record.seq = insert_row(connection, wall, &record, None)?;
    index(connection, wall, &record)?;
    set_vector(connection, wall, record.seq, draft.vector.as_ref())?;
    Ok(inserted(&record, true))
}

/// Inserts a record with the number that is given, or the next one, and returns it.
pub(super) fn insert_row(connection: &Connection, wall: i64, record: &Record, seq: Option<i64>) -> Result<i64> {
    connection
        .prepare_cached(
            "INSERT INTO records (seq, wall, id, version, session, agent, content, kind, category, tags, metadata, summary, \
             source, role, importance, priority, status, created_at, updated_at, expires_at, hash) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
        )
        .and_then(|mut statement| {
            statement.insert(params![
                seq,
                wall,
                record.id,
                record.version,
                record.scope.session,
                record.scope.agent,
                record.content,
                record.kind,
                record.category,
                json(&record.tags),
                json(&record.metadata),
                record.summary,
                record.source,
                record.role,
                record.importance,
                record.priority.name(),
                status_name(record.status),
                micros(record.created_at),
                micros(record.updated_at),
                read::expiry(record),
                content_hash(&record.content),
            ])
        })
        .map_err(internal("memory.store"))
}

fn inserted(record: &Record, created: bool) -> Inserted {
    Inserted { id: record.id.clone(), seq: record.seq, version: record.version, created, expires_at: record.expires_at }
}

fn find_same(connection: &Connection, wall: i64, record: &Record) -> Result<Option<Record>> {
    let sql = format!(
        "SELECT {} FROM {} WHERE r.wall = ?1 AND r.hash = ?2 AND r.kind = ?3 AND r.session IS ?4 AND r.agent IS ?5 \
         AND r.status = 'active' AND (r.expires_at IS NULL OR r.expires_at > ?6) AND r.content = ?7 ORDER BY r.seq LIMIT 1",
        read::COLUMNS,
        read::FROM
    );
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            let values = params![
                wall,
                content_hash(&record.content),
                record.kind,
                record.scope.session,
                record.scope.agent,
                micros(record.updated_at),
                record.content
            ];
            statement.query_row(values, read::record).optional()
        })
        .map_err(internal("memory.store"))
}

pub(super) fn update(connection: &Connection, change: Change) -> Result<Record> {
    let Change { update, vector, now } = change;
    let found = read::in_wall(connection, &update.scope, &Key::Id(update.id.clone()))?;
    let revision = revise(found, update, now)?;
    let content_changes = revision.is_of_content();
    let Revision { old, new } = revision;
    let wall = filter::make_wall(connection, &new.scope)?;
    replace(connection, wall, &old, &new)?;
    if content_changes {
        set_vector(connection, wall, new.seq, vector.as_ref())?;
    } else {
        note_change(connection, wall, new.seq)?;
    }
    Ok(new)
}

/// Keeps a former state of a record.
pub(super) fn keep_version(connection: &Connection, old: &Record) -> Result<()> {
    connection
        .prepare_cached("INSERT INTO versions (seq, version, body) VALUES (?1, ?2, ?3)")
        .and_then(|mut statement| statement.execute(params![old.seq, old.version, json(old)]))
        .map(drop)
        .map_err(internal("memory.update"))
}

/// Keeps the old state as a version and writes the new one in its place.
pub(super) fn replace(connection: &Connection, wall: i64, old: &Record, new: &Record) -> Result<()> {
    if new.version != old.version {
        keep_version(connection, old)?;
    }
    unindex(connection, wall, old)?;
    connection
        .prepare_cached(
            "UPDATE records SET version = ?2, session = ?3, agent = ?4, content = ?5, kind = ?6, category = ?7, tags = ?8, \
             metadata = ?9, summary = ?10, source = ?11, role = ?12, importance = ?13, priority = ?14, status = ?15, \
             updated_at = ?16, expires_at = ?17, hash = ?18 WHERE seq = ?1",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                new.seq,
                new.version,
                new.scope.session,
                new.scope.agent,
                new.content,
                new.kind,
                new.category,
                json(&new.tags),
                json(&new.metadata),
                new.summary,
                new.source,
                new.role,
                new.importance,
                new.priority.name(),
                status_name(new.status),
                micros(new.updated_at),
                read::expiry(new),
                content_hash(&new.content),
            ])
        })
        .map_err(internal("memory.update"))?;
    index(connection, wall, new)
}

pub(super) fn delete(connection: &Connection, filter: &Filter, depth: Depth) -> Result<u64> {
    let failed = internal("memory.delete");
    let condition = filter::condition(connection, filter)?;
    let sql = format!("SELECT {} FROM {} WHERE {}", read::COLUMNS, read::FROM, condition.sql);
    let records: Vec<Record> = connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.query_map(params_from_iter(&condition.values), read::record)?.collect())
        .map_err(&failed)?;
    for old in &records {
        match depth {
            Depth::Erase => {
                erase(connection, old)?;
                block_files::disown(connection, filter::make_wall(connection, &old.scope)?)?;
            }
            Depth::Archive => {
                let new = revise::archive(old, filter.now);
                let wall = filter::make_wall(connection, &old.scope)?;
                replace(connection, wall, old, &new)?;
                note_change(connection, wall, old.seq)?;
            }
        }
    }
    Ok(records.len() as u64)
}

/// Removes a record with its words, versions and vector.
pub(super) fn erase(connection: &Connection, record: &Record) -> Result<()> {
    let wall = filter::make_wall(connection, &record.scope)?;
    unindex(connection, wall, record)?;
    for sql in [
        "DELETE FROM records WHERE seq = ?1",
        "DELETE FROM versions WHERE seq = ?1",
        "DELETE FROM vectors WHERE seq = ?1",
    ] {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([record.seq]))
            .map_err(internal("memory.delete"))?;
    }
    note_change(connection, wall, record.seq)
}

/// Removes some of what has expired.
pub(super) fn purge(connection: &Connection, now: Timestamp) -> Result<()> {
    let failed = internal("memory.purge");
    let sql = format!(
        "SELECT {} FROM {} WHERE r.expires_at <= ?1 ORDER BY r.expires_at LIMIT {PURGE_BATCH}",
        read::COLUMNS,
        read::FROM
    );
    let expired: Vec<Record> = connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.query_map([micros(now)], read::record)?.collect())
        .map_err(&failed)?;
    for record in &expired {
        erase(connection, record)?;
    }
    connection
        .execute("DELETE FROM changes WHERE change < (SELECT max(change) FROM changes) - ?1", [KEPT_CHANGES])
        .map_err(&failed)?;
    Ok(())
}

/// Erases what is above the cap of a wall, worth least first. What is pinned stays, whatever the cap is.
pub(super) fn trim(connection: &Connection, retention: &RetentionConfig, now: Timestamp) -> Result<()> {
    let failed = internal("memory.retention");
    let Some(most) = retention.max_records else { return Ok(()) };
    let full: Vec<(i64, i64)> = connection
        .prepare_cached("SELECT wall, count(*) FROM records GROUP BY wall HAVING count(*) > ?1")
        .and_then(|mut statement| statement.query_map([most as i64], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(&failed)?;
    for (wall, count) in full {
        let mut kept: Vec<(bool, f64, i64)> = connection
            .prepare_cached(
                "SELECT status <> 'archived', importance, updated_at, seq FROM records WHERE wall = ?1 AND importance < ?2",
            )
            .and_then(|mut statement| {
                let worth = |row: &rusqlite::Row<'_>| {
                    let age = (micros(now) - row.get::<_, i64>(2)?).max(0).unsigned_abs();
                    Ok((row.get(0)?, retention.worth(row.get(1)?, Duration::from_micros(age)), row.get(3)?))
                };
                statement.query_map((wall, PINNED), worth)?.collect()
            })
            .map_err(&failed)?;
        kept.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        let above = (count as u64).saturating_sub(most).min(PURGE_BATCH as u64);
        for (_, _, seq) in kept.into_iter().take(usize::try_from(above).unwrap_or(0)) {
            if let Some(record) = read::by_seq(connection, seq)? {
                erase(connection, &record)?;
            }
        }
        block_files::disown(connection, wall)?;
    }
    Ok(())
}

pub(super) fn index(connection: &Connection, wall: i64, record: &Record) -> Result<()> {
    change_index("INSERT INTO record_words (rowid, words) VALUES (?1, ?2)", connection, wall, record)
}

fn unindex(connection: &Connection, wall: i64, record: &Record) -> Result<()> {
    let sql = "INSERT INTO record_words (record_words, rowid, words) VALUES ('delete', ?1, ?2)";
    change_index(sql, connection, wall, record)
}

fn change_index(sql: &str, connection: &Connection, wall: i64, record: &Record) -> Result<()> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute((record.seq, words::index_text(wall, record))))
        .map(drop)
        .map_err(internal("memory.index"))
}

/// Sets or removes the vector of a record, and notes that it changed.
pub(super) fn set_vector(connection: &Connection, wall: i64, seq: i64, vector: Option<&NamedVector>) -> Result<()> {
    let failed = internal("memory.store");
    match vector {
        Some(vector) => {
            let model = vectors::make_model(connection, &vector.model, vector.values.len())?;
            connection
                .prepare_cached("INSERT OR REPLACE INTO vectors (seq, model, data) VALUES (?1, ?2, ?3)")
                .and_then(|mut statement| statement.execute(params![seq, model, half::encode(&vector.values)]))
                .map_err(failed)?;
        }
        None => {
            connection
                .prepare_cached("DELETE FROM vectors WHERE seq = ?1")
                .and_then(|mut statement| statement.execute([seq]))
                .map_err(failed)?;
        }
    }
    note_change(connection, wall, seq)
}

fn note_change(connection: &Connection, wall: i64, seq: i64) -> Result<()> {
    connection
        .prepare_cached("INSERT INTO changes (wall, seq) VALUES (?1, ?2)")
        .and_then(|mut statement| statement.execute([wall, seq]))
        .map(drop)
        .map_err(internal("memory.store"))
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Active => "active",
        Status::Archived => "archived",
    }
}

/// Writes what always can be written as JSON: text, numbers that were validated, and maps with text keys.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
