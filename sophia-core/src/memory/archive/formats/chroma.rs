//! The `chroma.sqlite3` of Chroma's persistent client: documents with their metadata, and vectors as far as they are in it.

use std::path::Path;

use rusqlite::{Connection, Row};
use serde_json::{Map, Number, Value};

use super::{BATCH, Batch, Foreign, Found, Take, Vectors, open_database, refused, time};
use crate::{Result, memory::NewRecord};

/// The key under which Chroma keeps a document among its metadata.
const DOCUMENT: &str = "chroma:document";
/// The database that is there without being made.
const DEFAULT_DATABASE: &str = "00000000-0000-0000-0000-000000000000";
/// Finds the vector of a document where it is still in the queue that Chroma fills its index from, in one pass over it: a topic
/// ends with the id of its collection, a UUID.
const QUEUED: &str = "LEFT JOIN (SELECT CAST(substr(topic, -36) AS TEXT) AS collection, id, max(seq_id) AS last \
    FROM embeddings_queue WHERE vector IS NOT NULL GROUP BY 1, 2) AS q ON q.collection = c.id AND q.id = e.embedding_id \
    LEFT JOIN embeddings_queue AS v ON v.seq_id = q.last";

pub(super) fn read(path: &Path, vectors: Vectors, take: Take<'_>) -> Result<()> {
    let failed = refused(path);
    let database = open_database(path)?;
    let total: i64 = database.query_row("SELECT count(*) FROM embeddings", [], |row| row.get(0)).map_err(&failed)?;
    let total = total.unsigned_abs();
    // The first files knew one database only.
    let has_databases = database.column_exists(None, "collections", "database_id").map_err(&failed)?;
    let of_database = if has_databases { "c.database_id" } else { "NULL" };
    let (of_queue, queued) = match vectors {
        Vectors::Read => ("v.vector, v.encoding", QUEUED),
        Vectors::LeftOut => ("NULL, NULL", ""),
    };
    let mut statement = database
        .prepare(&format!(
            "SELECT e.id, e.embedding_id, e.created_at, c.name, {of_database}, {of_queue} FROM embeddings AS e \
             JOIN segments AS s ON s.id = e.segment_id JOIN collections AS c ON c.id = s.collection {queued} ORDER BY e.id"
        ))
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let (mut records, mut done) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(&failed)? {
        done += 1;
        match document(&database, row).map_err(&failed)? {
            (_, Some(record)) => records.push(record),
            (id, None) => {
                let found = Found::Warning(format!("`{id}` is left out: it has a vector and no document"));
                take(Batch { found, done, total });
            }
        }
        if records.len() == BATCH && !take(Batch { found: Found::Records(std::mem::take(&mut records)), done, total }) {
            return Ok(());
        }
    }
    take(Batch { found: Found::Records(records), done: total, total });
    Ok(())
}

/// Reads a row: its name, and its document if it has one.
fn document(database: &Connection, row: &Row<'_>) -> rusqlite::Result<(String, Option<Foreign>)> {
    let (number, own, created_at): (i64, String, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let collection: String = row.get(3)?;
    let other_database = row.get::<_, Option<String>>(4)?.filter(|database| database != DEFAULT_DATABASE);
    // Names are those of a collection, and those of collections are those of a database: two may have the same.
    let id = match other_database {
        Some(database) => format!("{database}/{collection}/{own}"),
        None => format!("{collection}/{own}"),
    };
    let mut metadata = metadata(database, number)?;
    let Some(Value::String(text)) = metadata.shift_remove(DOCUMENT) else { return Ok((id, None)) };
    let new = NewRecord {
        id: Some(id.clone()),
        kind: Some("document".to_owned()),
        category: Some(collection),
        metadata,
        source: Some("chroma".to_owned()),
        embedding: vector(row)?,
        ..NewRecord::new(text)
    };
    let created_at = created_at.as_deref().and_then(time);
    Ok((id, Some(Foreign { new, created_at, updated_at: None, expires_at: None, role: None })))
}

/// Returns what is known of a document. Lists came to Chroma later, in a table of their own.
fn metadata(database: &Connection, number: i64) -> rusqlite::Result<Map<String, Value>> {
    let mut metadata = Map::new();
    for (key, value) in values(database, "embedding_metadata", number)? {
        metadata.insert(key, value);
    }
    if database.table_exists(None, "embedding_metadata_array")? {
        for (key, value) in values(database, "embedding_metadata_array", number)? {
            let list = metadata.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.push(value);
            }
        }
    }
    Ok(metadata)
}

fn values(database: &Connection, table: &str, number: i64) -> rusqlite::Result<Vec<(String, Value)>> {
    let mut statement = database.prepare_cached(&format!(
        "SELECT key, string_value, int_value, float_value, bool_value FROM {table} WHERE id = ?1 ORDER BY key, rowid"
    ))?;
    statement
        .query_map([number], |row| {
            let value = if let Some(text) = row.get::<_, Option<String>>(1)? {
                Value::String(text)
            } else if let Some(truth) = row.get::<_, Option<bool>>(4)? {
                Value::Bool(truth)
            } else if let Some(whole) = row.get::<_, Option<i64>>(2)? {
                whole.into()
            } else {
                row.get::<_, Option<f64>>(3)?.and_then(Number::from_f64).map_or(Value::Null, Value::Number)
            };
            Ok((row.get(0)?, value))
        })?
        .collect()
}

fn vector(row: &Row<'_>) -> rusqlite::Result<Option<Vec<f32>>> {
    let (bytes, encoding): (Option<Vec<u8>>, Option<String>) = (row.get(5)?, row.get(6)?);
    let (Some(bytes), Some("FLOAT32")) = (bytes, encoding.as_deref()) else { return Ok(None) };
    let (values, rest) = bytes.as_chunks::<4>();
    Ok(rest.is_empty().then(|| values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
}
