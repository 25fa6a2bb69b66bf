//! Which operations HTTP offers, and to whom. What is not listed here cannot be called over HTTP.
//!
//! Left out on purpose: whatever starts a process, opens a connection of the caller's choice or reads files of the
//! server (`registry.register`, `registry.load`, `health.register`, …).

use std::{collections::HashMap, sync::LazyLock};

use serde_json::Value;

use super::{caller::Access, scopes::ScopePlaces};
use crate::{
    chat::dialect::integers::inexact,
    operations::{self, Operation},
};

/// Acts on one caller's data; must have a scope in its arguments, or is for admins only.
const SCOPED: &[&str] = &[
    "memory.append",
    "memory.clear_session",
    "memory.delete",
    "memory.delete_where",
    "memory.forget",
    "memory.get",
    "memory.graph.extract",
    "memory.graph.facts",
    "memory.graph.neighbors",
    "memory.graph.path",
    "memory.graph.relate",
    "memory.graph.upsert",
    "memory.history",
    "memory.kv.delete",
    "memory.kv.get",
    "memory.kv.invalidate",
    "memory.kv.keys",
    "memory.kv.set",
    "memory.search",
    "memory.sessions",
    "memory.store",
    "memory.store_many",
    "memory.update",
    "memory.versions",
    "chat.cache_key",
    "chat.complete",
    "chat.semantic_feedback",
    "registry.call",
];

/// Shows or computes what is the same for everyone, and changes nothing.
const SHARED: &[&str] = &[
    "chat.classify",
    "chat.embed",
    "chat.metrics",
    "chat.models",
    "chat.ttl_for",
    "health.alerts",
    "health.check",
    "health.check_all",
    "health.report",
    "health.series",
    "health.unified",
    "memory.health",
    "registry.breaker",
    "registry.check",
    "registry.check_all",
    "registry.list_tools",
    "registry.select",
    "registry.status",
];

/// Concerns everyone: shows what others did, or changes what others see.
const ADMIN: &[&str] = &[
    "chat.budget",
    "chat.costs",
    "chat.invalidate",
    "chat.semantic_report",
    "health.ack",
    "health.approve",
    "health.audit",
    "health.depends",
    "health.maintenance",
    "health.observe",
    "health.pending",
    "health.reject",
    "health.resolve",
    "health.rule",
    "health.silence",
    "health.trigger",
    "health.unregister",
    "memory.recent_operations",
    "memory.stats",
    "registry.discover",
    "registry.get",
    "registry.lint",
    "registry.list",
];

/// An operation that HTTP offers.
#[derive(Debug)]
pub(super) struct Exposed {
    pub operation: &'static Operation,
    pub access: Access,
    pub scopes: ScopePlaces,
    /// Schema of the arguments, definitions included.
    pub arguments: Value,
}

impl Exposed {
    /// Reads an argument from a query string: as text where the schema takes text, else as JSON where it is JSON.
    pub fn argument(&self, name: &str, text: String) -> Value {
        let schema = &self.arguments["properties"][name];
        let is = |schema: &Value, kind: &str| match &schema["type"] {
            Value::String(only) => only == kind,
            Value::Array(kinds) => kinds.iter().any(|known| known == kind),
            _ => false,
        };
        if is(schema, "array") && !text.starts_with('[') {
            return text.split(',').map(str::trim).map(Value::from).collect();
        }
        match serde_json::from_str(&text) {
            Ok(value) if !is(schema, "string") && inexact(text.as_bytes()).is_none() => value,
            _ => Value::String(text),
        }
    }
}

/// Finds an operation that HTTP offers.
pub(super) fn find(name: &str) -> Option<&'static Exposed> {
    EXPOSED.get(name)
}

/// Returns every operation that HTTP offers, sorted by name.
pub(super) fn all() -> impl Iterator<Item = &'static Exposed> {
    let mut exposed: Vec<_> = EXPOSED.values().collect();
    exposed.sort_by_key(|exposed| exposed.operation.name);
    exposed.into_iter()
}

static EXPOSED: LazyLock<HashMap<&'static str, Exposed>> = LazyLock::new(|| {
    let described: HashMap<_, _> = operations::describe()
        .into_iter()
        .filter_map(|mut described| Some((described["name"].as_str()?.to_owned(), described["arguments"].take())))
        .collect();
    operations::all()
        .filter_map(|operation| {
            let arguments = at_root(described.get(operation.name)?.clone());
            let scopes = ScopePlaces::of(&arguments);
            let access = match operation.name {
                name if SHARED.contains(&name) => Access::Caller,
                name if SCOPED.contains(&name) && !scopes.is_empty() => Access::Caller,
                name if SCOPED.contains(&name) || ADMIN.contains(&name) => Access::Admin,
                _ => return None,
            };
            Some((operation.name, Exposed { operation, access, scopes, arguments }))
        })
        .collect()
});

/// Puts the properties at the root of a schema that only refers to a definition.
fn at_root(mut schema: Value) -> Value {
    let name = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()).map(str::to_owned);
    let Some(Value::Object(definition)) = name.map(|name| schema["$defs"][name].clone()) else { return schema };
    if let Value::Object(root) = &mut schema {
        root.shift_remove("$ref");
        root.extend(definition);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_callers_data_takes_a_scope() {
        for exposed in all().filter(|exposed| exposed.operation.name.starts_with("memory.")) {
            let name = exposed.operation.name;
            assert!(!SCOPED.contains(&name) || exposed.access == Access::Caller, "{name} takes no scope");
        }
    }

    #[test]
    fn arguments_are_read_from_a_query_by_their_type() {
        let registry = find("registry.list_tools").unwrap();
        assert_eq!(registry.argument("server", "7".into()), Value::from("7"));
        let series = find("health.series").unwrap();
        assert_eq!(series.argument("buckets", "7".into()), Value::from(7));
        let beyond = "18446744073709551617";
        assert_eq!(find("memory.kv.set").unwrap().argument("value", beyond.into()), Value::from(beyond));
    }

    #[test]
    fn what_starts_processes_or_opens_connections_is_not_offered() {
        for name in ["registry.register", "registry.load", "registry.export", "health.register"] {
            assert!(find(name).is_none(), "{name}");
        }
    }
}
