//! [`GraphStore`]: what a technology must do to hold facts.

use std::fmt::Debug;

use async_trait::async_trait;
use jiff::Timestamp;

use super::fact::{Entity, Fact, FactQuery, Neighbor, NeighborQuery, NewEntity, NewFact, PathQuery};
use crate::Result;

/// A store of entities and facts, walled by tenant and user. Arguments have been validated before it sees them.
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
}
