//! Reading records by name, by filter, and their counts.

use std::collections::HashMap;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{
    filter::{self, Condition},
    link::{Taken, column},
    read_json, timestamp,
};
use crate::{
    Result, Scope,
    memory::{
        health::{MemoryStats, Session},
        record::{MESSAGE_KIND, Priority, Record, Status},
        store::{Filter, Key, Listing, Lookup},
    },
};

/// Columns of a record, in the order that [`record`] reads them. Needs [`FROM`].
pub(super) const COLUMNS: &str = "r.seq, r.id, r.version, w.tenant, w.\"user\", r.session, r.agent, r.content, r.kind, \
     r.category, r.tags, r.metadata, r.summary, r.source, r.role, r.importance, r.priority, r.archived, r.created_at, \
     r.updated_at, r.expires_at";
pub(super) const FROM: &str = "records AS r JOIN walls AS w ON w.wall = r.wall";

/// Reads one record.
pub(super) fn record(row: &Row) -> Result<Record> {
    let expires_at: Option<i64> = column(row, 20)?;
    Ok(Record {
        seq: column(row, 0)?,
        id: column(row, 1)?,
        version: column(row, 2)?,
        scope: Scope {
            tenant: column(row, 3)?,
            user: column(row, 4)?,
            session: column(row, 5)?,
            agent: column(row, 6)?,
        },
        content: column(row, 7)?,
        kind: column(row, 8)?,
        category: column(row, 9)?,
        tags: column(row, 10)?,
        metadata: read_json(column(row, 11)?)?,
        summary: column(row, 12)?,
        source: column(row, 13)?,
        role: column(row, 14)?,
        importance: column(row, 15)?,
        priority: Priority::named(column(row, 16)?),
        status: if column(row, 17)? { Status::Archived } else { Status::Active },
        created_at: timestamp(column(row, 18)?),
        updated_at: timestamp(column(row, 19)?),
        expires_at: expires_at.map(timestamp),
    })
}

/// Returns records by their numbers.
pub(super) async fn by_seq(taken: &Taken, seqs: &[i64]) -> Result<HashMap<i64, Record>> {
    if seqs.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE r.seq = ANY($1)");
    let rows = taken.query(&sql, &[&seqs]).await?;
    rows.iter().map(|row| record(row).map(|record| (record.seq, record))).collect()
}

/// Returns what of records is searched by words, and who speaks; all else is left empty.
pub(super) async fn texts(taken: &Taken, seqs: &[i64]) -> Result<HashMap<i64, Record>> {
    if seqs.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = "SELECT seq, content, summary, tags, role, metadata FROM records WHERE seq = ANY($1)";
    let rows = taken.query(sql, &[&seqs]).await?;
    rows.iter().map(|row| text(row).map(|record| (record.seq, record))).collect()
}

fn text(row: &Row) -> Result<Record> {
    Ok(Record {
        seq: column(row, 0)?,
        id: String::new(),
        version: 0,
        scope: Scope::default(),
        content: column(row, 1)?,
        kind: String::new(),
        category: None,
        tags: column(row, 3)?,
        metadata: read_json(column(row, 5)?)?,
        summary: column(row, 2)?,
        source: None,
        role: column(row, 4)?,
        importance: 0.0,
        priority: Priority::default(),
        status: Status::Active,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        expires_at: None,
    })
}

/// Whether a record that is read is held for its change until the transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    No,
    Yes,
}

/// Returns the record of this name in the wall of `scope`, whatever its session, agent or status.
pub(super) async fn in_wall(taken: &Taken, scope: &Scope, key: &Key, hold: Hold) -> Result<Option<Record>> {
    let lock = if hold == Hold::Yes { "FOR UPDATE OF r" } else { "" };
    let sql = |column| format!("SELECT {COLUMNS} FROM {FROM} WHERE w.key = $1 AND r.{column} = $2 {lock}");
    let row = match key {
        Key::Id(id) => taken.query_opt(&sql("id"), &[&scope.wall(), id]).await?,
        Key::Seq(seq) => taken.query_opt(&sql("seq"), &[&scope.wall(), seq]).await?,
    };
    row.map(|row| record(&row)).transpose()
}

pub(super) async fn get(taken: &Taken, lookup: &Lookup) -> Result<Option<Record>> {
    let found = in_wall(taken, &lookup.scope, &lookup.key, Hold::No).await?;
    Ok(found.filter(|record| is_visible(record, lookup)))
}

pub(super) async fn versions(taken: &Taken, lookup: &Lookup) -> Result<Vec<Record>> {
    let Some(current) = get(taken, lookup).await? else { return Ok(Vec::new()) };
    // One that was changed in between is among the former ones by now.
    let sql = "SELECT body FROM versions WHERE seq = $1 AND version < $2 ORDER BY version";
    let rows = taken.query(sql, &[&current.seq, &current.version]).await?;
    let mut versions = rows.iter().map(|row| read_json(column(row, 0)?)).collect::<Result<Vec<Record>>>()?;
    versions.push(current);
    Ok(versions)
}

fn is_visible(record: &Record, lookup: &Lookup) -> bool {
    lookup.scope.covers(&record.scope)
        && (lookup.include_archived || record.status == Status::Active)
        && record.expires_at.is_none_or(|expires_at| expires_at > lookup.now)
}

pub(super) async fn list(taken: &Taken, listing: &Listing) -> Result<Vec<Record>> {
    let condition = filter::condition(taken, &listing.filter).await?;
    let mut records = newest(taken, condition, listing.limit, 0).await?;
    records.reverse();
    Ok(records)
}

/// Returns what a condition keeps, newest first.
pub(super) async fn newest(
    taken: &Taken,
    mut condition: Condition,
    limit: usize,
    offset: usize,
) -> Result<Vec<Record>> {
    if condition.is_empty() {
        return Ok(Vec::new());
    }
    let (limit, offset) = (condition.bind(integer(limit)), condition.bind(integer(offset)));
    let sql = format!(
        "SELECT {COLUMNS} FROM {FROM} WHERE {} ORDER BY r.seq DESC LIMIT {limit} OFFSET {offset}",
        condition.sql
    );
    let rows = taken.query(&sql, &condition.values()).await?;
    rows.iter().map(record).collect()
}

/// Returns how many records a condition keeps.
pub(super) async fn matching(taken: &Taken, condition: &Condition) -> Result<usize> {
    let sql = format!("SELECT count(*) FROM records AS r WHERE {}", condition.sql);
    let count: i64 = taken.query_value(&sql, &condition.values()).await?;
    Ok(usize::try_from(count).unwrap_or(0))
}

pub(super) async fn sessions(taken: &Taken, filter: &Filter, limit: usize) -> Result<Vec<Session>> {
    let filter = Filter { kinds: Some(vec![MESSAGE_KIND.to_owned()]), ..filter.clone() };
    let mut condition = filter::condition(taken, &filter).await?;
    let limit = condition.bind(integer(limit));
    let sql = format!(
        "SELECT min(w.tenant), min(w.\"user\"), r.session, count(*), min(r.created_at), max(r.created_at) FROM {FROM} \
         WHERE {} AND r.session IS NOT NULL GROUP BY r.wall, r.session ORDER BY max(r.seq) DESC LIMIT {limit}",
        condition.sql
    );
    let rows = taken.query(&sql, &condition.values()).await?;
    rows.iter()
        .map(|row| {
            let session: String = column(row, 2)?;
            let scope =
                Scope { tenant: column(row, 0)?, user: column(row, 1)?, session: Some(session.clone()), agent: None };
            Ok(Session {
                scope,
                session,
                messages: column::<i64>(row, 3)?.unsigned_abs(),
                started_at: timestamp(column(row, 4)?),
                last_at: timestamp(column(row, 5)?),
            })
        })
        .collect()
}

pub(super) async fn stats(taken: &Taken) -> Result<MemoryStats> {
    let row = taken
        .query_opt(
            "SELECT (SELECT count(*) FROM records), (SELECT count(*) FROM records WHERE archived), \
             (SELECT count(*) FROM walls), (SELECT count(*) FROM versions), (SELECT count(*) FROM vectors), \
             (SELECT count(*) FROM kv WHERE key >= chr(2)), (SELECT count(*) FROM facts), \
             (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class AS c \
              WHERE c.relkind = 'r' AND c.relnamespace = (SELECT relnamespace FROM pg_class \
              WHERE oid = to_regclass('walls')))",
            &[],
        )
        .await?;
    let Some(row) = row else { return Ok(MemoryStats::default()) };
    let number = |place| column::<i64>(&row, place).map(i64::unsigned_abs);
    Ok(MemoryStats {
        records: number(0)?,
        archived: number(1)?,
        scopes: number(2)?,
        versions: number(3)?,
        vectors: number(4)?,
        keys: number(5)?,
        facts: number(6)?,
        bytes: number(7)?,
        stale_vectors: None,
    })
}

/// Returns how many records there are, as the walls count them.
pub(super) async fn count(taken: &Taken) -> Result<u64> {
    let count: i64 = taken.query_value("SELECT coalesce(sum(records), 0)::bigint FROM walls", &[]).await?;
    Ok(count.unsigned_abs())
}

pub(super) fn integer(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
