//! A copy of the data file while others write: SQLite's online backup, of one moment.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{
    Connection,
    backup::{Backup, StepResult},
};

use super::{SqliteStore, check, internal, open};
use crate::{Error, ErrorKind, Result};

const OPERATION: &str = "memory.backup";
/// Pages that are copied at a time: 16 MiB.
const PAGES: i32 = 4096;
/// Pause where another process holds the new file.
const RETRY: Duration = Duration::from_millis(20);

/// Writes a copy to a new file, which has its name once it is whole.
pub(super) async fn backup(store: &SqliteStore, path: PathBuf) -> Result<()> {
    let Some(source) = store.file() else {
        // What is in memory is known to one connection only; it is small enough that its writes wait.
        return store.bare(move |connection| whole_copy(connection, &path)).await;
    };
    // Opened and up to date, whoever asks first.
    store.write(|_| Ok(())).await?;
    let copied = tokio::task::spawn_blocking(move || {
        let connection = open::open_reader(&source)?;
        whole_copy(&connection, &path)
    });
    copied
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the copy ended early").with_source(error))?
}

fn whole_copy(source: &Connection, path: &Path) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    // Left by a backup that was ended.
    let _ = fs::remove_file(&partial);
    let made = copy(source, &partial)
        .and_then(|()| fs::rename(&partial, path).map_err(|error| cannot_write(path, &error.to_string())));
    if made.is_err() {
        let _ = fs::remove_file(&partial);
    }
    made
}

fn copy(source: &Connection, partial: &Path) -> Result<()> {
    let failed = internal(OPERATION);
    let mut target = Connection::open(partial).map_err(|error| cannot_write(partial, &error.to_string()))?;
    // One transaction of reading is one moment: what is committed meanwhile neither is copied nor starts it anew.
    let moment = source.unchecked_transaction().map_err(&failed)?;
    moment.query_row("SELECT count(*) FROM walls", [], |row| row.get::<_, i64>(0)).map_err(&failed)?;
    let backup = Backup::new(&moment, &mut target).map_err(&failed)?;
    loop {
        match backup.step(PAGES).map_err(&failed)? {
            StepResult::Done => break,
            StepResult::Busy | StepResult::Locked => std::thread::sleep(RETRY),
            _ => {}
        }
    }
    drop(backup);
    drop(moment);
    // What is damaged here is damaged there: better to hear of it now than when it is needed.
    if let Some(damage) = check::damage(&target)? {
        let message = format!("the data file is damaged, and not copied ({damage}): {}", check::RESTORE);
        return Err(Error::new(ErrorKind::Internal, OPERATION, message));
    }
    target.close().map_err(|(_, error)| failed(error))?;
    fs::File::open(partial).and_then(|file| file.sync_all()).map_err(|error| cannot_write(partial, &error.to_string()))
}

fn cannot_write(path: &Path, why: &str) -> Error {
    Error::invalid(OPERATION, "path", format!("`{}` cannot be written: {why}", path.display()))
}
