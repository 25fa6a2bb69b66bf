//! [`Graph`]: what users call.

use std::sync::Arc;

use super::{
    GraphStore,
    fact::{Entity, Fact, FactQuery, Neighbor, NeighborQuery, NewEntity, NewFact, PathQuery},
    nodes::{NodeChange, NodeSelection, Nodes, NodesAdded},
};
use crate::{
    Clock, Error, Result, Scope,
    memory::{metrics::SharedMetrics, validate},
};

/// Most steps of a walk.
const MAX_DEPTH: usize = 8;

/// Facts that know when they were true. Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> sophia_core::Result<()> {
/// use sophia_core::{Scope, Sophia, memory::{FactQuery, NewFact}};
///
/// let sophia = Sophia::builder().start().await?;
/// let (graph, ada) = (sophia.memory().graph(), Scope::new().user("ada"));
/// let works_at = |company: &str, since: &str| {
///     NewFact::new("ada", "works_at", company).scope(&ada).valid_at(since.parse().unwrap()).functional()
/// };
/// graph.relate(works_at("acme", "2024-01-01T00:00:00Z")).await?;
/// graph.relate(works_at("globex", "2025-06-01T00:00:00Z")).await?;
/// let then = graph.facts(FactQuery::new(&ada).as_of("2024-07-01T00:00:00Z".parse().unwrap())).await?;
/// assert_eq!(then[0].object, "acme");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Graph {
    store: Arc<dyn GraphStore>,
    clock: Arc<dyn Clock>,
    metrics: SharedMetrics,
}

impl Graph {
    pub(crate) fn new(store: Arc<dyn GraphStore>, clock: Arc<dyn Clock>, metrics: SharedMetrics) -> Graph {
        Graph { store, clock, metrics }
    }

    /// Stores an entity, or merges what is new into it.
    ///
    /// # Errors
    /// `InvalidInput` for what cannot be stored.
    pub async fn upsert(&self, entity: NewEntity) -> Result<Entity> {
        const OPERATION: &str = "memory.graph.upsert";
        let call = async {
            check(OPERATION, &entity.scope, &[("entity", Some(&entity.entity)), ("kind", entity.kind.as_ref())])?;
            validate::metadata(OPERATION, &entity.attributes, MAX_JSON_BYTES)?;
            self.store.upsert(entity, self.now()).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// States a fact. A functional one ends the others of its subject and predicate at its `valid_at`. What is stated again
    /// stays one fact, with what else was said of it: its source and its metadata are merged.
    ///
    /// # Errors
    /// `InvalidInput` for what cannot be stored, such as a fact that ends before it begins.
    pub async fn relate(&self, fact: NewFact) -> Result<Fact> {
        const OPERATION: &str = "memory.graph.relate";
        let call = async {
            let names = [
                ("subject", Some(&fact.subject)),
                ("predicate", Some(&fact.predicate)),
                ("object", Some(&fact.object)),
                ("source", fact.source.as_ref()),
            ];
            check(OPERATION, &fact.scope, &names)?;
            validate::metadata(OPERATION, &fact.metadata, MAX_JSON_BYTES)?;
            let now = self.now();
            if fact.invalid_at.is_some_and(|end| end <= fact.valid_at.unwrap_or(now)) {
                return Err(Error::invalid(OPERATION, "invalid_at", "must be later than `valid_at`"));
            }
            self.store.relate(fact, now).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Returns facts that were true at `as_of`, as the store believed at `known_at`; oldest first.
    ///
    /// # Errors
    /// `InvalidInput` for a scope that is none.
    pub async fn facts(&self, query: FactQuery) -> Result<Vec<Fact>> {
        const OPERATION: &str = "memory.graph.facts";
        let call = async {
            check(OPERATION, &query.scope, &[])?;
            validate::limit(OPERATION, query.limit, validate::MAX_LIMIT)?;
            self.store.facts(query, self.now()).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Returns what is near an entity, nearest first; along facts in either direction.
    ///
    /// # Errors
    /// `InvalidInput` for a depth or limit out of range.
    pub async fn neighbors(&self, query: NeighborQuery) -> Result<Vec<Neighbor>> {
        const OPERATION: &str = "memory.graph.neighbors";
        let call = async {
            check(OPERATION, &query.scope, &[("entity", Some(&query.entity))])?;
            validate::limit(OPERATION, query.limit, 100)?;
            check_depth(OPERATION, "depth", query.depth)?;
            self.store.neighbors(query, self.now()).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Returns the facts along a shortest way between two entities; `None` where there is none.
    ///
    /// # Errors
    /// `InvalidInput` for a depth out of range.
    pub async fn path(&self, query: PathQuery) -> Result<Option<Vec<Fact>>> {
        const OPERATION: &str = "memory.graph.path";
        let call = async {
            check(OPERATION, &query.scope, &[("a", Some(&query.a)), ("b", Some(&query.b))])?;
            check_depth(OPERATION, "max_depth", query.max_depth)?;
            self.store.path(query, self.now()).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Returns entities with their observations, and the relations that are true now.
    ///
    /// # Errors
    /// `InvalidInput` for a scope that is none.
    pub async fn nodes(&self, scope: &Scope, selection: NodeSelection) -> Result<Nodes> {
        const OPERATION: &str = "memory.graph.nodes";
        let call = async {
            check(OPERATION, scope, &[])?;
            self.store.nodes(scope.clone(), selection, self.now()).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    /// Changes entities, observations and relations; all of it, or nothing. Relations that are deleted end: `facts` still
    /// finds them by `known_at`.
    ///
    /// # Errors
    /// `InvalidInput` for what cannot be stored; `NotFound` for observations of an entity that is not there.
    pub async fn change_nodes(&self, scope: &Scope, change: NodeChange) -> Result<NodesAdded> {
        const OPERATION: &str = "memory.graph.change_nodes";
        let call = async {
            check(OPERATION, scope, &[])?;
            check_change(OPERATION, &change)?;
            self.store.change_nodes(scope.clone(), change, self.now()).await
        };
        self.metrics.timed(OPERATION, call).await
    }

    fn now(&self) -> jiff::Timestamp {
        validate::whole_micros(self.clock.now())
    }
}

/// Longest attributes of an entity and metadata of a fact, as JSON.
const MAX_JSON_BYTES: u64 = 64 * 1024;
/// Longest observations of one entity in one call, together.
const MAX_OBSERVATION_BYTES: u64 = 1024 * 1024;

fn check(operation: &'static str, scope: &Scope, names: &[(&str, Option<&String>)]) -> Result<()> {
    scope.validate(operation)?;
    names.iter().try_for_each(|(field, name)| validate::optional_name(operation, field, *name))
}

/// Refuses what cannot be stored; what is deleted may be anything.
pub(in crate::memory) fn check_change(operation: &'static str, change: &NodeChange) -> Result<()> {
    let name = |field, name: &str| validate::name(operation, field, name);
    match change {
        NodeChange::CreateEntities(entities) => entities.iter().try_for_each(|entity| {
            name("name", &entity.name)?;
            if entity.name.contains(char::is_control) {
                return Err(Error::invalid(operation, "name", "holds a control character"));
            }
            validate::text(operation, "entityType", &entity.entity_type)?;
            observations(operation, &entity.observations)
        }),
        NodeChange::CreateRelations(relations) => relations.iter().try_for_each(|relation| {
            name("from", &relation.from)?;
            name("to", &relation.to)?;
            name("relationType", &relation.relation_type)
        }),
        NodeChange::AddObservations(list) => list.iter().try_for_each(|one| observations(operation, &one.contents)),
        _ => Ok(()),
    }
}

fn observations(operation: &'static str, contents: &[String]) -> Result<()> {
    if contents.iter().map(String::len).sum::<usize>() as u64 > MAX_OBSERVATION_BYTES {
        let message = format!("are more than {MAX_OBSERVATION_BYTES} bytes: store long texts as records");
        return Err(Error::invalid(operation, "observations", message));
    }
    contents.iter().try_for_each(|content| validate::text(operation, "observations", content))
}

fn check_depth(operation: &'static str, field: &str, depth: Option<usize>) -> Result<()> {
    match depth {
        None | Some(1..=MAX_DEPTH) => Ok(()),
        Some(other) => Err(Error::invalid(operation, field, format!("is {other}; it must be from 1 to {MAX_DEPTH}"))),
    }
}
