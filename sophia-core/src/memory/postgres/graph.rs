//! The graph: entities and bi-temporal facts. What is known is never overwritten: it is ended, and stated anew.

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Map;
use tokio_postgres::Row;

use super::{
    PostgresStore, filter, json,
    link::{Taken, Value, column},
    micros, nodes, read, read_json, timestamp,
};
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
/// Most facts that one entity brings into a walk, in each direction.
const MAX_FACTS_PER_STEP: usize = 1_000;
/// Most entities that a search for a path visits.
const MAX_VISITED: usize = 10_000;

pub(super) const COLUMNS: &str =
    "id, subject, predicate, object, valid_at, invalid_at, created_at, expired_at, functional, source, metadata";

#[async_trait]
impl GraphStore for PostgresStore {
    async fn upsert(&self, entity: NewEntity, now: Timestamp) -> Result<Entity> {
        const OPERATION: &str = "memory.graph.upsert";
        let work = async {
            let taken = self.link().begin(OPERATION).await?;
            let entity = upsert(&taken, entity, now).await?;
            taken.commit().await?;
            Ok(entity)
        };
        self.link().within(OPERATION, work).await
    }

    async fn relate(&self, fact: NewFact, now: Timestamp) -> Result<Fact> {
        const OPERATION: &str = "memory.graph.relate";
        let work = async {
            let taken = self.link().begin(OPERATION).await?;
            let fact = relate(&taken, fact, now).await?;
            taken.commit().await?;
            Ok(fact)
        };
        self.link().within(OPERATION, work).await
    }

    async fn facts(&self, query: FactQuery, now: Timestamp) -> Result<Vec<Fact>> {
        const OPERATION: &str = "memory.graph.facts";
        let work = async {
            let taken = self.link().session(OPERATION).await?;
            let Some(wall) = filter::find_wall(&taken, &query.scope).await? else { return Ok(Vec::new()) };
            facts(&taken, wall, &query, now).await
        };
        self.link().within(OPERATION, work).await
    }

    async fn neighbors(&self, query: NeighborQuery, now: Timestamp) -> Result<Vec<Neighbor>> {
        const OPERATION: &str = "memory.graph.neighbors";
        let work = async { neighbors(&self.link().session(OPERATION).await?, &query, now).await };
        self.link().within(OPERATION, work).await
    }

    async fn path(&self, query: PathQuery, now: Timestamp) -> Result<Option<Vec<Fact>>> {
        const OPERATION: &str = "memory.graph.path";
        let work = async { path(&self.link().session(OPERATION).await?, &query, now).await };
        self.link().within(OPERATION, work).await
    }

    async fn nodes(&self, scope: Scope, selection: NodeSelection, now: Timestamp) -> Result<Nodes> {
        const OPERATION: &str = "memory.graph.nodes";
        let work = async { nodes::nodes(&self.link().session(OPERATION).await?, &scope, &selection, now).await };
        self.link().within(OPERATION, work).await
    }

    async fn change_nodes(&self, scope: Scope, change: NodeChange, now: Timestamp) -> Result<NodesAdded> {
        const OPERATION: &str = "memory.graph.change_nodes";
        let work = async {
            let taken = self.link().begin(OPERATION).await?;
            match nodes::change(&taken, &scope, change, now).await {
                Ok(added) => {
                    taken.commit().await?;
                    Ok(added)
                }
                Err(error) => {
                    taken.roll_back().await?;
                    Err(error)
                }
            }
        };
        self.link().within(OPERATION, work).await
    }
}

/// Lets one after the other change what is known of a subject in a wall, until the transaction ends.
async fn hold(taken: &Taken, wall: i64, subject: &str) -> Result<()> {
    // Nobody is called nothing: that name stands for all of the wall.
    let sql = "SELECT pg_advisory_xact_lock_shared(hashtextextended('', $2)), \
               pg_advisory_xact_lock(hashtextextended($1, $2))";
    taken.query(sql, &[&subject, &wall]).await.map(drop)
}

/// Lets nobody else change what is known in a wall, until the transaction ends.
pub(super) async fn hold_all(taken: &Taken, wall: i64) -> Result<()> {
    taken.query("SELECT pg_advisory_xact_lock(hashtextextended('', $1))", &[&wall]).await.map(drop)
}

async fn upsert(taken: &Taken, new: NewEntity, now: Timestamp) -> Result<Entity> {
    let wall = filter::make_wall(taken, &new.scope).await?;
    hold(taken, wall, &new.entity).await?;
    let old = find_entity(taken, wall, &new.entity).await?;
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
    put_entity(taken, wall, new.scope.tenant.as_deref(), &entity).await?;
    Ok(entity)
}

pub(super) async fn put_entity(taken: &Taken, wall: i64, tenant: Option<&str>, entity: &Entity) -> Result<()> {
    let sql = "INSERT INTO entities (wall, tenant, name, kind, attributes, created_at, updated_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (wall, name) DO UPDATE SET kind = excluded.kind, \
               attributes = excluded.attributes, created_at = excluded.created_at, updated_at = excluded.updated_at";
    let time = |time: Option<Timestamp>| micros(time.unwrap_or(Timestamp::UNIX_EPOCH));
    let (attributes, created_at, updated_at) =
        (json(&entity.attributes), time(entity.created_at), time(entity.updated_at));
    let values: [Value<'_>; 7] = [&wall, &tenant, &entity.name, &entity.kind, &attributes, &created_at, &updated_at];
    taken.execute(sql, &values).await.map(drop)
}

/// Returns an entity; one that only facts name has no times.
pub(super) async fn find_entity(taken: &Taken, wall: i64, name: &str) -> Result<Entity> {
    let name = name.to_owned();
    let known = entities(taken, wall, std::slice::from_ref(&name)).await?.remove(&name);
    Ok(known.unwrap_or_else(|| unknown(name)))
}

fn unknown(name: String) -> Entity {
    Entity { name, kind: None, attributes: Map::new(), created_at: None, updated_at: None }
}

/// Reads an entity.
pub(super) fn entity(row: &Row) -> Result<Entity> {
    Ok(Entity {
        name: column(row, 0)?,
        kind: column(row, 1)?,
        attributes: read_json(column(row, 2)?)?,
        created_at: Some(timestamp(column(row, 3)?)),
        updated_at: Some(timestamp(column(row, 4)?)),
    })
}

async fn entities(taken: &Taken, wall: i64, names: &[String]) -> Result<HashMap<String, Entity>> {
    let sql = "SELECT name, kind, attributes, created_at, updated_at FROM entities WHERE wall = $1 AND name = ANY($2)";
    let rows = taken.query(sql, &[&wall, &names]).await?;
    rows.iter()
        .map(|row| {
            let entity = entity(row)?;
            Ok((entity.name.clone(), entity))
        })
        .collect()
}

async fn relate(taken: &Taken, new: NewFact, now: Timestamp) -> Result<Fact> {
    let wall = filter::make_wall(taken, &new.scope).await?;
    hold(taken, wall, &new.subject).await?;
    let sql = format!(
        "SELECT {COLUMNS} FROM facts WHERE wall = $1 AND subject = $2 AND predicate = $3 AND expired_at IS NULL \
         ORDER BY valid_at, fact"
    );
    let rows = taken.query(&sql, &[&wall, &new.subject, &new.predicate]).await?;
    let others = rows.iter().map(fact).collect::<Result<Vec<_>>>()?;
    let tenant = new.scope.tenant.clone();
    let Statement { fact, expired, believed } = state(others, new, now);
    let expired: Vec<&str> = expired.iter().map(|fact| fact.id.as_str()).collect();
    taken.execute("UPDATE facts SET expired_at = $2 WHERE id = ANY($1)", &[&expired, &micros(now)]).await?;
    for fact in &believed {
        insert(taken, wall, tenant.as_deref(), fact).await?;
    }
    Ok(fact)
}

pub(super) async fn insert(taken: &Taken, wall: i64, tenant: Option<&str>, fact: &Fact) -> Result<()> {
    let sql = format!(
        "INSERT INTO facts (wall, tenant, {COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
    );
    let (valid_at, invalid_at) = (micros(fact.valid_at), fact.invalid_at.map(micros));
    let (created_at, expired_at) = (micros(fact.created_at), fact.expired_at.map(micros));
    let metadata = json(&fact.metadata);
    let values: [Value<'_>; 13] = [
        &wall,
        &tenant,
        &fact.id,
        &fact.subject,
        &fact.predicate,
        &fact.object,
        &valid_at,
        &invalid_at,
        &created_at,
        &expired_at,
        &fact.functional,
        &fact.source,
        &metadata,
    ];
    taken.execute(&sql, &values).await.map(drop)
}

async fn facts(taken: &Taken, wall: i64, query: &FactQuery, now: Timestamp) -> Result<Vec<Fact>> {
    let (known_at, as_of) = (micros(query.known_at.unwrap_or(now)), micros(query.as_of.unwrap_or(now)));
    let limit = read::integer(query.limit.unwrap_or(MAX_FACTS_PER_STEP));
    let mut sql = format!("SELECT {COLUMNS} FROM facts WHERE wall = $1 AND {HOLDS}");
    let mut values: Vec<Value<'_>> = vec![&wall, &known_at, &as_of];
    for (column, value) in [("subject", &query.subject), ("predicate", &query.predicate), ("object", &query.object)] {
        if let Some(value) = value {
            values.push(value);
            sql.push_str(&format!(" AND {column} = ${}", values.len()));
        }
    }
    values.push(&limit);
    sql.push_str(&format!(" ORDER BY valid_at, fact LIMIT ${}", values.len()));
    taken.query(&sql, &values).await?.iter().map(fact).collect()
}

/// What the store believed at `$2` to be true at `$3`.
const HOLDS: &str = "created_at <= $2 AND (expired_at IS NULL OR expired_at > $2) \
     AND valid_at <= $3 AND (invalid_at IS NULL OR invalid_at > $3)";

async fn neighbors(taken: &Taken, query: &NeighborQuery, now: Timestamp) -> Result<Vec<Neighbor>> {
    let Some(wall) = filter::find_wall(taken, &query.scope).await? else { return Ok(Vec::new()) };
    let (depth, limit) = (query.depth.unwrap_or(1), query.limit.unwrap_or(DEFAULT_NEIGHBORS));
    let mut seen = HashSet::from([query.entity.clone()]);
    let mut level = vec![query.entity.clone()];
    let mut found: Vec<(String, usize, Fact)> = Vec::new();
    for steps in 1..=depth {
        let touching = touching(taken, wall, &level, query.as_of, now).await?;
        level.clear();
        for (other, fact) in touching {
            if found.len() < limit && seen.insert(other.clone()) {
                found.push((other.clone(), steps, fact));
                level.push(other);
            }
        }
        if level.is_empty() || found.len() == limit {
            break;
        }
    }
    let names: Vec<String> = found.iter().map(|(name, _, _)| name.clone()).collect();
    let mut known = entities(taken, wall, &names).await?;
    Ok(found
        .into_iter()
        .map(|(name, depth, fact)| Neighbor {
            entity: known.remove(&name).unwrap_or_else(|| unknown(name)),
            depth,
            fact,
        })
        .collect())
}

async fn path(taken: &Taken, query: &PathQuery, now: Timestamp) -> Result<Option<Vec<Fact>>> {
    if query.a == query.b {
        return Ok(Some(Vec::new()));
    }
    let Some(wall) = filter::find_wall(taken, &query.scope).await? else { return Ok(None) };
    let mut came_by: HashMap<String, (String, Fact)> = HashMap::new();
    let mut level = vec![query.a.clone()];
    for _ in 0..query.max_depth.unwrap_or(DEFAULT_PATH_DEPTH) {
        let touching = touching(taken, wall, &level, query.as_of, now).await?;
        level.clear();
        for (other, fact) in touching {
            if other == query.a || came_by.contains_key(&other) {
                continue;
            }
            let before = if fact.object == other { fact.subject.clone() } else { fact.object.clone() };
            came_by.insert(other.clone(), (before, fact));
            if other == query.b {
                return Ok(Some(way_back(came_by, &query.a, other)));
            }
            level.push(other);
        }
        if level.is_empty() || came_by.len() > MAX_VISITED {
            break;
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

/// Returns the facts that touch entities, in the order of these, each with the entity at its other end: first those of which
/// the entity is the subject, the oldest first.
async fn touching(
    taken: &Taken,
    wall: i64,
    names: &[String],
    as_of: Option<Timestamp>,
    now: Timestamp,
) -> Result<Vec<(String, Fact)>> {
    let (known_at, as_of) = (micros(now), micros(as_of.unwrap_or(now)));
    let side = |own: &str, other: &str, side: u8| {
        format!(
            "SELECT {COLUMNS}, {other} AS other, at.place, {side} AS side, fact FROM unnest($4::text[]) WITH ORDINALITY \
             AS at (name, place), LATERAL (SELECT * FROM facts WHERE wall = $1 AND {own} = at.name COLLATE \"C\" AND {HOLDS} \
             ORDER BY valid_at, fact LIMIT {MAX_FACTS_PER_STEP}) AS one"
        )
    };
    let sql = format!(
        "{} UNION ALL {} ORDER BY place, side, valid_at, fact",
        side("subject", "object", 0),
        side("object", "subject", 1)
    );
    let distinct: Vec<&String> = {
        let mut seen = BTreeSet::new();
        names.iter().filter(|name| seen.insert(*name)).collect()
    };
    let rows = taken.query(&sql, &[&wall, &known_at, &as_of, &distinct]).await?;
    rows.iter().map(|row| Ok((column(row, 11)?, fact(row)?))).collect()
}

pub(super) fn fact(row: &Row) -> Result<Fact> {
    let (invalid_at, expired_at): (Option<i64>, Option<i64>) = (column(row, 5)?, column(row, 7)?);
    Ok(Fact {
        id: column(row, 0)?,
        subject: column(row, 1)?,
        predicate: column(row, 2)?,
        object: column(row, 3)?,
        valid_at: timestamp(column(row, 4)?),
        invalid_at: invalid_at.map(timestamp),
        created_at: timestamp(column(row, 6)?),
        expired_at: expired_at.map(timestamp),
        functional: column(row, 8)?,
        source: column(row, 9)?,
        metadata: read_json(column(row, 10)?)?,
    })
}
