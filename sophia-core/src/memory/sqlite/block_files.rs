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

    /// Counts the files that the data file names and that cannot be read. One that is missing is made when it is needed.
    pub(super) fn damaged(&self, connection: &Connection) -> Result<usize> {
        let named: Vec<(Key, [u8; 16])> = connection
            .prepare_cached("SELECT wall, model, generation FROM block_files")
            .and_then(|mut statement| {
                let of = |row: &rusqlite::Row<'_>| Ok((Key { wall: row.get(0)?, model: row.get(1)? }, row.get(2)?));
                statement.query_map([], of)?.collect()
            })
            .map_err(internal("memory.check"))?;
        let is_damaged = |(key, generation): &(Key, [u8; 16])| {
            let label = Label { wall: key.wall, model: key.model, change: 0, generation: *generation };
            File::open(self.folder.join(name(*key, generation))).is_ok_and(|file| {
                segment_file::read(&label, &mut BufReader::with_capacity(BUFFER_BYTES, file)).is_err()
            })
        };
        Ok(named.iter().filter(|named| is_damaged(named)).count())
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        ManualClock, Scope,
        memory::{
            ForgetRequest, MemoryStore, SqliteStore,
            record::Record,
            segment::{Keep, Needle},
            sqlite::{open::open_reader, vectors::Blocks},
            store::{Atomicity, Depth, Draft, Filter, NamedVector},
        },
    };

    const WALL: Key = Key { wall: 1, model: 1 };

    /// A store in a file with a few records, and what reads it.
    struct Fixture {
        directory: tempfile::TempDir,
        store: SqliteStore,
        files: BlockFiles,
        connection: Connection,
    }

    impl Fixture {
        async fn new() -> Fixture {
            let directory = tempfile::tempdir().unwrap();
            let clock = Arc::new(ManualClock::default());
            let store = SqliteStore::in_directory(directory.path()).clock(clock).build();
            let database = directory.path().join("sophia.db");
            store.open().await.unwrap();
            let connection = open_reader(&database).unwrap();
            let fixture = Fixture { directory, store, files: BlockFiles::beside(database), connection };
            for id in ["a", "b", "c"] {
                fixture.put(id).await;
            }
            fixture
        }

        async fn put(&self, id: &str) {
            let record: Record = serde_json::from_value(serde_json::json!({
                "id": id, "seq": 0, "version": 1, "content": id, "kind": "note", "category": null, "tags": [],
                "metadata": {}, "summary": null, "source": null, "role": null, "importance": 0.5, "priority": "medium",
                "status": "active", "scope": {"user": "ada"}, "created_at": "2026-01-01T00:00:00Z",
                "updated_at": "2026-01-01T00:00:00Z", "expires_at": null
            }))
            .unwrap();
            let vector = Some(NamedVector { model: "m".into(), values: vec![0.6, 0.8] });
            let draft = Draft { vector, ..Draft::new(record) };
            self.store.insert(vec![draft], Atomicity::Together).await.unwrap().remove(0).unwrap();
        }

        /// Returns the block as a new process would have it, and whether it came from a file.
        fn block(&self) -> (Vec<i64>, bool) {
            let is_loaded = self.files.load(&self.connection, WALL, 2).unwrap().is_some();
            let block = Blocks::new(1 << 20, Some(self.files.clone())).current(&self.connection, WALL, 2).unwrap();
            let segment = &block.read().segment;
            let near = segment.scan(&Needle::new(&[0.6, 0.8]), 9, &Keep::Active(0)).near;
            (near.iter().rev().map(|near| segment.row(near.place).seq).collect(), is_loaded)
        }

        fn save(&self) -> bool {
            let block = Blocks::new(1 << 20, None).current(&self.connection, WALL, 2).unwrap();
            let block = block.read();
            self.files.save(&block.segment, WALL, block.last_change()).unwrap()
        }

        fn blocks(&self) -> Vec<PathBuf> {
            paths(&self.directory.path().join(FOLDER)).collect()
        }

        async fn erase(&self, id: &str) {
            let now = "2026-01-01T00:00:00Z".parse().unwrap();
            let filter = Filter { ids: Some(vec![id.into()]), ..Filter::new(vec![Scope::new().user("ada")], now) };
            assert_eq!(self.store.delete(filter, Depth::Erase).await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn a_block_is_read_from_its_file_and_caught_up() {
        let fixture = Fixture::new().await;
        assert_eq!(fixture.block(), (vec![1, 2, 3], false));
        assert!(fixture.save());
        fixture.put("d").await;
        assert_eq!(fixture.block(), (vec![1, 2, 3, 4], true));
        assert!(fixture.save());
        assert_eq!(fixture.blocks().len(), 1, "the older file is gone");
        assert_eq!(fixture.block(), (vec![1, 2, 3, 4], true));
    }

    #[tokio::test]
    async fn a_damaged_or_missing_file_is_made_anew() {
        let fixture = Fixture::new().await;
        assert!(fixture.save());
        let path = fixture.blocks().remove(0);
        let whole = fs::read(&path).unwrap();
        for at in [0, 40, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(fixture.block(), (vec![1, 2, 3], false), "changed at {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(fixture.block(), (vec![1, 2, 3], false), "cut at {at}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(fixture.block(), (vec![1, 2, 3], false));
    }

    #[tokio::test]
    async fn a_file_of_another_state_of_the_data_is_not_read() {
        let fixture = Fixture::new().await;
        assert!(fixture.save());
        let (path, older) = (fixture.blocks().remove(0), fs::read(&fixture.blocks()[0]).unwrap());
        fixture.put("d").await;
        assert!(fixture.save());
        let newer = fixture.blocks().remove(0);
        assert_ne!(path, newer);
        fs::write(&newer, &older).unwrap();
        assert_eq!(fixture.block(), (vec![1, 2, 3, 4], false));
    }

    #[tokio::test]
    async fn what_is_erased_or_forgotten_leaves_no_file() {
        let fixture = Fixture::new().await;
        assert!(fixture.save());
        fixture.erase("b").await;
        assert_eq!(fixture.blocks(), Vec::<PathBuf>::new());
        assert_eq!(fixture.block(), (vec![1, 3], false));
        assert!(fixture.save());
        fs::write(fixture.directory.path().join(FOLDER).join("1-1.abc.new"), "what another process was writing")
            .unwrap();
        fixture.store.forget(ForgetRequest::subject("ada")).await.unwrap();
        assert_eq!(fixture.blocks(), Vec::<PathBuf>::new());
    }

    #[tokio::test]
    async fn a_block_that_holds_what_was_erased_meanwhile_gets_no_file() {
        let fixture = Fixture::new().await;
        let block = Blocks::new(1 << 20, None).current(&fixture.connection, WALL, 2).unwrap();
        let save = || {
            let block = block.read();
            fixture.files.save(&block.segment, WALL, block.last_change()).unwrap()
        };
        fixture.erase("b").await;
        assert!(!save());
        assert_eq!(fixture.blocks(), Vec::<PathBuf>::new());
        fixture.store.forget(ForgetRequest::subject("ada")).await.unwrap();
        assert!(!save());
    }
}
