//! What is said to the smaller calls.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::record::or_default;
use crate::Scope;

/// Which record to get: by `id` or by `seq`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GetRecord {
    /// Identifier.
    pub id: Option<String>,
    /// Number.
    pub seq: Option<i64>,
    /// Whose it is.
    #[serde(deserialize_with = "or_default")]
    pub scope: Scope,
    /// Whether it may be deleted softly. Default no.
    #[serde(deserialize_with = "or_default")]
    pub include_archived: bool,
}

impl GetRecord {
    /// Names a record by its identifier.
    pub fn id(id: impl Into<String>) -> GetRecord {
        GetRecord { id: Some(id.into()), ..GetRecord::default() }
    }

    /// Names a record by its number.
    pub fn seq(seq: i64) -> GetRecord {
        GetRecord { seq: Some(seq), ..GetRecord::default() }
    }

    /// Sets whose it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> GetRecord {
        self.scope = scope.into();
        self
    }

    /// Gets it even if it was deleted softly.
    #[must_use]
    pub fn include_archived(mut self) -> GetRecord {
        self.include_archived = true;
        self
    }
}

/// Which record to delete.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Delete {
    /// Identifier.
    pub id: String,
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// Whether it is erased, with its versions and vector, instead of hidden. Default no.
    #[serde(default, deserialize_with = "or_default")]
    pub permanent: bool,
}

impl Delete {
    /// Names a record to hide.
    pub fn new(id: impl Into<String>) -> Delete {
        Delete { id: id.into(), ..Delete::default() }
    }

    /// Sets whose it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> Delete {
        self.scope = scope.into();
        self
    }

    /// Erases it.
    #[must_use]
    pub fn permanent(mut self) -> Delete {
        self.permanent = true;
        self
    }
}

/// Which records to delete: all of the scope that pass every filter.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DeleteWhere {
    /// Whose they are.
    #[serde(deserialize_with = "or_default")]
    pub scope: Scope,
    /// Kinds; any of them.
    pub kinds: Option<Vec<String>>,
    /// Labels; any of them.
    pub tags: Option<Vec<String>>,
    /// Created before this time.
    pub before: Option<Timestamp>,
    /// Whether they are erased, with versions and vectors, instead of hidden. Default no.
    #[serde(deserialize_with = "or_default")]
    pub permanent: bool,
}

impl DeleteWhere {
    /// Names all records of a scope, to hide.
    pub fn new(scope: impl Into<Scope>) -> DeleteWhere {
        DeleteWhere { scope: scope.into(), ..DeleteWhere::default() }
    }

    /// Keeps to these kinds.
    #[must_use]
    pub fn kinds<T: Into<String>>(mut self, kinds: impl IntoIterator<Item = T>) -> DeleteWhere {
        self.kinds = Some(kinds.into_iter().map(Into::into).collect());
        self
    }

    /// Keeps to records with any of these labels.
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> DeleteWhere {
        self.tags = Some(tags.into_iter().map(Into::into).collect());
        self
    }

    /// Keeps to what was created before this time.
    #[must_use]
    pub fn before(mut self, before: Timestamp) -> DeleteWhere {
        self.before = Some(before);
        self
    }

    /// Erases them.
    #[must_use]
    pub fn permanent(mut self) -> DeleteWhere {
        self.permanent = true;
        self
    }
}

/// A message of a conversation. The scope names the conversation by its session.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AppendMessage {
    /// Whose conversation, and which: `session` must be set.
    pub scope: Scope,
    /// Who speaks: `"user"`, `"assistant"`, `"system"`, `"tool"`.
    pub role: String,
    /// What is said.
    pub content: String,
    /// When it was said. Default now. The order is that of the calls, whatever this says.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// Facts of the caller's own.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Map<String, Value>,
}

impl AppendMessage {
    /// Creates a message that is said now.
    pub fn new(scope: impl Into<Scope>, role: impl Into<String>, content: impl Into<String>) -> AppendMessage {
        AppendMessage { scope: scope.into(), role: role.into(), content: content.into(), ..AppendMessage::default() }
    }

    /// Sets when it was said.
    #[must_use]
    pub fn at(mut self, at: Timestamp) -> AppendMessage {
        self.at = Some(at);
        self
    }

    /// Adds one fact.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Value>) -> AppendMessage {
        self.metadata.insert(key.into(), value.into());
        self
    }
}

/// Which messages to read: the last ones, in the order in which they were said.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct History {
    /// Whose conversation, and which; without a session, all of them.
    pub scope: Scope,
    /// Most messages, from 1 to 1,000. Default 50.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Only messages with a smaller `seq`: to read backwards page by page.
    #[serde(default)]
    pub before: Option<i64>,
}

impl History {
    /// Asks for the last 50 messages.
    pub fn new(scope: impl Into<Scope>) -> History {
        History { scope: scope.into(), ..History::default() }
    }

    /// Sets the most messages.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> History {
        self.limit = Some(limit);
        self
    }

    /// Keeps to messages with a smaller `seq`.
    #[must_use]
    pub fn before(mut self, seq: i64) -> History {
        self.before = Some(seq);
        self
    }
}
