//! [`MemoryStore`]: what a technology must do to hold records.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    embed::{BUNDLED_MIN_SIMILARITY, ModelClass, WordVectors},
    forget::{ForgetReceipt, ForgetRequest},
    health::{MemoryStats, Session, TierHealth},
    query::{Explain, Fusion, MatchType, Mode},
    record::{Priority, Record, Update},
};
use crate::{Result, Scope};

/// A store of records: durable, searchable, walled by scope.
///
/// Arguments have been validated, and vectors made, before a store sees them. Every method keeps the wall: it neither
/// reads nor changes what its scope does not [cover](Scope::covers). An implementation runs
/// `testing::memory::memory_store`.
#[async_trait]
pub trait MemoryStore: Debug + Send + Sync + 'static {
    /// Returns the name of the technology, such as `"sqlite"`.
    fn name(&self) -> &'static str;

    /// Stores records in order; their results are in the same order. Durable when it returns.
    async fn insert(&self, drafts: Vec<Draft>, atomicity: Atomicity) -> Result<Vec<Result<Inserted>>>;

    /// Changes one record and returns it. `NotFound` where there is none, `Conflict` where its version is another.
    async fn update(&self, change: Change) -> Result<Record>;

    /// Returns one record.
    async fn get(&self, lookup: Lookup) -> Result<Option<Record>>;

    /// Returns all versions of one record, oldest first, the current one last.
    async fn versions(&self, lookup: Lookup) -> Result<Vec<Record>>;

    /// Returns what matches best.
    async fn search(&self, plan: Plan) -> Result<Found>;

    /// Returns the last records that the filter keeps, in the order of their `seq`.
    async fn list(&self, listing: Listing) -> Result<Vec<Record>>;

    /// Archives or erases what the filter keeps, and returns how many records that were.
    async fn delete(&self, filter: Filter, depth: Depth) -> Result<u64>;

    /// Returns the conversations of a scope, the one that spoke last first.
    async fn sessions(&self, filter: Filter, limit: usize) -> Result<Vec<Session>>;

    /// Returns the pairs of tenant and user that hold something of this user.
    async fn scopes_of(&self, user: &str) -> Result<Vec<Scope>>;

    /// Removes all traces of a scope or of a subject.
    async fn forget(&self, request: ForgetRequest) -> Result<ForgetReceipt>;

    /// Counts all records by the model of their vector; those that have none count under `None`.
    async fn vector_models(&self) -> Result<Vec<ModelUse>>;

    /// Returns records, of every scope, that have no vector of `model`: the `limit` with the greatest `seq` below `before`, the
    /// greatest first.
    async fn stale_vectors(&self, model: &str, before: Option<i64>, limit: usize) -> Result<Vec<StaleVector>>;

    /// Sets the vectors of records that still have the version which they were made of; returns how many that were.
    async fn set_vectors(&self, vectors: Vec<NewVector>) -> Result<u64>;

    /// Takes the right to do something alone for `lasts` from now, or prolongs it where `holder` has it; for a time of zero
    /// gives it up. Returns false where another has it. Processes that share the data share the right.
    async fn lease(&self, name: &str, holder: &str, lasts: Duration) -> Result<bool>;

    /// Counts what is held.
    async fn stats(&self) -> Result<MemoryStats>;

    /// Asks the technology how it is. Never fails: a failure is a status.
    async fn health(&self) -> TierHealth;

    /// Opens what must be open; without it the first use does.
    async fn open(&self) -> Result<()>;

    /// Ends what is under way and closes. A later use opens again.
    async fn close(&self) -> Result<()>;

    /// Closes what a forked process must not inherit; whoever uses the store waits until [`MemoryStore::resume`].
    async fn suspend(&self) -> Result<()> {
        self.close().await
    }

    /// Lets the store be used again after [`MemoryStore::suspend`].
    fn resume(&self) {}
}

/// A record that is about to be stored; its `seq` and `version` are the store's to give.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Draft {
    /// The record.
    pub record: Record,
    /// Its vector, if there is one.
    pub vector: Option<NamedVector>,
    /// What to do if the same scope, kind and content is there.
    pub same_content: SameContent,
    /// Version that the record of its id must have; 0 is that none is found.
    pub if_version: Option<i64>,
}

impl Draft {
    /// Creates a draft without a vector that may repeat what is there.
    pub fn new(record: Record) -> Draft {
        Draft { record, vector: None, same_content: SameContent::StoreAgain, if_version: None }
    }
}

/// What to do with a content that the scope has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameContent {
    /// Store it once more.
    StoreAgain,
    /// Return the one that is there.
    ReturnExisting,
}

/// A vector of length one and the model that made it. Vectors of different models are never compared.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedVector {
    /// Model.
    pub model: String,
    /// Values. All are zero for a text without a direction: it is near nothing, and there is nothing left to be made of it.
    pub values: Vec<f32>,
}

/// How many records have a vector of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelUse {
    /// Model; `None` is no vector.
    pub model: Option<String>,
    /// Records.
    pub records: u64,
}

/// A record whose vector is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct StaleVector {
    /// Its number.
    pub seq: i64,
    /// Its version.
    pub version: i64,
    /// Whose it is.
    pub scope: Scope,
    /// What it says.
    pub content: String,
}

/// A vector that was made for a record.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVector {
    /// The number of the record.
    pub seq: i64,
    /// The version of the record that it was made of.
    pub version: i64,
    /// The vector.
    pub vector: NamedVector,
}

/// Whether the items of a batch stand or fall together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atomicity {
    /// Each by itself.
    Each,
    /// All or none.
    Together,
}

/// Where a record was put.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Inserted {
    /// Identifier.
    pub id: String,
    /// Number.
    pub seq: i64,
    /// Version.
    pub version: i64,
    /// Whether it is new.
    pub created: bool,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
}

/// A change that is about to be made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Change {
    /// What to change.
    pub update: Update,
    /// Vector of the new content, where the content changes.
    pub vector: Option<NamedVector>,
    /// Time of the change.
    pub now: Timestamp,
}

impl Change {
    /// Creates a change at `now`.
    pub fn new(update: Update, now: Timestamp) -> Change {
        Change { update, vector: None, now }
    }
}

/// How a record is named.
#[derive(Debug, Clone, PartialEq)]
pub enum Key {
    /// By its identifier.
    Id(String),
    /// By its number.
    Seq(i64),
}

/// Which record to read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Lookup {
    /// Its name.
    pub key: Key,
    /// Whose it must be.
    pub scope: Scope,
    /// Whether it may be archived.
    pub include_archived: bool,
    /// Time of the read.
    pub now: Timestamp,
}

impl Lookup {
    /// Creates a look-up of an active record.
    pub fn new(key: Key, scope: Scope, now: Timestamp) -> Lookup {
        Lookup { key, scope, include_archived: false, now }
    }
}

/// Which records are meant. What is `None` keeps all.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Filter {
    /// Whose they are; any of these.
    pub scopes: Vec<Scope>,
    /// Identifiers; any of these.
    pub ids: Option<Vec<String>>,
    /// Kinds; any of these.
    pub kinds: Option<Vec<String>>,
    /// Groups; any of these.
    pub categories: Option<Vec<String>>,
    /// Labels; any of these.
    pub tags: Option<Vec<String>>,
    /// Labels; all of these.
    pub tags_all: Option<Vec<String>>,
    /// Urgencies; any of these.
    pub priorities: Option<Vec<Priority>>,
    /// Source.
    pub source: Option<String>,
    /// Facts; all of these.
    pub metadata: Option<Map<String, Value>>,
    /// Earliest `created_at`, included.
    pub since: Option<Timestamp>,
    /// Latest `created_at`, excluded.
    pub until: Option<Timestamp>,
    /// Largest `seq`, excluded.
    pub before_seq: Option<i64>,
    /// Whether archived records are meant, too.
    pub include_archived: bool,
    /// Whether expired records are meant, too.
    pub include_expired: bool,
    /// Time of the read.
    pub now: Timestamp,
}

impl Filter {
    /// Creates a filter that keeps what is active in these scopes at `now`.
    pub fn new(scopes: Vec<Scope>, now: Timestamp) -> Filter {
        Filter {
            scopes,
            ids: None,
            kinds: None,
            categories: None,
            tags: None,
            tags_all: None,
            priorities: None,
            source: None,
            metadata: None,
            since: None,
            until: None,
            before_seq: None,
            include_archived: false,
            include_expired: false,
            now,
        }
    }
}

/// Which records to list.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Which.
    pub filter: Filter,
    /// Most records.
    pub limit: usize,
}

/// How deep to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Kept, and hidden.
    Archive,
    /// Gone, with its versions and vectors.
    Erase,
}

/// A search that is about to be made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Plan {
    /// Which records.
    pub filter: Filter,
    /// What to match; empty lists what the filter keeps, newest first.
    pub text: String,
    /// How to match.
    pub mode: Mode,
    /// What to be near to.
    pub vector: Option<NamedVector>,
    /// The same in other models, for records that have a vector of theirs: those that are not embedded anew yet.
    pub former: Vec<NamedVector>,
    /// How the model of `vector` comes to its vectors: what reads the whole text weighs more.
    pub class: ModelClass,
    /// Most hits.
    pub limit: usize,
    /// Hits to skip.
    pub offset: usize,
    /// Least score.
    pub min_score: f64,
    /// Least cosine of what matches by meaning; at -1 all that has a vector does.
    pub min_similarity: f64,
    /// What else the order is by.
    pub stages: Stages,
    /// What compares single words, where messages of conversations are ranked by near words, too.
    pub words: Option<Arc<dyn WordVectors>>,
}

impl Plan {
    /// Creates a hybrid search for `text` that gives ten hits, with vectors of the bundled models.
    pub fn new(filter: Filter, text: impl Into<String>) -> Plan {
        Plan {
            filter,
            text: text.into(),
            mode: Mode::Hybrid,
            vector: None,
            former: Vec::new(),
            class: ModelClass::default(),
            limit: 10,
            offset: 0,
            min_score: 0.0,
            min_similarity: BUNDLED_MIN_SIMILARITY,
            stages: Stages::default(),
            words: None,
        }
    }

    /// Returns whether it asks for no text and no meaning, but for all that the filter keeps.
    pub(crate) fn is_by_filter(&self) -> bool {
        self.text.trim().is_empty() && self.vector.is_none()
    }
}

/// What an order is by, beside how well records match.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Stages {
    /// How words and meaning become one order.
    pub fusion: Fusion,
    /// Age at which a record counts half.
    pub recency_half_life: Option<Duration>,
    /// Weight of importance, 0..1.
    pub importance_weight: f64,
    /// Weight of matching against being unlike the hits before, 0..1.
    pub mmr_lambda: Option<f64>,
    /// Whether words count that differ by a letter or two.
    pub typo_tolerant: bool,
}

/// What a search found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Found {
    /// One page of it, best first.
    pub matches: Vec<Match>,
    /// How many there are on all pages.
    pub total: usize,
    /// What could not be done, and why.
    pub warnings: Vec<String>,
}

/// One record that was found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Match {
    /// The record.
    pub record: Record,
    /// From 0 to 1.
    pub score: f64,
    /// By what.
    pub match_type: MatchType,
    /// Parts of the text with the matched words between `**`.
    pub highlights: Vec<String>,
    /// How the score came about.
    pub explain: Explain,
}
