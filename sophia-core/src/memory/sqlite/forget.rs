//! Forgetting a scope or a person, and taking what is left of them out of the file.

use rusqlite::{Connection, params_from_iter, types::Value as Sql};

use super::{block_files, checkpoints, internal, kv, read, write};
use crate::{
    Error, ErrorKind, Result, Scope,
    memory::{
        forget::{ForgetReceipt, ForgetRequest},
        kv::EMBEDDING_KEYS,
        record::Record,
    },
};

/// Removes records, versions, vectors, facts, keys and checkpoints.
///
/// A scope with a session or an agent covers records only: all else belongs to the wall, or is removed by its tags.
pub(super) fn forget(connection: &Connection, request: &ForgetRequest, origin: i64) -> Result<ForgetReceipt> {
    let failed = internal("memory.forget");
    let scope = request.scope.clone().unwrap_or_default();
    let mut receipt = ForgetReceipt { tiers: vec!["l3"], ..ForgetReceipt::default() };
    for wall in walls(connection, request)? {
        receipt.walls.push(scope_of(connection, wall)?);
        let mut sql = format!("SELECT {} FROM {} WHERE r.wall = ?", read::COLUMNS, read::FROM);
        let mut values = vec![Sql::Integer(wall)];
        for (column, value) in [("r.session", &scope.session), ("r.agent", &scope.agent)] {
            if let Some(value) = value {
                sql.push_str(&format!(" AND {column} = ?"));
                values.push(Sql::Text(value.clone()));
            }
        }
        let records: Vec<Record> = connection
            .prepare(&sql)
            .and_then(|mut statement| statement.query_map(params_from_iter(values), read::record)?.collect())
            .map_err(&failed)?;
        for record in &records {
            receipt.versions += count(connection, "SELECT count(*) FROM versions WHERE seq = ?1", record.seq)?;
            receipt.embeddings += count(connection, "SELECT count(*) FROM vectors WHERE seq = ?1", record.seq)?;
            write::erase(connection, record)?;
        }
        receipt.records += records.len() as u64;
        block_files::disown(connection, wall)?;
        // Vectors of texts are kept for the whole wall: whose text was forgotten is not told by them.
        for key in keys(connection, wall)?.into_iter().filter(|key| key.starts_with(EMBEDDING_KEYS)) {
            kv::remove(connection, wall, &key, origin)?;
            receipt.embeddings += 1;
        }
        if scope.session.is_some() || scope.agent.is_some() {
            continue;
        }
        let keys = keys(connection, wall)?;
        for key in &keys {
            kv::remove(connection, wall, key, origin)?;
        }
        receipt.cached += keys.len() as u64;
        receipt.facts += count(connection, "SELECT count(*) FROM facts WHERE wall = ?1", wall)?;
        receipt.checkpoints += checkpoints::forget(connection, wall)?;
        for sql in [
            "DELETE FROM facts WHERE wall = ?1",
            "DELETE FROM entities WHERE wall = ?1",
            "DELETE FROM kv_changes WHERE wall = ?1",
            "DELETE FROM walls WHERE wall = ?1",
        ] {
            connection.execute(sql, [wall]).map_err(&failed)?;
        }
    }
    if scope.session.is_none() && scope.agent.is_none() {
        // Also where nothing is stored: something may be about to be.
        kv::note_all_changed(connection)?;
    }
    Ok(receipt)
}

fn keys(connection: &Connection, wall: i64) -> Result<Vec<String>> {
    connection
        .prepare("SELECT key FROM kv WHERE wall = ?1")
        .and_then(|mut statement| statement.query_map([wall], |row| row.get(0))?.collect())
        .map_err(internal("memory.forget"))
}

/// Returns the pairs of tenant and user that are meant.
pub(super) fn scopes(connection: &Connection, request: &ForgetRequest) -> Result<Vec<Scope>> {
    walls(connection, request)?.into_iter().map(|wall| scope_of(connection, wall)).collect()
}

/// Returns the walls that are meant.
fn walls(connection: &Connection, request: &ForgetRequest) -> Result<Vec<i64>> {
    let (sql, values) = match (&request.scope, &request.subject) {
        (Some(scope), None) => ("SELECT wall FROM walls WHERE key = ?1", vec![Sql::Text(scope.wall())]),
        (Some(scope), Some(subject)) => (
            "SELECT wall FROM walls WHERE tenant IS ?1 AND user = ?2",
            vec![scope.tenant.clone().map_or(Sql::Null, Sql::Text), Sql::Text(subject.clone())],
        ),
        (None, Some(subject)) => ("SELECT wall FROM walls WHERE user = ?1", vec![Sql::Text(subject.clone())]),
        (None, None) => return Ok(Vec::new()),
    };
    connection
        .prepare(sql)
        .and_then(|mut statement| statement.query_map(params_from_iter(values), |row| row.get(0))?.collect())
        .map_err(internal("memory.forget"))
}

fn scope_of(connection: &Connection, wall: i64) -> Result<Scope> {
    connection
        .prepare_cached("SELECT tenant, user FROM walls WHERE wall = ?1")
        .and_then(|mut statement| {
            statement.query_row([wall], |row| {
                Ok(Scope { tenant: row.get(0)?, user: row.get(1)?, session: None, agent: None })
            })
        })
        .map_err(internal("memory.forget"))
}

fn count(connection: &Connection, sql: &str, of: i64) -> Result<u64> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([of], |row| row.get::<_, i64>(0)))
        .map(i64::unsigned_abs)
        .map_err(internal("memory.forget"))
}

/// Takes out of the file what SQLite keeps of deleted rows: in the full-text index, in free pages, in the log.
///
/// # Errors
/// Unavailable while somebody still reads what was there before: the log holds it then.
pub(super) fn compact(connection: &Connection) -> Result<()> {
    let failed = internal("memory.forget");
    connection.execute_batch("INSERT INTO record_words (record_words) VALUES ('optimize'); VACUUM").map_err(&failed)?;
    let is_busy: bool =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(&failed)?;
    if is_busy {
        let message = "it is gone for all who read from now on, but another process still reads what was there before: \
                       forget again, so that no byte of it is left in the log";
        return Err(Error::new(ErrorKind::Unavailable, "memory.forget", message));
    }
    Ok(())
}
