//! Reading records by name, by filter, and their counts.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter, types::Value as Sql};

use super::{filter, internal, micros, timestamp};
use crate::{
    Result, Scope,
    memory::{
        health::{MemoryStats, Session},
        record::{MESSAGE_KIND, Priority, Record, Status},
        store::{Filter, Key, Listing, Lookup},
    },
};

/// Columns of a record, in the order that [`record`] reads them. Needs `records AS r JOIN walls AS w`.
pub(super) const COLUMNS: &str = "r.seq, r.id, r.version, w.tenant, w.user, r.session, r.agent, r.content, r.kind, \
     r.category, r.tags, r.metadata, r.summary, r.source, r.role, r.importance, r.priority, r.status, r.created_at, \
     r.updated_at, r.expires_at";
/// How many they are.
pub(super) const COLUMN_COUNT: usize = 21;
pub(super) const FROM: &str = "records AS r JOIN walls AS w ON w.wall = r.wall";

/// Reads one record.
pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let json = |index: usize| -> rusqlite::Result<String> { row.get(index) };
    let malformed = |index| {
        move |error: serde_json::Error| {
            rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
        }
    };
    Ok(Record {
        seq: row.get(0)?,
        id: row.get(1)?,
        version: row.get(2)?,
        scope: Scope { tenant: row.get(3)?, user: row.get(4)?, session: row.get(5)?, agent: row.get(6)? },
        content: row.get(7)?,
        kind: row.get(8)?,
        category: row.get(9)?,
        tags: serde_json::from_str(&json(10)?).map_err(malformed(10))?,
        metadata: serde_json::from_str(&json(11)?).map_err(malformed(11))?,
        summary: row.get(12)?,
        source: row.get(13)?,
        role: row.get(14)?,
        importance: row.get(15)?,
        priority: Priority::named(row.get_ref(16)?.as_str()?),
        status: if row.get_ref(17)?.as_str()? == "archived" { Status::Archived } else { Status::Active },
        created_at: timestamp(row.get(18)?),
        updated_at: timestamp(row.get(19)?),
        expires_at: row.get::<_, Option<i64>>(20)?.map(timestamp),
    })
}

/// Returns the record of this number.
pub(super) fn by_seq(connection: &Connection, seq: i64) -> Result<Option<Record>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE r.seq = ?1"))
        .and_then(|mut statement| statement.query_row([seq], record).optional())
        .map_err(internal("memory.get"))
}

/// Returns what of a record is searched by words, and who speaks; all else is left empty.
pub(super) fn text_by_seq(connection: &Connection, seq: i64) -> Result<Option<Record>> {
    connection
        .prepare_cached("SELECT content, summary, tags, role, metadata FROM records WHERE seq = ?1")
        .and_then(|mut statement| statement.query_row([seq], |row| text(seq, row)).optional())
        .map_err(internal("memory.search"))
}

fn text(seq: i64, row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        seq,
        id: String::new(),
        version: 0,
        scope: Scope::default(),
        content: row.get(0)?,
        kind: String::new(),
        category: None,
        // Written by this store: always JSON.
        tags: serde_json::from_str(row.get_ref(2)?.as_str()?).unwrap_or_default(),
        metadata: serde_json::from_str(row.get_ref(4)?.as_str()?).unwrap_or_default(),
        summary: row.get(1)?,
        source: None,
        role: row.get(3)?,
        importance: 0.0,
        priority: Priority::default(),
        status: Status::Active,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        expires_at: None,
    })
}

/// Returns the record of this name in the wall of `scope`, whatever its session, agent or status.
pub(super) fn in_wall(connection: &Connection, scope: &Scope, key: &Key) -> Result<Option<Record>> {
    let Some(wall) = filter::find_wall(connection, scope)? else { return Ok(None) };
    let (column, value) = match key {
        Key::Id(id) => ("r.id", Sql::Text(id.clone())),
        Key::Seq(seq) => ("r.seq", Sql::Integer(*seq)),
    };
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE r.wall = ?1 AND {column} = ?2"))
        .and_then(|mut statement| statement.query_row((wall, value), record).optional())
        .map_err(internal("memory.get"))
}

pub(super) fn get(connection: &Connection, lookup: &Lookup) -> Result<Option<Record>> {
    let found = in_wall(connection, &lookup.scope, &lookup.key)?;
    Ok(found.filter(|record| is_visible(record, lookup)))
}

pub(super) fn versions(connection: &Connection, lookup: &Lookup) -> Result<Vec<Record>> {
    let Some(current) = get(connection, lookup)? else { return Ok(Vec::new()) };
    let mut versions = former(connection, current.seq)?;
    versions.push(current);
    Ok(versions)
}

/// Returns the former states of a record, oldest first.
pub(super) fn former(connection: &Connection, seq: i64) -> Result<Vec<Record>> {
    connection
        .prepare_cached("SELECT body FROM versions WHERE seq = ?1 ORDER BY version")
        .and_then(|mut statement| {
            statement.query_map([seq], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        })
        .map_err(internal("memory.versions"))?
        .iter()
        .map(|body| {
            serde_json::from_str(body).map_err(|error| {
                crate::Error::new(crate::ErrorKind::Internal, "memory.versions", "a stored version cannot be read")
                    .with_source(error)
            })
        })
        .collect()
}

fn is_visible(record: &Record, lookup: &Lookup) -> bool {
    lookup.scope.covers(&record.scope)
        && (lookup.include_archived || record.status == Status::Active)
        && record.expires_at.is_none_or(|expires_at| expires_at > lookup.now)
}

pub(super) fn list(connection: &Connection, listing: &Listing) -> Result<Vec<Record>> {
    let condition = filter::condition(connection, &listing.filter)?;
    let mut records = newest(connection, &condition, listing.limit, 0)?;
    records.reverse();
    Ok(records)
}

/// Returns what a condition keeps, newest first.
pub(super) fn newest(
    connection: &Connection,
    condition: &filter::Condition,
    limit: usize,
    offset: usize,
) -> Result<Vec<Record>> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE {} ORDER BY r.seq DESC LIMIT ? OFFSET ?", condition.sql);
    let values = condition.values.iter().cloned().chain([integer(limit), integer(offset)]);
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.query_map(params_from_iter(values), record)?.collect())
        .map_err(internal("memory.list"))
}

/// Returns how many records a condition keeps.
pub(super) fn matching(connection: &Connection, condition: &filter::Condition) -> Result<usize> {
    connection
        .prepare_cached(&format!("SELECT count(*) FROM records AS r WHERE {}", condition.sql))
        .and_then(|mut statement| statement.query_row(params_from_iter(&condition.values), |row| row.get::<_, i64>(0)))
        .map(|count| usize::try_from(count).unwrap_or(0))
        .map_err(internal("memory.search"))
}

pub(super) fn sessions(connection: &Connection, filter: &Filter, limit: usize) -> Result<Vec<Session>> {
    let mut filter = filter.clone();
    filter.kinds = Some(vec![MESSAGE_KIND.to_owned()]);
    let condition = filter::condition(connection, &filter)?;
    let sql = format!(
        "SELECT w.tenant, w.user, r.session, count(*), min(r.created_at), max(r.created_at) FROM {FROM} \
         WHERE {} AND r.session IS NOT NULL GROUP BY r.wall, r.session ORDER BY max(r.seq) DESC LIMIT ?",
        condition.sql
    );
    let values = condition.values.iter().cloned().chain([integer(limit)]);
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            statement
                .query_map(params_from_iter(values), |row| {
                    let session: String = row.get(2)?;
                    Ok(Session {
                        scope: Scope {
                            tenant: row.get(0)?,
                            user: row.get(1)?,
                            session: Some(session.clone()),
                            agent: None,
                        },
                        session,
                        messages: row.get::<_, i64>(3)?.unsigned_abs(),
                        started_at: timestamp(row.get(4)?),
                        last_at: timestamp(row.get(5)?),
                    })
                })?
                .collect()
        })
        .map_err(internal("memory.sessions"))
}

pub(super) fn stats(connection: &Connection) -> Result<MemoryStats> {
    let count = |sql: &str| -> Result<u64> {
        let counted: rusqlite::Result<i64> =
            connection.prepare_cached(sql).and_then(|mut statement| statement.query_row([], |row| row.get(0)));
        counted.map(i64::unsigned_abs).map_err(internal("memory.stats"))
    };
    Ok(MemoryStats {
        records: count("SELECT count(*) FROM records")?,
        archived: count("SELECT count(*) FROM records WHERE status = 'archived'")?,
        scopes: count("SELECT count(*) FROM walls")?,
        versions: count("SELECT count(*) FROM versions")?,
        vectors: count("SELECT count(*) FROM vectors")?,
        // Those of the engine itself are not told.
        keys: count("SELECT count(*) FROM kv WHERE key >= char(2)")?,
        facts: count("SELECT count(*) FROM facts")?,
        bytes: count("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")?,
        stale_vectors: None,
    })
}

/// Returns how many records there are.
pub(super) fn count(connection: &Connection) -> Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM records")
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
        .map(i64::unsigned_abs)
        .map_err(internal("memory.health"))
}

fn integer(number: usize) -> Sql {
    Sql::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Returns when something that expires at `expires_at` is to be purged, as the data file holds it.
pub(super) fn expiry(record: &Record) -> Option<i64> {
    record.expires_at.map(micros)
}
