//! The values of checkpoints: each kept once in its thread, compressed, lists as runs of items.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use moka::sync::Cache;
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

/// Memory for lists that were written or read lately, in bytes, and how long one stays that nobody asks for.
const LIST_BYTES: u64 = 16 * 1024 * 1024;
const LIST_IDLE: Duration = Duration::from_secs(600);

/// Lists of this process, whole: a workflow asks at each step for what the step before has kept, and it grows.
///
/// A list is known by its thread and the hash of its items, so whatever is found is the right one.
#[derive(Debug)]
pub(super) struct Lists(Cache<(i64, [u8; blake3::OUT_LEN]), Bytes>);

impl Lists {
    pub(super) fn new() -> Lists {
        let weigh = |_: &_, list: &Bytes| u32::try_from(list.len()).unwrap_or(u32::MAX);
        Lists(Cache::builder().weigher(weigh).max_capacity(LIST_BYTES).time_to_idle(LIST_IDLE).build())
    }

    pub(super) fn clear(&self) {
        self.0.invalidate_all();
    }
}

/// Writes values of one thread.
pub(super) struct ValueWriter<'a> {
    connection: &'a Connection,
    thread: i64,
    packer: Packer,
    lists: Option<&'a Lists>,
}

impl<'a> ValueWriter<'a> {
    pub(super) fn new(connection: &'a Connection, thread: i64, lists: Option<&'a Lists>) -> Result<ValueWriter<'a>> {
        Ok(ValueWriter { connection, thread, packer: Packer::new()?, lists })
    }

    /// Keeps a value and returns its number.
    pub(super) fn keep(&mut self, value: &Encoded) -> Result<i64> {
        let Some(cut) = pieces::cut(&value.encoding, &value.data) else {
            return self.keep_bytes(&value.data, &packed::hash_of_bytes(&value.data));
        };
        let hashes: Vec<_> = cut.runs.iter().map(|run| packed::hash_of_bytes(run)).collect();
        let hash = packed::hash_of_list(cut.format, cut.count, hashes.iter().copied());
        if let Some(lists) = self.lists {
            lists.0.insert((self.thread, *hash.as_bytes()), Bytes::copy_from_slice(&value.data));
        }
        if let Some(value) = self.find(&hash)? {
            return Ok(value);
        }
        let runs = cut.runs.iter().zip(&hashes).map(|(run, hash)| self.keep_bytes(run, hash));
        let runs = runs.collect::<Result<Vec<_>>>()?;
        self.insert(&hash, &List { format: cut.format, count: cut.count, runs }.write())
    }

    /// Packs what is kept beside the values.
    pub(super) fn pack(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.packer.pack(bytes)
    }

    fn keep_bytes(&mut self, bytes: &[u8], hash: &blake3::Hash) -> Result<i64> {
        match self.find(hash)? {
            Some(value) => Ok(value),
            None => {
                let data = self.packer.pack(bytes)?;
                self.insert(hash, &data)
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
    lists: Option<&'a Lists>,
}

impl<'a> ValueReader<'a> {
    /// `lists` for who reads the state of a workflow; without them, for who goes through many of them.
    pub(super) fn new(connection: &'a Connection, lists: Option<&'a Lists>) -> Result<ValueReader<'a>> {
        Ok(ValueReader { connection, unpacker: Unpacker::new()?, runs: HashMap::new(), lists })
    }

    /// Returns a value by its number.
    pub(super) fn read(&mut self, thread: i64, value: i64) -> Result<Vec<u8>> {
        let (hash, data) = self.data(thread, value)?;
        let Some(list) = List::read(&data) else { return self.unpacker.unpack(&data) };
        if let Some(known) = self.lists.and_then(|lists| lists.0.get(&(thread, hash))) {
            return Ok(known.to_vec());
        }
        for run in &list.runs {
            if !self.runs.contains_key(&(thread, *run)) {
                let (_, data) = self.data(thread, *run)?;
                let bytes = self.unpacker.unpack(&data)?;
                self.runs.insert((thread, *run), bytes);
            }
        }
        let runs = list.runs.iter().filter_map(|run| self.runs.get(&(thread, *run)));
        let joined = list.format.join(list.count, runs.map(Vec::as_slice));
        if let Some(lists) = self.lists {
            lists.0.insert((thread, hash), Bytes::copy_from_slice(&joined));
        }
        Ok(joined)
    }

    /// Returns what [`ValueWriter::pack`] packed.
    pub(super) fn unpack(&mut self, data: &[u8]) -> Result<Vec<u8>> {
        self.unpacker.unpack(data)
    }

    fn data(&self, thread: i64, value: i64) -> Result<([u8; blake3::OUT_LEN], Vec<u8>)> {
        self.connection
            .prepare_cached("SELECT hash, data FROM checkpoint_values WHERE thread = ?1 AND value = ?2")
            .and_then(|mut statement| statement.query_row((thread, value), |row| Ok((row.get(0)?, row.get(1)?))))
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
