//! Reading everything page by page, and writing it as it was elsewhere.

use std::path::PathBuf;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter, types::Value as Sql};

use super::{SqliteStore, backup, check, checkpoints, filter, graph, internal, kv, micros, read, timestamp, write};
use crate::{
    Error, Result, Scope,
    memory::{
        Archive, CheckReport, Item, ItemPage, KeptEntity, KeptFact, KeptKey, KeptRecord, Outcome, Part, Record, Repair,
        archive::{
            merge::{self, Replacement},
            pages,
        },
        half,
        store::{Key, NamedVector},
    },
};

const READ: &str = "memory.export";
const WRITE: &str = "memory.import";

#[async_trait]
impl Archive for SqliteStore {
    async fn read_items(
        &self,
        part: Part,
        scope: Option<Scope>,
        after: Option<String>,
        limit: usize,
    ) -> Result<ItemPage> {
        self.read(move |connection| {
            let wall = match &scope {
                None => None,
                Some(scope) => match filter::find_wall(connection, scope)? {
                    None => return Ok(ItemPage::default()),
                    wall => wall,
                },
            };
            let scope = scope.unwrap_or_default();
            if part != Part::Records && (scope.session.is_some() || scope.agent.is_some()) {
                return Ok(ItemPage::default());
            }
            let after = after.unwrap_or_default();
            match part {
                Part::Records => records(connection, wall, &scope, &after, limit),
                Part::Entities => entities(connection, wall, &after, limit),
                Part::Facts => facts(connection, wall, &after, limit),
                Part::Keys => keys(connection, wall, &after, limit),
                Part::Checkpoints => {
                    let limit = limit.min(pages::CHECKPOINTS);
                    checkpoints::kept_checkpoints(connection, wall, pages::number(&after)?, limit)
                }
                Part::Writes => checkpoints::kept_writes(connection, wall, pages::number(&after)?),
            }
        })
        .await
    }

    async fn write_items(&self, items: Vec<Item>) -> Result<Vec<Outcome>> {
        self.write(move |connection| items.into_iter().map(|item| write_item(connection, item)).collect()).await
    }

    async fn backup(&self, path: PathBuf) -> Result<()> {
        backup::backup(self, path).await
    }

    async fn check(&self, repair: Repair) -> Result<CheckReport> {
        check::check(self, repair).await
    }
}

/// A condition that grows: `wall` where there is one, and what comes after.
fn select(sql: &str, wall: Option<i64>, column: &str) -> (String, Vec<Sql>) {
    match wall {
        Some(wall) => (format!("{sql} WHERE {column} = ?"), vec![Sql::Integer(wall)]),
        None => (format!("{sql} WHERE true"), Vec::new()),
    }
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    values: Vec<Sql>,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_map(params_from_iter(values), read)?.collect())
        .map_err(internal(READ))
}

fn scope(row: &Row<'_>, column: usize) -> rusqlite::Result<Scope> {
    Ok(Scope { tenant: row.get(column)?, user: row.get(column + 1)?, session: None, agent: None })
}

fn records(connection: &Connection, wall: Option<i64>, scope: &Scope, after: &str, limit: usize) -> Result<ItemPage> {
    let (mut sql, mut values) = select(&format!("SELECT {} FROM {}", read::COLUMNS, read::FROM), wall, "r.wall");
    for (column, value) in [("r.session", &scope.session), ("r.agent", &scope.agent)] {
        if let Some(value) = value {
            sql.push_str(&format!(" AND {column} = ?"));
            values.push(Sql::Text(value.clone()));
        }
    }
    sql.push_str(" AND r.seq > ? ORDER BY r.seq LIMIT ?");
    values.extend([Sql::Integer(pages::number(after)?), Sql::Integer(limit as i64)]);
    let items = rows(connection, &sql, values, read::record)?
        .into_iter()
        .map(|record| {
            let (seq, versions) = (record.seq, read::former(connection, record.seq)?);
            let vector = vector(connection, seq)?;
            Ok((seq.to_string(), Item::Record(Box::new(KeptRecord { record, versions, vector, is_undated: false }))))
        })
        .collect::<Result<_>>()?;
    Ok(pages::page(items, limit))
}

fn vector(connection: &Connection, seq: i64) -> Result<Option<NamedVector>> {
    connection
        .prepare_cached("SELECT m.name, v.data FROM vectors AS v JOIN models AS m USING (model) WHERE v.seq = ?1")
        .and_then(|mut statement| {
            let read = |row: &Row<'_>| {
                Ok(NamedVector { model: row.get(0)?, values: half::decode(row.get_ref(1)?.as_blob()?) })
            };
            statement.query_row([seq], read).optional()
        })
        .map_err(internal(READ))
}

fn entities(connection: &Connection, wall: Option<i64>, after: &str, limit: usize) -> Result<ItemPage> {
    let sql = "SELECT e.wall, w.tenant, w.user, e.name, e.kind, e.attributes, e.created_at, e.updated_at \
         FROM entities AS e JOIN walls AS w ON w.wall = e.wall";
    let (mut sql, mut values) = select(sql, wall, "e.wall");
    let (last, name) = pages::wall_and_name(after)?;
    sql.push_str(" AND (e.wall, e.name) > (?, ?) ORDER BY e.wall, e.name LIMIT ?");
    values.extend([Sql::Integer(last), Sql::Text(name.to_owned()), Sql::Integer(limit as i64)]);
    let items = rows(connection, &sql, values, |row| {
        let entity = graph::entity(row, 3)?;
        let cursor = pages::place(row.get(0)?, &entity.name);
        Ok((cursor, Item::Entity(Box::new(KeptEntity { scope: scope(row, 1)?, entity }))))
    })?;
    Ok(pages::page(items, limit))
}

fn facts(connection: &Connection, wall: Option<i64>, after: &str, limit: usize) -> Result<ItemPage> {
    let columns = graph::COLUMNS;
    let sql = format!("SELECT {columns}, w.tenant, w.user, f.fact FROM facts AS f JOIN walls AS w ON w.wall = f.wall");
    let (mut sql, mut values) = select(&sql, wall, "f.wall");
    sql.push_str(" AND f.fact > ? ORDER BY f.fact LIMIT ?");
    values.extend([Sql::Integer(pages::number(after)?), Sql::Integer(limit as i64)]);
    let items = rows(connection, &sql, values, |row| {
        let kept = KeptFact { fact: graph::fact(row)?, scope: scope(row, 11)? };
        Ok((row.get::<_, i64>(13)?.to_string(), Item::Fact(Box::new(kept))))
    })?;
    Ok(pages::page(items, limit))
}

fn keys(connection: &Connection, wall: Option<i64>, after: &str, limit: usize) -> Result<ItemPage> {
    let sql = "SELECT k.wall, w.tenant, w.user, k.key, k.value, k.tags, k.expires_at, k.stale_until \
         FROM kv AS k JOIN walls AS w ON w.wall = k.wall";
    let (mut sql, mut values) = select(sql, wall, "k.wall");
    let (last, name) = pages::wall_and_name(after)?;
    // What the engine keeps for itself, under keys that begin with U+0001, is made anew where it is needed.
    sql.push_str(" AND k.key NOT GLOB char(1) || '*' AND (k.wall, k.key) > (?, ?) ORDER BY k.wall, k.key LIMIT ?");
    values.extend([Sql::Integer(last), Sql::Text(name.to_owned()), Sql::Integer(limit as i64)]);
    let items = rows(connection, &sql, values, |row| {
        let key: String = row.get(3)?;
        let kept = KeptKey {
            scope: scope(row, 1)?,
            value: checkpoints::read_json(row, 4)?,
            tags: checkpoints::read_json(row, 5)?,
            expires_at: row.get::<_, Option<i64>>(6)?.map(timestamp),
            stale_until: row.get::<_, Option<i64>>(7)?.map(timestamp),
            key,
        };
        Ok((pages::place(row.get(0)?, &kept.key), Item::Key(Box::new(kept))))
    })?;
    Ok(pages::page(items, limit))
}

fn write_item(connection: &Connection, item: Item) -> Result<Outcome> {
    match item {
        Item::Record(kept) => write_record(connection, *kept),
        Item::Entity(kept) => write_entity(connection, *kept),
        Item::Fact(kept) => write_fact(connection, *kept),
        Item::Key(kept) => write_key(connection, *kept),
        Item::Checkpoint(kept) => checkpoints::keep(connection, *kept),
        Item::Writes(writes) => checkpoints::keep_writes(connection, &writes),
    }
}

fn write_record(connection: &Connection, mut kept: KeptRecord) -> Result<Outcome> {
    let wall = filter::make_wall(connection, &kept.record.scope)?;
    let vector = kept.vector.take();
    if let Some(vector) = &vector {
        check_dimensions(connection, vector)?;
    }
    let Some(old) = read::in_wall(connection, &kept.record.scope, &Key::Id(kept.record.id.clone()))? else {
        let KeptRecord { mut record, versions, .. } = kept;
        // As long as nothing greater was given, a number means the same record as where it comes from.
        let is_free = (last_seq(connection)?.saturating_add(1)..=merge::MAX_NUMBER).contains(&record.seq);
        record.seq = write::insert_row(connection, wall, &record, is_free.then_some(record.seq))?;
        for version in versions {
            write::keep_version(connection, &Record { seq: record.seq, ..version })?;
        }
        write::index(connection, wall, &record)?;
        write::set_vector(connection, wall, record.seq, vector.as_ref())?;
        return Ok(Outcome::Added);
    };
    let Some(Replacement { record, versions }) = merge::record(&old, kept)? else {
        return Ok(Outcome::Unchanged);
    };
    write::replace(connection, wall, &old, &record)?;
    if let Some(versions) = versions {
        connection
            .prepare_cached("DELETE FROM versions WHERE seq = ?1")
            .and_then(|mut statement| statement.execute([record.seq]))
            .map_err(internal(WRITE))?;
        for version in versions {
            write::keep_version(connection, &Record { seq: record.seq, ..version })?;
        }
    }
    write::set_vector(connection, wall, record.seq, vector.as_ref())?;
    Ok(Outcome::Updated)
}

/// Refuses a vector that is longer or shorter than those of its model.
fn check_dimensions(connection: &Connection, vector: &NamedVector) -> Result<()> {
    let known: Option<i64> = connection
        .prepare_cached("SELECT dimensions FROM models WHERE name = ?1")
        .and_then(|mut statement| statement.query_row([&vector.model], |row| row.get(0)).optional())
        .map_err(internal(WRITE))?;
    match known {
        Some(known) if known != vector.values.len() as i64 => {
            let message = format!("has {} dimensions; those of `{}` have {known}", vector.values.len(), vector.model);
            Err(Error::invalid(WRITE, "vector", message))
        }
        _ => Ok(()),
    }
}

/// Returns the greatest number that was given to a record.
fn last_seq(connection: &Connection) -> Result<i64> {
    connection
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'records'")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(internal(WRITE))
}

fn write_entity(connection: &Connection, kept: KeptEntity) -> Result<Outcome> {
    let KeptEntity { scope, entity } = kept;
    let wall = filter::make_wall(connection, &scope)?;
    let outcome = merge::entity(&graph::find_entity(connection, wall, &entity.name)?, &entity);
    if outcome != Outcome::Unchanged {
        graph::put_entity(connection, wall, &entity)?;
    }
    Ok(outcome)
}

fn write_fact(connection: &Connection, kept: KeptFact) -> Result<Outcome> {
    let KeptFact { scope, fact } = kept;
    let wall = filter::make_wall(connection, &scope)?;
    let known = connection
        .prepare_cached("SELECT wall, expired_at FROM facts WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([&fact.id], |row| Ok((row.get(0)?, row.get(1)?))).optional())
        .map_err(internal(WRITE))?;
    let outcome = merge::fact(known, wall, &fact)?;
    match outcome {
        Outcome::Added => graph::insert(connection, wall, &fact)?,
        Outcome::Updated => connection
            .prepare_cached("UPDATE facts SET expired_at = ?2 WHERE id = ?1")
            .and_then(|mut statement| statement.execute(params![fact.id, fact.expired_at.map(micros)]))
            .map(drop)
            .map_err(internal(WRITE))?,
        Outcome::Unchanged => {}
    }
    Ok(outcome)
}

/// Writes a value where there is none: what is there may be newer, and nothing says when it was set.
fn write_key(connection: &Connection, kept: KeptKey) -> Result<Outcome> {
    let wall = filter::make_wall(connection, &kept.scope)?;
    if kv::has(connection, wall, &kept.key)? {
        return Ok(Outcome::Unchanged);
    }
    kv::put(connection, kept)?;
    Ok(Outcome::Added)
}
