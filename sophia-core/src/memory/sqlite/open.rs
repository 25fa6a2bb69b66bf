//! Opening the data file: its mark, its format, and what every connection is set to.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use super::{block_files, check, internal, read};
use crate::{Error, ErrorKind, Result, memory::words};

/// Name of the data file inside the data directory.
pub(super) const FILE_NAME: &str = "sophia.db";
/// `application_id` of our files: "SoPh".
const APPLICATION_ID: i64 = 0x536f_5068;
/// `user_version`: format of the file. It grows with a change that older builds cannot read.
const FORMAT: i64 = 2;
/// The oldest format that is brought up to date.
const OLDEST_FORMAT: i64 = 1;
const SCHEMA: &str = include_str!("schema.sql");
const DERIVED_SCHEMA: &str = include_str!("derived.sql");
/// Tables that came later and that older builds do not need: made where the one that is named is missing.
const LATER_TABLES: [(&str, &str); 3] = [
    ("checkpoint_writes", include_str!("checkpoints.sql")),
    ("leases", include_str!("leases.sql")),
    ("tallies", include_str!("tallies.sql")),
];

/// How long to wait for another process that holds the write lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often, and after what pause, a file that looks foreign is looked at again.
const SETTLE_TRIES: usize = 5;
const SETTLE_DELAY: Duration = Duration::from_millis(20);
/// Statements that a connection keeps prepared.
const PREPARED_STATEMENTS: usize = 128;
/// Pages that a connection may keep in memory, in KiB: SQLite's own 2 MiB hold less than one search reads of a large store.
const CACHE_KIB: i64 = 16 * 1024;
/// Size that the write-ahead log is cut to after it was merged, in bytes.
const LOG_SIZE_LIMIT: i64 = 64 * 1024 * 1024;

/// Where the data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In this directory.
    Directory(PathBuf),
    /// In the memory of one connection.
    Memory,
}

impl Place {
    pub(super) fn file(&self) -> Option<PathBuf> {
        match self {
            Place::Directory(directory) => Some(directory.join(FILE_NAME)),
            Place::Memory => None,
        }
    }
}

/// Opens the data for writing; makes it if it is not there. A file that is not ours is left as it is.
pub(super) fn open_writer(place: &Place) -> Result<Connection> {
    let connection = match place {
        Place::Memory => Connection::open_in_memory().map_err(|error| cannot_open("in memory", error))?,
        Place::Directory(directory) => {
            std::fs::create_dir_all(directory).map_err(|error| {
                let shown = directory.display();
                Error::invalid_config("data_dir", format!("`{shown}` cannot be made: {error}")).with_source(error)
            })?;
            let path = directory.join(FILE_NAME);
            check_format(&path)?;
            Connection::open(&path).map_err(|error| cannot_open(path.display(), error))?
        }
    };
    let shown = place.file().map_or_else(|| "in memory".to_owned(), |path| path.display().to_string());
    prepare(&connection).and_then(|()| create_schema(&connection)).map_err(|error| cannot_open(&shown, error))?;
    check_writable(&connection, &shown)?;
    create_later_tables(&connection).map_err(|error| cannot_open(&shown, error))?;
    if let Some(path) = place.file() {
        use_write_ahead_log(&connection).map_err(|error| cannot_open(&shown, error))?;
        // What a process left there that was ended while it wrote or forgot.
        block_files::sweep(&connection, &path)?;
    }
    Ok(connection)
}

/// Opens one more connection to a file that [`open_writer`] has opened: nothing is wrong with it, so what fails may pass.
pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
        .and_then(|connection| prepare(&connection).map(|()| connection))
        .map_err(internal("memory.read"))
}

pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Else SQLite plans a statement anew whenever another value is bound to it, those of FTS5 among them.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // What is deleted is overwritten, so that it is gone from the file too.
    connection.pragma_update(None, "secure_delete", "ON")
}

/// Refuses a file that is not ours. One that another process is making at this moment looks foreign until it is made, so a
/// verdict against a file is heard only when it stands.
fn check_format(path: &Path) -> Result<()> {
    let mut verdict = check_marks(path);
    for _ in 0..SETTLE_TRIES {
        if verdict.is_ok() {
            break;
        }
        std::thread::sleep(SETTLE_DELAY);
        verdict = check_marks(path);
    }
    verdict
}

/// Looks at the marks of an existing file without opening it for writing, locking it, or making files beside it.
fn check_marks(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > 0 => {}
        _ => return Ok(()),
    }
    let shown = path.display();
    let foreign = |why: String| {
        let message =
            format!("holds `{shown}`, which is not a data file of Sophia: {why}. If it was: {}", check::RESTORE);
        Error::invalid_config("data_dir", message).with("path", shown.to_string())
    };
    let (application, format) = match read_marks(path) {
        Ok(Some(marks)) => marks,
        Ok(None) => return Err(foreign("it is no database of SQLite".to_owned())),
        Err(error) => {
            return Err(Error::invalid_config("data_dir", format!("holds `{shown}`, which cannot be read: {error}"))
                .with("path", shown.to_string())
                .with_source(error));
        }
    };
    // A newer build that is at work, or was killed, has its own format in the log only.
    let format = if application == APPLICATION_ID { format_in_log(path).unwrap_or(format) } else { format };
    match (application, format) {
        (APPLICATION_ID, OLDEST_FORMAT..=FORMAT) => Ok(()),
        (APPLICATION_ID, found) if found > FORMAT => Err(newer(&shown.to_string(), found)),
        // The first process has made the file and is about to mark it.
        (0, 0) if is_blank(path) => Ok(()),
        (found, _) => Err(foreign(format!("its application id is {found}, expected {APPLICATION_ID}"))),
    }
}

/// Returns `application_id` and `user_version` as the head of a file has them, <https://sqlite.org/fileformat2.html>; `None` where
/// it is no database. SQLite itself would look at the whole file, and without its log one whose log was being merged is damaged.
fn read_marks(path: &Path) -> std::io::Result<Option<(i64, i64)>> {
    let mut head = [0; 100];
    match std::fs::File::open(path)?.read_exact(&mut head) {
        Ok(()) if head.starts_with(b"SQLite format 3\0") => {
            let number =
                |at: usize| i64::from(i32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
            Ok(Some((number(68), number(60))))
        }
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(None),
    }
}

/// Returns the format that a file has with its write-ahead log; `None` where there is none, or it cannot be read.
fn format_in_log(path: &Path) -> Option<i64> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).ok().filter(|log| log.len() > 0)?;
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).ok()
}

fn newer(shown: &str, found: i64) -> Error {
    let message =
        format!("`{shown}` was written by a newer version: its format is {found}, this build reads up to {FORMAT}");
    Error::new(ErrorKind::Unsupported, "memory.open", message)
        .with("path", shown)
        .with("found", found)
        .with("expected", FORMAT)
}

/// Returns whether a database has no tables.
fn is_blank(path: &Path) -> bool {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(immutable_uri(path), flags)
        .and_then(|connection| connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)))
        .is_ok_and(|tables: i64| tables == 0)
}

fn immutable_uri(path: &Path) -> String {
    use std::fmt::Write;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b':' => uri.push(*byte as char),
            b'\\' if cfg!(windows) => uri.push('/'),
            // Writing to a String cannot fail.
            other => drop(write!(uri, "%{other:02X}")),
        }
    }
    uri + "?immutable=1"
}

/// Makes the tables once, or brings those of an older format up to date, whoever comes first. The marks are set before the
/// write-ahead log is turned on, so that they stand in the file itself, where [`check_format`] reads them.
fn create_schema(connection: &Connection) -> rusqlite::Result<()> {
    let format =
        |connection: &Connection| connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    if format(connection)? == FORMAT {
        return Ok(());
    }
    connection.execute_batch("BEGIN EXCLUSIVE")?;
    let made = format(connection).and_then(|format| {
        match format {
            0 => connection.execute_batch(SCHEMA).and_then(|()| connection.execute_batch(DERIVED_SCHEMA))?,
            // Format 1 had its full text in another table.
            1 => {
                connection.execute_batch("DROP TABLE record_text")?;
                connection.execute_batch(DERIVED_SCHEMA)?;
                index_all(connection)?;
            }
            _ => return Ok(()),
        }
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.pragma_update(None, "user_version", FORMAT)
    });
    match made {
        Ok(()) => connection.execute_batch("COMMIT"),
        Err(error) => {
            connection.execute_batch("ROLLBACK")?;
            Err(error)
        }
    }
}

/// Makes the tables of what is derived anew, and the words of all records.
pub(super) fn index_anew(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("DROP TABLE record_words; DROP TABLE block_files")?;
    connection.execute_batch(DERIVED_SCHEMA)?;
    index_all(connection)
}

/// Makes the words of all records.
fn index_all(connection: &Connection) -> rusqlite::Result<()> {
    let sql = format!("SELECT {}, r.wall FROM {}", read::COLUMNS, read::FROM);
    let mut select = connection.prepare(&sql)?;
    let mut rows = select.query([])?;
    let mut insert = connection.prepare("INSERT INTO record_words (rowid, words) VALUES (?1, ?2)")?;
    while let Some(row) = rows.next()? {
        let (record, wall) = (read::record(row)?, row.get(read::COLUMN_COUNT)?);
        insert.execute((record.seq, words::index_text(wall, &record)))?;
    }
    Ok(())
}

fn create_later_tables(connection: &Connection) -> rusqlite::Result<()> {
    for (table, sql) in LATER_TABLES {
        if connection.table_exists(None, table)? {
            continue;
        }
        connection.execute_batch("BEGIN IMMEDIATE")?;
        match connection.execute_batch(sql) {
            Ok(()) => connection.execute_batch("COMMIT")?,
            Err(error) => {
                connection.execute_batch("ROLLBACK")?;
                return Err(error);
            }
        }
    }
    Ok(())
}

fn check_writable(connection: &Connection, shown: &str) -> Result<()> {
    match connection.is_readonly("main") {
        Ok(false) => Ok(()),
        _ => {
            Err(Error::invalid_config("data_dir", format!("holds `{shown}`, which cannot be written"))
                .with("path", shown))
        }
    }
}

/// Turns on the write-ahead log. SQLite does not wait by itself for others that do the same.
fn use_write_ahead_log(connection: &Connection) -> rusqlite::Result<()> {
    let start = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if is_busy(&error) && start.elapsed() < BUSY_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => break done?,
        }
    }
    // A commit is in the kernel's hands when it returns: it outlives the process. Only a loss of power can take the
    // last commits, and never harms the file.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", LOG_SIZE_LIMIT)
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Returns whether a file is damaged, or none of SQLite's.
pub(in crate::memory) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn cannot_open(shown: impl std::fmt::Display, error: rusqlite::Error) -> Error {
    let shown = shown.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::new(ErrorKind::Unavailable, "memory.open", format!("`{shown}` is locked by another process"))
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::invalid_config(
            "data_dir",
            format!(
                "holds `{shown}`, which is damaged or not a data file of Sophia: {error}. If it was: {}",
                check::RESTORE
            ),
        ),
        Some(ErrorCode::DiskFull) => {
            Error::new(ErrorKind::Unavailable, "memory.open", format!("the disk is full where `{shown}` is"))
        }
        _ => Error::invalid_config("data_dir", format!("holds `{shown}`, which cannot be opened: {error}")),
    }
    .with("path", shown)
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_whose_log_was_being_merged() {
        let (merged, cut_short) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |directory: &Path| open_writer(&Place::Directory(directory.to_owned())).unwrap();
        let connection = open(merged.path());
        let many = "PRAGMA wal_autocheckpoint = 0; CREATE TABLE kept (x);
            WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
            INSERT INTO kept SELECT randomblob(500) FROM n";
        connection.execute_batch(many).unwrap();
        for name in [FILE_NAME.to_owned(), format!("{FILE_NAME}-wal")] {
            std::fs::copy(merged.path().join(&name), cut_short.path().join(name)).unwrap();
        }
        connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())).unwrap();
        // The first page comes first, and says how long the file will be.
        let whole = std::fs::read(merged.path().join(FILE_NAME)).unwrap();
        let mut file = std::fs::read(cut_short.path().join(FILE_NAME)).unwrap();
        assert!(file.len() < whole.len());
        file[..4096].copy_from_slice(&whole[..4096]);
        std::fs::write(cut_short.path().join(FILE_NAME), file).unwrap();
        let kept = open(cut_short.path()).query_row("SELECT count(*) FROM kept", [], |row| row.get::<_, i64>(0));
        assert_eq!(kept.unwrap(), 2_000);
    }
}
