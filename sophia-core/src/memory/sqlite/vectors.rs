//! Vectors in the data file, and the blocks of them, with what else a search needs, that this process holds.
//!
//! A block is read with the first search of its wall. After that, each search first takes in what the change log says
//! was written since, by this process or another one.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use moka::sync::Cache;
use parking_lot::{Mutex, RwLock};
use rusqlite::{Connection, OptionalExtension, Row as SqlRow};

use super::{
    block_files::{self, BlockFiles},
    internal,
    postings::{self, KnownWords},
    write,
};
use crate::{
    Result,
    memory::{
        half,
        lexicon::Lexicon,
        segment::{Row, Segment, session_key},
    },
};

/// More changes than this are not looked up one by one: the block is read anew.
const MANY_CHANGES: usize = 10_000;

/// The blocks of this process, of walls that were searched lately.
#[derive(Debug)]
pub(super) struct Blocks {
    blocks: Cache<Key, Shared>,
    files: Option<BlockFiles>,
    /// Blocks that are worth a new file.
    due: Mutex<BTreeSet<Key>>,
    /// Large blocks of which no words are known.
    new: Mutex<BTreeSet<Key>>,
    /// The last change that any search has seen.
    seen: AtomicI64,
}

/// Which block: the wall, and the model of its vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub wall: i64,
    pub model: i64,
}

pub(super) type Shared = Arc<RwLock<Block>>;

/// What searches need of one wall.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub segment: Segment,
    /// Words of messages that were read lately.
    pub lexicon: Mutex<Lexicon>,
    pub words: KnownWords,
    /// Last change that it holds; -1 before it was read.
    change: i64,
    /// Rows that were read or changed since there was a file of it.
    unsaved: usize,
}

impl Blocks {
    pub(super) fn new(max_bytes: u64, files: Option<BlockFiles>) -> Blocks {
        let weigh = |_: &Key, block: &Shared| u32::try_from(block.read().segment.bytes()).unwrap_or(u32::MAX).max(1024);
        Blocks {
            blocks: Cache::builder().weigher(weigh).max_capacity(max_bytes).build(),
            files,
            due: Mutex::default(),
            new: Mutex::default(),
            seen: AtomicI64::new(0),
        }
    }

    pub(super) fn clear(&self) {
        self.blocks.invalidate_all();
    }

    /// Returns the block of a wall, as of the snapshot that `connection` sees or later.
    pub(super) fn current(&self, connection: &Connection, key: Key, dimensions: usize) -> Result<Shared> {
        let block = self.blocks.get_with(key, || {
            Arc::new(RwLock::new(Block { segment: Segment::new(dimensions), change: -1, ..Block::default() }))
        });
        if !block.read().is_current(connection, key.wall)? {
            let before = block.read().segment.bytes();
            let mut catching_up = block.write();
            let is_new = catching_up.change < 0;
            catching_up.catch_up(connection, key, self.files.as_ref())?;
            self.seen.fetch_max(catching_up.change, Ordering::Relaxed);
            if is_new && catching_up.segment.len() >= block_files::MIN_ROWS {
                self.new.lock().insert(key);
            }
            drop(catching_up);
            if self.files.is_some() && block.read().is_worth_a_file() {
                self.due.lock().insert(key);
            }
            if block.read().segment.bytes() != before {
                // Weighs it again.
                self.blocks.insert(key, block.clone());
            }
        }
        Ok(block)
    }

    /// Returns the last change that any search has seen.
    pub(super) fn seen(&self) -> i64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Returns a block that is worth a new file, if there is one.
    pub(super) fn unsaved(&self) -> Option<Key> {
        self.due.lock().pop_first()
    }

    /// Returns a large block of which no words are known, if there is one.
    pub(super) fn unread(&self) -> Option<Key> {
        self.new.lock().pop_first()
    }

    /// Reads where the most frequent words of a block stand.
    pub(super) fn read_ahead(&self, connection: &Connection, key: Key) -> Result<()> {
        self.blocks.get(&key).map_or(Ok(()), |block| postings::read_ahead(connection, key.wall, &block))
    }

    /// Writes a block to its file. What fails is tried again after the next changes.
    pub(super) fn save(&self, key: Key) {
        let (Some(files), Some(block)) = (&self.files, self.blocks.get(&key)) else { return };
        if !block.write().start_saving() {
            return;
        }
        let block = block.read();
        match files.save(&block.segment, key, block.change) {
            Ok(named) => tracing::debug!(wall = key.wall, named, "a block was written"),
            Err(error) => tracing::warn!(%error, "a block of vectors cannot be written; it will be made anew"),
        }
    }
}

impl Block {
    /// Returns whether it holds all changes of its wall, and is not so far behind those of others that the log may have let go of
    /// some of its own meanwhile.
    fn is_current(&self, connection: &Connection, wall: i64) -> Result<bool> {
        let own_and_all =
            |row: &SqlRow<'_>| -> rusqlite::Result<(Option<i64>, Option<i64>)> { Ok((row.get(0)?, row.get(1)?)) };
        connection
            .prepare_cached(
                "SELECT (SELECT max(change) FROM changes WHERE wall = ?1), (SELECT max(change) FROM changes)",
            )
            .and_then(|mut statement| statement.query_row([wall], own_and_all))
            .map(|(own, all)| {
                self.change >= own.unwrap_or(0) && self.change > all.unwrap_or(0) - write::KEPT_CHANGES / 2
            })
            .map_err(internal("memory.search"))
    }

    pub(super) fn last_change(&self) -> i64 {
        self.change
    }

    fn is_worth_a_file(&self) -> bool {
        let rows = self.segment.len();
        rows >= block_files::MIN_ROWS && self.unsaved > block_files::MIN_ROWS.min(rows - 1).max(rows / 10)
    }

    /// Returns whether a file is to be written: to one of those that ask at the same time.
    fn start_saving(&mut self) -> bool {
        let is_due = self.is_worth_a_file();
        if is_due {
            self.unsaved = 0;
        }
        is_due
    }

    fn catch_up(&mut self, connection: &Connection, key: Key, files: Option<&BlockFiles>) -> Result<()> {
        let failed = internal("memory.search");
        let (first, last): (i64, i64) = connection
            .prepare_cached("SELECT coalesce(min(change), 0), coalesce(max(change), 0) FROM changes")
            .and_then(|mut statement| statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))))
            .map_err(&failed)?;
        if self.change >= last {
            return Ok(());
        }
        if self.change < 0
            && let Some(files) = files
            && let Some((segment, change)) = files.load(connection, key, self.segment.dimensions())?
        {
            (self.segment, self.change) = (segment, change);
            if change > last {
                // Of a later state of the data than this snapshot: not to be taken back.
                return Ok(());
            }
        }
        // A block that is new, or further behind than the log goes, cannot be caught up.
        let changed = if self.change < first - 1 { None } else { Some(changed(connection, key.wall, self.change)?) };
        match changed.filter(|changed| changed.len() <= MANY_CHANGES) {
            None => self.read_all(connection, key)?,
            Some(changed) => {
                self.unsaved += changed.len();
                let mut statement = connection
                    .prepare_cached(&format!("{SELECT} WHERE r.seq = ?2 AND r.wall = ?3"))
                    .map_err(&failed)?;
                for seq in changed {
                    // Places hold as long as all that comes is behind them.
                    if self.segment.places().checked_sub(1).is_some_and(|last| self.segment.row(last).seq >= seq) {
                        self.words.clear();
                    }
                    let found = statement.query_row((key.model, seq, key.wall), entry).optional().map_err(&failed)?;
                    if self.segment.find(seq).is_some() {
                        self.lexicon.get_mut().clear();
                    }
                    match found {
                        Some((row, vector)) => self.segment.put(row, vector.as_deref()),
                        None => self.segment.remove(seq),
                    }
                }
            }
        }
        self.change = last;
        Ok(())
    }

    fn read_all(&mut self, connection: &Connection, key: Key) -> Result<()> {
        let failed = internal("memory.search");
        self.segment = Segment::new(self.segment.dimensions());
        self.lexicon.get_mut().clear();
        self.words.clear();
        let count: i64 = connection
            .prepare_cached("SELECT count(*) FROM records WHERE wall = ?1")
            .and_then(|mut statement| statement.query_row([key.wall], |row| row.get(0)))
            .map_err(&failed)?;
        self.segment.reserve(usize::try_from(count).unwrap_or(0));
        let mut statement =
            connection.prepare_cached(&format!("{SELECT} WHERE r.wall = ?2 ORDER BY r.seq")).map_err(&failed)?;
        let entries = statement.query_map((key.model, key.wall), entry).map_err(&failed)?;
        for entry in entries {
            let (row, vector) = entry.map_err(&failed)?;
            self.segment.put(row, vector.as_deref());
        }
        self.unsaved = self.segment.len();
        Ok(())
    }
}

/// Conversations are made of messages; other records that name a session are none.
const SELECT: &str = "SELECT r.seq, r.status = 'archived', r.expires_at, CASE r.kind WHEN 'message' THEN r.session END, \
     d.sz, v.data FROM records AS r LEFT JOIN record_words_docsize AS d ON d.id = r.seq \
     LEFT JOIN vectors AS v ON v.seq = r.seq AND v.model = ?1";

fn entry(row: &SqlRow<'_>) -> rusqlite::Result<(Row, Option<Vec<f32>>)> {
    let of = Row {
        seq: row.get(0)?,
        archived: row.get(1)?,
        expires_at: row.get::<_, Option<i64>>(2)?.unwrap_or(i64::MAX),
        session: row.get_ref(3)?.as_str_or_null()?.map_or(0, session_key),
        words: row.get_ref(4)?.as_blob_or_null()?.map_or(0, first_varint),
    };
    Ok((of, row.get_ref(5)?.as_blob_or_null()?.map(half::decode)))
}

/// Reads the number of words that FTS5 keeps of a text: a number in SQLite's form of seven bits a byte, the highest first.
pub(super) fn first_varint(bytes: &[u8]) -> u32 {
    let mut number = 0_u32;
    for byte in bytes {
        number = number.wrapping_shl(7) | u32::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

fn changed(connection: &Connection, wall: i64, since: i64) -> Result<Vec<i64>> {
    connection
        .prepare_cached("SELECT DISTINCT seq FROM changes WHERE wall = ?1 AND change > ?2 ORDER BY seq LIMIT ?3")
        .and_then(|mut statement| {
            statement.query_map((wall, since, MANY_CHANGES as i64 + 1), |row| row.get(0))?.collect()
        })
        .map_err(internal("memory.search"))
}

/// Returns the number of a model, if anything was stored with it.
pub(super) fn find_model(connection: &Connection, name: &str) -> Result<Option<i64>> {
    connection
        .prepare_cached("SELECT model FROM models WHERE name = ?1")
        .and_then(|mut statement| statement.query_row([name], |row| row.get(0)).optional())
        .map_err(internal("memory.search"))
}

/// Returns the number of a model, made if it is new.
pub(super) fn make_model(connection: &Connection, name: &str, dimensions: usize) -> Result<i64> {
    if let Some(model) = find_model(connection, name)? {
        return Ok(model);
    }
    connection
        .prepare_cached("INSERT INTO models (name, dimensions) VALUES (?1, ?2)")
        .and_then(|mut statement| statement.insert((name, dimensions as i64)))
        .map_err(internal("memory.store"))
}

/// Returns the exact cosine of a record's vector with `query`, both of length one; `None` also for a vector of zeros.
pub(super) fn cosine(connection: &Connection, model: i64, seq: i64, query: &[f32]) -> Result<Option<f32>> {
    let cosine = |row: &SqlRow<'_>| {
        let data = row.get_ref(0)?.as_blob()?;
        let cosine = half::dot(data, query);
        Ok((cosine != 0.0 || half::has_direction(data)).then_some(cosine))
    };
    connection
        .prepare_cached("SELECT data FROM vectors WHERE seq = ?1 AND model = ?2")
        .and_then(|mut statement| statement.query_row((seq, model), cosine).optional())
        .map(Option::flatten)
        .map_err(internal("memory.search"))
}

/// Returns the vector of a record.
pub(super) fn vector(connection: &Connection, model: i64, seq: i64) -> Result<Option<Vec<f32>>> {
    connection
        .prepare_cached("SELECT data FROM vectors WHERE seq = ?1 AND model = ?2")
        .and_then(|mut statement| {
            statement.query_row((seq, model), |row| Ok(half::decode(row.get_ref(0)?.as_blob()?))).optional()
        })
        .map_err(internal("memory.search"))
}
