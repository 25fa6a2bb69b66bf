//! A [`Filter`] as SQL. Every statement that reads or changes records by more than their number takes its walls from here.

use rusqlite::{Connection, OptionalExtension, types::Value as Sql};
use serde_json::Value;

use super::{internal, micros};
use crate::{Result, Scope, memory::store::Filter};

/// A condition over `records AS r`, and its values.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    pub sql: String,
    pub values: Vec<Sql>,
    /// Walls that it lets through; without one, nothing matches.
    pub walls: Vec<i64>,
    /// Whether it is more than "active and not expired in these walls".
    pub is_narrow: bool,
}

impl Condition {
    fn and(&mut self, sql: &str, values: impl IntoIterator<Item = Sql>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
        self.values.extend(values);
        self.is_narrow = true;
    }

    fn and_any(&mut self, column: &str, values: &[String]) {
        let sql = format!("{column} IN ({})", marks(values.len()));
        self.and(&sql, values.iter().cloned().map(Sql::Text));
    }
}

/// Returns the number of the scope's wall, if anything was ever written there.
pub(super) fn find_wall(connection: &Connection, scope: &Scope) -> Result<Option<i64>> {
    connection
        .prepare_cached("SELECT wall FROM walls WHERE key = ?1")
        .and_then(|mut statement| statement.query_row([scope.wall()], |row| row.get(0)).optional())
        .map_err(internal("memory.scope"))
}

/// Returns the number of the scope's wall, made if it is new.
pub(super) fn make_wall(connection: &Connection, scope: &Scope) -> Result<i64> {
    if let Some(wall) = find_wall(connection, scope)? {
        return Ok(wall);
    }
    connection
        .prepare_cached("INSERT INTO walls (key, tenant, user) VALUES (?1, ?2, ?3)")
        .and_then(|mut statement| statement.insert((scope.wall(), &scope.tenant, &scope.user)))
        .map_err(internal("memory.scope"))
}

/// Turns a filter into SQL.
pub(super) fn condition(connection: &Connection, filter: &Filter) -> Result<Condition> {
    let mut condition = scopes(connection, &filter.scopes)?;
    if !filter.include_archived {
        condition.sql.push_str(" AND r.status = 'active'");
    } else {
        condition.is_narrow = true;
    }
    if !filter.include_expired {
        condition.sql.push_str(" AND (r.expires_at IS NULL OR r.expires_at > ?)");
        condition.values.push(Sql::Integer(micros(filter.now)));
    } else {
        condition.is_narrow = true;
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
    if let Some(tags) = &filter.tags {
        let sql = format!("EXISTS (SELECT 1 FROM json_each(r.tags) WHERE value IN ({}))", marks(tags.len()));
        condition.and(&sql, tags.iter().cloned().map(Sql::Text));
    }
    for tag in filter.tags_all.iter().flatten() {
        condition.and("EXISTS (SELECT 1 FROM json_each(r.tags) WHERE value = ?)", [Sql::Text(tag.clone())]);
    }
    if let Some(source) = &filter.source {
        condition.and("r.source = ?", [Sql::Text(source.clone())]);
    }
    for (key, value) in filter.metadata.iter().flatten() {
        let (kind, value) = json_value(value);
        let sql =
            format!("EXISTS (SELECT 1 FROM json_each(r.metadata) WHERE key = ? AND type IN {kind} AND value IS ?)");
        condition.and(&sql, [Sql::Text(key.clone()), value]);
    }
    if let Some(since) = filter.since {
        condition.and("r.created_at >= ?", [Sql::Integer(micros(since))]);
    }
    if let Some(until) = filter.until {
        condition.and("r.created_at < ?", [Sql::Integer(micros(until))]);
    }
    if let Some(seq) = filter.before_seq {
        condition.and("r.seq < ?", [Sql::Integer(seq)]);
    }
    Ok(condition)
}

fn scopes(connection: &Connection, scopes: &[Scope]) -> Result<Condition> {
    let mut condition = Condition { sql: String::new(), values: Vec::new(), walls: Vec::new(), is_narrow: false };
    let mut parts = Vec::new();
    for scope in scopes {
        let Some(wall) = find_wall(connection, scope)? else { continue };
        let mut part = String::from("r.wall = ?");
        condition.values.push(Sql::Integer(wall));
        for (column, value) in [("r.session", &scope.session), ("r.agent", &scope.agent)] {
            if let Some(value) = value {
                part.push_str(&format!(" AND {column} = ?"));
                condition.values.push(Sql::Text(value.clone()));
                condition.is_narrow = true;
            }
        }
        parts.push(format!("({part})"));
        if !condition.walls.contains(&wall) {
            condition.walls.push(wall);
        }
    }
    // Without a wall there is nothing that may be seen.
    condition.sql = if parts.is_empty() { "0".to_owned() } else { format!("({})", parts.join(" OR ")) };
    Ok(condition)
}

fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// Returns the JSON types that may be equal to a value, and the value as `json_each` gives it.
fn json_value(value: &Value) -> (&'static str, Sql) {
    match value {
        Value::Null => ("('null')", Sql::Null),
        Value::Bool(true) => ("('true')", Sql::Integer(1)),
        Value::Bool(false) => ("('false')", Sql::Integer(0)),
        Value::Number(number) => {
            let value = number.as_i64().map(Sql::Integer).or_else(|| number.as_f64().map(Sql::Real));
            ("('integer', 'real')", value.unwrap_or(Sql::Null))
        }
        Value::String(text) => ("('text')", Sql::Text(text.clone())),
        Value::Array(_) | Value::Object(_) => ("('array', 'object')", Sql::Text(value.to_string())),
    }
}
