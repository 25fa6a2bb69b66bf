//! Writing records. Each call is one transaction; the statements of a batch are sent without waiting for each other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::future::{try_join, try_join_all};
use jiff::Timestamp;

use super::{
    filter::{self, Condition},
    json,
    link::{Link, Taken, Value, column, untangled},
    micros,
    read::{self, Hold},
    vectors::{Model, Values},
};
use crate::{
    Error, ErrorKind, Result,
    memory::{
        RetentionConfig,
        config::MAX_HALF_LIVES,
        record::{PINNED, Record, Status},
        revise::{self, NO_VERSION, Revision, content_hash, revise},
        store::{Atomicity, Change, Depth, Draft, Filter, Inserted, Key, NamedVector, SameContent},
        words,
    },
};

/// Most expired records that one purge removes, so that no write waits long for it.
const PURGE_BATCH: i64 = 1_000;
/// Walls above the cap that are trimmed at a time, so that no write waits long for it.
const TRIM_WALLS: i64 = 64;
/// Least importance that is told from none: Postgres refuses numbers that are too small.
const MIN_IMPORTANCE: f64 = 1e-200;
/// Records that are changed by one statement each, at once in flight.
const IN_FLIGHT: usize = 512;
/// Bytes of words of one record that are indexed: Postgres takes 1 MiB with what it adds to each.
const MAX_WORD_BYTES: usize = 512 * 1024;

/// Inserts a record. Where there is one of its id, it gives no row.
const INSERT: &str = "INSERT INTO records (wall, tenant, id, version, session, agent, content, kind, category, tags, \
     metadata, facts, summary, source, role, importance, priority, archived, created_at, updated_at, expires_at, \
     hash, length, words, model) VALUES ($1, $2, $3, $25, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
     $17, $18, $19, $20, $21, $22, array_to_tsvector($23), $24) ON CONFLICT (wall, id) DO NOTHING RETURNING seq";

/// Inserts a record with its vector.
fn insert_with_vector() -> String {
    format!(
        "WITH new AS ({INSERT}) INSERT INTO vectors (seq, model, tenant, data) SELECT seq, $24, $2, $26 FROM new \
         RETURNING seq"
    )
}

/// How the numbers of a wall change: its records, and their words.
pub(super) type Counts = BTreeMap<i64, (i64, i64)>;

pub(super) async fn insert_all(link: &Link, drafts: Vec<Draft>, atomicity: Atomicity) -> Result<Vec<Result<Inserted>>> {
    if drafts.len() < 2 {
        return insert_once(link, drafts, atomicity).await;
    }
    // Others may hold the same ids in another order.
    untangled(|| insert_once(link, drafts.clone(), atomicity)).await
}

async fn insert_once(link: &Link, drafts: Vec<Draft>, atomicity: Atomicity) -> Result<Vec<Result<Inserted>>> {
    const OPERATION: &str = "memory.store";
    let mut models = HashMap::new();
    for vector in drafts.iter().filter_map(|draft| draft.vector.as_ref()) {
        if !models.contains_key(&vector.model) {
            models.insert(
                vector.model.clone(),
                link.model(OPERATION, "embedding", &vector.model, vector.values.len()).await?,
            );
        }
    }
    let taken = link.begin(OPERATION).await?;
    let mut insertion = Insertion { taken: &taken, models, walls: HashMap::new(), counts: Counts::new() };
    let results = insertion.run(drafts, atomicity).await;
    let results = rolled_back(&taken, results).await?;
    finish(&taken, insertion.counts).await?;
    Ok(results)
}

/// Counts what has changed, and ends the transaction. The rows of walls are held last, and in order: for the shortest time,
/// and never by two who wait for each other.
pub(super) async fn finish(taken: &Taken, counts: Counts) -> Result<()> {
    for (wall, (records, words)) in counts.into_iter().filter(|(_, counts)| *counts != (0, 0)) {
        let sql = "UPDATE walls SET records = records + $2, words = words + $3 WHERE wall = $1";
        taken.execute(sql, &[&wall, &records, &words]).await?;
    }
    taken.commit().await
}

/// Ends the transaction where it failed, so that the connection can be used on.
pub(super) async fn rolled_back<T>(taken: &Taken, outcome: Result<T>) -> Result<T> {
    if outcome.is_err() {
        taken.roll_back().await?;
    }
    outcome
}

pub(super) fn count(counts: &mut Counts, wall: i64, records: i64, words: i64) {
    let counted = counts.entry(wall).or_default();
    counted.0 += records;
    counted.1 += words;
}

struct Insertion<'a> {
    taken: &'a Taken,
    models: HashMap<String, Model>,
    walls: HashMap<String, i64>,
    counts: Counts,
}

impl Insertion<'_> {
    async fn run(&mut self, drafts: Vec<Draft>, atomicity: Atomicity) -> Result<Vec<Result<Inserted>>> {
        // In order, so that no two who make walls wait for each other.
        let scopes: BTreeMap<_, _> =
            drafts.iter().map(|draft| (draft.record.scope.wall(), &draft.record.scope)).collect();
        for (key, scope) in scopes {
            let wall = filter::make_wall(self.taken, scope).await?;
            self.walls.insert(key, wall);
        }
        let mut known = self.known(&drafts).await?;
        let mut results = Vec::with_capacity(drafts.len());
        let mut fresh: Vec<(i64, Draft)> = Vec::new();
        for draft in drafts {
            let wall = self.wall(&draft.record)?;
            let is_new = known.insert((wall, draft.record.id.clone()));
            let may_be_first = draft.if_version.is_none_or(|version| version == NO_VERSION);
            if is_new && may_be_first && draft.same_content == SameContent::StoreAgain {
                fresh.push((wall, draft));
                if fresh.len() == IN_FLIGHT {
                    self.insert_fresh(std::mem::take(&mut fresh), atomicity, &mut results).await?;
                }
                continue;
            }
            self.insert_fresh(std::mem::take(&mut fresh), atomicity, &mut results).await?;
            results.push(outcome(self.insert_one(wall, draft).await, atomicity)?);
        }
        self.insert_fresh(fresh, atomicity, &mut results).await?;
        Ok(results)
    }

    fn wall(&self, record: &Record) -> Result<i64> {
        let missing = || Error::new(ErrorKind::Internal, "memory.store", "a scope was not made");
        self.walls.get(&record.scope.wall()).copied().ok_or_else(missing)
    }

    /// Returns which walls and ids of the drafts there are.
    async fn known(&self, drafts: &[Draft]) -> Result<HashSet<(i64, String)>> {
        let walls: Vec<i64> = drafts.iter().map(|draft| self.wall(&draft.record)).collect::<Result<_>>()?;
        let ids: Vec<&str> = drafts.iter().map(|draft| draft.record.id.as_str()).collect();
        let sql = "SELECT r.wall, r.id FROM unnest($1::bigint[], $2::text[]) AS wanted (wall, id) \
                   JOIN records AS r ON r.wall = wanted.wall AND r.id = wanted.id COLLATE \"C\"";
        let rows = self.taken.query(sql, &[&walls, &ids]).await?;
        rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?))).collect()
    }

    /// Inserts records whose ids were not there a moment ago. Where another has taken one since, it is replaced.
    async fn insert_fresh(
        &mut self,
        fresh: Vec<(i64, Draft)>,
        atomicity: Atomicity,
        results: &mut Vec<Result<Inserted>>,
    ) -> Result<()> {
        if fresh.len() > 1 {
            self.taken.prepare(INSERT).await?;
            self.taken.prepare(&insert_with_vector()).await?;
        }
        // Sent in the order of the drafts, so that their numbers are in this order.
        let sent = fresh.iter().map(|(wall, draft)| self.send(*wall, draft));
        let placed = try_join_all(sent).await?;
        for ((wall, draft), placed) in fresh.into_iter().zip(placed) {
            match placed {
                Some((seq, length)) => {
                    count(&mut self.counts, wall, 1, length);
                    results.push(Ok(inserted(&Record { seq, version: 1, ..draft.record }, true)));
                }
                None => results.push(outcome(self.insert_one(wall, draft).await, atomicity)?),
            }
        }
        Ok(())
    }

    /// Inserts one record; returns its number and length, or `None` where there is one of its id.
    async fn send(&self, wall: i64, draft: &Draft) -> Result<Option<(i64, i64)>> {
        let vector = draft.vector.as_ref().and_then(|vector| Some((vector, *self.models.get(&vector.model)?)));
        insert_row(self.taken, wall, &draft.record, 1, vector).await
    }

    /// Inserts one record, or replaces the one of its id, or finds the same content.
    async fn insert_one(&mut self, wall: i64, draft: Draft) -> Result<Inserted> {
        let key = Key::Id(draft.record.id.clone());
        if draft.same_content == SameContent::ReturnExisting {
            hold_content(self.taken, wall, &draft.record).await?;
            if draft.if_version.is_some() {
                let existing = read::in_wall(self.taken, &draft.record.scope, &key, Hold::Yes).await?;
                revise::check(existing.as_ref(), &draft.record, draft.if_version)?;
            }
            if let Some(existing) = find_same(self.taken, wall, &draft.record).await? {
                return Ok(inserted(&existing, false));
            }
        }
        loop {
            if let Some(existing) = read::in_wall(self.taken, &draft.record.scope, &key, Hold::Yes).await? {
                let record = revise::replace(&existing, draft.record, draft.if_version)?;
                replace(self.taken, wall, &existing, &record, &mut self.counts).await?;
                let vector = draft.vector.as_ref().and_then(|vector| Some((vector, *self.models.get(&vector.model)?)));
                set_vector(self.taken, record.seq, record.scope.tenant.as_deref(), vector).await?;
                return Ok(inserted(&record, false));
            }
            revise::check(None, &draft.record, draft.if_version)?;
            if let Some((seq, length)) = self.send(wall, &draft).await? {
                count(&mut self.counts, wall, 1, length);
                return Ok(inserted(&Record { seq, version: 1, ..draft.record }, true));
            }
        }
    }
}

/// Inserts one record; returns its number and length, or `None` where there is one of its id.
pub(super) async fn insert_row(
    taken: &Taken,
    wall: i64,
    record: &Record,
    version: i64,
    vector: Option<(&NamedVector, Model)>,
) -> Result<Option<(i64, i64)>> {
    let (words, length) = lexemes(wall, record);
    let (vector, model) = (vector.map(|(vector, _)| Values(vector.values.clone())), vector.map(|(_, model)| model));
    let facts = facts(record);
    let (metadata, priority) = (json(&record.metadata), record.priority.name());
    let archived = record.status == Status::Archived;
    let (created_at, updated_at) = (micros(record.created_at), micros(record.updated_at));
    let expires_at = record.expires_at.map(micros);
    let hash = content_hash(&record.content);
    let (hash, number) = (&hash[..], model.map(|model| model.number));
    let scope = &record.scope;
    let values: [Value<'_>; 25] = [
        &wall,
        &scope.tenant,
        &record.id,
        &scope.session,
        &scope.agent,
        &record.content,
        &record.kind,
        &record.category,
        &record.tags,
        &metadata,
        &facts,
        &record.summary,
        &record.source,
        &record.role,
        &record.importance,
        &priority,
        &archived,
        &created_at,
        &updated_at,
        &expires_at,
        &hash,
        &length,
        &words,
        &number,
        &version,
    ];
    let row = match &vector {
        None => taken.query_opt(INSERT, &values).await?,
        Some(vector) => {
            let values: Vec<_> = values.into_iter().chain([vector as Value<'_>]).collect();
            taken.query_opt(&insert_with_vector(), &values).await?
        }
    };
    row.map(|row| Ok((column(&row, 0)?, i64::from(length)))).transpose()
}

/// Lets an item that fails by itself fail alone, where each stands by itself. Such a failure is found before anything of the
/// item is written; one of Postgres ends the whole transaction.
fn outcome(result: Result<Inserted>, atomicity: Atomicity) -> Result<Result<Inserted>> {
    match result {
        Err(error) if atomicity == Atomicity::Together || error.kind() != ErrorKind::Conflict => Err(error),
        result => Ok(result),
    }
}

fn inserted(record: &Record, created: bool) -> Inserted {
    Inserted { id: record.id.clone(), seq: record.seq, version: record.version, created, expires_at: record.expires_at }
}

/// Lets whoever stores the same content at the same time wait, so that they find it.
async fn hold_content(taken: &Taken, wall: i64, record: &Record) -> Result<()> {
    let hash = content_hash(&record.content);
    let place = i64::from_le_bytes(hash[..8].try_into().unwrap_or_default()) ^ wall;
    taken.query("SELECT pg_advisory_xact_lock($1)", &[&place]).await.map(drop)
}

async fn find_same(taken: &Taken, wall: i64, record: &Record) -> Result<Option<Record>> {
    let hash = content_hash(&record.content);
    let sql = format!(
        "SELECT {} FROM {} WHERE r.wall = $1 AND r.hash = $2 AND r.kind = $3 AND r.session IS NOT DISTINCT FROM $4 \
         AND r.agent IS NOT DISTINCT FROM $5 AND NOT r.archived AND (r.expires_at IS NULL OR r.expires_at > $6) \
         AND r.content = $7 ORDER BY r.seq LIMIT 1",
        read::COLUMNS,
        read::FROM
    );
    let (scope, now) = (&record.scope, micros(record.updated_at));
    let values: [Value<'_>; 7] = [&wall, &&hash[..], &record.kind, &scope.session, &scope.agent, &now, &record.content];
    taken.query_opt(&sql, &values).await?.map(|row| read::record(&row)).transpose()
}

pub(super) async fn update(link: &Link, change: Change) -> Result<Record> {
    const OPERATION: &str = "memory.update";
    let Change { update, vector, now } = change;
    let vector = match &vector {
        Some(vector) => Some((vector, link.model(OPERATION, "embedding", &vector.model, vector.values.len()).await?)),
        None => None,
    };
    let taken = link.begin(OPERATION).await?;
    let found = read::in_wall(&taken, &update.scope, &Key::Id(update.id.clone()), Hold::Yes).await?;
    let revision = rolled_back(&taken, revise(found, update, now)).await?;
    let content_changes = revision.is_of_content();
    let Revision { old, new } = revision;
    let wall = filter::make_wall(&taken, &new.scope).await?;
    let mut counts = Counts::new();
    replace(&taken, wall, &old, &new, &mut counts).await?;
    if content_changes {
        set_vector(&taken, new.seq, new.scope.tenant.as_deref(), vector).await?;
    }
    finish(&taken, counts).await?;
    Ok(new)
}

/// Keeps a former state of a record.
pub(super) async fn keep_version(taken: &Taken, old: &Record) -> Result<()> {
    let keep = "INSERT INTO versions (seq, version, tenant, body) VALUES ($1, $2, $3, $4)";
    let body = json(old);
    let kept: [Value<'_>; 4] = [&old.seq, &old.version, &old.scope.tenant, &body];
    taken.execute(keep, &kept).await.map(drop)
}

/// Keeps the old state as a version and writes the new one in its place.
pub(super) async fn replace(taken: &Taken, wall: i64, old: &Record, new: &Record, counts: &mut Counts) -> Result<()> {
    let (words, length) = lexemes(wall, new);
    let change = "WITH old AS (SELECT length FROM records WHERE seq = $1) \
         UPDATE records SET version = $2, session = $3, agent = $4, content = $5, kind = $6, category = $7, tags = $8, \
         metadata = $9, facts = $10, summary = $11, source = $12, role = $13, importance = $14, priority = $15, \
         archived = $16, updated_at = $17, expires_at = $18, hash = $19, length = $20, words = array_to_tsvector($21) \
         WHERE seq = $1 RETURNING (SELECT length FROM old)";
    let facts = facts(new);
    let (metadata, priority) = (json(&new.metadata), new.priority.name());
    let archived = new.status == Status::Archived;
    let (updated_at, expires_at) = (micros(new.updated_at), new.expires_at.map(micros));
    let hash = content_hash(&new.content);
    let hash = &hash[..];
    let values: [Value<'_>; 21] = [
        &new.seq,
        &new.version,
        &new.scope.session,
        &new.scope.agent,
        &new.content,
        &new.kind,
        &new.category,
        &new.tags,
        &metadata,
        &facts,
        &new.summary,
        &new.source,
        &new.role,
        &new.importance,
        &priority,
        &archived,
        &updated_at,
        &expires_at,
        &hash,
        &length,
        &words,
    ];
    let kept = async {
        match new.version == old.version {
            true => Ok(()),
            false => keep_version(taken, old).await,
        }
    };
    let (_, row) = try_join(kept, taken.query_opt(change, &values)).await?;
    let before: i32 = row.map_or(Ok(0), |row| column(&row, 0))?;
    count(counts, wall, 0, i64::from(length) - i64::from(before));
    Ok(())
}

pub(super) async fn delete(link: &Link, filter: &Filter, depth: Depth) -> Result<u64> {
    untangled(|| delete_once(link, filter, depth)).await
}

async fn delete_once(link: &Link, filter: &Filter, depth: Depth) -> Result<u64> {
    let taken = link.begin("memory.delete").await?;
    let condition = filter::condition(&taken, filter).await?;
    if condition.is_empty() {
        taken.commit().await?;
        return Ok(0);
    }
    let mut counts = Counts::new();
    let deleted = match depth {
        Depth::Erase => erase(&taken, &condition, &mut counts).await?.0,
        Depth::Archive => {
            let sql = format!(
                "SELECT {} FROM {} WHERE {} ORDER BY r.seq FOR UPDATE OF r",
                read::COLUMNS,
                read::FROM,
                condition.sql
            );
            let rows = taken.query(&sql, &condition.values()).await?;
            let records = rows.iter().map(read::record).collect::<Result<Vec<_>>>()?;
            for old in &records {
                let wall = filter::make_wall(&taken, &old.scope).await?;
                replace(&taken, wall, old, &revise::archive(old, filter.now), &mut counts).await?;
            }
            records.len() as u64
        }
    };
    finish(&taken, counts).await?;
    Ok(deleted)
}

/// Removes what a condition keeps, with its words, versions and vectors; returns how many records, versions and vectors.
async fn erase(taken: &Taken, condition: &Condition, counts: &mut Counts) -> Result<(u64, u64, u64)> {
    let sql = format!(
        "WITH gone AS (DELETE FROM records AS r WHERE {} RETURNING r.seq, r.wall, r.length) \
         SELECT wall, count(*), sum(length)::bigint, \
         (SELECT count(*) FROM versions AS v WHERE v.seq IN (SELECT seq FROM gone)), \
         (SELECT count(*) FROM vectors AS v WHERE v.seq IN (SELECT seq FROM gone)) FROM gone GROUP BY wall",
        condition.sql
    );
    let rows = taken.query(&sql, &condition.values()).await?;
    let (mut records, mut versions, mut vectors) = (0, 0, 0);
    for row in &rows {
        let (wall, gone, words): (i64, i64, i64) = (column(row, 0)?, column(row, 1)?, column(row, 2)?);
        count(counts, wall, -gone, -words);
        records += gone.unsigned_abs();
        // The same in each row: of all walls.
        versions = column::<i64>(row, 3)?.unsigned_abs();
        vectors = column::<i64>(row, 4)?.unsigned_abs();
    }
    Ok((records, versions, vectors))
}

/// Removes what a condition keeps, in a transaction that is under way; returns how many records, versions and vectors.
pub(super) async fn erase_within(taken: &Taken, condition: &Condition) -> Result<(u64, u64, u64)> {
    let mut counts = Counts::new();
    let erased = erase(taken, condition, &mut counts).await?;
    for (wall, (records, words)) in counts {
        let sql = "UPDATE walls SET records = records + $2, words = words + $3 WHERE wall = $1";
        taken.execute(sql, &[&wall, &records, &words]).await?;
    }
    Ok(erased)
}

/// Removes some of what has expired.
pub(super) async fn purge(link: &Link, now: Timestamp) -> Result<()> {
    let taken = link.begin("memory.purge").await?;
    // What another process is purging, or changing, is left to it.
    let rows = taken
        .query(
            "WITH due AS (SELECT seq FROM records WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED), \
             gone AS (DELETE FROM records WHERE seq IN (SELECT seq FROM due) RETURNING wall, length) \
             SELECT wall, count(*), sum(length)::bigint FROM gone GROUP BY wall",
            &[&micros(now), &PURGE_BATCH],
        )
        .await?;
    let mut counts = Counts::new();
    for row in &rows {
        count(&mut counts, column(row, 0)?, -column::<i64>(row, 1)?, -column::<i64>(row, 2)?);
    }
    finish(&taken, counts).await
}

/// Makes anew what is derived from the texts and the metadata of records.
pub(super) async fn index_anew(link: &Link, seqs: &[i64]) -> Result<()> {
    let taken = link.begin("memory.check").await?;
    let sql = format!(
        "SELECT {}, r.wall, r.length FROM {} WHERE r.seq = ANY($1) ORDER BY r.seq FOR UPDATE OF r",
        read::COLUMNS,
        read::FROM
    );
    let mut counts = Counts::new();
    for row in &taken.query(&sql, &[&seqs]).await? {
        let record = read::record(row)?;
        let (wall, before): (i64, i32) = (column(row, 21)?, column(row, 22)?);
        let (words, length) = lexemes(wall, &record);
        let (facts, hash) = (facts(&record), content_hash(&record.content));
        let sql = "UPDATE records SET facts = $2, hash = $3, length = $4, words = array_to_tsvector($5) WHERE seq = $1";
        taken.execute(sql, &[&record.seq, &facts, &&hash[..], &length, &words]).await?;
        count(&mut counts, wall, 0, i64::from(length) - i64::from(before));
    }
    finish(&taken, counts).await
}

/// Counts the records and the words of a wall anew.
pub(super) async fn count_anew(link: &Link, wall: i64) -> Result<()> {
    let taken = link.begin("memory.check").await?;
    // Whoever adds a record holds its wall until it is counted; whoever removes one counts it after this.
    taken.query("SELECT 1 FROM walls WHERE wall = $1 FOR UPDATE", &[&wall]).await?;
    let sql = "UPDATE walls SET (records, words) = (SELECT count(*), coalesce(sum(length), 0)::bigint FROM records \
               WHERE wall = $1) WHERE wall = $1";
    taken.execute(sql, &[&wall]).await?;
    taken.commit().await
}

/// Erases what is above the cap of a wall, worth least first. What is pinned stays, whatever the cap is.
///
/// As [`RetentionConfig::worth`], computed where the records are.
pub(super) async fn trim(link: &Link, retention: &RetentionConfig, now: Timestamp) -> Result<()> {
    const OPERATION: &str = "memory.retention";
    let Some(most) = retention.max_records.map(|most| i64::try_from(most).unwrap_or(i64::MAX)) else { return Ok(()) };
    let full = {
        let sql = "SELECT wall FROM walls WHERE records > $1 ORDER BY records DESC LIMIT $2";
        let rows = link.session(OPERATION).await?.query(sql, &[&most, &TRIM_WALLS]).await?;
        rows.iter().map(|row| column(row, 0)).collect::<Result<Vec<i64>>>()?
    };
    let half_life = retention.half_life.map(|half_life| half_life.as_micros() as f64);
    for wall in full {
        let taken = link.begin(OPERATION).await?;
        // One process at a time counts what is above, and erases it: two would erase twice as much.
        let sql = "SELECT records FROM walls WHERE wall = $1 AND records > $2 FOR NO KEY UPDATE SKIP LOCKED";
        let mut counts = Counts::new();
        if let Some(row) = taken.query_opt(sql, &[&wall, &most]).await? {
            let above = (column::<i64>(&row, 0)? - most).min(PURGE_BATCH);
            // What another process is changing is left to the next time.
            let sql = "WITH due AS (SELECT seq FROM records WHERE wall = $1 AND importance < $2 ORDER BY archived DESC, \
                 CASE WHEN $3::float8 IS NULL THEN importance WHEN importance < $7 THEN 0 ELSE importance * \
                 power(0.5::float8, least(greatest($4 - updated_at, 0)::float8 / $3, $5)) END, seq \
                 LIMIT $6 FOR UPDATE SKIP LOCKED), \
                 gone AS (DELETE FROM records WHERE seq IN (SELECT seq FROM due) RETURNING length) \
                 SELECT count(*), coalesce(sum(length), 0)::bigint FROM gone";
            let values: [Value<'_>; 7] =
                [&wall, &PINNED, &half_life, &micros(now), &MAX_HALF_LIVES, &above, &MIN_IMPORTANCE];
            if let Some(row) = taken.query_opt(sql, &values).await? {
                count(&mut counts, wall, -column::<i64>(&row, 0)?, -column::<i64>(&row, 1)?);
            }
        }
        finish(&taken, counts).await?;
    }
    Ok(())
}

/// Sets or removes the vector of a record.
pub(super) async fn set_vector(
    taken: &Taken,
    seq: i64,
    tenant: Option<&str>,
    vector: Option<(&NamedVector, Model)>,
) -> Result<()> {
    let number = vector.map(|(_, model)| model.number);
    taken.execute("UPDATE records SET model = $2 WHERE seq = $1", &[&seq, &number]).await?;
    match vector {
        Some((vector, model)) => {
            let sql = "INSERT INTO vectors (seq, model, tenant, data) VALUES ($1, $2, $3, $4) \
                       ON CONFLICT (seq) DO UPDATE SET model = excluded.model, data = excluded.data";
            let values = Values(vector.values.clone());
            taken.execute(sql, &[&seq, &model.number, &tenant, &values]).await?;
        }
        None => {
            taken.execute("DELETE FROM vectors WHERE seq = $1", &[&seq]).await?;
        }
    }
    Ok(())
}

/// Returns the distinct words of a record as they are indexed, and how many words it has.
pub(super) fn lexemes(wall: i64, record: &Record) -> (Vec<String>, i32) {
    let text = words::index_text(wall, record);
    let mut distinct = BTreeSet::new();
    let (mut length, mut bytes) = (0_i32, 0);
    for word in text.split_ascii_whitespace() {
        length = length.saturating_add(1);
        if bytes < MAX_WORD_BYTES && distinct.insert(word) {
            bytes += word.len();
        }
    }
    (distinct.into_iter().map(str::to_owned).collect(), length)
}

/// Returns what stands for the metadata of a record in exact filters.
pub(super) fn facts(record: &Record) -> Vec<Vec<u8>> {
    record.metadata.iter().map(|(key, value)| filter::fact(key, value)).collect()
}
