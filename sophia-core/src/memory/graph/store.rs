//! [`GraphStore`]: what a technology must do to hold facts.

use std::fmt::Debug;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    fact::{Entity, Fact, FactQuery, Neighbor, NeighborQuery, NewEntity, NewFact, PathQuery},
    nodes::{NodeChange, NodeSelection, Nodes, NodesAdded},
};
use crate::{Error, ErrorKind, Result, Scope};

/// A store of entities and facts, walled by tenant and user. Arguments have been validated before it sees them.
///
/// An implementation runs `testing::graph::graph_store`.
#[async_trait]
pub trait GraphStore: Debug + Send + Sync + 'static {
    /// Stores an entity, or merges what is new into it.
    async fn upsert(&self, entity: NewEntity, now: Timestamp) -> Result<Entity>;

    /// States a fact. A functional one ends the others of its subject and predicate; the same fact again is the first one.
    async fn relate(&self, fact: NewFact, now: Timestamp) -> Result<Fact>;

    /// Returns facts, oldest `valid_at` first.
    async fn facts(&self, query: FactQuery, now: Timestamp) -> Result<Vec<Fact>>;

    /// Returns what is near an entity, nearest first; along facts in either direction.
    async fn neighbors(&self, query: NeighborQuery, now: Timestamp) -> Result<Vec<Neighbor>>;

    /// Returns the facts along a shortest way between two entities; `None` where there is none.
    async fn path(&self, query: PathQuery, now: Timestamp) -> Result<Option<Vec<Fact>>>;

    /// Returns entities with their observations, and relations, in the order in which they came.
    async fn nodes(&self, _scope: Scope, _selection: NodeSelection, _now: Timestamp) -> Result<Nodes> {
        Err(Error::new(ErrorKind::Unsupported, "memory.graph.nodes", "this store does not offer it"))
    }

    /// Changes entities, observations and relations: all of it, or nothing.
    async fn change_nodes(&self, _scope: Scope, _change: NodeChange, _now: Timestamp) -> Result<NodesAdded> {
        Err(Error::new(ErrorKind::Unsupported, "memory.graph.change_nodes", "this store does not offer it"))
    }
}
