//! [`Archive`]: what a technology must do to be taken out and put in, and what is carried.

use std::{fmt::Debug, path::PathBuf};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::upkeep::{CheckReport, Repair};
use crate::{
    Error, ErrorKind, Result, Scope,
    memory::{Entity, Fact, NewCheckpoint, NewWrites, Record, store::NamedVector},
};

/// A store whose content can be read whole, page by page, and written as it was elsewhere.
///
/// An implementation runs `testing::archive::archive`. What it does not offer is `Unsupported`.
#[async_trait]
pub trait Archive: Debug + Send + Sync + 'static {
    /// Returns at most `limit` items of one part, those after `after` in an order that does not change. Without a scope,
    /// those of everyone. Only records have a session and an agent: a scope that names one holds nothing else.
    async fn read_items(
        &self,
        _part: Part,
        _scope: Option<Scope>,
        _after: Option<String>,
        _limit: usize,
    ) -> Result<ItemPage> {
        Err(unsupported("memory.export"))
    }

    /// Writes items as they are, all or none; says of each what became of it, in order. What is there and newer, or the
    /// same, stays.
    async fn write_items(&self, _items: Vec<Item>) -> Result<Vec<Outcome>> {
        Err(unsupported("memory.import"))
    }

    /// Writes a copy of the data as of one moment to a new file, while others read and write.
    async fn backup(&self, _path: PathBuf) -> Result<()> {
        Err(unsupported("memory.backup"))
    }

    /// Looks for what is damaged; with [`Repair::Rebuild`], makes anew what is derived.
    async fn check(&self, _repair: Repair) -> Result<CheckReport> {
        Err(unsupported("memory.check"))
    }
}

fn unsupported(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, operation, "this store does not offer it: use the tools of its database")
}

/// A part of what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Records, with former versions and vectors.
    Records,
    /// Entities of the graph.
    Entities,
    /// Facts of the graph, also those that ended.
    Facts,
    /// Values under keys.
    Keys,
    /// Checkpoints, parents first.
    Checkpoints,
    /// Writes of tasks.
    Writes,
}

impl Part {
    /// All parts, in the order in which they are written.
    pub const ALL: [Part; 6] =
        [Part::Records, Part::Entities, Part::Facts, Part::Keys, Part::Checkpoints, Part::Writes];
}

/// One thing that is carried: a line of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// Of [`Part::Records`].
    Record(Box<KeptRecord>),
    /// Of [`Part::Entities`].
    Entity(Box<KeptEntity>),
    /// Of [`Part::Facts`].
    Fact(Box<KeptFact>),
    /// Of [`Part::Keys`].
    Key(Box<KeptKey>),
    /// Of [`Part::Checkpoints`].
    Checkpoint(Box<KeptCheckpoint>),
    /// Of [`Part::Writes`].
    Writes(Box<NewWrites>),
}

impl Item {
    /// Returns whose it is.
    pub fn scope(&self) -> &Scope {
        match self {
            Item::Record(kept) => &kept.record.scope,
            Item::Entity(kept) => &kept.scope,
            Item::Fact(kept) => &kept.scope,
            Item::Key(kept) => &kept.scope,
            Item::Checkpoint(kept) => &kept.checkpoint.scope,
            Item::Writes(writes) => &writes.scope,
        }
    }

    /// Returns of which part it is.
    pub fn part(&self) -> Part {
        match self {
            Item::Record(_) => Part::Records,
            Item::Entity(_) => Part::Entities,
            Item::Fact(_) => Part::Facts,
            Item::Key(_) => Part::Keys,
            Item::Checkpoint(_) => Part::Checkpoints,
            Item::Writes(_) => Part::Writes,
        }
    }
}

/// A record as it is kept. Its `seq` is kept as well where the store has not given a greater one yet, and it is none that
/// leaves no room for others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptRecord {
    /// The record.
    pub record: Record,
    /// Former states, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<Record>,
    /// Its vector.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "vector")]
    pub vector: Option<NamedVector>,
    /// Whether nothing says when it changed: then what is there stays.
    #[serde(skip)]
    pub is_undated: bool,
}

/// An entity and whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptEntity {
    /// Whose it is.
    pub scope: Scope,
    /// The entity.
    pub entity: Entity,
}

/// A fact and whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptFact {
    /// Whose it is.
    pub scope: Scope,
    /// The fact.
    pub fact: Fact,
}

/// A value under a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptKey {
    /// Whose it is.
    pub scope: Scope,
    /// The key.
    pub key: String,
    /// The value.
    pub value: Value,
    /// What it can be invalidated by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// When it stops to be fresh; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// When it is gone; `None` is never.
    pub stale_until: Option<Timestamp>,
}

/// A checkpoint and when it was made. Values that its parent has as well are not repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptCheckpoint {
    /// The checkpoint.
    pub checkpoint: NewCheckpoint,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Some items of a part.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ItemPage {
    /// Items.
    pub items: Vec<Item>,
    /// `after` of the next page; `None` where there is none.
    pub next: Option<String>,
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is new.
    Added,
    /// It took the place of an older one.
    Updated,
    /// What was there stays: it is the same, or newer.
    Unchanged,
}

/// Hears how far long work is: what is done, of how much. The unit is the work's own.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// A vector as its model and its values, little endian in base64: a third of what the numbers would take.
mod vector {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::memory::store::NamedVector;

    #[derive(Serialize, Deserialize)]
    struct Written {
        model: String,
        f32: String,
    }

    pub(super) fn serialize<S: Serializer>(vector: &Option<NamedVector>, serializer: S) -> Result<S::Ok, S::Error> {
        let written = vector.as_ref().map(|vector| Written {
            model: vector.model.clone(),
            f32: BASE64.encode(vector.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()),
        });
        written.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NamedVector>, D::Error> {
        let Some(Written { model, f32 }) = Option::deserialize(deserializer)? else { return Ok(None) };
        let bytes = BASE64.decode(f32).map_err(|error| D::Error::custom(format!("not base64: {error}")))?;
        let (values, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(D::Error::custom("the vector is cut off"));
        }
        Ok(Some(NamedVector { model, values: values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect() }))
    }
}
