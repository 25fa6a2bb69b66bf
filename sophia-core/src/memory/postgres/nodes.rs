//! The graph as `server-memory` sees it: rows of `entities`, and the facts that are true now.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{
    filter, graph, json,
    link::{Taken, Value, column},
    micros, read_json,
};
use crate::{
    Result, Scope,
    memory::graph::{
        Node, NodeChange, NodeSelection, Nodes, NodesAdded, Observations, Relation,
        stored::{self, Stored},
    },
};

pub(super) async fn nodes(taken: &Taken, scope: &Scope, selection: &NodeSelection, now: Timestamp) -> Result<Nodes> {
    let Some(wall) = filter::find_wall(taken, scope).await? else { return Ok(Nodes::default()) };
    let found = match selection {
        NodeSelection::Named(names) => named(taken, wall, names).await?.into_values().flatten().collect(),
        _ => all(taken, wall).await?,
    };
    let entities = stored::select(found, selection);
    let relations = if *selection == NodeSelection::All {
        relations(taken, wall, now, "", &[]).await?
    } else {
        let names: HashSet<&str> = entities.iter().map(|node| node.name.as_str()).collect();
        let names = Vec::from_iter(names);
        relations(taken, wall, now, "AND (subject = ANY($3) OR object = ANY($3))", &[&names]).await?
    };
    Ok(Nodes { entities, relations: relations.into_values().collect() })
}

fn read(row: &Row) -> Result<Stored> {
    Ok(Stored {
        key: column(row, 0)?,
        kind: column(row, 1)?,
        attributes: read_json(column(row, 2)?)?,
        created_at: column(row, 3)?,
    })
}

async fn all(taken: &Taken, wall: i64) -> Result<Vec<Stored>> {
    let rows = taken.query("SELECT name, kind, attributes, created_at FROM entities WHERE wall = $1", &[&wall]).await?;
    rows.iter().map(read).collect()
}

/// Returns entities and their copies by their names, the first one of each first.
async fn named(taken: &Taken, wall: i64, names: &[String]) -> Result<HashMap<String, Vec<Stored>>> {
    // No text here holds NUL.
    let names: HashSet<&String> = names.iter().filter(|name| !name.contains('\0')).collect();
    let (first, end): (Vec<String>, Vec<String>) = names.iter().map(|name| stored::copies(name)).unzip();
    let names = Vec::from_iter(names);
    let sql = "SELECT e.name, e.kind, e.attributes, e.created_at \
               FROM unnest($2::text[], $3::text[], $4::text[]) AS wanted (name, first, until) \
               JOIN entities AS e ON e.wall = $1 AND (e.name = wanted.name COLLATE \"C\" \
               OR (e.name >= wanted.first COLLATE \"C\" AND e.name < wanted.until COLLATE \"C\")) ORDER BY e.created_at";
    let mut found: HashMap<String, Vec<Stored>> = HashMap::new();
    for row in &taken.query(sql, &[&wall, &names, &first, &end]).await? {
        let stored = read(row)?;
        found.entry(stored.name().to_owned()).or_default().push(stored);
    }
    Ok(found)
}

/// Returns the first entity of a name.
async fn first_named(taken: &Taken, wall: i64, name: &String) -> Result<Option<Stored>> {
    Ok(named(taken, wall, std::slice::from_ref(name)).await?.into_values().flatten().next())
}

/// Returns relations by the number of their facts, which is the order in which they came.
async fn relations(
    taken: &Taken,
    wall: i64,
    now: Timestamp,
    condition: &str,
    values: &[Value<'_>],
) -> Result<BTreeMap<i64, Relation>> {
    let sql = format!(
        "SELECT fact, subject, object, predicate FROM facts WHERE wall = $1 AND expired_at IS NULL AND valid_at <= $2 \
         AND (invalid_at IS NULL OR invalid_at > $2) {condition}"
    );
    let now = micros(now);
    let values: Vec<Value<'_>> = [&wall as Value<'_>, &now].into_iter().chain(values.iter().copied()).collect();
    let rows = taken.query(&sql, &values).await?;
    rows.iter()
        .map(|row| {
            let relation = Relation { from: column(row, 1)?, to: column(row, 2)?, relation_type: column(row, 3)? };
            Ok((column(row, 0)?, relation))
        })
        .collect()
}

/// Returns the facts that are one relation.
async fn facts_of(taken: &Taken, wall: i64, relation: &Relation, now: Timestamp) -> Result<Vec<i64>> {
    let Relation { from, to, relation_type } = relation;
    if [from, to, relation_type].iter().any(|text| text.contains('\0')) {
        return Ok(Vec::new());
    }
    let condition = "AND subject = $3 AND object = $4 AND predicate = $5";
    Ok(relations(taken, wall, now, condition, &[from, to, relation_type]).await?.into_keys().collect())
}

/// Changes the graph, in a transaction that is under way; nobody else changes that of the wall until it ends.
pub(super) async fn change(taken: &Taken, scope: &Scope, change: NodeChange, now: Timestamp) -> Result<NodesAdded> {
    let wall = filter::make_wall(taken, scope).await?;
    graph::hold_all(taken, wall).await?;
    let place = Place { wall, tenant: scope.tenant.as_deref(), now };
    let mut added = NodesAdded::default();
    match change {
        NodeChange::CreateEntities(entities) => added.entities = create_entities(taken, place, entities).await?,
        NodeChange::CreateRelations(relations) => added.relations = create_relations(taken, place, relations).await?,
        NodeChange::AddObservations(list) => {
            for one in list {
                added.observations.push(add_observations(taken, place, one).await?);
            }
        }
        NodeChange::DeleteEntities(names) => {
            let keys: Vec<String> =
                named(taken, wall, &names).await?.into_values().flatten().map(|stored| stored.key).collect();
            taken.execute("DELETE FROM entities WHERE wall = $1 AND name = ANY($2)", &[&wall, &keys]).await?;
            let names: Vec<&String> = names.iter().filter(|name| !name.contains('\0')).collect();
            let sql = "UPDATE facts SET expired_at = $3 WHERE wall = $1 AND expired_at IS NULL \
                       AND (subject = ANY($2) OR object = ANY($2))";
            taken.execute(sql, &[&wall, &names, &micros(now)]).await?;
        }
        NodeChange::DeleteObservations(list) => {
            for Observations { entity, contents } in list {
                let Some(mut stored) = first_named(taken, wall, &entity).await? else { continue };
                stored.remove(&contents);
                observe(taken, place, &stored).await?;
            }
        }
        NodeChange::DeleteRelations(relations) => {
            for relation in &relations {
                let facts = facts_of(taken, wall, relation, now).await?;
                let sql = "UPDATE facts SET expired_at = $2 WHERE fact = ANY($1)";
                taken.execute(sql, &[&facts, &micros(now)]).await?;
            }
        }
    }
    Ok(added)
}

/// Where and when something changes.
#[derive(Clone, Copy)]
struct Place<'a> {
    wall: i64,
    tenant: Option<&'a str>,
    now: Timestamp,
}

async fn create_entities(taken: &Taken, place: Place<'_>, mut new: Vec<Node>) -> Result<Vec<Node>> {
    let Place { wall, tenant, now } = place;
    let names: Vec<String> = new.iter().map(|node| node.name.clone()).collect();
    let known = named(taken, wall, &names).await?;
    new.retain(|node| !known.contains_key(&node.name));
    let last: Option<i64> = taken.query_value("SELECT max(created_at) FROM entities WHERE wall = $1", &[&wall]).await?;
    let rows = stored::create(&new, last, micros(now));
    let names: Vec<&String> = rows.iter().map(|row| &row.key).collect();
    let kinds: Vec<&Option<String>> = rows.iter().map(|row| &row.kind).collect();
    let attributes: Vec<String> = rows.iter().map(|row| json(&row.attributes)).collect();
    let times: Vec<i64> = rows.iter().map(|row| row.created_at).collect();
    let sql = "INSERT INTO entities (wall, tenant, name, kind, attributes, created_at, updated_at) \
               SELECT $1, $2, new.name, new.kind, new.attributes, new.at, new.at \
               FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[]) AS new (name, kind, attributes, at)";
    taken.execute(sql, &[&wall, &tenant, &names, &kinds, &attributes, &times]).await?;
    Ok(new)
}

async fn create_relations(taken: &Taken, place: Place<'_>, relations: Vec<Relation>) -> Result<Vec<Relation>> {
    let Place { wall, tenant, now } = place;
    let mut new = Vec::new();
    for relation in relations {
        if facts_of(taken, wall, &relation, now).await?.is_empty() {
            new.push(relation);
        }
    }
    for relation in &new {
        graph::insert(taken, wall, tenant, &stored::fact_of(relation, now)).await?;
    }
    Ok(new)
}

async fn add_observations(taken: &Taken, place: Place<'_>, add: Observations) -> Result<Observations> {
    let Some(mut stored) = first_named(taken, place.wall, &add.entity).await? else {
        return Err(stored::not_found(&add));
    };
    let contents = stored.add(add.contents);
    observe(taken, place, &stored).await?;
    Ok(Observations { contents, ..add })
}

/// Writes what was observed of an entity.
async fn observe(taken: &Taken, place: Place<'_>, stored: &Stored) -> Result<()> {
    let sql = "UPDATE entities SET attributes = $3, updated_at = $4 WHERE wall = $1 AND name = $2";
    let (attributes, now) = (json(&stored.attributes), micros(place.now));
    taken.execute(sql, &[&place.wall, &stored.key, &attributes, &now]).await.map(drop)
}
