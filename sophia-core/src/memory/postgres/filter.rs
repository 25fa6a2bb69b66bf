//! A [`Filter`] as SQL. Every statement that reads or changes records by more than their number takes its walls from here.

use serde_json::Value as Json;
use tokio_postgres::types::ToSql;

use super::{
    link::{Taken, Value, column},
    micros,
};
use crate::{Result, Scope, memory::store::Filter};

/// A value of a condition.
pub(super) type Owned = Box<dyn ToSql + Sync + Send>;

/// A condition over `records AS r`, and its values.
#[derive(Debug)]
pub(super) struct Condition {
    pub sql: String,
    values: Vec<Owned>,
    /// Walls that it lets through; without one, nothing matches.
    pub walls: Vec<Wall>,
}

/// One pair of tenant and user, and what is counted of it.
#[derive(Debug, Clone)]
pub(super) struct Wall {
    pub number: i64,
    pub records: i64,
    pub words: i64,
}

impl Wall {
    /// Mean number of words of a record.
    pub fn mean_words(&self) -> f64 {
        if self.records > 0 { self.words as f64 / self.records as f64 } else { 0.0 }
    }
}

impl Condition {
    /// Keeps all records of a wall that are of the session and agent of a scope, if it has them.
    pub fn in_wall(wall: i64, scope: &Scope) -> Condition {
        let mut condition = Condition { sql: String::new(), values: Vec::new(), walls: Vec::new() };
        condition.sql = condition.part(wall, scope);
        condition
    }

    /// Keeps all records of everyone.
    pub fn of_everyone() -> Condition {
        Condition { sql: "true".to_owned(), values: Vec::new(), walls: Vec::new() }
    }

    fn part(&mut self, wall: i64, scope: &Scope) -> String {
        let mut part = format!("r.wall = {}", self.bind(wall));
        for (column, value) in [("r.session", &scope.session), ("r.agent", &scope.agent)] {
            if let Some(value) = value {
                part.push_str(&format!(" AND {column} = {}", self.bind(value.clone())));
            }
        }
        format!("({part})")
    }

    /// Adds a value, and returns how it is named in the statement.
    pub fn bind(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.values.push(Box::new(value));
        format!("${}", self.values.len())
    }

    /// Returns the values, in the order of their names.
    pub fn values(&self) -> Vec<Value<'_>> {
        self.values.iter().map(|value| &**value as Value<'_>).collect()
    }

    /// Returns whether nothing can match.
    pub fn is_empty(&self) -> bool {
        self.walls.is_empty()
    }

    fn and(&mut self, sql: &str) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
    }

    fn and_any(&mut self, column: &str, values: &[String]) {
        let name = self.bind(values.to_vec());
        self.and(&format!("{column} = ANY({name})"));
    }
}

/// Turns a filter into SQL.
pub(super) async fn condition(taken: &Taken, filter: &Filter) -> Result<Condition> {
    let mut condition = scopes(taken, &filter.scopes).await?;
    if !filter.include_archived {
        condition.and("NOT r.archived");
    }
    if !filter.include_expired {
        let now = condition.bind(micros(filter.now));
        condition.and(&format!("(r.expires_at IS NULL OR r.expires_at > {now})"));
    }
    for (column, values) in [("r.id", &filter.ids), ("r.kind", &filter.kinds), ("r.category", &filter.categories)] {
        if let Some(values) = values {
            condition.and_any(column, values);
        }
    }
    if let Some(priorities) = &filter.priorities {
        let names: Vec<_> = priorities.iter().map(|priority| priority.name().to_owned()).collect();
        condition.and_any("r.priority", &names);
    }
    for (operator, tags) in [("&&", &filter.tags), ("@>", &filter.tags_all)] {
        if let Some(tags) = tags {
            let name = condition.bind(tags.clone());
            condition.and(&format!("r.tags {operator} {name}"));
        }
    }
    if let Some(source) = &filter.source {
        let name = condition.bind(source.clone());
        condition.and(&format!("r.source = {name}"));
    }
    if let Some(metadata) = &filter.metadata {
        let facts: Vec<Vec<u8>> = metadata.iter().map(|(key, value)| fact(key, value)).collect();
        let name = condition.bind(facts);
        condition.and(&format!("r.facts @> {name}"));
    }
    if let Some(since) = filter.since {
        let name = condition.bind(micros(since));
        condition.and(&format!("r.created_at >= {name}"));
    }
    if let Some(until) = filter.until {
        let name = condition.bind(micros(until));
        condition.and(&format!("r.created_at < {name}"));
    }
    if let Some(seq) = filter.before_seq {
        let name = condition.bind(seq);
        condition.and(&format!("r.seq < {name}"));
    }
    Ok(condition)
}

async fn scopes(taken: &Taken, scopes: &[Scope]) -> Result<Condition> {
    let mut condition = Condition { sql: String::new(), values: Vec::new(), walls: Vec::new() };
    let keys: Vec<String> = scopes.iter().map(Scope::wall).collect();
    let known = walls(taken, &keys).await?;
    let mut parts = Vec::new();
    for (scope, key) in scopes.iter().zip(&keys) {
        let Some((_, wall)) = known.iter().find(|(known, _)| known == key) else { continue };
        parts.push(condition.part(wall.number, scope));
        if condition.walls.iter().all(|known| known.number != wall.number) {
            condition.walls.push(wall.clone());
        }
    }
    // Without a wall there is nothing that may be seen.
    condition.sql = if parts.is_empty() { "false".to_owned() } else { format!("({})", parts.join(" OR ")) };
    Ok(condition)
}

async fn walls(taken: &Taken, keys: &[String]) -> Result<Vec<(String, Wall)>> {
    let rows = taken.query("SELECT key, wall, records, words FROM walls WHERE key = ANY($1)", &[&keys]).await?;
    rows.iter()
        .map(|row| {
            let wall = Wall { number: column(row, 1)?, records: column(row, 2)?, words: column(row, 3)? };
            Ok((column(row, 0)?, wall))
        })
        .collect()
}

/// Returns the number of the scope's wall, if anything was ever written there.
pub(super) async fn find_wall(taken: &Taken, scope: &Scope) -> Result<Option<i64>> {
    let row = taken.query_opt("SELECT wall FROM walls WHERE key = $1", &[&scope.wall()]).await?;
    row.map(|row| column(&row, 0)).transpose()
}

/// Returns the number of the scope's wall, made if it is new. It stays until the transaction ends.
pub(super) async fn make_wall(taken: &Taken, scope: &Scope) -> Result<i64> {
    let key = scope.wall();
    loop {
        let find = "SELECT wall FROM walls WHERE key = $1 FOR KEY SHARE";
        if let Some(row) = taken.query_opt(find, &[&key]).await? {
            return column(&row, 0);
        }
        // Somebody else may make it, or forget it, at the same time: it is looked for again.
        let make = "INSERT INTO walls (key, tenant, \"user\") VALUES ($1, $2, $3) ON CONFLICT (key) DO NOTHING";
        taken.execute(make, &[&key, &scope.tenant, &scope.user]).await?;
    }
}

/// Returns what stands for a name and its value in an exact filter: a hash, since values may be long.
pub(super) fn fact(key: &str, value: &Json) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key.as_bytes());
    match value {
        // 1 and 1.0 are the same number.
        Json::Number(number) => {
            let number = number
                .as_f64()
                .filter(|float| float.fract() == 0.0 && float.abs() < MAX_EXACT)
                .map_or_else(|| number.to_string(), |float| (float as i64).to_string());
            hasher.update(b"n").update(number.as_bytes())
        }
        other => hasher.update(b"j").update(other.to_string().as_bytes()),
    };
    hasher.finalize().as_bytes()[..16].to_vec()
}

/// Whole numbers below are exact as floating-point numbers: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
