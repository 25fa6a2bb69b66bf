//! The graph: entities and bi-temporal facts. What is known is never overwritten: it is ended, and stated anew.

use std::collections::{HashMap, HashSet, VecDeque};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter, types::Value as Sql};
use serde_json::{Map, Value};

use super::{SqliteStore, filter, internal, micros, nodes, timestamp, write::json};
use crate::{
    Result, Scope,
    memory::graph::{
        Entity, Fact, FactQuery, GraphStore, Neighbor, NeighborQuery, NewEntity, NewFact, NodeChange, NodeSelection,
        Nodes, NodesAdded, PathQuery,
        believe::{Statement, state},
    },
};

const DEFAULT_NEIGHBORS: usize = 100;
const DEFAULT_PATH_DEPTH: usize = 4;
/// Most facts that one entity brings into a walk.
const MAX_FACTS_PER_STEP: usize = 1_000;
/// Most entities that a search for a path visits.
const MAX_VISITED: usize = 10_000;

pub(super) const COLUMNS: &str =
    "id, subject, predicate, object, valid_at, invalid_at, created_at, expired_at, functional, source, metadata";

#[async_trait]
impl GraphStore for SqliteStore {
    async fn upsert(&self, entity: NewEntity, now: Timestamp) -> Result<Entity> {
        self.write(move |connection| upsert(connection, entity, now)).await
    }

    async fn relate(&self, fact: NewFact, now: Timestamp) -> Result<Fact> {
        self.write(move |connection| relate(connection, fact, now)).await
    }

    async fn facts(&self, query: FactQuery, now: Timestamp) -> Result<Vec<Fact>> {
        self.read(move |connection| {
            let Some(wall) = filter::find_wall(connection, &query.scope)? else { return Ok(Vec::new()) };
            facts(connection, wall, &query, now)
        })
        .await
    }

    async fn neighbors(&self, query: NeighborQuery, now: Timestamp) -> Result<Vec<Neighbor>> {
        self.read(move |connection| neighbors(connection, &query, now)).await
    }

    async fn path(&self, query: PathQuery, now: Timestamp) -> Result<Option<Vec<Fact>>> {
        self.read(move |connection| path(connection, &query, now)).await
    }

    async fn nodes(&self, scope: Scope, selection: NodeSelection, now: Timestamp) -> Result<Nodes> {
        self.read(move |connection| nodes::nodes(connection, &scope, &selection, now)).await
    }

    async fn change_nodes(&self, scope: Scope, change: NodeChange, now: Timestamp) -> Result<NodesAdded> {
        self.write(move |connection| nodes::change(connection, &scope, change, now)).await
    }
}

fn upsert(connection: &Connection, new: NewEntity, now: Timestamp) -> Result<Entity> {
    let wall = filter::make_wall(connection, &new.scope)?;
    let old = find_entity(connection, wall, &new.entity)?;
    let mut attributes = old.attributes;
    for (key, value) in new.attributes {
        if value.is_null() {
            attributes.shift_remove(&key);
        } else {
            attributes.insert(key, value);
        }
    }
    let entity = Entity {
        name: new.entity,
        kind: new.kind.or(old.kind),
        attributes,
        created_at: old.created_at.or(Some(now)),
        updated_at: Some(now),
    };
    put_entity(connection, wall, &entity)?;
    Ok(entity)
}

pub(super) fn put_entity(connection: &Connection, wall: i64, entity: &Entity) -> Result<()> {
    let time = |time: Option<Timestamp>| micros(time.unwrap_or(Timestamp::UNIX_EPOCH));
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO entities (wall, name, kind, attributes, created_at, updated_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                wall,
                entity.name,
                entity.kind,
                json(&entity.attributes),
                time(entity.created_at),
                time(entity.updated_at),
            ])
        })
        .map(drop)
        .map_err(internal("memory.graph.upsert"))
}

/// Reads an entity from five columns, the first of which is `column`.
pub(super) fn entity(row: &Row<'_>, column: usize) -> rusqlite::Result<Entity> {
    Ok(Entity {
        name: row.get(column)?,
        kind: row.get(column + 1)?,
        attributes: object(row, column + 2)?,
        created_at: Some(timestamp(row.get(column + 3)?)),
        updated_at: Some(timestamp(row.get(column + 4)?)),
    })
}

/// Returns an entity; one that only facts name has no times.
pub(super) fn find_entity(connection: &Connection, wall: i64, name: &str) -> Result<Entity> {
    let found = connection
        .prepare_cached(
            "SELECT name, kind, attributes, created_at, updated_at FROM entities WHERE wall = ?1 AND name = ?2",
        )
        .and_then(|mut statement| statement.query_row((wall, name), |row| entity(row, 0)).optional())
        .map_err(internal("memory.graph"))?;
    let unknown =
        || Entity { name: name.to_owned(), kind: None, attributes: Map::new(), created_at: None, updated_at: None };
    Ok(found.unwrap_or_else(unknown))
}

fn relate(connection: &Connection, new: NewFact, now: Timestamp) -> Result<Fact> {
    let wall = filter::make_wall(connection, &new.scope)?;
    let Statement { fact, expired, believed } = state(believed(connection, wall, &new)?, new, now);
    expired.iter().try_for_each(|old| expire(connection, old, now))?;
    believed.iter().try_for_each(|new| insert(connection, wall, new))?;
    Ok(fact)
}

/// Returns the facts of the same subject and predicate that the store believes.
fn believed(connection: &Connection, wall: i64, new: &NewFact) -> Result<Vec<Fact>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM facts WHERE wall = ?1 AND subject = ?2 AND predicate = ?3 AND expired_at IS NULL \
         ORDER BY valid_at, fact"
    );
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.query_map((wall, &new.subject, &new.predicate), fact)?.collect())
        .map_err(internal("memory.graph.relate"))
}

fn expire(connection: &Connection, fact: &Fact, now: Timestamp) -> Result<()> {
    connection
        .prepare_cached("UPDATE facts SET expired_at = ?2 WHERE id = ?1")
        .and_then(|mut statement| statement.execute((&fact.id, micros(now))))
        .map(drop)
        .map_err(internal("memory.graph.relate"))
}

pub(super) fn insert(connection: &Connection, wall: i64, fact: &Fact) -> Result<()> {
    connection
        .prepare_cached(&format!(
            "INSERT INTO facts (wall, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
        ))
        .and_then(|mut statement| {
            statement.execute(params![
                wall,
                fact.id,
                fact.subject,
                fact.predicate,
                fact.object,
                micros(fact.valid_at),
                fact.invalid_at.map(micros),
                micros(fact.created_at),
                fact.expired_at.map(micros),
                fact.functional,
                fact.source,
                json(&fact.metadata),
            ])
        })
        .map(drop)
        .map_err(internal("memory.graph.relate"))
}

fn facts(connection: &Connection, wall: i64, query: &FactQuery, now: Timestamp) -> Result<Vec<Fact>> {
    let known_at = micros(query.known_at.unwrap_or(now));
    let as_of = micros(query.as_of.unwrap_or(now));
    let mut sql = format!(
        "SELECT {COLUMNS} FROM facts WHERE wall = ? AND created_at <= ? AND (expired_at IS NULL OR expired_at > ?) \
         AND valid_at <= ? AND (invalid_at IS NULL OR invalid_at > ?)"
    );
    let mut values = vec![
        Sql::Integer(wall),
        Sql::Integer(known_at),
        Sql::Integer(known_at),
        Sql::Integer(as_of),
        Sql::Integer(as_of),
    ];
    for (column, value) in [("subject", &query.subject), ("predicate", &query.predicate), ("object", &query.object)] {
        if let Some(value) = value {
            sql.push_str(&format!(" AND {column} = ?"));
            values.push(Sql::Text(value.clone()));
        }
    }
    sql.push_str(" ORDER BY valid_at, fact LIMIT ?");
    values.push(Sql::Integer(query.limit.unwrap_or(MAX_FACTS_PER_STEP) as i64));
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.query_map(params_from_iter(values), fact)?.collect())
        .map_err(internal("memory.graph.facts"))
}

fn neighbors(connection: &Connection, query: &NeighborQuery, now: Timestamp) -> Result<Vec<Neighbor>> {
    let Some(wall) = filter::find_wall(connection, &query.scope)? else { return Ok(Vec::new()) };
    let (depth, limit) = (query.depth.unwrap_or(1), query.limit.unwrap_or(DEFAULT_NEIGHBORS));
    let mut seen = HashSet::from([query.entity.clone()]);
    let mut queue = VecDeque::from([(query.entity.clone(), 0)]);
    let mut found = Vec::new();
    while let Some((name, steps)) = queue.pop_front() {
        if steps == depth {
            break;
        }
        for (other, fact) in touching(connection, wall, &name, (query.as_of, query.known_at), now)? {
            if found.len() == limit {
                return Ok(found);
            }
            if seen.insert(other.clone()) {
                found.push(Neighbor { entity: find_entity(connection, wall, &other)?, depth: steps + 1, fact });
                queue.push_back((other, steps + 1));
            }
        }
    }
    Ok(found)
}

fn path(connection: &Connection, query: &PathQuery, now: Timestamp) -> Result<Option<Vec<Fact>>> {
    if query.a == query.b {
        return Ok(Some(Vec::new()));
    }
    let Some(wall) = filter::find_wall(connection, &query.scope)? else { return Ok(None) };
    let depth = query.max_depth.unwrap_or(DEFAULT_PATH_DEPTH);
    let mut came_by: HashMap<String, (String, Fact)> = HashMap::new();
    let mut queue = VecDeque::from([(query.a.clone(), 0)]);
    while let Some((name, steps)) = queue.pop_front() {
        if steps == depth || came_by.len() > MAX_VISITED {
            break;
        }
        for (other, fact) in touching(connection, wall, &name, (query.as_of, query.known_at), now)? {
            if other == query.a || came_by.contains_key(&other) {
                continue;
            }
            came_by.insert(other.clone(), (name.clone(), fact));
            if other == query.b {
                return Ok(Some(way_back(came_by, &query.a, other)));
            }
            queue.push_back((other, steps + 1));
        }
    }
    Ok(None)
}

fn way_back(mut came_by: HashMap<String, (String, Fact)>, start: &str, end: String) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut at = end;
    while at != start
        && let Some((before, fact)) = came_by.remove(&at)
    {
        facts.push(fact);
        at = before;
    }
    facts.reverse();
    facts
}

/// Returns the facts that touch an entity, as of a time on each axis, each with the entity at its other end.
fn touching(
    connection: &Connection,
    wall: i64,
    name: &str,
    (as_of, known_at): (Option<Timestamp>, Option<Timestamp>),
    now: Timestamp,
) -> Result<Vec<(String, Fact)>> {
    let query = FactQuery { as_of, known_at, limit: Some(MAX_FACTS_PER_STEP), ..FactQuery::default() };
    let out = facts(connection, wall, &FactQuery { subject: Some(name.to_owned()), ..query.clone() }, now)?;
    let back = facts(connection, wall, &FactQuery { object: Some(name.to_owned()), ..query }, now)?;
    let out = out.into_iter().map(|fact| (fact.object.clone(), fact));
    Ok(out.chain(back.into_iter().map(|fact| (fact.subject.clone(), fact))).collect())
}

pub(super) fn fact(row: &Row<'_>) -> rusqlite::Result<Fact> {
    Ok(Fact {
        id: row.get(0)?,
        subject: row.get(1)?,
        predicate: row.get(2)?,
        object: row.get(3)?,
        valid_at: timestamp(row.get(4)?),
        invalid_at: row.get::<_, Option<i64>>(5)?.map(timestamp),
        created_at: timestamp(row.get(6)?),
        expired_at: row.get::<_, Option<i64>>(7)?.map(timestamp),
        functional: row.get(8)?,
        source: row.get(9)?,
        metadata: object(row, 10)?,
    })
}

pub(super) fn object(row: &Row<'_>, column: usize) -> rusqlite::Result<Map<String, Value>> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
