//! Vectors in the data file, and the blocks of them that this process holds.
//!
//! A block is read with the first search of its wall. After that, each search first takes in what the change log says
//! was written since, by this process or another one.

use std::{collections::HashSet, sync::Arc};

use moka::sync::Cache;
use parking_lot::RwLock;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow};

use super::internal;
use crate::{
    Result,
    memory::segment::{Row, Scan, Segment},
};

/// More changes than this are not looked up one by one: the block is read anew.
const MANY_CHANGES: usize = 10_000;

/// The blocks of this process, of walls that were searched lately.
#[derive(Debug)]
pub(super) struct VectorBlocks {
    blocks: Cache<(i64, i64), Arc<RwLock<Block>>>,
}

/// The vectors of one wall and one model.
#[derive(Debug, Default)]
struct Block {
    segment: Segment,
    /// Last change that it holds.
    change: i64,
    /// Active records that have no vector of this model.
    missing: HashSet<i64>,
}

/// What a block found.
#[derive(Debug, Default)]
pub(super) struct BlockScan {
    pub scan: Scan,
    /// Active records of the wall that have no vector of this model.
    pub missing: usize,
}

impl VectorBlocks {
    pub(super) fn new(max_bytes: u64) -> VectorBlocks {
        let weigh = |_: &(i64, i64), block: &Arc<RwLock<Block>>| {
            u32::try_from(block.read().segment.bytes()).unwrap_or(u32::MAX).max(1024)
        };
        VectorBlocks { blocks: Cache::builder().weigher(weigh).max_capacity(max_bytes).build() }
    }

    pub(super) fn clear(&self) {
        self.blocks.invalidate_all();
    }

    /// Scans the vectors of a wall, as of the snapshot that `connection` sees or later.
    pub(super) fn scan(
        &self,
        connection: &Connection,
        (wall, model): (i64, i64),
        query: &[f32],
        count: usize,
        keep: impl Fn(&Row) -> bool,
    ) -> Result<BlockScan> {
        let key = (wall, model);
        let block = self.blocks.get_with(key, || {
            Arc::new(RwLock::new(Block { segment: Segment::new(query.len()), change: -1, ..Block::default() }))
        });
        if !block.read().is_current(connection, wall)? {
            let before = block.read().segment.bytes();
            block.write().catch_up(connection, key)?;
            if block.read().segment.bytes() != before {
                // Weighs it again.
                self.blocks.insert(key, block.clone());
            }
        }
        let block = block.read();
        Ok(BlockScan { scan: block.segment.scan(query, count, keep), missing: block.missing.len() })
    }
}

impl Block {
    fn is_current(&self, connection: &Connection, wall: i64) -> Result<bool> {
        connection
            .prepare_cached("SELECT max(change) FROM changes WHERE wall = ?1")
            .and_then(|mut statement| statement.query_row([wall], |row| row.get::<_, Option<i64>>(0)))
            .map(|last| self.change >= last.unwrap_or(0))
            .map_err(internal("memory.search"))
    }

    fn catch_up(&mut self, connection: &Connection, key: (i64, i64)) -> Result<()> {
        let failed = internal("memory.search");
        let (wall, model) = key;
        let (first, last): (i64, i64) = connection
            .prepare_cached("SELECT coalesce(min(change), 0), coalesce(max(change), 0) FROM changes")
            .and_then(|mut statement| statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))))
            .map_err(&failed)?;
        if self.change >= last {
            return Ok(());
        }
        // A block that is new, or further behind than the log goes, cannot be caught up.
        let changed = if self.change < first - 1 { None } else { Some(changed(connection, wall, self.change)?) };
        match changed.filter(|changed| changed.len() <= MANY_CHANGES) {
            None => self.read_all(connection, key)?,
            Some(changed) => {
                let mut statement = connection
                    .prepare_cached(&format!("{SELECT} WHERE r.seq = ?2 AND r.wall = ?3"))
                    .map_err(&failed)?;
                for seq in changed {
                    self.segment.remove(seq);
                    self.missing.remove(&seq);
                    if let Some(entry) = statement.query_row((model, seq, wall), entry).optional().map_err(&failed)? {
                        self.take(entry);
                    }
                }
            }
        }
        self.change = last;
        Ok(())
    }

    fn read_all(&mut self, connection: &Connection, (wall, model): (i64, i64)) -> Result<()> {
        let failed = internal("memory.search");
        self.segment = Segment::new(self.segment.dimensions());
        self.missing.clear();
        let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE r.wall = ?2")).map_err(&failed)?;
        let entries = statement.query_map((model, wall), entry).map_err(&failed)?;
        for entry in entries {
            self.take(entry.map_err(&failed)?);
        }
        Ok(())
    }

    fn take(&mut self, (row, vector): (Row, Option<Vec<f32>>)) {
        match vector {
            Some(vector) => self.segment.put(row, &vector),
            None if !row.archived => drop(self.missing.insert(row.seq)),
            None => {}
        }
    }
}

const SELECT: &str = "SELECT r.seq, r.status = 'archived', r.expires_at, v.data FROM records AS r \
     LEFT JOIN vectors AS v ON v.seq = r.seq AND v.model = ?1";

fn entry(row: &SqlRow<'_>) -> rusqlite::Result<(Row, Option<Vec<f32>>)> {
    let of =
        Row { seq: row.get(0)?, archived: row.get(1)?, expires_at: row.get::<_, Option<i64>>(2)?.unwrap_or(i64::MAX) };
    Ok((of, row.get_ref(3)?.as_blob_or_null()?.map(decode)))
}

fn changed(connection: &Connection, wall: i64, since: i64) -> Result<Vec<i64>> {
    connection
        .prepare_cached("SELECT DISTINCT seq FROM changes WHERE wall = ?1 AND change > ?2 LIMIT ?3")
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

/// Returns the exact cosine of a record's vector with `query`, both of length one.
pub(super) fn cosine(connection: &Connection, model: i64, seq: i64, query: &[f32]) -> Result<Option<f32>> {
    connection
        .prepare_cached("SELECT data FROM vectors WHERE seq = ?1 AND model = ?2")
        .and_then(|mut statement| {
            statement
                .query_row((seq, model), |row| {
                    let vector = row.get_ref(0)?.as_blob()?;
                    let halves = vector.chunks_exact(2).map(|half| from_half(u16::from_le_bytes([half[0], half[1]])));
                    Ok(halves.zip(query).map(|(a, b)| a * b).sum())
                })
                .optional()
        })
        .map_err(internal("memory.search"))
}

/// Writes values as little-endian half precision.
pub(super) fn encode(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| to_half(*value).to_le_bytes()).collect()
}

fn decode(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|half| from_half(u16::from_le_bytes([half[0], half[1]]))).collect()
}

/// Rounds to IEEE 754 half precision, to the nearest; values of a vector of length one never overflow it.
fn to_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = f32::from_bits(bits & 0x7fff_ffff);
    // Multiplying by 2^-112 puts the exponent where a half has it; subnormals come out by the way.
    let scaled = (magnitude * f32::from_bits(0x0780_0000)).to_bits();
    let rounded = scaled + 0x0fff + ((scaled >> 13) & 1);
    sign | (rounded >> 13).min(0x7c00) as u16
}

fn from_half(half: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    if half & 0x8000 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_keeps_three_digits() {
        for value in [0.0, 1.0, -1.0, 0.5, 0.333_333, -0.062_5, 0.001, 0.000_06, -0.000_000_06] {
            let back = from_half(to_half(value));
            assert!((back - value).abs() <= value.abs() * 0.000_5 + 0.000_000_06, "{value} became {back}");
        }
    }
}
