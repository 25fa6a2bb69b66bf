//! Reading everything page by page, and writing it as it was elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use async_trait::async_trait;
use tokio_postgres::Row;

use super::{
    PostgresStore, check, checkpoints,
    filter::{self, Condition},
    graph, kv,
    link::{Taken, Value, column},
    listen, micros,
    read::{self, Hold},
    read_json, timestamp,
    vectors::{Model, Values},
    write::{self, Counts},
};
use crate::{
    Error, ErrorKind, Result, Scope,
    memory::{
        Archive, CheckReport, Item, ItemPage, KeptEntity, KeptFact, KeptKey, KeptRecord, Outcome, Part, Record, Repair,
        archive::{
            merge::{self, Replacement},
            pages,
        },
        kv::KvKey,
        store::{Key, NamedVector},
    },
};

const READ: &str = "memory.export";
const WRITE: &str = "memory.import";

#[async_trait]
impl Archive for PostgresStore {
    async fn read_items(
        &self,
        part: Part,
        scope: Option<Scope>,
        after: Option<String>,
        limit: usize,
    ) -> Result<ItemPage> {
        let work = async {
            let taken = self.link().begin_reading(READ).await?;
            let page = read_items(&taken, part, scope, &after.unwrap_or_default(), limit).await;
            let page = write::rolled_back(&taken, page).await?;
            taken.commit().await?;
            Ok(page)
        };
        self.link().within(READ, work).await
    }

    async fn write_items(&self, items: Vec<Item>) -> Result<Vec<Outcome>> {
        let work = async {
            self.purge().await?;
            let mut models = HashMap::new();
            for item in &items {
                if let Item::Record(kept) = item
                    && let Some(NamedVector { model, values }) = &kept.vector
                {
                    models.insert(model.clone(), self.link().model(WRITE, "vector", model, values.len()).await?);
                }
            }
            let taken = self.link().begin(WRITE).await?;
            let mut writing = Writing {
                taken: &taken,
                models,
                walls: HashMap::new(),
                last: None,
                counts: Counts::new(),
                keys: Vec::new(),
            };
            let outcomes = writing.run(items).await;
            let outcomes = write::rolled_back(&taken, outcomes).await?;
            listen::tell_everyone(&taken, self.ears(), &writing.keys).await?;
            write::finish(&taken, writing.counts).await?;
            Ok(outcomes)
        };
        self.link().within(WRITE, work).await
    }

    async fn backup(&self, _path: PathBuf) -> Result<()> {
        let schema = self.link().schema();
        let message = format!(
            "what is in Postgres is backed up by its own tools: `pg_dump --format=custom --schema={schema} --file=FILE URL`, \
             and `pg_restore` to go back; `memory.export` writes a file of our own"
        );
        Err(Error::new(ErrorKind::Unsupported, "memory.backup", message).with("schema", schema))
    }

    async fn check(&self, repair: Repair) -> Result<CheckReport> {
        check::check(self.link(), repair).await
    }
}

async fn read_items(taken: &Taken, part: Part, scope: Option<Scope>, after: &str, limit: usize) -> Result<ItemPage> {
    let wall = match &scope {
        None => None,
        Some(scope) => match filter::find_wall(taken, scope).await? {
            None => return Ok(ItemPage::default()),
            wall => wall,
        },
    };
    let scope = scope.unwrap_or_default();
    if part != Part::Records && (scope.session.is_some() || scope.agent.is_some()) {
        return Ok(ItemPage::default());
    }
    match part {
        Part::Records => records(taken, wall, &scope, after, limit).await,
        Part::Entities => entities(taken, wall, after, limit).await,
        Part::Facts => facts(taken, wall, after, limit).await,
        Part::Keys => keys(taken, wall, after, limit).await,
        Part::Checkpoints => {
            checkpoints::kept_checkpoints(taken, wall, pages::number(after)?, limit.min(pages::CHECKPOINTS)).await
        }
        Part::Writes => checkpoints::kept_writes(taken, wall, pages::number(after)?).await,
    }
}

/// Reads whose a row is: the tenant at a place of the row, and the user behind it.
fn scope(row: &Row, at: usize) -> Result<Scope> {
    Ok(Scope { tenant: column(row, at)?, user: column(row, at + 1)?, session: None, agent: None })
}

async fn records(taken: &Taken, wall: Option<i64>, scope: &Scope, after: &str, limit: usize) -> Result<ItemPage> {
    let mut condition = match wall {
        Some(wall) => Condition::in_wall(wall, scope),
        None => Condition::of_everyone(),
    };
    let (after, most) = (condition.bind(pages::number(after)?), condition.bind(read::integer(limit)));
    let sql = format!(
        "SELECT {} FROM {} WHERE {} AND r.seq > {after} ORDER BY r.seq LIMIT {most}",
        read::COLUMNS,
        read::FROM,
        condition.sql
    );
    let rows = taken.query(&sql, &condition.values()).await?;
    let records = rows.iter().map(read::record).collect::<Result<Vec<_>>>()?;
    let seqs: Vec<i64> = records.iter().map(|record| record.seq).collect();
    let mut versions: HashMap<i64, Vec<Record>> = HashMap::new();
    let sql = "SELECT seq, body FROM versions WHERE seq = ANY($1) ORDER BY seq, version";
    for row in &taken.query(sql, &[&seqs]).await? {
        versions.entry(column(row, 0)?).or_default().push(read_json(column(row, 1)?)?);
    }
    let mut vectors: HashMap<i64, NamedVector> = HashMap::new();
    let sql = "SELECT v.seq, m.name, v.data FROM vectors AS v JOIN models AS m USING (model) WHERE v.seq = ANY($1)";
    for row in &taken.query(sql, &[&seqs]).await? {
        let Values(values) = column(row, 2)?;
        vectors.insert(column(row, 0)?, NamedVector { model: column(row, 1)?, values });
    }
    let items = records.into_iter().map(|record| {
        let seq = record.seq;
        let (versions, vector) = (versions.remove(&seq).unwrap_or_default(), vectors.remove(&seq));
        (seq.to_string(), Item::Record(Box::new(KeptRecord { record, versions, vector, is_undated: false })))
    });
    Ok(pages::page(items.collect(), limit))
}

async fn entities(taken: &Taken, wall: Option<i64>, after: &str, limit: usize) -> Result<ItemPage> {
    let (last, name) = pages::wall_and_name(after)?;
    let sql = "SELECT e.name, e.kind, e.attributes, e.created_at, e.updated_at, e.wall, w.tenant, w.\"user\" \
         FROM entities AS e JOIN walls AS w ON w.wall = e.wall WHERE ($1::bigint IS NULL OR e.wall = $1) \
         AND (e.wall, e.name) > ($2, $3 COLLATE \"C\") ORDER BY e.wall, e.name LIMIT $4";
    let rows = taken.query(sql, &[&wall, &last, &name, &read::integer(limit)]).await?;
    let items = rows.iter().map(|row| {
        let entity = graph::entity(row)?;
        let cursor = pages::place(column(row, 5)?, &entity.name);
        Ok((cursor, Item::Entity(Box::new(KeptEntity { scope: scope(row, 6)?, entity }))))
    });
    Ok(pages::page(items.collect::<Result<_>>()?, limit))
}

async fn facts(taken: &Taken, wall: Option<i64>, after: &str, limit: usize) -> Result<ItemPage> {
    let sql = format!(
        "SELECT {}, w.tenant, w.\"user\", f.fact FROM (SELECT * FROM facts WHERE ($1::bigint IS NULL OR wall = $1) \
         AND fact > $2 ORDER BY fact LIMIT $3) AS f JOIN walls AS w USING (wall) ORDER BY f.fact",
        graph::COLUMNS
    );
    let rows = taken.query(&sql, &[&wall, &pages::number(after)?, &read::integer(limit)]).await?;
    let items = rows.iter().map(|row| {
        let kept = KeptFact { fact: graph::fact(row)?, scope: scope(row, 11)? };
        Ok((column::<i64>(row, 13)?.to_string(), Item::Fact(Box::new(kept))))
    });
    Ok(pages::page(items.collect::<Result<_>>()?, limit))
}

async fn keys(taken: &Taken, wall: Option<i64>, after: &str, limit: usize) -> Result<ItemPage> {
    let (last, name) = pages::wall_and_name(after)?;
    // What the engine keeps for itself, under keys that begin with U+0001, is made anew where it is needed.
    let sql = "SELECT k.wall, w.tenant, w.\"user\", k.key, k.value, k.tags, k.expires_at, k.stale_until \
         FROM kv AS k JOIN walls AS w ON w.wall = k.wall WHERE ($1::bigint IS NULL OR k.wall = $1) AND k.key >= chr(2) \
         AND (k.wall, k.key) > ($2, $3 COLLATE \"C\") ORDER BY k.wall, k.key LIMIT $4";
    let rows = taken.query(sql, &[&wall, &last, &name, &read::integer(limit)]).await?;
    let items = rows.iter().map(|row| {
        let (expires_at, stale_until): (Option<i64>, Option<i64>) = (column(row, 6)?, column(row, 7)?);
        let kept = KeptKey {
            scope: scope(row, 1)?,
            key: column(row, 3)?,
            value: read_json(column(row, 4)?)?,
            tags: column(row, 5)?,
            expires_at: expires_at.map(timestamp),
            stale_until: stale_until.map(timestamp),
        };
        Ok((pages::place(column(row, 0)?, &kept.key), Item::Key(Box::new(kept))))
    });
    Ok(pages::page(items.collect::<Result<_>>()?, limit))
}

/// Items that are written in one transaction.
struct Writing<'a> {
    taken: &'a Taken,
    models: HashMap<String, Model>,
    walls: HashMap<String, i64>,
    /// The greatest number that was given to a record, where nobody else is given one until the transaction ends.
    last: Option<i64>,
    counts: Counts,
    /// Keys that have a value now.
    keys: Vec<KvKey>,
}

impl Writing<'_> {
    async fn run(&mut self, items: Vec<Item>) -> Result<Vec<Outcome>> {
        self.hold(&items).await?;
        let mut outcomes = Vec::with_capacity(items.len());
        for item in items {
            outcomes.push(self.write(item).await?);
        }
        Ok(outcomes)
    }

    /// Takes what others may hold as well, in an order that is the same for all, so that no two wait for each other.
    async fn hold(&mut self, items: &[Item]) -> Result<()> {
        let scopes: BTreeMap<_, _> = items.iter().map(|item| (item.scope().wall(), item.scope())).collect();
        for (key, scope) in scopes {
            let wall = filter::make_wall(self.taken, scope).await?;
            self.walls.insert(key, wall);
        }
        let greatest = items.iter().filter_map(|item| match item {
            Item::Record(kept) => Some(kept.record.seq).filter(|seq| *seq <= merge::MAX_NUMBER),
            _ => None,
        });
        if let Some(greatest) = greatest.max()
            && greatest > last_number(self.taken).await?
        {
            // Changes nothing: whoever needs a number waits until the transaction ends.
            self.taken.run("ALTER SEQUENCE records_seq_seq NO CYCLE").await?;
            self.last = Some(last_number(self.taken).await?);
        }
        let graphs = items.iter().filter(|item| matches!(item, Item::Entity(_) | Item::Fact(_)));
        for wall in graphs.map(|item| self.wall(item.scope())).collect::<Result<BTreeSet<_>>>()? {
            graph::hold_all(self.taken, wall).await?;
        }
        let threads: BTreeMap<_, _> = items
            .iter()
            .filter_map(|item| match item {
                Item::Checkpoint(kept) => Some((&kept.checkpoint.scope, &kept.checkpoint.thread)),
                Item::Writes(writes) => Some((&writes.scope, &writes.thread)),
                _ => None,
            })
            .map(|(scope, thread)| ((scope.wall(), thread), scope))
            .collect();
        for ((_, thread), scope) in threads {
            checkpoints::make_thread(self.taken, scope, thread).await?;
        }
        Ok(())
    }

    fn wall(&self, scope: &Scope) -> Result<i64> {
        let missing = || Error::new(ErrorKind::Internal, WRITE, "a scope was not made");
        self.walls.get(&scope.wall()).copied().ok_or_else(missing)
    }

    async fn write(&mut self, item: Item) -> Result<Outcome> {
        match item {
            Item::Record(kept) => self.write_record(*kept).await,
            Item::Entity(kept) => self.write_entity(*kept).await,
            Item::Fact(kept) => self.write_fact(*kept).await,
            Item::Key(kept) => self.write_key(*kept).await,
            Item::Checkpoint(kept) => checkpoints::keep(self.taken, *kept).await,
            Item::Writes(writes) => checkpoints::keep_writes(self.taken, &writes).await,
        }
    }

    async fn write_record(&mut self, mut kept: KeptRecord) -> Result<Outcome> {
        let (taken, wall) = (self.taken, self.wall(&kept.record.scope)?);
        let tenant = kept.record.scope.tenant.clone();
        let vector = kept.vector.take();
        let vector = vector.as_ref().and_then(|vector| Some((vector, *self.models.get(&vector.model)?)));
        loop {
            let key = Key::Id(kept.record.id.clone());
            if let Some(old) = read::in_wall(taken, &kept.record.scope, &key, Hold::Yes).await? {
                let Some(Replacement { record, versions }) = merge::record(&old, kept)? else {
                    return Ok(Outcome::Unchanged);
                };
                write::replace(taken, wall, &old, &record, &mut self.counts).await?;
                if let Some(versions) = versions {
                    taken.execute("DELETE FROM versions WHERE seq = $1", &[&record.seq]).await?;
                    keep_versions(taken, record.seq, versions).await?;
                }
                write::set_vector(taken, record.seq, tenant.as_deref(), vector).await?;
                return Ok(Outcome::Updated);
            }
            let KeptRecord { record, versions, .. } = &kept;
            // As long as nothing greater was given, a number means the same record as where it comes from.
            if let Some(last) = self.last
                && (last + 2..=merge::MAX_NUMBER).contains(&record.seq)
            {
                taken.query("SELECT setval('records_seq_seq', $1, false)", &[&record.seq]).await?;
            }
            let placed = write::insert_row(taken, wall, record, record.version, vector).await?;
            // Where there is none, another has just stored one of this id: it is looked at again.
            if let Some((seq, length)) = placed {
                self.last = self.last.map(|last| last.max(seq));
                write::count(&mut self.counts, wall, 1, length);
                keep_versions(taken, seq, versions.clone()).await?;
                return Ok(Outcome::Added);
            }
        }
    }

    async fn write_entity(&self, kept: KeptEntity) -> Result<Outcome> {
        let KeptEntity { scope, entity } = kept;
        let wall = self.wall(&scope)?;
        let old = graph::find_entity(self.taken, wall, &entity.name).await?;
        let outcome = merge::entity(&old, &entity);
        if outcome != Outcome::Unchanged {
            graph::put_entity(self.taken, wall, scope.tenant.as_deref(), &entity).await?;
        }
        Ok(outcome)
    }

    async fn write_fact(&self, kept: KeptFact) -> Result<Outcome> {
        let KeptFact { scope, fact } = kept;
        let (taken, wall) = (self.taken, self.wall(&scope)?);
        let known = taken.query_opt("SELECT wall, expired_at FROM facts WHERE id = $1", &[&fact.id]).await?;
        let known = known.map(|row| Ok::<_, Error>((column(&row, 0)?, column(&row, 1)?))).transpose()?;
        let outcome = merge::fact(known, wall, &fact)?;
        match outcome {
            Outcome::Added => graph::insert(taken, wall, scope.tenant.as_deref(), &fact).await?,
            Outcome::Updated => {
                let expired_at = fact.expired_at.map(micros);
                let values: [Value<'_>; 2] = [&fact.id, &expired_at];
                taken.execute("UPDATE facts SET expired_at = $2 WHERE id = $1", &values).await?;
            }
            Outcome::Unchanged => {}
        }
        Ok(outcome)
    }

    /// Writes a value where there is none: what is there may be newer, and nothing says when it was set.
    async fn write_key(&mut self, kept: KeptKey) -> Result<Outcome> {
        let key = KvKey::new(&kept.scope, &kept.key);
        if !kv::add(self.taken, &key, kept).await? {
            return Ok(Outcome::Unchanged);
        }
        self.keys.push(key);
        Ok(Outcome::Added)
    }
}

/// Keeps former versions of a record, under its number here.
async fn keep_versions(taken: &Taken, seq: i64, versions: Vec<Record>) -> Result<()> {
    for version in versions {
        write::keep_version(taken, &Record { seq, ..version }).await?;
    }
    Ok(())
}

/// Returns the greatest number that was given to a record.
async fn last_number(taken: &Taken) -> Result<i64> {
    let sql = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM records_seq_seq";
    taken.query_value(sql, &[]).await
}
