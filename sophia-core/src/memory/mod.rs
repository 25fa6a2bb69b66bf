//! Memory: what was said and what is known, kept whole, found by meaning, scoped, and never lost.
//!
//! | to | open |
//! |---|---|
//! | call it | [`Memory`] (`handle.rs`, `prepare.rs`), [`Kv`] (`kv/`), [`Graph`] (`graph/`), [`Checkpoints`] (`checkpoint/`) |
//! | know what a record and a query are | `record.rs`, `query.rs`, `arguments.rs` |
//! | add a store | [`MemoryStore`] (`store.rs`), [`KvTier`] (`kv/tier.rs`), [`GraphStore`] (`graph/store.rs`), [`CheckpointStore`] (`checkpoint/store.rs`), [`Archive`] (`archive/store.rs`) |
//! | see the SQLite store, the Postgres store | `sqlite/`, `postgres/` |
//! | see how matches are ranked | `search.rs`, `turns.rs`, `rank.rs`, `conversation.rs`, `stages.rs`; their measures: `bm25.rs`, `words.rs`, `typos.rs`, `lexicon.rs`, `segment.rs`; which vectors are near: `../vectors/` |
//! | export, import, back up and check it | `archive/` |
//! | offer it to models as tools | `tools/` |
//! | turn text into vectors | [`embed`]; what was made, and making it anew: `embeddings.rs`, `reembed.rs` |
//! | measure how well it finds | `eval/` |

mod archive;
mod arguments;
mod bm25;
mod checkpoint;
mod config;
mod conversation;
mod embeddings;
mod forget;
mod forgotten;
mod graph;
mod half;
mod handle;
mod health;
mod kv;
mod lexicon;
mod metrics;
mod operations;
mod postgres;
mod prepare;
mod query;
mod rank;
mod record;
mod reembed;
mod revise;
mod search;
mod segment;
mod segment_file;
mod sqlite;
mod stages;
mod stem;
mod tools;
mod turns;
mod typos;
mod validate;
mod words;

pub mod embed;
#[cfg(feature = "cli")]
pub mod eval;
pub mod store;

pub use archive::{
    Archive, Backup, BackupReceipt, Check, CheckReport, Export, ExportReceipt, Import, ImportFormat, ImportReceipt,
    Item, ItemPage, KeptCheckpoint, KeptEntity, KeptFact, KeptKey, KeptRecord, Outcome, Part, Problem, Progress,
    Repair,
};
pub use arguments::{AppendMessage, Delete, DeleteWhere, GetRecord, History};
pub use checkpoint::{
    ChannelHistory, Checkpoint, CheckpointPage, CheckpointStore, Checkpoints, CopyThread, DeleteRuns, DeleteThread,
    DeltaQuery, Encoded, GetCheckpoint, ImportLangGraph, ImportedCheckpoints, ListCheckpoints, NewCheckpoint, NewWrite,
    NewWrites, PendingWrite, Prune, PruneStrategy,
};
pub use config::{L1Config, L2Config, MemoryConfig, RetentionConfig};
pub use embed::{Embedder, EmbedderConfig, EmbedderKind, ModelClass};
pub(crate) use forget::{AlsoForgets, AlsoForgotten};
pub use forget::{ForgetReceipt, ForgetRequest};
pub use graph::{
    Entity, Extract, Extracted, Extraction, Extractor, Fact, FactQuery, FoundEntity, FoundFact, Graph, GraphStore,
    Neighbor, NeighborQuery, NewEntity, NewFact, Node, NodeChange, NodeSelection, Nodes, NodesAdded, Observations,
    PathQuery, Relation,
};
pub(crate) use handle::Embedders;
pub use handle::Memory;
pub use health::{EmbedderHealth, MemoryHealth, MemoryStats, RecentOperation, Session, TierHealth, TierStatus};
#[cfg(feature = "redis")]
pub use kv::RedisTier;
#[cfg(feature = "http-server")]
pub(crate) use kv::{CONVERSATION_KEYS, narrow_name, narrow_tags};
pub use kv::{
    Elsewhere, Invalidation, Kv, KvDelete, KvEntry, KvFound, KvGet, KvIndex, KvInvalidate, KvKey, KvKeyRef, KvKeys,
    KvLookUp, KvOptions, KvSet, KvTier, KvValue, Looked, MokaTier, Ticket, TieredKv, Truth,
};
pub(crate) use operations::OPERATIONS;
pub use postgres::PostgresConfig;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub use query::{ConversationExplain, Explain, Fusion, Hit, MatchType, Mode, Query, SearchResult};
pub use record::{ItemError, NewRecord, Priority, Record, Status, StoreOutcome, StoreResult, Update};
pub use reembed::{Reembed, Reembedded};
pub use sqlite::{SqliteBuilder, SqliteStore};
pub use store::MemoryStore;
pub(crate) use tools::toolsets;
