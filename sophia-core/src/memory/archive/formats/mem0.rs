//! What mem0 keeps: the answer of `get_all` as JSON, the points of its Qdrant collection as JSON, or its `history.db`.

use std::{fs, path::Path};

use rusqlite::{Connection, Row};
use serde_json::{Map, Value};

use super::{
    BATCH, Batch, Foreign, Found, SQLITE, Take, cannot_read, open_database, refused, time, unknown, without_mark,
};
use crate::{Error, Result, Scope, memory::NewRecord};

/// Fields of a memory, and of the payload of a point, that are no metadata.
const OWN: &[&str] = &[
    "id",
    "memory",
    "data",
    "text",
    "hash",
    "score",
    "metadata",
    "created_at",
    "updated_at",
    "user_id",
    "agent_id",
    "run_id",
    "role",
    "categories",
    "expiration_date",
    "text_lemmatized",
];

pub(super) fn read(path: &Path, take: Take<'_>) -> Result<()> {
    let bytes = fs::read(path).map_err(|error| cannot_read(path, error))?;
    if bytes.starts_with(SQLITE) {
        return read_history(path, take);
    }
    let document: Value = serde_json::from_slice(without_mark(&bytes)).map_err(|error| {
        Error::invalid(super::OPERATION, "path", format!("`{}` is not JSON: {error}", path.display()))
    })?;
    let list =
        [&document, &document["results"], &document["memories"], &document["result"]["points"], &document["points"]]
            .into_iter()
            .find_map(Value::as_array)
            .ok_or_else(|| unknown(path, "it holds no list of memories (`results`) or points"))?;
    let total = list.len() as u64;
    for (at, chunk) in list.chunks(BATCH).enumerate() {
        let mut records = Vec::new();
        for memory in chunk {
            match memory_of(memory) {
                Some(record) => records.push(record),
                None => {
                    let id = memory["id"].as_str().unwrap_or("one");
                    let found = Found::Warning(format!("`{id}` is left out: it has no text"));
                    take(Batch { found, done: (at * BATCH) as u64, total });
                }
            }
        }
        let done = (at * BATCH + chunk.len()) as u64;
        if !take(Batch { found: Found::Records(records), done, total }) {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads a memory, or a point whose payload is one.
fn memory_of(value: &Value) -> Option<Foreign> {
    let memory = if value["payload"].is_object() { &value["payload"] } else { value };
    let text = |field: &str| memory[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let fields = memory.as_object()?;
    let mut metadata: Map<String, Value> =
        fields.iter().filter(|(name, value)| !OWN.contains(&name.as_str()) && !value.is_null()).map(own).collect();
    metadata.extend(memory["metadata"].as_object().cloned().unwrap_or_default());
    let id = match &value["id"] {
        Value::String(id) => id.clone(),
        Value::Number(id) => id.to_string(),
        _ => return None,
    };
    let categories = memory["categories"].as_array().into_iter().flatten();
    let new = NewRecord {
        id: Some(id),
        kind: Some("memory".to_owned()),
        tags: categories.filter_map(Value::as_str).map(str::to_owned).collect(),
        metadata,
        source: Some("mem0".to_owned()),
        scope: Scope { tenant: None, user: text("user_id"), session: text("run_id"), agent: text("agent_id") },
        embedding: serde_json::from_value(value["vector"].clone()).ok(),
        ..NewRecord::new(text("memory").or_else(|| text("data")).or_else(|| text("text"))?)
    };
    let at = |field: &str| memory[field].as_str().and_then(time);
    Some(Foreign {
        new,
        created_at: at("created_at"),
        updated_at: at("updated_at"),
        expires_at: at("expiration_date"),
        role: text("role"),
    })
}

fn own((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

/// Reads the last state of each memory of the history. It does not say whose they are.
fn read_history(path: &Path, take: Take<'_>) -> Result<()> {
    let failed = refused(path);
    let database = open_database(path)?;
    let total = count(&database).map_err(&failed)?;
    let mut statement = database
        .prepare(
            "SELECT h.memory_id, h.new_memory, coalesce(h.updated_at, h.created_at), m.began, h.role \
             FROM (SELECT min(coalesce(created_at, updated_at)) AS began, max(rowid) AS last FROM history \
             WHERE memory_id IS NOT NULL GROUP BY memory_id) AS m JOIN history AS h ON h.rowid = m.last \
             WHERE h.new_memory IS NOT NULL AND h.event <> 'DELETE' AND coalesce(h.is_deleted, 0) = 0 ORDER BY h.rowid",
        )
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let (mut records, mut done) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(&failed)? {
        records.push(event(row).map_err(&failed)?);
        if records.len() == BATCH {
            done += BATCH as u64;
            if !take(Batch { found: Found::Records(std::mem::take(&mut records)), done, total }) {
                return Ok(());
            }
        }
    }
    take(Batch { found: Found::Records(records), done: total, total });
    Ok(())
}

fn count(database: &Connection) -> rusqlite::Result<u64> {
    database
        .query_row("SELECT count(DISTINCT memory_id) FROM history", [], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

fn event(row: &Row<'_>) -> rusqlite::Result<Foreign> {
    let at = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<String>>(column)?.as_deref().and_then(time));
    Ok(Foreign {
        new: NewRecord {
            id: Some(row.get(0)?),
            kind: Some("memory".to_owned()),
            source: Some("mem0".to_owned()),
            ..NewRecord::new(row.get::<_, String>(1)?)
        },
        updated_at: at(2)?,
        created_at: at(3)?,
        expires_at: None,
        role: row.get::<_, Option<String>>(4)?.filter(|role| !role.is_empty()),
    })
}
