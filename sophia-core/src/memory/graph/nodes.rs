//! The graph as the MCP reference server `server-memory` sees it: entities with observations, and relations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An entity: its kind is the type, its attribute `observations` what was observed of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The name of the entity
    pub name: String,
    /// The type of the entity
    pub entity_type: String,
    /// An array of observation contents associated with the entity
    pub observations: Vec<String>,
}

/// A fact, without its times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Relation {
    /// The name of the entity where the relation starts
    pub from: String,
    /// The name of the entity where the relation ends
    pub to: String,
    /// The type of the relation
    pub relation_type: String,
}

/// Entities and the facts between them that are true now, both in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Nodes {
    /// Entities.
    pub entities: Vec<Node>,
    /// Relations.
    pub relations: Vec<Relation>,
}

/// Which entities to read; of relations, those that touch one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeSelection {
    /// All, with all relations.
    All,
    /// Those whose name, type or an observation holds this text, in any case.
    Matching(String),
    /// Those with these names.
    Named(Vec<String>),
}

/// What to change. All of it is done, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeChange {
    /// Adds entities, but those whose names were there.
    CreateEntities(Vec<Node>),
    /// Adds relations, but those that were there.
    CreateRelations(Vec<Relation>),
    /// Adds observations, but those that were there; `NotFound` where there is no such entity.
    AddObservations(Vec<Observations>),
    /// Removes entities, and the relations that touch them.
    DeleteEntities(Vec<String>),
    /// Removes observations.
    DeleteObservations(Vec<Observations>),
    /// Ends relations.
    DeleteRelations(Vec<Relation>),
}

/// Observations of one entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observations {
    /// Of which entity.
    pub entity: String,
    /// What was observed.
    pub contents: Vec<String>,
}

/// What a change added; nothing where it removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodesAdded {
    /// Entities.
    pub entities: Vec<Node>,
    /// Relations.
    pub relations: Vec<Relation>,
    /// Observations, for each that was to be added to.
    pub observations: Vec<Observations>,
}
