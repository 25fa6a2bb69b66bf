//! The files that can be taken over: who wrote one, and what stands in it.

mod chroma;
mod mem0;
mod server_memory;
mod sophia;

use std::{
    fmt::Display,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::{ImportFormat, Item, import::readable};
use crate::{
    Error, ErrorKind, Result,
    memory::{NewRecord, Node, Relation, sqlite::is_damage},
};

const OPERATION: &str = "memory.import";
/// How a SQLite file begins.
const SQLITE: &[u8] = b"SQLite format 3\0";
/// What some editors write before a text.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// Items of a batch.
const BATCH: usize = 256;
/// Longest line, and largest JSON document, that is read.
const MAX_TEXT_BYTES: u64 = 1 << 30;

/// Some of what stands in a file.
pub(super) struct Batch {
    pub found: Found,
    /// How much of the file is read by now, of how much.
    pub done: u64,
    pub total: u64,
}

/// What stands in files.
pub(super) enum Found {
    /// Lines of our own, with their numbers.
    Items(Vec<(usize, Item)>),
    /// Records of other tools.
    Records(Vec<Foreign>),
    /// Entities and relations, with the numbers of their lines.
    Nodes { entities: Vec<(usize, Node)>, relations: Vec<(usize, Relation)> },
    /// What is left out.
    Warning(String),
}

/// A record of another tool.
pub(super) struct Foreign {
    pub new: NewRecord,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub role: Option<String>,
}

/// Whether vectors of other tools are read, where that is work: where there is an embedder, they are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vectors {
    Read,
    LeftOut,
}

/// Takes a batch, and says whether to go on.
type Take<'a> = &'a mut dyn FnMut(Batch) -> bool;

/// Tells who wrote a file.
pub(super) fn detect(path: &Path) -> Result<ImportFormat> {
    readable(path)?;
    let failed = |error| cannot_read(path, error);
    let mut start = Vec::new();
    File::open(path).map_err(failed)?.take(SQLITE.len() as u64).read_to_end(&mut start).map_err(failed)?;
    if start == SQLITE {
        let database = open_database(path)?;
        let known = [
            (ImportFormat::Chroma, ["collections", "embedding_metadata"]),
            (ImportFormat::Langgraph, ["checkpoints", "writes"]),
            (ImportFormat::Mem0, ["history", "history"]),
        ];
        for (format, [one, other]) in known {
            let has = |table: &str| database.table_exists(None, table).map_err(refused(path));
            if has(one)? && has(other)? {
                return Ok(format);
            }
        }
        return Err(unknown(path, "it is a SQLite database without the tables of Chroma, LangGraph or mem0"));
    }
    let mut format = None;
    for_each_line(path, |_, line, _| {
        let first: Option<Value> = serde_json::from_str(line).ok();
        format = Some(match first.as_ref().and_then(|first| first["type"].as_str()) {
            Some("sophia") => ImportFormat::Sophia,
            Some("entity" | "relation") => ImportFormat::ServerMemory,
            _ if line.trim_start().starts_with(['{', '[']) => ImportFormat::Mem0,
            _ => return Err(unknown(path, "it is neither JSON nor SQLite")),
        });
        Ok(false)
    })?;
    format.ok_or_else(|| unknown(path, "it is empty"))
}

/// Reads a file, batch by batch.
pub(super) fn read(format: ImportFormat, path: &Path, vectors: Vectors, take: Take<'_>) -> Result<()> {
    match format {
        ImportFormat::Sophia => sophia::read(path, take),
        ImportFormat::Mem0 => mem0::read(path, take),
        ImportFormat::ServerMemory => server_memory::read(path, take),
        ImportFormat::Chroma => chroma::read(path, vectors, take),
        // Its items are no batches: the caller sees to it.
        ImportFormat::Langgraph => Ok(()),
    }
}

/// Gives the lines of a file with their numbers, and how many bytes are read.
fn for_each_line(path: &Path, mut take: impl FnMut(usize, &str, u64) -> Result<bool>) -> Result<u64> {
    let failed = |error| cannot_read(path, error);
    let file = File::open(path).map_err(failed)?;
    let total = file.metadata().map_err(failed)?.len();
    let mut reader = BufReader::new(file);
    let (mut line, mut number, mut done) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        let read = reader.by_ref().take(MAX_TEXT_BYTES).read_until(b'\n', &mut line).map_err(failed)? as u64;
        number += 1;
        done += read;
        if read == 0 {
            return Ok(total);
        }
        let text = std::str::from_utf8(&line).map_err(|error| wrong_line(path, number, &error))?;
        let text = text.trim_start_matches(BYTE_ORDER_MARK);
        if !text.trim().is_empty() && !take(number, text, done)? {
            return Ok(total);
        }
    }
}

/// Returns a text without what some editors write before it.
pub(in crate::memory) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// Opens a database of another tool, for reading only.
fn open_database(path: &Path) -> Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(refused(path))
}

/// Turns what SQLite says of a file of another tool into an error.
fn refused(path: &Path) -> impl Fn(rusqlite::Error) -> Error {
    move |error| {
        if !is_damage(&error) {
            return unknown(path, &error.to_string());
        }
        Error::invalid(OPERATION, "path", format!("names `{}`, which is damaged: {error}", path.display()))
    }
}

/// Reads a time as tools write it: with an offset, or without one in UTC.
fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let local: DateTime = text.parse().ok()?;
        Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })
}

pub(super) fn cannot_read(path: &Path, error: std::io::Error) -> Error {
    let message = format!("`{}` cannot be read: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, OPERATION, message).with("field", "path"),
        _ => Error::invalid(OPERATION, "path", message),
    }
}

fn unknown(path: &Path, why: &str) -> Error {
    let message = format!(
        "names `{}`, which is none of the files that are known (of Sophia, mem0, server-memory, LangGraph, Chroma): {why}",
        path.display()
    );
    Error::invalid(OPERATION, "path", message)
}

fn wrong_line(path: &Path, number: usize, error: &dyn Display) -> Error {
    let message = format!("line {number} of `{}` cannot be read: {error}", path.display());
    Error::new(ErrorKind::InvalidInput, OPERATION, message).with("field", "path").with("line", number)
}
