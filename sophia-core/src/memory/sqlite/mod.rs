//! One SQLite file is the only truth: records, their words and vectors, keys and facts, in one transaction.
//!
//! | to see | open |
//! |---|---|
//! | the tables | `schema.sql`, `derived.sql` |
//! | how a file is opened, and which are refused | `open.rs` |
//! | who runs the statements, and with which connections | `threads.rs`, `readers.rs` |
//! | records: write, read, search | `write.rs`, `read.rs`, `search.rs`, `filter.rs`, `postings.rs` |
//! | vectors in memory, kept up to date, and as files | `vectors.rs`, `block_files.rs` |
//! | records that are to be embedded anew, and who does it | `stale.rs`, `leases.rs` |
//! | keys and values | `kv.rs`, `kv_keys.rs` |
//! | numbers that are counted in | `tallies.rs` |
//! | the graph, and as `server-memory` sees it | `graph.rs`, `nodes.rs` |
//! | checkpoints, and their values | `checkpoints.rs`, `checkpoint_values.rs` |
//! | the file of LangGraph's saver | `langgraph.rs` |
//! | forgetting | `forget.rs` |
//! | export and import, backup, check and repair | `archive.rs`, `backup.rs`, `check.rs` |

mod archive;
mod backup;
mod block_files;
mod check;
mod checkpoint_values;
mod checkpoints;
mod filter;
mod forget;
mod graph;
mod kv;
mod kv_keys;
pub(super) mod langgraph;
mod leases;
mod nodes;
mod open;
mod postings;
mod read;
mod readers;
mod search;
mod stale;
mod store;
mod tallies;
mod threads;
mod vectors;
mod write;

pub(super) use open::is_damage;
pub(super) use store::internal;
pub use store::{SqliteBuilder, SqliteStore};
use store::{micros, timestamp};
