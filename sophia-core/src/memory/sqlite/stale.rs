//! Records whose vector is of another model, or that have none.

use rusqlite::{Connection, OptionalExtension, params};

use super::{internal, read, vectors, write};
use crate::{
    Result, Scope,
    memory::store::{ModelUse, NewVector, StaleVector},
};

/// Counts all records by the model of their vector.
pub(super) fn models(connection: &Connection) -> Result<Vec<ModelUse>> {
    let mut used: Vec<ModelUse> = connection
        .prepare_cached(
            "SELECT m.name, (SELECT count(*) FROM vectors AS v WHERE v.model = m.model) FROM models AS m ORDER BY m.model",
        )
        .and_then(|mut statement| {
            let of = |row: &rusqlite::Row<'_>| {
                Ok(ModelUse { model: row.get(0)?, records: row.get::<_, i64>(1)?.unsigned_abs() })
            };
            statement.query_map([], of)?.collect()
        })
        .map_err(internal("memory.stats"))?;
    let with_vector: u64 = used.iter().map(|used| used.records).sum();
    used.push(ModelUse { model: None, records: read::count(connection)?.saturating_sub(with_vector) });
    used.retain(|used| used.records > 0);
    Ok(used)
}

/// Returns the newest records below `before` that have no vector of `model`.
pub(super) fn find(
    connection: &Connection,
    model: &str,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<StaleVector>> {
    let model = vectors::find_model(connection, model)?;
    connection
        .prepare_cached(
            "SELECT r.seq, r.version, w.tenant, w.user, r.session, r.agent, r.content FROM records AS r \
             CROSS JOIN walls AS w ON w.wall = r.wall LEFT JOIN vectors AS v ON v.seq = r.seq \
             WHERE r.seq < ?1 AND (v.model IS NULL OR v.model IS NOT ?2) ORDER BY r.seq DESC LIMIT ?3",
        )
        .and_then(|mut statement| {
            let of = |row: &rusqlite::Row<'_>| {
                Ok(StaleVector {
                    seq: row.get(0)?,
                    version: row.get(1)?,
                    scope: Scope { tenant: row.get(2)?, user: row.get(3)?, session: row.get(4)?, agent: row.get(5)? },
                    content: row.get(6)?,
                })
            };
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            statement.query_map(params![before.unwrap_or(i64::MAX), model, limit], of)?.collect()
        })
        .map_err(internal("memory.reembed"))
}

/// Sets the vectors of records that have not changed meanwhile.
pub(super) fn set(connection: &Connection, made: Vec<NewVector>) -> Result<u64> {
    let mut count = 0;
    for NewVector { seq, version, vector } in made {
        let wall: Option<i64> = connection
            .prepare_cached("SELECT wall FROM records WHERE seq = ?1 AND version = ?2")
            .and_then(|mut statement| statement.query_row([seq, version], |row| row.get(0)).optional())
            .map_err(internal("memory.reembed"))?;
        if let Some(wall) = wall {
            write::set_vector(connection, wall, seq, Some(&vector))?;
            count += 1;
        }
    }
    Ok(count)
}
