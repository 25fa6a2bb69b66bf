//! Blocks as files beside the data file, so that a start does not make them anew.
//!
//! A file counts only while the data file names its generation. So one that belongs to another state of the data (a backup
//! that was put back, a file that was copied here) is not read, and what is forgotten cannot come back: forgetting takes the
//! name away in its own commit. Whatever is wrong with a file, the block is made from the data file then.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use uuid::Uuid;

use super::{internal, open, vectors::Key};
use crate::{
    Result,
    memory::{
        segment::Segment,
        segment_file::{self, Label},
    },
};

/// Folder inside the data directory.
const FOLDER: &str = "blocks";
/// Rows from which a block is worth a file: fewer are read from the data file in about 50 ms.
pub(super) const MIN_ROWS: usize = 20_000;
/// Bytes that are written at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// The files of one data directory.
#[derive(Debug, Clone)]
pub(super) struct BlockFiles {
    folder: PathBuf,
    database: PathBuf,
}

impl BlockFiles {
    pub(super) fn beside(database: PathBuf) -> BlockFiles {
        BlockFiles { folder: database.with_file_name(FOLDER), database }
    }

    /// Reads a block and the change that it is as of; `None` where there is no file that can be trusted.
    pub(super) fn load(&self, connection: &Connection, key: Key, dimensions: usize) -> Result<Option<(Segment, i64)>> {
        let Some(generation) = generation(connection, key)? else { return Ok(None) };
        let label = Label { wall: key.wall, model: key.model, change: 0, generation };
        let path = self.folder.join(name(key, &generation));
        let read = File::open(&path)
            .and_then(|file| segment_file::read(&label, &mut BufReader::with_capacity(BUFFER_BYTES, file)));
        match read {
            Ok((segment, change)) if segment.dimensions() == dimensions => Ok(Some((segment, change))),
            Ok(_) => Ok(None),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "a block is made anew");
                Ok(None)
            }
        }
    }

    /// Writes a block as of `change`, and lets the data file name it; returns whether it did. It does not where something
    /// that the block holds was erased meanwhile.
    pub(super) fn save(&self, segment: &Segment, key: Key, change: i64) -> io::Result<bool> {
        let generation = Uuid::now_v7().into_bytes();
        let label = Label { wall: key.wall, model: key.model, change, generation };
        let path = self.folder.join(name(key, &generation));
        let unnamed = path.with_extension("new");
        let named = self
            .write(segment, &label, &unnamed)
            .and_then(|()| self.name(&label, &unnamed, &path).map_err(io::Error::other));
        if !matches!(named, Ok(true)) {
            // It may be gone already: forgetting sweeps the folder.
            let _ = fs::remove_file(&unnamed);
            return named;
        }
        self.remove_older(key, &path);
        named
    }

    fn write(&self, segment: &Segment, label: &Label, path: &Path) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, File::create_new(path)?);
        segment_file::write(segment, label, &mut file)?;
        file.flush()
    }

    /// Gives a file its name, in one commit with the data file's word for it.
    fn name(&self, label: &Label, unnamed: &Path, path: &Path) -> rusqlite::Result<bool> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.database, flags)?;
        open::prepare(&connection)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let is_void: bool = transaction.query_row(
            "SELECT NOT EXISTS (SELECT 1 FROM walls WHERE wall = ?1) \
             OR (SELECT coalesce(min(change), 0) FROM changes) > ?2 + 1 \
             OR EXISTS (SELECT 1 FROM changes AS c WHERE c.wall = ?1 AND c.change > ?2 \
                        AND NOT EXISTS (SELECT 1 FROM records AS r WHERE r.seq = c.seq))",
            (label.wall, label.change),
            |row| row.get(0),
        )?;
        if is_void {
            return Ok(false);
        }
        transaction.execute(
            "INSERT OR REPLACE INTO block_files (wall, model, generation) VALUES (?1, ?2, ?3)",
            (label.wall, label.model, label.generation),
        )?;
        if fs::rename(unnamed, path).is_err() {
            return Ok(false);
        }
        transaction.commit()?;
        Ok(true)
    }

    fn remove_older(&self, key: Key, current: &Path) {
        let begins = format!("{}-{}.", key.wall, key.model);
        let is_older = |path: &PathBuf| {
            path != current
                && path.extension().is_some_and(|extension| extension == "blk")
                && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begins))
        };
        for path in paths(&self.folder).filter(is_older) {
            // Another process may have removed it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Takes its name from every block of a wall; [`sweep`] removes the files after the commit.
pub(super) fn disown(connection: &Connection, wall: i64) -> Result<()> {
    connection
        .prepare_cached("DELETE FROM block_files WHERE wall = ?1")
        .and_then(|mut statement| statement.execute([wall]))
        .map(drop)
        .map_err(internal("memory.forget"))
}

/// Removes the files that the data file does not name, also those that are being written.
pub(super) fn sweep(connection: &Connection, database: &Path) -> Result<()> {
    let folder = database.with_file_name(FOLDER);
    let files: Vec<PathBuf> = paths(&folder).collect();
    if files.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = connection
        .prepare_cached("SELECT wall, model, generation FROM block_files")
        .and_then(|mut statement| {
            let of = |row: &rusqlite::Row<'_>| {
                let generation: [u8; 16] = row.get(2)?;
                Ok(name(Key { wall: row.get(0)?, model: row.get(1)? }, &generation))
            };
            statement.query_map([], of)?.collect()
        })
        .map_err(internal("memory.forget"))?;
    for path in files {
        let is_named = path.file_name().is_some_and(|file| named.iter().any(|name| file == name.as_str()));
        if !is_named {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a file that is not needed any more stays");
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn generation(connection: &Connection, key: Key) -> Result<Option<[u8; 16]>> {
    connection
        .prepare_cached("SELECT generation FROM block_files WHERE wall = ?1 AND model = ?2")
        .and_then(|mut statement| statement.query_row((key.wall, key.model), |row| row.get(0)).optional())
        .map_err(internal("memory.search"))
}

fn name(key: Key, generation: &[u8; 16]) -> String {
    format!("{}-{}.{}.blk", key.wall, key.model, Uuid::from_bytes(*generation).simple())
}

fn paths(folder: &Path) -> impl Iterator<Item = PathBuf> {
    // No folder, no files.
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
