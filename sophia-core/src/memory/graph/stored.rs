//! Entities with observations as stores keep them, and what becomes of them: the part that is the same in every store.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    believe::new_id,
    fact::Fact,
    nodes::{Node, NodeSelection, Observations, Relation},
};
use crate::{Error, ErrorKind};

/// Attribute that holds what was observed.
const OBSERVATIONS: &str = "observations";
/// Stands behind the name of an entity that came twice in one call, before its number: `server-memory` keeps both, while a
/// name is a key here. No name of an entity holds it.
const COPY: char = '\u{1f}';

/// An entity as it is stored.
pub(crate) struct Stored {
    /// Microseconds since 1970; no two of a wall are the same, so that it tells the order in which they came.
    pub created_at: i64,
    /// Name, with what tells copies apart.
    pub key: String,
    /// Kind.
    pub kind: Option<String>,
    /// Attributes; what was observed is one of them.
    pub attributes: Map<String, Value>,
}

impl Stored {
    /// Returns its name.
    pub fn name(&self) -> &str {
        self.key.split(COPY).next().unwrap_or_default()
    }

    /// Returns what was observed of it.
    pub fn observations(&self) -> Vec<String> {
        let list = self.attributes.get(OBSERVATIONS).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Sets what was observed of it.
    pub fn observe(&mut self, observations: Vec<String>) {
        self.attributes.insert(OBSERVATIONS.to_owned(), observations.into());
    }

    /// Adds observations that were not there; returns them.
    pub fn add(&mut self, mut contents: Vec<String>) -> Vec<String> {
        let mut all = self.observations();
        contents.retain(|content| !all.contains(content));
        all.extend(contents.iter().cloned());
        self.observe(all);
        contents
    }

    /// Removes observations.
    pub fn remove(&mut self, contents: &[String]) {
        let mut kept = self.observations();
        kept.retain(|observation| !contents.contains(observation));
        self.observe(kept);
    }

    fn node(self) -> Node {
        Node {
            name: self.name().to_owned(),
            observations: self.observations(),
            entity_type: self.kind.unwrap_or_default(),
        }
    }
}

/// Returns the keys between which the copies of a name are: from the first one, to before the last one.
pub(crate) fn copies(name: &str) -> (String, String) {
    let next = char::from_u32(COPY as u32 + 1).unwrap_or(COPY);
    (format!("{name}{COPY}"), format!("{name}{next}"))
}

/// Returns the entities that a selection keeps of those that were found by name, or of all, in the order in which they came.
pub(crate) fn select(mut found: Vec<Stored>, selection: &NodeSelection) -> Vec<Node> {
    found.sort_by(|a, b| (a.created_at, &a.key).cmp(&(b.created_at, &b.key)));
    let mut entities: Vec<Node> = found.into_iter().map(Stored::node).collect();
    if let NodeSelection::Matching(text) = selection {
        let text = text.to_lowercase();
        let holds = |part: &String| part.to_lowercase().contains(&text);
        entities.retain(|node| holds(&node.name) || holds(&node.entity_type) || node.observations.iter().any(holds));
    }
    entities
}

/// Returns new entities as they are stored, behind what was made `last` in their wall. A name that comes twice stays so.
pub(crate) fn create(new: &[Node], last: Option<i64>, now: i64) -> Vec<Stored> {
    // Each a little later than the one before: the time tells the order, also where the clock stands still.
    let first = last.map_or(now, |last| now.max(last + 1));
    let mut names = HashSet::new();
    (first..)
        .zip(new)
        .map(|(created_at, node)| {
            let is_copy = !names.insert(&node.name);
            let key = if is_copy { format!("{}{COPY}{created_at}", node.name) } else { node.name.clone() };
            let mut stored = Stored { created_at, key, kind: Some(node.entity_type.clone()), attributes: Map::new() };
            stored.observe(node.observations.clone());
            stored
        })
        .collect()
}

/// Returns the fact that a new relation is.
pub(crate) fn fact_of(relation: &Relation, now: Timestamp) -> Fact {
    Fact {
        id: new_id(),
        subject: relation.from.clone(),
        predicate: relation.relation_type.clone(),
        object: relation.to.clone(),
        valid_at: now,
        invalid_at: None,
        created_at: now,
        expired_at: None,
        functional: false,
        source: None,
        metadata: Map::new(),
    }
}

/// Says that there is no entity to add observations to, in the words of `server-memory`.
pub(crate) fn not_found(add: &Observations) -> Error {
    let message = format!("Entity with name {} not found", add.entity);
    Error::new(ErrorKind::NotFound, "memory.graph.change_nodes", message)
}
