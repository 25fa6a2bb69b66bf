//! Whether what is derived agrees with what it is derived from. Whether the data itself is whole, Postgres knows.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::{
    link::{Link, Taken, column},
    migrate::Vectors,
    read,
    vectors::{self, Model},
    write,
};
use crate::{
    Error, ErrorKind, Result,
    memory::{CheckReport, Problem, Repair, revise::content_hash},
};

const OPERATION: &str = "memory.check";
/// Records that are looked at, or written anew, at a time.
const PAGE: usize = 500;
/// Records that cannot be read, of those that are named.
const SHOWN: usize = 5;
/// Class of the codes by which Postgres says that its files are damaged.
const DAMAGED: &str = "XX";
/// What to do about the data itself.
const RESTORE: &str = "go back to the last backup of the database (`pg_restore`, or a replica); what Postgres says of its own \
     files: `pg_amcheck`";
const REPAIR: &str = "`sophia memory check --repair` makes it anew";

/// What does not agree.
#[derive(Debug, Default)]
struct Found {
    /// What of the data cannot be read.
    data: Vec<String>,
    /// Records whose words are others than those that are indexed.
    words: Vec<i64>,
    /// Records that filters do not find by what they are.
    filters: Vec<i64>,
    /// Records with another vector than it seems, or one that is too long or too short.
    vectors: Vec<i64>,
    /// Walls that have another number of records or words than is counted.
    walls: Vec<i64>,
    /// Models without their index.
    models: Vec<Model>,
}

/// Looks at everything; what is damaged and derived is made anew where that is asked for.
pub(super) async fn check(link: &Link, repair: Repair) -> Result<CheckReport> {
    let found = look(link).await?;
    let problems = problems(&found);
    let is_repairable = found.data.is_empty() && !problems.is_empty();
    if repair == Repair::Report || !is_repairable {
        return Ok(CheckReport::of(problems));
    }
    rebuild(link, &found).await?;
    Ok(CheckReport::repaired(problems, &self::problems(&look(link).await?)))
}

fn problems(found: &Found) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut say = |part: &'static str, fix: &str, count: usize, detail: String| {
        if count > 0 {
            problems.push(Problem { part, detail, repaired: false, fix: Some(fix.to_owned()) });
        }
    };
    let Found { data, words, filters, vectors, walls, models } = found;
    say("data", RESTORE, data.len(), data.join("; "));
    let detail = match (words.len(), walls.len()) {
        (0, walls) => format!("{walls} scopes have another number of records or words than is counted"),
        (words, _) => format!("the words of {words} records are not those that are indexed"),
    };
    say("words", REPAIR, words.len() + walls.len(), detail);
    let detail = format!("{} records are filtered by what they are not", filters.len());
    say("filters", REPAIR, filters.len(), detail);
    let detail = match (vectors.len(), models.len()) {
        (0, models) => format!("the vectors of {models} models have no index"),
        (vectors, _) => format!("{vectors} records have another vector than is noted, or one of the wrong length"),
    };
    say("vectors", REPAIR, vectors.len() + models.len(), detail);
    problems
}

/// Reads everything, as of one moment; each page within the time of a call.
async fn look(link: &Link) -> Result<Found> {
    let mut found = Found::default();
    match look_at_all(link, &mut found).await {
        Err(error) if error.get("postgres").is_some_and(|code| code.starts_with(DAMAGED)) => {
            found
                .data
                .push(format!("Postgres says that its files are damaged: {}", error.get("postgres").unwrap_or("")));
            Ok(found)
        }
        outcome => outcome.map(|()| found),
    }
}

async fn look_at_all(link: &Link, found: &mut Found) -> Result<()> {
    let taken = link.within(OPERATION, link.begin_reading(OPERATION)).await?;
    let mut counted = BTreeMap::new();
    let mut after = i64::MIN;
    while let Some(last) = link.within(OPERATION, look_at_page(&taken, after, found, &mut counted)).await? {
        after = last;
    }
    let rest = async {
        for row in &taken.query("SELECT wall, records, words FROM walls", &[]).await? {
            let wall: i64 = column(row, 0)?;
            if counted.get(&wall).copied().unwrap_or_default() != (column(row, 1)?, column(row, 2)?) {
                found.walls.push(wall);
            }
        }
        if taken.tables.vectors == Vectors::Half {
            found.models = vectors::without_index(&taken).await?;
        }
        taken.commit().await
    };
    link.within(OPERATION, rest).await
}

/// Looks at some records, and counts them and their words by their walls; returns the last one of them.
async fn look_at_page(
    taken: &Taken,
    after: i64,
    found: &mut Found,
    counted: &mut BTreeMap<i64, (i64, i64)>,
) -> Result<Option<i64>> {
    let sql = format!(
        "SELECT {}, r.wall, r.length, tsvector_to_array(r.words), r.facts, r.hash, r.model, v.model, m.dimensions, {} \
         FROM {} LEFT JOIN vectors AS v ON v.seq = r.seq LEFT JOIN models AS m ON m.model = v.model \
         WHERE r.seq > $1 ORDER BY r.seq LIMIT {PAGE}",
        read::COLUMNS,
        vectors::dimensions(taken),
        read::FROM
    );
    let rows = taken.query(&sql, &[&after]).await?;
    let mut last = None;
    for row in &rows {
        let seq: i64 = column(row, 0)?;
        last = Some(seq);
        let (wall, length): (i64, i32) = (column(row, 21)?, column(row, 22)?);
        let of_wall = counted.entry(wall).or_default();
        *of_wall = (of_wall.0 + 1, of_wall.1 + i64::from(length));
        look_at(row, seq, found)?;
    }
    Ok(last)
}

fn look_at(row: &Row, seq: i64, found: &mut Found) -> Result<()> {
    let (wall, length): (i64, i32) = (column(row, 21)?, column(row, 22)?);
    let Ok(record) = read::record(row) else {
        if found.data.len() < SHOWN {
            found.data.push(format!("record {seq} cannot be read"));
        }
        return Ok(());
    };
    let (words, expected) = write::lexemes(wall, &record);
    let mut indexed: Vec<String> = column(row, 23)?;
    indexed.sort_unstable();
    if (words, expected) != (indexed, length) {
        found.words.push(seq);
    }
    let (facts, hash): (Vec<Vec<u8>>, Vec<u8>) = (column(row, 24)?, column(row, 25)?);
    if facts != write::facts(&record) || hash != content_hash(&record.content) {
        found.filters.push(seq);
    }
    let (noted, model): (Option<i32>, Option<i32>) = (column(row, 26)?, column(row, 27)?);
    let (wanted, dimensions): (Option<i32>, Option<i32>) = (column(row, 28)?, column(row, 29)?);
    if noted != model || wanted != dimensions {
        found.vectors.push(seq);
    }
    Ok(())
}

/// Makes anew what is derived, some records at a time: others go on meanwhile.
async fn rebuild(link: &Link, found: &Found) -> Result<()> {
    for seqs in [&found.words, &found.filters].into_iter().flat_map(|seqs| seqs.chunks(PAGE)) {
        link.within(OPERATION, write::index_anew(link, seqs)).await?;
    }
    for seqs in found.vectors.chunks(PAGE) {
        link.within(OPERATION, vectors::note_anew(link, seqs)).await?;
    }
    for wall in &found.walls {
        link.within(OPERATION, write::count_anew(link, *wall)).await?;
    }
    for model in &found.models {
        // However long it takes.
        vectors::index_anew(link, *model).await.map_err(cannot_index)?;
    }
    Ok(())
}

fn cannot_index(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unauthorized => {
            let message = "only the owner of the table `vectors` may make its index: run the repair as that user";
            Error::new(ErrorKind::Unauthorized, OPERATION, message).with_source(error)
        }
        _ => error,
    }
}
