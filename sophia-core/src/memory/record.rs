//! What a record is, and what is said to store and to change one.

use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Scope};

/// Kind of a record that names none.
pub(crate) const DEFAULT_KIND: &str = "note";
/// Kind of what [`Memory::append`](super::Memory::append) stores.
pub(crate) const MESSAGE_KIND: &str = "message";
/// Importance of a record that names none, in 0..=1.
pub(crate) const DEFAULT_IMPORTANCE: f64 = 0.5;

/// Importance from which no rule drops a record.
pub(crate) const PINNED: f64 = 1.0;

/// How urgent a record is. Ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// `"low"`
    Low,
    /// `"medium"`, the default.
    #[default]
    Medium,
    /// `"high"`
    High,
    /// `"critical"`
    Critical,
}

impl Priority {
    /// Returns its name, as stores keep it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Medium => "medium",
            Priority::High => "high",
            Priority::Critical => "critical",
        }
    }

    /// Returns the one of this name; the default for a name that is none.
    pub(crate) fn named(name: &str) -> Priority {
        let all = [Priority::Low, Priority::High, Priority::Critical];
        all.into_iter().find(|priority| priority.name() == name).unwrap_or_default()
    }
}

/// Whether a record is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RecordStatus")]
pub enum Status {
    /// `"active"`: found by every read.
    #[default]
    Active,
    /// `"archived"`: deleted softly; found only where `include_archived` is set, until it is deleted permanently.
    Archived,
}

/// One thing that is remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Record {
    /// Identifier, unique for a tenant and user: the caller's own, or a UUID v7.
    pub id: String,
    /// Number that grows with every record of the store and is never used twice.
    pub seq: i64,
    /// Counts from 1; every change adds one.
    pub version: i64,
    /// The text, whole.
    pub content: String,
    /// What sort of thing it is, such as `"note"`, `"preference"`, `"message"`.
    pub kind: String,
    /// Group of the caller's own.
    pub category: Option<String>,
    /// Labels, sorted and without repetition.
    pub tags: Vec<String>,
    /// Facts of the caller's own.
    pub metadata: Map<String, Value>,
    /// Short form of the content.
    pub summary: Option<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// Who spoke, for a message: `"user"`, `"assistant"`, `"system"`, `"tool"`.
    pub role: Option<String>,
    /// From 0 (can be forgotten) to 1 (pinned: no rule of retention drops it).
    pub importance: f64,
    /// How urgent it is.
    pub priority: Priority,
    /// Whether it is shown.
    pub status: Status,
    /// Whose it is.
    pub scope: Scope,
    /// When it came to be: when it was stored, or what the caller said.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
    /// When it stops to be found; `None` is never.
    pub expires_at: Option<Timestamp>,
}

/// Something to remember. Only the content is required.
///
/// ```
/// use std::time::Duration;
/// use sophia_core::{Scope, memory::{NewRecord, Priority}};
///
/// let record = NewRecord::new("Ada wants the quarterly report as a PDF.")
///     .scope(Scope::new().tenant("acme").user("ada"))
///     .kind("preference")
///     .tags(["report"])
///     .metadata("via", "chat")
///     .priority(Priority::High)
///     .ttl(Duration::from_secs(3600));
/// assert_eq!(record.kind.as_deref(), Some("preference"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewRecord {
    /// The text: not empty, at most `memory.max_content_bytes`, without NUL characters.
    pub content: String,
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// Identifier of the caller's own. A record that has it becomes the next version of itself.
    #[serde(default)]
    pub id: Option<String>,
    /// What sort of thing it is. Default `"note"`.
    #[serde(default)]
    pub kind: Option<String>,
    /// Group of the caller's own.
    #[serde(default)]
    pub category: Option<String>,
    /// Labels.
    #[serde(default, deserialize_with = "or_default")]
    pub tags: Vec<String>,
    /// Facts of the caller's own.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Map<String, Value>,
    /// Short form of the content.
    #[serde(default)]
    pub summary: Option<String>,
    /// Where it comes from.
    #[serde(default)]
    pub source: Option<String>,
    /// From 0 to 1, which pins it: no rule of retention drops it. Default 0.5.
    #[serde(default)]
    pub importance: Option<f64>,
    /// How urgent it is. Default `"medium"`.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// How long it is found, in seconds. Default for ever.
    #[serde(default, with = "crate::duration::option")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub ttl: Option<Duration>,
    /// Its vector, as the embedder would make it. Default: the embedder makes it.
    #[serde(default)]
    pub embedding: Option<Vec<f32>>,
    /// Whether a record of the same scope, kind and content is returned instead of a second one. Default no.
    #[serde(default, deserialize_with = "or_default")]
    pub dedupe: bool,
    /// Version that the record of this id has; another one is a conflict. 0 is none: it is stored only where none is found.
    #[serde(default)]
    pub if_version: Option<i64>,
}

impl NewRecord {
    /// Creates a note with this content, in the scope in which nothing is set.
    pub fn new(content: impl Into<String>) -> NewRecord {
        NewRecord { content: content.into(), ..NewRecord::default() }
    }

    /// Sets whose it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> NewRecord {
        self.scope = scope.into();
        self
    }

    /// Sets the identifier.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> NewRecord {
        self.id = Some(id.into());
        self
    }

    /// Sets what sort of thing it is.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> NewRecord {
        self.kind = Some(kind.into());
        self
    }

    /// Sets the group.
    #[must_use]
    pub fn category(mut self, category: impl Into<String>) -> NewRecord {
        self.category = Some(category.into());
        self
    }

    /// Sets the labels.
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> NewRecord {
        self.tags = tags.into_iter().map(Into::into).collect();
        self
    }

    /// Adds one fact.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Value>) -> NewRecord {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Sets the short form.
    #[must_use]
    pub fn summary(mut self, summary: impl Into<String>) -> NewRecord {
        self.summary = Some(summary.into());
        self
    }

    /// Sets where it comes from.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> NewRecord {
        self.source = Some(source.into());
        self
    }

    /// Sets the importance, from 0 to 1.
    #[must_use]
    pub fn importance(mut self, importance: f64) -> NewRecord {
        self.importance = Some(importance);
        self
    }

    /// Sets how urgent it is.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> NewRecord {
        self.priority = Some(priority);
        self
    }

    /// Sets how long it is found.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> NewRecord {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the vector.
    #[must_use]
    pub fn embedding(mut self, embedding: impl Into<Vec<f32>>) -> NewRecord {
        self.embedding = Some(embedding.into());
        self
    }

    /// Returns an equal record of the same scope, if there is one, instead of storing a second.
    #[must_use]
    pub fn dedupe(mut self) -> NewRecord {
        self.dedupe = true;
        self
    }

    /// Sets the version that the record of this id must have; 0 is that there is none.
    #[must_use]
    pub fn if_version(mut self, version: i64) -> NewRecord {
        self.if_version = Some(version);
        self
    }
}

/// Where a record went.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct StoreResult {
    /// Identifier.
    pub id: String,
    /// Number that grows with every record.
    pub seq: i64,
    /// 1, or more where the identifier was known.
    pub version: i64,
    /// Whether the record is new.
    pub created: bool,
    /// Tiers that hold it now.
    pub tiers: Vec<&'static str>,
    /// When it stops to be found; `None` is never.
    pub expires_at: Option<Timestamp>,
}

/// What became of one item of a batch.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum StoreOutcome {
    /// It is stored.
    Stored(StoreResult),
    /// It is not, and this is why; the others are not harmed.
    Failed {
        /// Why.
        error: ItemError,
    },
}

impl StoreOutcome {
    /// Returns the result as a `Result`.
    ///
    /// # Errors
    /// Why the item was not stored.
    pub fn into_result(self) -> crate::Result<StoreResult> {
        match self {
            StoreOutcome::Stored(result) => Ok(result),
            StoreOutcome::Failed { error } => Err(error.0),
        }
    }
}

impl From<crate::Result<StoreResult>> for StoreOutcome {
    fn from(result: crate::Result<StoreResult>) -> Self {
        match result {
            Ok(result) => StoreOutcome::Stored(result),
            Err(error) => StoreOutcome::Failed { error: ItemError(error) },
        }
    }
}

/// An error inside a result. Written as `{code, message, operation, field, retryable}`.
#[derive(Debug, Clone)]
pub struct ItemError(pub Error);

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ItemError")]
struct ItemErrorShape<'a> {
    /// Stable code, such as `"INVALID_INPUT"`.
    code: &'a str,
    /// What is wrong.
    message: &'a str,
    /// Operation that failed.
    operation: &'a str,
    /// Field at fault, if it is one.
    field: Option<&'a str>,
    /// Whether the same item may succeed later, unchanged.
    retryable: bool,
}

impl Serialize for ItemError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let error = &self.0;
        ItemErrorShape {
            code: error.code(),
            message: error.message(),
            operation: error.operation(),
            field: error.get("field"),
            retryable: error.is_retryable(),
        }
        .serialize(serializer)
    }
}

impl JsonSchema for ItemError {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ItemError".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        ItemErrorShape::json_schema(generator)
    }
}

/// A change of one record. What is left out stays; what is null is cleared.
///
/// ```
/// use sophia_core::memory::Update;
///
/// let update = Update::new("r1").content("Ada wants a spreadsheet.").if_version(1);
/// assert_eq!(update.if_version, Some(1));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Update {
    /// Identifier.
    pub id: String,
    /// Whose it is.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: Scope,
    /// New text.
    #[serde(default)]
    pub content: Option<String>,
    /// New group; null clears it.
    #[serde(default, deserialize_with = "present")]
    pub category: Option<Option<String>>,
    /// New labels, in place of the old; null clears them.
    #[serde(default, deserialize_with = "present")]
    pub tags: Option<Option<Vec<String>>>,
    /// Facts to merge into the old ones; a null inside removes that fact, null itself removes all.
    #[serde(default, deserialize_with = "present")]
    pub metadata: Option<Option<Map<String, Value>>>,
    /// New urgency.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// New importance, from 0 to 1, which pins it.
    #[serde(default)]
    pub importance: Option<f64>,
    /// New short form; null clears it.
    #[serde(default, deserialize_with = "present")]
    pub summary: Option<Option<String>>,
    /// Whether it is shown; `"active"` brings back what was deleted softly.
    #[serde(default)]
    pub status: Option<Status>,
    /// New time to live, from now, in seconds; null is for ever. By itself it is no new version.
    #[serde(default, deserialize_with = "present_duration")]
    #[schemars(with = "Option<crate::duration::DurationSchema>")]
    pub ttl: Option<Option<Duration>>,
    /// Version that the change is for; another one is a conflict.
    #[serde(default)]
    pub if_version: Option<i64>,
    /// How long the rule keeps what is not pinned.
    #[serde(skip)]
    pub(crate) retention_ttl: Option<Duration>,
}

impl Update {
    /// Creates a change of the record with this identifier.
    pub fn new(id: impl Into<String>) -> Update {
        Update { id: id.into(), ..Update::default() }
    }

    /// Sets whose it is.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Scope>) -> Update {
        self.scope = scope.into();
        self
    }

    /// Sets the text.
    #[must_use]
    pub fn content(mut self, content: impl Into<String>) -> Update {
        self.content = Some(content.into());
        self
    }

    /// Sets the group, or clears it.
    #[must_use]
    pub fn category(mut self, category: Option<String>) -> Update {
        self.category = Some(category);
        self
    }

    /// Sets the labels.
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Update {
        self.tags = Some(Some(tags.into_iter().map(Into::into).collect()));
        self
    }

    /// Merges one fact; `Value::Null` removes it.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Value>) -> Update {
        let metadata = self.metadata.get_or_insert_default().get_or_insert_default();
        metadata.insert(key.into(), value.into());
        self
    }

    /// Sets how urgent it is.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Update {
        self.priority = Some(priority);
        self
    }

    /// Sets how long it lives from now, or that it lives for ever.
    #[must_use]
    pub fn ttl(mut self, ttl: Option<Duration>) -> Update {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the importance, from 0 to 1.
    #[must_use]
    pub fn importance(mut self, importance: f64) -> Update {
        self.importance = Some(importance);
        self
    }

    /// Sets the short form, or clears it.
    #[must_use]
    pub fn summary(mut self, summary: Option<String>) -> Update {
        self.summary = Some(summary);
        self
    }

    /// Sets whether it is shown.
    #[must_use]
    pub fn status(mut self, status: Status) -> Update {
        self.status = Some(status);
        self
    }

    /// Makes another version than this one a conflict.
    #[must_use]
    pub fn if_version(mut self, version: i64) -> Update {
        self.if_version = Some(version);
        self
    }
}

/// Reads null as the default.
pub(crate) fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads null as `Some(None)`, so that it differs from what was left out.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The same of a duration.
fn present_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Duration>>, D::Error> {
    crate::duration::option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_clears_and_absent_keeps() {
        let update: Update = serde_json::from_value(json!({"id": "a", "category": null})).unwrap();
        assert_eq!((update.category, update.summary), (Some(None), None));
    }

    #[test]
    fn null_is_the_default_of_an_argument() {
        let record: NewRecord =
            serde_json::from_value(json!({"content": "x", "scope": null, "tags": null, "ttl": null})).unwrap();
        assert_eq!(record, NewRecord::new("x"));
    }
}
