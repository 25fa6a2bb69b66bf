//! Reading the file of LangGraph's own SQLite saver, of Python (MessagePack) or JavaScript (JSON).

use std::{collections::BTreeMap, error::Error as StdError, path::Path};

use rusqlite::{Connection, OpenFlags, Row};
use serde_json::{Map, Value, value::RawValue};

use super::is_damage;
use crate::{
    Error, Result, Scope,
    memory::checkpoint::{Encoded, NewCheckpoint, NewWrite, NewWrites, pieces::message_pack_end},
};

const OPERATION: &str = "memory.checkpoints.import_langgraph";
/// The part of a checkpoint that is kept apart from its body.
const VALUES: &str = "channel_values";

/// One thing to keep.
pub(crate) enum Imported {
    Checkpoint(Box<NewCheckpoint>),
    /// All of one task.
    Writes(Box<NewWrites>),
    /// What is not as it was there, or left out.
    Warning(String),
}

/// Why one row cannot be read. It says nothing of the others.
type Unreadable = Box<dyn StdError>;

/// Gives every checkpoint, parents first, and what every task of the file wrote to `keep`, which says whether to go on.
pub(crate) fn read(path: &Path, scope: &Scope, keep: &mut dyn FnMut(Imported) -> bool) -> Result<()> {
    let failed = |error: rusqlite::Error| {
        if is_damage(&error) {
            let message = format!("names `{}`, which is damaged: {error}", path.display());
            return Error::invalid(OPERATION, "path", message);
        }
        not_readable(path, &error.to_string())
    };
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    for table in ["checkpoints", "writes"] {
        if !connection.table_exists(None, table).map_err(failed)? {
            return Err(not_readable(path, &format!("it has no table `{table}`")));
        }
    }
    let mut statement = connection
        .prepare(
            "SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata \
             FROM checkpoints ORDER BY thread_id, checkpoint_ns, checkpoint_id",
        )
        .map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut without_numbers = 0;
    while let Some(row) = rows.next().map_err(failed)? {
        let item = match checkpoint(row, scope) {
            Ok((checkpoint, metadata)) => {
                without_numbers += u64::from(metadata == Metadata::WithoutNumbers);
                Imported::Checkpoint(Box::new(checkpoint))
            }
            Err(why) => {
                let (id, thread) = (shown(row, 2), shown(row, 0));
                Imported::Warning(format!("the checkpoint `{id}` of `{thread}` is left out: {why}"))
            }
        };
        if !keep(item) {
            return Ok(());
        }
    }
    if without_numbers > 0 {
        let warning = format!("what is no number in the metadata of {without_numbers} checkpoints (NaN) is null here");
        keep(Imported::Warning(warning));
    }
    let path_column =
        if connection.column_exists(None, "writes", "task_path").map_err(failed)? { "task_path" } else { "''" };
    let mut statement = connection
        .prepare(&format!(
            "SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, {path_column}, channel, idx, type, value \
             FROM writes ORDER BY thread_id, checkpoint_ns, checkpoint_id, task_id, idx"
        ))
        .map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut of_task: Option<NewWrites> = None;
    while let Some(row) = rows.next().map_err(failed)? {
        let whole = match write(row, scope) {
            Ok(mut next) => match &mut of_task {
                Some(task) if is_of_same_task(task, &next) => {
                    task.writes.append(&mut next.writes);
                    None
                }
                _ => of_task.replace(next).map(|task| Imported::Writes(Box::new(task))),
            },
            Err(why) => {
                let (task, thread) = (shown(row, 3), shown(row, 0));
                Some(Imported::Warning(format!("a write of `{task}` of `{thread}` is left out: {why}")))
            }
        };
        if whole.is_some_and(|item| !keep(item)) {
            return Ok(());
        }
    }
    of_task.map(|task| keep(Imported::Writes(Box::new(task))));
    Ok(())
}

fn is_of_same_task(one: &NewWrites, other: &NewWrites) -> bool {
    let name = |of: &NewWrites| (of.thread.clone(), of.namespace.clone(), of.id.clone(), of.task.clone());
    name(one) == name(other)
}

/// How the metadata of a checkpoint was read.
#[derive(PartialEq)]
enum Metadata {
    Whole,
    /// Python writes what is no number as no JSON has it.
    WithoutNumbers,
}

fn checkpoint(row: &Row<'_>, scope: &Scope) -> std::result::Result<(NewCheckpoint, Metadata), Unreadable> {
    let text = |column| row.get::<_, Option<String>>(column).map(Option::unwrap_or_default);
    let (thread, id) = (text(0)?, text(2)?);
    // The first files had JSON only, and no column that says so.
    let encoding = match text(4)? {
        encoding if encoding.is_empty() => "json".to_owned(),
        encoding => encoding,
    };
    let stored = bytes(row, 5)?;
    let parts = match encoding.as_str() {
        "msgpack" => Parts::of_message_pack(&stored),
        "json" => Parts::of_json(&stored),
        other => {
            let fix = "put what its own saver lists into a `SophiaSaver` with the same serializer";
            return Err(format!("its type is `{other}`, and only msgpack and json are read; {fix}").into());
        }
    };
    let parts = parts.ok_or_else(|| format!("it is damaged: not {encoding}"))?;
    let stored = bytes(row, 6)?;
    let (metadata, how): (Map<String, Value>, _) = match serde_json::from_slice(&stored) {
        _ if stored.is_empty() => (Map::new(), Metadata::Whole),
        Ok(metadata) => (metadata, Metadata::Whole),
        Err(error) => {
            let metadata = serde_json::from_slice(&with_nulls(&stored));
            (metadata.map_err(|_| format!("its metadata is damaged: {error}"))?, Metadata::WithoutNumbers)
        }
    };
    let channels: BTreeMap<_, _> =
        parts.channels.into_iter().map(|(name, value)| (name, Encoded::new(encoding.clone(), value))).collect();
    let counters = metadata.get("counters_since_delta_snapshot").and_then(Value::as_object);
    let new = NewCheckpoint {
        scope: scope.clone(),
        namespace: text(1)?,
        parent: row.get(3)?,
        run_id: metadata.get("run_id").and_then(Value::as_str).map(str::to_owned),
        deltas: counters
            .into_iter()
            .flat_map(Map::keys)
            .filter(|name| !channels.contains_key(*name))
            .cloned()
            .collect(),
        versions: parts.versions,
        channels,
        metadata,
        ..NewCheckpoint::new(thread, id, Encoded::new(encoding, parts.body))
    };
    Ok((new, how))
}

/// Returns JSON of Python with null in the place of what is no number there: NaN, Infinity and -Infinity.
fn with_nulls(json: &[u8]) -> Vec<u8> {
    const NO_NUMBERS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    let (mut written, mut rest, mut in_text) = (Vec::with_capacity(json.len()), json, false);
    while let Some(first) = rest.first() {
        let found = NO_NUMBERS.iter().find(|word| !in_text && rest.starts_with(word));
        let length = match (found, first) {
            (Some(word), _) => {
                written.extend_from_slice(b"null");
                rest = &rest[word.len()..];
                continue;
            }
            (None, b'\\') if in_text => rest.len().min(2),
            _ => 1,
        };
        in_text ^= *first == b'"';
        written.extend_from_slice(&rest[..length]);
        rest = &rest[length..];
    }
    written
}

fn write(row: &Row<'_>, scope: &Scope) -> rusqlite::Result<NewWrites> {
    let text = |column| row.get::<_, Option<String>>(column).map(Option::unwrap_or_default);
    let encoding = match text(7)? {
        encoding if encoding.is_empty() => "null".to_owned(),
        encoding => encoding,
    };
    let write = NewWrite { channel: text(5)?, index: row.get(6)?, value: Encoded::new(encoding, bytes(row, 8)?) };
    Ok(NewWrites {
        scope: scope.clone(),
        namespace: text(1)?,
        path: text(4)?,
        writes: vec![write],
        ..NewWrites::new(text(0)?, text(2)?, text(3)?)
    })
}

/// Returns what a row is called, as far as that can be read.
fn shown(row: &Row<'_>, column: usize) -> String {
    bytes(row, column).map_or_else(|_| String::new(), |name| String::from_utf8_lossy(&name).into_owned())
}

/// Reads a column that is bytes in one version of the file and text in another.
fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    use rusqlite::types::ValueRef;
    Ok(match row.get_ref(column)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes.to_vec(),
        _ => Vec::new(),
    })
}

/// A checkpoint, with the values of its channels apart.
struct Parts {
    body: Vec<u8>,
    channels: BTreeMap<String, Vec<u8>>,
    versions: BTreeMap<String, String>,
}

impl Parts {
    fn of_json(stored: &[u8]) -> Option<Parts> {
        let mut body: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(stored).ok()?;
        let values = body.remove(VALUES);
        let values: BTreeMap<String, Box<RawValue>> = match &values {
            Some(values) => serde_json::from_str(values.get()).ok()?,
            None => BTreeMap::new(),
        };
        let versions: BTreeMap<String, Value> = match body.get("channel_versions") {
            Some(versions) => serde_json::from_str(versions.get()).ok()?,
            None => BTreeMap::new(),
        };
        let version = |version: Value| match version {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Some(Parts {
            body: serde_json::to_vec(&body).ok()?,
            channels: values.into_iter().map(|(name, value)| (name, value.get().as_bytes().to_vec())).collect(),
            versions: versions.into_iter().map(|(name, value)| (name, version(value))).collect(),
        })
    }

    fn of_message_pack(stored: &[u8]) -> Option<Parts> {
        let entries = message_pack_map(stored)?;
        let part = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, value)| message_pack_map(value));
        let values = part(VALUES).unwrap_or_else(|| Some(Vec::new()))?;
        let versions = part("channel_versions").unwrap_or_else(|| Some(Vec::new()))?;
        let kept: Vec<_> = entries.iter().filter(|(key, _)| key != VALUES).collect();
        // A map of at most fifteen entries has a header of one byte.
        let mut body = vec![0x80 | u8::try_from(kept.len()).ok().filter(|count| *count < 16)?];
        for (key, value) in kept {
            body.push(0xd9);
            body.push(u8::try_from(key.len()).ok()?);
            body.extend_from_slice(key.as_bytes());
            body.extend_from_slice(value);
        }
        Some(Parts {
            body,
            channels: values.into_iter().map(|(name, value)| (name, value.to_vec())).collect(),
            versions: versions
                .into_iter()
                .map(|(name, value)| Some((name, message_pack_version(value)?)))
                .collect::<Option<_>>()?,
        })
    }
}

/// Returns the entries of a MessagePack map that is all of `data`; its keys are text.
fn message_pack_map(data: &[u8]) -> Option<Vec<(String, &[u8])>> {
    let (count, mut at) = match *data.first()? {
        tag @ 0x80..=0x8f => (usize::from(tag & 0x0f), 1),
        0xde => (usize::from(u16::from_be_bytes(data.get(1..3)?.try_into().ok()?)), 3),
        _ => return None,
    };
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let value = message_pack_end(data, at)?;
        let end = message_pack_end(data, value)?;
        entries.push((message_pack_text(data.get(at..value)?)?, data.get(value..end)?));
        at = end;
    }
    (at == data.len()).then_some(entries)
}

fn message_pack_text(value: &[u8]) -> Option<String> {
    let head = match *value.first()? {
        0xa0..=0xbf => 1,
        0xd9 => 2,
        0xda => 3,
        _ => return None,
    };
    String::from_utf8(value.get(head..)?.to_vec()).ok()
}

/// Returns a version as its saver would write it as text: text, or a number.
fn message_pack_version(value: &[u8]) -> Option<String> {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    match *value.first()? {
        small @ 0x00..=0x7f => Some(small.to_string()),
        0xcc..=0xcf => Some(number(&value[1..]).to_string()),
        0xcb => Some(Value::from(f64::from_be_bytes(value.get(1..9)?.try_into().ok()?)).to_string()),
        _ => message_pack_text(value),
    }
}

fn not_readable(path: &Path, why: &str) -> Error {
    Error::invalid(
        OPERATION,
        "path",
        format!("names `{}`, which is no file of LangGraph's SQLite saver: {why}", path.display()),
    )
}
