//! Whether the data file is whole, and whether what is derived from it agrees with it.

use std::path::PathBuf;

use rusqlite::Connection;

use super::{SqliteStore, block_files::BlockFiles, internal, open, read, vectors::first_varint};
use crate::{
    Result,
    memory::{CheckReport, Problem, Repair, words},
};

const OPERATION: &str = "memory.check";
/// Complaints of SQLite that are shown.
const SHOWN: usize = 5;
/// What to do about the data itself.
pub(super) const RESTORE: &str = "stop every process that uses it, put the last backup (`sophia memory backup`) in its place as \
     `sophia.db`, and remove `sophia.db-wal`, `sophia.db-shm` and `blocks/` beside it; `sqlite3 sophia.db .recover` may save \
     what came after that backup";

/// Looks at everything; what is damaged and derived is made anew where that is asked for.
pub(super) async fn check(store: &SqliteStore, repair: Repair) -> Result<CheckReport> {
    let files = store.file();
    let folder = files.clone();
    let problems = store.bare(move |connection| look(connection, folder.as_ref())).await?;
    let data_is_whole = problems.iter().all(|problem| problem.part != "data");
    let derived = problems.iter().any(|problem| problem.part != "data");
    if repair == Repair::Rebuild && derived && data_is_whole {
        store.bare(rebuild).await?;
        store.sweep().await?;
        store.forget_held();
        let left = store.bare(move |connection| look(connection, files.as_ref())).await?;
        return Ok(CheckReport::repaired(problems, &left));
    }
    Ok(CheckReport::of(problems))
}

fn look(connection: &Connection, file: Option<&PathBuf>) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let mut found = |part: &'static str, detail: String| {
        let fix = if part == "data" { RESTORE } else { "`sophia memory check --repair` makes it anew" };
        problems.push(Problem { part, detail, repaired: false, fix: Some(fix.to_owned()) });
    };
    let complaints = integrity(connection)?;
    let (words, data): (Vec<_>, Vec<_>) =
        complaints.into_iter().partition(|complaint| complaint.contains("record_words"));
    if !data.is_empty() {
        found("data", data.join("; "));
        // What is derived from damaged data cannot be judged.
        return Ok(problems);
    }
    if let Some(complaint) = words.into_iter().next().or_else(|| words_disagree(connection)) {
        found("words", complaint);
    }
    let count =
        |sql: &str| -> Result<i64> { connection.query_row(sql, [], |row| row.get(0)).map_err(internal(OPERATION)) };
    let wrong = count(WRONG_VECTORS)?;
    if wrong > 0 {
        found("vectors", format!("{wrong} vectors have no record, or another length than those of their model"));
    }
    let wrong = count(WRONG_TAGS)? + count(MISSING_TAGS)?;
    if wrong > 0 {
        found("tags", format!("{wrong} tags of keys are listed without their key, or missing"));
    }
    let damaged = match file {
        Some(file) => BlockFiles::beside(file.clone()).damaged(connection)?,
        None => 0,
    };
    if damaged > 0 {
        found("blocks", format!("{damaged} files of vectors cannot be read"));
    }
    Ok(problems)
}

const WRONG_VECTORS: &str = "SELECT count(*) FROM vectors AS v LEFT JOIN models AS m USING (model) \
     WHERE m.model IS NULL OR length(v.data) <> 2 * m.dimensions OR NOT EXISTS (SELECT 1 FROM records WHERE seq = v.seq)";
const WRONG_TAGS: &str = "SELECT count(*) FROM kv_tags AS t WHERE NOT EXISTS \
     (SELECT 1 FROM kv AS k, json_each(k.tags) AS own WHERE k.wall = t.wall AND k.key = t.key AND own.value = t.tag)";
const MISSING_TAGS: &str = "SELECT count(*) FROM kv AS k, json_each(k.tags) AS own WHERE NOT EXISTS \
     (SELECT 1 FROM kv_tags AS t WHERE t.wall = k.wall AND t.key = k.key AND t.tag = own.value)";

/// Returns what SQLite complains of.
fn integrity(connection: &Connection) -> Result<Vec<String>> {
    let mut complaints = complaints(connection, "PRAGMA integrity_check(20)")?;
    let foreign = connection.prepare("PRAGMA foreign_key_check").and_then(|mut statement| statement.exists([]));
    match foreign {
        Ok(false) => {}
        Ok(true) => complaints.push("rows name others that are not there".to_owned()),
        Err(error) => complaints.push(error.to_string()),
    }
    complaints.truncate(SHOWN);
    Ok(complaints)
}

/// Returns what of the data, not of what is derived, is damaged at first sight, if anything is.
pub(super) fn damage(connection: &Connection) -> Result<Option<String>> {
    let complaints = complaints(connection, "PRAGMA quick_check(20)")?;
    Ok(complaints.into_iter().find(|complaint| !complaint.contains("record_words")))
}

fn complaints(connection: &Connection, pragma: &str) -> Result<Vec<String>> {
    let failed = internal(OPERATION);
    let mut statement = connection.prepare(pragma).map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let mut complaints = Vec::new();
    loop {
        match rows.next() {
            Ok(Some(row)) => complaints.push(row.get::<_, String>(0).map_err(&failed)?),
            Ok(None) => break,
            // Damage may also end the check.
            Err(error) => {
                complaints.push(error.to_string());
                break;
            }
        }
    }
    complaints.retain(|complaint| complaint != "ok");
    Ok(complaints)
}

/// Compares the words that are indexed with those of the records, as sums over both that do not depend on the order.
fn words_disagree(connection: &Connection) -> Option<String> {
    match (words_of_records(connection), words_of_index(connection)) {
        (Ok(Some(of_records)), Ok(of_index)) if of_records == of_index => None,
        (Ok(_), Ok(_)) => Some("the words that are indexed are not those of the records".to_owned()),
        (Err(error), _) | (_, Err(error)) => Some(format!("the words cannot be read: {error}")),
    }
}

/// How many words there are, and the sum of what stands for each.
type Sum = (u64, u64);

fn add(sum: &mut Sum, word: &str, seq: i64) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seq.to_le_bytes()).update(word.as_bytes());
    let mut short = [0; 8];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    *sum = (sum.0 + 1, sum.1.wrapping_add(u64::from_le_bytes(short)));
}

/// Returns the words of the records; `None` where the index has another number of them for a record.
fn words_of_records(connection: &Connection) -> rusqlite::Result<Option<Sum>> {
    let sizes: i64 = connection.query_row("SELECT count(*) FROM record_words_docsize", [], |row| row.get(0))?;
    let sql = format!(
        "SELECT {}, r.wall, d.sz FROM {} LEFT JOIN record_words_docsize AS d ON d.id = r.seq",
        read::COLUMNS,
        read::FROM
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let (mut sum, mut records) = ((0, 0), 0);
    while let Some(row) = rows.next()? {
        records += 1;
        let record = read::record(row)?;
        let text = words::index_text(row.get(read::COLUMN_COUNT)?, &record);
        let mut words: Vec<&str> = text.split_ascii_whitespace().collect();
        let size = row.get_ref(read::COLUMN_COUNT + 1)?.as_blob_or_null()?.map(first_varint);
        if size.is_none_or(|size| size as usize != words.len()) {
            return Ok(None);
        }
        words.sort_unstable();
        words.dedup();
        words.into_iter().for_each(|word| add(&mut sum, word, record.seq));
    }
    Ok((sizes == records).then_some(sum))
}

fn words_of_index(connection: &Connection) -> rusqlite::Result<Sum> {
    connection.execute_batch(
        "DROP TABLE IF EXISTS temp.record_instances; \
         CREATE VIRTUAL TABLE temp.record_instances USING fts5vocab (main, record_words, instance)",
    )?;
    let mut statement = connection.prepare("SELECT term, doc FROM temp.record_instances")?;
    let mut rows = statement.query([])?;
    let mut sum = (0, 0);
    while let Some(row) = rows.next()? {
        add(&mut sum, row.get_ref(0)?.as_str()?, row.get(1)?);
    }
    Ok(sum)
}

/// Makes anew what is derived: in one commit, so that no search sees half of it. The log of changes begins anew with a gap,
/// so that every process reads its vectors again.
fn rebuild(connection: &Connection) -> Result<()> {
    let failed = internal(OPERATION);
    let begun = connection.execute_batch("BEGIN IMMEDIATE");
    begun.map_err(&failed)?;
    let made = open::index_anew(connection).and_then(|()| {
        connection.execute_batch(
            "DELETE FROM vectors WHERE seq IN (SELECT v.seq FROM vectors AS v LEFT JOIN models AS m USING (model) \
               WHERE m.model IS NULL OR length(v.data) <> 2 * m.dimensions \
               OR NOT EXISTS (SELECT 1 FROM records WHERE seq = v.seq)); \
             DELETE FROM kv_tags; \
             INSERT OR IGNORE INTO kv_tags (wall, tag, key) \
               SELECT k.wall, own.value, k.key FROM kv AS k, json_each(k.tags) AS own; \
             DELETE FROM changes; INSERT INTO changes (wall, seq) VALUES (0, 0); DELETE FROM changes; \
             INSERT INTO changes (wall, seq) SELECT wall, 0 FROM walls",
        )
    });
    match made {
        Ok(()) => connection.execute_batch("COMMIT").map_err(failed),
        Err(error) => {
            connection.execute_batch("ROLLBACK").map_err(&failed)?;
            Err(failed(error))
        }
    }
}
