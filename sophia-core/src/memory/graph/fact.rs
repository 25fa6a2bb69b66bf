//! Entities and facts, and what is said to store and to find them.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Scope, memory::record::or_default};

/// Something that facts are about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Entity {
    /// Its name, unique for a tenant and user.
    pub name: String,
    /// What sort of thing it is.
    pub kind: Option<String>,
    /// What else is known of it.
    pub attributes: Map<String, Value>,
    /// When it was stored; null where only facts name it.
    pub created_at: Option<Timestamp>,
    /// When it changed last.
    pub updated_at: Option<Timestamp>,
}

/// A statement on two axes of time: when it is true in the world, and when the store believed it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Fact {
    /// Identifier.
    pub id: String,
    /// Of whom.
    pub subject: String,
    /// What.
    pub predicate: String,
    /// To whom, or a value.
    pub object: String,
    /// From when it is true, included.
    pub valid_at: Timestamp,
    /// Until when it is true, excluded; null is open.
    pub invalid_at: Option<Timestamp>,
    /// From when the store believes it.
    pub created_at: Timestamp,
    /// Until when the store believed it; null is still.
    pub expired_at: Option<Timestamp>,
    /// Whether the subject has one such object at a time.
    pub functional: bool,
    /// Where it comes from, such as the id of a record.
    pub source: Option<String>,
    /// Facts of the caller's own.
    pub metadata: Map<String, Value>,
}

/// Arguments of `memory.graph.upsert`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewEntity {
    /// Its name.
    pub entity: String,
    /// What sort of thing it is; left out, it stays.
    #[serde(default)]
    pub kind: Option<String>,
    /// What else is known of it: merged into what is there; a null removes.
    #[serde(default, deserialize_with = "or_default")]
    pub attributes: Map<String, Value>,
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
}

impl NewEntity {
    /// Names an entity.
    pub fn new(entity: impl Into<String>) -> NewEntity {
        NewEntity { entity: entity.into(), ..NewEntity::default() }
    }

    /// Sets what sort of thing it is.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> NewEntity {
        self.kind = Some(kind.into());
        self
    }

    /// Adds one attribute.
    #[must_use]
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<Value>) -> NewEntity {
        self.attributes.insert(key.into(), value.into());
        self
    }

    /// Sets whose it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> NewEntity {
        self.scope = scope.into();
        self
    }
}

/// Arguments of `memory.graph.relate`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewFact {
    /// Of whom.
    pub subject: String,
    /// What.
    pub predicate: String,
    /// To whom, or a value.
    pub object: String,
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// From when it is true. Default now.
    #[serde(default)]
    pub valid_at: Option<Timestamp>,
    /// Until when it is true. Default open.
    #[serde(default)]
    pub invalid_at: Option<Timestamp>,
    /// Whether the subject has one such object at a time: then this fact ends the one before. Default no.
    #[serde(default, deserialize_with = "or_default")]
    pub functional: bool,
    /// Where it comes from.
    #[serde(default)]
    pub source: Option<String>,
    /// Facts of the caller's own.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Map<String, Value>,
}

impl NewFact {
    /// States that `subject` `predicate` `object`, from now on.
    pub fn new(subject: impl Into<String>, predicate: impl Into<String>, object: impl Into<String>) -> NewFact {
        NewFact { subject: subject.into(), predicate: predicate.into(), object: object.into(), ..NewFact::default() }
    }

    /// Sets whose it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> NewFact {
        self.scope = scope.into();
        self
    }

    /// Sets from when it is true.
    #[must_use]
    pub fn valid_at(mut self, at: Timestamp) -> NewFact {
        self.valid_at = Some(at);
        self
    }

    /// Sets until when it is true.
    #[must_use]
    pub fn invalid_at(mut self, at: Timestamp) -> NewFact {
        self.invalid_at = Some(at);
        self
    }

    /// Ends the fact before: the subject has one such object at a time.
    #[must_use]
    pub fn functional(mut self) -> NewFact {
        self.functional = true;
        self
    }
}

/// Arguments of `memory.graph.facts`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FactQuery {
    /// Of whom.
    pub subject: Option<String>,
    /// What.
    pub predicate: Option<String>,
    /// To whom.
    pub object: Option<String>,
    /// Whose they are.
    #[serde(deserialize_with = "or_default")]
    pub scope: Scope,
    /// True at this time in the world. Default now.
    pub as_of: Option<Timestamp>,
    /// Believed at this time by the store. Default now.
    pub known_at: Option<Timestamp>,
    /// Most facts, from 1 to 1,000. Default 1,000.
    pub limit: Option<usize>,
}

impl FactQuery {
    /// Asks for all facts of a scope that are true now.
    pub fn new(scope: impl Into<Scope>) -> FactQuery {
        FactQuery { scope: scope.into(), ..FactQuery::default() }
    }

    /// Keeps facts of this subject.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> FactQuery {
        self.subject = Some(subject.into());
        self
    }

    /// Keeps this predicate.
    #[must_use]
    pub fn predicate(mut self, predicate: impl Into<String>) -> FactQuery {
        self.predicate = Some(predicate.into());
        self
    }

    /// Keeps facts to this object.
    #[must_use]
    pub fn object(mut self, object: impl Into<String>) -> FactQuery {
        self.object = Some(object.into());
        self
    }

    /// Asks what was true at a time.
    #[must_use]
    pub fn as_of(mut self, at: Timestamp) -> FactQuery {
        self.as_of = Some(at);
        self
    }

    /// Asks what the store believed at a time.
    #[must_use]
    pub fn known_at(mut self, at: Timestamp) -> FactQuery {
        self.known_at = Some(at);
        self
    }
}

/// Arguments of `memory.graph.neighbors`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NeighborQuery {
    /// Where to begin.
    pub entity: String,
    /// Most steps, from 1 to 8. Default 1.
    #[serde(default)]
    pub depth: Option<usize>,
    /// Most neighbours, from 1 to 1,000. Default 100.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Whose they are.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// By facts that are true at this time. Default now.
    #[serde(default)]
    pub as_of: Option<Timestamp>,
    /// By facts that the store believed at this time. Default now.
    #[serde(default)]
    pub known_at: Option<Timestamp>,
}

impl NeighborQuery {
    /// Asks for what is one step away.
    pub fn new(entity: impl Into<String>, scope: impl Into<Scope>) -> NeighborQuery {
        NeighborQuery { entity: entity.into(), scope: scope.into(), ..NeighborQuery::default() }
    }

    /// Sets the most steps.
    #[must_use]
    pub fn depth(mut self, depth: usize) -> NeighborQuery {
        self.depth = Some(depth);
        self
    }
}

/// An entity near another one.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Neighbor {
    /// The entity.
    pub entity: Entity,
    /// Steps from where the search began.
    pub depth: usize,
    /// Fact of the last step.
    pub fact: Fact,
}

/// Arguments of `memory.graph.path`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PathQuery {
    /// Where to begin.
    pub a: String,
    /// Where to end.
    pub b: String,
    /// Most steps, from 1 to 8. Default 4.
    #[serde(default)]
    pub max_depth: Option<usize>,
    /// Whose they are.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// By facts that are true at this time. Default now.
    #[serde(default)]
    pub as_of: Option<Timestamp>,
    /// By facts that the store believed at this time. Default now.
    #[serde(default)]
    pub known_at: Option<Timestamp>,
}

impl PathQuery {
    /// Asks for a shortest way between two entities.
    pub fn new(a: impl Into<String>, b: impl Into<String>, scope: impl Into<Scope>) -> PathQuery {
        PathQuery { a: a.into(), b: b.into(), scope: scope.into(), ..PathQuery::default() }
    }
}
