//! The graph as `server-memory` sees it: rows of `entities`, and the facts that are true now.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use rusqlite::{Connection, Row, params, params_from_iter, types::Value as Sql};

use super::{filter, graph, internal, micros, write::json};
use crate::{
    Result, Scope,
    memory::graph::{
        Node, NodeChange, NodeSelection, Nodes, NodesAdded, Observations, Relation,
        stored::{self, Stored},
    },
};

const READ: &str = "memory.graph.nodes";
const CHANGE: &str = "memory.graph.change_nodes";

pub(super) fn nodes(
    connection: &Connection,
    scope: &Scope,
    selection: &NodeSelection,
    now: Timestamp,
) -> Result<Nodes> {
    let Some(wall) = filter::find_wall(connection, scope)? else { return Ok(Nodes::default()) };
    let found = match selection {
        NodeSelection::Named(names) => {
            let mut found = Vec::new();
            for name in names.iter().collect::<HashSet<_>>() {
                found.extend(named(connection, wall, name)?);
            }
            found
        }
        _ => all(connection, wall)?,
    };
    let entities = stored::select(found, selection);
    let relations = if *selection == NodeSelection::All {
        relations(connection, wall, "", &[], now)?
    } else {
        let names: HashSet<&String> = entities.iter().map(|node| &node.name).collect();
        let mut touching = BTreeMap::new();
        for name in names {
            touching.extend(relations(connection, wall, "AND (subject = ?3 OR object = ?3)", &[name], now)?);
        }
        touching
    };
    Ok(Nodes { entities, relations: relations.into_values().collect() })
}

fn read(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored { key: row.get(0)?, kind: row.get(1)?, attributes: graph::object(row, 2)?, created_at: row.get(3)? })
}

fn all(connection: &Connection, wall: i64) -> Result<Vec<Stored>> {
    connection
        .prepare_cached("SELECT name, kind, attributes, created_at FROM entities WHERE wall = ?1")
        .and_then(|mut statement| statement.query_map([wall], read)?.collect())
        .map_err(internal(READ))
}

/// Returns an entity and its copies, the first one first.
fn named(connection: &Connection, wall: i64, name: &str) -> Result<Vec<Stored>> {
    let (first, end) = stored::copies(name);
    let mut found: Vec<Stored> = connection
        .prepare_cached(
            "SELECT name, kind, attributes, created_at FROM entities \
             WHERE wall = ?1 AND (name = ?2 OR (name >= ?3 AND name < ?4))",
        )
        .and_then(|mut statement| statement.query_map(params![wall, name, first, end], read)?.collect())
        .map_err(internal(READ))?;
    found.sort_by_key(|stored| stored.created_at);
    Ok(found)
}

/// Returns relations by the number of their facts, which is the order in which they came.
fn relations(
    connection: &Connection,
    wall: i64,
    condition: &str,
    values: &[&String],
    now: Timestamp,
) -> Result<BTreeMap<i64, Relation>> {
    let sql = format!(
        "SELECT fact, subject, object, predicate FROM facts WHERE wall = ?1 AND expired_at IS NULL AND valid_at <= ?2 \
         AND (invalid_at IS NULL OR invalid_at > ?2) {condition}"
    );
    let values = [Sql::Integer(wall), Sql::Integer(micros(now))]
        .into_iter()
        .chain(values.iter().map(|value| Sql::Text((*value).clone())));
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            let read = |row: &Row<'_>| {
                Ok((row.get(0)?, Relation { from: row.get(1)?, to: row.get(2)?, relation_type: row.get(3)? }))
            };
            statement.query_map(params_from_iter(values), read)?.collect()
        })
        .map_err(internal(READ))
}

/// Returns the facts that are one relation.
fn facts_of(connection: &Connection, wall: i64, relation: &Relation, now: Timestamp) -> Result<Vec<i64>> {
    let condition = "AND subject = ?3 AND object = ?4 AND predicate = ?5";
    let values = [&relation.from, &relation.to, &relation.relation_type];
    Ok(relations(connection, wall, condition, &values, now)?.into_keys().collect())
}

pub(super) fn change(connection: &Connection, scope: &Scope, change: NodeChange, now: Timestamp) -> Result<NodesAdded> {
    let wall = filter::make_wall(connection, scope)?;
    let mut added = NodesAdded::default();
    match change {
        NodeChange::CreateEntities(entities) => added.entities = create_entities(connection, wall, entities, now)?,
        NodeChange::CreateRelations(relations) => added.relations = create_relations(connection, wall, relations, now)?,
        NodeChange::AddObservations(list) => {
            for one in list {
                added.observations.push(add_observations(connection, wall, one, now)?);
            }
        }
        NodeChange::DeleteEntities(names) => {
            for name in &names {
                for stored in named(connection, wall, name)? {
                    execute(
                        connection,
                        "DELETE FROM entities WHERE wall = ?1 AND name = ?2",
                        params![wall, stored.key],
                    )?;
                }
                let sql = "UPDATE facts SET expired_at = ?3 WHERE wall = ?1 AND expired_at IS NULL \
                     AND (subject = ?2 OR object = ?2)";
                execute(connection, sql, params![wall, name, micros(now)])?;
            }
        }
        NodeChange::DeleteObservations(list) => {
            for Observations { entity, contents } in list {
                let Some(mut stored) = named(connection, wall, &entity)?.into_iter().next() else { continue };
                stored.remove(&contents);
                observe(connection, wall, &stored, now)?;
            }
        }
        NodeChange::DeleteRelations(relations) => {
            for relation in &relations {
                for fact in facts_of(connection, wall, relation, now)? {
                    execute(
                        connection,
                        "UPDATE facts SET expired_at = ?2 WHERE fact = ?1",
                        params![fact, micros(now)],
                    )?;
                }
            }
        }
    }
    Ok(added)
}

fn create_entities(connection: &Connection, wall: i64, entities: Vec<Node>, now: Timestamp) -> Result<Vec<Node>> {
    let mut new = Vec::new();
    for entity in entities {
        if named(connection, wall, &entity.name)?.is_empty() {
            new.push(entity);
        }
    }
    let last: Option<i64> = connection
        .prepare_cached("SELECT max(created_at) FROM entities WHERE wall = ?1")
        .and_then(|mut statement| statement.query_row([wall], |row| row.get(0)))
        .map_err(internal(CHANGE))?;
    for Stored { created_at, key, kind, attributes } in stored::create(&new, last, micros(now)) {
        execute(
            connection,
            "INSERT INTO entities (wall, name, kind, attributes, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
            params![wall, key, kind, json(&attributes), created_at],
        )?;
    }
    Ok(new)
}

fn create_relations(
    connection: &Connection,
    wall: i64,
    relations: Vec<Relation>,
    now: Timestamp,
) -> Result<Vec<Relation>> {
    let mut new = Vec::new();
    for relation in relations {
        if facts_of(connection, wall, &relation, now)?.is_empty() {
            new.push(relation);
        }
    }
    for relation in &new {
        graph::insert(connection, wall, &stored::fact_of(relation, now))?;
    }
    Ok(new)
}

fn add_observations(connection: &Connection, wall: i64, add: Observations, now: Timestamp) -> Result<Observations> {
    let Some(mut stored) = named(connection, wall, &add.entity)?.into_iter().next() else {
        return Err(stored::not_found(&add));
    };
    let contents = stored.add(add.contents);
    observe(connection, wall, &stored, now)?;
    Ok(Observations { contents, ..add })
}

/// Writes what was observed of an entity.
fn observe(connection: &Connection, wall: i64, stored: &Stored, now: Timestamp) -> Result<()> {
    execute(
        connection,
        "UPDATE entities SET attributes = ?3, updated_at = ?4 WHERE wall = ?1 AND name = ?2",
        params![wall, stored.key, json(&stored.attributes), micros(now)],
    )
}

fn execute(connection: &Connection, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<()> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(values))
        .map(drop)
        .map_err(internal(CHANGE))
}
