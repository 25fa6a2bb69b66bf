//! The values of checkpoints: each kept once in its thread, compressed, lists as runs of items.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, types::ValueRef};

use super::internal;
use crate::{
    Result,
    memory::checkpoint::{
        Encoded,
        packed::{self, List, Packer, Unpacker},
        pieces,
    },
};

/// Writes values of one thread.
pub(super) struct ValueWriter<'a> {
    connection: &'a Connection,
    thread: i64,
    packer: Packer,
}

impl<'a> ValueWriter<'a> {
    pub(super) fn new(connection: &'a Connection, thread: i64) -> Result<ValueWriter<'a>> {
        Ok(ValueWriter { connection, thread, packer: Packer::new()? })
    }

    /// Keeps a value and returns its number.
    pub(super) fn keep(&mut self, value: &Encoded) -> Result<i64> {
        let Some(cut) = pieces::cut(&value.encoding, &value.data) else { return self.keep_bytes(&value.data) };
        let runs = cut.runs.iter().map(|run| self.keep_bytes(run)).collect::<Result<Vec<_>>>()?;
        let data = List { format: cut.format, count: cut.count, runs }.write();
        let hash = packed::hash_of_list(&data);
        match self.find(&hash)? {
            Some(value) => Ok(value),
            None => self.insert(&hash, &data),
        }
    }

    /// Packs what is kept beside the values.
    pub(super) fn pack(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.packer.pack(bytes)
    }

    fn keep_bytes(&mut self, bytes: &[u8]) -> Result<i64> {
        let hash = packed::hash_of_bytes(bytes);
        match self.find(&hash)? {
            Some(value) => Ok(value),
            None => {
                let data = self.packer.pack(bytes)?;
                self.insert(&hash, &data)
            }
        }
    }

    fn find(&self, hash: &blake3::Hash) -> Result<Option<i64>> {
        self.connection
            .prepare_cached("SELECT value FROM checkpoint_values WHERE thread = ?1 AND hash = ?2")
            .and_then(|mut statement| {
                statement.query_row((self.thread, &hash.as_bytes()[..]), |row| row.get(0)).optional()
            })
            .map_err(internal("memory.checkpoints.put"))
    }

    fn insert(&self, hash: &blake3::Hash, data: &[u8]) -> Result<i64> {
        self.connection
            .prepare_cached(
                "INSERT INTO checkpoint_values (thread, value, hash, data) \
                 VALUES (?1, (SELECT ifnull(max(value), 0) + 1 FROM checkpoint_values WHERE thread = ?1), ?2, ?3) \
                 RETURNING value",
            )
            .and_then(|mut statement| statement.query_row((self.thread, &hash.as_bytes()[..], data), |row| row.get(0)))
            .map_err(internal("memory.checkpoints.put"))
    }
}

/// Reads values of threads. Each run is read once, however many lists have it.
pub(super) struct ValueReader<'a> {
    connection: &'a Connection,
    unpacker: Unpacker,
    runs: HashMap<(i64, i64), Vec<u8>>,
}

impl<'a> ValueReader<'a> {
    pub(super) fn new(connection: &'a Connection) -> Result<ValueReader<'a>> {
        Ok(ValueReader { connection, unpacker: Unpacker::new()?, runs: HashMap::new() })
    }

    /// Returns a value by its number.
    pub(super) fn read(&mut self, thread: i64, value: i64) -> Result<Vec<u8>> {
        let data = self.data(thread, value)?;
        let Some(list) = List::read(&data) else { return self.unpacker.unpack(&data) };
        for run in &list.runs {
            if !self.runs.contains_key(&(thread, *run)) {
                let data = self.data(thread, *run)?;
                let bytes = self.unpacker.unpack(&data)?;
                self.runs.insert((thread, *run), bytes);
            }
        }
        let runs = list.runs.iter().filter_map(|run| self.runs.get(&(thread, *run)));
        Ok(list.format.join(list.count, runs.map(Vec::as_slice)))
    }

    /// Returns what [`ValueWriter::pack`] packed.
    pub(super) fn unpack(&mut self, data: &[u8]) -> Result<Vec<u8>> {
        self.unpacker.unpack(data)
    }

    fn data(&self, thread: i64, value: i64) -> Result<Vec<u8>> {
        self.connection
            .prepare_cached("SELECT data FROM checkpoint_values WHERE thread = ?1 AND value = ?2")
            .and_then(|mut statement| statement.query_row((thread, value), |row| row.get(0)))
            .map_err(internal("memory.checkpoints.get"))
    }
}

/// Removes the values of a thread that neither `roots` nor their lists name.
pub(super) fn sweep(connection: &Connection, thread: i64, roots: HashSet<i64>) -> Result<()> {
    let failed = internal("memory.checkpoints.delete");
    let mut live = roots;
    let mut all = Vec::new();
    {
        let mut statement = connection
            .prepare_cached(
                "SELECT value, CASE substr(data, 1, 1) WHEN x'02' THEN data END FROM checkpoint_values WHERE thread = ?1",
            )
            .map_err(&failed)?;
        let mut rows = statement.query([thread]).map_err(&failed)?;
        let mut runs = Vec::new();
        while let Some(row) = rows.next().map_err(&failed)? {
            let value: i64 = row.get(0).map_err(&failed)?;
            all.push(value);
            if live.contains(&value)
                && let ValueRef::Blob(data) = row.get_ref(1).map_err(&failed)?
                && let Some(list) = List::read(data)
            {
                runs.extend(list.runs);
            }
        }
        live.extend(runs);
    }
    let mut delete =
        connection.prepare_cached("DELETE FROM checkpoint_values WHERE thread = ?1 AND value = ?2").map_err(&failed)?;
    for value in all.into_iter().filter(|value| !live.contains(value)) {
        delete.execute((thread, value)).map_err(&failed)?;
    }
    Ok(())
}
